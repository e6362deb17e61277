"""Offline verification: an honest log passes, and every flipped bit is named."""

import asyncio
import hashlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from audit.engine_sqlite import _SCHEMA, copy_log
from audit.keys import LogKeys, make_keys
from audit.note import Signer
from audit.receipt import Receipt, sign_receipt, verify_receipt
from audit.record import Kind
from audit.sections import guard, private_guard
from audit.swaps import PUBLISHED_TABLES
from audit.verify import Verified, verify_log
from schemas.errors import UnverifiableError, VerificationError
from tests.audit.examples import (
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    open_room,
    some_evidence,
)

PUBLISHED = 300
RECORDS = 303


class Log:
    """A finished log on disk, with its keys and receipts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = make_keys(ORIGIN)
        room = open_room(folder, self.keys)
        self.receipts = asyncio.run(self._fill(room))
        room.close()

    @staticmethod
    async def _fill(room: Room) -> list[bytes]:
        """Record 303 events, of which 300 are published."""
        log = room.log
        begun = [an_event(subjects=(MOTHER, FATHER)) for _ in range(100)]
        places = await log.append(begun)
        places += await log.append(
            [an_event(Kind.REQUEST_ENDED, ends=event.id) for event in begun[:98]]
        )
        released = [
            an_event(Kind.EVIDENCE_RELEASED, evidence=some_evidence())
            for _ in range(PUBLISHED - len(places))
        ]
        places += await log.append(released)
        room.publisher.publish()
        places += await log.append([an_event(Kind.CASE_CLOSED) for _ in range(3)])
        return [log.sign(place).encode() for place in places]

    def verify(self, path: Path | None = None, *, opened: bool = False) -> Verified:
        """Verify it, with every receipt."""
        return verify_log(
            path or self.folder,
            self.keys.log.verifier.vkey,
            receipts=self.receipts,
            receipt_vkey=self.keys.receipt.verifier.vkey,
            keys=self.keys if opened else None,
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Return one finished log for the tests of this module, which do not change it."""
    return Log(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished: Log, tmp_path: Path) -> Path:
    """Return a copy of the finished log's file, to be tampered with."""
    return Path(shutil.copy(finished.folder / "log.db", tmp_path / "log.db"))


def change(file: Path, *statements: str) -> None:
    """Change a log's file without its own protection."""
    with_triggers = sqlite3.connect(file, isolation_level=None)
    for trigger in ("entry_is_never_changed", "entry_is_never_removed"):
        with_triggers.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    for statement in statements:
        assert with_triggers.execute(statement).rowcount > 0
    with_triggers.close()


def test_an_honest_log_verifies(finished: Log) -> None:
    """Everything holds and is counted, with keys and without."""
    outside, inside = finished.verify(), finished.verify(opened=True)

    assert (RECORDS, PUBLISHED, RECORDS) == (
        outside.records,
        outside.published,
        outside.receipts,
    )
    assert 2 == outside.open_attempts
    assert 98 == outside.by_kind["request.ended"]
    assert 0 == outside.sections_opened
    assert inside.sections == inside.sections_opened == outside.sections > 0
    assert {"records": RECORDS, "origin": ORIGIN}.items() <= outside.as_json().items()


