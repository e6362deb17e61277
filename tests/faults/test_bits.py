"""One flipped bit in any stored file: it is named, or nothing that was kept changed."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.fetching import fetch_from_folder
from audit.fsck import check_log
from audit.keys import LogKeys
from audit.mirror import mirror
from audit.objects import FolderObjects
from audit.record import Subject
from audit.tiles import entry_bundle, split_bundle
from audit.verify import verify_log
from schemas.errors import UnverifiableError, VerificationError
from tests.audit.examples import FATHER, MOTHER, an_event, open_room

RECORDS = 300
BITS = 12
"""Bits that are flipped in each file of a database, spread over its pages."""
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """A log as it was left by a crash: its files, and what outsiders hold of it."""

    folder: Path
    keys: LogKeys
    receipts: Sequence[bytes]

    def check(self, folder: Path) -> None:
        """Verify everything with all that there is: keys, receipts, and the last head.

        Raises:
            VerificationError: Something does not hold; the message names it.
        """
        found = verify_log(
            folder,
            self.keys.log.verifier.vkey,
            receipts=self.receipts,
            receipt_vkey=self.keys.receipt.verifier.vkey,
            keys=self.keys,
        )
        if found.published < RECORDS:
            raise VerificationError("the log is behind the head that was seen")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Three hundred records, of which a part is in the write-ahead file alone."""
    folder = tmp_path_factory.mktemp("log")
    room = open_room(folder)
    who = (MOTHER, FATHER)
    others = [Subject("mother", "citizen_id", f"planted-{n}") for n in range(60)]
    events = [an_event(subjects=who) for _ in range(RECORDS - 70)]
    events += [an_event(subjects=(one,)) for one in others]
    places = asyncio.run(room.log.append(events))
    room.publisher.publish()
    room.sqlite.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    places += asyncio.run(room.log.append([an_event() for _ in range(10)]))
    room.publisher.publish()
    keep(folder, folder / "left")
    with room.reader() as reader:
        mirror(reader, FolderObjects(folder / "served"))
    receipts = [room.log.sign(place).encode() for place in places]
    room.close()
    keep(folder, folder / "closed")
    return Kept(folder, room.keys, receipts)


def keep(folder: Path, target: Path) -> None:
    """Copy the files of a log; what is mapped into memory does not survive."""
    target.mkdir()
    for file in folder.glob("*.db*"):
        if not file.name.endswith("-shm"):
            shutil.copy(file, target)


def contents(folder: Path) -> Mapping[str, Sequence[Row]]:
    """Return every row of every table in a data folder."""
    found: dict[str, Sequence[Row]] = {}
    for file in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(file)) as database:
            tables = database.execute("SELECT name FROM sqlite_master ORDER BY name")
            for (name,) in tables.fetchall():
                if not name.startswith(("sqlite_", "entry_is_")):
                    rows = database.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608 - our own tables
                    found[f"{file.name} {name}"] = rows
    return found


def flipped(file: Path, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[bit >> 3] ^= 1 << (bit & 7)
    file.write_bytes(content)


def fresh(source: Path, target: Path) -> Path:
    """Return a copy that may be changed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("closed", "log.db"),
        ("closed", "subjects.db"),
        ("left", "log.db-wal"),
        ("left", "subjects.db-wal"),
    ],
)
def test_a_flipped_bit_in_a_database_is_found_or_changes_nothing(
    kept: Kept, tmp_path: Path, state: str, name: str
) -> None:
    """Whatever page it is in; a bit in space that nothing uses changes no row."""
    left = kept.folder / state
    before = contents(fresh(left, tmp_path / "copy"))
    noise = random.Random(name)  # noqa: S311 - which bits a test flips
    size = 8 * (left / name).stat().st_size
    found = 0
    for number in range(BITS):
        copy = fresh(left, tmp_path / "copy")
        bit = size * number // BITS + noise.randrange(size // BITS)
        flipped(copy / name, bit)
        try:
            kept.check(copy)
        except (VerificationError, UnverifiableError):  # also: it is no log any more
            found += 1
        else:
            assert before == contents(copy), bit

    assert found > BITS // 4


@pytest.fixture
def served(kept: Kept, tmp_path: Path) -> Path:
    """Return a copy of the log as it is served."""
    return fresh(kept.folder / "served", tmp_path / "served")


def named(folder: Path, kept: Kept) -> str:
    """Return what the check of a served log complains about."""
    fetch = fetch_from_folder(folder)
    with pytest.raises(VerificationError) as caught:
        check_log(fetch, kept.keys.log.verifier.vkey, lambda _done, _of: None)
    return str(caught.value)


def pieces(folder: Path) -> Iterator[Path]:
    """Yield the pieces that the last checkpoint implies, and the checkpoint."""
    for file in sorted(folder.rglob("*")):
        path = str(file.relative_to(folder))
        if file.is_file() and not path.endswith(f".p/{(RECORDS - 10) % 256}"):
            yield file


def resource(file: Path, folder: Path) -> str:
    """Return how a piece is named; a bundle by the tile over it."""
    path = str(file.relative_to(folder)).partition(".p/")[0]
    return path.replace("tile/entries", "tile/0")


def test_whatever_happens_to_a_served_file_it_is_named(
    kept: Kept, served: Path
) -> None:
    """One bit flipped, cut short by a byte, gone: each piece, and the checkpoint."""
    noise = random.Random(6)  # noqa: S311 - which bits a test flips
    for file in pieces(served):
        whole, name = file.read_bytes(), resource(file, served)
        for _ in range(5):
            flipped(file, noise.randrange(8 * len(whole)))
            told = named(served, kept).replace("tile/entries", "tile/0")
            file.write_bytes(whole)

            assert name == "checkpoint" or name in told
        file.write_bytes(whole[:-1])
        cut = named(served, kept)
        file.unlink()
        gone = named(served, kept)
        file.write_bytes(whole)

        assert cut
        assert f"{file.relative_to(served)}: missing" == gone
    checked = check_log(
        fetch_from_folder(served), kept.keys.log.verifier.vkey, lambda _done, _of: None
    )

    assert RECORDS == checked.entries


def test_two_served_entries_that_changed_places_are_named(
    kept: Kept, served: Path
) -> None:
    """The order is part of what is signed: in a full bundle, and in a partial one."""
    for path, tile in (("000", "tile/0/000"), (f"001.p/{RECORDS - 256}", "tile/0/001")):
        file = served / "tile/entries" / path
        whole = file.read_bytes()
        entries = list(split_bundle(whole))
        entries[3], entries[4] = entries[4], entries[3]
        file.write_bytes(entry_bundle(entries))
        told = named(served, kept)
        file.write_bytes(whole)

        assert tile in told
