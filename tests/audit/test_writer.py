"""Appending: order, idempotence, limits, and what a failing disk does."""

import asyncio
import itertools
import resource
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from audit.engine_sqlite import SqliteEngine, open_for_writing
from audit.keys import make_keys
from audit.places import open_sql
from audit.postgres import PostgresSql
from audit.publisher import Publisher
from audit.receipt import verify_receipt
from audit.record import Event, Kind, Subject
from audit.sql import Changes, Place, Postgres, SqliteSql, Value
from audit.writer import Limits, open_engine
from schemas.clock import SystemClock
from schemas.errors import LogUnavailableError, NotFoundError, SettingsError
from schemas.ids import CaseId, EventId
from tests.audit.examples import (
    CASE,
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    an_id,
    open_room,
)


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


def stored(room: Room) -> list[str]:
    """Return the events that are in the log, in order."""
    with room.reader() as reader:
        return [entry.event_id for entry in reader.entries(0, 10_000)]


def break_commits(room: Room, error: sqlite3.Error) -> Callable[[], None]:
    """Have every commit of the writer fail; return what mends it.

    A progress handler would interrupt; a commit hook that says no turns the commit
    into a rollback, as SQLite does by itself after a failed flush.
    """
    engine = room.sqlite
    real = engine.connection

    class Broken:
        """The writer's connection, with a disk that fails."""

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def execute(self, statement: str, *values: Sequence[Value]) -> sqlite3.Cursor:
            """Fail at the commit."""
            if statement == "COMMIT":
                raise error
            return real.execute(statement, *values)

    engine.connection = Broken()  # type: ignore[assignment] # its disk is broken

    def mend() -> None:
        engine.connection = real

    return mend


def io_error(code: int, name: str) -> sqlite3.OperationalError:
    """Return the error that sqlite3 raises with this code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


@pytest.mark.anyio
async def test_records_are_numbered_without_gaps_in_the_order_given(
    room: Room,
) -> None:
    """Each append gets the next indexes, and they are in the file when it returns."""
    events = [an_event() for _ in range(5)]
    first = await room.log.append(events[:2])
    second = await room.log.append(events[2:])

    assert [0, 1, 2, 3, 4] == [place.index for place in first + second]
    assert [event.id for event in events] == stored(room)
    assert 5 == room.log.size


@pytest.mark.anyio
async def test_many_callers_at_once_share_commits(room: Room) -> None:
    """A thousand appends at once are all numbered, once each."""
    events = [an_event() for _ in range(1_000)]
    places = await asyncio.gather(*(room.log.append([event]) for event in events))

    assert list(range(1_000)) == sorted(place.index for [place] in places)
    assert {event.id for event in events} == set(stored(room))
    assert all(
        event.id == place.event for event, [place] in zip(events, places, strict=True)
    )


@pytest.mark.anyio
async def test_nothing_to_record_is_no_record(room: Room) -> None:
    """An append of no events returns at once."""
    assert [] == await room.log.append([])


@pytest.mark.anyio
async def test_an_event_is_recorded_once(room: Room) -> None:
    """The same event again, alone or among others, returns what stands there."""
    event, other = an_event(), an_event()
    [first] = await room.log.append([event])
    again = await room.log.append([other, event, other])
    together = await asyncio.gather(*(room.log.append([event]) for _ in range(5)))

    assert first == again[1]
    assert again[0] == again[2]
    assert [[first]] * 5 == together
    assert [event.id, other.id] == stored(room)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=12))
def test_any_order_of_repeats_leaves_each_event_once(
    tmp_path_factory: pytest.TempPathFactory,
    a_place: Callable[[], Place],
    calls: list[list[int]],
) -> None:
    """However events are repeated, within a call or across calls under way."""
    room = open_room(tmp_path_factory.mktemp("room"), place=a_place())
    events = [an_event() for _ in range(7)]

    async def run() -> list[list[tuple[str, int]]]:
        results = await asyncio.gather(
            *(room.log.append([events[n] for n in call]) for call in calls)
        )
        return [[(place.event, place.index) for place in places] for places in results]

    returned = asyncio.run(run())
    found = stored(room)
    room.close()

    assert sorted({events[n].id for call in calls for n in call}) == sorted(found)
    for call, places in zip(calls, returned, strict=True):
        assert [(events[n].id, found.index(events[n].id)) for n in call] == places


@pytest.mark.anyio
async def test_a_cancelled_caller_cancels_no_commit(room: Room) -> None:
    """Whoever waits may go away; the record stays and the log goes on."""
    event = an_event(subjects=())
    task = asyncio.ensure_future(room.log.append([event]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [after] = await room.log.append([an_event()])

    assert 1 == after.index
    assert event.id == stored(room)[0]
    assert 0 == room.log._batches.outstanding


@pytest.mark.anyio
async def test_too_much_outstanding_is_refused_before_anything_is_done(
    tmp_path: Path, place: Place
) -> None:
    """The bound holds for records, and what was refused leaves no trace."""
    limits = Limits(outstanding=3, free_bytes=0)
    room = open_room(tmp_path, limits=limits, place=place)
    with pytest.raises(LogUnavailableError, match="too many"):
        await room.log.append([an_event() for _ in range(4)])
    results = await asyncio.gather(
        *(room.log.append([an_event()]) for _ in range(5)), return_exceptions=True
    )
    await room.log.append([an_event() for _ in range(3)])

    assert 2 == sum(isinstance(result, LogUnavailableError) for result in results)
    assert 6 == len(stored(room))
    room.close()


@pytest.mark.anyio
async def test_an_event_that_is_too_large_leaves_nothing_outstanding(
    room: Room,
) -> None:
    """A section over the limit is the caller's error, and counts no more."""
    with pytest.raises(ValueError, match="section"):
        await room.log.append([an_event(details={"text": "x" * 70_000})])

    assert 0 == room.log._batches.outstanding
    assert [] == stored(room)


