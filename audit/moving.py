"""Moves a SQLite log's write-ahead file into its file, beside the writer.

The move of 4,096 records takes 20 to 30 ms, in which nobody's commit would go on. So a
thread with a connection of its own moves the most of it, and the writer what has come
meanwhile.

Why no promise is weaker for it:

* A commit is durable by the writer's own flush of the write-ahead file, which stays
  where it was. The move only copies what is committed. SQLite flushes the write-ahead
  file before it copies, and the log's file once nothing is left to copy: only then may
  the write-ahead file begin anew. Killed, cut off or failed before, all of it is
  still there, and is copied again.
* Linux (4.13 and later) tells of a write-back that failed to each open file
  description once. Both connections have both files open for as long as the engine is,
  so neither takes an error away from the other, and whoever makes the last flush of
  the log's file hears of pages that the other one wrote.
* A hard error is kept, and raised in the writer's thread before its next batch: the
  log takes nothing until it is opened again, as after an error of its own. Until then
  nobody moves anything, not even on closing: another flush may seem to work, without
  the pages that the first one lost, and the write-ahead file would be gone. Opened
  again, all of it is copied anew.
* SQLite up to 3.51.2 may lose commits when a move begins while the write-ahead file
  begins anew (https://sqlite.org/wal.html#walresetbug). It begins anew in a commit that
  finds all of it moved. INVARIANT: the thread's move begins only where the writer has
  stored something since the last one ended, and nobody else moves meanwhile. So there
  is something unmoved from before it begins until it ends, and nothing begins anew.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from audit.sql import SqliteSql

_TRANSIENT = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
)
"""Primary result codes after which the file is as it was and may be tried again."""


def is_transient(error: Exception) -> bool:
    """Return whether the file is as it was before an error, and may be tried again."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _TRANSIENT


def flush_wholly(connection: sqlite3.Connection) -> None:
    """Have a connection flush whatever it promises, and move nothing by itself."""
    # FULL: a commit is on the disk before it returns. NORMAL may lose the last ones.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")
    # A move is made on purpose, where its error is seen and not swallowed.
    connection.execute("PRAGMA wal_autocheckpoint=0")


MOVE = "PRAGMA wal_checkpoint(PASSIVE)"
"""Copies what the write-ahead file holds, up to what somebody still reads."""


class Mover:
    """A thread that moves when the writer asks for it, and does nothing else.

    Args:
        path: The log's file, which the writer has open.

    Raises:
        sqlite3.Error: It can't be opened.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as undone:
            sql = undone.enter_context(closing(SqliteSql.open(path)))
            self._connection = sql.connection
            flush_wholly(self._connection)
            # Reading opens the write-ahead file as well: from here on no error is
            # missed.
            sql.rows("SELECT 1 FROM meta")
            undone.pop_all()
        self._turn = threading.Condition(threading.Lock())
        """Held by whoever moves."""
        self._is_wanted = False
        self._is_over = False
        self._fault: Exception | None = None
        # A process that ends without closing ends as a crash does: nothing is lost.
        self.thread = threading.Thread(
            target=self._run, name="audit-mover", daemon=True
        )
        self.thread.start()

    @property
    def is_done(self) -> bool:
        """Whether what was asked for is over, well or not."""
        return not self._is_wanted

    @property
    def has_failed(self) -> bool:
        """Whether it met an error that nobody may go on after."""
        return self._fault is not None

    def check(self) -> None:
        """Raise the error that stopped it, if one did."""
        if self._fault is not None:
            # Without where it was raised before, or that would grow each time.
            raise self._fault.with_traceback(None)

    def ask(self) -> None:
        """Have it move: only where the writer stored something since the last move."""
        with self._turn:
            self._is_wanted = True
            self._turn.notify()

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Have the writer move in the block: a move under way ends before.

        Raises:
            Exception: What stopped the thread.
        """
        with self._turn:
            self._is_wanted = False
            self.check()
            yield

    def close(self) -> None:
        """Wait for a move under way, and let go of the files."""
        with self._turn:
            self._is_over = True
            self._turn.notify()
        self.thread.join()
        self._connection.close()

    # The rest runs in the thread.

    def _run(self) -> None:
        """Move whenever it is wanted."""
        with self._turn:
            while not self._is_over:
                if self._is_wanted:
                    self._move()
                    self._is_wanted = False
                else:
                    self._turn.wait()

    def _move(self) -> None:
        """Move once; keep what nobody may go on after."""
        try:
            self._connection.execute(MOVE)
        except Exception as error:  # noqa: BLE001 - raised again in the writer's thread
            # After any other one the writer tries it next, and tells what it meets.
            if not is_transient(error):
                self._fault = error
