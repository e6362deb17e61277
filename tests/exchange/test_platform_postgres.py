"""The gateway's tables on PostgreSQL: what is kept when it goes down in the middle."""

import asyncio
import itertools
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import IntegrityError

from exchange.connecting import connected
from exchange.database import Database
from exchange.demo.postgres import PostgresServer, a_server
from exchange.engine import Engine
from exchange.migrations.schema import Part, upgrade
from schemas.errors import SettingsError, StoreUnavailableError
from tests.harness.patience import until

pytestmark = pytest.mark.anyio
PATIENCE_S = 20.0
DRIVER = "postgresql+psycopg"
SOON = "&options=-c%20idle_in_transaction_session_timeout%3D50"
"""Has the server end a silent transaction soon: the URL outweighs what we ask for."""
_NUMBERS = iter(range(1_000))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run a server that these tests may kill and set as they like."""
    with a_server() as server:
        server.create_database("migrated")
        upgrade(server.url("migrated"), Part.TABLES)
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    """Return the URL of tables on it, with a table of things."""
    url = server.create_database(f"tables_{next(_NUMBERS)}", "migrated")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing (id int PRIMARY KEY, count int)")
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """Open the tables, as a gateway does."""
    with Database(url) as database:
        yield database


def add(connection: Connection, number: int) -> int:
    """Add a thing."""
    connection.exec_driver_sql("INSERT INTO thing VALUES (%s, 0)", (number,))
    return number


def things(connection: Connection) -> list[int]:
    """Return the things there are."""
    found = connection.exec_driver_sql("SELECT id FROM thing ORDER BY id")
    return list(found.scalars())


async def test_reads_and_writes_go_on_after_a_restart(
    server: PostgresServer, database: Database
) -> None:
    """Nobody notices a server that was killed and is back before the next call."""
    await database.write(partial(add, number=1))
    assert [1] == database.read_now(things) == await database.read(things)
    server.kill()
    server.start()
    await database.write(partial(add, number=2))
    server.kill()
    server.start()

    assert [1, 2] == database.read_now(things)
    assert [1, 2] == await database.read(things)


async def test_while_it_is_down_callers_hear_so_at_once(
    server: PostgresServer, database: Database
) -> None:
    """Each call is refused as one that may be repeated; then all goes on."""
    await database.write(partial(add, number=1))
    server.kill()
    try:
        with pytest.raises(StoreUnavailableError):
            await database.write(partial(add, number=2))
        with pytest.raises(StoreUnavailableError):
            await database.read(things)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                database.read_now(things)
    finally:
        server.start()
    await database.write(partial(add, number=3))

    assert [1, 3] == await database.read(things)


async def test_a_failure_that_is_passed_over_is_no_promise(database: Database) -> None:
    """What PostgreSQL will not keep is never said to be stored, to anybody."""

    def pass_over(connection: Connection) -> None:
        with suppress(IntegrityError):
            add(connection, 1)

    def both(connection: Connection) -> None:
        add(connection, 2)
        pass_over(connection)

    await database.write(partial(add, number=1))
    with pytest.raises(StoreUnavailableError):
        await database.write(both)

    assert [1] == await database.read(things)


def hear_the_end(connection: Connection) -> None:
    """Say nothing until the server has said that it ends the session."""
    driver: Any = connection.connection.dbapi_connection
    assert [] != select.select([driver.fileno()], [], [], PATIENCE_S)[0]


async def test_a_silent_write_is_ended_and_made_again(url: str) -> None:
    """The server lets go of its locks; it is run again, and stored once."""
    runs: list[int] = []

    def work(connection: Connection) -> int:
        add(connection, 1)
        runs.append(1)
        if len(runs) == 1:
            hear_the_end(connection)
            # Nobody else could, while the one who is silent holds the row.
            tell(url, "SET lock_timeout = '1s'", "INSERT INTO thing VALUES (1, 0)")
            tell(url, "DELETE FROM thing")
        return add(connection, 2)

    with Database(url + SOON) as database:
        await database.write(work)
        stored = await database.read(things)

    assert [1, 1] == runs
    assert [1, 2] == stored


async def test_a_silent_read_is_ended_and_made_again(url: str) -> None:
    """On the readers' threads and on the caller's own."""
    runs: list[int] = []

    def work(connection: Connection) -> list[int]:
        found = things(connection)
        runs.append(1)
        if len(runs) % 2:
            hear_the_end(connection)
        return found + things(connection)

    with Database(url + SOON) as database:
        found = [await database.read(work), database.read_now(work)]

    assert [[], []] == found
    assert 4 == len(runs)


@pytest.mark.parametrize("read_only", [True, False])
def test_the_server_is_told_how_long_to_wait_for_who_is_gone(
    url: str, *, read_only: bool
) -> None:
    """In the middle of a transaction, and for a host that vanished."""
    with connected(url, read_only=read_only) as connection:
        idle = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        asked = connection.scalars(
            text(
                "SELECT name FROM pg_settings"
                " WHERE name LIKE 'tcp%' AND source = 'client' ORDER BY name"
            )
        ).all()

    assert "10s" == idle
    assert [
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_user_timeout",
    ] == asked


def test_waiting_work_connects_as_the_tables_do(url: str) -> None:
    """DBOS's own connections let go as soon, and keep their name."""
    chosen = Engine(url, "gateway-1")._config()["db_engine_kwargs"] or {}
    engine = create_engine(make_url(url).set(drivername=DRIVER), **chosen)
    with engine.connect() as connection:
        idle = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        name = connection.scalar(text("SHOW application_name"))
    engine.dispose()

    assert ("10s", "errand-work") == (idle, name)


