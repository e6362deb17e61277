"""Queries: what they find, page by page, and that they are records themselves."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.indexing import IndexFollower
from audit.query import (
    PAGE_LIMIT,
    AccessIndex,
    RecordQuery,
    open_for,
    query_event,
)
from audit.receipt import prove_event
from audit.record import Actor, Audience, Event, Kind, Section
from audit.store import LogReader
from schemas.errors import InvalidRequestError, NotFoundError, VerificationError
from schemas.ids import CaseId
from tests.audit.examples import (
    CASE,
    FATHER,
    MOTHER,
    NOW,
    OFFICIAL,
    Room,
    an_event,
    an_id,
    open_room,
)

AUDITOR = Actor("official", "auditor-1")


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


def index_of(room: Room) -> AccessIndex:
    """Open the index of a log."""
    return AccessIndex(room.beside("index"), LogReader.open(room.place))


def append(room: Room, *events: Event) -> None:
    """Record events."""
    asyncio.run(room.log.append(events))


def all_pages(index: AccessIndex, query: RecordQuery) -> list[int]:
    """Return where all records of a query stand, page after page."""
    found: list[int] = []
    after = query.after
    while True:
        values = {name: getattr(query, name) for name in query.__slots__}
        page = index.query(RecordQuery(**{**values, "after": after}))
        found += [row.index for row in page.rows]
        if page.next is None:
            return found
        assert len(page.rows) == query.limit
        after = page.next


@pytest.mark.parametrize(
    "leaf",
    [
        *(b"{", b"[]", b"{}"),
        (
            b'{"corr":1,"etype":"","kind":"","outcome":"","prov":"","req":"",'
            b'"t":"2026-01-08T06:30:00.000Z"}'
        ),
    ],
)
def test_a_leaf_that_is_none_is_named_and_none_of_its_chunk_is_taken_in(
    leaf: bytes, file_room: Room
) -> None:
    """A damaged leaf stops the index before it; once it is put right, all follows."""
    append(file_room, an_event(), an_event())
    with file_room.reader() as reader:
        [_, whole] = reader.leaves(0, 2)
    file_room.change("DROP TRIGGER entry_is_never_changed")
    file_room.change("UPDATE entry SET leaf = ? WHERE seq = 1", (leaf,))
    index = index_of(file_room)

    with pytest.raises(VerificationError, match="entry 1 is no leaf"):
        index.follow()
    file_room.change("UPDATE entry SET leaf = ? WHERE seq = 1", (whole,))
    assert [1, 0] == all_pages(index, RecordQuery())


def test_the_index_follows_while_nobody_asks(room: Room) -> None:
    """What is recorded is taken in by a thread: no question has to do it."""
    with closing(index_of(room)) as index:
        follower = IndexFollower(room.beside("index"), room.place)
        follower.start()
        append(room, an_event(), an_event())
        follower.stop()
        left = index.follow(0)

    assert (None, 0) == (follower.failure, left)


def test_a_person_whom_a_record_names_twice_is_found_once(room: Room) -> None:
    """The index has one line for them, and does not stop at the second."""
    append(room, an_event())
    room.change("UPDATE entry SET subject_refs = subject_refs || ' ' || subject_refs")
    known = room.directory.lookup(MOTHER)
    assert known is not None
    with closing(index_of(room)) as index:
        found = all_pages(index, RecordQuery(subject_ref=known.ref))

    assert [0] == found


CONDITIONS: list[tuple[RecordQuery, list[int]]] = [
    (RecordQuery(), [5, 4, 3, 2, 1, 0]),
    (RecordQuery(requester="other_portal"), [1]),
    (RecordQuery(provider="yunxi_police"), [2]),
    (RecordQuery(matter="company@1"), [3]),
    (RecordQuery(case="another-case"), [4]),
    (RecordQuery(case=CASE, provider="yunxi_police"), [2]),
    (RecordQuery(outcome="no_grant"), [5]),
    (RecordQuery(kind=Kind.REQUEST_DENIED), [5]),
    (RecordQuery(since=NOW + timedelta(seconds=4)), [5, 4]),
    (RecordQuery(until=NOW + timedelta(seconds=2)), [1, 0]),
    (
        RecordQuery(since=NOW + timedelta(seconds=1), until=NOW + timedelta(seconds=3)),
        [2, 1],
    ),
    (RecordQuery(requester="nobody"), []),
    (RecordQuery(subject_ref=""), []),
    (RecordQuery(limit=2), [5, 4, 3, 2, 1, 0]),
]


def test_each_condition_finds_its_records(room: Room) -> None:
    """Every condition alone, and some together, newest first."""
    fields: list[dict[str, object]] = [
        {},
        {"requester": "other_portal"},
        {"provider": "yunxi_police"},
        {"matter": "company@1"},
        {"case": CaseId("another-case")},
        {"kind": Kind.REQUEST_DENIED, "outcome": "no_grant"},
    ]
    for n, given_fields in enumerate(fields):
        values = {"kind": Kind.REQUEST_ACCEPTED, **given_fields}
        append(room, an_event(**values, at=NOW + timedelta(seconds=n)))  # type: ignore[arg-type] # by name
    index = index_of(room)

    for query, expected in CONDITIONS:
        assert expected == all_pages(index, query), query
    index.close()


def test_a_persons_and_an_officials_records_are_found_by_reference(
    room: Room,
) -> None:
    """Whoever has the directory finds a person's records; the index has no id."""
    append(
        room,
        an_event(subjects=(MOTHER,)),
        an_event(subjects=(MOTHER, FATHER), actor=AUDITOR),
        an_event(subjects=()),
    )
    refs = [
        known.ref for who in (MOTHER, FATHER) if (known := room.directory.lookup(who))
    ]
    official = room.directory.actor_ref(OFFICIAL.kind, OFFICIAL.id)
    index = index_of(room)

    assert [1, 0] == all_pages(index, RecordQuery(subject_ref=refs[0], limit=1))
    assert [1] == all_pages(index, RecordQuery(subject_ref=refs[1]))
    assert [2, 0] == all_pages(index, RecordQuery(actor_ref=official))
    index.close()


