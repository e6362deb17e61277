"""Verifying a log offline, from a copy of its file and the log's public key.

Everything is computed anew from the stored leaves, and everything that is stored is
compared with it. Nothing is written. What does not hold is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from audit.anchor import LIST, Anchored
from audit.beside import BESIDE, Elsewhere, anchors_of, make_opener, open_sealer
from audit.demands import Demands
from audit.fetching import (
    fetch_from_file,
    open_still,
)
from audit.fsck import Progress
from audit.growing import Growing, Vouched
from audit.keys import LogKeys
from audit.merkle import EMPTY_ROOT
from audit.note import Verifier, b64, open_checkpoint, parse_vkey
from audit.proving import open_tree
from audit.resume import Keeper
from audit.sql import Place, SqliteSql
from audit.store import RECEIPTS, LogReader, SignedHead, is_log_of
from audit.swaps import head_guard
from audit.tiles import TileId, tile_path, tiles_of_size
from audit.walking import Walk
from schemas.canonical import Json
from schemas.errors import VerificationError


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
    receipts: int = 0
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
    elsewhere: Elsewhere = BESIDE,
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
        elsewhere: Where directory, ledger and anchors are, if not beside the log.

    Raises:
        VerificationError: Something does not hold; the message names it.
        SettingsError: The state file is of something else.
    """
    verifier = parse_vkey(demands.vkey)
    keeper = Keeper(state_file, verifier, "file" if keys is None else "file, opened")
    anchors = anchors_of(log, elsewhere)
    # Before the log is read: it may go on, and be stamped again, meanwhile.
    listed = None if demands.anchors is None else anchors(LIST)
    with open_still(log) as reader, open_sealer(log, keys, elsewhere) as sealer:
        # (1): before anything in it is believed.
        _check_file(reader, verifier, is_first=not keeper.tally)
        # (2): who signs says what size and root must come out.
        heads = _check_heads(reader, verifier)
        cosigned = _check_published(reader, demands, verifier)
        # (3): the one pass over all records.
        walk = Walk(
            reader, verifier.name, make_opener(log, sealer, elsewhere), keeper.tally
        )
        growing = _grow(reader, heads, keeper)
        _run(walk, growing, keeper, progress)
        # (4): what waits to be ended decides what happens after a crash.
        _check_attempts(reader, walk)
        # (5): a promise is kept, or its signature convicts the log.
        kept = _check_receipts(reader, demands)
        anchored = None
        if demands.anchors is not None:
            tree = open_tree(fetch_from_file(reader), verifier)
            anchored = demands.check_anchors(anchors, listed, tree)
    found = _found(verifier.name, heads, walk, growing)
    return replace(found, receipts=kept, cosigned=cosigned, anchored=anchored)


def _found(
    origin: str, heads: Sequence[tuple[str, int, bytes]], walk: Walk, growing: Growing
) -> Verified:
    """Return what a pass over all records has found to hold."""
    _, size, root = heads[-1] if heads else ("", 0, EMPTY_ROOT)
    return Verified(
        origin=origin,
        records=walk.size,
        published=size,
        root=b64(root),
        by_kind=dict(sorted(walk.leaves.kinds.items())),
        tiles=growing.compared,
        open_attempts=len(walk.attempts),
        sections=walk.sections,
        sections_opened=walk.opened,
        sections_erased=walk.erased,
    )


def _run(walk: Walk, growing: Growing, keeper: Keeper, progress: Progress) -> None:
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


def _check_file(reader: LogReader, verifier: Verifier, *, is_first: bool) -> None:
    """Verify that the file is sound and is the log of this key.

    SQLite's own check reads the whole file: an update does without it, since what was
    added is compared with leaves and tiles all the same.
    """
    if is_first and isinstance(reader.sql, SqliteSql):
        problems = reader.sql.rows("PRAGMA integrity_check(1)")
        if problems != [("ok",)]:
            raise VerificationError(f"the file is damaged: {problems[0][0]}")
    meta = reader.meta()
    if not is_log_of(meta, verifier.name):
        raise VerificationError("meta: not the origin of this key, or another format")
    if RECEIPTS in meta:
        try:
            named = parse_vkey(meta[RECEIPTS]).name
        except VerificationError:
            named = ""
        if named != f"{verifier.name}/receipt":
            raise VerificationError(f"meta: `{RECEIPTS}` is no key of its receipts")


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


def _check_attempts(reader: LogReader, walk: Walk) -> None:
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
