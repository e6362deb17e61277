"""The log's writer: an append returns once its records are durable and numbered.

One thread owns the engine. What callers hand in while a commit is under way goes
into the next one, all together (group commit): nothing waits for company, and many
waiting callers share one flush of the disk. Sealing is done on the callers' side;
the thread stores new subjects, inserts and commits. On PostgreSQL each replica has
such a thread, so that each has at most one batch in flight.

What can go wrong, and what then:

* too much outstanding, disk nearly full, database full or locked, server away: this
  append is refused; a later one may succeed;
* an I/O error, a damaged file, a second writer on SQLite, a server that was put
  back: the log refuses everything until it is opened again. After a failed flush
  nobody knows what is on the disk, and trying again may seem to work: see audit-log
  design, 5.8;
* the caller is cancelled: its records are committed all the same.

INVARIANT: an append that returned is on the disk, at the index it returned; one
that raised was not promised to anybody.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from audit.batches import Batches
from audit.engine_sqlite import SqliteEngine
from audit.keyed import SubjectKey
from audit.note import Signer
from audit.receipt import sign_receipt
from audit.record import Event, Kind, Subject, milliseconds, read_leaf
from audit.sealing import Sealer
from audit.sql import Place
from audit.store import Appended, Engine, Entry, LogReader, Refusal, Work
from audit.subjects import SubjectDirectory
from schemas.errors import LogUnavailableError, NotFoundError, VerificationError
from schemas.ids import CaseId, EventId, NewId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the writer takes on."""

    outstanding: int = 4_096
    """Most records that may wait to be durable."""
    batch: int = 512
    """Records after which a commit takes no more callers in."""
    free_bytes: int = 16 << 20
    """Free bytes on the disk below which nothing is appended; SQLite alone."""
    wal_records: int = 4_096
    """Records after which the write-ahead file is moved into the log's file; SQLite
    alone."""
    resolve_s: float = 5.0
    """Seconds for which a batch that was cut off in its commit is looked up, until its
    callers are told that nothing is known; PostgreSQL alone."""


