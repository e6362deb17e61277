"""The write-ahead file is moved beside the writer, and never grows without bound."""

import asyncio
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.moving import MOVE, Mover
from audit.writer import Limits
from schemas.errors import LogUnavailableError
from tests.audit.examples import Room, an_event, open_room
from tests.faults.commits import Failure, Hold, fail_moves
from tests.faults.promises import check_as_it_is, check_goes_on

MARK = 10
"""Records after which the mover is asked."""
_PATIENCE_S = 10


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A fresh log whose write-ahead file is moved often."""
    room = often_moved(tmp_path)
    yield room
    room.close()


def often_moved(folder: Path) -> Room:
    """Return a fresh log whose write-ahead file is moved often."""
    return open_room(folder, limits=Limits(free_bytes=0, wal_records=MARK))


def append(room: Room, count: int) -> list[bytes]:
    """Append records one by one; return their receipts."""

    async def run() -> list[bytes]:
        receipts = []
        for _ in range(count):
            [place] = await room.log.append([an_event(subjects=())])
            receipts.append(room.log.sign(place).encode())
        return receipts

    return asyncio.run(run())


def after_the_last_batch(room: Room) -> None:
    """Wait for what the writer does after its last batch."""
    room.log.write(lambda _changes: None).exception(_PATIENCE_S)


def settle(room: Room) -> None:
    """Wait for what the writer does after its last batch, and for the mover."""
    after_the_last_batch(room)
    patience = time.monotonic() + _PATIENCE_S
    while not room.sqlite._mover.is_done:
        assert time.monotonic() < patience
        os.sched_yield()


def one_move(room: Room, failure: Failure | None = None) -> Callable[[], None]:
    """Return what waits until the mover has moved once, or has failed to."""
    mover, over = room.sqlite._mover, threading.Event()
    failing = fail_moves(room.log)
    failing.planned.append(failure)
    failing.after = over.set

    def wait() -> None:
        assert over.wait(_PATIENCE_S)
        with mover._turn:
            assert mover.is_done

    return wait


def wal_of(room: Room) -> Path:
    """Return the write-ahead file."""
    return room.path.with_name("log.db-wal")


def frames(room: Room) -> tuple[int, int]:
    """Return how many frames of the write-ahead file were moved, and how many it has.

    SOURCE: https://sqlite.org/walformat.html, 2.1 and 2.2, `nBackfill` and `mxFrame`.
    """
    shared = room.path.with_name("log.db-shm").read_bytes()
    return (
        struct.unpack_from("=I", shared, 96)[0],
        struct.unpack_from("=I", shared, 16)[0],
    )


def note_moves(room: Room, note: Callable[[str], None]) -> None:
    """Have each move noted as it begins: whether `writer` or `mover` makes it."""

    def noting(who: str) -> Callable[[str], None]:
        return lambda statement: note(who) if statement == MOVE else None

    engine = room.sqlite
    engine.connection.set_trace_callback(noting("writer"))
    engine._mover._connection.set_trace_callback(noting("mover"))


def is_taken(room: Room) -> bool:
    """Return whether it is somebody's turn to move."""
    turn = room.sqlite._mover._turn
    if turn.acquire(blocking=False):
        turn.release()
        return False
    return True


def test_a_move_beside_the_writer_holds_no_append_up(room: Room) -> None:
    """While the mover is in mid-move, records are stored, up to a second mark."""
    hold = Hold()
    fail_moves(room.log).planned.append(hold)
    append(room, MARK)
    assert hold.reached.wait(_PATIENCE_S)
    append(room, MARK - 1)

    assert 2 * MARK - 1 == room.log.size
    assert not room.sqlite._mover.is_done
    hold.released.set()


def test_the_mover_moves_the_most_and_the_writer_the_rest(room: Room) -> None:
    """Then nothing is left to be moved, and the file begins anew."""
    moves: list[str] = []
    note_moves(room, moves.append)
    wait = one_move(room)
    append(room, MARK)
    wait()
    moved, there = frames(room)
    assert moved == there > MARK
    append(room, 1)
    settle(room)
    moved, there = frames(room)

    assert ["mover", "writer"] == moves
    assert moved == there < MARK


