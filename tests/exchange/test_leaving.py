"""A gateway that stops, or does not come to start, leaves nobody at PostgreSQL."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from audit.register import save_shards
from consent import replicas
from exchange.app import build_app
from exchange.connecting import alone, connected
from exchange.database import Database
from exchange.demo.postgres import PostgresServer
from exchange.opening import opened
from exchange.recording import current_shards
from exchange.settings import Settings, parse_settings
from exchange.telemetry import Metrics
from schemas.clock import SystemClock
from schemas.errors import SettingsError
from tests.harness.application import PACK

pytestmark = pytest.mark.anyio
PATIENCE_S = 20
_NUMBERS = iter(range(1_000))
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'
"""
_WAITING = f"{_OTHERS} AND wait_event_type = 'Lock'"


@dataclass(frozen=True, slots=True)
class Home:
    """A database and a folder in which a gateway was."""

    url: str
    folder: Path

    def settings(self, more: str = "") -> Settings:
        """Return a gateway's settings."""
        text = f"data_dir: data\npacks: ['{PACK}']\ndatabase_url: '{self.url}'\n{more}"
        return parse_settings(text, {}, self.folder)

    def connected(self) -> psycopg.Connection:
        """Connect as somebody else."""
        return psycopg.connect(self.url, autocommit=True)

    def left(self) -> int:
        """Return how many clients are at the database, once those that went are gone.

        A server's process ends a moment after its client has said so.
        """
        with self.connected() as connection:
            return until(connection, _OTHERS, 0)


def until(connection: psycopg.Connection, query: str, wanted: int) -> int:
    """Return what a query counts, once it is what is wanted, or after a while."""
    found = -1
    for _ in range(PATIENCE_S * 100):
        [found] = connection.execute(query.encode()).fetchone() or [-1]
        if found == wanted:
            break
        connection.execute("SELECT pg_sleep(0.01)")
    return found


async def start(settings: Settings) -> int:
    """Open a gateway and close it; return how many clients it had at its server."""
    async with opened(settings, SystemClock(), Metrics()) as gateway:
        with psycopg.connect(str(settings.database_url)) as connection:
            gateway.database.check()
            [count] = connection.execute(_OTHERS).fetchone() or [0]
            return int(count)


@contextmanager
def alone_with(home: Home) -> Iterator[None]:
    """Migrate a gateway's tables, as far as others can tell, while the block lasts."""
    with connected(home.url, read_only=False) as connection, alone(connection):
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Home:
    """Run a gateway once, on a database and a folder of its own."""
    home = Home(postgres.create_database("left"), tmp_path_factory.mktemp("left"))
    asyncio.run(start(home.settings()))
    return home


@pytest.fixture
def home(tmp_path: Path, first: Home, postgres: PostgresServer) -> Home:
    """Return a copy of it: nobody may be connected to a database that is copied."""
    assert 0 == first.left()
    shutil.copytree(first.folder, tmp_path / "home")
    url = postgres.create_database(f"left_{next(_NUMBERS)}", "left")
    return Home(url, tmp_path / "home")


async def test_a_gateway_that_stops_leaves_nobody(home: Home) -> None:
    """Every reader, writer, follower and leader of it has gone."""
    there = await start(home.settings())

    assert 5 < there
    assert 0 == home.left()


async def take_the_name(home: Home) -> str:
    """Have another gateway of the same name."""
    join = partial(replicas.join, name="gateway-1", place="x", lease=timedelta(hours=1))
    with Database(home.url) as database:
        await database.write(join)
    return ""


async def write_a_wrong_policy(home: Home) -> str:
    """Name witnesses in words that are none of a policy's."""
    (home.folder / "policy").write_text("nonsense\n", encoding="utf-8")
    return "witness_policy: policy\n"


async def put_back_another_log(home: Home) -> str:
    """Have another log where this gateway's was."""
    with home.connected() as connection:
        connection.execute(
            "UPDATE errand_log.meta SET value = 'another' WHERE name = 'origin'"
        )
    return ""


async def put_back_an_old_index(home: Home) -> str:
    """Have an index of another form, which is looked at last."""
    with home.connected() as connection:
        connection.execute(
            "UPDATE errand_log_index.meta SET value = '1' WHERE name = 'format'"
        )
    return ""


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (take_the_name, "another gateway is named"),
        (write_a_wrong_policy, "line 1 of the policy"),
        (put_back_another_log, "the log of another origin"),
        (put_back_an_old_index, "an index of another form"),
    ],
)
async def test_a_start_that_was_refused_leaves_nobody(
    home: Home, spoil: Callable[[Home], Awaitable[str]], why: str
) -> None:
    """Whatever was opened before the step that failed is closed again."""
    more = await spoil(home)
    with pytest.raises(SettingsError, match=why):
        await start(home.settings(more))

    assert 0 == home.left()


async def test_a_start_that_was_cancelled_leaves_nobody(home: Home) -> None:
    """Also while it waits for another gateway that migrates the tables."""
    with home.connected() as other, alone_with(home):
        starting = asyncio.create_task(start(home.settings()))
        waiting = await asyncio.to_thread(until, other, _WAITING, 1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    assert 1 == waiting
    assert 0 == home.left()


async def test_a_gateway_that_looks_into_the_register_ends_the_look_first(
    home: Home,
) -> None:
    """It stops in the middle of one: nothing hangs, and nobody is left."""
    settings = home.settings()
    place = settings.shards_place()
    save_shards(place, current_shards(settings))
    app = build_app(settings)
    running = AsyncExitStack()
    await running.enter_async_context(app.router.lifespan_context(app))
    with home.connected() as other, home.connected() as administrator:
        with administrator.transaction():
            administrator.execute("LOCK TABLE errand_shards.shard")
            waiting = await asyncio.to_thread(until, other, _WAITING, 1)
            stopping = asyncio.create_task(running.aclose())
            for _ in range(10):  # the loop's turns in which it begins to stop
                await asyncio.sleep(0)
        await asyncio.wait_for(stopping, PATIENCE_S)

    assert 1 == waiting
    assert 0 == home.left()
