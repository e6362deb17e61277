"""Finding records: an index that follows the log and can be thrown away.

The index is a SQLite file of its own, or a schema that replicas share, filled from
the log's records in order by whoever asks. An answer says which checkpoint stands and
how far the index and the checkpoint lag behind the log; each row names its index in
the log, so each can be proved. Whoever asks is recorded as well: `query_event` makes
that record, and the caller appends it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import datetime
from operator import itemgetter
from typing import Any, Final

import orjson

from audit.index_tables import is_of, open_index
from audit.record import (
    MAY_OPEN,
    Actor,
    Audience,
    Event,
    Kind,
    Section,
    Subject,
    milliseconds,
    read_leaf,
)
from audit.sealing import Sealer
from audit.sections import OpenedSection
from audit.sql import Place, Value
from audit.store import Described, Entry, LogReader
from schemas.canonical import Json
from schemas.errors import (
    Complaint,
    InvalidRequestError,
    NotFoundError,
    VerificationError,
)
from schemas.ids import CaseId, EventId

PAGE_LIMIT: Final = 1_000
"""Most records of one answer."""

_CHUNK = 2_000
"""Records taken in with one transaction."""

_COLUMNS = (
    "record.seq, event_id, record.t, kind, outcome, requester, provider,"
    " evidence_type, correlation, matter, case_ref, actor_ref"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordQuery:
    """Which records are wanted: all that meet every condition that is given."""

    subject_ref: str | None = None
    """The subject's reference in the directory; "" finds nobody."""
    requester: str | None = None
    provider: str | None = None
    matter: str | None = None
    case: str | None = None
    actor_ref: str | None = None
    outcome: str | None = None
    kind: Kind | None = None
    since: datetime | None = None
    """First instant that counts."""
    until: datetime | None = None
    """First instant that no longer counts."""
    limit: int = 100
    """How many records at most; up to `PAGE_LIMIT`."""
    after: str | None = None
    """The cursor of the page before; None for the first page."""


def each_alone(query: RecordQuery) -> Mapping[str, RecordQuery]:
    """Return each condition that may be mistyped as a question alone, by its name."""
    alone = {
        "requester": RecordQuery(requester=query.requester, limit=1),
        "provider": RecordQuery(provider=query.provider, limit=1),
        "matter": RecordQuery(matter=query.matter, limit=1),
        "case": RecordQuery(case=query.case, limit=1),
        "outcome": RecordQuery(outcome=query.outcome, limit=1),
    }
    return {name: one for name, one in alone.items() if getattr(query, name)}


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One record, as the index knows it."""

    index: int
    """Where it stands in the log: with this it can be proved."""
    event: EventId
    at_ms: int
    """When it happened, in milliseconds since 1970."""
    kind: str
    outcome: str
    requester: str
    provider: str
    evidence_type: str
    correlation: str
    matter: str
    case: CaseId | None
    actor_ref: str | None
    log: str
    """The shard that it stands in."""

    def as_json(self) -> Mapping[str, Json]:
        """Return the row as JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far an answer is behind what is recorded."""

    recorded: int
    """Records in the log."""
    indexed: int
    """Records the index knows: newer ones are not in the answer."""
    published: int
    """Records under the checkpoint: newer ones can't be proved yet."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records, newest first, and what the answer rests on."""

    rows: Sequence[RecordRow]
    next: str | None
    """The cursor of the next page; None when this is the last."""
    checkpoint: str | None
    """The signed note of the last checkpoint; None before the first."""
    lag: Lag
    unmatched: Sequence[str] = ()
    """Of an empty answer: the conditions that no record meets, perhaps mistyped."""


