"""The tables of the gateway: one writer with group commit, readers beside it.

Whoever wants to change something hands a function to `Database.write`. One thread
owns the writing connection; whatever was handed in while a commit was under way
goes into the next one (natural batching, no linger), each function inside a
savepoint of its own, so that one that fails takes nothing else with it.

INVARIANT: no database transaction is open while a department is asked (rule 9):
a transaction lives only inside a plain function that runs in a thread here, and a
plain function cannot await an answer. `open_transactions` lets a test look.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import CoroutineType, TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import orjson
import sqlalchemy
import structlog
from sqlalchemy import (
    URL,
    CursorResult,
    Engine,
    create_engine,
    event,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)

from schemas.errors import SettingsError, StoreUnavailableError

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
_BUSY_TIMEOUT_MS = 5_000
"""How long SQLite waits for another process that holds the file, such as a backup."""

_ONE = select(1)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A function that waits for its commit, and where its result goes."""

    work: Transaction[object]
    in_transaction: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


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
        kind = _Kind(read_only=False, secure_delete=secure_delete)
        self._writers = _engine(url, kind, connections=2)
        self._readers = _engine(url, _Kind(read_only=True), connections=readers + 1)
        self._most_queued = most_queued
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._reading = 0
        self._point_lock = threading.Lock()
        self._point: Connection | None = None
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
        raises rolls back what `work` did, and only that.

        Raises:
            StoreUnavailableError: Too much waits already, or the tables can't be
                written: nothing was stored, unless the connection was lost in the
                commit itself.
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
        microseconds, and must read its result to the end.

        Raises:
            StoreUnavailableError: The tables can't be read.
        """
        self._refuse_when(full=False)
        with self._point_lock, self._counted(), _engine_failures():
            if self._point is None or self._point.invalidated:
                self._point = self._readers.connect()
            return _run_read(self._point, work)

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

    def _read(self, work: Transaction[T]) -> T:
        with (
            self._counted(),
            _engine_failures(),
            self._readers.connect() as connection,
        ):
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
        connection: Connection | None = None
        while batch := self._next_batch():
            try:
                if connection is None or connection.invalidated:
                    connection = self._writers.connect()
                with self._counted():
                    done = _commit(connection, [j for j in batch if j.in_transaction])
            except Exception as error:  # noqa: BLE001 - each caller gets it
                # Whatever fails outside a job is the engine: nobody may be told that
                # a job of this batch was stored.
                done = [_Done(j, error=_unavailable(error)) for j in batch]
            else:
                done += [self._maintain(j) for j in batch if not j.in_transaction]
            _hand_back(done)
        if connection is not None:
            connection.close()

    def _maintain(self, job: _Job) -> _Done:
        try:
            with self._writers.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                return _Done(job, _plain(job.work(connection)))
        except Exception as error:  # noqa: BLE001 - its caller gets it
            return _Done(job, error=_for_caller(error))

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


def _commit(connection: Connection, batch: list[_Job]) -> list[_Done]:
    """Run each job inside a savepoint of one transaction, and commit once."""
    if not batch:
        return []
    with connection.begin():
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
        return _Done(job, error=_for_caller(error))
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


@contextmanager
def _engine_failures() -> Iterator[None]:
    """Turn the engine's own failures into what a caller can act on."""
    try:
        yield
    except DBAPIError as error:
        raise _for_caller(error) from error


def _for_caller(error: Exception) -> Exception:
    """Return the error that the caller of a job gets."""
    if isinstance(error, (OperationalError, InterfaceError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    ):
        return _unavailable(error)
    if isinstance(error, StopIteration):  # a future refuses to carry one
        return RuntimeError("a transaction raised StopIteration")
    return error


def _unavailable(error: Exception) -> StoreUnavailableError:
    """Return a failure of the engine, with its own words as the cause."""
    failure = StoreUnavailableError("the tables can't be read or written now")
    failure.__cause__ = error
    return failure


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


# What differs between engines stands below, and nowhere else.


@contextmanager
def connected(url: str, *, read_only: bool) -> Iterator[Connection]:
    """Open one connection outside the gateway: for migrations and for commands.

    Raises:
        SettingsError: As for `Database`.
        StoreUnavailableError: The tables can't be reached.
    """
    engine = _engine(url, _Kind(read_only=read_only), connections=1)
    try:
        with _engine_failures(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What the connections of an engine may do, and how."""

    read_only: bool
    secure_delete: bool = False


def truncate_journal(connection: Connection) -> None:
    """Leave nothing behind in SQLite's write-ahead log: for `Database.maintain`.

    With `secure_delete`, nothing that was deleted is left in any file after this.

    Raises:
        StoreUnavailableError: A reader held the log all the time; ask again.
    """
    if connection.dialect.name != "sqlite":
        return
    cursor = connection.connection.cursor()
    busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreUnavailableError("the journal is in use and was not emptied")


def _engine(url: str, kind: _Kind, *, connections: int) -> Engine:
    """Return an engine whose connections are ready for our transactions."""
    parsed = _parse(url)
    engine = create_engine(
        parsed,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # INVARIANT: no person's value in an error (rule 8)
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )
    if parsed.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, str(parsed.database), kind)
        return engine
    return engine.execution_options(
        isolation_level="REPEATABLE READ" if kind.read_only else "READ COMMITTED",
        postgresql_readonly=kind.read_only,
    )


def _parse(url: str) -> URL:
    """Read a database URL, and refuse what the gateway can't keep its tables in."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "`database_url` is no URL: write `sqlite:///FILE` or `postgresql://...`"
        ) from error
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            f"`database_url` names `{parsed.get_backend_name()}`: take sqlite or "
            "postgresql"
        )
    if parsed.database in (None, "", ":memory:"):
        raise SettingsError(
            "`database_url` names no file: cases must outlive the process, so write "
            "`sqlite:///FILE`"
        )
    return parsed


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()


def _prepare_sqlite(engine: Engine, file: str, kind: _Kind) -> None:
    """Make every connection of a SQLite engine durable, and transactions explicit.

    `synchronous=FULL` syncs the write-ahead log on each commit: with NORMAL the last
    commits may be lost with the power (SQLite documentation, PRAGMA synchronous).
    """
    # The file and what SQLite puts beside it are the gateway's alone.
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # we begin; the driver doesn't
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA secure_delete={int(kind.secure_delete)}")
        cursor.execute(f"PRAGMA query_only={int(kind.read_only)}")
        cursor.close()

    begin = "BEGIN" if kind.read_only else "BEGIN IMMEDIATE"

    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.connection.cursor().execute(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