class AuditLog:
    """An append-only log; `append` belongs to the event loop's thread."""

    def __init__(
        self,
        place: Place,
        sealer: Sealer,
        receipts: Signer,
        limits: Limits | None = None,
    ) -> None:
        """Open the log, make it where there is none, and start its writer.

        Args:
            place: Where it is kept.
            sealer: Turns events into records; says the origin.
            receipts: Signs receipts.
            limits: How much to take on.

        Raises:
            SettingsError: What is there is another log, or the server is set to lose
                what it has confirmed.
            LogUnavailableError: The server can't be reached.
            sqlite3.Error: The file can't be opened or written.
        """
        self.place = place
        self._sealer = sealer
        self._receipts = receipts
        self._limits = limits or Limits()
        with ExitStack() as undone:
            self._engine = open_engine(place, sealer.origin, self._limits)
            undone.callback(self._engine.close)
            self._reader = LogReader.open(place)
            undone.callback(self._reader.close)
            self.is_left = self._reader.left() is not None
            """Whether the log has lost records, and another goes on in its place."""
            last = None if self.is_left else self._reader.last_leaf()
            is_ended = last is not None and last.kind is Kind.SHARD_FINAL
            self.is_sealed = self.is_left or is_ended
            """Whether nothing comes any more: a last record seals it, or it is left."""
            undone.pop_all()
        # A server may be slow to answer: no event loop waits for one.
        self._asking = (
            None
            if isinstance(place, Path)
            else ThreadPoolExecutor(1, thread_name_prefix="audit-asking")
        )
        self._batches = Batches(self._engine, sealer.directory, self._limits.batch)
        self._held: str | None = None
        self.opening: str | None = None
        """Why only the opening may record; None once that is over."""
        self._closed = False

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._sealer.origin

    @property
    def size(self) -> int:
        """How many records are durable, as far as this writer knows."""
        return self._engine.size

    @property
    def fault(self) -> str | None:
        """Why the log takes nothing until it is opened again; None when it does."""
        return self._batches.fault

    @property
    def refusal(self) -> str | None:
        """Why an append would be refused before anything is done, whatever it holds.

        None where the next one is tried: whether it can be stored shows then.
        """
        return self._batches.fault or self._held or self.opening

    async def append(self, events: Sequence[Event]) -> list[Appended]:
        """Record events, in this order, and return once all of them are durable.

        An event whose id is in the log already is not recorded again; what stands
        there is returned.

        (1) Refuse before anything is done, when the log can't take more.
        (2) Make new subjects known, durably.
        (3) Seal the records.
        (4) Hand them to the writer, and wait.

        Raises:
            LogUnavailableError: They are not known to be durable. Nothing may be
                asked or released on the strength of them.
            ValueError: An event is too large, or not of its form.
        """
        return await self._append(events, opening=False)

    async def append_first(self, events: Sequence[Event]) -> list[Appended]:
        """Record events of the opening, as `append` does; see `open_later`."""
        return await self._append(events, opening=True)

    async def _append(
        self, events: Sequence[Event], *, opening: bool
    ) -> list[Appended]:
        if not events:
            return []
        # (1): before a department is asked, not after.
        self._admit(len(events), opening=opening)
        try:
            # (2): the key behind a tag is durable before the tag is.
            people = await self._people(events)
            # (3): on this side, so that the writer's thread only stores.
            records = self._sealer.seal_all(events, people)
        except BaseException:
            self._batches.outstanding -= len(events)
            raise
        # INVARIANT: nothing comes after the last record, whatever is under way.
        is_last = events[-1].kind is Kind.SHARD_FINAL
        self.is_sealed = self.is_sealed or is_last
        try:
            # (4): a caller that is cancelled from here on cancels no commit.
            return await self._batches.append(records)
        except LogUnavailableError:
            # As far as is known: a seal that was stored is found when it is opened.
            self.is_sealed = self.is_sealed and not is_last
            raise

    def _admit(self, count: int, *, opening: bool) -> None:
        """Count records in, or refuse them."""
        waits = None if opening else self.opening
        reason = self._batches.fault or self._held or waits
        if self._closed:
            reason = "the log is closed"
        elif self.is_sealed:
            reason = "the log is a sealed shard"
        elif self._batches.outstanding + count > self._limits.outstanding:
            reason = "too many records wait to be written"
        if reason is not None:
            raise LogUnavailableError(reason)
        self._batches.outstanding += count

    async def _people(self, events: Sequence[Event]) -> list[list[SubjectKey]]:
        """Return the subjects of each event; those who are new are made known."""
        directory = self._sealer.directory
        at_hand = directory.at_hand
        # The events of one case share their subjects: these are looked up once.
        about = {id(event.subjects): event.subjects for event in events}
        found: dict[int, SubjectKey] = {}
        new: dict[int, Subject] = {}
        try:
            for subjects in about.values():
                for subject in subjects:
                    key = at_hand(subject)
                    if key is None:
                        new[id(subject)] = subject
                    else:
                        found[id(subject)] = key
        except sqlite3.Error:
            raise LogUnavailableError("the subject directory can't be read") from None
        if new:
            keys = await self._batches.meet(tuple(new.values()))
            for (same, subject), key in zip(new.items(), keys, strict=True):
                found[same] = key
                directory.remember(subject, key)
        known = {
            same: [found[id(subject)] for subject in subjects]
            for same, subjects in about.items()
        }
        return [known[id(event.subjects)] for event in events]

    def open_later(self, reason: str | None) -> None:
        """Take what `append_first` is given and nothing else; None ends that."""
        self.opening = reason

    def hold(self, reason: str | None) -> None:
        """Refuse appends for a reason that may pass; None takes it back."""
        self._held = reason

    def refuse(self, reason: str, *, is_behind: bool = False) -> None:
        """Refuse everything until the log is opened again, after human eyes.

        Args:
            reason: Why.
            is_behind: Whether the log lacks what it has signed or promised.
        """
        self._batches.refuse(Refusal(reason, reason, is_behind=is_behind))

    def write(self, work: Work) -> Future[None]:
        """Have the writer do something in a transaction of its own.

        The future fails with what `work` raised, or LogUnavailableError.
        """
        return self._batches.write(work)

    async def open_attempts(self, case: CaseId) -> list[EventId]:
        """Return the look-ups of a case that were accepted and have not ended.

        After a crash each of them needs a `request.ended`: the department may have
        been asked.

        Raises:
            LogUnavailableError: The log can't be read.
        """
        return await self._ask(lambda reader: sorted(reader.attempts(case)))

    async def interrupted(
        self, case: CaseId, new_id: NewId, now: datetime
    ) -> list[Event]:
        """Return the ends of a case's look-ups that nobody waits for any more.

        Raises:
            LogUnavailableError: The log, or the subject directory, can't be read.
        """
        begun = await self._ask(lambda reader: unended(reader, case))
        try:
            return ends_of(begun, self._sealer.directory, new_id, now)
        except sqlite3.Error:
            raise LogUnavailableError("the subject directory can't be read") from None

    async def find(self, event: EventId) -> Appended | None:
        """Return the durable record of an event; None when there is none."""
        entry = await self._ask(lambda reader: reader.entry_of(event))
        if entry is None:
            return None
        at = read_leaf(entry.leaf).at
        return Appended(event, entry.seq, entry.leaf_hash, milliseconds(at))

    async def receipt(self, event: EventId) -> str:
        """Return the signed receipt of a durable record.

        Raises:
            NotFoundError: The log has no record of the event.
        """
        appended = await self.find(event)
        if appended is None:
            raise NotFoundError("the log has no record of this event")
        return self.sign(appended)

    async def _ask(self, work: Callable[[LogReader], T]) -> T:
        """Read the log: a file at once, a server beside the event loop."""
        if self._asking is None:
            return work(self._reader)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._asking, work, self._reader)

    def sign(self, appended: Appended) -> str:
        """Return the signed receipt of a record that `append` returned.

        The same record always gets the same receipt.
        """
        return sign_receipt(self._receipts, appended)

    def close(self) -> None:
        """Write what waits, and let go of everything."""
        if not self._closed:
            self._closed = True
            self._batches.close()
            if self._asking is not None:
                self._asking.shutdown()
            self._reader.close()
            self._engine.close()