def test_verification_writes_nothing(finished: Log, tmp_path: Path) -> None:
    """Not a byte and not a file changes, even in a folder with a write-ahead file."""
    folder = tmp_path / "copied"
    shutil.copytree(finished.folder, folder)
    connection = sqlite3.connect(folder / "log.db", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE unrelated (a)")
    shutil.copytree(folder, tmp_path / "with-wal")
    connection.close()
    folder = tmp_path / "with-wal"
    (folder / "log.db-shm").unlink()

    def digests() -> dict[str, str]:
        return {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.iterdir()
        }

    before = digests()
    found = finished.verify(folder, opened=True)

    assert "log.db-wal" in before
    assert RECORDS == found.records
    assert before == digests()


def test_progress_is_told_up_to_the_end(finished: Log) -> None:
    """The last report is of all records."""
    told: list[tuple[int, int]] = []
    verify_log(
        finished.folder / "log.db",
        finished.keys.log.verifier.vkey,
        progress=lambda done, of: told.append((done, of)),
    )

    assert (RECORDS, RECORDS) == told[-1]


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    """A log without records has the empty tree's root and no checkpoint."""
    room = open_room(tmp_path)
    room.close()
    found = verify_log(tmp_path, room.keys.log.verifier.vkey)

    assert (0, 0, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=") == (
        found.records,
        found.published,
        found.root,
    )


def columns() -> list[tuple[str, str]]:
    """Return every column of every table that a log has."""
    schema = sqlite3.connect(":memory:")
    schema.executescript(_SCHEMA + PUBLISHED_TABLES.sqlite)
    tables = schema.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    found = [
        (table, column)
        for (table,) in tables.fetchall()
        for (column,) in schema.execute(
            "SELECT name FROM pragma_table_info(?)", (table,)
        )
    ]
    schema.close()
    return [
        (table, column) for table, column in found if (table, column) not in NOT_STORED
    ]


WITHOUT_ROWID = {"meta", "attempt"}
NOT_STORED = {("tree", "id"), ("checkpoint", "id"), ("published", "id")}
"""Columns that can hold one value alone, by a check of their table."""


def flip(value: object) -> object:
    """Return a value with one bit in its middle flipped."""
    if isinstance(value, int):
        return value ^ 1 << 20  # far enough not to meet another row
    data = bytearray(value.encode() if isinstance(value, str) else bytes(value))  # type: ignore[call-overload] # bytes or text
    data[len(data) // 2] ^= 1
    return data.decode() if isinstance(value, str) else bytes(data)


@pytest.mark.parametrize("row", [0, 1, -1])
@pytest.mark.parametrize(("table", "column"), columns())
def test_a_flipped_bit_in_any_column_of_any_table_is_named(
    finished: Log, copy: Path, table: str, column: str, row: int
) -> None:
    """Whatever is stored, one bit of it can't change unseen; the message says where."""
    change(copy)
    connection = sqlite3.connect(copy, isolation_level=None)
    where = column if table in WITHOUT_ROWID else "rowid"
    rows = connection.execute(
        f"SELECT {where}, {column} FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608 - names of the schema
    ).fetchall()
    key, value = rows[min(row, len(rows) - 1)]
    connection.execute(
        f"UPDATE {table} SET {column} = ? WHERE {where} = ?",  # noqa: S608 - names of the schema
        (flip(value), key),
    )
    connection.close()

    with pytest.raises(VerificationError) as refused:
        finished.verify(copy)
    assert str(refused.value).startswith(table)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("DELETE FROM entry WHERE seq = 17", "entry 17: missing"),
        ("DELETE FROM entry WHERE seq = 302", "receipt 302"),
        ("DELETE FROM tile WHERE level = 0 AND number = 0", "tile/0/000"),
        ("DELETE FROM tile WHERE level = 0 AND number = 1", "tile/0/001"),
        ("INSERT INTO tile VALUES (3, 0, x'00')", "one too many"),
        ("UPDATE tree SET size = 100", "tree"),
        ("UPDATE tree SET size = 1000", "tree: of more entries"),
        ("DELETE FROM tree", "tree: behind"),
        ("DELETE FROM attempt", "attempt"),
        ("UPDATE entry SET sealed = x'' WHERE seq = 3", "entry 3"),
        ("UPDATE entry SET leaf = 'text' WHERE seq = 3", "entry 3"),
        ("UPDATE entry SET matter = x'00' WHERE seq = 3", "entry 3"),
    ],
)
def test_what_is_taken_away_or_added_is_named(
    finished: Log, copy: Path, statement: str, named: str
) -> None:
    """Rows removed, added or of another type are found, and named."""
    change(copy, statement)

    with pytest.raises(VerificationError, match=named):
        finished.verify(copy)


def test_two_records_that_changed_places_are_found(finished: Log, copy: Path) -> None:
    """The order of records is part of what is signed."""
    change(
        copy,
        "UPDATE entry SET seq = -1 WHERE seq = 7",
        "UPDATE entry SET seq = 7 WHERE seq = 8",
        "UPDATE entry SET seq = 8 WHERE seq = -1",
    )

    with pytest.raises(VerificationError):
        finished.verify(copy)


def test_a_rewritten_log_breaks_its_receipts(finished: Log, tmp_path: Path) -> None:
    """A log written anew with the same keys is whole, and convicted by a receipt."""
    room = open_room(tmp_path, finished.keys)
    asyncio.run(room.log.append([an_event()]))
    room.publisher.publish()
    room.close()

    verify_log(tmp_path, finished.keys.log.verifier.vkey)
    with pytest.raises(VerificationError, match="receipt 0: the log broke its promise"):
        finished.verify(tmp_path)


@pytest.mark.parametrize("change", ["event", "index", "leaf_hash"])
def test_a_promise_of_something_else_is_broken(finished: Log, change: str) -> None:
    """Event, index and leaf hash of a genuine receipt must all be those of the log."""
    signer = finished.keys.receipt
    kept = verify_receipt(finished.receipts[5], signer.verifier)
    other: dict[str, object] = {
        "event": an_event().id,
        "index": kept.index + 1,
        "leaf_hash": bytes(32),
    }
    broken = replace(kept, **{change: other[change]})  # type: ignore[arg-type] # by name

    with pytest.raises(VerificationError, match="receipt 0: the log broke its promise"):
        verify_log(
            finished.folder,
            finished.keys.log.verifier.vkey,
            receipts=[sign_receipt(signer, broken).encode()],
            receipt_vkey=signer.verifier.vkey,
        )