def test_a_mover_that_is_never_scheduled_lets_nothing_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second mark the writer moves all of it by itself, when it is its turn."""
    monkeypatch.setattr(Mover, "_run", lambda _self: None)
    room = often_moved(tmp_path)
    moves: list[tuple[str, bool]] = []
    note_moves(room, lambda who: moves.append((who, is_taken(room))))
    append(room, 2 * MARK)
    after_the_last_batch(room)
    size = wal_of(room).stat().st_size
    append(room, 18 * MARK)
    after_the_last_batch(room)

    assert [("writer", True)] * 10 == moves
    assert wal_of(room).stat().st_size < 2 * size
    room.close()


def test_the_mover_moves_in_its_turn(room: Room) -> None:
    """So that the writer, which takes it as well, waits for it and is waited for."""
    moves: list[tuple[str, bool]] = []
    note_moves(room, lambda who: moves.append((who, is_taken(room))))
    wait = one_move(room)
    append(room, MARK)
    wait()

    assert [("mover", True)] == moves


def test_a_reader_holds_the_file_back_for_as_long_as_it_reads(room: Room) -> None:
    """What it has read may not be overwritten; after it nothing grows any more."""
    append(room, 1)
    with room.reader() as reader, reader.sql.snapshot():
        seen = reader.size()
        append(room, 10 * MARK)
        settle(room)
        held = wal_of(room).stat().st_size
        moved, there = frames(room)

        assert 1 == seen == reader.size()
        assert moved < there
    append(room, 3 * MARK)
    settle(room)
    append(room, 30 * MARK)
    settle(room)

    assert wal_of(room).stat().st_size < 2 * held
    assert 1 + 43 * MARK == room.log.size


@settings(max_examples=10, deadline=None)
@given(batches=st.lists(st.sampled_from(["new", "same", "none"]), max_size=60))
def test_the_mover_begins_only_where_something_is_left_to_move(
    tmp_path_factory: pytest.TempPathFactory, batches: list[str]
) -> None:
    """Or a commit could begin the file anew under it: sqlite.org/wal.html#walresetbug.

    What is in the log already, and a transaction without a change, store nothing.
    """
    room = often_moved(tmp_path_factory.mktemp("room"))
    begun: list[tuple[int, int]] = []
    note_moves(room, lambda who: begun.append(frames(room)) if who == "mover" else None)
    events = [an_event(subjects=()) for _ in range(MARK - 1)]
    asyncio.run(room.log.append(events))
    for batch in batches:
        if batch == "new":
            append(room, 1)
        elif batch == "same":
            asyncio.run(room.log.append(events))
        settle(room)
    append(room, MARK)
    settle(room)
    room.close()

    assert len(begun) > 0
    assert all(moved < there for moved, there in begun)


@pytest.mark.parametrize("is_persisted", [False, True])
def test_after_a_hard_error_of_the_mover_nothing_is_taken(
    tmp_path: Path, *, is_persisted: bool
) -> None:
    """No record, no publisher's row; and nothing is moved, not even on closing."""
    room = often_moved(tmp_path)
    moves: list[str] = []
    note_moves(room, moves.append)
    wait = one_move(room, Failure(sqlite3.SQLITE_IOERR_FSYNC, is_persisted))
    receipts = append(room, MARK)
    wait()
    with pytest.raises(LogUnavailableError, match="can't be written"):
        append(room, 1)
    with pytest.raises(LogUnavailableError):
        room.log.write(lambda _changes: None).result()
    assert room.log.fault is not None
    before = room.path.read_bytes()
    room.close()

    assert before == room.path.read_bytes()
    assert wal_of(room).stat().st_size > 0
    assert "writer" not in moves
    assert MARK == check_as_it_is(tmp_path, room.keys, receipts).records
    assert MARK + 1 == check_goes_on(tmp_path, room.keys, receipts).published


def test_a_full_disk_under_the_mover_refuses_nobody(room: Room) -> None:
    """The file is as it was: the writer moves it next."""
    moves: list[str] = []
    note_moves(room, moves.append)
    wait = one_move(room, Failure(sqlite3.SQLITE_FULL, is_persisted=False))
    append(room, MARK)
    wait()
    append(room, 1)
    settle(room)
    moved, there = frames(room)

    assert room.log.fault is None
    assert ["writer"] == moves
    assert moved == there > MARK


def test_a_log_closes_after_a_move_under_way(tmp_path: Path) -> None:
    """The mover ends first; then the last connection moves what is left."""
    room = often_moved(tmp_path)
    hold = Hold()
    fail_moves(room.log).planned.append(hold)
    append(room, MARK + 1)
    assert hold.reached.wait(_PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(room.close)
        hold.released.set()
        closing.result(_PATIENCE_S)

    assert not room.sqlite._mover.thread.is_alive()
    assert not wal_of(room).exists()
    assert MARK + 2 == check_goes_on(tmp_path, room.keys, ()).published


def test_the_mover_flushes_as_the_writer_does(room: Room) -> None:
    """And moves nothing by itself."""

    def pragma(name: str) -> object:
        connection = room.sqlite._mover._connection
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert ("wal", 2, 1, 0) == tuple(
        pragma(name)
        for name in ("journal_mode", "synchronous", "fullfsync", "wal_autocheckpoint")
    )
