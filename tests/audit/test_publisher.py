"""Publishing: what is signed was hashed again, and only one publisher wins."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from audit.merkle import tree_root, verify_consistency
from audit.note import Checkpoint, open_checkpoint
from audit.publisher import Pace, Publisher
from audit.receipt import prove_consistency
from audit.sql import Value
from audit.store import LogReader, SignedHead, Work
from audit.swaps import Integration
from audit.tiles import node_reader, tiles_of_size
from schemas.errors import LogUnavailableError, NotFoundError, VerificationError
from tests.audit.examples import Room, an_event


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


def append(room: Room, count: int) -> None:
    """Record some events."""
    asyncio.run(room.log.append([an_event(subjects=()) for _ in range(count)]))


def head_of(room: Room) -> Checkpoint:
    """Return the checkpoint that stands."""
    with room.reader() as reader:
        head = reader.head()
    assert head is not None
    return open_checkpoint(head.note.encode(), room.keys.log.verifier)


def tamper(room: Room, statement: str, *values: Value) -> None:
    """Change what is stored behind the log's back."""
    on = "" if isinstance(room.place, Path) else " ON entry"
    room.change(f"DROP TRIGGER entry_is_never_changed{on}")
    assert room.change(statement, values) > 0


def test_nothing_is_published_of_nothing(room: Room) -> None:
    """Without records there is no checkpoint."""
    assert room.publisher.publish() is None


def test_a_checkpoint_covers_what_is_recorded(room: Room) -> None:
    """Each round signs the size and the root of what there is by then."""
    for total, count in ((3, 3), (300, 297), (301, 1)):
        append(room, count)
        room.publisher.publish()
        checkpoint = head_of(room)
        with room.reader() as reader:
            root = tree_root(node_reader(reader.tile), total)
            tiles = reader.tile_ids()

        assert (total, root) == (checkpoint.size, checkpoint.root)
        assert sorted(tile for tile, _ in tiles_of_size(total)) == tiles


