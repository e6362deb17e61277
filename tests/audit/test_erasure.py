"""Erasing a person: what is gone, what stays, what a restored backup gives back."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from audit.erasure import Erasures, Recorded, Request
from audit.keys import DirectoryKeys, make_keys
from audit.ledger import Act, Ledger, Line, What, erased_subjects
from audit.objects import FolderObjects
from audit.places import open_sql
from audit.query import AccessIndex, RecordQuery
from audit.record import Kind, Section, Subject, read_leaf
from audit.sealing import Sealer
from audit.sections import OpenedSection
from audit.shards import Shard
from audit.shelf import SealedShard, ShardFiles, Shelf
from audit.sql import Place, Postgres
from audit.store import Appended, LogReader
from audit.subjects import SubjectDirectory
from audit.verify import verify_log
from audit.writer import AuditLog, Limits
from schemas.errors import (
    LogUnavailableError,
    NotFoundError,
    StateConflictError,
    VerificationError,
)
from tests.audit.examples import (
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    an_id,
    open_room,
)

BECAUSE = Request("operator", "file-2026-118")


@pytest.fixture
def room(either_room: Room) -> Room:
    """Return a fresh log, on one engine after the other."""
    return either_room


@contextmanager
def erasing(
    room: Room, shelf: Shelf | None = None, log: AuditLog | None = None
) -> Iterator[Erasures]:
    """Open the ledger beside a log, for this log or for the one that follows it."""
    ledger = Ledger(room.beside("erasures"))
    erasures = Erasures(
        log or room.log, room.sealer, ledger, shelf or Shelf(), room.clock, an_id
    )
    try:
        yield erasures
    finally:
        erasures.close()


def ref_of(room: Room, subject: Subject) -> str:
    """Return a subject's reference."""
    known = room.directory.lookup(subject)
    assert known is not None
    return known.ref


async def brought_up(erasures: Erasures) -> int:
    """Bring all up to the ledger as a start does; return what was missing."""
    return await erasures.destroy_again() + await erasures.record_again()


def sections(room: Room, appended: Appended | Recorded) -> dict[Section, OpenedSection]:
    """Return the sections of a record in the clear."""
    with room.reader() as reader:
        entry = reader.entry_of(appended.event)
    assert entry is not None
    commitments = read_leaf(entry.leaf).commitments
    return room.sealer.open_sections(
        entry.event_id, entry.subject_refs, entry.sealed, commitments
    )


def entries(room: Room) -> list[tuple[bytes, bytes]]:
    """Return the leaves and what is sealed beside them."""
    with room.reader() as reader:
        return [(one.leaf, one.sealed) for one in reader.entries(0, reader.size())]


@pytest.mark.anyio
async def test_an_erased_person_can_not_be_read_any_more(room: Room) -> None:
    """Records about them stay closed, those about others open; leaves stay as are."""
    about = [(MOTHER,), (MOTHER, FATHER), (FATHER,), ()]
    appended = await room.log.append([an_event(subjects=one) for one in about])
    room.publisher.publish()
    before, mother = entries(room), ref_of(room, MOTHER)
    with erasing(room) as erasures:
        record = await erasures.erase(What.SUBJECT, mother, BECAUSE)
        told = await erasures.erased(ORIGIN, f"{ref_of(room, FATHER)} {mother}")
    room.publisher.publish()

    assert before == entries(room)[:4]
    for one in appended[:2]:
        with pytest.raises(VerificationError, match="gone"):
            sections(room, one)
    assert Section.SUBJECT in sections(room, appended[2])
    assert Section.MATTER in sections(room, appended[3])
    assert room.directory.lookup(MOTHER) is None
    assert room.directory.identity(mother) is None
    assert told is not None
    assert (record.event, What.SUBJECT) == (told.event, told.what)


@pytest.mark.anyio
async def test_a_log_with_erased_people_verifies(file_room: Room) -> None:
    """What the ledger beside it names may be gone, and nothing else."""
    room = file_room
    await room.log.append([an_event(subjects=one) for one in ((MOTHER,), (FATHER,))])
    with erasing(room) as erasures:
        await erasures.erase(What.SUBJECT, ref_of(room, MOTHER), BECAUSE)
    room.publisher.publish()
    room.close()
    vkey = room.keys.log.verifier.vkey
    verified = verify_log(room.path, vkey, keys=room.keys)

    assert (3, 3) == (verified.published, verified.sections_erased)
    (room.folder / "erasures.db").unlink()
    with pytest.raises(VerificationError, match="entry 0: the key of a subject"):
        verify_log(room.path, vkey, keys=room.keys)


