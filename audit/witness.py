"""A witness: it cosigns the heads of logs that only grow, and shows what it last saw.

SOURCE: C2SP tlog-witness. A department or an audit office runs one for the logs of
others. A witness that has cosigned a head of some size never again cosigns a smaller
one, or another one of that size, for that log: so a log can't show two histories
without giving up the cosignatures of all who keep watch.
"""

import hashlib
import re
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from audit.note import (
    Checkpoint,
    Cosigner,
    Signature,
    Verifier,
    b64_decode,
    decimal,
    open_note,
    parse_checkpoint,
    signature_line,
)
from schemas.errors import SettingsError, VerificationError

BODY_LIMIT = 131_072
"""Largest request, in bytes."""
PROOF_LIMIT = 63
"""Most hashes of a consistency proof."""
TEXT = "text/plain; charset=utf-8"
SIZE_TYPE = "text/x.tlog.size"

_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS head (
    origin TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note TEXT NOT NULL          -- the checkpoint with the log's and our signature
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answers."""

    status: int
    """The HTTP status."""
    body: str = ""
    media_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign a head."""

    old_size: int
    """The size that the log believes the witness to have cosigned last."""
    proof: tuple[bytes, ...]
    checkpoint: bytes
    """The signed note."""


def parse_submission(body: bytes) -> Submission:
    """Return what a request to cosign holds; nothing of it is verified yet.

    Raises:
        VerificationError: It is malformed.
    """
    head, blank, checkpoint = body.partition(b"\n\n")
    if not blank or len(body) > BODY_LIMIT:
        raise VerificationError("malformed request")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise VerificationError("malformed request") from None
    old = _OLD.fullmatch(first)
    if old is None or len(lines) > PROOF_LIMIT:
        raise VerificationError("malformed request")
    proof = tuple(b64_decode(line) for line in lines)
    if any(len(one) != HASH_SIZE for one in proof):
        raise VerificationError("malformed request")
    return Submission(decimal(old[1]), proof, checkpoint)


def submission_text(old_size: int, proof: Sequence[str], checkpoint: str) -> str:
    """Return a request to cosign, with the proof's hashes in base64."""
    lines = "".join(f"{line}\n" for line in proof)
    return f"old {old_size}\n{lines}\n{checkpoint}"


def origin_path(origin: str) -> str:
    """Return where a witness shows the head of a log that it cosigned last."""
    return f"{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"


class Witness:
    """Cosigns heads of the logs whose keys it was given; any thread may ask it."""

    def __init__(
        self, file: Path, cosigner: Cosigner, logs: Mapping[str, Verifier]
    ) -> None:
        """Open the witness's memory, and make it where there is none.

        Args:
            file: The SQLite file of what was cosigned.
            cosigner: The witness's key.
            logs: The key of each log, by its origin.

        Raises:
            sqlite3.Error: The file can't be opened or written.
            SettingsError: It is the database of something else.
        """
        self._cosigner = cosigner
        self._logs = dict(logs)
        self._by_path = {origin_path(origin): origin for origin in logs}
        self._lock = threading.Lock()
        self._store = sqlite3.connect(
            file, isolation_level=None, check_same_thread=False
        )
        tables = self._store.execute(_TABLES).fetchall()
        if {name for (name,) in tables} - {"head"}:
            self._store.close()
            raise SettingsError(f"`{file.name}` is the database of something else")
        self._store.execute("PRAGMA journal_mode=WAL")
        self._store.execute("PRAGMA synchronous=FULL")
        self._store.executescript(_SCHEMA)

    def remembered(self) -> int:
        """Return of how many logs a head was cosigned."""
        with self._lock:
            [count] = self._store.execute("SELECT count(*) FROM head").fetchone()
        return int(count)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._store.close()

    def add_checkpoint(self, body: bytes, unix_s: int) -> Reply:
        """Cosign a head that continues the one that was cosigned last.

        (1) Read the request, and find the log's key by its origin.
        (2) Verify the log's signature.
        (3) In one transaction: compare with the last head, verify, remember.
        (4) Hand out the cosignature.

        Args:
            body: The request.
            unix_s: The time, in seconds since 1970.
        """
        # (1): a request of no form is told so, whoever sent it.
        try:
            submission = parse_submission(body)
            text, _, _ = submission.checkpoint.rpartition(b"\n\n")
            checkpoint = parse_checkpoint(text.decode() + "\n")
        except (VerificationError, UnicodeDecodeError):
            return Reply(400, "malformed request\n")
        verifier = self._logs.get(checkpoint.origin)
        if verifier is None:
            return Reply(404, "unknown log\n")
        # (2): nobody but the log moves what is remembered of it.
        try:
            note = open_note(submission.checkpoint, (verifier,))
        except VerificationError:
            return Reply(403, "not signed with the log's key\n")
        if submission.old_size > checkpoint.size:
            return Reply(400, "the old size is larger than the checkpoint's\n")
        # (3) and (4): together, since what is not remembered is not cosigned.
        return self._cosign(submission, checkpoint, note.verified, unix_s)

    def _cosign(
        self,
        submission: Submission,
        checkpoint: Checkpoint,
        signed: Sequence[Signature],
        unix_s: int,
    ) -> Reply:
        """Compare, verify and remember, in one transaction; then cosign.

        INVARIANT: what is remembered never goes back: comparing and storing are one
        transaction, durable before the cosignature leaves.
        """
        with self._lock, self._transaction():
            size, root = self._last(checkpoint.origin)
            if submission.old_size != size:
                return Reply(409, f"{size}\n", SIZE_TYPE)
            try:
                _check_growth(size, root, checkpoint, submission.proof)
            except VerificationError as error:
                return Reply(422, f"{error}\n")
            line = self._cosigner.cosign(checkpoint.text, unix_s)
            lines = "".join(map(signature_line, signed)) + line
            self._store.execute(
                "INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?)",
                (
                    checkpoint.origin,
                    checkpoint.size,
                    checkpoint.root,
                    f"{checkpoint.text}\n{lines}",
                ),
            )
        return Reply(200, line)

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._store)

    def _last(self, origin: str) -> tuple[int, bytes]:
        """Return size and root of the head that was cosigned last."""
        query = "SELECT size, root FROM head WHERE origin = ?"
        row: tuple[int, bytes] | None = self._store.execute(query, (origin,)).fetchone()
        return row or (0, EMPTY_ROOT)

    def checkpoint(self, path: str) -> str | None:
        """Return the head that was cosigned last, by its path; None for none."""
        origin = self._by_path.get(path)
        with self._lock:
            query = "SELECT note FROM head WHERE origin = ?"
            row = self._store.execute(query, (origin,)).fetchone()
        return None if row is None else str(row[0])


class _Transaction:
    """A transaction that commits unless an error leaves it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _check_growth(
    size: int, root: bytes, checkpoint: Checkpoint, proof: Sequence[bytes]
) -> None:
    """Verify that a head continues the one that was cosigned last.

    Raises:
        VerificationError: It does not, or the proof does not hold.
    """
    if size == 0:
        if proof or (checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT):
            raise VerificationError("the first head comes without a proof")
        return
    verify_consistency(size, checkpoint.size, proof, root, checkpoint.root)
