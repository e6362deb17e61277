"""Taking records into the tree: both engines say the same of the same records."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.merkle import leaf_hash
from audit.places import open_sql
from audit.record import Event, Kind
from audit.sql import Place
from audit.store import LogReader
from audit.taking import taking
from schemas.errors import VerificationError
from schemas.ids import CaseId, EventId
from tests.audit.examples import Room, an_event

_COUNT = 60


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


def some_events(noise: random.Random) -> list[Event]:
    """Return events of which some begin a look-up of a case, and some end one."""
    events: list[Event] = []
    for _ in range(_COUNT):
        kind = noise.choice(
            [Kind.REQUEST_ACCEPTED, Kind.REQUEST_ENDED, Kind.EVIDENCE_RELEASED]
        )
        is_end = kind is Kind.REQUEST_ENDED
        ends = noise.choice([an_event(), *events]).id if is_end else None
        # What stands in a word of a leaf is not the record's kind.
        word = noise.choice(["yunxi_portal", ',"kind":"request_accepted",'])
        of = {} if noise.random() < 0.7 else {"case": None}
        event = an_event(kind, subjects=(), ends=ends, requester=word, **of)
        events.append(event)
    return events


def expected_of(events: Sequence[Event]) -> tuple[dict[EventId, CaseId], set[EventId]]:
    """Return the look-ups that are begun and not ended, and those ended from before."""
    ended = {event.ends for event in events if event.ends is not None}
    begun = {
        event.id: event.case
        for event in events
        if event.kind is Kind.REQUEST_ACCEPTED and event.case and event.ends is None
    }
    left = {one: case for one, case in begun.items() if one not in ended}
    return left, ended - set(begun)


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        ("DELETE FROM entry WHERE seq IN (3, 5)", "entry 3 is missing"),
        ("DELETE FROM entry WHERE seq >= 58", "entry 58 is missing"),
        (
            "UPDATE entry SET leaf = leaf_hash WHERE seq IN (3, 5)",
            "entry 3 has",
        ),
        (
            "UPDATE entry SET leaf_hash = leaf WHERE seq IN (7, 9)",
            "entry 7 has",
        ),
    ],
)
def test_what_is_missing_or_changed_is_not_taken(
    room: Room, damage: str, first: str
) -> None:
    """The first of them is named; a part without them is taken."""
    asyncio.run(room.log.append(some_events(random.Random(7))))  # noqa: S311 - as below
    of = "" if isinstance(room.place, Path) else " ON entry"
    for rule in ("changed", "removed"):
        room.change(f"DROP TRIGGER entry_is_never_{rule}{of}")
    room.change(damage)
    with closing(LogReader(open_sql(room.place, read_only=True))) as reader:
        take = taking(room.place, reader)
        with pytest.raises(VerificationError, match=first):
            take(1, _COUNT)
        part = take(10, 40)

    assert 30 == len(part.hashes)


@given(ends=st.tuples(st.integers(0, _COUNT), st.integers(0, _COUNT)))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_part_is_taken_as_its_records_say(
    taken_from: tuple[Place, Sequence[Event]], ends: tuple[int, int]
) -> None:
    """Hashes in order, look-ups that are still under way, and earlier ones that end."""
    place, events = taken_from
    start, end = sorted(ends)
    with closing(LogReader(open_sql(place, read_only=True))) as reader:
        hashes, begun, ended = taking(place, reader)(start, end)
        leaves = reader.leaves(start, end)

    assert [leaf_hash(leaf) for leaf in leaves] == hashes
    assert expected_of(events[start:end]) == (dict(begun), set(ended))


@pytest.fixture
def taken_from(room: Room) -> tuple[Place, Sequence[Event]]:
    """Return where a log is kept, and the events that stand in it."""
    events = some_events(random.Random(7))  # noqa: S311 - which events, of a test
    asyncio.run(room.log.append(events))
    return room.place, events
