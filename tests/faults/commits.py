"""A log whose commits, or moves, fail on demand: before they are done, or after it."""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from audit.engine_sqlite import SqliteEngine
from audit.moving import MOVE
from audit.sql import Row
from audit.writer import AuditLog

_PATIENCE_S = 30


@dataclass(frozen=True, slots=True)
class Failure:
    """How one commit fails."""

    code: int
    """The result code of SQLite."""
    is_persisted: bool
    """Whether it is stored all the same."""

    def as_error(self) -> sqlite3.OperationalError:
        """Return what `sqlite3` raises."""
        error = sqlite3.OperationalError("as a test wants it")
        error.sqlite_errorcode = self.code
        error.sqlite_errorname = f"SQLITE_{self.code}"
        return error


@dataclass(slots=True)
class Hold:
    """A commit, or a move, that takes its time: until it is let go, no answer."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Say that the commit has come so far, and wait, but not for ever."""
        self.reached.set()
        assert self.released.wait(_PATIENCE_S)


@dataclass(slots=True)
class FailingConnection:
    """A connection of the log's, over a disk that fails at some commits, or moves."""

    real: sqlite3.Connection
    at: str = "COMMIT"
    """The statement that fails."""
    planned: deque[Failure | Hold | None] = field(default_factory=deque)
    """What the next ones meet; None for nothing, as do all further ones."""
    after: Callable[[], None] = lambda: None
    """Called after each of them, done or not."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def execute(self, statement: str, *values: Row) -> sqlite3.Cursor:
        """Do it, and fail at a commit, or a move, when that is planned."""
        if statement != self.at:
            return self.real.execute(statement, *values)
        try:
            return self._execute(statement)
        finally:
            self.after()

    def _execute(self, statement: str) -> sqlite3.Cursor:
        planned = self.planned.popleft() if self.planned else None
        if isinstance(planned, Hold):
            planned.wait()
        if not isinstance(planned, Failure):
            return self.real.execute(statement)
        if planned.is_persisted:
            self.real.execute(statement)
        raise planned.as_error()


def fail_commits(log: AuditLog) -> FailingConnection:
    """Put a disk that fails under a log; it fails at nothing yet."""
    engine = log._engine
    assert isinstance(engine, SqliteEngine)
    failing = FailingConnection(engine.connection)
    engine.connection = failing  # type: ignore[assignment] # stands in for a broken disk
    return failing


def fail_moves(log: AuditLog) -> FailingConnection:
    """Put a disk that fails under what moves a log's write-ahead file."""
    engine = log._engine
    assert isinstance(engine, SqliteEngine)
    failing = FailingConnection(engine._mover._connection, MOVE)
    engine._mover._connection = failing  # type: ignore[assignment] # stands in for a broken disk
    return failing
