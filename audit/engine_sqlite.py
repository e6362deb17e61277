"""A log in a SQLite file: one writer, one connection, one flush for each batch.

A thread beside the writer moves the write-ahead file into the log's file (`moving`).

A hard error leaves nobody knowing what is on the disk, so the engine says that
nothing may be written until the log is opened again.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import lru_cache
from pathlib import Path
from shutil import disk_usage
from typing import TypeVar

from audit.keys import sync_folder
from audit.moving import MOVE, Mover, flush_wholly, is_transient
from audit.record import milliseconds, read_leaf
from audit.sealing import SealedRecord
from audit.sql import SqliteSql
from audit.store import (
    FORMAT,
    NOT_WHOLE,
    TABLES,
    Appended,
    LogReader,
    Look,
    Refusal,
    Work,
    check_tables,
    is_log_of,
    mark_left,
    read_meta,
)
from audit.swaps import PUBLISHED_TABLES
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import EventId

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,       -- index of the leaf
    event_id TEXT NOT NULL UNIQUE,
    leaf BLOB NOT NULL,
    leaf_hash BLOB NOT NULL,
    case_ref TEXT,                 -- from here on private: for the index alone
    matter TEXT NOT NULL,
    subject_refs TEXT NOT NULL,    -- separated by spaces
    actor_ref TEXT,
    ends TEXT,                     -- event id of the look-up that ended with this
    guard INTEGER NOT NULL,        -- check value over the private columns
    sealed BLOB NOT NULL,          -- sections, as `Sealer.open_sections` reads them
    sealed_guard INTEGER NOT NULL
);
CREATE TRIGGER entry_is_never_changed
BEFORE UPDATE OF seq, event_id, leaf, leaf_hash ON entry
BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TRIGGER entry_is_never_removed BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
"""
_TRIGGERS = re.findall(r"^CREATE TRIGGER (\w+)", _SCHEMA, re.MULTILINE)
_T = TypeVar("_T")
_COLUMNS = 12
_AT_ONCE = 64
"""Rows of one INSERT. Whenever SQLite runs, another thread may take the interpreter,
and a busy one keeps it for up to 5 ms: so once for many rows, not once for each."""
_FIND = "SELECT seq, leaf, leaf_hash FROM entry WHERE event_id = ?"
_FIND_TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
_SIZE = "SELECT coalesce(max(seq) + 1, 0) FROM entry"

_BATCHES_BETWEEN_CHECKS = 64
"""How many batches rest on one look at the disk's free space: in between, a full disk
is still an error of the commit."""

_HELD_UP = 2
"""After how many times the records for one move the writer makes it by itself."""


