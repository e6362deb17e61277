"""The application: the API over an open gateway, and the server that runs it."""

import asyncio
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
import uvicorn.lifespan.on
from fastapi import FastAPI

from exchange.api import (
    audit,
    cases,
    consents,
    contract,
    directory,
    erasures,
    explanations,
    health,
    log,
    mandates,
    problems,
    tokens,
)
from exchange.api.edge import Edge, Limits, protocol_of
from exchange.api.shortcut import Application
from exchange.incoming import Server
from exchange.listening import free_address
from exchange.moving import call_at_next_shard
from exchange.opening import opened
from exchange.settings import Settings
from exchange.telemetry import Metrics, configure_logs
from schemas.clock import Clock, SystemClock
from schemas.errors import SettingsError
from schemas.ids import new_ids

VERSION = "0.1.0"

_ROOMS = (
    health,
    tokens,
    directory,
    cases,
    explanations,
    consents,
    mandates,
    audit,
    erasures,
    log,
)
"""Where the routes are, in the order in which the contract lists them."""
_LIFESPAN = uvicorn.lifespan.on.__name__.rpartition(".")[2]
"""The module of uvicorn's that opens an application, as records of its log name it."""
_SHUTDOWN_S = 10
"""How long stopping waits for answers under way, in seconds."""


def build_app(
    settings: Settings,
    clock: Clock | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> Application:
    """Return the application; its lifespan opens the gateway and closes it.

    Args:
        settings: What the operator has chosen.
        clock: Tells the time; by itself the machine's.
        go_on: Called once it has to be built anew, to go on with the log's next shard.

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
            _watch_shards(settings, app.state.gateway.log.origin, go_on, stack)
            yield

    app = Application(
        title="Errand",
        version=VERSION,
        summary="An exchange between government departments.",
        description=contract.DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        redirect_slashes=False,
        generate_unique_id_function=contract.operation_id,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.openapi = lambda: contract.document(app)  # type: ignore[method-assign] # FastAPI's own way
    for room in _ROOMS:
        app.include_router(room.router)
    app.edge = Edge(
        app.shortcut,
        limits=Limits(
            body_bytes=settings.body_limit, in_flight=settings.most_in_flight
        ),
        metrics=metrics,
        clock=clock,
        new_id=new_ids(clock),
    )
    return app


def _watch_shards(
    settings: Settings, origin: str, go_on: Callable[[], None], stack: AsyncExitStack
) -> None:
    """Watch for the next shard, where others may seal the one that is open."""
    if not isinstance(settings.shards_place(), Path):
        moving = call_at_next_shard(settings, origin, go_on)
        watching = asyncio.create_task(moving, name="next shard")
        stack.push_async_callback(_end, watching)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has come to its end."""
    task.cancel()
    await asyncio.wait({task})


def serve(settings: Settings) -> None:
    """Run the gateway until it is told to stop (SIGINT, SIGTERM).

    Raises:
        ErrandError: It could not start; says why.
    """
    # Whatever is made from here on, logs' journals included, is the gateway's alone.
    os.umask(0o077)
    configure_logs(settings)
    while _serve_shard(settings):
        pass


def _serve_shard(settings: Settings) -> bool:
    """Run the gateway while its shard is written to; return whether to start again."""
    again = threading.Event()

    def go_on() -> None:
        again.set()
        server.should_exit = True

    app = build_app(settings, go_on=go_on)
    _spare_the_collector()
    server = Server(server_config(app, settings))
    with (
        free_address(settings.listen_host, settings.listen_port, "`listen_port`"),
        _told_once(app),
    ):
        try:
            server.run()
        except SystemExit:
            _raise_failure(app)
            raise
    _raise_failure(app)
    return again.is_set()


def server_config(app: Application, settings: Settings) -> uvicorn.Config:
    """Return how an application is served."""
    return uvicorn.Config(
        app,
        host=settings.listen_host,
        port=settings.listen_port,
        loop="uvloop",
        http=protocol_of(app.edge),
        ws="none",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )


def _spare_the_collector() -> None:
    """Keep the garbage collector from going through all that was imported.

    A case makes some thousands of objects that die by themselves; with the ordinary
    thresholds the whole heap was searched for every few of them, which took a
    fourteenth of the loop's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@contextmanager
def _told_once(app: FastAPI) -> Iterator[None]:
    """Have a gateway that does not open say why by what it raises, and by that alone.

    uvicorn says it as well, in two lines of a library that tell an operator nothing.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return record.module != _LIFESPAN or _failure(app) is None

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _raise_failure(app: FastAPI) -> None:
    failure = _failure(app)
    if failure is not None:
        raise failure


def _failure(app: FastAPI) -> Exception | None:
    """Return why the gateway did not open; None where it did, or has not tried."""
    failure = getattr(app.state, "failure", None)
    return failure if isinstance(failure, Exception) else None
