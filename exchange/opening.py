"""Opening the gateway: everything it runs, in order; closing it, in reverse."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from audit.erasure import Erasures
from audit.following import Follower
from audit.forgetting import Forgetting
from audit.publisher import Publisher
from audit.register import load_shards
from audit.sealing import Sealer
from audit.shards import Shard, sign_list
from audit.shelf import Shelf
from audit.writer import AuditLog
from connectors.client import ClientPolicy
from connectors.health import Health
from connectors.port import Connector
from consent import uses
from consent.in_flight import InFlight
from exchange import cases
from exchange.api.dependencies import Gateway
from exchange.connecting import file_of, telling_damage, telling_where
from exchange.database import Database
from exchange.engine import Engine
from exchange.erasing import Erasing
from exchange.fleet import Replica, place_of
from exchange.gauges import count_outcomes, show_counts
from exchange.idempotency import RepeatKeys
from exchange.identity import Identity, Registrar
from exchange.key_change import Changeable, older_keys
from exchange.keys import GatewayKeys
from exchange.migrations.schema import Part, upgrade
from exchange.office import (
    Outbound,
    Parts,
    Terms,
    make_mandates,
    make_owed,
    make_planner,
    make_resolver,
    open_connectors,
    read_pack,
    read_roots,
)
from exchange.outward import open_public
from exchange.oversight import Oversight
from exchange.permission import Permissions
from exchange.recording import (
    current_shards,
    data_folder,
    open_erasures,
    open_gateway_keys,
    open_log,
    open_sealer,
    open_shelf,
    start_forgetting,
)
from exchange.registration import Registered, record_changes, registered
from exchange.resolver import Resolver
from exchange.settings import Settings
from exchange.sweeping import rest_keys, sweep
from exchange.telemetry import Metrics
from exchange.vault import Vault
from exchange.waiting import Terms as WaitingTerms
from exchange.waiting import Waiting
from schemas.clock import Clock
from schemas.entropy import random_bytes
from schemas.errors import ConnectorUnavailableError
from schemas.ids import KeyId, NewId, new_ids
from schemas.validation import Pack

_log = structlog.get_logger(__name__)

_LOOK_S = 0.2
"""How often it is looked whether enough witnesses have told what they saw, in seconds.
"""
_AGAIN_S = 5.0
"""How long after a failure what the log lacks is recorded again, in seconds."""


@asynccontextmanager
async def opened(
    settings: Settings, clock: Clock, metrics: Metrics
) -> AsyncIterator[Gateway]:
    """Open everything, in this order; close it in reverse.

    (1) Read the packs: nothing is made for those that are wrong. Take the data folder:
        a second gateway is refused before it touches anything.
    (2) Load or make the keys.
    (3) Bring the tables to their newest form, and open them.
    (4) Open the log and publish it, and record what changed since the last start: once
        enough witnesses have told what they saw.
    (5) Put the case flow together.
    (6) Start what waits: cases go on from where they were.

    Raises:
        SettingsError: The configuration is wrong, or the data folder is taken.
        PackError: A pack is wrong.
        StoreUnavailableError: The tables can't be reached.
    """
    async with AsyncExitStack() as stack:
        # (1): taken until the process ends, however it ends.
        pack = read_pack(settings.packs)
        stack.enter_context(data_folder(settings))
        # (2): they must be on the disk before anything is signed or sealed.
        shards = load_shards(settings.shards_place())
        keys = open_gateway_keys(settings, shards)
        # (3), (4): from here on, what happens can be kept and recorded.
        kept = await _open_kept(settings, keys, shards, clock, stack)
        new_id = new_ids(clock)
        catching_up = _CatchingUp(kept, registered(pack, keys), clock, new_id)
        await _catch_up(catching_up, stack)
        # (5): nothing of it runs yet.
        health = Health(tell=_tell_of_a_service)
        outbound = _outbound(settings, keys, health)
        parts = Parts(
            pack=pack,
            connectors=await _open_connectors(pack, outbound, clock, stack),
            database=kept.database,
            vault=kept.vault,
            log=kept.log,
            in_flight=await _open_in_flight(settings, kept.database, clock, stack),
            clock=clock,
            new_id=new_id,
            random_bytes=random_bytes,
            jitter=random.random,
        )
        # (6): last, since what it runs needs all the rest.
        gateway = await _started(settings, keys, kept, parts, metrics, stack)
        show_counts(gateway, health)
        sweeping = asyncio.create_task(sweep(gateway), name="sweep")
        stack.callback(sweeping.cancel)
        resting = asyncio.create_task(rest_keys(kept.vault), name="case-keys-rest")
        stack.callback(resting.cancel)
        keeping_up = gateway.permissions.keep_up(metrics.records_owed.set)
        owing = asyncio.create_task(keeping_up, name="owed records")
        stack.callback(owing.cancel)
        _log.info("gateway_opened", records=kept.log.size)
        yield gateway
    _log.info("gateway_closed")


async def _open_in_flight(
    settings: Settings, database: Database, clock: Clock, stack: AsyncExitStack
) -> InFlight:
    """Return the register of look-ups, which in a fleet hears of suspensions."""
    if not settings.in_fleet:
        return InFlight(await database.read(uses.suspended))
    in_flight = InFlight()
    place = place_of(settings.data_dir)
    replica = Replica(database, in_flight, settings.executor_id, place, clock)
    await replica.start()
    stack.push_async_callback(replica.stop)
    return in_flight


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the gateway keeps, open."""

    database: Database
    vault: Vault
    sealer: Sealer
    log: AuditLog
    publisher: Publisher
    followers: tuple[Follower, ...]
    erasures: Erasures
    forgetting: Forgetting
    shelf: Shelf
    shard: str
    """The name of the shard that is written to."""

    def publish(self) -> None:
        """Publish the log, and follow its published head, from now on."""
        self.publisher.start()
        for follower in self.followers:
            follower.start()