@pytest.mark.anyio
async def test_an_erasure_is_a_record_that_stays_readable(room: Room) -> None:
    """It says what was erased, by whom and why, and carries no tag of the person."""
    await room.log.append([an_event()])
    known = room.directory.lookup(MOTHER)
    assert known is not None
    with erasing(room) as erasures:
        record = await erasures.erase(What.SUBJECT, known.ref, BECAUSE)
    with room.reader() as reader:
        entry = reader.entry_of(record.event)
    assert entry is not None
    leaf = read_leaf(entry.leaf)
    value = sections(room, record)[Section.MATTER].value

    assert (Kind.KEY_SHREDDED, "subject") == (leaf.kind, leaf.outcome)
    assert known.tag(ORIGIN.encode(), leaf.salt) not in leaf.tags
    assert isinstance(value, dict)
    assert (known.ref, BECAUSE.reason) == (value["name"], value["reason"])
    assert BECAUSE.by == leaf.requester


@contextmanager
def next_shard(room: Room, place: Place) -> Iterator[tuple[AuditLog, Shelf]]:
    """Open the shard that follows a room's, whose own is on the shelf from then on."""
    keys = make_keys(f"{ORIGIN}/2026h2")
    sealer = Sealer(keys.origin, keys.shard, room.directory)
    shard = Shard(ORIGIN, "", room.keys.log.verifier.vkey)
    public = FolderObjects(room.folder / "public")
    files = ShardFiles(shard, room.place, room.beside("index"), room.folder, public)
    shelf = Shelf(
        [SealedShard(files, room.keys.log, room.keys.receipt, room.directory)]
    )
    log = AuditLog(place, sealer, keys.receipt, Limits(free_bytes=0))
    try:
        yield log, shelf
    finally:
        log.close()
        shelf.shards[0].close()


@pytest.mark.anyio
async def test_an_erasure_before_the_last_seal_is_recorded_once(
    room: Room, a_place: Callable[[], Place]
) -> None:
    """Asked, heard and applied again in the next shard, it stays where it stands."""
    await room.log.append([an_event()])
    ref = ref_of(room, MOTHER)
    with erasing(room) as erasures:
        hold = await erasures.hold(What.SHARD, ORIGIN, BECAUSE)
        await erasures.release(hold.event, BECAUSE)
        record = await erasures.erase(What.SUBJECT, ref, BECAUSE)
    with next_shard(room, a_place()) as (log, shelf), erasing(room, shelf, log) as late:
        await late.hear()
        missing = await brought_up(late)
        again = await late.erase(What.SUBJECT, ref, BECAUSE)
        line, found = await late.found(record.event)
        with pytest.raises(NotFoundError):
            await late.found(hold.event)

        assert (0, 0) == (missing, log.size)
    assert (ORIGIN, 3) == (record.log, record.index)
    assert record == again == found
    assert (What.SUBJECT, ref) == (line.what, line.name)


@pytest.mark.anyio
async def test_who_comes_again_is_somebody_new(room: Room) -> None:
    """After an erasure the same id gets another reference and key, and old stays."""
    [old] = await room.log.append([an_event()])
    ref = ref_of(room, MOTHER)
    with erasing(room) as erasures:
        await erasures.erase(What.SUBJECT, ref, BECAUSE)
        [new] = await room.log.append([an_event()])
        again = ref_of(room, MOTHER)

        assert again != ref
        assert await erasures.erased(ORIGIN, again) is None
    assert Section.SUBJECT in sections(room, new)
    with pytest.raises(VerificationError, match="gone"):
        sections(room, old)


