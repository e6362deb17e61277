"""Who records are about: the subject directory, and its keys.

The subject directory maps an id to a random reference and a key of the subject's
own; it has its own file and keys, apart from the log. An id is never hashed without
a key: there are so few ids that a plain hash is as good as the id.
"""

import hmac
import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.keyed import KeyedHash, SubjectKey
from audit.keys import SECRET_SIZE, DirectoryKeys, Entropy, sync_folder
from audit.places import open_sql
from audit.recent import Recent
from audit.record import Subject
from audit.sql import Place, Row, Sql, SqliteSql, Tables
from schemas.canonical import b64url
from schemas.codes import check_id
from schemas.errors import LogUnavailableError, VerificationError

NONCE_SIZE = 12
"""Bytes of an AES-GCM nonce."""
REFERENCE_SIZE = 16
"""Random bytes of a subject's reference."""

_ROWS = "SELECT ref, blind, wrapped_key, sealed_id FROM subject"
_FEW = 3
"""Rows by which it is seen whether the keys fit."""
_PIECE_SIZE = 8
"""Bytes of a secret that are looked for together: fewer tell nothing of it."""
_CHUNK_SIZE = 1 << 20
"""Bytes of a file that are read at once."""


def normalise(subject_id: str) -> str:
    """Return the one form of an id, however it was typed."""
    if not subject_id.isascii():
        subject_id = unicodedata.normalize("NFKC", subject_id)
    return subject_id.strip().upper()


SUBJECTS_SCHEMA = "errand_subjects"
"""Where the directory stands in a PostgreSQL database."""

_TABLES = Tables(
    sqlite="""
CREATE TABLE subject (
    blind BLOB PRIMARY KEY,        -- keyed hash of the id, to find it by
    ref TEXT NOT NULL UNIQUE,
    wrapped_key BLOB NOT NULL,     -- the subject's key under the wrapping key
    sealed_id BLOB NOT NULL        -- namespace and id under the subject's key
) WITHOUT ROWID
""",
    postgres="""
CREATE TABLE subject (
    blind BYTEA PRIMARY KEY,
    ref TEXT COLLATE "C" NOT NULL UNIQUE,
    wrapped_key BYTEA NOT NULL,
    sealed_id BYTEA NOT NULL
)
""",
)


