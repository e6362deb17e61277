"""A log on PostgreSQL: several writers, servers that die, commits cut in the middle."""

import asyncio
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from operator import not_
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from audit import postgres
from audit.engine_postgres import freeze
from audit.keys import LogKeys, make_keys
from audit.postgres import PostgresSql
from audit.record import Event, Kind
from audit.sealing import SealedRecord
from audit.sql import Postgres, Row, Tables, Value
from audit.store import Appended, LogReader
from audit.verify import verify_log
from audit.writer import Limits, open_engine
from exchange.demo.postgres import PostgresServer, find_programs
from schemas.errors import LogUnavailableError, SettingsError
from tests.audit.examples import MOTHER, ORIGIN, Room, an_event, open_room
from tests.harness.postgres import ask_until
from tests.harness.relay import Loss, Relay, a_relay

IN_COMMIT = """
CREATE FUNCTION {schema}.in_commit() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN {does}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER in_commit AFTER UPDATE ON {schema}.coordinate
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.in_commit()
"""
"""Has every commit do something before it is one."""


def stored(room: Room) -> list[str]:
    """Return the events that are in the log, in order."""
    with room.reader() as reader:
        return [entry.event_id for entry in reader.entries(0, 10_000)]


def administer(room: Room) -> psycopg.Connection:
    """Return a connection to the room's database that is none of the log's."""
    assert isinstance(room.place, Postgres)
    return psycopg.connect(room.place.url, autocommit=True)


def in_commit(room: Room, does: str) -> None:
    """Have every commit of the log do something."""
    assert isinstance(room.place, Postgres)
    with administer(room) as connection:
        connection.execute(IN_COMMIT.format(schema=room.place.schema, does=does))


def as_before(room: Room) -> None:
    """Have commits do what they always do."""
    assert isinstance(room.place, Postgres)
    with administer(room) as connection:
        connection.execute(f"DROP TRIGGER in_commit ON {room.place.schema}.coordinate")


# A schema that is not whole.

PARTS = {
    "the_log_only_grows": "DROP FUNCTION {}.the_log_only_grows CASCADE",
    "entry_is_never_changed": "DROP TRIGGER entry_is_never_changed ON {}.entry",
    "entry_is_never_removed": "ALTER TABLE {}.entry DISABLE TRIGGER USER",
    "append_records": "DROP FUNCTION {}.append_records",
}
"""What is no table of a log, and how it is lost."""


def test_a_schema_that_lacks_a_function_is_refused_and_mended_as_it_says(
    server_room: Room,
) -> None:
    """Tables alone were put back: what holds no row comes from any backup."""
    place, backup = server_room.place, server_room.folder / "backup"
    assert isinstance(place, Postgres)
    only = (f"--schema={place.schema}", "--schema-only")
    dump: list[str | Path] = [
        find_programs() / "pg_dump",
        *only,
        "-Fc",
        f"-f{backup}",
        place.url,
    ]
    restore: list[str | Path] = [
        find_programs() / "pg_restore",
        *only,
        f"-d{place.url}",
        backup,
    ]
    subprocess.run(dump, check=True)
    with administer(server_room) as connection:
        connection.execute(PARTS["append_records"].format(place.schema))
    with pytest.raises(SettingsError, match="no function `append_records`:") as told:
        open_engine(place, ORIGIN, Limits())
    # It says of all that is there that it is there.
    subprocess.run(restore, check=False, capture_output=True)
    open_engine(place, ORIGIN, Limits()).close()
    asyncio.run(server_room.log.append([an_event()]))

    assert f"`pg_restore --schema-only --schema={place.schema}`" in str(told.value)
    assert 1 == len(stored(server_room))


@pytest.mark.parametrize("name", PARTS)
def test_whatever_a_schema_lacks_is_named(server_room: Room, name: str) -> None:
    """A trigger that is switched off is none: anybody may change a record."""
    assert isinstance(server_room.place, Postgres)
    with administer(server_room) as connection:
        connection.execute(PARTS[name].format(server_room.place.schema))

    with pytest.raises(SettingsError, match=f"no (function|trigger) `{name}`"):
        open_engine(server_room.place, ORIGIN, Limits())


