"""Verifying a log offline, from a copy of its file and the log's public key.

Everything is computed anew from the stored leaves, and everything that is stored is
compared with it. Nothing is written. What does not hold is named.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from audit.anchor import LIST, Anchored
from audit.demands import Demands
from audit.fetching import (
    PUBLIC_FOLDER,
    fetch_from_file,
    fetch_from_folder,
    open_still,
)
from audit.fsck import Progress
from audit.growing import Growing, Vouched
from audit.keys import LogKeys
from audit.leaves import Leaves, Seen
from audit.ledger import ERASURES_FILE, ERASURES_SCHEMA, erased_subjects
from audit.merkle import EMPTY_ROOT, leaf_hash
from audit.note import Verifier, b64, open_checkpoint, parse_vkey
from audit.proving import open_tree
from audit.record import Kind, Section, read_leaf
from audit.resume import Keeper
from audit.sealing import (
    OpenedSection,
    Sealer,
    guard,
    private_guard,
    section_names,
)
from audit.sql import Place, Postgres, SqliteSql
from audit.store import FORMAT, Entry, LogReader, SignedHead
from audit.subjects import SUBJECTS_SCHEMA, SubjectDirectory
from audit.swaps import head_guard
from audit.tiles import TileId, tile_path, tiles_of_size
from schemas.canonical import Json
from schemas.errors import VerificationError

SHARDS_FOLDER: Final = "shards"
"""The folder of later shards in a data folder."""
SUBJECTS_FILE: Final = "subjects.db"
"""The subject directory's file in a data folder."""

_CHUNK = 4_096
"""Records between two reports of progress."""
_ACCEPTED = Kind.REQUEST_ACCEPTED.value


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
    sections_erased: int
    """Sections that nobody can open any more: a subject was erased."""
    receipts: int
    """Receipts that were given and found to be kept."""
    cosigned: Mapping[str, int] = field(default_factory=dict)
    """Who has cosigned, and when, in seconds since 1970."""
    anchored: Anchored | None = None
    """What anchors show; None where none are demanded."""

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
    """Verify a copied log, as `verify_stored` does, with the usual demands."""
    demands = Demands(vkey, receipts=receipts, receipt_vkey=receipt_vkey)
    return verify_stored(log, demands, keys=keys, progress=progress)


def verify_stored(
    log: Place,
    demands: Demands,
    *,
    keys: LogKeys | None = None,
    progress: Progress = _nobody,
    state_file: Path | None = None,
) -> Verified:
    """Verify a log where it is kept: a copy of its file, or its database.

    (1) The file is sound, and is the log of this key.
    (2) The checkpoints are signed, and cosigned as the policy demands.
    (3) Every record, and what stands beside it; from these leaves, roots and tiles.
    (4) The look-ups that have not ended are those that the records say.
    (5) Each receipt is kept, and each anchor holds.

    Args:
        log: A data folder's copy, a log's file, or a PostgreSQL schema at one instant.
        demands: What must hold.
        keys: The log's own keys: with them every section is opened as well.
        progress: Told how far it is.
        state_file: Keeps how far this log is verified, from run to run.

    Raises:
        VerificationError: Something does not hold; the message names it.
        SettingsError: The state file is of something else.
    """
    verifier = parse_vkey(demands.vkey)
    keeper = Keeper(state_file, verifier, "file" if keys is None else "file, opened")
    with open_still(log) as reader, open_sealer(log, keys) as sealer:
        # (1): before anything in it is believed.
        _check_file(reader, verifier, is_first=not keeper.tally)
        # (2): who signs says what size and root must come out.
        heads = _check_heads(reader, verifier)
        cosigned = _check_published(reader, demands, verifier)
        # (3): the one pass over all records.
        walk = _Walk(reader, verifier.name, _opener(log, sealer), keeper.tally)
        growing = _grow(reader, heads, keeper)
        _run(walk, growing, keeper, progress)
        # (4): what waits to be ended decides what happens after a crash.
        _check_attempts(reader, walk)
        # (5): a promise is kept, or its signature convicts the log.
        kept = _check_receipts(reader, demands)
        anchored = _check_anchors(log, reader, demands)
    _, size, root = heads[-1] if heads else ("", 0, EMPTY_ROOT)
    return Verified(
        origin=verifier.name,
        records=walk.size,
        published=size,
        root=b64(root),
        by_kind=dict(sorted(walk.leaves.kinds.items())),
        tiles=growing.compared,
        open_attempts=len(walk.attempts),
        sections=walk.sections,
        sections_opened=walk.opened,
        sections_erased=walk.erased,
        receipts=kept,
        cosigned=cosigned,
        anchored=anchored,
    )