class SqliteEngine:
    """Keeps a log's records in a SQLite file.

    Args:
        path: The file; made where there is none.
        origin: The log's name.
        free_bytes: Free bytes on the disk below which nothing is written.
        wal_records: Records after which the write-ahead file is moved into the file,
            beside the writer; after twice as many the writer does nothing else first.

    Raises:
        SettingsError: The file is another log's, or not whole.
        sqlite3.Error: It can't be opened or written.
    """

    def __init__(
        self, path: Path, origin: str, *, free_bytes: int, wal_records: int
    ) -> None:
        self._folder = path.parent
        self._free_bytes = free_bytes
        self._wal_records = max(1, wal_records)
        with ExitStack() as undone:
            self.connection = open_for_writing(path, origin)
            undone.callback(self.connection.close)
            self._last = SqliteSql.open(path, read_only=True)
            """Only reads, so that it can be the last one to close and move nothing."""
            undone.callback(self._last.close)
            # Before that one, as after any hard error.
            undone.callback(self.connection.close)
            self._last.rows("SELECT 1 FROM meta")
            self._size = int(self.connection.execute(_SIZE).fetchone()[0])
            self._mover = Mover(path)
            undone.pop_all()
        self._is_asked = False
        """Whether the mover was asked since the writer moved last."""
        self._unmoved = 0
        """Records that were stored since the writer moved last."""
        self._unchecked = 0
        """Batches until the disk's free space is looked at again."""
        self._fault: str | None = None

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._size

    def check(self) -> None:
        """Look whether a move has failed, and whether the disk has room.

        Raises:
            LogUnavailableError: It has too little.
            sqlite3.Error: The write-ahead file could not be moved.
        """
        self._mover.check()
        if self._unchecked > 0:
            self._unchecked -= 1
        elif disk_usage(self._folder).free < self._free_bytes:
            raise LogUnavailableError("the log's disk is nearly full")
        else:
            self._unchecked = _BATCHES_BETWEEN_CHECKS

    def append(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Store records in one transaction and return where they stand.

        The head moves only after the commit has returned.
        """
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            places = self._insert(records)
        except sqlite3.IntegrityError:
            # An event id is there already, which is rare: look each of them up.
            execute("ROLLBACK")
            execute("BEGIN IMMEDIATE")
            places = self._insert_new(records)
        execute("COMMIT")
        size = max(self._size, *[place.index + 1 for place in places])
        # What was in the log already is not stored again: see `moving`.
        self._unmoved += size - self._size
        self._size = size
        return places

    def _insert(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Insert records of which none is in the log yet."""
        values: list[str | bytes | int | None] = []
        places: list[Appended] = []
        for seq, record in enumerate(records, self._size):
            event, leaf, digest, at_ms, refs, actor, guard, sealed, check = record
            values += (seq, event.id, leaf, digest, event.case, event.matter)
            values += (refs, actor, event.ends, guard, sealed, check)
            places.append(Appended(event.id, seq, digest, at_ms))
        for at in range(0, len(values), _AT_ONCE * _COLUMNS):
            part = values[at : at + _AT_ONCE * _COLUMNS]
            self.connection.execute(_inserting(len(part) // _COLUMNS), part)
        return places

    def _insert_new(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Insert the records whose event is not in the log, and find the others."""
        if self.connection.execute(_SIZE).fetchone() != (self._size,):
            self._fault = "the log has a second writer"
            raise LogUnavailableError(self._fault)
        fresh: dict[EventId, SealedRecord] = {}
        found: dict[EventId, Appended] = {}
        for record in records:
            event = record.event.id
            row = self.connection.execute(_FIND, (event,)).fetchone()
            if row is None:
                fresh.setdefault(event, record)
            else:
                at = milliseconds(read_leaf(row[1]).at)
                found[event] = Appended(event, row[0], row[2], at)
        for place in self._insert(list(fresh.values())):
            found[place.event] = place
        return [found[record.event.id] for record in records]

    def transact(self, work: Work) -> None:
        """Do something else in a transaction of its own."""
        with SqliteSql(self.connection).transaction() as changes:
            work(changes)

    def explain(self, error: Exception) -> Refusal:
        """Roll back, and say what an error means."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as failed:
            self._fault = f"the log could not roll back: {failed.sqlite_errorname}"
            return Refusal(self._fault, self._fault)
        if isinstance(error, LogUnavailableError):
            return Refusal(str(error), self._fault)
        reason = _unwritable(error)
        if is_transient(error):
            return Refusal(reason)
        self._fault = f"the log failed with {_named(error)} and must be opened again"
        return Refusal(reason, self._fault)

    def tidy(self) -> None:
        """Have the write-ahead file moved into the log's file once it is large.

        It is done here, after the callers have their results, and not by SQLite in
        the middle of a commit, where its errors would be swallowed.

        (1) Ask the mover, once there is enough to move.
        (2) When it is done, move what has come meanwhile: only then may the file
            begin anew.
        (3) When it is held up, wait for it or move all of it, so that the file stays
            small.
        """
        if not self._is_asked:
            # (1): enough to be worth two flushes.
            if self._unmoved >= self._wal_records:
                self._is_asked = True
                self._mover.ask()
        elif self._mover.is_done or self._unmoved >= _HELD_UP * self._wal_records:
            # (2) and (3): whichever comes first.
            self._is_asked = False
            self._unmoved = 0
            with self._mover.instead():
                self.connection.execute(MOVE)

    def close(self) -> None:
        """Let go of the file; after a hard error nothing is moved, and all stays.

        SQLite moves what is left when the last connection closes, and removes the
        write-ahead file. One that only reads can't.
        """
        self._mover.close()
        if self._fault is None and not self._mover.has_failed:
            self._last.close()
        self.connection.close()
        self._last.close()


@lru_cache(maxsize=_AT_ONCE)
def _inserting(rows: int) -> str:
    """Return the statement that inserts so many records."""
    row = f"({', '.join('?' * _COLUMNS)})"
    return f"INSERT INTO entry VALUES {', '.join([row] * rows)}"  # noqa: S608 - question marks


def open_for_writing(path: Path, origin: str) -> sqlite3.Connection:
    """Open the log's file for its one writer, and make it where there is none.

    Raises:
        SettingsError: The file is the log of another origin, or of another format, or
            not whole.
        sqlite3.Error: It can't be opened or written.
        OSError: Its name can't be made durable.
    """
    with ExitStack() as undone:
        sql = undone.enter_context(closing(_durable(path)))
        if not sql.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            _make(sql.connection, {"format": FORMAT, "origin": origin})
        check_tables(sql, path.name, ["meta"])
        if not is_log_of(read_meta(sql), origin):
            raise SettingsError(f"`{path.name}` is the log of another origin or format")
        check_tables(sql, path.name, TABLES)
        _check_triggers(sql, path.name)
        # The write-ahead file is there by now. SQLite makes its name durable itself,
        # but swallows the error when that fails.
        sync_folder(path.resolve().parent)
        undone.pop_all()
    return sql.connection


def _check_triggers(sql: SqliteSql, name: str) -> None:
    """Verify that a log's file still refuses to change or remove a record.

    Raises:
        SettingsError: It would do so.
    """
    found = {row[0] for row in sql.rows(_FIND_TRIGGERS)}
    for trigger in _TRIGGERS:
        if trigger not in found:
            raise SettingsError(f"`{name}` has no trigger `{trigger}`: {NOT_WHOLE}")


def _make(connection: sqlite3.Connection, meta: Mapping[str, str]) -> None:
    """Make the tables of a log, all or none."""
    connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{PUBLISHED_TABLES.sqlite}")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("COMMIT")


def _durable(path: Path) -> SqliteSql:
    """Open a file so that a commit is on the disk before it returns."""
    with ExitStack() as undone:
        sql = undone.enter_context(closing(SqliteSql.open(path)))
        sql.connection.execute("PRAGMA journal_mode=WAL")
        flush_wholly(sql.connection)
        undone.pop_all()
    return sql


def leave_file(path: Path, look: Look[_T]) -> _T:
    """Look what a log has that was without a writer, and mark it as left, durably.

    INVARIANT: one transaction. What is found is what there is for good; and where
    looking at it raises, nothing has happened.

    Args:
        path: The log's file.
        look: Reads what there is; returns the mark that the log was left, and whatever
            else was wanted.

    Raises:
        LogUnavailableError: It is not known to be done; it may be done again.
    """
    try:
        with closing(_durable(path)) as sql:
            # The write-ahead file is there by now, where the mark will stand at first.
            sync_folder(path.resolve().parent)
            with sql.transaction() as changes:
                mark, found = look(LogReader(sql))
                mark_left(changes, mark)
                return found
    except sqlite3.Error as error:
        raise LogUnavailableError(_unwritable(error)) from None


def _unwritable(error: Exception) -> str:
    return f"the log can't be written: {_named(error)}"


def _named(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def copy_log(source: Path, target: Path) -> None:
    """Copy a log's file while it is written to, as of one instant.

    Raises:
        FileExistsError: There is something at `target`.
        sqlite3.Error: The log can't be read.
    """
    target.touch(exist_ok=False)
    with (
        closing(SqliteSql.open(source, read_only=True)) as reader,
        closing(sqlite3.connect(target)) as copy,
    ):
        reader.connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