@pytest.mark.anyio
async def test_a_full_disk_refuses_and_recovers(file_room: Room) -> None:
    """SQLITE_FULL: nothing of the batch is stored; with room again, the log goes on."""
    await file_room.log.append([an_event()])
    pages = file_room.sqlite.connection.execute("PRAGMA page_count").fetchone()[0]
    file_room.sqlite.connection.execute(f"PRAGMA max_page_count = {pages}")
    batch = [an_event(details={"text": "x" * 9_000}) for _ in range(20)]
    with pytest.raises(LogUnavailableError, match="SQLITE_FULL"):
        await file_room.log.append(batch)
    in_between = stored(file_room)
    file_room.sqlite.connection.execute("PRAGMA max_page_count = 1000000")
    [place] = await file_room.log.append([an_event()])

    assert 1 == len(in_between)
    assert 1 == place.index
    assert file_room.log.fault is None


@pytest.mark.anyio
async def test_a_file_that_may_not_grow_refuses_for_good(tmp_path: Path) -> None:
    """A write that the system refuses is an I/O error: refuse until opened again."""
    room = open_room(tmp_path)
    await room.log.append([an_event()])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "log.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(LogUnavailableError):
            await room.log.append([an_event(details={"text": "x" * 60_000})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(LogUnavailableError):
        await room.log.append([an_event()])
    room.close()
    again = open_room(tmp_path, room.keys)
    [place] = await again.log.append([an_event()])

    assert 1 == place.index
    again.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "name", "is_final"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC", True),
        (sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE", True),
        (sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT", True),
        (sqlite3.SQLITE_FULL, "SQLITE_FULL", False),
        (sqlite3.SQLITE_BUSY, "SQLITE_BUSY", False),
    ],
)
async def test_after_a_hard_error_the_log_refuses_until_it_is_opened_again(
    file_room: Room, code: int, name: str, *, is_final: bool
) -> None:
    """A failed flush is never tried again on the same file; a full disk may be."""
    mend = break_commits(file_room, io_error(code, name))
    with pytest.raises(LogUnavailableError, match=name):
        await file_room.log.append([an_event()])
    mend()
    assert [] == stored(file_room)
    if is_final:
        with pytest.raises(LogUnavailableError, match="opened again"):
            await file_room.log.append([an_event()])
    else:
        [place] = await file_room.log.append([an_event()])
        assert 0 == place.index


@pytest.mark.anyio
async def test_operators_are_told_once_why_the_log_refuses_and_what_to_do(
    file_room: Room,
) -> None:
    """One event with the reason and the remedy, and of no record anything."""
    told_of = "990101199403120026"
    mend = break_commits(file_room, io_error(sqlite3.SQLITE_IOERR, "SQLITE_IOERR"))
    with capture_logs() as told:
        for _ in range(3):
            with pytest.raises(LogUnavailableError):
                await file_room.log.append([an_event(details={"text": told_of})])
        file_room.log.refuse("something else")
    mend()
    [event] = told

    assert "error" == event["log_level"]
    assert "log_refuses_everything" == event["event"]
    assert "the log failed with SQLITE_IOERR and must be opened again" == event["why"]
    assert "restart the gateway" in event["remedy"]
    assert told_of not in str(told)


@pytest.mark.anyio
async def test_a_log_whose_disk_is_full_says_nothing_of_a_restart(
    file_room: Room,
) -> None:
    """What passes by itself is no reason to restart."""
    mend = break_commits(file_room, io_error(sqlite3.SQLITE_FULL, "SQLITE_FULL"))
    with capture_logs() as told, pytest.raises(LogUnavailableError):
        await file_room.log.append([an_event()])
    mend()

    assert [] == told


@pytest.mark.anyio
async def test_a_failed_commit_fails_every_caller_of_its_batch(file_room: Room) -> None:
    """Nobody is told that something is durable that is not, and nobody hangs."""
    await file_room.log.append([an_event()])
    mend = break_commits(file_room, io_error(sqlite3.SQLITE_FULL, "SQLITE_FULL"))
    results = await asyncio.gather(
        *(file_room.log.append([an_event()]) for _ in range(50)), return_exceptions=True
    )
    mend()

    assert all(isinstance(result, LogUnavailableError) for result in results)
    assert 1 == len(stored(file_room))
    assert 0 == file_room.log._batches.outstanding


@pytest.mark.anyio
async def test_a_nearly_full_disk_refuses_before_it_is_full(tmp_path: Path) -> None:
    """Below the watermark nothing is recorded, and so nothing released."""
    room = open_room(tmp_path, limits=Limits(free_bytes=1 << 62))
    with pytest.raises(LogUnavailableError, match="nearly full"):
        await room.log.append([an_event()])

    assert [] == stored(room)
    room.close()


@pytest.mark.anyio
async def test_a_second_writer_is_found_out(file_room: Room) -> None:
    """Records that somebody else wrote into the file stop the log."""
    [place] = await file_room.log.append([an_event()])
    other = sqlite3.connect(file_room.path)
    with other:
        other.execute(
            "INSERT INTO entry SELECT seq + 1, 'x', leaf, leaf_hash, case_ref, matter,"
            " subject_refs, actor_ref, ends, guard, sealed, sealed_guard FROM entry"
        )
    other.close()
    with pytest.raises(LogUnavailableError, match="second writer"):
        await file_room.log.append([an_event()])

    assert 0 == place.index
    assert "second writer" in str(file_room.log.fault)


@pytest.mark.anyio
async def test_a_new_subject_is_durable_before_their_tag_is(room: Room) -> None:
    """When subjects can't be stored, nothing about them is recorded."""
    write = room.directory._write
    if isinstance(write, PostgresSql):
        write.connected().execute("SET default_transaction_read_only = on")
    else:
        write.rows("PRAGMA query_only = ON")
    with pytest.raises(LogUnavailableError):
        await room.log.append([an_event()])

    assert [] == stored(room)
    assert room.directory.lookup(MOTHER) is None


@pytest.mark.anyio
async def test_new_subjects_of_many_callers_are_each_made_known_once(
    room: Room,
) -> None:
    """Callers who meet the same person at once agree on the reference."""
    people = [MOTHER, FATHER, Subject("newborn", "citizen_id", "990101202601080028")]
    await asyncio.gather(
        *(room.log.append([an_event(subjects=(who,))]) for who in people * 10)
    )
    with room.reader() as reader:
        refs = {entry.subject_refs for entry in reader.entries(0, 100)}

    assert {room.directory.lookup(who).ref for who in people} == refs  # type: ignore[union-attr] # known by now


@pytest.mark.anyio
async def test_the_log_only_grows(room: Room) -> None:
    """The tables themselves refuse to change or remove a record."""
    await room.log.append([an_event()])
    refused = (sqlite3.IntegrityError, psycopg.errors.RaiseException)
    for statement, values in (
        ("DELETE FROM entry", ()),
        ("UPDATE entry SET leaf = ?", (b"0",)),
        ("UPDATE entry SET seq = 7", ()),
    ):
        with pytest.raises(refused, match="only grows"):
            room.change(statement, values)


@pytest.mark.anyio
async def test_look_ups_that_have_not_ended_are_known_after_a_restart(
    room: Room,
) -> None:
    """What was accepted and has not ended is found again, for its case alone."""
    ended, left, other = an_event(), an_event(), an_event(case=CaseId("other"))
    await room.log.append([ended, left, other, an_event(Kind.REQUEST_DENIED)])
    await room.log.append([an_event(Kind.REQUEST_ENDED, ends=ended.id)])
    room.close()
    again = open_room(room.folder, room.keys, place=room.place)

    assert [left.id] == await again.log.open_attempts(CASE)
    await again.log.append([an_event(Kind.REQUEST_ENDED, ends=left.id)])
    assert [] == await again.log.open_attempts(CASE)
    again.close()


@pytest.mark.anyio
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30),
    st.sampled_from([CASE, CaseId("other")]),
)
async def test_look_ups_under_way_are_known_whatever_the_tree_holds(
    file_room: Room, steps: list[tuple[int, bool]], case: CaseId
) -> None:
    """They are those begun and not ended, wherever the tree was moved on between."""
    publisher = Publisher(file_room.log, file_room.keys.log, SystemClock())
    open_here: list[EventId] = []
    for step, is_integrated in steps:
        if step and open_here:
            ended = open_here.pop(step % len(open_here))
            await file_room.log.append(
                [an_event(Kind.REQUEST_ENDED, ends=ended, case=case)]
            )
        else:
            begun = an_event(case=case)
            await file_room.log.append([begun, an_event(case=CaseId("elsewhere"))])
            open_here.append(begun.id)
        if is_integrated:
            await asyncio.to_thread(publisher.publish)
    found = await file_room.log.open_attempts(case)
    for left in open_here:
        await file_room.log.append([an_event(Kind.REQUEST_ENDED, ends=left, case=case)])

    assert sorted(open_here) == found
    assert [] == await file_room.log.open_attempts(case)
    publisher.stop()


