"""Verifying a log offline, from a copy of its file and the log's public key.

Everything is computed anew from the stored leaves, and everything that is stored is
compared with it. Nothing is written. What does not hold is named.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from audit.keys import LogKeys
from audit.merkle import EMPTY_ROOT, CompactRange, leaf_hash
from audit.note import Verifier, b64, open_checkpoint, parse_vkey
from audit.receipt import verify_receipt
from audit.record import Kind, Leaf, Section, read_leaf
from audit.sealing import (
    OpenedSection,
    Sealer,
    guard,
    private_guard,
    split_sections,
)
from audit.sql import Place, Postgres, SqliteSql
from audit.store import FORMAT, Entry, LogReader, SignedHead
from audit.subjects import SUBJECTS_SCHEMA, SubjectDirectory
from audit.swaps import head_guard
from audit.tiles import FULL_TILE, TileId, integrate, tile_path, tiles_of_size
from schemas.canonical import Json
from schemas.errors import VerificationError

LOG_FILE: Final = "log.db"
"""The log's file in a data folder."""
SUBJECTS_FILE: Final = "subjects.db"
"""The subject directory's file in a data folder."""

_CHUNK = 4_096
"""Records between two reports of progress."""

Progress = Callable[[int, int], None]
"""Told how many records of how many are done."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found to hold."""

    origin: str
    records: int
    """Records in the file."""
    published: int
    """Records under the signed checkpoint; newer ones have receipts alone."""
    root: str
    """Root of the checkpoint, in base64."""
    by_kind: Mapping[str, int]
    tiles: int
    open_attempts: int
    """Look-ups that were accepted and have not ended."""
    sections: int
    """Sealed sections: each has its commitment in a leaf."""
    sections_opened: int
    """Sections that were opened and compared with their commitment."""
    receipts: int
    """Receipts that were given and found to be kept."""

    def as_json(self) -> Mapping[str, Json]:
        """Return the result as JSON."""
        return asdict(self)


def _nobody(_done: int, _of: int) -> None:
    """Report progress to nobody."""


def verify_log(
    log: Place,
    vkey: str,
    *,
    receipts: Sequence[bytes] = (),
    receipt_vkey: str | None = None,
    keys: LogKeys | None = None,
    progress: Progress = _nobody,
) -> Verified:
    """Verify a copied log.

    (1) The file is sound, and is the log of this key.
    (2) The checkpoint is signed.
    (3) Every record: gapless, its leaf of the one form and hashed anew, what stands
        beside it as it was written, its sections those that it commits to.
    (4) The roots of tree and checkpoint, recomputed; every tile, recomputed.
    (5) The look-ups that have not ended are those that the records say.
    (6) Each receipt is kept.

    Args:
        log: A copied data folder, a log's file, or a schema of a PostgreSQL database,
            which is read as of one instant.
        vkey: The log's public key.
        receipts: Receipts (R0) that must be kept.
        receipt_vkey: The key they are signed with.
        keys: The log's own keys: with them every section is opened as well.
        progress: Told how far it is.

    Raises:
        VerificationError: Something does not hold; the message names it.
    """
    verifier = parse_vkey(vkey)
    with open_still(log) as reader, _sealer(log, keys) as sealer:
        # (1): before anything in it is believed.
        _check_file(reader, verifier)
        # (2): who signs says what size and root must come out.
        heads = _check_heads(reader, verifier)
        sizes = {size for _, size, _ in heads}
        walk = _Walk(reader, verifier.name, sealer, sizes)
        # (3): the one pass over all records.
        walk.run(progress)
        # (4): the same leaves must give the same tree everywhere.
        tiles = _check_tree(reader, walk, heads)
        # (5): what waits to be ended decides what happens after a crash.
        _check_attempts(reader, walk)
        # (6): a promise is kept, or its signature convicts the log.
        kept = _check_receipts(reader, receipts, receipt_vkey)
    _, size, root = heads[-1] if heads else ("", 0, EMPTY_ROOT)
    return Verified(
        origin=verifier.name,
        records=walk.range.size,
        published=size,
        root=b64(root),
        by_kind={str(kind): n for kind, n in sorted(walk.kinds.items())},
        tiles=tiles,
        open_attempts=len(walk.attempts),
        sections=walk.sections,
        sections_opened=walk.opened,
        receipts=kept,
    )


@contextmanager
def open_still(log: Place) -> Iterator[LogReader]:
    """Open a log for reading, as of one instant; nothing is ever written.

    Raises:
        VerificationError: There is none, or it can't be read.
        LogUnavailableError: The server can't be reached.
    """
    if not isinstance(log, Path):
        with closing(LogReader.open(log)) as reader, reader.sql.snapshot():
            yield reader
        return
    with _opened(log / LOG_FILE if log.is_dir() else log) as reader:
        yield reader