def test_a_receipt_of_another_key_is_named(finished: Log) -> None:
    """A forged receipt convicts nobody."""
    forger = Signer(f"{ORIGIN}/receipt", bytes(32))
    forged = sign_receipt(forger, Receipt(an_event().id, 0, bytes(32), 0))
    vkey = finished.keys.receipt.verifier.vkey

    with pytest.raises(VerificationError, match="receipt 0"):
        verify_log(
            finished.folder,
            finished.keys.log.verifier.vkey,
            receipts=[forged.encode()],
            receipt_vkey=vkey,
        )
    with pytest.raises(VerificationError, match="without their key"):
        verify_log(
            finished.folder,
            finished.keys.log.verifier.vkey,
            receipts=[forged.encode()],
        )


def test_a_checkpoint_of_another_key_is_refused(finished: Log) -> None:
    """Under the same name, another key is another log."""
    stranger = make_keys(ORIGIN).log.verifier.vkey

    with pytest.raises(VerificationError, match="checkpoint"):
        verify_log(finished.folder, stranger)
    with pytest.raises(VerificationError, match="meta"):
        verify_log(finished.folder, make_keys("other.example").log.verifier.vkey)


def test_private_columns_rewritten_with_care_are_found_with_the_keys(
    finished: Log, copy: Path, tmp_path: Path
) -> None:
    """A forger who mends the check values is found by whoever can open the sections."""
    shutil.copy(finished.folder / "subjects.db", tmp_path / "subjects.db")
    connection = sqlite3.connect(copy, isolation_level=None)
    digest, subjects, actor, ends = connection.execute(
        "SELECT leaf_hash, subject_refs, actor_ref, ends FROM entry WHERE seq = 250"
    ).fetchone()
    check = private_guard(digest, "forged", "newborn@1", subjects, actor, ends)
    connection.execute(
        "UPDATE entry SET case_ref = 'forged', guard = ? WHERE seq = 250", (check,)
    )
    connection.close()

    finished.verify(copy)
    with pytest.raises(VerificationError, match="entry 250: the private columns"):
        finished.verify(copy, opened=True)


def test_sections_taken_away_with_care_are_found(finished: Log, copy: Path) -> None:
    """The leaf says which there were, though the check value is mended."""
    connection = sqlite3.connect(copy, isolation_level=None)
    digest, sealed = connection.execute(
        "SELECT leaf_hash, sealed FROM entry WHERE seq = 250"
    ).fetchone()
    connection.execute(
        "UPDATE entry SET sealed = x'', sealed_guard = ? WHERE seq = 250",
        (guard(digest, b""),),
    )
    connection.close()

    assert sealed
    with pytest.raises(VerificationError, match="entry 250: the sealed sections are"):
        finished.verify(copy)


def test_what_is_no_log_is_refused(finished: Log, tmp_path: Path) -> None:
    """No file, an empty one, another database, or one that is cut short."""
    vkey = finished.keys.log.verifier.vkey
    with pytest.raises(UnverifiableError, match="no log"):
        verify_log(tmp_path, vkey)
    file = tmp_path / "log.db"
    for content, error in (
        (b"", UnverifiableError),
        (b"x" * 5_000, UnverifiableError),
        ((finished.folder / "log.db").read_bytes()[:50_000], VerificationError),
        ((finished.folder / "subjects.db").read_bytes(), UnverifiableError),
    ):
        file.write_bytes(content)
        with pytest.raises(error, match=r"`log\.db`"):
            verify_log(file, vkey)


def test_keys_without_the_directory_are_refused(finished: Log, copy: Path) -> None:
    """Opening sections needs the subject directory beside the log."""
    with pytest.raises(UnverifiableError, match=r"subjects\.db"):
        finished.verify(copy, opened=True)


def test_a_log_in_use_can_be_copied_and_verified(tmp_path: Path) -> None:
    """A copy taken while the log is open is whole."""
    room = open_room(tmp_path)
    asyncio.run(room.log.append([an_event() for _ in range(10)]))
    room.publisher.publish()
    copy_log(room.path, tmp_path / "copy.db")
    asyncio.run(room.log.append([an_event()]))
    keys: LogKeys = room.keys
    found = verify_log(tmp_path / "copy.db", keys.log.verifier.vkey)
    with pytest.raises(FileExistsError):
        copy_log(room.path, tmp_path / "copy.db")
    room.close()

    assert (10, 10) == (found.records, found.published)
