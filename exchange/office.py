"""Where the parts of the case flow are put together, once, at start-up."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from cryptography import x509

from audit.writer import AuditLog
from connectors.client import ClientPolicy, Media, ServiceClient
from connectors.health import Health
from connectors.jose import SigningKey
from connectors.kinds.http import UNDERSTOOD, HttpConnector
from connectors.port import Connector, ProviderKeys
from consent.in_flight import InFlight
from exchange.answer import Answerer
from exchange.asking import Asker
from exchange.catalogue import compile_pack
from exchange.database import Database
from exchange.deciding import Decider, by_parties
from exchange.flow import Flow
from exchange.mandating import Mandates
from exchange.opened import OpenCase
from exchange.owed_records import OwedRecords
from exchange.planner import Planner
from exchange.resolver import Resolver
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.directory import ConnectorKind
from schemas.errors import PackError, SettingsError
from schemas.ids import NewId
from schemas.validation import Pack, load_pack

_log = structlog.get_logger(__name__)

_MOST_BYTES = 4 * 1024 * 1024
"""A pack file larger than this is no pack file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the case flow stands on."""

    pack: Pack
    connectors: Mapping[str, Connector]
    """By data service."""
    database: Database
    vault: Vault
    log: AuditLog
    in_flight: InFlight
    clock: Clock
    new_id: NewId
    random_bytes: Callable[[int], bytes]
    jitter: Callable[[], float]
    """From 0 up to 1, at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an operator chose for the case flow."""

    waits: tuple[float, ...]
    """Seconds after each failed try; the last one repeats."""
    consent_lifetime: timedelta
    executor_id: str
    lease_margin: timedelta
    """How much longer a case is held than the work on it may take."""


def read_pack(folders: tuple[Path, ...]) -> Pack:
    """Load the packs in folders, in order; the files of each by name.

    Read is what ends in `.yaml` or `.yml`. A folder within one of these that holds
    such files is refused if it is not named itself: it would be left out unseen.

    Raises:
        SettingsError: A folder or a file can't be read, or a folder has no such file.
        PackError: A pack is wrong.
    """
    texts: dict[str, str] = {}
    named = {folder.resolve() for folder in folders}
    for folder in folders:
        _refuse_unreadable(folder)
        _refuse_left_out(folder, named)
        files = _pack_files(folder)
        if not files:
            because = "holds no file that ends in `.yaml` or `.yml`"
            raise SettingsError(f"pack folder `{folder}` {because}")
        texts.update((str(file), _read_text(file)) for file in files)
    return load_pack(texts)


def _refuse_unreadable(folder: Path) -> None:
    """Refuse what is no folder, or one that can't be looked into."""
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        raise SettingsError(f"there is no pack folder `{folder}`") from None
    except NotADirectoryError:
        because = "is a file: name the folder that it is in"
        raise SettingsError(f"pack folder `{folder}` {because}") from None
    except OSError as error:
        because = f"can't be read: {error.strerror}"
        raise SettingsError(f"pack folder `{folder}` {because}") from error