class Backup:
    """A copy of what a room keeps, as it was, on whichever engine."""

    def __init__(self, room: Room, folder: Path) -> None:
        """Copy the directory and the log of a room that is closed."""
        self._places = {"directory": room.beside("subjects"), "log": room.place}
        self._folder = folder
        for name, place in self._places.items():
            if isinstance(place, Path):
                shutil.copyfile(place, folder / name)
            else:
                self._move(place, "CREATE TABLE {copy} AS TABLE {table}")

    def restore(self, name: str) -> None:
        """Put the copy of one of them back."""
        place = self._places[name]
        if isinstance(place, Path):
            for file in place.parent.glob(f"{place.name}*"):
                file.unlink()
            shutil.copyfile(self._folder / name, place)
        else:
            self._move(place, "DELETE FROM {table}")
            self._move(
                place, "INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE {copy}"
            )

    def _move(self, place: Postgres, statement: str) -> None:
        """Do something with each table of a schema and its copy."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = %s"
        with psycopg.connect(place.url) as connection:
            # A restore asks no trigger.
            connection.execute("SET session_replication_role = replica")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {place.schema}_copy")
            for (table,) in connection.execute(query, (place.schema,)).fetchall():
                named = {
                    "table": sql.Identifier(place.schema, table),
                    "copy": sql.Identifier(f"{place.schema}_copy", table),
                }
                connection.execute(sql.SQL(statement).format(**named))


@pytest.mark.parametrize("restored", ["directory", "log", "both"])
def test_a_restored_backup_gives_nothing_back(
    tmp_path: Path, place: Place, restored: str
) -> None:
    """Copy away, erase, restore the copy, start: still erased, and still recorded."""
    keys = make_keys(ORIGIN)
    folder = place.parent if isinstance(place, Path) else tmp_path
    room = open_room(folder, keys, place=place)
    [old] = asyncio.run(room.log.append([an_event()]))
    ref = ref_of(room, MOTHER)
    room.close()
    backup = Backup(room, tmp_path)
    room = open_room(folder, keys, place=place)
    with erasing(room) as erasures:
        record = asyncio.run(erasures.erase(What.SUBJECT, ref, BECAUSE))
    room.close()
    for name in ("directory", "log") if restored == "both" else (restored,):
        backup.restore(name)
    room = open_room(folder, keys, place=place)
    is_back = room.directory.lookup(MOTHER) is not None
    with erasing(room) as erasures:
        missing = asyncio.run(brought_up(erasures))
        again = asyncio.run(brought_up(erasures))

    assert is_back == (restored != "log")
    assert (2 if restored == "both" else 1, 0) == (missing, again)
    assert room.directory.lookup(MOTHER) is None
    with pytest.raises(VerificationError, match="gone"):
        sections(room, old)
    assert asyncio.run(room.log.find(record.event)) is not None
    room.close()


@pytest.mark.anyio
async def test_a_crash_after_the_ledger_is_brought_to_its_end(room: Room) -> None:
    """A log that takes nothing stops an erasure half way; the next start ends it."""
    await room.log.append([an_event()])
    ref = ref_of(room, MOTHER)
    room.log.hold("the disk is nearly full")
    with erasing(room) as erasures, pytest.raises(LogUnavailableError):
        await erasures.erase(What.SUBJECT, ref, BECAUSE)
    room.log.hold(None)
    with erasing(room) as erasures:
        is_there = room.directory.lookup(MOTHER) is not None
        missing = await brought_up(erasures)

    assert is_there
    assert 2 == missing
    assert room.directory.lookup(MOTHER) is None


@pytest.mark.parametrize("seed", [6, 120])
def test_no_file_holds_what_was_erased(tmp_path: Path, seed: int) -> None:
    """No piece of key, id or reference is left, also where SQLite leaves copies.

    It does so with these seeds, when it moves rows from a page to another one.
    """
    rng = random.Random(seed)  # noqa: S311 - the order of a test
    people = [Subject("p", "citizen_id", f"990101{n:012d}") for n in range(400)]
    keys = DirectoryKeys(rng.randbytes(32), rng.randbytes(32))
    directory = SubjectDirectory(tmp_path / "subjects.db", keys, entropy=rng.randbytes)
    for start in range(0, len(people), 25):
        directory.meet(people[start : start + 25])
    kept = sqlite3.connect(tmp_path / "subjects.db")
    rows = kept.execute("SELECT ref, blind, wrapped_key, sealed_id FROM subject")
    secrets = {ref: [ref.encode(), *found] for ref, *found in rows}
    kept.close()
    erased = rng.sample(sorted(secrets), 120)
    for ref in erased:
        known = directory.by_ref(ref)
        assert known is not None
        secrets[ref].append(known.key)
        assert directory.destroy(ref)
        assert not directory.destroy(ref)
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    survivor = next(ref for ref in secrets if ref not in erased)
    pieces = [
        secret[at : at + 8]
        for ref in erased
        for secret in secrets[ref]
        for at in range(len(secret) - 7)
    ]

    assert all(secret in left for secret in secrets[survivor])
    assert {left[at : at + 8] for at in range(len(left) - 7)}.isdisjoint(pieces)
    directory.close()


@pytest.mark.anyio
async def test_memory_holds_nothing_of_an_erased_person(room: Room) -> None:
    """Neither the directory nor the sealer keeps a key that was destroyed."""
    await room.log.append([an_event(subjects=(MOTHER, FATHER))])
    mother, father = ref_of(room, MOTHER), ref_of(room, FATHER)
    with erasing(room) as erasures:
        await erasures.erase(What.SUBJECT, mother, BECAUSE)
    recent = room.directory._recent._values.values()
    wrapping = room.sealer._keys._values

    assert [father] == [known.ref for known in recent]
    assert not [refs for refs in wrapping if mother in refs]


@pytest.mark.anyio
async def test_a_hold_forbids_an_erasure_until_it_is_released(room: Room) -> None:
    """Holding and releasing are records; what is held stays readable."""
    [kept] = await room.log.append([an_event()])
    ref = ref_of(room, MOTHER)
    with erasing(room) as erasures:
        hold = await erasures.hold(What.SUBJECT, ref, BECAUSE)
        with pytest.raises(StateConflictError, match=hold.event):
            await erasures.erase(What.SUBJECT, ref, BECAUSE)

        assert [ref] == [line.name for line in await erasures.holds()]
        assert Section.SUBJECT in sections(room, kept)
        released = await erasures.release(hold.event, BECAUSE)
        with pytest.raises(NotFoundError):
            await erasures.release(hold.event, BECAUSE)
        await erasures.erase(What.SUBJECT, ref, BECAUSE)
        with pytest.raises(StateConflictError, match="erased already"):
            await erasures.hold(What.SUBJECT, ref, BECAUSE)
    index = AccessIndex(room.beside("index"), LogReader.open(room.place))
    rows = index.query(RecordQuery(kind=Kind.HOLD_CHANGED)).rows
    index.close()

    assert [(released.event, "released"), (hold.event, "held")] == [
        (row.event, row.outcome) for row in rows
    ]


acts = st.lists(
    st.tuples(
        st.sampled_from(list(Act)),
        st.sampled_from([(What.SUBJECT, "a"), (What.SUBJECT, "b"), (What.SHARD, "s")]),
    ),
    max_size=12,
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes places
)
@given(acts)
def test_what_is_held_is_never_in_an_erasure(
    a_place: Callable[[], Place], wanted: list[tuple[Act, tuple[What, str]]]
) -> None:
    """Whatever is asked in whatever order, no line erases what a hold keeps."""
    ledger = Ledger(a_place())
    holds: list[Line] = []
    for act, (what, name) in wanted:
        mine = next((one for one in holds if one.name == name), None)
        hold = mine.event if act is Act.RELEASE and mine is not None else None
        line = Line(0, act, what, name, an_id(), "client", "reason", hold)
        is_kept = any(one.what is not what or one.name == name for one in holds)
        if (act is Act.ERASE and is_kept) or (act is Act.RELEASE and mine is None):
            with pytest.raises((StateConflictError, NotFoundError)):
                ledger.add(line)
            continue
        ledger.add(line)
        if act is Act.HOLD:
            holds.append(line)
        if act is Act.RELEASE and mine is not None:
            holds.remove(mine)

    assert holds == ledger.holds()
    ledger.close()


def test_the_ledger_only_grows(place: Place) -> None:
    """No line of it can be changed or removed, and it names nobody."""
    ledger = Ledger(place)
    ledger.add(Line(0, Act.ERASE, What.SUBJECT, "ref", an_id(), "client", "reason"))
    ledger.close()

    for statement in ("UPDATE ledger SET name = ''", "DELETE FROM ledger"):
        with (
            closing(open_sql(place)) as other,
            pytest.raises((sqlite3.IntegrityError, psycopg.Error), match="only grows"),
            other.transaction() as changes,
        ):
            changes.change(statement)


def test_another_file_is_no_ledger_that_erased_nobody(
    tmp_path: Path, a_schema: Callable[[], Postgres]
) -> None:
    """Where none was made yet, nobody is erased; of another file, nothing is known."""
    other = tmp_path / "log.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE entry (seq INTEGER)")

    assert frozenset() == erased_subjects(tmp_path / "missing.db")
    assert frozenset() == erased_subjects(a_schema())
    with pytest.raises(sqlite3.OperationalError, match="no such table: ledger"):
        erased_subjects(other)


@pytest.mark.anyio
async def test_the_shard_that_is_written_to_can_not_be_erased(room: Room) -> None:
    """It has to be sealed first: without its key nothing could be recorded."""
    sealed_first = pytest.raises(StateConflictError, match="seal it first")
    with erasing(room) as erasures, sealed_first:
        await erasures.erase(What.SHARD, ORIGIN, BECAUSE)