def _run(walk: "_Walk", growing: Growing, keeper: Keeper, progress: Progress) -> None:
    """Read all records: first those in the tree, which need not be read again."""
    walk.size = growing.size
    size, (integrated, _) = walk.reader.size(), _tree(walk.reader)
    with keeper.keeping(growing.edge, walk.tally) as reached:
        for at in walk.run(min(size, integrated), growing.add):
            reached(at)
            progress(at, size)
        growing.finish()
    _check_tiles(walk.reader, integrated)
    for at in walk.run(size, lambda _: None):
        progress(at, size)


def _tree(reader: LogReader) -> tuple[int, bytes]:
    return reader.tree() or (0, EMPTY_ROOT)


@contextmanager
def open_sealer(log: Place, keys: LogKeys | None) -> Iterator[Sealer | None]:
    """Open the subject directory beside a log, where keys are given; a file's copy.

    Raises:
        VerificationError: There is none.
    """
    if keys is None:
        yield None
        return
    if not isinstance(log, Path):
        place = Postgres(log.url, SUBJECTS_SCHEMA)
        with closing(SubjectDirectory(place, keys.directory)) as directory:
            yield Sealer(keys.origin, keys.shard, directory)
        return
    source = _beside(log, SUBJECTS_FILE)
    if not source.is_file():
        raise VerificationError(f"there is no `{SUBJECTS_FILE}` beside the log")
    with tempfile.TemporaryDirectory(prefix="errand-verify-") as folder:
        for suffix in ("", "-wal"):
            name = source.name + suffix
            if source.with_name(name).is_file():
                shutil.copyfile(source.with_name(name), Path(folder, name))
        with _naming_subjects():
            directory = SubjectDirectory(Path(folder, source.name), keys.directory)
        try:
            yield Sealer(keys.origin, keys.shard, directory)
        finally:
            directory.close()


@contextmanager
def _naming_subjects() -> Iterator[None]:
    """Say of a damaged file that it is the subject directory's."""
    try:
        yield
    except sqlite3.Error as error:
        raise VerificationError(f"`{SUBJECTS_FILE}`: {error}") from None


def _opener(log: Place, sealer: Sealer | None) -> "_Opener | None":
    """Return what opens sections, with what the ledger beside the log has erased.

    Raises:
        VerificationError: A row of the subject directory is not what was written.
    """
    ledger: Place
    if sealer is None:
        return None
    with _naming_subjects():
        sealer.directory.check()
    if not isinstance(log, Path):
        ledger = Postgres(log.url, ERASURES_SCHEMA)
    else:
        ledger = _beside(log, ERASURES_FILE)
    return _Opener(sealer, erased_subjects(ledger))


def _beside(log: Path, name: str) -> Path:
    """Return where a file of the data folder is that a log's file lies in.

    A later shard lies two folders below it.
    """
    folder = log if log.is_dir() else log.parent
    if folder.parent.name == SHARDS_FOLDER and not (folder / name).is_file():
        folder = folder.parent.parent
    return folder / name


def _check_file(reader: LogReader, verifier: Verifier, *, is_first: bool) -> None:
    """Verify that the file is sound and is the log of this key.

    SQLite's own check reads the whole file: an update does without it, since what was
    added is compared with leaves and tiles all the same.
    """
    if is_first and isinstance(reader.sql, SqliteSql):
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


def _check_published(
    reader: LogReader, demands: Demands, verifier: Verifier
) -> Mapping[str, int]:
    """Return who has cosigned what outsiders see."""
    published = reader.published()
    if published is not None:
        return demands.check_quorum(published.note.encode(), verifier)
    if demands.policy is not None and not demands.policy.is_met(frozenset()):
        raise VerificationError("published: nothing that witnesses have cosigned")
    return {}


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