@settings(max_examples=20, deadline=None)
@given(
    times=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    limit=st.integers(1, 7),
    late=st.integers(0, 3),
)
def test_pages_miss_nothing_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], limit: int, late: int
) -> None:
    """Also with many records of one instant, and records added between two pages."""
    room = open_room(tmp_path_factory.mktemp("room"))
    append(
        room,
        *(an_event(at=NOW + timedelta(seconds=t), subjects=()) for t in times),
    )
    index = index_of(room)
    first = index.query(RecordQuery(limit=limit))
    for _ in range(late):
        append(room, an_event(at=NOW + timedelta(seconds=9), subjects=()))
    rest = (
        all_pages(index, RecordQuery(limit=limit, after=first.next))
        if first.next
        else []
    )
    found = [row.index for row in first.rows] + rest

    assert set(range(len(times))) == set(found)
    assert len(found) == len(times)
    order = [(times[at], at) for at in found]
    assert all(earlier > later for earlier, later in pairwise(order))
    index.close()
    room.close()


def test_an_answer_names_its_checkpoint_and_its_lag(room: Room) -> None:
    """What is not indexed or not published yet is counted, and each row is proved."""
    append(room, an_event(), an_event())
    room.publisher.publish()
    append(room, an_event())
    index = index_of(room)
    page = index.query(RecordQuery())

    assert (3, 3, 2) == (page.lag.recorded, page.lag.indexed, page.lag.published)
    assert page.checkpoint is not None
    assert page.checkpoint.startswith(room.log.origin)
    with room.reader() as reader:
        for row in page.rows[1:]:
            proof = prove_event(reader, row.event, room.keys.log.verifier)
            assert proof is not None
            assert row.index == proof.index
    assert {"index": 2, "kind": "request.accepted"}.items() <= (
        page.rows[0].as_json().items()
    )
    index.close()


def test_a_long_way_behind_is_said_and_made_up(room: Room) -> None:
    """Following in bounded steps says how much is missing."""
    append(room, *(an_event(subjects=()) for _ in range(30)))
    index = index_of(room)

    assert [20, 10, 0, 0] == [index.follow(10) for _ in range(4)]
    index.close()


def test_the_index_can_be_thrown_away(file_room: Room) -> None:
    """Deleted, damaged or of another log: the same answers come from a new one."""
    append(file_room, *(an_event() for _ in range(5)))
    path = file_room.folder / "index.db"
    index = index_of(file_room)
    expected = index.query(RecordQuery()).rows
    index.close()

    def again() -> object:
        opened = index_of(file_room)
        rows = opened.query(RecordQuery()).rows
        opened.close()
        return rows

    path.unlink()
    assert expected == again()
    path.write_bytes(b"not a database at all" * 100)
    assert expected == again()
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE record SET event_id = 'x' WHERE seq = 4")
    other.close()
    assert expected == again()
    other = sqlite3.connect(path)
    with other:
        other.execute("UPDATE meta SET value = '0'")
    other.close()
    assert expected == again()


@pytest.mark.parametrize(
    "query",
    [
        RecordQuery(limit=0),
        RecordQuery(limit=PAGE_LIMIT + 1),
        RecordQuery(after="yesterday"),
        RecordQuery(after="1.-1"),
        RecordQuery(after="1." + "9" * 99),
    ],
)
def test_a_query_that_is_not_one_is_refused(
    file_room: Room, query: RecordQuery
) -> None:
    """Limits and cursors outside their form name their path."""
    index = index_of(file_room)
    with pytest.raises(InvalidRequestError) as refused:
        index.query(query)

    assert refused.value.complaints[0].path in {"/limit", "/after"}
    index.close()


def test_a_look_into_the_log_is_a_record(file_room: Room) -> None:
    """It says who asked what about whom, in sections, and is found by the subject."""
    query = RecordQuery(subject_ref="ref", since=NOW, limit=10, kind=Kind.KEY_CHANGED)
    event = query_event(an_id(), NOW, AUDITOR, query, (MOTHER,))
    append(file_room, event)
    with file_room.reader() as reader:
        sections = open_for(Audience.AUDITOR, reader, file_room.sealer, event.id)

    assert Kind.AUDIT_QUERY is event.kind
    assert {
        "subject_ref": "ref",
        "since": "2026-01-08T06:30:00+00:00",
        "kind": "key.changed",
        "limit": 10,
    } == sections[Section.MATTER].value["query"]  # type: ignore[call-overload, index] # a dict
    assert {"kind": "official", "id": "auditor-1"} == sections[Section.ACTOR].value


def test_no_audience_opens_a_section_of_another(
    file_room: Room, tmp_path: Path
) -> None:
    """The citizen learns why, the department what it gave, the auditor all."""
    event = an_event(evidence={"id": "digest"})
    append(file_room, event)
    with file_room.reader() as reader:
        seen = {
            audience: set(open_for(audience, reader, file_room.sealer, event.id))
            for audience in Audience
        }
        with pytest.raises(NotFoundError):
            open_for(Audience.AUDITOR, reader, file_room.sealer, an_id())

    assert {Section.SUBJECT, Section.MATTER} == seen[Audience.CITIZEN]
    assert {Section.SUBJECT, Section.EVIDENCE} == seen[Audience.PROVIDER]
    assert set(Section) == seen[Audience.AUDITOR] == seen[Audience.REQUESTER]
    assert tmp_path == file_room.folder