class AccessIndex:
    """Searches the log's records; belongs to one thread at a time."""

    def __init__(self, place: Place, reader: LogReader) -> None:
        """Open the index, and make it anew where it is missing or of another form.

        Args:
            place: Where it is kept. It may be deleted whenever it is not open.
            reader: A reader of the log, for this index alone, which closes it.

        Raises:
            LogUnavailableError: The server can't be reached.
        """
        self._reader = reader
        with ExitStack() as undone:
            undone.callback(reader.close)
            self._origin = reader.meta()["origin"]
            self._sql = open_index(place)
            undone.callback(self._sql.close)
            self._start_over_unless_ours()
            undone.pop_all()

    def _start_over_unless_ours(self) -> None:
        """Empty the index where the log was put back, or is another one."""
        if not is_of(self._sql, self._reader):
            with self._sql.transaction() as changes:
                changes.change("DELETE FROM record")
                changes.change("DELETE FROM about")
                changes.change("UPDATE followed SET size = 0")

    def close(self) -> None:
        """Let go of the index and of the reader."""
        self._sql.close()
        self._reader.close()

    def _indexed(self) -> int:
        """Return how many records were taken in, by whichever replica."""
        return int(self._sql.rows("SELECT size FROM followed")[0][0])

    def follow(self, limit: int = 20_000) -> int:
        """Take in new records, at most `limit`; return how many are still missing.

        Raises:
            VerificationError: A leaf is not of its form.
        """
        size, start = self._reader.size(), self._indexed()
        end = min(size, start + limit)
        while start < end:
            chunk = min(end, start + _CHUNK)
            self._take(start, self._reader.described(start, chunk))
            start = self._indexed()
        return size - start

    def _take(self, start: int, described: Sequence[Described]) -> None:
        """Store the index's rows of some records, unless another replica has."""
        rows = list(map(_row, described))
        about = [
            (ref, row[2], one.seq)
            for one, row in zip(described, rows, strict=True)
            for ref in {*one.subject_refs.split()}
        ]
        moved = "UPDATE followed SET size = ? WHERE size = ?"
        with self._sql.transaction() as changes:
            if changes.change(moved, (start + len(rows), start)) == 1:
                changes.add_all("record", rows)
                changes.add_all("about", about)

    def query(self, query: RecordQuery) -> RecordPage:
        """Return the records that are wanted, newest first.

        What was recorded before the call is taken in first, as far as that is a
        matter of moments; `lag` says what is missing.

        Raises:
            InvalidRequestError: The limit or the cursor is not of its form.
        """
        self.follow()
        statement, values = _statement(query)
        found = self._sql.rows(statement, values)
        rows = [RecordRow(*(*row, self._origin)) for row in found]
        more = len(rows) > query.limit
        rows = rows[: query.limit]
        head = self._reader.published()
        return RecordPage(
            rows=rows,
            next=f"{rows[-1].at_ms}.{rows[-1].index}" if more else None,
            checkpoint=None if head is None else head.note,
            lag=Lag(
                recorded=self._reader.size(),
                indexed=self._indexed(),
                published=0 if head is None else head.size,
            ),
        )

    def cases_about(self, subject_ref: str) -> list[CaseId]:
        """Return the cases that have a record about a subject, all of them."""
        while self.follow():
            pass
        found = self._sql.rows(
            "SELECT DISTINCT record.case_ref FROM about"
            " JOIN record ON record.seq = about.seq"
            " WHERE about.subject_ref = ? AND record.case_ref IS NOT NULL",
            (subject_ref,),
        )
        return [CaseId(case) for (case,) in found]


def row_of(entry: Entry) -> RecordRow:
    """Return a record as the index knows it.

    Raises:
        VerificationError: Its leaf is not of its form.
    """
    who = (entry.matter, entry.case_ref, entry.actor_ref, entry.subject_refs)
    described = Described(entry.seq, entry.event_id, entry.leaf, *who)
    return RecordRow(*(*_row(described), read_leaf(entry.leaf).log))


_OPEN_WORDS = itemgetter("kind", "outcome", "req", "prov", "etype", "corr")


def _row(one: Described) -> tuple[Any, ...]:
    """Return the index's row of a record.

    The whole form of the leaf is for `verify` to look at: that takes many times as
    long, for which the index would be behind.
    """
    seq, event, data, matter, case, actor, _ = one
    try:
        leaf = orjson.loads(data)
        words = _OPEN_WORDS(leaf)
        "".join(words)  # all of them are text
        at = milliseconds(datetime.fromisoformat(leaf["t"]))
    except (ValueError, TypeError, KeyError):
        raise VerificationError(f"entry {seq} is no leaf") from None
    return (seq, event, at, *words, matter, case, actor)