class _Opener(NamedTuple):
    """What opens sections."""

    sealer: Sealer
    erased: frozenset[str]
    """References of everybody who was erased: what speaks of them can't be opened."""


class _Walk:
    """One pass over all records, with what it finds on the way."""

    def __init__(
        self,
        reader: LogReader,
        origin: str,
        opener: _Opener | None,
        tally: Mapping[str, Json],
    ) -> None:
        """Begin, or go on from what an earlier run has counted."""
        self.reader = reader
        self._opener = opener
        self.size = 0
        """Records that were read, or had been by an earlier run."""
        self.leaves = Leaves(origin, cast("dict[str, int]", tally.get("kinds", {})))
        self.attempts = dict(cast("dict[str, str]", tally.get("attempts", {})))
        self.sections = cast("int", tally.get("sections", 0))
        self.opened = cast("int", tally.get("opened", 0))
        self.erased = cast("int", tally.get("erased", 0))

    def tally(self) -> Mapping[str, Json]:
        """Return what was counted, to go on from later."""
        return {
            "kinds": dict(self.leaves.kinds),
            "attempts": dict(self.attempts),
            "sections": self.sections,
            "opened": self.opened,
            "erased": self.erased,
        }

    def run(self, end: int, add: Callable[[list[bytes]], None]) -> Iterator[int]:
        """Read the records up to `end`, in order, and yield how far it is.

        Args:
            end: How many records there are, or have to be.
            add: Takes the hashes of their leaves.
        """
        while self.size < end:
            stop = min(end, self.size + _CHUNK)
            rows = self.reader.rows(self.size, stop)
            add(self._quickly(rows) or [self._entry(row) for row in rows])
            if self.size != stop:
                raise VerificationError(f"entry {self.size}: missing")
            yield stop

    def _quickly(self, rows: Sequence[tuple[Any, ...]]) -> list[bytes] | None:
        """Verify many records at once, all that `_entry` does for each.

        Returns:
            The hashes of their leaves; None where anything is not as plain as almost
            always, for `_entry` to say what.
        """
        if self._opener is not None:
            return None
        try:
            hashes = [leaf_hash(row[2]) for row in rows]
            checks = [
                (private_guard(digest, *row[4:9]), guard(digest, row[10]))
                for digest, row in zip(hashes, rows, strict=True)
            ]
            seen = self.leaves.see_plain([row[2] for row in rows])
            sections = [section_names(row[10]) for row in rows]
        except (VerificationError, TypeError, AttributeError):
            return None
        start = self.size
        if (
            seen is None
            or [row[0] for row in rows] != list(range(start, start + len(rows)))
            or [row[3] for row in rows] != hashes
            or [(row[9], row[11]) for row in rows] != checks
            or [row[1] for row in rows] != [one.event for one in seen]
            or sections != [one.sections for one in seen]
        ):
            return None
        self.leaves.count(seen)
        self.sections += sum(map(len, sections))
        for row, one in zip(rows, seen, strict=True):
            self._follow_attempt(one, row[4], row[8])
        self.size += len(rows)
        return hashes

    def _entry(self, row: tuple[Any, ...]) -> bytes:
        """Verify one record, and return the hash of its leaf."""
        if row[0] != self.size:
            raise VerificationError(f"entry {self.size}: missing")
        try:
            digest = leaf_hash(row[2])
            self._check(row, digest, self.leaves.see(row[2]))
        except (VerificationError, TypeError, AttributeError) as error:
            # A column of another type than was written is no better than a wrong one.
            raise VerificationError(f"entry {self.size}: {error}") from None
        self.size += 1
        return digest

    def _check(self, row: tuple[Any, ...], digest: bytes, seen: Seen) -> None:
        """Verify that all parts of a record belong to its leaf."""
        _, event, _, stored, case, matter, subjects, actor, ends, check, *rest = row
        sealed, sealed_check = rest
        if digest != stored:
            raise VerificationError("the leaf is not what was hashed")
        if seen.event != event:
            raise VerificationError("the leaf is of another event")
        if check != private_guard(digest, case, matter, subjects, actor, ends):
            raise VerificationError("the private columns are not what was written")
        if sealed_check != guard(digest, sealed):
            raise VerificationError("the sealed sections are not what was written")
        if section_names(sealed) != seen.sections:
            raise VerificationError("the sealed sections are not those of the leaf")
        self.sections += len(seen.sections)
        self._follow_attempt(seen, case, ends)
        if self._opener is not None:
            self._open(Entry(*row), self._opener)

    def _follow_attempt(self, seen: Seen, case: str | None, ends: str | None) -> None:
        """Keep the look-ups that have not ended, by what links their records."""
        if seen.kind == _ACCEPTED and case is not None:
            self.attempts[seen.event] = case
        elif ends is not None:
            self.attempts.pop(ends, None)

    def _open(self, entry: Entry, opener: _Opener) -> None:
        """Open every section of a record, and compare it with its commitment."""
        if not opener.erased.isdisjoint(entry.subject_refs.split()):
            self.erased += len(section_names(entry.sealed))
            return
        opened = opener.sealer.open_sections(
            entry.event_id,
            entry.subject_refs,
            entry.sealed,
            read_leaf(entry.leaf).commitments,
        )
        self.opened += len(opened)
        _compare_matter(entry, opened.get(Section.MATTER))


