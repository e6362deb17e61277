"""The log's writer: an append returns once its records are durable and numbered.

One thread owns the connection. What callers hand in while a commit is under way
goes into the next one, all together (group commit): nothing waits for company, and
many waiting callers share one flush of the disk. Sealing is done on the callers'
side; the thread stores new subjects, inserts and commits.

What can go wrong, and what then:

* too much outstanding, disk nearly full, database full or locked: this append is
  refused, nothing of it is stored, a later one may succeed;
* an I/O error, a damaged file or a second writer: the log refuses everything until
  it is opened again. After a failed flush nobody knows what is on the disk, and
  trying again may seem to work: see audit-log design, 5.8;
* the caller is cancelled: its records are committed all the same.

INVARIANT: an append that returned is on the disk, at the index it returned; one
that raised was not promised to anybody.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from shutil import disk_usage
from typing import TypeAlias

import structlog

from audit.note import Signer
from audit.receipt import Receipt, sign_receipt
from audit.record import Event, Kind, Subject, milliseconds, read_leaf
from audit.sealing import SealedRecord, Sealer
from audit.store import LogReader, open_for_writing
from audit.subjects import SubjectKey
from schemas.errors import LogUnavailableError, NotFoundError
from schemas.ids import CaseId, EventId

_log = structlog.get_logger(__name__)

_INSERT_ENTRY = "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_ATTEMPT = "INSERT INTO attempt VALUES (?, ?)"
_DELETE_ATTEMPT = "DELETE FROM attempt WHERE event_id = ?"
_FIND = "SELECT seq, leaf, leaf_hash FROM entry WHERE event_id = ?"

_BATCHES_BETWEEN_CHECKS = 64
"""How many batches rest on one look at the disk's free space: in between, a full disk
is still an error of the commit."""

_REMEDY = "look at the disk, run `errand audit verify`, then restart the gateway"

_TRANSIENT = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
)
"""Primary result codes after which the file is as it was and may be tried again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the writer takes on."""

    outstanding: int = 4_096
    """Most records that may wait to be durable."""
    batch: int = 512
    """Records after which a commit takes no more callers in."""
    free_bytes: int = 16 << 20
    """Free bytes on the disk below which nothing is appended."""
    wal_records: int = 4_096
    """Records after which the write-ahead file is moved into the log's file."""


@dataclass(frozen=True, slots=True)
class Appended:
    """A record that is durable."""

    event: EventId
    index: int
    """Where it stands in the log."""
    leaf_hash: bytes
    at_ms: int
    """When it happened, in milliseconds since 1970."""


class _Waiting:
    """Results on their way back to one event loop."""

    __slots__ = ("count", "future", "loop")

    def __init__(self, count: int) -> None:
        self.count = count
        """Records that stop to be outstanding with this result."""
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Appended]] = self.loop.create_future()


@dataclass(slots=True)
class _Append:
    """Records of one caller, to be committed together."""

    records: Sequence[SealedRecord]
    waiting: _Waiting


@dataclass(slots=True)
class _Meet:
    """New subjects of one caller, to be made known."""

    subjects: Sequence[Subject]
    waiting: _Waiting


@dataclass(slots=True)
class _Call:
    """Something else to be done on the writer's connection, in a transaction."""

    work: Callable[[sqlite3.Connection], None]
    future: Future[None]


class _Stop:
    """Nothing comes after this."""


_Job: TypeAlias = _Append | _Meet | _Call | _Stop
_Result: TypeAlias = tuple[_Waiting, list[Appended] | Exception]