def test_a_round_asks_once_what_outsiders_see(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows what it has shown itself: each question costs a server's answer."""
    asked: list[int] = []
    published = LogReader.published

    def counting(reader: LogReader) -> SignedHead | None:
        asked.append(room.log.size)
        return published(reader)

    monkeypatch.setattr(LogReader, "published", counting)
    shown: list[tuple[SignedHead | None, int]] = []
    for _ in range(2):
        append(room, 3)
        shown.append((room.publisher.publish(), room.publisher.published))
    with room.reader() as reader:
        stands = published(reader)

    assert [3, 6] == asked
    assert [3, 6] == [size for _, size in shown]
    assert stands == shown[-1][0]


def test_successive_checkpoints_are_consistent(room: Room) -> None:
    """Any earlier checkpoint is proved to be the beginning of the last one."""
    heads: list[Checkpoint] = []
    for count in (1, 6, 249, 1, 30):
        append(room, count)
        room.publisher.publish()
        heads.append(head_of(room))
    last = heads[-1]
    with room.reader() as reader:
        for head in heads:
            proof = prove_consistency(reader, head.size, last.size)

            verify_consistency(head.size, last.size, proof.hashes, head.root, last.root)
        with pytest.raises(NotFoundError):
            prove_consistency(reader, 0, last.size)
        with pytest.raises(NotFoundError):
            prove_consistency(reader, 1, last.size + 1)


def test_an_unchanged_checkpoint_is_confirmed_when_it_is_old(room: Room) -> None:
    """While nothing is recorded the head is signed again, but seldom."""
    append(room, 1)
    first = room.publisher.publish()
    second = room.publisher.publish()
    room.clock.advance(timedelta(minutes=10))
    third = room.publisher.publish()
    assert first is not None
    assert third is not None

    assert first == second
    assert first.note == third.note
    assert first.signed_ms + 600_000 == third.signed_ms


def test_integration_in_small_steps_gives_the_same_tree(room: Room) -> None:
    """The size of a step changes nothing."""
    append(room, 400)
    small = Publisher(room.log, room.keys.log, room.clock, Pace(chunk=7))
    small.publish()
    small.stop()
    with room.reader() as reader:
        root = tree_root(node_reader(reader.tile), 400)

    assert root == head_of(room).root


@pytest.mark.parametrize(
    ("statement", "value", "named"),
    [
        ("UPDATE entry SET leaf_hash = ? WHERE seq = 6", bytes(32), "entry 6"),
        ("UPDATE entry SET leaf = ? WHERE seq = 7", b"{}", "entry 7"),
        ("UPDATE entry SET seq = ? WHERE seq = 8", 99, "entry 8"),
        ("UPDATE tile SET hashes = ?", bytes(160), "size 5"),
        ("UPDATE tree SET root = ?", bytes(32), "size 5"),
    ],
)
def test_what_does_not_verify_is_never_signed(
    room: Room, statement: str, value: Value, named: str
) -> None:
    """A flipped record, tile or root stops publishing and recording alike."""
    append(room, 5)
    room.publisher.publish()
    before = head_of(room)
    append(room, 4)
    tamper(room, statement, value)
    room.publisher.tick()

    assert before == head_of(room)
    assert named in str(room.publisher.failure)
    with pytest.raises(LogUnavailableError, match="does not verify"):
        append(room, 1)


def test_what_was_stored_otherwise_than_meant_is_never_signed(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that keeps another tile than was written is found before signing."""
    append(room, 5)
    write = room.publisher._lead.write

    def flip(work: Work) -> None:
        write(work)
        if isinstance(work, Integration):
            assert room.change("UPDATE tile SET hashes = ?", (bytes(160),)) == 1

    monkeypatch.setattr(room.publisher._lead, "write", flip)
    room.publisher.tick()
    with room.reader() as reader:
        head = reader.head()

    assert head is None
    assert "size 5" in str(room.publisher.failure)


def test_a_checkpoint_that_the_tree_does_not_continue_stops_the_log(
    room: Room,
) -> None:
    """A head that was signed over another history is never overwritten."""
    append(room, 5)
    room.publisher.publish()
    other = Checkpoint(room.log.origin, 4, bytes(32))
    note = room.keys.log.sign(other.text)
    room.change("UPDATE checkpoint SET size = 4, note = ?", (note,))

    with pytest.raises(VerificationError, match="size 4"):
        room.publisher.publish()


def test_of_two_publishers_one_wins(room: Room) -> None:
    """The second finds the checkpoint moved, and leaves it as it is."""
    append(room, 2)
    first = room.publisher.publish()
    late = Publisher(room.log, room.keys.log, room.clock)
    append(room, 1)
    winner = room.publisher.publish()
    with pytest.raises(LogUnavailableError, match="another publisher"):
        late._sign(first, Checkpoint(room.log.origin, 3, bytes(32)))
    with pytest.raises(LogUnavailableError, match="another publisher"):
        late._sign(None, Checkpoint(room.log.origin, 3, bytes(32)))
    late.stop()
    with room.reader() as reader:
        stands: SignedHead | None = reader.head()

    assert winner == stands


class FailingPublisher(Publisher):
    """Can't publish."""

    @override
    def publish(self) -> SignedHead:
        raise LogUnavailableError("another publisher leads now")


def test_why_nothing_is_published_is_told(room: Room) -> None:
    """Not only of what kind it is: whoever reads it has to do something."""
    failing = FailingPublisher(room.log, room.keys.log, room.clock)
    failing.tick()
    failing.stop()

    assert "another publisher leads now" == failing.failure


def test_publishing_that_lags_too_far_stops_recording(room: Room) -> None:
    """Beyond the bound nothing more is recorded, until publishing has caught up."""
    pace = Pace(unpublished=3, stale_s=60)
    slow = Publisher(room.log, room.keys.log, room.clock, pace)
    append(room, 5)
    room.log.hold(slow._lag())
    with pytest.raises(LogUnavailableError, match="not published"):
        append(room, 1)
    slow.tick()
    append(room, 1)
    slow._lag()
    room.clock.advance(timedelta(seconds=61))
    room.log.hold(slow._lag())
    with pytest.raises(LogUnavailableError, match="not published"):
        append(room, 1)
    slow.tick()
    append(room, 1)

    assert slow.failure is None
    assert 7 == room.log.size
    slow.stop()


def test_the_publisher_publishes_by_itself_and_when_it_stops(room: Room) -> None:
    """Stopping leaves nothing unpublished."""
    publisher = Publisher(room.log, room.keys.log, room.clock, Pace(interval_s=0.001))
    publisher.start()
    append(room, 10)
    publisher.stop()

    assert 10 == head_of(room).size


def test_a_signer_of_another_log_is_refused(room: Room) -> None:
    """The key's name is the log's origin."""
    with pytest.raises(ValueError, match="origin"):
        Publisher(room.log, room.keys.receipt, room.clock)


@given(st.floats(0, 60), st.floats(0.001, 60))
def test_a_round_counts_twice_in_the_pace(took: float, interval: float) -> None:
    """What came when a round had begun is published an interval later, if it can be."""
    pause = Pace(interval_s=interval).pause(took)

    assert interval / 10 <= pause <= interval
    if took <= interval * 0.45:
        assert took + pause + took == pytest.approx(interval)


@given(st.floats(0, 0.8), st.floats(0, 10), st.floats(0.1, 10))
def test_rounds_get_shorter_until_the_lag_is_an_interval(
    share: float, took: float, interval: float
) -> None:
    """However long the first round took, while rounds need that share of the time."""
    pace = Pace(interval_s=interval)
    lag = 2 * took
    for _ in range(60):
        before, pause = took, pace.pause(took)
        took = share * (before + pause)
        lag = before + pause + took

    assert lag <= interval * 1.01