@contextmanager
def _opened(file: Path) -> Iterator[LogReader]:
    """Open a log's file for reading, without a trace beside it.

    A write-ahead file that belongs to it is read as well, which SQLite can't do
    without writing: so both are copied away first.
    """
    if not file.is_file():
        raise VerificationError(f"there is no log at `{file.name}`")
    wal = file.with_name(file.name + "-wal")
    with tempfile.TemporaryDirectory(prefix="errand-verify-") as folder:
        if wal.is_file() and wal.stat().st_size:
            for source in (file, wal):
                shutil.copyfile(source, Path(folder, source.name))
            file, query = Path(folder, file.name), "mode=rw"
        else:
            query = "mode=ro&immutable=1"
        uri = f"{file.absolute().as_uri()}?{query}"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as opened:
            try:
                yield LogReader(SqliteSql(opened))
            except sqlite3.Error as error:
                raise VerificationError(f"`{file.name}`: {error}") from None


@contextmanager
def _sealer(log: Place, keys: LogKeys | None) -> Iterator[Sealer | None]:
    """Open the subject directory beside a log, where keys are given; a file's copy."""
    if keys is None:
        yield None
        return
    if not isinstance(log, Path):
        place = Postgres(log.url, SUBJECTS_SCHEMA)
        with closing(SubjectDirectory(place, keys.directory)) as directory:
            yield Sealer(keys.origin, keys.shard, directory)
        return
    source = log / SUBJECTS_FILE if log.is_dir() else log.with_name(SUBJECTS_FILE)
    if not source.is_file():
        raise VerificationError(f"there is no `{SUBJECTS_FILE}` beside the log")
    with tempfile.TemporaryDirectory(prefix="errand-verify-") as folder:
        for suffix in ("", "-wal"):
            name = source.name + suffix
            if source.with_name(name).is_file():
                shutil.copyfile(source.with_name(name), Path(folder, name))
        directory = SubjectDirectory(Path(folder, source.name), keys.directory)
        try:
            yield Sealer(keys.origin, keys.shard, directory)
        finally:
            directory.close()


def _check_file(reader: LogReader, verifier: Verifier) -> None:
    """Verify that a file is sound, and that this is the log of this key."""
    if isinstance(reader.sql, SqliteSql):
        problems = reader.sql.rows("PRAGMA integrity_check(1)")
        if problems != [("ok",)]:
            raise VerificationError(f"the file is damaged: {problems[0][0]}")
    if reader.meta() != {"format": FORMAT, "origin": verifier.name}:
        raise VerificationError("meta: not the origin of this key, or another format")


def _check_heads(
    reader: LogReader, verifier: Verifier
) -> Sequence[tuple[str, int, bytes]]:
    """Return what the head that was signed last says, and the one that is published."""
    return (
        *_check_head("checkpoint", reader.head(), verifier),
        *_check_head("published", reader.published(), verifier),
    )


def _check_head(
    name: str, head: SignedHead | None, verifier: Verifier
) -> Sequence[tuple[str, int, bytes]]:
    """Return name, size and root of a signed checkpoint; nothing before the first."""
    if head is None:
        return ()
    try:
        checkpoint = open_checkpoint(head.note.encode(), verifier)
    except VerificationError as error:
        raise VerificationError(f"{name}: {error}") from None
    check = head_guard(head.size, head.note, head.signed_ms)
    if head.size != checkpoint.size or head.guard != check:
        raise VerificationError(f"{name}: the row is not what was written")
    return ((name, checkpoint.size, checkpoint.root),)


