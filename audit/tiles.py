"""Hash tiles: the tree cut into write-once pieces that any store can hold.

SOURCE: C2SP tlog-tiles. Tile (L, N) holds the hashes of up to 256 nodes of level
8·L, from node 256·N on; a node of level 8·(L+1) is the root of a full tile of
level L. A partial tile is the beginning of the full one, so that one growing value
answers for every width. Everything here is pure: each tile is a function of the
leaf hashes, which makes integration idempotent.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from struct import Struct

from audit.merkle import HASH_SIZE, NodeReader, fold
from schemas.errors import VerificationError

TILE_WIDTH = 256
"""Hashes of a full tile; entries of a full bundle."""
TILE_HEIGHT = 8
"""Levels of the tree between two levels of tiles."""
FULL_TILE = TILE_WIDTH * HASH_SIZE
"""Bytes of a full tile."""
ENTRY_LIMIT = 65_535
"""Largest entry of a bundle, in bytes: its length is 16 bits."""
_BUNDLE_SIZE = Struct(">H").pack
"""Writes an entry's length."""

TileId = tuple[int, int]
"""A tile's level and its index within the level."""
TileReader = Callable[[int, int], bytes]
"""Gives the bytes of tile (level, index) that there are; b"" for none."""


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return where a hash tile is served, below the log's address.

    >>> tile_path(0, 1234067)
    'tile/0/x001/x234/067'
    >>> tile_path(1, 1, 17)
    'tile/1/001.p/17'
    """
    return f"tile/{level}/{_index_path(index, width)}"


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return where the entries under level-0 tile `index` are served."""
    return f"tile/entries/{_index_path(index, width)}"


def _index_path(index: int, width: int) -> str:
    """Return an index in groups of three digits, with the width of a partial tile."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:  # noqa: PLR2004 - three digits a group, as the format has it
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    path = "/".join(reversed(groups))
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


_PIECE = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/"
    r"((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A resource of a log that never changes: a hash tile, or a bundle of entries."""

    level: int | None
    """Level of a hash tile; None for a bundle of entries."""
    index: int
    width: int = TILE_WIDTH
    """Hashes or entries in it: 256, or less in a partial one."""

    @property
    def path(self) -> str:
        """Where it is served, below the log's address."""
        if self.level is None:
            return bundle_path(self.index, self.width)
        return tile_path(self.level, self.index, self.width)

    @property
    def is_partial(self) -> bool:
        """Whether it is narrower than a full one."""
        return self.width < TILE_WIDTH

    def is_within(self, size: int) -> bool:
        """Return whether a tree of `size` leaves, or a smaller one, implies it."""
        nodes = size >> TILE_HEIGHT * (self.level or 0)
        return self.index * TILE_WIDTH + self.width <= nodes


def parse_piece(path: str) -> Piece | None:
    """Return the resource at a path below the log's address; None for no resource.

    Each resource has one path: what differs from it in a zero is none.

    >>> parse_piece("tile/0/x001/x234/067")
    Piece(level=0, index=1234067, width=256)
    >>> parse_piece("tile/entries/000.p/256") is None
    True
    """
    found = _PIECE.fullmatch(path)
    if found is None:
        return None
    kind, groups, width = found.groups()
    piece = Piece(
        None if kind == "entries" else int(kind),
        int(groups.replace("/", "").replace("x", "")),
        TILE_WIDTH if width is None else int(width),
    )
    return piece if piece.path == path and piece.width <= TILE_WIDTH else None


