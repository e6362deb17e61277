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
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import CoroutineType, TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import sqlalchemy
import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    CursorResult,
    bindparam,
    delete,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlmodel import Field, SQLModel

from exchange.connecting import (
    Kind,
    engine_failures,
    for_caller,
    is_gone,
    let_go,
    lost_a_race,
    open_engine,
    see_it_holds,
    take_warnings,
    unavailable,
)
from schemas.errors import StoreUnavailableError

T = TypeVar("T")
Connection: TypeAlias = sqlalchemy.Connection
"""What a transaction gets: so that who only hands it on need not know SQL."""
Transaction = Callable[[Connection], T]
"""Work for one transaction: it reads and writes, and neither commits nor waits."""

_MOST_QUEUED = 4_096
"""How many functions may wait for the writer, and how many for the readers."""
_MOST_IN_A_BATCH = 512
"""How many functions share one commit at most."""
_READERS = 4
_MOST_TRIES = 3
"""How often a function is run that lost against another replica's transaction."""
_RESOLVE_S = 5.0
"""How long it is looked for what became of a commit whose answer was lost."""
_RESOLVE_EVERY_S = 0.05
_DOWN_S = 0.5
"""How long point reads are refused at once after the engine could not be reached."""
_MARK_KEPT_S = 86_400
"""How long the mark of a writer that was killed stays."""

_ONE = select(1)

_log = structlog.get_logger(__name__)


class CommitRow(SQLModel, table=True):
    """The last batch that one writer committed: says what became of a lost commit.

    Used on PostgreSQL alone, where a connection can be lost while a commit is under
    way. (`pg_xact_status` would not do: after a crash an id can come again.)
    """

    __tablename__ = "commit_mark"  # type: ignore[mutable-override] # SQLModel's own way

    writer: str = Field(primary_key=True)
    batch: int = Field(sa_column=Column(BigInteger, nullable=False))
    at: int = Field(sa_column=Column(BigInteger, nullable=False))
    """When, in seconds since 1970."""


_MARK = CommitRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table


_SET_MARK = update(_MARK).where(_MARK.c.writer == bindparam("named"))


class _CommitLostError(Exception):
    """The connection was lost in a commit: what it held is stored, or is not."""

    def __init__(self, done: "list[_Done]") -> None:
        super().__init__()
        self.done = done


class _JobFailedError(Exception):
    """A job raised while the batch was run without savepoints."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class _Job:
    """A function that waits for its commit, and where its result goes."""

    work: Transaction[object]
    in_transaction: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    tries: int = 1


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of one function: a result, or the exception its caller gets."""

    job: _Job
    result: object = None
    error: BaseException | None = None


class Database:
    """The gateway's tables in one database; safe to use from any thread.

    Args:
        url: An SQLAlchemy URL: `sqlite:///FILE` or `postgresql://...`.
        most_queued: How many writes, and how many reads, may wait.
        readers: How many reads run at once.
        secure_delete: Overwrite with zeros whatever is deleted, where the engine can.

    Raises:
        SettingsError: The URL names no database that the gateway can keep.
    """

    def __init__(
        self,
        url: str,
        *,
        most_queued: int = _MOST_QUEUED,
        readers: int = _READERS,
        secure_delete: bool = False,
    ) -> None:
        kind = Kind(read_only=False, secure_delete=secure_delete)
        self._writers = open_engine(url, kind, connections=2)
        readable = Kind(read_only=True)
        self._readers = open_engine(url, readable, connections=readers + 1)
        self._most_queued = most_queued
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reading = 0
        self._point_lock = threading.Lock()
        self._point: Connection | None = None
        self._down_until = 0.0
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
        """Read something.

        Raises:
            StoreUnavailableError: The tables can't be read.
        """
        self.read_now(lambda connection: connection.scalar(_ONE))

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
        self._jobs.put(_Job(work, in_transaction, future, loop))
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
        writing = _Writing(self._writers)
        while batch := self._next_batch():
            try:
                with self._counted():
                    done = writing.commit([j for j in batch if j.in_transaction])
            except Exception as error:  # noqa: BLE001 - each caller gets it
                # Whatever fails outside a job is the engine: nobody may be told that
                # a job of this batch was stored.
                done = [_Done(j, error=unavailable(error)) for j in batch]
            else:
                done += [self._maintain(j) for j in batch if not j.in_transaction]
            _hand_back([one for one in done if not self._goes_again(one)])
        writing.close()

    def _goes_again(self, done: _Done) -> bool:
        """Put a job that lost against another transaction back into the queue."""
        again = (
            done.error is not None
            and lost_a_race(done.error)
            and done.job.tries < _MOST_TRIES
        )
        if again:
            self._jobs.put(replace(done.job, tries=done.job.tries + 1))
        return again

    def _maintain(self, job: _Job) -> _Done:
        try:
            with self._writers.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                return _Done(job, _plain(job.work(connection)))
        except Exception as error:  # noqa: BLE001 - its caller gets it
            return _Done(job, error=for_caller(error))

    def _next_batch(self) -> list[_Job]:
        """Wait for one job and take what else is there; nothing means the end."""
        first = self._jobs.get()
        if first is None:
            return []
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