def interrupted(
    reader: LogReader, directory: SubjectDirectory, new_id: NewId, now: datetime
) -> list[Event]:
    """Return the ends of all look-ups that have not ended, as a log's last events.

    Whoever was asked and answers later is answered by nobody: without a record of the
    release no evidence leaves, and this log takes no more records.
    """
    return ends_of(unended(reader), directory, new_id, now)


def unended(reader: LogReader, case: CaseId | None = None) -> list[Entry]:
    """Return the records of look-ups that have not ended, of one case or of all."""
    found = [reader.entry_of(event) for event in sorted(reader.attempts(case))]
    entries = [entry for entry in found if entry is not None]
    if len(entries) != len(found):
        raise VerificationError("a look-up that has not ended is not in the log")
    return entries


def ends_of(
    begun: Iterable[Entry], directory: SubjectDirectory, new_id: NewId, now: datetime
) -> list[Event]:
    """Return the ends of look-ups, about the same people as far as none was erased.

    So whoever finds in a list that they were asked about finds there how it ended.
    """
    return [_end(entry, directory, EventId(new_id()), now) for entry in begun]


def _end(
    entry: Entry, directory: SubjectDirectory, event: EventId, now: datetime
) -> Event:
    """Return the end of one look-up, about those who are not erased."""
    leaf = read_leaf(entry.leaf)
    known = [directory.identity(ref) for ref in entry.subject_refs.split()]
    return Event(
        id=event,
        at=now,
        kind=Kind.REQUEST_ENDED,
        outcome="interrupted",
        requester=leaf.requester,
        provider=leaf.provider,
        evidence_type=leaf.evidence_type,
        policy=leaf.policy,
        correlation=leaf.correlation,
        subjects=tuple(Subject("", *who) for who in known if who is not None),
        case=entry.case_ref,
        matter=entry.matter,
        ends=entry.event_id,
    )


def open_engine(place: Place, origin: str, limits: Limits) -> Engine:
    """Open what keeps the records, and make it where there is nothing yet."""
    if isinstance(place, Path):
        return SqliteEngine(
            place,
            origin,
            free_bytes=limits.free_bytes,
            wal_records=limits.wal_records,
        )
    # Only where it is used: a gateway on SQLite never loads the driver.
    from audit.engine_postgres import PostgresEngine  # noqa: PLC0415 - as said above

    return PostgresEngine(place, origin, resolve_s=limits.resolve_s)