def pieces_between(old: int, new: int) -> Iterator[Piece]:
    """Yield the pieces that a checkpoint of `new` implies, and one of `old` did not."""
    level = 0
    while new >> TILE_HEIGHT * level:
        before, now = old >> TILE_HEIGHT * level, new >> TILE_HEIGHT * level
        if now > before:
            widths = [TILE_WIDTH] * (now // TILE_WIDTH - before // TILE_WIDTH)
            widths += [now % TILE_WIDTH] if now % TILE_WIDTH else []
            for index, width in enumerate(widths, before // TILE_WIDTH):
                yield Piece(level, index, width)
                if level == 0:
                    yield Piece(None, index, width)
        level += 1


def entry_bundle(leaves: Sequence[bytes]) -> bytes:
    """Return up to 256 entries as a bundle: each after its length in 16 bits.

    Raises:
        ValueError: There are too many entries, or one is too long.
    """
    sizes = list(map(len, leaves))
    if len(leaves) > TILE_WIDTH or max(sizes, default=0) > ENTRY_LIMIT:
        raise ValueError("a bundle takes 256 entries of at most 65,535 bytes")
    pairs = zip(map(_BUNDLE_SIZE, sizes), leaves, strict=True)
    return b"".join(chain.from_iterable(pairs))


def split_bundle(data: bytes) -> list[bytes]:
    """Return the entries of a bundle.

    Raises:
        VerificationError: It ends in the middle of one.
    """
    entries: list[bytes] = []
    at, size = 0, len(data)
    while at + 1 < size:
        start = at + 2
        at = start + (data[at] << 8) + data[at + 1]
        entries.append(data[start:at])
    if at != size:
        raise VerificationError("the bundle ends in the middle of an entry")
    return entries


def tiles_of_size(size: int) -> Iterator[tuple[TileId, int]]:
    """Yield every tile of a tree with `size` leaves, with its width in hashes."""
    level = 0
    while size:
        for index in range(size // TILE_WIDTH):
            yield (level, index), TILE_WIDTH
        if size % TILE_WIDTH:
            yield (level, size // TILE_WIDTH), size % TILE_WIDTH
        level, size = level + 1, size // TILE_WIDTH


def edge_tiles(size: int) -> list[TileId]:
    """Return the tiles of the right edge of a tree of `size`: its root needs no other.

    >>> edge_tiles(65_537)
    [(0, 256), (2, 0)]
    """
    tiles: list[TileId] = []
    level = 0
    while size:
        index, width = divmod(size, TILE_WIDTH)
        if width:
            tiles.append((level, index))
        level, size = level + 1, index
    return tiles


def node_reader(read_tile: TileReader) -> NodeReader:
    """Return a reader of tree nodes over a reader of tiles.

    It raises VerificationError where a tile is shorter than the tree demands.
    """

    def read(level: int, index: int) -> bytes:
        return fold(hashes_under(read_tile, level, index))

    return read


def hashes_under(read_tile: TileReader, level: int, index: int) -> bytes:
    """Return the stored hashes that node (level, index) is the root of, in its tile.

    Raises:
        VerificationError: The tile is shorter than the tree demands.
    """
    tile_level, height = divmod(level, TILE_HEIGHT)
    first = index << height
    tile = read_tile(tile_level, first >> TILE_HEIGHT)
    start = (first & (TILE_WIDTH - 1)) * HASH_SIZE
    hashes = tile[start : start + (HASH_SIZE << height)]
    if len(hashes) != HASH_SIZE << height:
        raise VerificationError(
            f"{tile_path(tile_level, first >> TILE_HEIGHT)} is too short"
        )
    return hashes


def reading_once(read_tile: TileReader) -> TileReader:
    """Return a reader that reads each tile once: for one proof, which asks again."""
    return lru_cache(maxsize=None)(read_tile)


def integrate(
    read_tile: TileReader, size: int, leaf_hashes: Sequence[bytes]
) -> dict[TileId, bytes]:
    """Return the tiles that change when leaves are added to a tree of `size`.

    The same leaves give the same tiles however often it is done, and whether they
    come at once or one by one. Only the right edge is read.

    Raises:
        VerificationError: A tile of the right edge is shorter than `size` demands.
    """
    changed: dict[TileId, bytes] = {}
    level, added = 0, b"".join(leaf_hashes)
    while added:
        index, width = divmod(size, TILE_WIDTH)
        tile = read_tile(level, index)[: width * HASH_SIZE] if width else b""
        if len(tile) != width * HASH_SIZE:
            raise VerificationError(f"{tile_path(level, index, width)} is too short")
        row, roots = tile + added, []
        for at in range(0, len(row), FULL_TILE):
            part = row[at : at + FULL_TILE]
            changed[level, index + at // FULL_TILE] = part
            if len(part) == FULL_TILE:
                roots.append(fold(part))
        level, size, added = level + 1, index, b"".join(roots)
    return changed
