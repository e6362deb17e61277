"""Replicas of a log under witnesses: each asks for itself, and one publishes."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from audit.publisher import Publisher
from audit.sql import Postgres
from schemas.errors import LogUnavailableError
from tests.audit.examples import Room, open_room
from tests.audit.test_cosigning import Watch, append, size_seen
from tests.audit.test_leading import end_session
from tests.harness.postgres import Databases


@pytest.fixture
def watch(server_room: Room, tmp_path: Path) -> Iterator[Watch]:
    """A log on PostgreSQL and its witnesses."""
    with ExitStack() as stack:
        yield Watch(server_room, tmp_path, stack)


@pytest.fixture
def second(server_room: Room, tmp_path: Path) -> Iterator[Room]:
    """The same log, as another replica has it open."""
    folder = tmp_path / "second"
    folder.mkdir()
    with closing(open_room(folder, server_room.keys, place=server_room.place)) as room:
        yield room


def test_who_does_not_lead_records_nothing_until_witnesses_have_told_it(
    watch: Watch, second: Room
) -> None:
    """It signs receipts, so it asks for itself; who leads goes on meanwhile."""
    leader = watch.publisher()
    append(watch.room, 3)
    leader.tick()
    follower = watch.publisher(*watch.without(0, 1, 2), room=second)
    with pytest.raises(LogUnavailableError, match="too few witnesses have told"):
        append(second, 1)
    unsure, failure = follower.unsure, follower.failure
    append(watch.room, 1)
    watch.ask_others(follower)
    follower.tick()
    append(second, 1)
    leader.tick()

    assert "too few witnesses have told" in str(unsure)
    assert (None, None, None) == (failure, follower.unsure, follower.failure)
    assert (True, False) == (leader.is_leading, follower.is_leading)
    assert 5 == size_seen(second)


def restored(watch: Watch, databases: Databases) -> Room:
    """Return a log whose database was put back, behind what its witnesses saw."""
    url, keys = databases.empty(), watch.room.keys
    name = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])

    def go_on(number: int) -> None:
        room = open_room(watch.room.folder, keys, place=Postgres(url, "log"))
        publisher = watch.publisher(room=room)
        append(room, number)
        publisher.tick()
        publisher.stop()
        room.close()

    go_on(5)
    backup = databases.server.create_database(f"{name}_backup", name)
    go_on(4)
    return open_room(watch.room.folder, keys, place=Postgres(backup, "log"))


@pytest.mark.parametrize("leads", [True, False])
def test_a_database_that_was_put_back_is_refused_by_each_replica(
    watch: Watch, databases: Databases, *, leads: bool
) -> None:
    """Behind its witnesses: nothing is recorded or signed, and nobody is to restart."""
    with closing(restored(watch, databases)) as room:
        if not leads:  # another one leads, and has not got so far
            assert room.publisher._lead.is_held()
        with capture_logs() as logged:
            publisher = watch.publisher(room=room)
            publisher.tick()
        with pytest.raises(LogUnavailableError, match="does not verify"):
            append(room, 1)
        with room.reader() as reader:
            head, size = reader.head(), reader.size()
    [told] = logged

    assert leads is publisher.is_leading
    assert "has cosigned 9 records, here are 5" in str(publisher.failure)
    assert ("log_refuses_everything", "error") == (told["event"], told["log_level"])
    assert "has cosigned 9 records, here are 5" in told["why"]
    assert told["remedy"].startswith("do not restart: put the newer data back")
    assert "errand audit recover" in told["remedy"]
    assert head is not None
    assert (5, 5, 5) == (size, head.size, publisher.published)


def unwitnessed(watch: Watch, leader: Publisher) -> None:
    """Have a leader sign a head that nobody cosigns, and let an hour pass."""
    watch.ask_others(leader, *watch.without(0, 1, 2))
    append(watch.room, 1)
    leader.tick()
    watch.room.clock.advance(timedelta(hours=1))


def test_who_lost_the_lead_hears_that_another_one_found_enough_witnesses(
    watch: Watch,
) -> None:
    """It tells of no hours without them that were none."""
    first = watch.publisher()
    unwitnessed(watch, first)
    before = first.unwitnessed_for()
    assert isinstance(watch.room.place, Postgres)
    end_session(watch.room)
    other = watch.publisher()
    first.tick()

    assert (3600, 0) == (before, first.unwitnessed_for())
    assert (False, True) == (first.is_leading, other.is_leading)
    assert 1 == first.published == size_seen(watch.room)


def test_who_does_not_lead_stops_too_when_nobody_has_cosigned_for_hours(
    watch: Watch, second: Room
) -> None:
    """What it promises is seen by no witness either; it goes on with the others."""
    leader, follower = watch.publisher(), watch.publisher(room=second)
    unwitnessed(watch, leader)
    follower.tick()
    append(second, 1)
    second.clock.advance(timedelta(hours=4, seconds=1))
    follower.tick()
    with pytest.raises(LogUnavailableError, match="too few witnesses have cosigned"):
        append(second, 1)
    for_long = follower.unwitnessed_for()
    watch.ask_others(leader)
    leader.tick()
    follower.tick()
    append(second, 1)

    assert (14_401, 0) == (for_long, follower.unwitnessed_for())
    assert not follower.is_leading


def test_heads_that_are_always_a_little_ahead_are_no_lack_of_witnesses(
    watch: Watch, second: Room
) -> None:
    """While much is recorded, who looks finds a head that is being cosigned."""
    leader, follower = watch.publisher(), watch.publisher(room=second)
    found = []
    for _ in range(3):
        append(watch.room, 1)
        leader.tick()
        unwitnessed(watch, leader)  # signed, and not cosigned yet
        follower.tick()
        second.clock.advance(timedelta(hours=1))
        found.append(follower.unwitnessed_for())
        watch.ask_others(leader)

    assert [0, 0, 0] == found
