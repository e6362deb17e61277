"""The log's SQLite file: its tables, and reading it without ever writing.

`entry` holds the records in order: `seq` is the leaf's index, gapless from 0. Beside
the leaf stand private columns for the index, and the sealed sections, which alone
may ever change. `attempt` holds the look-ups of cases that have not ended, `tile` the
hash tiles, `tree` what is integrated, `checkpoint` what was signed last, `published`
what outsiders see: the same, or the last one that enough witnesses have cosigned.
The writer alone writes. On another engine, or with tiles in files or objects, only
this module, `writer` and the tile rows change.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from audit.keys import sync_folder
from audit.tiles import TileId
from schemas.errors import SettingsError
from schemas.ids import CaseId, EventId

FORMAT = "1"
"""Version of the tables below."""

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
    sealed BLOB NOT NULL,          -- sections, as `sealing.split_sections` reads them
    sealed_guard INTEGER NOT NULL
);
CREATE TRIGGER entry_is_never_changed
BEFORE UPDATE OF seq, event_id, leaf, leaf_hash ON entry
BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TRIGGER entry_is_never_removed BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'the log only grows'); END;
CREATE TABLE attempt (event_id TEXT PRIMARY KEY, case_ref TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tile (
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (level, number)
);
CREATE TABLE tree (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    root BLOB NOT NULL
);
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    note TEXT NOT NULL,
    signed_ms INTEGER NOT NULL,    -- when, in milliseconds since 1970
    guard INTEGER NOT NULL         -- check value over the row
);
"""
_PUBLISHED = """
CREATE TABLE published (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    note TEXT NOT NULL,            -- with the cosignatures of witnesses
    signed_ms INTEGER NOT NULL,
    guard INTEGER NOT NULL
);
INSERT INTO published SELECT * FROM checkpoint;
"""
"""A table that older files lack: there, what was signed was published."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored record."""

    seq: int
    event_id: EventId
    leaf: bytes
    leaf_hash: bytes
    case_ref: CaseId | None
    matter: str
    subject_refs: str
    actor_ref: str | None
    ends: EventId | None
    guard: int
    sealed: bytes = field(repr=False)
    """Its sealed sections; b"" where there are none."""
    sealed_guard: int


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The checkpoint that was signed last."""

    size: int
    note: str
    """The signed note."""
    signed_ms: int
    guard: int


_ENTRY = (
    "SELECT seq, event_id, leaf, leaf_hash, case_ref, matter, subject_refs,"
    " actor_ref, ends, guard, sealed, sealed_guard FROM entry"
)


def open_for_writing(path: Path, origin: str) -> sqlite3.Connection:
    """Open the log's file for its one writer, and make it where there is none.

    Raises:
        SettingsError: The file is the log of another origin, or of another format.
        sqlite3.Error: It can't be opened or written.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # FULL: a commit is on the disk before it returns. NORMAL may lose the last ones.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")
    # The writer moves the WAL itself, where an error is seen and not swallowed.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA)
        meta = (("format", FORMAT), ("origin", origin))
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        connection.execute("COMMIT")
        sync_folder(path.parent)
    if not _has_published(connection):
        connection.executescript("BEGIN IMMEDIATE;" + _PUBLISHED + "COMMIT;")
    if read_meta(connection) != {"format": FORMAT, "origin": origin}:
        connection.close()
        raise SettingsError(f"`{path.name}` is the log of another origin or format")
    return connection


def _has_published(connection: sqlite3.Connection) -> bool:
    """Return whether a log's file has the table `published`."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'published'"
    return connection.execute(query).fetchone() is not None


def read_meta(connection: sqlite3.Connection) -> Mapping[str, str]:
    """Return the format and the origin of a log's file."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


class LogReader:
    """Reads a log's file; each thread takes a reader of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @classmethod
    def open(cls, path: Path) -> "LogReader":
        """Open the file of a log that a writer may have open."""
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return cls(
            sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False
            )
        )

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def size(self) -> int:
        """Return how many records there are."""
        query = "SELECT coalesce(max(seq) + 1, 0) FROM entry"
        return int(self.connection.execute(query).fetchone()[0])

    def entries(self, start: int, end: int) -> Iterator[Entry]:
        """Yield the records from `start` up to, not including, `end`, in order."""
        query = f"{_ENTRY} WHERE seq >= ? AND seq < ? ORDER BY seq"
        for row in self.connection.execute(query, (start, end)):
            yield Entry(*row)

    def leaves(self, start: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Return index, leaf and leaf hash of the records in a range, in order."""
        query = (
            "SELECT seq, leaf, leaf_hash FROM entry WHERE seq >= ? AND seq < ?"
            " ORDER BY seq"
        )
        return self.connection.execute(query, (start, end)).fetchall()

    def entry_of(self, event: EventId) -> Entry | None:
        """Return the record of an event; None when there is none."""
        query = f"{_ENTRY} WHERE event_id = ?"
        row = self.connection.execute(query, (event,)).fetchone()
        return None if row is None else Entry(*row)

    def open_attempts(self, case: CaseId) -> list[EventId]:
        """Return the look-ups of a case that were accepted and have not ended."""
        query = "SELECT event_id FROM attempt WHERE case_ref = ? ORDER BY event_id"
        return [row[0] for row in self.connection.execute(query, (case,))]

    def tile(self, level: int, number: int) -> bytes:
        """Return the hashes of a tile that there are; b"" for none."""
        query = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
        row = self.connection.execute(query, (level, number)).fetchone()
        return b"" if row is None else row[0]

    def tile_ids(self) -> list[TileId]:
        """Return which tiles are stored."""
        query = "SELECT level, number FROM tile ORDER BY level, number"
        return self.connection.execute(query).fetchall()

    def tree(self) -> tuple[int, bytes] | None:
        """Return the size and the root of what is integrated; None for nothing."""
        query = "SELECT size, root FROM tree"
        row: tuple[int, bytes] | None = self.connection.execute(query).fetchone()
        return row

    def head(self) -> SignedHead | None:
        """Return the checkpoint that was signed last; None before the first."""
        return self._head("checkpoint")

    def published(self) -> SignedHead | None:
        """Return the checkpoint that outsiders see; None before the first."""
        table = "published" if _has_published(self.connection) else "checkpoint"
        return self._head(table)

    def _head(self, table: str) -> SignedHead | None:
        query = f"SELECT size, note, signed_ms, guard FROM {table}"  # noqa: S608 - one of two names
        row = self.connection.execute(query).fetchone()
        return None if row is None else SignedHead(*row)


def copy_log(source: Path, target: Path) -> None:
    """Copy a log's file while it is written to, as of one instant.

    Raises:
        FileExistsError: There is something at `target`.
        sqlite3.Error: The log can't be read.
    """
    target.touch(exist_ok=False)
    reader = LogReader.open(source)
    copy = sqlite3.connect(target)
    try:
        reader.connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        copy.close()
        reader.close()