# Several writers.


class Replica:
    """A writer of its own on a log that others write to as well."""

    def __init__(self, folder: Path, keys: LogKeys, place: Postgres) -> None:
        folder.mkdir()
        self.room = open_room(folder, keys, place=place)

    def append_all(self, calls: list[list[Event]]) -> list[list[Appended]]:
        """Append from callers at once, and return what each was told."""

        async def run() -> list[list[Appended]]:
            return await asyncio.gather(*(self.room.log.append(one) for one in calls))

        return asyncio.run(run())


def test_writers_of_several_replicas_number_one_log(
    tmp_path: Path, a_schema: Callable[[], Postgres]
) -> None:
    """Gapless, each event once and every index right, also for events of all."""
    keys, place = make_keys(ORIGIN), a_schema()
    replicas = [Replica(tmp_path / f"{n}", keys, place) for n in range(3)]
    shared = [an_event() for _ in range(10)]
    calls = [
        [[an_event(), shared[n % 10], an_event()] for n in range(25)] for _ in replicas
    ]
    with ThreadPoolExecutor(len(replicas)) as pool:
        told = list(pool.map(Replica.append_all, replicas, calls))
    found = stored(replicas[0].room)
    places = [place for one in told for call in one for place in call]
    events = [event for one in calls for call in one for event in call]
    replicas[0].room.publisher.publish()
    verified = verify_log(place, keys.log.verifier.vkey)
    people = {replica.room.directory.lookup(MOTHER).ref for replica in replicas}  # type: ignore[union-attr] # known by now
    for replica in replicas:
        replica.room.close()

    assert 3 * 50 + 10 == len(found) == len(set(found)) == verified.published
    assert [event.id for event in events] == [place.event for place in places]
    assert [place.event for place in places] == [found[p.index] for p in places]
    assert 1 == len(people)


def test_replicas_that_start_together_make_one_log(
    a_schema: Callable[[], Postgres],
) -> None:
    """Tables are made once; the others find them."""
    place = a_schema()

    def opened(_number: int) -> int:
        with closing(open_engine(place, ORIGIN, Limits())) as engine:
            return engine.size

    with ThreadPoolExecutor(4) as pool:
        assert [0, 0, 0, 0] == list(pool.map(opened, range(4)))


@pytest.mark.anyio
async def test_a_log_that_was_put_back_is_never_appended_to(server_room: Room) -> None:
    """What was promised is gone: to go on would promise its places to others.

    The operators are told once, and not to restart: a new start remembers nothing.
    """
    await server_room.log.append([an_event(), an_event()])
    server_room.change("DROP TRIGGER entry_is_never_removed ON entry")
    server_room.change("DELETE FROM entry WHERE seq = 1")
    server_room.change("UPDATE coordinate SET next = 1")
    with capture_logs() as logged:
        for _ in range(2):
            with pytest.raises(LogUnavailableError, match="put back"):
                await server_room.log.append([an_event()])
    [told] = logged

    assert 1 == len(stored(server_room))
    assert "put back" in str(server_room.log.fault)
    assert ("log_refuses_everything", "error") == (told["event"], told["log_level"])
    assert "what it has promised is gone" in told["why"]
    assert told["remedy"].startswith("do not restart: put the newer data back")
    assert "errand audit recover" in told["remedy"]


# A server that dies, and comes back.


