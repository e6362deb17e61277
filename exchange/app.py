"""The gateway put together: opened in order, served, and closed in reverse order."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI

from audit.publisher import Pace, Publisher
from audit.sealing import Sealer, SubjectDirectory
from audit.writer import AuditLog
from consent.in_flight import InFlight
from consent.uses import suspended
from exchange import idempotency
from exchange.api import health, problems
from exchange.api.dependencies import Gateway
from exchange.api.edge import Edge, Limits
from exchange.database import Database
from exchange.idempotency import RepeatKeys
from exchange.keys import GatewayKeys, open_keys
from exchange.migrations.schema import Part, upgrade
from exchange.settings import Settings
from exchange.telemetry import Metrics, configure_logs
from exchange.vault import Vault
from schemas.clock import Clock, SystemClock
from schemas.errors import SettingsError, StoreUnavailableError
from schemas.ids import new_ids

VERSION = "0.1.0"

_log = structlog.get_logger(__name__)

_SWEEP_S = 3_600.0
"""How often what has run out is deleted, in seconds."""
_SHUTDOWN_S = 10
"""How long stopping waits for answers under way, in seconds."""


def build_app(settings: Settings, clock: Clock | None = None) -> FastAPI:
    """Return the application; its lifespan opens the gateway and closes it.

    Raises:
        SettingsError: More than one worker is asked for.
    """
    # INVARIANT (decision 16): one process on SQLite. A second worker would find the
    # data folder locked; this says it before anything starts.
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
        raise SettingsError("unset `WEB_CONCURRENCY`: one process serves a data folder")
    clock = clock or SystemClock()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                opening = opened(settings, clock, metrics)
                app.state.gateway = await stack.enter_async_context(opening)
            except Exception as error:
                app.state.failure = error  # for `serve`: uvicorn keeps it to itself
                raise
            yield

    app = FastAPI(
        title="Errand",
        version=VERSION,
        summary="An exchange between government departments.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    for room in (health,):
        app.include_router(room.router)
    app.add_middleware(
        Edge,
        limits=Limits(
            body_bytes=settings.body_limit, in_flight=settings.most_in_flight
        ),
        metrics=metrics,
        clock=clock,
        new_id=new_ids(clock),
    )
    return app


def serve(settings: Settings) -> None:
    """Run the gateway until it is told to stop (SIGINT, SIGTERM).

    Raises:
        ErrandError: It could not start; says why.
    """
    configure_logs(settings)
    app = build_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.listen_port,
        loop="uvloop",
        http="httptools",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit:
        _raise_failure(app)
        raise
    _raise_failure(app)


def _raise_failure(app: FastAPI) -> None:
    failure = getattr(app.state, "failure", None)
    if isinstance(failure, Exception):
        raise failure


@asynccontextmanager
async def opened(
    settings: Settings, clock: Clock, metrics: Metrics
) -> AsyncIterator[Gateway]:
    """Open everything, in this order; close it in reverse.

    (1) Take the data folder: a second gateway is refused before it touches anything.
    (2) Load or make the keys.
    (3) Bring the tables to their newest form, and open them.
    (4) Open the log and its publisher: from here on things can be recorded.

    Raises:
        SettingsError: The configuration is wrong, or the data folder is taken.
        PackError: A pack is wrong.
        StoreUnavailableError: The tables can't be reached.
    """
    async with AsyncExitStack() as stack:
        # (1): until the process ends, however it ends.
        stack.enter_context(data_folder(settings))
        # (2): they must be on the disk before anything is signed or sealed.
        keys = open_keys(settings.keys_dir, settings.log_origin, entropy=os.urandom)
        # (3): no request ever meets a table of an older form.
        database, vault_database = await _open_tables(settings, stack)
        metrics.gauge(
            "errand_writes_waiting",
            "Writes that wait for the database.",
            lambda: database.waiting,
        )
        # (4): last, as nothing may happen that is not recorded.
        log, publisher = _open_log(settings, keys, clock, stack)
        metrics.gauge("errand_log_size", "Records in the log.", lambda: log.size)
        gateway = Gateway(
            settings=settings,
            clock=clock,
            new_id=new_ids(clock),
            keys=keys,
            metrics=metrics,
            database=database,
            vault=Vault(vault_database, keys.master),
            log=log,
            publisher=publisher,
            in_flight=InFlight(await database.read(suspended)),
            repeat_keys=RepeatKeys(keys.master),
        )
        sweeping = asyncio.create_task(_sweep(gateway), name="sweep")
        stack.callback(sweeping.cancel)
        _log.info("gateway_opened", records=log.size)
        yield gateway
    _log.info("gateway_closed")


@contextmanager
def data_folder(settings: Settings) -> Iterator[None]:
    """Hold the data folder: one gateway at a time, whatever ends it.

    Raises:
        SettingsError: Another one holds it, or it can't be made.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"`data_dir` can't be used: {error.strerror}; choose another folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SettingsError(
            f"another gateway holds the data folder `{settings.data_dir}`: stop it, or "
            "set `data_dir` to another folder"
        ) from None
    try:
        yield
    finally:
        os.close(lock)  # and with it the lock


async def _open_tables(
    settings: Settings, stack: AsyncExitStack
) -> tuple[Database, Database]:
    """Bring both databases to their newest form and open them."""
    tables, vault = settings.tables_url(), settings.vault_tables_url()
    await asyncio.to_thread(upgrade, tables, Part.TABLES)
    await asyncio.to_thread(upgrade, vault, Part.VAULT)
    database = stack.enter_context(Database(tables))
    vault_database = stack.enter_context(Database(vault, secure_delete=True))
    return database, vault_database


def _open_log(
    settings: Settings, keys: GatewayKeys, clock: Clock, stack: AsyncExitStack
) -> tuple[AuditLog, Publisher]:
    """Open the log with its directory, and start publishing."""
    directory = SubjectDirectory(settings.subjects_file, keys.log.directory)
    stack.callback(directory.close)
    sealer = Sealer(keys.log.origin, keys.log.shard, directory)
    log = AuditLog(settings.log_file, sealer, keys.log.receipt)
    stack.callback(log.close)
    pace = Pace(interval_s=settings.checkpoint_every_s)
    publisher = Publisher(log, keys.log.log, clock, pace)
    publisher.start()
    stack.callback(publisher.stop)
    return log, publisher


async def _sweep(gateway: Gateway) -> None:
    """Delete what has run out, now and every hour, until cancelled."""
    lifetime = timedelta(seconds=gateway.settings.idempotency_lifetime_s)
    while True:
        edge = gateway.clock.now() - lifetime
        try:
            await gateway.database.write(
                partial(idempotency.forget_before, instant=edge)
            )
        except StoreUnavailableError as error:
            _log.warning("sweep_failed", exc_info=error)
        await asyncio.sleep(_SWEEP_S)