@dataclass(frozen=True, slots=True)
class _CatchingUp:
    """What the log lacks at a start: it comes before all else."""

    kept: _Kept
    registered: Mapping[str, Registered]
    clock: Clock
    new_id: NewId

    async def run(self) -> None:
        """Record it, and let others record from then on.

        Raises:
            LogUnavailableError: It can't be recorded.
            StoreUnavailableError: The tables can't be reached.
        """
        log, now = self.kept.log, self.clock.now()
        changed = await record_changes(
            self.kept.database, log, self.registered, now, self.new_id
        )
        log.open_later(None)
        again = await self.kept.erasures.record_again()
        _log.info("log_caught_up", changed=changed, erasures_recorded=again)

    async def run_when_known(self) -> None:
        """Record it as soon as witnesses have told enough; which may be never."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self.kept.publisher.is_known:
                continue
            try:
                await self.run()
            except Exception as error:  # noqa: BLE001 - it is tried again
                _log.warning("catching_up_failed", error=type(error).__name__)
                await asyncio.sleep(_AGAIN_S)
            else:
                return


async def _catch_up(catching_up: _CatchingUp, stack: AsyncExitStack) -> None:
    """Record what changed since the last start, now or later.

    A log that may have been rolled back takes nothing, and a gateway that has one
    answers so rather than not at all.

    INVARIANT: nothing is recorded under what is registered before that is.
    """
    kept = catching_up.kept
    kept.log.open_later("what changed since the last start is not recorded yet")
    if kept.publisher.is_known:
        await catching_up.run()
        kept.publish()
        return
    kept.publish()
    if await asyncio.to_thread(kept.publisher.look):
        await catching_up.run()
        return
    waiting = asyncio.create_task(catching_up.run_when_known(), name="catching up")
    stack.callback(waiting.cancel)


def _outbound(settings: Settings, keys: GatewayKeys, health: Health) -> Outbound:
    """Return what holds for every look-up that leaves."""
    roots = settings.root_certificates
    policy = ClientPolicy(
        networks=settings.networks,
        root_certificates=None if roots is None else read_roots(roots),
    )
    return Outbound(
        gateway=settings.gateway_id,
        signing_key=keys.lookup,
        policy=policy,
        health=health,
    )


def _tell_of_a_service(service: str, why: str | None) -> None:
    """Tell operators that a data service fails, or works again; no value is in it."""
    if why is None:
        _log.info("service_works_again", service=service)
    else:
        _log.warning("service_failing", service=service, why=why)


async def _open_kept(
    settings: Settings,
    keys: GatewayKeys,
    shards: Sequence[Shard],
    clock: Clock,
    stack: AsyncExitStack,
) -> _Kept:
    """Open tables and log."""
    # No request ever meets a table of an older form.
    database, vault_database = await _open_tables(settings, stack)
    sealer = open_sealer(settings, keys.log, stack)
    shelf = open_shelf(settings, shards, sealer, stack)
    shard = shards[-1].name if shards else ""
    log, publisher, followers = open_log(settings, keys, sealer, clock, shard, stack)
    erasures = open_erasures(settings, sealer, log, shelf, clock, stack)
    forgetting = await start_forgetting(settings, erasures, clock, stack)
    # Not its name alone: until it has joined the others, nothing shows that no gateway
    # of the same name is running. Nor its place alone: a data folder can be a copy.
    holder = f"{place_of(settings.data_dir)}/{settings.executor_id}"
    vault = Vault(vault_database, keys.master, holder, new_ids(clock))
    with telling_damage(file_of(settings.vault_tables_url())):
        await vault.start(partial(_named, database))
    return _Kept(
        database=database,
        vault=vault,
        sealer=sealer,
        log=log,
        publisher=publisher,
        followers=followers,
        erasures=erasures,
        forgetting=forgetting,
        shelf=shelf,
        shard=shard,
    )


async def _named(database: Database, keys: Sequence[KeyId]) -> Collection[KeyId]:
    """Return those of some keys that cases name."""
    return await database.read(lambda c: cases.find_keys(c, keys))


async def _started(
    settings: Settings,
    keys: GatewayKeys,
    kept: _Kept,
    parts: Parts,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Gateway:
    """Put the case flow together, start what waits, and return it all."""
    planner = make_planner(parts.pack, parts.connectors)
    resolver = make_resolver(parts, _terms(settings), planner, count_outcomes(metrics))
    waiting = await _start_waiting(settings, parts, resolver, stack)
    oversight = _open_oversight(settings, parts, kept, stack)
    permissions = _permissions(parts, waiting)
    return Gateway(
        settings=settings,
        clock=parts.clock,
        new_id=parts.new_id,
        keys=keys,
        metrics=metrics,
        pack=parts.pack,
        planner=planner,
        database=parts.database,
        vault=parts.vault,
        log=parts.log,
        publisher=kept.publisher,
        shards=_shard_list(settings, keys, kept.shelf),
        followers=kept.followers,
        public=open_public(settings, kept.shard),
        in_flight=parts.in_flight,
        identity=_identity(settings, keys, parts),
        permissions=permissions,
        mandates=make_mandates(parts, waiting.wake),
        oversight=oversight,
        erasing=_erasing(parts, kept, oversight, permissions),
        resolver=resolver,
        waiting=waiting,
        repeat_keys=RepeatKeys(keys.master),
    )


async def _open_tables(
    settings: Settings, stack: AsyncExitStack
) -> tuple[Database, Database]:
    """Bring both databases to their newest form and open them.

    Raises:
        SettingsError: One lacks a table, or is damaged.
        StoreUnavailableError: One can't be used now; says which, and why.
    """
    tables, vault = settings.tables_url(), settings.vault_tables_url()
    with telling_where(tables, "database_url"):
        await asyncio.to_thread(upgrade, tables, Part.TABLES)
    keys_at = "database_url" if settings.vault_url is None else "vault_url"
    with telling_where(vault, keys_at):
        await asyncio.to_thread(upgrade, vault, Part.VAULT)
    database = stack.enter_context(Database(tables))
    vault_database = stack.enter_context(Database(vault))
    return database, vault_database


async def _open_connectors(
    pack: Pack, outbound: Outbound, clock: Clock, stack: AsyncExitStack
) -> Mapping[str, Connector]:
    """Open a connector for each data service that has an address."""
    connectors = open_connectors(pack, outbound, clock)
    for name, connector in connectors.items():
        stack.push_async_callback(connector.aclose)
        try:
            await connector.prepare()
        except ConnectorUnavailableError:
            # The first look-up tries again; a department that is down stops nobody.
            _log.warning("service_not_prepared", service=name)
    return connectors


def _terms(settings: Settings) -> Terms:
    return Terms(
        waits=settings.retry_s,
        consent_lifetime=timedelta(seconds=settings.consent_lifetime_s),
        executor_id=settings.executor_id,
        lease_margin=timedelta(seconds=settings.lease_margin_s),
    )


async def _start_waiting(
    settings: Settings, parts: Parts, resolver: Resolver, stack: AsyncExitStack
) -> Waiting:
    """Start the work that waits."""
    waiting = Waiting(
        Engine(settings.work_url(), settings.executor_id),
        parts.database,
        resolver.attempt,
        clock=parts.clock,
        new_id=parts.new_id,
        executor_id=settings.executor_id,
        # Less than the lease of an attempt, so that no attempt outlives its lease.
        terms=WaitingTerms(waits=settings.retry_s, attempt_s=45.0),
        refusal=lambda: parts.log.refusal,
    )
    await waiting.start()
    stack.push_async_callback(waiting.stop)
    return waiting


def _identity(settings: Settings, keys: GatewayKeys, parts: Parts) -> Identity:
    registrar = Registrar(
        issuer=settings.public_url,
        requesters=parts.pack.requesters,
        key=keys.token,
        older_keys=older_keys(settings.keys_dir, Changeable.TOKEN),
        lifetime=timedelta(seconds=settings.token_lifetime_s),
    )
    return Identity(
        registrar,
        store=parts.database,
        clock=parts.clock,
        new_id=parts.new_id,
        suspended=lambda: parts.in_flight.suspended,
    )


def _open_oversight(
    settings: Settings, parts: Parts, kept: _Kept, stack: AsyncExitStack
) -> Oversight:
    oversight = Oversight(
        parts.log,
        kept.sealer,
        settings.index_place(kept.shard),
        kept.publisher,
        clock=parts.clock,
        new_id=parts.new_id,
        erased=kept.erasures.erased,
        shelf=kept.shelf,
    )
    stack.callback(oversight.close)
    return oversight


def _shard_list(settings: Settings, keys: GatewayKeys, shelf: Shelf) -> str:
    """Return the list of shards, signed with the key of each, the newest first."""
    signers = [keys.log.log, *[shard.signer for shard in shelf.shards]]
    return sign_list(current_shards(settings), signers)


def _erasing(
    parts: Parts, kept: _Kept, oversight: Oversight, permissions: Permissions
) -> Erasing:
    return Erasing(
        kept.erasures,
        kept.forgetting,
        parts.log,
        kept.sealer,
        oversight,
        parts.database,
        record_owed=permissions.record_owed,
        clock=parts.clock,
        new_id=parts.new_id,
    )


def _permissions(parts: Parts, waiting: Waiting) -> Permissions:
    return Permissions(
        pack=parts.pack,
        database=parts.database,
        vault=parts.vault,
        owed=make_owed(parts),
        in_flight=parts.in_flight,
        clock=parts.clock,
        new_id=parts.new_id,
        wake=waiting.wake,
    )