class _Walk:
    """One pass over all records, with what it finds on the way."""

    def __init__(
        self, reader: LogReader, origin: str, sealer: Sealer | None, sizes: set[int]
    ) -> None:
        self._reader = reader
        self._origin = origin
        self._sealer = sealer
        tree = reader.tree()
        self._integrated = 0 if tree is None else tree[0]
        self._wanted = sizes | {self._integrated}
        self.range = CompactRange()
        self.roots: dict[int, bytes] = {0: EMPTY_ROOT}
        """Roots at the sizes that somebody vouched for."""
        self.tiles: dict[TileId, bytes] = {}
        """Partial tiles of the tree as it grows; full ones are compared and dropped."""
        self.kinds: dict[str, int] = {}
        self.attempts: dict[str, str] = {}
        self.sections = 0
        self.opened = 0

    def run(self, progress: Progress) -> None:
        """Read every record, in order."""
        size = self._reader.size()
        for start in range(0, size, _CHUNK):
            end = min(size, start + _CHUNK)
            hashes = [self._entry(entry) for entry in self._reader.entries(start, end)]
            if self.range.size != end:
                raise VerificationError(f"entry {self.range.size}: missing")
            self._grow(start, hashes)
            progress(end, size)

    def _entry(self, entry: Entry) -> bytes:
        """Verify one record, and return the hash of its leaf."""
        expected = self.range.size
        if entry.seq != expected:
            raise VerificationError(f"entry {expected}: missing")
        try:
            digest = leaf_hash(entry.leaf)
            leaf = read_leaf(entry.leaf)
            self._check(entry, leaf, digest)
        except (VerificationError, TypeError, AttributeError) as error:
            # A column of another type than was written is no better than a wrong one.
            raise VerificationError(f"entry {entry.seq}: {error}") from None
        self.kinds[leaf.kind] = self.kinds.get(leaf.kind, 0) + 1
        self.range.append(digest)
        if self.range.size in self._wanted:
            self.roots[self.range.size] = self.range.root()
        return digest

    def _check(self, entry: Entry, leaf: Leaf, digest: bytes) -> None:
        """Verify that all parts of a record belong to its leaf."""
        if digest != entry.leaf_hash:
            raise VerificationError("the leaf is not what was hashed")
        if leaf.id != entry.event_id or leaf.log != self._origin:
            raise VerificationError("the leaf is of another event or log")
        private = (entry.case_ref, entry.matter, entry.subject_refs, entry.actor_ref)
        if entry.guard != private_guard(digest, *private, entry.ends):
            raise VerificationError("the private columns are not what was written")
        if entry.sealed_guard != guard(digest, entry.sealed):
            raise VerificationError("the sealed sections are not what was written")
        names = [name for name, _, _ in split_sections(entry.sealed)]
        if sorted(names) != sorted(leaf.commitments):
            raise VerificationError("the sealed sections are not those of the leaf")
        self.sections += len(names)
        self._follow_attempt(entry, leaf)
        if self._sealer is not None:
            opened = self._sealer.open_sections(
                entry.event_id, entry.subject_refs, entry.sealed, leaf.commitments
            )
            self.opened += len(opened)
            _compare_matter(entry, opened.get(Section.MATTER))

    def _follow_attempt(self, entry: Entry, leaf: Leaf) -> None:
        """Keep the look-ups that have not ended, by what links their records."""
        if leaf.kind is Kind.REQUEST_ACCEPTED and entry.case_ref is not None:
            self.attempts[entry.event_id] = entry.case_ref
        elif entry.ends is not None:
            self.attempts.pop(entry.ends, None)

    def _grow(self, start: int, hashes: Sequence[bytes]) -> None:
        """Take leaves into the tree's tiles, and compare those that are full."""
        added = hashes[: max(0, self._integrated - start)]
        changed = integrate(
            lambda level, number: self.tiles.get((level, number), b""), start, added
        )
        self.tiles.update(changed)
        for tile in [tile for tile in changed if len(changed[tile]) == FULL_TILE]:
            self.compare(tile)

    def compare(self, tile: TileId) -> None:
        """Verify a stored tile against the one that the leaves give."""
        if self._reader.tile(*tile) != self.tiles.pop(tile):
            raise VerificationError(f"{tile_path(*tile)}: not what the leaves give")


def _compare_matter(entry: Entry, section: OpenedSection | None) -> None:
    """Verify that an entry's case and matter are those that its leaf commits to."""
    value = section.value if section is not None else None
    if not isinstance(value, dict) or "matter" not in value:
        return
    if value["case"] != entry.case_ref or value["matter"] != entry.matter:
        raise VerificationError("the private columns are not those of the section")


def _check_tree(
    reader: LogReader, walk: _Walk, heads: Sequence[tuple[str, int, bytes]]
) -> int:
    """Verify the roots of tree and checkpoint, and the tiles; return how many."""
    vouched = list(heads)
    tree = reader.tree()
    if tree is not None:
        vouched.append(("tree", *tree))
    for name, size, root in vouched:
        if size not in walk.roots:
            raise VerificationError(f"{name}: of more records than there are")
        if walk.roots[size] != root:
            raise VerificationError(f"{name}: the records give another root")
    if heads and (tree is None or tree[0] < heads[0][1]):
        raise VerificationError("tree: behind the checkpoint")
    for tile in sorted(walk.tiles):
        walk.compare(tile)
    expected = [tile for tile, _ in tiles_of_size(0 if tree is None else tree[0])]
    if reader.tile_ids() != sorted(expected):
        raise VerificationError("tile: there is one too many, or one is missing")
    return len(expected)


def _check_attempts(reader: LogReader, walk: _Walk) -> None:
    """Verify the list of look-ups that have not ended."""
    if reader.attempts() != walk.attempts:
        raise VerificationError("attempt: not the look-ups that have not ended")


def _check_receipts(
    reader: LogReader, receipts: Sequence[bytes], receipt_vkey: str | None
) -> int:
    """Verify that each receipt is kept, and return how many there are."""
    if receipts and receipt_vkey is None:
        raise VerificationError("receipts can't be verified without their key")
    verifier = parse_vkey(receipt_vkey) if receipt_vkey is not None else None
    for number, note in enumerate(receipts):
        if verifier is None:
            continue
        try:
            receipt = verify_receipt(note, verifier)
        except VerificationError as error:
            raise VerificationError(f"receipt {number}: {error}") from None
        entry = next(reader.entries(receipt.index, receipt.index + 1), None)
        if (
            entry is None
            or entry.leaf_hash != receipt.leaf_hash
            or entry.event_id != receipt.event
        ):
            raise VerificationError(
                f"receipt {number}: the log broke its promise at {receipt.index}"
            )
    return len(receipts)
