"""Completeness: whoever holds a subject's key finds what a list leaves out."""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.completeness import Compared, Listed, check_complete, read_list, tagged
from audit.demands import Demands
from audit.fetching import fetch_from_folder
from audit.keyed import SubjectKey
from audit.keys import write_secret
from audit.mirror import mirror
from audit.objects import FolderObjects
from audit.query import AccessIndex, RecordQuery
from audit.record import Kind, Subject, read_leaf
from audit.store import LogReader
from schemas.canonical import b64url
from schemas.errors import VerificationError
from tests.audit.examples import (
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    open_room,
    some_evidence,
)
from tests.audit.test_fsck import nothing
from tests.harness.commands import errand


def events_of_many(count: int) -> list[tuple[Subject, ...]]:
    """Return whom each of many events is about, the mother now and then."""
    rng = random.Random(5)  # noqa: S311 - who is in a test's log
    others = [Subject("p", "citizen_id", f"other-{n}") for n in range(20)]
    return [
        tuple(rng.sample([MOTHER, FATHER, *others], rng.choice((0, 1, 1, 2, 3, 5))))
        for _ in range(count)
    ]


def key_of(room: Room, subject: Subject) -> bytes:
    """Return a subject's key."""
    known = room.directory.lookup(subject)
    assert known is not None
    return known.key


def fill(room: Room, count: int = 300) -> None:
    """Publish a log of many records, and export it to `served`."""
    about = events_of_many(count)
    asyncio.run(room.log.append([an_event(subjects=subjects) for subjects in about]))
    room.publisher.publish()
    with room.reader() as reader:
        mirror(reader, FolderObjects(room.folder / "served"))


@pytest.fixture
def full(either_room: Room) -> Room:
    """Return a room with a published log, on one engine after the other."""
    fill(either_room)
    return either_room


@pytest.fixture
def full_file(file_room: Room) -> Room:
    """Return a room with a published log in a file."""
    fill(file_room)
    return file_room


def pages_of(room: Room, subject: Subject, limit: int = 7) -> list[bytes]:
    """Return the gateway's answer about a subject, page by page."""
    known = room.directory.lookup(subject)
    assert known is not None
    index = AccessIndex(room.beside("index"), LogReader.open(room.place))
    pages: list[bytes] = []
    after: str | None = None
    while not pages or after is not None:
        query = RecordQuery(subject_ref=known.ref, limit=limit, after=after)
        page = index.query(query)
        rows = [row.as_json() for row in page.rows]
        pages.append(orjson.dumps({"records": rows, "next": page.next}))
        after = page.next
    index.close()
    return pages


def compared(room: Room, key: bytes, listed: Sequence[Listed]) -> Compared:
    """Compare a list with the exported copy of a log."""
    fetch = fetch_from_folder(room.folder / "served")
    demands = Demands(room.keys.log.verifier.vkey)
    return check_complete(fetch, demands, key, listed, nothing)


def test_the_gateways_list_is_complete(full: Room) -> None:
    """The mother's list names all that is about her; the father's names other ones."""
    room = full
    mother, father = (read_list(pages_of(room, who)) for who in (MOTHER, FATHER))
    whole = compared(room, key_of(room, MOTHER), mother)
    other = compared(room, key_of(room, MOTHER), father)

    assert 300 == whole.size
    assert whole.is_complete
    assert 20 < whole.about == whole.listed == len(mother)
    assert not other.is_complete
    assert {one.index for one in mother} - {one.index for one in father} == set(
        other.missing
    )
    assert {one.index for one in father} - {one.index for one in mother} == set(
        other.foreign
    )


