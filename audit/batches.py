"""One thread that works for many callers: what waits is done together.

What callers hand in while a batch is under way goes into the next one, all of it
(natural batching): nothing waits for company, and many callers share one commit. What
they hand in during one turn of the event loop goes together as well: none of them
could hear of its result before the turn is over.

INVARIANT: whoever is cancelled cancels nothing but their own waiting.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

import structlog

from audit.keyed import SubjectKey
from audit.record import Subject
from audit.sealing import SealedRecord
from audit.store import Appended, Engine, Refusal, Work
from audit.subjects import SubjectDirectory
from schemas.errors import LogUnavailableError

_log = structlog.get_logger(__name__)

_REMEDY = "look at the disk, run `errand audit verify`, then restart the gateway"
_NEWER = (
    "do not restart: put the newer data back, or save the head that the witness (or "
    "the store) holds and give it to `errand audit recover` (docs/log.md, Shards)"
)
_PASSES = (
    "none: the gateway goes on with the next shard when that is open; if it stays "
    "shut, give `errand audit seal-shard` (or `recover`) again"
)

_ENOUGH = 64
"""Records that are worth a commit: sharing it further would save next to nothing."""


class _Job:
    """Something for the writer's thread, and where its result goes."""

    __slots__ = ("future", "loop", "records", "subjects")

    def __init__(
        self, records: Sequence[SealedRecord], subjects: Sequence[Subject]
    ) -> None:
        self.records = records
        """To be committed together; none when subjects are to be made known."""
        self.subjects = subjects
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()


@dataclass(slots=True)
class _Call:
    """Something else to be done on the writer's connection, in a transaction."""

    work: Work
    future: Future[None]


class _Stop:
    """Nothing comes after this."""


_Result: TypeAlias = tuple[_Job, Sequence[object] | Exception]