@pytest.mark.anyio
async def test_a_publishers_rows_wait_for_no_batch_that_has_not_begun(
    file_room: Room,
) -> None:
    """What is handed in while the thread is busy: such a call goes before records."""
    busy, seen = threading.Event(), list[int]()

    def look(changes: Changes) -> None:
        [[count]] = changes.rows("SELECT count(*) FROM entry")
        seen.append(count)

    blocked = file_room.log.write(lambda _: assert_set(busy))
    appending = asyncio.create_task(file_room.log.append([an_event(subjects=())]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # a turn later it is handed over
    looked = file_room.log.write(look)
    busy.set()
    await asyncio.gather(appending, *map(asyncio.wrap_future, (blocked, looked)))

    assert [0] == seen
    assert 1 == file_room.log.size


def assert_set(event: threading.Event) -> None:
    """Wait until something is allowed to go on."""
    assert event.wait(10)


@pytest.mark.anyio
async def test_what_one_turn_of_the_loop_hands_in_is_one_commit(
    file_room: Room,
) -> None:
    """Many callers that were woken together share a commit, up to some records."""
    engine = file_room.log._engine
    assert isinstance(engine, SqliteEngine)
    await file_room.log.append([an_event()])
    commits: list[str] = []
    engine.connection.set_trace_callback(
        lambda statement: commits.append(statement) if statement == "COMMIT" else None
    )
    await asyncio.gather(*(file_room.log.append([an_event()]) for _ in range(40)))

    assert ["COMMIT"] == commits
    assert 41 == file_room.log.size


@pytest.mark.anyio
async def test_what_was_handed_in_last_is_stored_before_the_log_closes(
    file_room: Room,
) -> None:
    """A log that is closed in the turn of an append still has its records."""
    await file_room.log.append([an_event()])
    appending = asyncio.create_task(file_room.log.append([an_event()]))
    await asyncio.sleep(0)
    assert file_room.log._batches._gathered
    file_room.log.close()

    [place] = await appending
    assert 1 == place.index


@pytest.mark.anyio
async def test_a_record_has_one_receipt(room: Room) -> None:
    """The receipt names event, index and leaf hash, and is the same each time."""
    [place] = await room.log.append([an_event()])
    note = room.log.sign(place)
    receipt = verify_receipt(note.encode(), room.keys.receipt.verifier)

    assert note == await room.log.receipt(place.event)
    assert place == await room.log.find(place.event)
    assert (place.event, 0, place.leaf_hash, place.at_ms) == (
        receipt.event,
        receipt.index,
        receipt.leaf_hash,
        receipt.at_ms,
    )
    with pytest.raises(NotFoundError):
        await room.log.receipt(an_id())


@pytest.mark.anyio
async def test_a_closed_log_refuses(room: Room) -> None:
    """After closing nothing is recorded; what was waiting was written."""
    waiting = asyncio.ensure_future(room.log.append([an_event(subjects=())]))
    await asyncio.sleep(0)
    room.log.close()
    [place] = await waiting
    with pytest.raises(LogUnavailableError, match="closed"):
        await room.log.append([an_event()])

    assert 0 == place.index
    assert isinstance(room.log.write(lambda _: None).exception(), LogUnavailableError)


@pytest.mark.anyio
async def test_a_held_log_refuses_until_it_is_let_go(room: Room) -> None:
    """A reason that may pass stops the log for as long as it holds."""
    room.log.hold("publishing lags")
    with pytest.raises(LogUnavailableError, match="lags"):
        await room.log.append([an_event()])
    room.log.hold(None)

    assert 0 == (await room.log.append([an_event()]))[0].index


def test_the_place_of_another_log_is_refused(tmp_path: Path, place: Place) -> None:
    """A log does not write where the log of another origin is."""
    open_engine(place, "other.example/log", Limits()).close()
    keys = make_keys(ORIGIN)

    with pytest.raises(SettingsError, match="another origin"):
        open_room(tmp_path, keys, place=place)


@pytest.mark.anyio
async def test_a_log_with_records_and_no_name_is_refused(either_room: Room) -> None:
    """A copy that has lost it may be anybody's, or one that was left."""
    await either_room.log.append([an_event(subjects=())])
    with closing(open_sql(either_room.place)) as sql, sql.transaction() as changes:
        changes.change("DELETE FROM meta")

    with pytest.raises(SettingsError, match="of another origin or format"):
        open_engine(either_room.place, ORIGIN, Limits())


_NAMES = {
    Path: "SELECT name FROM sqlite_master WHERE type = 'table'",
    Postgres: "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}
"""What asks for the names of all tables of a log, on either engine."""


def test_a_log_that_lacks_a_table_is_refused_and_what_to_do_is_said(
    place: Place,
) -> None:
    """Whichever it is: a copy that is not whole is no log to go on with."""
    open_engine(place, ORIGIN, Limits()).close()
    [query] = [query for kind, query in _NAMES.items() if isinstance(place, kind)]
    with closing(open_sql(place)) as sql:
        names = [name for (name,) in sql.rows(query)]
        for name in names:
            with sql.transaction() as changes:
                changes.change(f"ALTER TABLE {name} RENAME TO gone")
            with pytest.raises(SettingsError, match=f"no table `{name}`: .* restore"):
                open_engine(place, ORIGIN, Limits())
            with sql.transaction() as changes:
                changes.change(f"ALTER TABLE gone RENAME TO {name}")
    open_engine(place, ORIGIN, Limits()).close()

    assert {"meta", "entry", "tree"} < set(names)


def open_files() -> set[int]:
    """Return the numbers of the files that this process has open."""
    return {int(entry.name) for entry in Path("/dev/fd").iterdir()}


def open_with_spare(path: Path, spare: int) -> Exception | None:
    """Open and close a log with so many files to spare; return what it failed with."""
    used = open_files()
    free = (number for number in itertools.count() if number not in used)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = next(itertools.islice(free, spare, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        open_engine(path, ORIGIN, Limits()).close()
    except (sqlite3.Error, OSError) as error:
        # With its traceback, in which whatever was left open stays alive.
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return None


def test_a_log_that_can_not_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    """Whichever file is the one too many; nor does the log of somebody else."""
    path = tmp_path / "log.db"
    open_engine(path, ORIGIN, Limits()).close()
    before = open_files()
    failures: list[Exception] = []
    while (failed := open_with_spare(path, len(failures))) is not None:
        failures.append(failed)
        assert open_files() <= before
    with pytest.raises(SettingsError):
        open_engine(path, "other.example/log", Limits())

    assert open_files() <= before
    assert 5 < len(failures) < 50


def test_the_write_ahead_file_is_moved_now_and_then(tmp_path: Path) -> None:
    """However much is recorded, the write-ahead file stays small."""
    room = open_room(tmp_path, limits=Limits(free_bytes=0, wal_records=10))
    events: list[Event] = [an_event(subjects=()) for _ in range(600)]

    async def run() -> None:
        for event in events:
            await room.log.append([event])

    asyncio.run(run())
    size = (tmp_path / "log.db-wal").stat().st_size

    assert size < 1 << 20
    assert 600 == len(stored(room))
    room.close()


def test_every_commit_is_flushed_and_no_error_is_swallowed(file_room: Room) -> None:
    """FULL flushes each commit; with NORMAL a power loss may take the last ones back.

    The write-ahead file is moved on purpose, where the errors of doing so are seen.
    """

    def pragma(connection: sqlite3.Connection, name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    log, directory = file_room.sqlite.connection, file_room.directory._write

    assert isinstance(directory, SqliteSql)
    assert ("wal", 2, 0) == tuple(
        pragma(log, name)
        for name in ("journal_mode", "synchronous", "wal_autocheckpoint")
    )
    assert ("wal", 2) == tuple(
        pragma(directory.connection, name) for name in ("journal_mode", "synchronous")
    )


def test_a_reader_never_writes(room: Room) -> None:
    """The reader's connection refuses to write."""
    refused = (sqlite3.OperationalError, LogUnavailableError)
    with room.reader() as reader, pytest.raises(refused):
        reader.sql.rows("DELETE FROM meta RETURNING 1")

    assert ORIGIN == room.log.origin


@pytest.mark.parametrize(
    "trigger", ["entry_is_never_changed", "entry_is_never_removed"]
)
def test_a_file_that_lets_records_be_changed_is_no_whole_log(
    tmp_path: Path, trigger: str
) -> None:
    """Who restored it by hand, table for table, has left the triggers behind."""
    file = tmp_path / "log.sqlite"
    open_for_writing(file, "log.example").close()
    with closing(sqlite3.connect(file)) as hand:
        hand.execute(f"DROP TRIGGER {trigger}")

    with pytest.raises(SettingsError, match=f"`log.sqlite` has no trigger `{trigger}`"):
        open_for_writing(file, "log.example")