def who_waits(url: str, event: str) -> int | None:
    """Return the process id of the backend that waits for something, if one does."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = %s"
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query, (event,)).fetchone()
    return None if row is None else int(row[0])


class Adds(Protocol):
    """Adds the thing of a number."""

    def __call__(self, connection: Connection, number: int) -> int:
        """Return the number."""


async def write_that_waits(
    database: Database, url: str, work: Adds
) -> tuple[asyncio.Task[int], int, int]:
    """Write 1, 2 and so on until one waits for the standby.

    A setting that was changed reaches all of the server's processes a little later.

    Returns:
        The write that waits, its number, and its backend.
    """
    for number in itertools.count(1):
        waiting = asyncio.create_task(database.write(partial(work, number=number)))
        while not waiting.done():
            pid = await asyncio.to_thread(who_waits, url, "SyncRep")
            if pid is not None:
                return waiting, number, pid
    raise AssertionError


def tell(url: str, *statements: str) -> None:
    """Run statements, each by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def without_a_standby(server: PostgresServer) -> Iterator[None]:
    """Let commits wait for a standby that never comes, while the block lasts."""
    # Who sets it must not wait for the standby itself.
    local, reload = "SET synchronous_commit = local", "SELECT pg_reload_conf()"
    name = "synchronous_standby_names"
    tell(server.url(), local, f"ALTER SYSTEM SET {name} = 'nobody'", reload)
    try:
        yield
    finally:
        tell(server.url(), local, f"ALTER SYSTEM RESET {name}", reload)


async def test_a_commit_whose_answer_was_lost_is_found(
    server: PostgresServer, url: str, database: Database
) -> None:
    """The connection is cut after the commit: it is seen, and told as stored."""
    runs: list[int] = []

    def work(connection: Connection, number: int) -> int:
        runs.append(number)
        return add(connection, number)

    await database.write(partial(add, number=0))
    with without_a_standby(server):
        waiting, last, pid = await write_that_waits(database, url, work)
        tell(url, f"SELECT pg_terminate_backend({pid})")

    assert last == await waiting
    assert list(range(1, last + 1)) == runs
    assert [0, *runs] == await database.read(things)


async def test_a_commit_that_was_cut_off_is_made_again(
    url: str, database: Database
) -> None:
    """The connection is cut before the commit counts: nothing is stored twice."""
    tell(
        url,
        "CREATE TABLE slow (id int)",
        "INSERT INTO slow VALUES (1)",
        """CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
             IF EXISTS (SELECT FROM slow) THEN PERFORM pg_sleep(60); END IF;
             RETURN NULL;
           END $$""",
        """CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON thing
           DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION wait_at_commit()""",
    )
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(1)
        return add(connection, 1)

    waiting = asyncio.create_task(database.write(work))
    while (pid := await asyncio.to_thread(who_waits, url, "PgSleep")) is None:
        assert not waiting.done()
    tell(url, "DELETE FROM slow", f"SELECT pg_terminate_backend({pid})")

    assert 1 == await waiting
    assert [1, 1] == runs
    assert [1] == await database.read(things)


async def test_a_commit_without_its_standby_is_not_promised(
    server: PostgresServer, url: str, database: Database
) -> None:
    """A wait for the standby that somebody cancels is a failure, not a success."""
    await database.write(partial(add, number=0))
    with without_a_standby(server):
        waiting, last, pid = await write_that_waits(database, url, add)
        tell(url, f"SELECT pg_cancel_backend({pid})")

        with pytest.raises(StoreUnavailableError, match="did not promise"):
            await waiting
    assert last + 1 == await database.write(partial(add, number=last + 1))


async def test_two_replicas_in_a_deadlock_both_come_through(url: str) -> None:
    """Who loses runs again: neither caller hears of it."""
    tell(url, "INSERT INTO thing VALUES (1, 0), (2, 0)")
    met = threading.Barrier(2)

    def both(connection: Connection, numbers: tuple[int, int]) -> int:
        for number in numbers:
            count = "UPDATE thing SET count = count + 1 WHERE id = %s"
            connection.exec_driver_sql(count, (number,))
            if not met.broken and numbers[0] == number:
                with suppress(threading.BrokenBarrierError):
                    met.wait(PATIENCE_S)
        met.abort()
        return numbers[0]

    with Database(url) as one, Database(url) as other:
        for replica in (one, other):  # connected before they meet
            await replica.write(lambda _: None)
        done = await asyncio.gather(
            one.write(partial(both, numbers=(1, 2))),
            other.write(partial(both, numbers=(2, 1))),
        )
        counts = await one.read(
            lambda c: list(c.exec_driver_sql("SELECT count FROM thing").scalars())
        )

    assert [1, 2] == list(done)
    assert [2, 2] == counts


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_server_that_may_lose_commits_is_refused(
    server: PostgresServer, url: str, name: str
) -> None:
    """The gateway does not start on it, and says which setting it is."""
    switch(server, name, "off")
    try:
        with (
            pytest.raises(SettingsError, match=name),
            connected(url, read_only=False),
        ):
            pass
    finally:
        switch(server, name, "on")


def switch(server: PostgresServer, name: str, value: str) -> None:
    """Change a setting of the server; return once new connections have it."""
    tell(server.url(), f"ALTER SYSTEM SET {name} = {value}", "SELECT pg_reload_conf()")

    def is_shown() -> bool:
        with psycopg.connect(server.url()) as connection:
            row = connection.execute(f"SHOW {name}".encode()).fetchone()
            return row == (value,)

    until(is_shown, f"{name} {value}")
