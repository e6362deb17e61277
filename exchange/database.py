"""The tables of the gateway: one writer with group commit, readers beside it.

Whoever wants to change something hands a function to `Database.write`. One thread
owns the writing connection; whatever was handed in while a commit was under way
goes into the next one (natural batching, no linger). Where one of them fails, all are
run again, each inside a savepoint of its own, so that it takes nothing else with it.

INVARIANT: no database transaction is open while a department is asked (rule 9):
a transaction lives only inside a plain function that runs in a thread here, and a
plain function cannot await an answer. `open_transactions` lets a test look.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import sqlalchemy
import structlog
from sqlalchemy import (
    select,
)
from sqlalchemy.exc import DBAPIError

from exchange.committing import Committer, Done, Job, Transaction, plain
from exchange.connecting import (
    Kind,
    engine_failures,
    for_caller,
    is_gone,
    kind_of,
    lost_a_race,
    open_engine,
    see_there_is_room,
    unavailable,
)
from schemas.errors import StoreUnavailableError

T = TypeVar("T")
Connection: TypeAlias = sqlalchemy.Connection
"""What a transaction gets: so that who only hands it on need not know SQL."""

_MOST_QUEUED = 4_096
"""How many functions may wait for the writer, and how many for the readers."""
_MOST_IN_A_BATCH = 512
"""How many functions share one commit at most."""
_READERS = 4
_MOST_TRIES = 3
"""How often a function is run that lost against another replica's transaction."""
_DOWN_S = 0.5
"""How long point reads are refused at once after the engine could not be reached."""
_TRY_AGAIN_S = 1.0
"""How long after a write that failed it is tried whether writing works again."""
_IDLE_S = 10.0
"""After how long without a write it is tried whether one would work."""

_ONE = select(1)

_log = structlog.get_logger(__name__)


