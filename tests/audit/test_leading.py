"""Two publishers on one log: one leads, and never are there two histories."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from audit.keys import save_keys
from audit.leading import Lead
from audit.note import open_checkpoint
from audit.publisher import Pace, Publisher
from audit.sql import Postgres
from audit.store import Work
from audit.swaps import Integration, Publication
from audit.verify import verify_log
from schemas.errors import LogUnavailableError
from tests.audit.examples import Room, an_event

ROOT = Path(__file__).parents[2]


def append(room: Room, count: int) -> None:
    """Record some events."""
    asyncio.run(room.log.append([an_event(subjects=()) for _ in range(count)]))


def size_of_head(room: Room) -> int:
    """Return how much the signed head covers."""
    with room.reader() as reader:
        head = reader.head()
    assert head is not None
    return open_checkpoint(head.note.encode(), room.keys.log.verifier).size


class Everybody:
    """A lead that everybody holds, as when a lock was lost and nobody has noticed."""

    def __init__(self, lead: Lead) -> None:
        self._lead = lead
        self.before: Callable[[Work], None] = lambda _work: None
        """What happens between reading and writing."""

    def is_held(self) -> bool:
        """Return that it is."""
        return True

    def write(self, work: Work) -> None:
        """Let happen what happens, and write all the same."""
        self.before(work)
        self._lead.write(work)

    def close(self) -> None:
        """Give it up."""
        self._lead.close()


class ByWriter:
    """Writes through the log's writer, which any number of publishers may."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def is_held(self) -> bool:
        """Return that it is."""
        return True

    def write(self, work: Work) -> None:
        """Have the writer do it."""
        self._room.log.write(work).result()

    def close(self) -> None:
        """Do nothing."""


def another(room: Room, pace: Pace | None = None) -> tuple[Publisher, Everybody]:
    """Return a publisher that believes to lead, and what it writes through."""
    publisher = Publisher(room.log, room.keys.log, room.clock, pace)
    publisher._lead.close()
    everybody = Everybody(ByWriter(room))
    publisher._lead = everybody
    return publisher, everybody


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


@pytest.mark.parametrize("stage", [Integration, Publication])
@pytest.mark.parametrize("before", [0, 5])
def test_a_leader_that_was_frozen_before_its_write_changes_nothing(
    room: Room, stage: type, before: int
) -> None:
    """Another one publishes a longer log meanwhile: the first one's swap is refused."""
    if before:
        append(room, before)
        room.publisher.publish()
        room.publisher._lead.close()
    frozen, lead = another(room)
    other, _ = another(room)
    append(room, 3)

    def meanwhile(work: Work) -> None:
        if isinstance(work, stage):
            append(room, 300)
            other.publish()

    lead.before = meanwhile
    with pytest.raises(LogUnavailableError, match="another publisher"):
        frozen.publish()
    with room.reader() as reader:
        tree = reader.tree()
    assert tree is not None
    assert before + 303 == tree[0] == size_of_head(room)
    lead.before = lambda _work: None
    append(room, 1)
    frozen.publish()
    verified = verify_log(room.place, room.keys.log.verifier.vkey)
    for one in (frozen, other):
        one.stop()

    assert before + 304 == size_of_head(room) == verified.published


def test_integration_begun_by_one_is_finished_by_another(room: Room) -> None:
    """A leader that dies between tree and head leaves nothing to repair."""
    dying, lead = another(room, Pace(chunk=3))
    next_one, _ = another(room)
    append(room, 10)
    seen: list[Work] = []

    def die(work: Work) -> None:
        seen.append(work)
        if len(seen) > 2:
            raise LogUnavailableError("died")

    lead.before = die
    with pytest.raises(LogUnavailableError, match="died"):
        dying.publish()
    lead.before = lambda _work: None
    next_one.publish()
    verified = verify_log(room.place, room.keys.log.verifier.vkey)
    for one in (dying, next_one):
        one.stop()

    assert 10 == verified.published