class Batches:
    """Does the work of the log's callers on one engine.

    Args:
        engine: Keeps the records; belongs to the thread from here on.
        directory: Keeps the subjects.
        most: Records after which a batch takes no more callers in.
    """

    def __init__(self, engine: Engine, directory: SubjectDirectory, most: int) -> None:
        self._engine = engine
        self._directory = directory
        self._most = most
        self._jobs: SimpleQueue[list[_Job] | _Call | _Stop] = SimpleQueue()
        self._gathered: list[_Job] = []
        """Jobs of this turn of the event loop; of its thread."""
        self._room = _ENOUGH
        """Records until they are enough."""
        self._closed = False
        self.outstanding = 0
        """Records that wait to be durable; of the event loop's thread."""
        self.fault: str | None = None
        """Why nothing is done until the log is opened again; None when it is."""
        # A process that ends without closing ends as a crash does: nothing is lost.
        self.thread = threading.Thread(
            target=self._run, name="audit-writer", daemon=True
        )
        self.thread.start()

    def append(
        self, records: Sequence[SealedRecord]
    ) -> "asyncio.Future[list[Appended]]":
        """Have records stored, together; what is awaited says where they stand.

        They were counted as outstanding by the caller; they are counted out when they
        are durable, or refused.
        """
        try:
            return self._gather(_Job(records, ())).future
        except LogUnavailableError:
            self.outstanding -= len(records)
            raise

    async def meet(self, subjects: Sequence[Subject]) -> list[SubjectKey]:
        """Have subjects made known, durably, and return their keys."""
        job = self._gather(_Job((), subjects))
        keys: list[SubjectKey] = await job.future
        return keys

    def write(self, work: Work) -> Future[None]:
        """Have something done in a transaction of its own.

        The future fails with what `work` raised, or LogUnavailableError.
        """
        call = _Call(work, Future())
        if self._closed:
            call.future.set_exception(LogUnavailableError("the log is closed"))
        else:
            self._jobs.put(call)
        return call.future

    def _gather(self, job: _Job) -> _Job:
        """Keep a job until this turn of the event loop is over."""
        if self._closed:
            raise LogUnavailableError("the log is closed")
        if self._gathered and self._gathered[0].loop is not job.loop:
            self._hand_over()  # that loop has ended in mid-turn
        if not self._gathered:
            job.loop.call_soon(self._hand_over)
        self._gathered.append(job)
        self._room -= len(job.records)
        if self._room <= 0:
            self._hand_over()  # to be stored while this turn goes on
        return job

    def _hand_over(self) -> None:
        """Hand what was gathered to the thread."""
        if self._gathered:
            self._jobs.put(self._gathered)
            self._gathered, self._room = [], _ENOUGH

    def refuse(self, refusal: Refusal) -> None:
        """Refuse everything until the log is opened again, after human eyes.

        The first reason is told to the operators, once.

        Args:
            refusal: Why, with a fault.
        """
        if self.fault is not None:
            return
        self.fault = reason = refusal.fault or refusal.reason
        # Nobody is left waiting for a result because standard error is gone.
        with suppress(OSError, ValueError):
            if refusal.is_sealed:
                # Gateways that run while a shard is sealed all come to this.
                _log.info("shard_sealed", why=reason, remedy=_PASSES)
            else:
                remedy = _NEWER if refusal.is_behind else _REMEDY
                _log.error("log_refuses_everything", why=reason, remedy=remedy)

    def close(self) -> None:
        """Do what waits, and stop."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._jobs.put(_Stop())
            self.thread.join()

    # The rest runs in the thread.

    def _run(self) -> None:
        """Take what waits, all of it, again and again."""
        stopped = False
        while not stopped:
            jobs, calls, stopped = self._drain()
            # A publisher's few rows first: they wait for no batch but the last one.
            for call in calls:
                self._call(call)
            self._work(jobs)
            try:
                self._engine.tidy()
            except Exception as error:  # noqa: BLE001 - told to the next caller
                self._explain(error)

    def _drain(self) -> tuple[list[_Job], list[_Call], bool]:
        """Return what waits, at least one job or call, and whether to stop after it."""
        jobs: list[_Job] = []
        calls: list[_Call] = []
        records = 0
        while records < self._most and (not (jobs or calls) or self._jobs.qsize()):
            taken = self._jobs.get()
            if isinstance(taken, list):
                records += sum([len(job.records) or 1 for job in taken])
                jobs += taken
            elif isinstance(taken, _Call):
                records += 1
                calls.append(taken)
            else:
                return jobs, calls, True
        return jobs, calls, False

    def _work(self, jobs: Sequence[_Job]) -> None:
        """Do a batch: subjects first, then records, each in one commit."""
        if not jobs:
            return
        results: list[_Result] = []
        meetings = [job for job in jobs if job.subjects]
        if meetings:
            subjects = [subject for job in meetings for subject in job.subjects]
            meet = self._directory.meet
            results += self._together(meetings, lambda: meet(subjects))
        appends = [job for job in jobs if job.records]
        if appends:
            records = [record for job in appends for record in job.records]
            results += self._together(appends, lambda: self._engine.append(records))
        self._deliver(results)

    def _together(
        self, jobs: Sequence[_Job], work: Callable[[], Sequence[object]]
    ) -> list[_Result]:
        """Do the work of some jobs at once, and share its results out."""
        try:
            self._check_writable()
            done = work()
        except Exception as error:  # noqa: BLE001 - nobody may be left waiting
            reason = self._explain(error)
            return [(job, LogUnavailableError(reason)) for job in jobs]
        results: list[_Result] = []
        at = 0
        for job in jobs:
            end = at + (len(job.records) or len(job.subjects))
            results.append((job, done[at:end]))
            at = end
        return results

    def _check_writable(self) -> None:
        """Raise unless the log may be written to."""
        if self.fault is not None:
            raise LogUnavailableError(self.fault)
        self._engine.check()

    def _explain(self, error: Exception) -> str:
        """Return what to say of an error; refuse all else after a hard one."""
        refusal = self._engine.explain(error)
        if refusal.fault is not None:
            self.refuse(refusal)
        return refusal.reason

    def _call(self, call: _Call) -> None:
        """Do something else in a transaction of its own."""
        try:
            self._check_writable()
            self._engine.transact(call.work)
        except (sqlite3.Error, OSError) as error:
            call.future.set_exception(LogUnavailableError(self._explain(error)))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for the work
            call.future.set_exception(error)
        else:
            call.future.set_result(None)

    def _deliver(self, results: Sequence[_Result]) -> None:
        """Hand results to their callers: one wake-up for each event loop."""
        loops = dict.fromkeys(job.loop for job, _ in results)
        for loop in loops:
            mine = [result for result in results if result[0].loop is loop]
            try:
                loop.call_soon_threadsafe(self._settle, mine)
            except RuntimeError:
                # The loop is closed: nobody waits there any more.
                self.outstanding -= sum(len(job.records) for job, _ in mine)

    def _settle(self, results: Sequence[_Result]) -> None:
        """Resolve what callers wait for; runs on their event loop."""
        for job, result in results:
            self.outstanding -= len(job.records)
            future = job.future
            # A caller that was cancelled has gone; its records are committed.
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
