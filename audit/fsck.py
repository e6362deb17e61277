"""Checking a log from its entries alone: any log in the formats of C2SP, ours or not.

From the entries every hash tile and the root are computed anew, and compared with what
is kept. An entry is any bytes: what it says is not looked at here (`verify` does).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from audit.fetching import Fetch, fetch_head, fetch_piece
from audit.growing import Edge, Growing, Vouched
from audit.merkle import HASH_SIZE, leaf_hash
from audit.note import Checkpoint, b64, open_checkpoint, parse_vkey
from audit.served import CHECKPOINT
from audit.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Piece,
    TileId,
    split_bundle,
)
from schemas.canonical import Json
from schemas.errors import VerificationError

Progress = Callable[[int, int], None]
"""Told how many entries of how many are done."""
Look = Callable[[int, Sequence[bytes]], None]
"""Given the index of a first entry and adjacent entries, once they are hashed."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found to hold."""

    origin: str
    entries: int
    root: str
    """Root of the checkpoint, in base64."""
    tiles: int
    """Hash tiles that are what the entries give."""

    def as_json(self) -> Mapping[str, Json]:
        """Return the result as JSON."""
        return asdict(self)


def check_log(fetch: Fetch, vkey: str, progress: Progress) -> Checked:
    """Check a log whole.

    (1) The checkpoint, whose signature says what size and root must come out.
    (2) Every bundle, every tile that its entries give, and the root.

    Args:
        fetch: Reads what is kept.
        vkey: The log's public key.
        progress: Told how far it is.

    Raises:
        VerificationError: Something does not hold, or is missing; the message names it.
        UnverifiableError: It is another log, or shard, than the key's.
    """
    # (1): of what is not signed, nothing is demanded.
    verifier = parse_vkey(vkey)
    checkpoint = open_checkpoint(fetch_head(fetch, verifier.name), verifier)
    # (2): in order, so that memory holds the right edge alone.
    growing = grow(fetch, checkpoint, ())
    for _ in bundles(fetch, growing, checkpoint.size):
        progress(growing.size, checkpoint.size)
    growing.finish()
    return Checked(
        verifier.name, checkpoint.size, b64(checkpoint.root), growing.compared
    )


def grow(
    fetch: Fetch,
    checkpoint: Checkpoint,
    vouched: Sequence[Vouched],
    start: Edge | None = None,
) -> Growing:
    """Return a tree that is held against the tiles that are kept and the roots.

    Args:
        fetch: Reads tiles.
        checkpoint: The root that must come out.
        vouched: Further roots.
        start: Where an earlier run ended.
    """

    def compare(tile: TileId, content: bytes) -> None:
        kept, piece = fetch_piece(fetch, Piece(*tile, len(content) // HASH_SIZE))
        if len(kept) != piece.width * HASH_SIZE or not kept.startswith(content):
            raise VerificationError(f"{piece.path}: not what the entries give")

    head = Vouched(CHECKPOINT, checkpoint.size, checkpoint.root)
    return Growing(compare, (head, *vouched), start)


def bundles(
    fetch: Fetch, growing: Growing, size: int, look: Look | None = None
) -> Iterator[int]:
    """Take all bundles up to a size into a tree, and yield its size after each.

    Args:
        fetch: Reads bundles.
        growing: The tree; it need not begin at a bundle's beginning.
        size: Where to end.
        look: Sees the entries.

    Raises:
        VerificationError: A bundle or a tile is missing, malformed or another one.
    """
    while growing.size < size:
        number, skipped = divmod(growing.size, TILE_WIDTH)
        width = min(TILE_WIDTH, size - number * TILE_WIDTH)
        entries = bundle_entries(fetch, Piece(None, number, width))[skipped:]
        if look is not None:
            look(growing.size, entries)
        growing.add(list(map(leaf_hash, entries)))
        yield growing.size


def served_entry(fetch: Fetch, index: int, size: int) -> bytes:
    """Return one entry of a log of `size` entries.

    Raises:
        VerificationError: Its bundle is missing or malformed.
    """
    number, at = divmod(index, TILE_WIDTH)
    width = min(TILE_WIDTH, size - number * TILE_WIDTH)
    return bundle_entries(fetch, Piece(None, number, width))[at]


def bundle_entries(fetch: Fetch, piece: Piece) -> list[bytes]:
    """Return the entries of a bundle.

    Raises:
        VerificationError: It is missing or malformed.
    """
    content, found = fetch_piece(fetch, piece)
    try:
        entries = split_bundle(content)
    except VerificationError as error:
        raise VerificationError(f"{found.path}: {error}") from None
    if len(entries) != found.width:
        raise VerificationError(f"{found.path}: it has {len(entries)} entries")
    return entries[: piece.width]


def plan(start: int, size: int) -> Iterator[Piece]:
    """Yield the pieces that growing a tree asks for, in that order."""
    for number in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - number * TILE_WIDTH)
        yield Piece(None, number, width)
        level, index = 0, number
        while width == TILE_WIDTH:
            yield Piece(level, index)
            if (index + 1) % TILE_WIDTH:
                break
            level, index = level + 1, index >> TILE_HEIGHT
    level = 0
    while size:
        if size % TILE_WIDTH:
            yield Piece(level, size // TILE_WIDTH, size % TILE_WIDTH)
        level, size = level + 1, size >> TILE_HEIGHT