@pytest.fixture
def rival(server_room: Room) -> Iterator[Publisher]:
    """Return another replica's publisher of the room's log."""
    publisher = Publisher(server_room.log, server_room.keys.log, server_room.clock)
    yield publisher
    publisher.stop()


def test_one_of_two_publishers_leads_and_the_other_follows(
    server_room: Room, rival: Publisher
) -> None:
    """Who follows publishes nothing, and knows what is published."""
    room = server_room
    append(room, 3)
    room.publisher.publish()
    append(room, 2)
    before = rival.publish()
    room.publisher.publish()
    rival.tick()

    assert before is not None
    assert 3 == before.size
    assert (True, False) == (room.publisher.is_leading, rival.is_leading)
    assert 5 == rival.published == size_of_head(room)
    assert rival.failure is None


def end_session(room: Room) -> None:
    """End the session that leads, as the server does with one it has lost."""
    assert isinstance(room.place, Postgres)
    query = (
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks"
        " WHERE locktype = 'advisory' AND granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with psycopg.connect(room.place.url, autocommit=True) as connection:
        assert [(True,)] == connection.execute(query).fetchall()


def test_the_lead_goes_on_when_its_session_ends(
    server_room: Room, rival: Publisher
) -> None:
    """Who led finds another one leading, and follows."""
    room = server_room
    append(room, 3)
    room.publisher.publish()
    end_session(room)
    append(room, 2)
    rival.publish()
    late = room.publisher.publish()

    assert late is not None
    assert 5 == size_of_head(room) == late.size
    assert (False, True) == (room.publisher.is_leading, rival.is_leading)


def test_a_session_that_ends_in_mid_integration_stores_nothing(
    server_room: Room, rival: Publisher
) -> None:
    """Who lost the lock writes in no other session."""
    room = server_room
    append(room, 3)
    room.publisher.publish()
    append(room, 2)
    write = room.publisher._lead.write

    def cut_off(work: Work) -> None:
        end_session(room)
        rival.publish()
        with pytest.raises(LogUnavailableError, match="AdminShutdown"):
            write(work)
        write(work)

    room.publisher._lead.write = cut_off  # type: ignore[method-assign] # cuts itself off
    with pytest.raises(LogUnavailableError, match="leads now"):
        room.publisher.publish()
    room.publisher._lead.write = write  # type: ignore[method-assign] # as it was
    verified = verify_log(room.place, room.keys.log.verifier.vkey)

    assert 5 == verified.published == size_of_head(room)


@contextmanager
def child_that_leads(room: Room) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that publishes the room's log, until it is frozen."""
    assert isinstance(room.place, Postgres)
    save_keys(room.keys, room.folder / "keys")
    place = (room.place.url, room.place.schema, "0.5")
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.audit.publishing_child", room.folder, *place],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.communicate()


def line_with(child: "subprocess.Popen[str]", start: str) -> str:
    """Return the first line from now on that begins so."""
    assert child.stdout is not None
    return next(line for line in child.stdout if line.startswith(start)).strip()


def test_a_leader_that_is_frozen_loses_the_lead_and_makes_no_second_history(
    server_room: Room, rival: Publisher
) -> None:
    """The server misses its sign of life; thawed, it follows."""
    room = server_room
    append(room, 3)
    with child_that_leads(room) as child:
        line_with(child, "True 3 None")
        os.kill(child.pid, signal.SIGSTOP)
        append(room, 300)
        while not rival.is_leading:
            rival.tick()
        rival.publish()
        covered = size_of_head(room)
        os.kill(child.pid, signal.SIGCONT)
        after = line_with(child, "False 303")
        append(room, 1)
        rival.publish()
        line_with(child, "False 304")
    verified = verify_log(room.place, room.keys.log.verifier.vkey)

    assert 303 == covered
    assert "False 303 None" == after
    assert 304 == verified.published