class Callers:
    """Callers that append again and again, whatever they are told."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._goal = asyncio.Event()
        self._is_reached: Callable[[], bool] = lambda: False
        self._is_over = False
        self.promised: list[Appended] = []
        self.refused = 0

    async def run(self) -> None:
        """Append until it is over."""
        while not self._is_over:
            try:
                self.promised += await self._room.log.append([an_event(), an_event()])
            except LogUnavailableError:
                self.refused += 1
            if self._is_reached():
                self._goal.set()

    async def until(self, is_reached: Callable[[], bool]) -> None:
        """Wait until so much has happened."""
        self._is_reached, self._goal = is_reached, asyncio.Event()
        await self._goal.wait()

    def stop(self) -> None:
        """Say that it is over."""
        self._is_over = True


@pytest.mark.anyio
async def test_a_server_that_is_killed_under_appends_loses_no_promise(
    tmp_path: Path, a_schema: Callable[[], Postgres], postgres: PostgresServer
) -> None:
    """Meanwhile appends are refused; the same writer goes on by itself."""
    place = a_schema()
    room = open_room(tmp_path, place=place, limits=Limits(resolve_s=0.2))
    callers = Callers(room)
    promised = callers.promised
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(callers.run())
        await callers.until(lambda: len(promised) >= 60)
        try:
            await asyncio.to_thread(postgres.kill)
            await callers.until(lambda: callers.refused >= 10)
        finally:
            await asyncio.to_thread(postgres.start)
        goal = len(promised) + 60
        await callers.until(lambda: len(promised) >= goal)
        callers.stop()
    found = stored(room)
    verified = verify_log(place, room.keys.log.verifier.vkey)
    room.close()

    assert len(set(found)) == len(found) == verified.records
    assert [found[place.index] for place in promised] == [p.event for p in promised]
    assert room.log.fault is None


# Commits cut in the middle.


@pytest.fixture
def relay(a_schema: Callable[[], Postgres]) -> Iterator[tuple[Relay, Postgres]]:
    """Return a relay before a fresh place, and the place through it."""
    place = a_schema()
    # A socket's path is short.
    with (
        tempfile.TemporaryDirectory(prefix="relay-") as folder,
        a_relay(place.url, Path(folder)) as opened,
    ):
        yield opened, Postgres(opened.url, place.schema)


@pytest.mark.anyio
@pytest.mark.parametrize("loss", [Loss.QUESTION, Loss.ANSWER])
async def test_a_commit_whose_answer_is_lost_is_resolved_by_event_id(
    tmp_path: Path, relay: tuple[Relay, Postgres], loss: Loss
) -> None:
    """Committed or not, the caller is told where its record stands, once."""
    line, place = relay
    room = open_room(tmp_path, place=place)
    [first] = await room.log.append([an_event(subjects=())])
    line.loss = loss
    events = [an_event(subjects=()), an_event(subjects=())]
    places = await room.log.append(events)
    [last] = await room.log.append([an_event(subjects=())])
    found = stored(room)
    room.close()

    assert [0, 1, 2, 3] == [place.index for place in (first, *places, last)]
    assert [event.id for event in events] == found[1:3]
    assert 4 == len(found)


@pytest.mark.anyio
@pytest.mark.parametrize("loss", [Loss.QUESTION, Loss.ANSWER])
async def test_a_commit_that_nobody_can_look_up_is_refused_and_stands_once(
    tmp_path: Path, relay: tuple[Relay, Postgres], loss: Loss
) -> None:
    """Without the server nothing is claimed; asked again, the record is found."""
    line, place = relay
    room = open_room(tmp_path, place=place, limits=Limits(resolve_s=0.0))
    [first] = await room.log.append([an_event(subjects=())])
    line.loss, line.is_open = loss, False
    event = an_event(subjects=())
    with pytest.raises(LogUnavailableError):
        await room.log.append([event])
    with pytest.raises(LogUnavailableError):
        await room.log.append([an_event(subjects=())])
    line.is_open = True
    was_committed = len(stored(room)) == 2
    [again] = await room.log.append([event])
    found = stored(room)
    room.close()

    assert (loss is Loss.ANSWER) == was_committed
    assert [first.event, event.id] == found
    assert 1 == again.index


def waiting(connection: psycopg.Connection) -> tuple[int]:
    """Return which session waits for the lock 77, once one does."""
    query = (
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 77"
        " AND NOT granted"
    )
    [(pid,)] = ask_until(connection, query, bool)
    return (int(pid),)


@pytest.mark.anyio
async def test_a_session_that_is_ended_in_its_commit_is_asked_for_again(
    server_room: Room,
) -> None:
    """The server ends the session between the function's call and the commit."""
    room, event = server_room, an_event(subjects=())
    in_commit(room, "PERFORM pg_advisory_xact_lock(77)")
    with administer(room) as connection:
        connection.execute("SELECT pg_advisory_lock(77)")
        task = asyncio.ensure_future(room.log.append([event]))
        found = await asyncio.to_thread(waiting, connection)
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", found)
        connection.execute("SELECT pg_advisory_unlock(77)")
        [place] = await task
    as_before(room)
    [after] = await room.log.append([an_event(subjects=())])

    assert (0, 1) == (place.index, after.index)
    assert [event.id, after.event] == stored(room)