def _statement(query: RecordQuery) -> tuple[str, list[Value]]:
    """Return the SQL of a query: every name is ours, every value is bound."""
    if not 0 < query.limit <= PAGE_LIMIT:
        raise InvalidRequestError(
            Complaint("/limit", f"must be from 1 to {PAGE_LIMIT}")
        )
    table, tables = "record", "record"
    if query.subject_ref is not None:
        table, tables = "about", "about JOIN record ON record.seq = about.seq"
    conditions = _conditions(query, table)
    values = [value for _, value in conditions]
    texts = [text for text, _ in conditions]
    if query.after is not None:
        texts.append(f"({table}.t, {table}.seq) < (?, ?)")
        values += _cursor(query.after)
    where = f" WHERE {' AND '.join(texts)}" if texts else ""
    order = f" ORDER BY {table}.t DESC, {table}.seq DESC LIMIT ?"
    statement = f"SELECT {_COLUMNS} FROM {tables}{where}{order}"  # noqa: S608 - names of ours
    return statement, [*values, query.limit + 1]


def _conditions(query: RecordQuery, table: str) -> list[tuple[str, Value]]:
    """Return the conditions that are given, each with the value it binds."""
    since = None if query.since is None else milliseconds(query.since)
    until = None if query.until is None else milliseconds(query.until)
    possible: Sequence[tuple[str, Value]] = (
        ("about.subject_ref = ?", query.subject_ref),
        ("requester = ?", query.requester),
        ("provider = ?", query.provider),
        ("matter = ?", query.matter),
        ("case_ref = ?", query.case),
        ("actor_ref = ?", query.actor_ref),
        ("outcome = ?", query.outcome),
        ("kind = ?", query.kind),
        (f"{table}.t >= ?", since),
        (f"{table}.t < ?", until),
    )
    return [(text, value) for text, value in possible if value is not None]


def _cursor(text: str) -> tuple[int, int]:
    """Return the time and the index at which a page ended."""
    time, _, index = text.partition(".")
    if not (time.isdecimal() and index.isdecimal() and len(text) < 40):  # noqa: PLR2004 - two numbers of 64 bits
        raise InvalidRequestError(Complaint("/after", "is not a cursor of a page"))
    return int(time), int(index)


def query_event(
    event: EventId,
    at: datetime,
    auditor: Actor,
    query: RecordQuery,
    subjects: Sequence[Subject] = (),
) -> Event:
    """Return the record of somebody's look into the log.

    INVARIANT: whoever reads who asked what is recorded as well. The caller appends
    it, and shows the answer only once that has returned.

    Args:
        event: A fresh event id.
        at: When it was asked.
        auditor: Who asked.
        query: What was asked.
        subjects: Whose records were asked for, where the query is about a person.
    """
    asked = {
        field.name: value.isoformat() if isinstance(value, datetime) else value
        for field in fields(query)
        if (value := getattr(query, field.name)) is not None
    }
    return Event(
        id=event,
        at=at,
        kind=Kind.AUDIT_QUERY,
        outcome="answered",
        subjects=tuple(subjects),
        actor=auditor,
        details={"query": asked},
    )


def open_for(
    audience: Audience, reader: LogReader, sealer: Sealer, event: EventId
) -> Mapping[Section, OpenedSection]:
    """Return the sections of a record that an audience may see, each checked.

    INVARIANT: no audience sees a section that is not its own.

    Raises:
        NotFoundError: The log has no record of the event.
        VerificationError: A section is not what the leaf commits to, or can't be
            opened any more.
    """
    entry = reader.entry_of(event)
    if entry is None:
        raise NotFoundError("the log has no record of this event")
    return open_entry(audience, entry, sealer)


def open_entry(
    audience: Audience, entry: Entry, sealer: Sealer
) -> Mapping[Section, OpenedSection]:
    """Return what `open_for` does, of a record that was read already.

    Raises:
        VerificationError: As for `open_for`.
    """
    leaf = read_leaf(entry.leaf)
    return sealer.open_sections(
        entry.event_id,
        entry.subject_refs,
        entry.sealed,
        leaf.commitments,
        MAY_OPEN[audience],
    )