class AuditLog:
    """An append-only log on SQLite.

    `append` and `open_attempts` belong to the event loop's thread.
    """

    def __init__(
        self, path: Path, sealer: Sealer, receipts: Signer, limits: Limits | None = None
    ) -> None:
        """Open the log, make it where there is none, and start its writer.

        Args:
            path: The log's SQLite file.
            sealer: Turns events into records; says the origin.
            receipts: Signs receipts.
            limits: How much to take on.

        Raises:
            SettingsError: The file is another log's.
            sqlite3.Error: It can't be opened or written.
        """
        self.path = path
        self._sealer = sealer
        self._receipts = receipts
        self._limits = limits or Limits()
        self._connection = open_for_writing(path, sealer.origin)
        self._reader = LogReader.open(path)
        self._size = self._reader.size()
        self._unmoved = 0
        """Records in the write-ahead file alone, about."""
        self._unchecked = 0
        """Batches until the disk's free space is looked at again."""
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._outstanding = 0
        self._fault: str | None = None
        self._held: str | None = None
        self._closed = False
        # A process that ends without closing ends as a crash does: nothing is lost.
        self._thread = threading.Thread(
            target=self._run, name="audit-writer", daemon=True
        )
        self._thread.start()

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._sealer.origin

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._size

    @property
    def fault(self) -> str | None:
        """Why the log takes nothing until it is opened again; None when it does."""
        return self._fault

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
            ValueError: An event is too large.
        """
        if not events:
            return []
        # (1): before a department is asked, not after.
        self._admit(len(events))
        submitted = False
        try:
            # (2): the key behind a tag is durable before the tag is.
            people = self._known(events)
            if people is None:
                people = await self._introduce(events)
            # (3): on this side, so that the writer's thread only stores.
            seal = self._sealer.seal
            records = [
                seal(event, who) for event, who in zip(events, people, strict=True)
            ]
            # (4): a caller that is cancelled from here on cancels no commit.
            waiting = _Waiting(len(events))
            self._submit(_Append(records, waiting))
            submitted = True
        finally:
            if not submitted:
                self._outstanding -= len(events)
        return await waiting.future

    def _admit(self, count: int) -> None:
        """Count records in, or refuse them."""
        reason = self._fault or self._held
        if self._closed:
            reason = "the log is closed"
        elif self._outstanding + count > self._limits.outstanding:
            reason = "too many records wait to be written"
        if reason is not None:
            raise LogUnavailableError(reason)
        self._outstanding += count

    def _known(self, events: Sequence[Event]) -> list[list[SubjectKey]] | None:
        """Return the subjects of each event, or None when one is new."""
        lookup = self._sealer.directory.lookup
        # The events of one case share their subjects: each is looked up once.
        found: dict[int, SubjectKey | None] = {}
        people: list[list[SubjectKey]] = []
        try:
            for event in events:
                keys: list[SubjectKey] = []
                for subject in event.subjects:
                    same = id(subject)
                    if same not in found:
                        found[same] = lookup(subject)
                    key = found[same]
                    if key is None:
                        return None
                    keys.append(key)
                people.append(keys)
        except sqlite3.Error:
            raise LogUnavailableError("the subject directory can't be read") from None
        return people

    async def _introduce(self, events: Sequence[Event]) -> list[list[SubjectKey]]:
        """Make the subjects of events known, and return them for each event."""
        subjects = [subject for event in events for subject in event.subjects]
        waiting = _Waiting(0)
        self._submit(_Meet(subjects, waiting))
        await waiting.future
        people = self._known(events)
        if people is None:
            raise LogUnavailableError("a subject could not be made known")
        return people

    def _submit(self, job: _Job) -> None:
        """Hand a job to the writer's thread."""
        if self._closed:
            raise LogUnavailableError("the log is closed")
        self._jobs.put(job)

    def hold(self, reason: str | None) -> None:
        """Refuse appends for a reason that may pass; None takes it back."""
        self._held = reason

    def refuse(self, reason: str) -> None:
        """Refuse everything until the log is opened again, after human eyes.

        The first reason is told to the operators, once.
        """
        if self._fault is not None:
            return
        self._fault = reason
        # Nobody is left waiting for a result because standard error is gone.
        with suppress(OSError, ValueError):
            _log.error("log_refuses_everything", why=reason, remedy=_REMEDY)

    def write(self, work: Callable[[sqlite3.Connection], None]) -> Future[None]:
        """Have the writer do something in a transaction of its own.

        The future fails with what `work` raised, or LogUnavailableError.
        """
        future: Future[None] = Future()
        try:
            self._submit(_Call(work, future))
        except LogUnavailableError as error:
            future.set_exception(error)
        return future

    def open_attempts(self, case: CaseId) -> list[EventId]:
        """Return the look-ups of a case that were accepted and have not ended.

        After a crash each of them needs a `request.ended`: the department may have
        been asked.
        """
        return self._reader.open_attempts(case)

    def find(self, event: EventId) -> Appended | None:
        """Return the durable record of an event; None when there is none."""
        entry = self._reader.entry_of(event)
        if entry is None:
            return None
        at = read_leaf(entry.leaf).at
        return Appended(event, entry.seq, entry.leaf_hash, milliseconds(at))

    def receipt(self, event: EventId) -> str:
        """Return the signed receipt of a durable record.

        Raises:
            NotFoundError: The log has no record of the event.
        """
        appended = self.find(event)
        if appended is None:
            raise NotFoundError("the log has no record of this event")
        return self.sign(appended)

    def sign(self, appended: Appended) -> str:
        """Return the signed receipt of a record that `append` returned.

        The same record always gets the same receipt.
        """
        receipt = Receipt(
            appended.event, appended.index, appended.leaf_hash, appended.at_ms
        )
        return sign_receipt(self._receipts, receipt)

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        if not self._closed:
            self._closed = True
            self._jobs.put(_Stop())
            self._thread.join()
            self._reader.close()
            self._connection.close()

    # The rest runs in the writer's thread.

    def _run(self) -> None:
        """Take what waits, all of it, again and again."""
        stopped = False
        while not stopped:
            batch, stopped = self._drain()
            self._work(batch)

    def _drain(self) -> tuple[list[_Job], bool]:
        """Return what waits, at least one job, and whether to stop after it."""
        batch: list[_Job] = []
        records = 0
        while records < self._limits.batch and (not batch or self._jobs.qsize()):
            job = self._jobs.get()
            if isinstance(job, _Stop):
                return batch, True
            records += len(job.records) if isinstance(job, _Append) else 1
            batch.append(job)
        return batch, False

    def _work(self, batch: Sequence[_Job]) -> None:
        """Do a batch: subjects first, then records, then what else there is."""
        meetings = [job for job in batch if isinstance(job, _Meet)]
        appends = [job for job in batch if isinstance(job, _Append)]
        results: list[_Result] = []
        if meetings:
            results += self._meet(meetings)
        if appends:
            results += self._append(appends)
        self._deliver(results)
        for job in batch:
            if isinstance(job, _Call):
                self._call(job)
        self._move_wal()

    def _meet(self, meetings: Sequence[_Meet]) -> list[_Result]:
        """Make the new subjects of a batch known, in one commit."""
        subjects = [subject for job in meetings for subject in job.subjects]
        try:
            self._check_writable()
            self._sealer.directory.add(subjects)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting
            return self._failed(meetings, error)
        return [(job.waiting, []) for job in meetings]

    def _append(self, appends: Sequence[_Append]) -> list[_Result]:
        """Commit the records of a batch, all or none."""
        records = [record for job in appends for record in job.records]
        try:
            self._check_writable()
            places = self._commit(records)
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting
            return self._failed(appends, error)
        results: list[_Result] = []
        for job in appends:
            count = len(job.records)
            results.append((job.waiting, places[:count]))
            places = places[count:]
        return results

    def _check_writable(self) -> None:
        """Raise unless the log may be written to."""
        if self._fault is not None:
            raise LogUnavailableError(self._fault)
        if self._unchecked > 0:
            self._unchecked -= 1
        elif disk_usage(self.path.parent).free < self._limits.free_bytes:
            raise LogUnavailableError("the log's disk is nearly full")
        else:
            self._unchecked = _BATCHES_BETWEEN_CHECKS

    def _commit(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Store records in one transaction and return where they stand.

        The head moves only after the commit has returned.
        """
        begin = self._connection.execute
        begin("BEGIN IMMEDIATE")
        try:
            places = self._insert(records)
        except sqlite3.IntegrityError:
            # An event id is there already, which is rare: look each of them up.
            self._rollback()
            begin("BEGIN IMMEDIATE")
            places = self._insert_new(records)
        begin("COMMIT")
        self._unmoved += len(records)
        self._size = max(self._size, *[place.index + 1 for place in places])
        return places

    def _insert(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Insert records of which none is in the log yet."""
        numbered = list(enumerate(records, self._size))
        many = self._connection.executemany
        many(_INSERT_ENTRY, [_entry_row(seq, record) for seq, record in numbered])
        opened = [(r.event.id, r.event.case) for r in records if r.opens]
        if opened:
            many(_INSERT_ATTEMPT, opened)
        ended = [(r.event.ends,) for r in records if r.event.kind is Kind.REQUEST_ENDED]
        if ended:
            many(_DELETE_ATTEMPT, ended)
        return [
            Appended(record.event.id, seq, record.leaf_hash, record.at_ms)
            for seq, record in numbered
        ]

    def _insert_new(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Insert the records whose event is not in the log, and find the others."""
        (size,) = self._connection.execute(
            "SELECT coalesce(max(seq) + 1, 0) FROM entry"
        ).fetchone()
        if size != self._size:
            self.refuse("the log has a second writer")
            raise LogUnavailableError("the log has a second writer")
        fresh: dict[EventId, SealedRecord] = {}
        found: dict[EventId, Appended] = {}
        for record in records:
            event = record.event.id
            row = self._connection.execute(_FIND, (event,)).fetchone()
            if row is None:
                fresh.setdefault(event, record)
            else:
                at = milliseconds(read_leaf(row[1]).at)
                found[event] = Appended(event, row[0], row[2], at)
        for place in self._insert(list(fresh.values())):
            found[place.event] = place
        return [found[record.event.id] for record in records]

    def _failed(
        self, jobs: Sequence[_Append | _Meet], error: Exception
    ) -> list[_Result]:
        """Roll back, and tell each caller of a batch that nothing was promised."""
        reason = self._explain(error)
        return [(job.waiting, LogUnavailableError(reason)) for job in jobs]

    def _explain(self, error: Exception) -> str:
        """Roll back, and return what to say; refuse all else after a hard error."""
        self._rollback()
        if isinstance(error, LogUnavailableError):
            return str(error)
        code = getattr(error, "sqlite_errorcode", None)
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if code is None or code & 0xFF not in _TRANSIENT:
            self.refuse(f"the log failed with {name} and must be opened again")
        return f"the log can't be written: {name}"

    def _rollback(self) -> None:
        """Undo an open transaction; SQLite may have done so by itself."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.refuse(f"the log could not roll back: {error.sqlite_errorname}")

    def _call(self, job: _Call) -> None:
        """Do something else in a transaction of its own."""
        try:
            self._check_writable()
            self._connection.execute("BEGIN IMMEDIATE")
            job.work(self._connection)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            job.future.set_exception(LogUnavailableError(self._explain(error)))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for the work
            self._rollback()
            job.future.set_exception(error)
        else:
            job.future.set_result(None)

    def _move_wal(self) -> None:
        """Move the write-ahead file into the log's file once it is large.

        It is done here, after the callers have their results, and not by SQLite in
        the middle of a commit, where its errors would be swallowed.
        """
        if self._unmoved < self._limits.wal_records:
            return
        self._unmoved = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            self._explain(error)

    def _deliver(self, results: Sequence[_Result]) -> None:
        """Hand results to their callers: one wake-up for each event loop."""
        loops = dict.fromkeys(waiting.loop for waiting, _ in results)
        for loop in loops:
            mine = [result for result in results if result[0].loop is loop]
            try:
                loop.call_soon_threadsafe(self._settle, mine)
            except RuntimeError:
                # The loop is closed: nobody waits there any more.
                self._outstanding -= sum(waiting.count for waiting, _ in mine)

    def _settle(self, results: Sequence[_Result]) -> None:
        """Resolve what callers wait for; runs on their event loop."""
        for waiting, result in results:
            self._outstanding -= waiting.count
            future = waiting.future
            # A caller that was cancelled has gone; its records are committed.
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _entry_row(seq: int, record: SealedRecord) -> tuple[object, ...]:
    """Return a record as a row of `entry`."""
    event = record.event
    return (
        seq,
        event.id,
        record.leaf,
        record.leaf_hash,
        event.case,
        event.matter,
        record.subject_refs,
        record.actor_ref,
        event.ends,
        record.guard,
        record.sealed,
        record.sealed_guard,
    )
