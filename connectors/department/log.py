"""The department's own log: what it was asked, by whom, and what it answered.

A hash chain in a SQLite file of its own. Each entry's hash covers the entry and the
hash before it, so that nothing can be changed, taken out or put in between without
every later hash changing; who has kept a head (count and hash) also sees a cut at
the end. An entry is durable before its answer is sent. Look-ups whose signature does
not hold are nobody's, and are not logged: anybody could fill the disk with them.
"""

import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from schemas.canonical import Json, canonical_plain
from schemas.clock import to_rfc3339_ms
from schemas.errors import (
    LogUnavailableError,
    SettingsError,
    UnverifiableError,
    VerificationError,
)

GENESIS = bytes(32)
"""What the first entry's hash is chained to."""

_HEAD = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")

_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, gateway TEXT NOT NULL,
    lookup TEXT NOT NULL, evidence_type TEXT NOT NULL, requester TEXT NOT NULL,
    purpose TEXT NOT NULL, outcome TEXT NOT NULL, lookup_jws TEXT NOT NULL,
    answer_digest TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS taken (
    gateway TEXT NOT NULL, lookup TEXT NOT NULL, PRIMARY KEY (gateway, lookup)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = (
    "seq, at, gateway, lookup, evidence_type, requester, purpose, outcome, "
    "lookup_jws, answer_digest"
)
_INSERT = f"INSERT INTO entries ({_COLUMNS}, hash) VALUES (?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS}, hash FROM entries ORDER BY seq"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class NewEntry:
    """One look-up and its answer."""

    at: datetime
    gateway: str
    lookup: str
    """`jti` of the look-up."""
    evidence_type: str
    requester: str
    purpose: str
    outcome: str
    """`answered`, `matched`, or the problem's type."""
    lookup_jws: str
    """The signed look-up as it came: who asked can be proved from it."""
    answer_digest: str
    """SHA-256 of the answer's body, base64url."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry in its place in the chain."""

    seq: int
    """1 for the first."""
    at: str
    """RFC 3339 in UTC with milliseconds."""
    gateway: str
    lookup: str
    evidence_type: str
    requester: str
    purpose: str
    outcome: str
    lookup_jws: str
    answer_digest: str
    hash: bytes

    @classmethod
    def after(cls, head: "Head", new: NewEntry) -> Self:
        """Return `new` in the place after `head`."""
        entry = cls(
            head.count + 1,
            to_rfc3339_ms(new.at),
            new.gateway,
            new.lookup,
            new.evidence_type,
            new.requester,
            new.purpose,
            new.outcome,
            new.lookup_jws,
            new.answer_digest,
            b"",
        )
        return cls(*entry.members(), entry.chained(head.hash))

    def members(self) -> tuple[int, str, str, str, str, str, str, str, str, str]:
        """Return everything that the hash covers, in order."""
        return (
            self.seq,
            self.at,
            self.gateway,
            self.lookup,
            self.evidence_type,
            self.requester,
            self.purpose,
            self.outcome,
            self.lookup_jws,
            self.answer_digest,
        )

    def chained(self, previous: bytes) -> bytes:
        """Return SHA-256 of the previous hash and the canonical JSON of the members."""
        members: Json = list(self.members())
        return hashlib.sha256(previous + canonical_plain(members)).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: keep it elsewhere, and a later cut shows."""

    count: int
    hash: bytes

    def as_text(self) -> str:
        """Return it as `COUNT:HASH`, the hash in hexadecimal."""
        return f"{self.count}:{self.hash.hex()}"


class DepartmentLog:
    """The log, open for writing; safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it when there is none.

        Raises:
            SettingsError: It can't be opened or is no such log.
        """
        self._lock = threading.Lock()
        try:
            self._database = _opened(path)
        except (sqlite3.Error, VerificationError) as error:
            raise SettingsError(f"department log `{path}`: {error}") from error

    def append(self, entry: NewEntry, *, take: bool) -> bool:
        """Make an entry durable; with `take`, unless its look-up was taken before.

        Returns:
            Whether the entry was written: False means that it is a replay.

        Raises:
            LogUnavailableError: It could not be written, and so nothing may be sent.
        """
        with self._lock:
            try:
                return self._append(entry, take=take)
            except sqlite3.Error as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                message = f"the department log can't be written: {error}"
                raise LogUnavailableError(message) from error

    def _append(self, entry: NewEntry, *, take: bool) -> bool:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        if take:
            taken = database.execute(
                "INSERT OR IGNORE INTO taken VALUES (?, ?)",
                (entry.gateway, entry.lookup),
            )
            if taken.rowcount == 0:
                database.execute("ROLLBACK")
                return False
        placed = Entry.after(_head(database), entry)
        database.execute(_INSERT, (*placed.members(), placed.hash))
        database.execute("COMMIT")
        return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10
    )
    try:
        # First of all: a file with another purpose, such as a register, stays as it is.
        _check_is_log_or_empty(database)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _check_is_log_or_empty(database: sqlite3.Connection) -> None:
    of_log = {"entries": f"{_COLUMNS}, hash", "taken": "gateway, lookup"}
    held = database.execute(
        "SELECT name, (SELECT group_concat(name, ', ') FROM pragma_table_info(m.name))"
        " FROM sqlite_master AS m WHERE type IN ('table', 'view')"
        " AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    )
    if any(of_log.get(name) != columns for name, columns in held):
        raise VerificationError("a database with tables that are no log's")


def _head(database: sqlite3.Connection) -> Head:
    row = database.execute(
        "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return Head(0, GENESIS) if row is None else Head(row[0], row[1])


def read_log(path: Path) -> Iterator[Entry]:
    """Yield the entries of a log in order, reading only.

    Raises:
        VerificationError: The file was damaged.
        UnverifiableError: It can't be read, or is no such log.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            for row in database.execute(_SELECT):
                yield Entry(*row)
    except sqlite3.Error as error:
        is_damaged = (
            getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT
        )
        kind = VerificationError if is_damaged else UnverifiableError
        raise kind(f"department log `{path}`: {error}") from error


def parse_head(text: str) -> Head:
    """Return a head that was written as `COUNT:HASH`, the hash in hexadecimal.

    Raises:
        ValueError: It is written otherwise.
    """
    if _HEAD.fullmatch(text) is None:
        raise ValueError("a head is written as COUNT:HASH")
    count, _, digest = text.partition(":")
    return Head(int(count), bytes.fromhex(digest))


def verify_log(path: Path, kept: Head | None = None) -> Head:
    """Recompute the whole chain, and return where it ends.

    Args:
        path: The log's file.
        kept: A head noted earlier, which must lie on the chain.

    Raises:
        VerificationError: An entry was changed, taken out or put in, or the chain no
            longer passes through `kept`; names the first entry that is wrong.
        UnverifiableError: The file can't be read, or is no such log.
    """
    head = Head(0, GENESIS)
    passed = kept is None or kept == head
    for entry in read_log(path):
        wrong = entry.seq != head.count + 1 or entry.hash != entry.chained(head.hash)
        if wrong:
            message = f"department log: entry {head.count + 1} is not what it was"
            raise VerificationError(message)
        head = Head(entry.seq, entry.hash)
        passed = passed or head == kept
    if not passed:
        raise VerificationError("department log: the head that was kept is not on it")
    return head