def test_a_row_that_the_index_has_lost_is_found(full: Room) -> None:
    """One row dropped from the index: the scan names the record."""
    room = full
    before = read_list(pages_of(room, MOTHER))
    dropped = before[len(before) // 2]
    query = "DELETE FROM about WHERE seq = ?"
    assert 1 <= room.change(query, (dropped.index,), part="index")
    found = compared(room, key_of(room, MOTHER), read_list(pages_of(room, MOTHER)))

    assert not found.is_complete
    assert ([dropped.index], []) == (found.missing, found.foreign)
    assert len(before) - 1 == found.listed


def test_every_kind_of_record_about_a_person_is_found(either_room: Room) -> None:
    """An end, an auditor's question and an issued key carry the tag as well."""
    room = either_room
    begun = an_event()
    events = [
        begun if kind is Kind.REQUEST_ACCEPTED else an_event(
            kind, ends=begun.id if kind is Kind.REQUEST_ENDED else None,
            evidence=some_evidence(),
        )
        for kind in Kind
    ]  # fmt: skip
    asyncio.run(room.log.append(events))
    known = room.directory.lookup(MOTHER)
    assert known is not None
    with room.reader() as reader:
        leaves = reader.leaves(0, len(events))
    found = dict(tagged(known, ORIGIN, 0, leaves))

    assert {n: event.id for n, event in enumerate(events)} == found


def test_another_event_at_a_right_index_is_foreign(full_file: Room) -> None:
    """The list has to name the record that stands there."""
    room = full_file
    first, second, *rest = read_list(pages_of(room, MOTHER))
    wrong = [Listed(first.index, second.event), second, *rest, Listed(300, "later")]
    found = compared(room, key_of(room, MOTHER), wrong)

    assert ([], [first.index], [300]) == (
        found.missing, found.foreign, found.unpublished,
    )  # fmt: skip


def test_a_copy_that_leaves_something_out_proves_nothing(full_file: Room) -> None:
    """A bundle that was changed is named, and no list is called complete by it."""
    room = full_file
    bundle = room.folder / "served" / "tile" / "entries" / "001.p" / "44"
    content = bytearray(bundle.read_bytes())
    at = content.index(b'"tags":["') + 9
    content[at] = ord("A") if content[at] != ord("A") else ord("B")
    bundle.write_bytes(content)

    with pytest.raises(VerificationError, match="tile/0/001"):
        compared(room, key_of(room, MOTHER), read_list(pages_of(room, MOTHER)))


ONE = {"index": 1, "event": "a"}


def page(next_page: str | None, *rows: object) -> bytes:
    """Return a page of the gateway's answer."""
    return orjson.dumps({"records": rows, "next": next_page})


@pytest.mark.parametrize(
    "pages",
    [
        [b"[]"],
        [b"{"],
        [page(None, {"index": "1", "event": "a"})],
        [page(None, {"index": 1})],
        [page("1.1")],
        [page(None), page(None)],
        [page("1.1", ONE), page(None, ONE)],
    ],
)
def test_a_list_that_is_not_whole_is_refused(pages: list[bytes]) -> None:
    """A malformed page, a missing one, or an access twice."""
    with pytest.raises(VerificationError, match="list"):
        read_list(pages)


words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)


@settings(max_examples=30, deadline=None)
@given(st.lists(words, min_size=6, max_size=6), st.sampled_from([0, 1, 2, 5]))
def test_no_word_of_a_leaf_hides_its_tags(said: list[str], others: int) -> None:
    """Whatever the words are, the quick reading finds what the strict one finds."""
    names = "outcome", "requester", "provider", "evidence_type", "policy", "correlation"
    with tempfile.TemporaryDirectory() as folder:
        room = open_room(Path(folder))
        people = tuple(Subject("p", "citizen_id", f"other-{n}") for n in range(others))
        fields: dict[str, Any] = dict(zip(names, said, strict=True))
        mother = room.directory.meet([MOTHER])[0]
        subjects = (MOTHER, *people)
        event = an_event(subjects=subjects, **fields)
        leaf = room.sealer.seal(event, room.directory.meet(subjects)).leaf
        stranger = SubjectKey("", bytes(32))
        room.close()

    assert mother.tag(ORIGIN.encode(), read_leaf(leaf).salt) in read_leaf(leaf).tags
    assert [(9, event.id)] == list(tagged(mother, ORIGIN, 9, [leaf]))
    assert [] == list(tagged(stranger, ORIGIN, 9, [leaf]))


def test_the_command_says_so_with_its_status(full_file: Room, tmp_path: Path) -> None:
    """0 when the list is complete, 1 with what is missing; from files alone."""
    room = full_file
    key_file = tmp_path / "subject.key"
    write_secret(key_file, b64url(key_of(room, MOTHER)))
    pages = pages_of(room, MOTHER)
    vkey = room.keys.log.verifier.vkey
    room.close()
    options: list[str] = []
    for number, content in enumerate(pages):
        file = tmp_path / f"page-{number}.json"
        file.write_bytes(content)
        options += ["--list", str(file)]
    common = ("audit", "complete", str(tmp_path / "served"), "--vkey", vkey,
              "--subject-key", str(key_file), "--json")  # fmt: skip
    whole = errand(*common, *options)
    rows = orjson.loads(pages[-1])
    lost = rows["records"].pop()
    (tmp_path / f"page-{len(pages) - 1}.json").write_bytes(orjson.dumps(rows))
    less = errand(*common, *options)

    assert (0, True) == (whole.status, whole.json["complete"])
    assert (1, [lost["index"]]) == (less.status, less.json["missing"])