class SubjectDirectory:
    """Knows who is behind a reference; the only place that does.

    `at_hand`, `lookup`, `by_ref` and `identity` belong to the thread that reads,
    `meet` to the log's writer thread; each side has a connection of its own.
    """

    def __init__(
        self,
        place: Place,
        keys: DirectoryKeys,
        *,
        entropy: Entropy = os.urandom,
        cached: int = 16_384,
    ) -> None:
        """Open the directory, and make it where there is none.

        Args:
            place: Where it is kept.
            keys: What it is guarded with.
            entropy: Where references, keys and nonces come from.
            cached: How many subjects' keys are kept unwrapped in memory.

        Raises:
            LogUnavailableError: The server can't be reached.
        """
        self._blind = KeyedHash(keys.blind)
        self._entropy = entropy
        self._wrapping = AESGCM(keys.wrapping)
        self._recent: Recent[bytes, SubjectKey] = Recent(cached)
        self._forgotten: Recent[str, bool] = Recent(cached)
        with ExitStack() as undone:
            self._write = undone.enter_context(closing(_open_tables(place)))
            self._read = open_sql(place)
            undone.pop_all()
        self._place = place
        self._is_local = isinstance(self._read, SqliteSql)

    def close(self) -> None:
        """Let go of it."""
        self._read.close()
        self._write.close()

    def blind(self, namespace: str, subject_id: str) -> bytes:
        """Return the key under which an id is found: HMAC-SHA256."""
        message = f"{namespace}\x00{normalise(subject_id)}"
        return self._blind.digest(message.encode())

    def actor_ref(self, kind: str, actor_id: str) -> str:
        """Return a stable name for an official, to search by: a keyed hash."""
        message = f"actor\x00{kind}\x00{normalise(actor_id)}"
        return b64url(self._blind.digest(message.encode())[:REFERENCE_SIZE])

    def at_hand(self, subject: Subject) -> SubjectKey | None:
        """Return a subject who is in the directory, without waiting for a server.

        A file is read; of a directory on a server, only memory is. So None stands for
        somebody new, or for somebody to be asked for with `meet`.
        """
        if self._is_local:
            return self.lookup(subject)
        return self._recent.get(self.blind(subject.namespace, subject.id))

    def lookup(self, subject: Subject) -> SubjectKey | None:
        """Return a subject who is in the directory, durably; None for a new one."""
        blind = self.blind(subject.namespace, subject.id)
        known = self._recent.get(blind)
        if known is None:
            known = self._find([blind], self._read).get(blind)
            if known is not None:
                self._keep(blind, known)
        return known

    def ref_to_ask_for(self, subject: Subject) -> str:
        """Return the reference to look for somebody's records by; "" for nobody known.

        An id that was mistyped must not look like that of somebody about whom nobody
        asked. One that a register has written wrong is known, and found.

        Raises:
            ValueError: Nobody of this id is known, nor could be; says why.
        """
        known = self.lookup(subject)
        if known is not None:
            return known.ref
        check_id(subject.namespace, subject.id)
        return ""

    def remember(self, subject: Subject, known: SubjectKey) -> None:
        """Keep at hand what `meet` returned."""
        self._keep(self.blind(subject.namespace, subject.id), known)

    def _keep(self, blind: bytes, known: SubjectKey) -> None:
        # What was read before a key was destroyed may arrive here after that.
        if not self.has_forgotten((known.ref,)):
            self._recent.put(blind, known)

    def forget(self, ref: str) -> None:
        """Drop a subject's key from memory, and never keep it there again."""
        self._forgotten.put(ref, True)
        self._recent.drop(lambda _, known: known.ref == ref)

    def has_forgotten(self, refs: Iterable[str]) -> bool:
        """Return whether one of these keys is not to be kept in memory."""
        return any(self._forgotten.get(ref) for ref in refs)

    def forget_all(self) -> None:
        """Drop every key from memory: what is needed is read again."""
        self._recent.clear()

    def destroy(self, ref: str) -> bool:
        """Destroy a subject's key and id, for good; return whether they were there.

        (1) Delete the row whole: whoever comes again is somebody new, under another
            reference.
        (2) Empty the write-ahead file, which still has it.
        (3) Look whether it is gone; where it is not, write the file anew.

        INVARIANT: when it returns, no piece of them is left in the directory's files.

        Raises:
            LogUnavailableError: Somebody else reads the directory just now, so it is
                not known to be done.
        """
        query = "SELECT blind, wrapped_key, sealed_id FROM subject WHERE ref = ?"
        sql = _open_tables(self._place)
        try:
            with sql.transaction() as changes:  # (1)
                rows = changes.rows(query, (ref,))
                changes.change("DELETE FROM subject WHERE ref = ?", (ref,))
            if isinstance(self._place, Path):
                _empty_journal(sql)  # (2)
                secrets = [ref.encode(), *(secret for row in rows for secret in row)]
                if rows and _holds(self._place, secrets):  # (3)
                    sql.rows("VACUUM")
                    _empty_journal(sql)
        except sqlite3.Error as error:
            reason = f"the subject directory can't be written: {error}"
            raise LogUnavailableError(reason) from None
        finally:
            sql.close()
        return bool(rows)

    def meet(self, subjects: Sequence[Subject]) -> list[SubjectKey]:
        """Return the keys of subjects; those who are new are made known, durably.

        INVARIANT: a subject's key is durable before any leaf holds a tag made with
        it, or an erasure could never reach that leaf.

        Raises:
            sqlite3.Error: They could not be stored; none of them was.
            LogUnavailableError: They are not known to be stored.
        """
        blinds = [self.blind(one.namespace, one.id) for one in subjects]
        known = self._find(blinds, self._write)
        new = {
            blind: subject
            for blind, subject in zip(blinds, subjects, strict=True)
            if blind not in known
        }
        if new:
            # In one order everywhere, so that two replicas never wait for each other.
            rows = sorted(self._new_row(subject) for subject in new.values())
            with self._write.transaction() as changes:
                changes.change_all(
                    "INSERT INTO subject VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    rows,
                )
            known |= self._find(list(new), self._write)
        return [known[blind] for blind in blinds]

    def _find(self, blinds: Sequence[bytes], sql: Sql) -> dict[bytes, SubjectKey]:
        """Return those who are in the directory."""
        if not blinds:
            return {}
        marks = ", ".join("?" * len(blinds))
        query = f"SELECT blind, ref, wrapped_key FROM subject WHERE blind IN ({marks})"  # noqa: S608 - question marks
        return {
            blind: self._unwrap(ref, wrapped)
            for blind, ref, wrapped in sql.rows(query, blinds)
        }

    def _new_row(self, subject: Subject) -> tuple[bytes, str, bytes, bytes]:
        """Return the row of a subject with a fresh reference and key."""
        ref = b64url(self._entropy(REFERENCE_SIZE))
        key, nonce = self._entropy(SECRET_SIZE), self._entropy(NONCE_SIZE)
        wrapped = nonce + self._wrapping.encrypt(nonce, key, _key_context(ref))
        text = f"{subject.namespace}\x00{normalise(subject.id)}".encode()
        nonce = self._entropy(NONCE_SIZE)
        sealed = nonce + AESGCM(key).encrypt(nonce, text, _id_context(ref))
        return self.blind(subject.namespace, subject.id), ref, wrapped, sealed

    def _unwrap(self, ref: str, wrapped: bytes) -> SubjectKey:
        """Return a subject's key from its row."""
        try:
            key = self._wrapping.decrypt(
                wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], _key_context(ref)
            )
        except (InvalidTag, ValueError):
            raise VerificationError("a subject's key can't be unwrapped") from None
        return SubjectKey(ref, key)

    def check(self) -> None:
        """Verify every row: its key, the id sealed with it, and how it is found.

        Raises:
            VerificationError: A row is not what was written; its reference is named.
        """
        if self._is_local:
            problems = self._read.rows("PRAGMA integrity_check(1)")
            if problems != [("ok",)]:
                raise VerificationError(f"subjects: damaged: {problems[0][0]}")
        for row in self._read.rows(_ROWS):
            if not self._is_right(row):
                raise VerificationError(f"subjects: {row[0]!r} is not what was written")

    def fits(self) -> bool:
        """Return whether the keys are those that the directory was made with.

        A few rows are opened, since one may be damaged; an empty directory fits any.

        Raises:
            LogUnavailableError: The server can't be reached.
        """
        rows = self._read.rows(f"{_ROWS} LIMIT {_FEW}")
        return not rows or any(map(self._is_right, rows))

    def _is_right(self, row: Row) -> bool:
        """Return whether a row is what was written: key, id, and how it is found."""
        ref, blind, wrapped, sealed = row
        try:
            found = self._open_id(self._unwrap(ref, wrapped), sealed)
            return hmac.compare_digest(self.blind(*found), blind)
        except (VerificationError, TypeError, AttributeError, ValueError):
            return False

    def by_ref(self, ref: str) -> SubjectKey | None:
        """Return the subject with this reference; None when there is none (left)."""
        query = "SELECT ref, wrapped_key FROM subject WHERE ref = ?"
        for found, wrapped in self._read.rows(query, (ref,)):
            return self._unwrap(found, wrapped)
        return None

    def identity(self, ref: str) -> tuple[str, str] | None:
        """Return the namespace and the id behind a reference: for oversight alone.

        Raises:
            VerificationError: The row was tampered with.
        """
        subject = self.by_ref(ref)
        if subject is None:
            return None
        query = "SELECT sealed_id FROM subject WHERE ref = ?"
        [[sealed]] = self._read.rows(query, (ref,))
        return self._open_id(subject, sealed)

    @staticmethod
    def _open_id(subject: SubjectKey, sealed: bytes) -> tuple[str, str]:
        """Return the namespace and the id in a subject's row."""
        context = _id_context(subject.ref)
        try:
            text = AESGCM(subject.key).decrypt(
                sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context
            )
        except (InvalidTag, ValueError):
            raise VerificationError("a subject's id can't be opened") from None
        namespace, _, subject_id = text.decode().partition("\x00")
        return namespace, subject_id