@pytest.mark.anyio
async def test_a_warning_at_the_commit_counts_as_a_failure(
    tmp_path: Path, a_schema: Callable[[], Postgres]
) -> None:
    """So PostgreSQL tells that the wait for a standby was cut short.

    The record is there, and is given out under a commit that was confirmed.
    """
    room = open_room(tmp_path, place=a_schema(), limits=Limits(resolve_s=0.0))
    event = an_event(subjects=())
    in_commit(room, "RAISE WARNING 'committed here, and perhaps nowhere else'")
    with pytest.raises(LogUnavailableError, match="warned"):
        await room.log.append([event])
    as_before(room)
    [place] = await room.log.append([event])
    [after] = await room.log.append([an_event(subjects=())])
    room.close()

    assert (0, 1) == (place.index, after.index)
    assert room.log.fault is None


# A transaction that loses its connection.


_SESSION = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"


def is_frozen(room: Room) -> bool:
    """Return whether the server refuses what is recorded."""
    assert isinstance(room.place, Postgres)
    query = "SELECT 1 FROM pg_trigger WHERE tgname = %s AND tgrelid = to_regclass(%s)"
    with administer(room) as connection:
        named = ("entry_is_sealed", f"{room.place.schema}.entry")
        return connection.execute(query, named).fetchone() is not None


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["before it is read", "before it is stored"])
async def test_a_log_whose_freeze_is_cut_off_has_both_its_last_record_and_its_end(
    tmp_path: Path, relay: tuple[Relay, Postgres], when: str
) -> None:
    """Or neither; and then the freeze is done again."""
    line, place = relay
    room = open_room(tmp_path, place=place)
    await room.log.append([an_event(subjects=())])
    last = room.sealer.seal(an_event(Kind.CASE_CLOSED, subjects=()), ())
    cut = when

    def record_last(reader: LogReader) -> list[SealedRecord]:
        if cut == "before it is read":
            line.cut()
        assert reader.size() == 1
        if cut == "before it is stored":
            line.cut()
        return [last]

    with pytest.raises(LogUnavailableError):
        freeze(place, record_last)
    begun = (last.event.id in stored(room), is_frozen(room))
    cut = ""
    freeze(place, record_last)
    done = (last.event.id in stored(room), is_frozen(room))
    room.close()

    assert (False, False) == begun
    assert (True, True) == done