def _compare_matter(entry: Entry, section: OpenedSection | None) -> None:
    """Verify that an entry's case and matter are those that its leaf commits to."""
    value = section.value if section is not None else None
    if not isinstance(value, dict) or "matter" not in value:
        return
    if value["case"] != entry.case_ref or value["matter"] != entry.matter:
        raise VerificationError("the private columns are not those of the section")


def _grow(
    reader: LogReader, heads: Sequence[tuple[str, int, bytes]], keeper: Keeper
) -> Growing:
    """Return the tree that the leaves give, held against what the file says of it."""
    head = reader.head()
    start = keeper.start(None if head is None else head.note)
    vouched = [Vouched(*one) for one in (*heads, ("tree", *_tree(reader)))]
    if (heads and reader.tree() is None) or _tree(reader)[0] < max(
        (size for _, size, _ in heads), default=0
    ):
        raise VerificationError("tree: behind the checkpoint")

    def compare(tile: TileId, content: bytes) -> None:
        if reader.tile(*tile) != content:
            raise VerificationError(f"{tile_path(*tile)}: not what the leaves give")

    return Growing(compare, (*vouched, *keeper.vouched), start)


def _check_tiles(reader: LogReader, size: int) -> None:
    """Verify that there are as many tiles as a tree of this size has."""
    expected = [tile for tile, _ in tiles_of_size(size)]
    if reader.tile_ids() != sorted(expected):
        raise VerificationError("tile: there is one too many, or one is missing")


def _check_attempts(reader: LogReader, walk: _Walk) -> None:
    """Verify the list of look-ups that have not ended."""
    if reader.attempts() != walk.attempts:
        raise VerificationError("attempt: not the look-ups that have not ended")


def _check_receipts(reader: LogReader, demands: Demands) -> int:
    """Verify that each receipt is kept, and return how many there are."""
    for number, receipt in demands.read_receipts():
        entry = next(reader.entries(receipt.index, receipt.index + 1), None)
        if (
            entry is None
            or entry.leaf_hash != receipt.leaf_hash
            or entry.event_id != receipt.event
        ):
            raise VerificationError(
                f"receipt {number}: the log broke its promise at {receipt.index}"
            )
    return len(demands.receipts)


def _check_anchors(log: Place, reader: LogReader, demands: Demands) -> Anchored | None:
    """Verify the anchors that are kept beside a log's file, where any are demanded."""
    if demands.anchors is None:
        return None
    if not isinstance(log, Path):
        raise VerificationError("anchors do not stand in the database: give a store")
    folder = log if log.is_dir() else log.parent
    anchors = fetch_from_folder(folder / PUBLIC_FOLDER)
    tree = open_tree(fetch_from_file(reader), parse_vkey(demands.vkey))
    return demands.check_anchors(anchors, anchors(LIST), tree)