class Database:
    """The gateway's tables in one database; safe to use from any thread.

    Args:
        url: An SQLAlchemy URL: `sqlite:///FILE` or `postgresql://...`.
        most_queued: How many writes, and how many reads, may wait.
        readers: How many reads run at once.

    Raises:
        SettingsError: The URL names no database that the gateway can keep.
    """

    def __init__(
        self,
        url: str,
        *,
        most_queued: int = _MOST_QUEUED,
        readers: int = _READERS,
    ) -> None:
        self._writers = open_engine(url, Kind(read_only=False), connections=2)
        readable = Kind(read_only=True)
        self._readers = open_engine(url, readable, connections=readers + 1)
        self._most_queued = most_queued
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._reading = 0
        self._point_lock = threading.Lock()
        self._point: Connection | None = None
        self._down_until = 0.0
        self._unwritable: StoreUnavailableError | None = None
        """Why nothing can be written, as far as the writer knows: it alone sets it."""
        self._try_at = 0.0
        self._open_lock = threading.Lock()
        self._open = 0
        self._closed = False
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="errand-read")
        # A daemon: a program that ends in an error without `close` ends all the same.
        self._writer = threading.Thread(
            target=self._write_batches, name="errand-write", daemon=True
        )
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def dialect(self) -> str:
        """The engine's name: `sqlite` or `postgresql`."""
        return self._writers.dialect.name

    @property
    def waiting(self) -> int:
        """How many functions wait for the writer."""
        return self._jobs.qsize()

    @property
    def open_transactions(self) -> int:
        """How many transactions are open at this instant, reading ones included."""
        return self._open

    async def write(self, work: Transaction[T]) -> T:
        """Run `work` in a transaction; return its result once that is durable.

        A caller that is cancelled meanwhile doesn't cancel the commit. What `work`
        raises rolls back what `work` did, and only that. Where another one of its
        batch raised, the transaction lost against another replica's, or its connection
        was lost before the commit, `work` is run again: it must change nothing else.

        Raises:
            StoreUnavailableError: Too much waits already, or the tables can't be
                written: nothing was stored, unless the connection was lost in the
                commit itself and the engine can't be reached to see what came of it.
        """
        return await self._enqueue(work, in_transaction=True)

    async def maintain(self, work: Transaction[T]) -> T:
        """Run `work` on the writer's thread outside any transaction.

        For what engines refuse inside one, such as `truncate_journal`. Each statement
        commits by itself.

        Raises:
            StoreUnavailableError: As for `write`.
        """
        return await self._enqueue(work, in_transaction=False)

    async def read(self, work: Transaction[T]) -> T:
        """Run `work` on one snapshot in a thread, without the right to write.

        Raises:
            StoreUnavailableError: Too much waits already, or the tables can't be read.
        """
        self._refuse_when(full=self._reading >= self._most_queued)
        self._reading += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._read, work)
        finally:
            self._reading -= 1

    def read_now(self, work: Transaction[T]) -> T:
        """Run a point read on the caller's own thread: for the hot path only.

        It sees every write that was acknowledged before. `work` must be a matter of
        microseconds, and must read its result to the end. While the engine can't be
        reached it is refused at once, so that the caller's thread is not held up by
        one attempt to connect after another.

        Raises:
            StoreUnavailableError: The tables can't be read.
        """
        self._refuse_when(full=False)
        if time.monotonic() < self._down_until:
            raise StoreUnavailableError("the tables can't be read or written now")
        with self._point_lock, self._counted(), engine_failures():
            try:
                return self._read_point(work)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            # The engine was started again since: a read can be repeated.
            try:
                return self._read_point(work)
            except DBAPIError:
                self._down_until = time.monotonic() + _DOWN_S
                raise

    def check(self) -> None:
        """Read something, and tell whether writing works.

        That is what came of the last write; the writer makes one by itself when there
        was none for a while, and soon after one that failed.

        Raises:
            StoreUnavailableError: The tables can't be read, or can't be written.
        """
        self.read_now(lambda connection: connection.scalar(_ONE))
        why = self._unwritable
        if why is not None:
            raise StoreUnavailableError(str(why))

    def close(self) -> None:
        """Commit what waits, then let go of the database; later calls are refused."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._writer.join()
        self._pool.shutdown(wait=True)
        with self._point_lock:
            if self._point is not None:
                self._point.close()
        self._writers.dispose()
        self._readers.dispose()

    async def _enqueue(self, work: Transaction[T], *, in_transaction: bool) -> T:
        self._refuse_when(full=self._jobs.qsize() >= self._most_queued)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(Job(work, in_transaction, future, loop))
        return await future

    def _refuse_when(self, *, full: bool) -> None:
        if self._closed:
            raise StoreUnavailableError("the database is closed")
        if full:
            raise StoreUnavailableError("too much waits for the database; ask later")

    def _read_point(self, work: Transaction[T]) -> T:
        if self._point is None or is_gone(self._point):
            self._point = self._readers.connect()
        return _run_read(self._point, work)

    def _read(self, work: Transaction[T]) -> T:
        with self._counted(), engine_failures():
            try:
                return self._read_once(work)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            # As above; the pool has let go of all that was connected before.
            return self._read_once(work)

    def _read_once(self, work: Transaction[T]) -> T:
        with self._readers.connect() as connection:
            return _run_read(connection, work)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a transaction while it is open."""
        with self._open_lock:
            self._open += 1
        try:
            yield
        finally:
            with self._open_lock:
                self._open -= 1

    # The writer's own thread, from here on.

    def _write_batches(self) -> None:
        """Commit batch after batch until told to end."""
        writing = Committer(self._writers)
        while (batch := self._next_batch()) is not None:
            if batch:
                _hand_back(self._commit(writing, batch))
            if not batch or self._is_doubted():
                self._try_out(writing)
        writing.close()

    def _commit(self, writing: Committer, batch: list[Job]) -> list[Done]:
        """Commit a batch; return what goes back to whom, and remember a failure."""
        try:
            with self._counted():
                done = writing.commit([j for j in batch if j.in_transaction])
        except Exception as error:  # noqa: BLE001 - each caller gets it
            # Whatever fails outside a job is the engine: nobody may be told that
            # a job of this batch was stored.
            failure = unavailable(error)
            self._note(failure)
            return [Done(j, error=failure) for j in batch]
        final = [one for one in done if not self._goes_again(one)]
        failures = [
            e.error for e in final if isinstance(e.error, StoreUnavailableError)
        ]
        if failures and len(failures) == len(done):
            self._note(failures[0])
        return final + [self._maintain(j) for j in batch if not j.in_transaction]

    def _is_doubted(self) -> bool:
        """Tell whether it is time to try again after a failure."""
        return self._unwritable is not None and time.monotonic() >= self._try_at

    def _try_out(self, writing: Committer) -> None:
        """Write something, and remember whether that worked."""
        try:
            with self._counted():
                writing.try_out()
            if self._unwritable is not None:
                see_there_is_room(self._writers)
        except Exception as error:  # noqa: BLE001 - whoever asks for `check` gets it
            self._note(unavailable(error))
        else:
            self._note(None)

    def _note(self, failure: StoreUnavailableError | None) -> None:
        """Remember whether writing works, and say so when that has changed."""
        self._try_at = time.monotonic() + _TRY_AGAIN_S
        before, self._unwritable = self._unwritable, failure
        if failure is not None and before is None:
            _log.warning("writes_failing", error=kind_of(failure.__cause__ or failure))
        elif failure is None and before is not None:
            _log.warning("writes_work_again")

    def _goes_again(self, done: Done) -> bool:
        """Put a job that lost against another transaction back into the queue."""
        again = (
            done.error is not None
            and lost_a_race(done.error)
            and done.job.tries < _MOST_TRIES
        )
        if again:
            self._jobs.put(replace(done.job, tries=done.job.tries + 1))
        return again

    def _maintain(self, job: Job) -> Done:
        try:
            with self._writers.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                return Done(job, plain(job.work(connection)))
        except Exception as error:  # noqa: BLE001 - its caller gets it
            return Done(job, error=for_caller(error))

    def _next_batch(self) -> list[Job] | None:
        """Wait for one job and take what else is there; None means the end.

        An empty batch is told when none came for so long that it is time to see
        whether writing works.
        """
        waiting_s = _IDLE_S if self._unwritable is None else _TRY_AGAIN_S
        try:
            first = self._jobs.get(timeout=waiting_s)
        except queue.Empty:
            return []
        if first is None:
            return None
        batch = [first]
        while len(batch) < _MOST_IN_A_BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the end, once this batch is through
                break
            batch.append(job)
        return batch


def _run_read(connection: Connection, work: Transaction[T]) -> T:
    """Run `work` on a snapshot of its own, which ends with it."""
    with connection.begin():
        return plain(work(connection))


def _hand_back(done: list[Done]) -> None:
    """Give each caller its result: one wake-up of the loop for the whole batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Done]] = {}
    for one in done:
        by_loop.setdefault(one.job.loop, []).append(one)
    for loop, results in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the loop is gone, and with it whoever waited
            _log.warning("commit_outlived_callers", jobs=len(results))


def _resolve(results: list[Done]) -> None:
    for one in results:
        future = one.job.future
        if future.done():  # cancelled: the commit stands all the same
            continue
        if one.error is None:
            future.set_result(one.result)
        else:
            future.set_exception(one.error)