def _pack_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are read, by name."""
    return sorted(
        file
        for file in folder.glob("*")
        if file.suffix.lower() in {".yaml", ".yml"} and not file.is_dir()
    )


def _refuse_left_out(folder: Path, named: AbstractSet[Path]) -> None:
    """Refuse a pack with files in a folder within that is not `named` itself.

    A folder whose name begins with a dot belongs to a tool, such as `.github`.
    """
    because = "is not read: name this folder too, or move its files up"
    left_out = tuple(
        f"{file}:1: : {because}"
        for inner in sorted(folder.glob("*"))
        if inner.is_dir() and inner.resolve() not in named
        if not inner.name.startswith(".")
        for file in _pack_files(inner)[:1]
    )
    if left_out:
        raise PackError(*left_out)


def _read_text(file: Path) -> str:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"pack file `{file}` has more than {_MOST_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"pack file `{file}` can't be read as UTF-8") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """How departments are asked."""

    gateway: str
    """Who asks: `iss` of every look-up, as departments have pinned it."""
    signing_key: SigningKey
    policy: ClientPolicy
    health: Health


def read_roots(file: Path) -> bytes:
    """Return further roots for the certificates of departments, as PEM.

    Raises:
        SettingsError: The file can't be read, or holds no certificate.
    """
    try:
        roots = file.read_bytes()
        x509.load_pem_x509_certificates(roots)
    except OSError:
        message = f"`root_certificates`: `{file.name}` can't be read"
        raise SettingsError(message) from None
    except ValueError:
        message = f"`root_certificates`: `{file.name}` holds no certificate in PEM"
        raise SettingsError(message) from None
    return roots


def open_connectors(
    pack: Pack, outbound: Outbound, clock: Clock
) -> dict[str, Connector]:
    """Return a connector for each data service that the deployment has an address for.

    Raises:
        SettingsError: An address is refused.
    """
    keys = provider_keys(pack)
    connectors: dict[str, Connector] = {}
    for service in pack.services.values():
        if service.endpoint is None:
            _log.warning("service_without_endpoint", service=service.id)
            continue
        match service.connector:
            case ConnectorKind.HTTP:
                client = ServiceClient(
                    service.endpoint,
                    outbound.policy,
                    clock,
                    media=Media(accepts=UNDERSTOOD),
                    concurrency=service.concurrency,
                )
                connectors[service.id] = HttpConnector(
                    outbound.gateway,
                    outbound.signing_key,
                    client,
                    keys,
                    clock,
                    health=outbound.health,
                )
    return connectors


def provider_keys(pack: Pack) -> ProviderKeys:
    """Return the pinned keys of each provider, old ones included."""
    keys = {provider.id: provider.keys for provider in pack.providers.values()}
    return lambda provider: keys.get(provider, ())


def make_planner(pack: Pack, connectors: Mapping[str, Connector]) -> Planner:
    """Return the planner over all matters; who has no address can't be asked.

    Raises:
        PackError: A matter can't be planned exactly.
    """
    offered = [s for s in pack.services.values() if s.id in connectors]
    return Planner(compile_pack(pack, offered))


def _wake_nobody() -> None:
    """Leave it to the dispatcher's next look."""


def make_mandates(parts: Parts, wake: Callable[[], None] = _wake_nobody) -> Mandates:
    """Return what gives, ends and checks mandates.

    Args:
        parts: What it stands on.
        wake: Called when cases may go on because a mandate has ended.
    """
    return Mandates(
        pack=parts.pack,
        database=parts.database,
        vault=parts.vault,
        log=parts.log,
        owed=make_owed(parts),
        in_flight=parts.in_flight,
        clock=parts.clock,
        new_id=parts.new_id,
        wake=wake,
    )


def make_owed(parts: Parts) -> OwedRecords:
    """Return what keeps the records that belong to changes of the tables."""
    return OwedRecords(
        database=parts.database, vault=parts.vault, log=parts.log, clock=parts.clock
    )


def _make_decider(parts: Parts, terms: Terms, mandates: Mandates) -> Decider:
    return Decider(
        pack=parts.pack,
        database=parts.database,
        vault=parts.vault,
        in_flight=parts.in_flight,
        mandates=mandates,
        owed=make_owed(parts),
        clock=parts.clock,
        new_id=parts.new_id,
        consent_lifetime=terms.consent_lifetime,
        grants=by_parties(parts.pack.grants.values()),
    )


def _make_asker(parts: Parts, terms: Terms) -> Asker:
    return Asker(
        pack=parts.pack,
        log=parts.log,
        connectors=parts.connectors,
        database=parts.database,
        in_flight=parts.in_flight,
        clock=parts.clock,
        new_id=parts.new_id,
        random_bytes=parts.random_bytes,
        waits=terms.waits,
        jitter=parts.jitter,
    )


def make_resolver(
    parts: Parts,
    terms: Terms,
    planner: Planner,
    on_outcome: Callable[[OpenCase], None],
) -> Resolver:
    """Put the case flow together."""
    mandates = make_mandates(parts)
    decider = _make_decider(parts, terms, mandates)
    asker = _make_asker(parts, terms)
    answerer = Answerer(
        log=parts.log,
        clock=parts.clock,
        new_id=parts.new_id,
        policy=parts.pack.digest,
    )
    flow = Flow(
        planner=planner,
        mandates=mandates,
        decider=decider,
        asker=asker,
        clock=parts.clock,
        new_id=parts.new_id,
        policy=parts.pack.digest,
        waits=terms.waits,
        on_outcome=on_outcome,
    )
    return Resolver(
        flow=flow,
        planner=planner,
        mandates=mandates,
        answerer=answerer,
        database=parts.database,
        vault=parts.vault,
        log=parts.log,
        owed=make_owed(parts),
        clock=parts.clock,
        new_id=parts.new_id,
        executor_id=terms.executor_id,
        lease_margin=terms.lease_margin,
    )