_Run = Callable[[Connection, list[_Job]], list[_Done]]


class _Writing:
    """The writing connection, on the writer's own thread.

    Args:
        writers: Makes connections that write.
    """

    def __init__(self, writers: sqlalchemy.Engine) -> None:
        self._writers = writers
        self._connection: Connection | None = None
        self._mark: str | None = None
        """Under which name this connection's batches are marked; None is not."""
        self._batch = 0

    def commit(self, batch: list[_Job]) -> list[_Done]:
        """Run the jobs in one transaction, and commit once.

        (1) Connect where needed.
        (2) Run the jobs, mark the batch, and commit; where one of several raised, do
            so with a savepoint for each.
        (3) Where the connection was lost in the commit, look for the mark.
        (4) Where it was lost and nothing was stored, do it again, once.

        Raises:
            Exception: The engine's own failure: nothing was stored.
            StoreUnavailableError: It could not be seen whether anything was stored.
        """
        if not batch:
            return []
        try:
            return self._try(batch)
        except _CommitLostError as lost:
            if self._was_stored(lost):
                return lost.done
        except Exception:
            if self._connection is not None:  # (4): it was not lost
                raise
        return self._try(batch)

    def close(self) -> None:
        """Let go of the connection, and of its mark."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(DBAPIError):
            if self._mark is not None:
                connection.execute(delete(_MARK).where(_MARK.c.writer == self._mark))
                connection.commit()
            connection.close()

    def _try(self, batch: list[_Job]) -> list[_Done]:
        """(1) and (2)."""
        try:
            return self._run(batch, _run_together)
        except _JobFailedError as failed:
            if self._connection is None:
                raise failed.error from None
            if len(batch) == 1:
                return [_Done(batch[0], error=for_caller(failed.error))]
        return self._run(batch, _run_apart)

    def _run(self, batch: list[_Job], jobs_run: _Run) -> list[_Done]:
        connection = self._connected()
        ran: list[_Done] | None = None
        try:
            with connection.begin():
                done = jobs_run(connection, batch)
                self._note(connection)
                see_it_holds(connection)
                ran = done
        except Exception as error:
            if not self._is_lost(connection) or ran is None:
                raise
            raise _CommitLostError(ran) from error
        if take_warnings(connection):
            # Such as: stored here, but no standby has it (`synchronous_commit`).
            raise StoreUnavailableError("the engine did not promise to keep it")
        return done

    def _connected(self) -> Connection:
        """(1) Return the connection; a new one gets a mark where the tables have it."""
        if self._connection is not None:
            return self._connection
        connection = self._writers.connect()
        try:
            self._mark = _new_mark(connection)
        except BaseException:
            let_go(connection)
            raise
        self._batch, self._connection = 0, connection
        return connection

    def _note(self, connection: Connection) -> None:
        """Mark the batch, in its own transaction."""
        self._batch += 1
        if self._mark is not None:
            noted = {"named": self._mark, "batch": self._batch, "at": int(time.time())}
            connection.execute(_SET_MARK, noted)

    def _is_lost(self, connection: Connection) -> bool:
        """Tell whether the connection was lost, and forget it then."""
        if not is_gone(connection):
            return False
        let_go(connection)
        self._connection = None
        return True

    def _was_stored(self, lost: _CommitLostError) -> bool:
        """(3) Tell whether the batch was stored, as soon as the engine can be reached.

        INVARIANT: nobody is told that something was stored, or was not, while it may
        be otherwise. The row is written for it, so that a commit that is still under
        way is waited for, and so is the standby that a durable commit needs.
        """
        until = time.monotonic() + _RESOLVE_S
        touch = update(_MARK).where(_MARK.c.writer == self._mark)
        found = touch.values(at=int(time.time())).returning(_MARK.c.batch)
        while self._mark is not None:
            try:
                with self._writers.connect() as connection:
                    batch = connection.scalar(found)
                    connection.commit()
                    if take_warnings(connection):
                        break
                    return bool(batch == self._batch)
            except DBAPIError:
                if time.monotonic() > until:
                    break
                time.sleep(_RESOLVE_EVERY_S)
        raise StoreUnavailableError("it is not known whether it was stored") from lost


def _new_mark(connection: Connection) -> str | None:
    """Make the mark of a writing connection; None where the engine needs none."""
    if connection.dialect.name != "postgresql":
        return None
    has_marks = inspect(connection).has_table(_MARK.name)
    connection.rollback()  # looking has begun a transaction
    if not has_marks:
        return None
    name, now = secrets.token_hex(16), int(time.time())
    connection.execute(delete(_MARK).where(_MARK.c.at < now - _MARK_KEPT_S))
    connection.execute(insert(_MARK), {"writer": name, "batch": 0, "at": now})
    connection.commit()
    take_warnings(connection)  # nothing rests on this commit
    return name


def _run_together(connection: Connection, batch: list[_Job]) -> list[_Done]:
    """Run jobs as one: hardly any fails, and each savepoint would be two statements.

    Raises:
        _JobFailedError: One raised: nothing of the batch may be kept.
    """
    done: list[_Done] = []
    for job in batch:
        try:
            result = _plain(job.work(connection))
        except Exception as error:
            raise _JobFailedError(error) from error
        done.append(_Done(job, result))
    return done


def _run_apart(connection: Connection, batch: list[_Job]) -> list[_Done]:
    """Run each job inside a savepoint of its own."""
    execute = connection.connection.cursor().execute
    return [_run_one(connection, execute, job) for job in batch]


def _run_one(
    connection: Connection, execute: Callable[[str], object], job: _Job
) -> _Done:
    """Run one job; what it raises is its own, and so is what it changed.

    The savepoint's end is checked by the engine: where the engine rolled everything
    back by itself, as SQLite does on a full disk, there is no such savepoint left,
    and the whole batch fails with it.
    """
    execute("SAVEPOINT job")
    try:
        result = _plain(job.work(connection))
    except Exception as error:  # noqa: BLE001 - its caller gets it
        execute("ROLLBACK TO SAVEPOINT job")
        execute("RELEASE SAVEPOINT job")
        return _Done(job, error=for_caller(error))
    execute("RELEASE SAVEPOINT job")
    return _Done(job, result)


def _run_read(connection: Connection, work: Transaction[T]) -> T:
    """Run `work` on a snapshot of its own, which ends with it."""
    with connection.begin():
        return _plain(work(connection))


def _plain(result: T) -> T:
    """Refuse a result that would outlive its transaction."""
    unread = isinstance(result, CursorResult) and result.returns_rows
    if unread or isinstance(result, CoroutineType):
        raise TypeError("a transaction must return plain values, read to the end")
    return result


def _hand_back(done: list[_Done]) -> None:
    """Give each caller its result: one wake-up of the loop for the whole batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Done]] = {}
    for one in done:
        by_loop.setdefault(one.job.loop, []).append(one)
    for loop, results in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, results)
        except RuntimeError:  # the loop is gone, and with it whoever waited
            _log.warning("commit_outlived_callers", jobs=len(results))


def _resolve(results: list[_Done]) -> None:
    for one in results:
        future = one.job.future
        if future.done():  # cancelled: the commit stands all the same
            continue
        if one.error is None:
            future.set_result(one.result)
        else:
            future.set_exception(one.error)
