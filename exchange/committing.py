"""Batches of jobs, each committed once: the writer's connection, and its mark.

A job that fails takes nothing else with it, and a commit whose answer was lost is
looked for until it is known what became of it. `exchange.database` is whose jobs these
are.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    CursorResult,
    bindparam,
    delete,
    insert,
    inspect,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlmodel import Field, SQLModel

from exchange.connecting import (
    for_caller,
    is_gone,
    let_go,
    see_it_holds,
    take_warnings,
    write_again,
)
from schemas.errors import StoreUnavailableError

T = TypeVar("T")
Transaction = Callable[[Connection], T]
"""Work for one transaction: it reads and writes, and neither commits nor waits."""

_RESOLVE_S = 5.0
"""How long it is looked for what became of a commit whose answer was lost."""
_RESOLVE_EVERY_S = 0.05
_MARK_KEPT_S = 86_400
"""How long the mark of a writer that was killed stays."""


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

    def __init__(self, done: "list[Done]") -> None:
        super().__init__()
        self.done = done


class _JobFailedError(Exception):
    """A job raised while the batch was run without savepoints."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True)
class Job:
    """A function that waits for its commit, and where its result goes."""

    work: Transaction[object]
    in_transaction: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one function: a result, or the exception its caller gets."""

    job: Job
    result: object = None
    error: BaseException | None = None


_Run = Callable[[Connection, list[Job]], list[Done]]


class Committer:
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

    def commit(self, batch: list[Job]) -> list[Done]:
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

    def try_out(self) -> None:
        """Write something that changes nothing, to see whether it can be kept.

        Raises:
            Exception: It can't: the engine's own failure.
        """
        self._run([], _write_again)

    def close(self) -> None:
        """Let go of the connection, and of its mark."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(DBAPIError):
            if self._mark is not None:
                connection.execute(delete(_MARK).where(_MARK.c.writer == self._mark))
                connection.commit()
        # Also when the mark could not be removed: it is forgotten in a day.
        let_go(connection)

    def _try(self, batch: list[Job]) -> list[Done]:
        """(1) and (2)."""
        try:
            return self._run(batch, _run_together)
        except _JobFailedError as failed:
            if self._connection is None:
                raise failed.error from None
            if len(batch) == 1:
                return [Done(batch[0], error=for_caller(failed.error))]
        return self._run(batch, _run_apart)

    def _run(self, batch: list[Job], jobs_run: _Run) -> list[Done]:
        connection = self._connected()
        ran: list[Done] | None = None
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


def _run_together(connection: Connection, batch: list[Job]) -> list[Done]:
    """Run jobs as one: hardly any fails, and each savepoint would be two statements.

    Raises:
        _JobFailedError: One raised: nothing of the batch may be kept.
    """
    done: list[Done] = []
    for job in batch:
        try:
            result = plain(job.work(connection))
        except Exception as error:
            raise _JobFailedError(error) from error
        done.append(Done(job, result))
    return done


def _run_apart(connection: Connection, batch: list[Job]) -> list[Done]:
    """Run each job inside a savepoint of its own."""
    execute = connection.connection.cursor().execute
    return [_run_one(connection, execute, job) for job in batch]


def _write_again(connection: Connection, _batch: list[Job]) -> list[Done]:
    write_again(connection)
    return []


def _run_one(
    connection: Connection, execute: Callable[[str], object], job: Job
) -> Done:
    """Run one job; what it raises is its own, and so is what it changed.

    The savepoint's end is checked by the engine: where the engine rolled everything
    back by itself, as SQLite does on a full disk, there is no such savepoint left,
    and the whole batch fails with it.
    """
    execute("SAVEPOINT job")
    try:
        result = plain(job.work(connection))
    except Exception as error:  # noqa: BLE001 - its caller gets it
        execute("ROLLBACK TO SAVEPOINT job")
        execute("RELEASE SAVEPOINT job")
        return Done(job, error=for_caller(error))
    execute("RELEASE SAVEPOINT job")
    return Done(job, result)


def plain(result: T) -> T:
    """Refuse a result that would outlive its transaction."""
    unread = isinstance(result, CursorResult) and result.returns_rows
    if unread or isinstance(result, CoroutineType):
        raise TypeError("a transaction must return plain values, read to the end")
    return result