def _empty_journal(sql: Sql) -> None:
    """Move SQLite's write-ahead file into the directory's file, and empty it."""
    [[is_busy, *_]] = sql.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    if is_busy:
        raise LogUnavailableError("the subject directory is being read")


def _holds(file: Path, secrets: Sequence[bytes]) -> bool:
    """Return whether a file holds a piece of secrets.

    SQLite overwrites what is deleted (`secure_delete`), and not the copies of it that
    it left behind when it moved rows from a page to another one.
    """
    pieces = [
        secret[at : at + _PIECE_SIZE]
        for secret in secrets
        for at in range(0, len(secret) - _PIECE_SIZE + 1, _PIECE_SIZE)
    ]
    tail = b""
    with file.open("rb") as stream:
        while content := stream.read(_CHUNK_SIZE):
            content = tail + content
            if any(piece in content for piece in pieces):
                return True
            tail = content[1 - _PIECE_SIZE :]
    return False


def _open_tables(place: Place) -> Sql:
    """Open the directory's writing side, with its tables."""
    with ExitStack() as undone:
        sql = undone.enter_context(closing(open_sql(place)))
        if isinstance(sql, SqliteSql):
            sql.connection.execute("PRAGMA journal_mode=WAL")
            sql.connection.execute("PRAGMA synchronous=FULL")
            sql.connection.execute("PRAGMA secure_delete=ON")
        sql.make(_TABLES)
        if isinstance(place, Path):
            # As for the log's file: SQLite swallows the error when this fails.
            sync_folder(place.resolve().parent)
        undone.pop_all()
    return sql


def _key_context(ref: str) -> bytes:
    return b"errand/subject-key/v1\n" + ref.encode()


def _id_context(ref: str) -> bytes:
    return b"errand/subject-id/v1\n" + ref.encode()