@pytest.mark.anyio
@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_freeze_that_is_cut_off_in_its_commit_is_done_whole_or_not_at_all(
    tmp_path: Path, relay: tuple[Relay, Postgres], log_database: str, *, is_ended: bool
) -> None:
    """By the server, which ends the session, nothing; by the network, all of it."""
    line, place = relay
    room = open_room(tmp_path, place=place)
    in_commit(room, "PERFORM pg_advisory_xact_lock(77)")
    last = room.sealer.seal(an_event(Kind.CASE_CLOSED, subjects=()), ())
    gone = "SELECT pg_terminate_backend(%s, 10000)"
    # Not through the relay.
    with psycopg.connect(log_database, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(77)")
        task = asyncio.ensure_future(asyncio.to_thread(freeze, place, lambda _: [last]))
        found = await asyncio.to_thread(waiting, connection)
        if is_ended:
            connection.execute(gone, found)
        line.cut()
        with pytest.raises(LogUnavailableError):
            await task
        connection.execute("SELECT pg_advisory_unlock(77)")
        ask_until(connection, _SESSION, not_, found)
    begun = (last.event.id in stored(room), is_frozen(room))
    as_before(room)
    freeze(place, lambda _: [last] if is_ended else [])
    done = (last.event.id in stored(room), is_frozen(room))
    room.close()

    assert (not is_ended, not is_ended) == begun
    assert (True, True) == done


@pytest.mark.anyio
async def test_a_sealed_shard_is_told_by_the_servers_state_and_not_by_a_sentence(
    tmp_path: Path, a_schema: Callable[[], Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reworded it is still no alarm, and its words alone make no fault harmless."""
    events: list[str] = []
    told = "the log is a sealed shard: go on with the next one"
    for place, why in ((a_schema(), "ended"), (a_schema(), told)):
        room = open_room(tmp_path, place=place)
        monkeypatch.setattr(postgres, "_SEALED", why)
        with capture_logs() as logged:
            if why == "ended":
                freeze(place, lambda _: [])
                with pytest.raises(LogUnavailableError, match="ended"):
                    await room.log.append([an_event(subjects=())])
            room.log.refuse(why)
        events += [event["event"] for event in logged]
        room.close()

    assert ["shard_sealed", "log_refuses_everything"] == events


def insert_over(line: Relay, sql: PostgresSql) -> None:
    """Have a transaction lose its connection, and go on as if it had not."""
    with sql.transaction() as changes:
        changes.change("INSERT INTO one VALUES (1)")
        line.cut()
        with suppress(LogUnavailableError):
            sql.rows("SELECT 1")


def test_a_query_is_not_asked_again_on_another_connection_than_its_transaction(
    relay: tuple[Relay, Postgres],
) -> None:
    """Nor is the snapshot left, nor anything believed that was begun before."""
    line, place = relay
    with closing(PostgresSql(place)) as sql:
        sql.make(Tables("", "CREATE TABLE one (number INTEGER)"))
        with sql.snapshot():
            sql.rows("SELECT 1")
            line.cut()
            for _ in range(2):
                with pytest.raises(LogUnavailableError):
                    sql.rows("SELECT 1")
        again = sql.rows("SELECT 1")
        with pytest.raises(LogUnavailableError, match="in a transaction"):
            insert_over(line, sql)
        found = sql.rows("SELECT number FROM one")

    assert [(1,)] == again
    assert [] == found


def test_a_log_that_does_not_know_its_next_number_is_refused(
    a_schema: Callable[[], Postgres],
) -> None:
    """A copy without that row is not whole: it is neither opened nor frozen."""
    place = a_schema()
    open_engine(place, ORIGIN, Limits()).close()
    with closing(PostgresSql(place)) as sql, sql.transaction() as changes:
        changes.change("DELETE FROM coordinate")

    with pytest.raises(SettingsError, match=r"coordinate` has no row: .* restore"):
        open_engine(place, ORIGIN, Limits())
    with pytest.raises(SettingsError, match="coordinate` has no row"):
        freeze(place, lambda _: [])


# What a server must be set to.


def test_a_server_that_would_lose_commits_is_refused(postgres_url: str) -> None:
    """The setting is named."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    with pytest.raises(SettingsError, match="synchronous_commit"):
        open_engine(Postgres(postgres_url, "log"), ORIGIN, Limits())


@pytest.mark.anyio
async def test_no_time_limit_cuts_a_commit_short(
    tmp_path: Path, postgres_url: str
) -> None:
    """Whatever the database sets for its other clients."""
    room = open_room(tmp_path, place=Postgres(postgres_url, "log"))
    in_commit(room, "PERFORM pg_sleep(0.02)")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET statement_timeout = 1")
        connection.execute("SET statement_timeout = 0")
        kill = (
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(kill)
    [place] = await room.log.append([an_event(subjects=())])
    room.close()

    assert 0 == place.index


@pytest.mark.anyio
async def test_reading_a_server_never_holds_up_the_event_loop(
    server_room: Room,
) -> None:
    """The thread that asks the server is another one."""
    asked_by: list[int] = []
    rows = server_room.log._reader.sql.rows

    def seen(query: str, values: Sequence[Value] = ()) -> list[Row]:
        asked_by.append(threading.get_ident())
        return rows(query, values)

    server_room.log._reader.sql.rows = seen  # type: ignore[method-assign] # looks on
    [place] = await server_room.log.append([an_event()])

    assert place == await server_room.log.find(place.event)
    assert len(asked_by) == 1
    assert threading.get_ident() not in asked_by
