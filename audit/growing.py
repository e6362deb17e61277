"""A tree that grows from leaf hashes, and is held against the tiles that are kept.

Verification of any kind goes through here: of a log that is served, of a log's own
file, from its beginning or from where an earlier run ended. Memory holds the right
edge alone, which is all that growing and roots need.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from audit.merkle import EMPTY_ROOT, HASH_SIZE, tree_root
from audit.tiles import (
    FULL_TILE,
    TILE_HEIGHT,
    TILE_WIDTH,
    TileId,
    integrate,
    node_reader,
)
from schemas.errors import VerificationError

Compare = Callable[[TileId, bytes], None]
"""Compares the hashes that a tile must have with those that are kept.

Raises VerificationError where they differ."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """A root that somebody has vouched for."""

    name: str
    """What said so, as it is named when it is wrong: `checkpoint`."""
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a growing tree stands: its size, and its tiles that are not full."""

    size: int = 0
    tiles: Mapping[TileId, bytes] | None = None

    def root(self) -> bytes:
        """Return the root over everything.

        Raises:
            VerificationError: The tiles are not those of a tree of this size.
        """
        return _root(self.tiles or {}, self.size)


class Growing:
    """A tree that is computed from leaf hashes, and compared tile by tile."""

    def __init__(
        self, compare: Compare, vouched: Sequence[Vouched], start: Edge | None = None
    ) -> None:
        """Start where an earlier run ended, or from nothing.

        Args:
            compare: Compares one tile.
            vouched: Roots that must come out on the way; of smaller sizes than the
                start's, none is looked at.
            start: The earlier run's edge.
        """
        start = start or Edge()
        self._compare = compare
        self._tiles = dict(start.tiles or {})
        self._vouched = sorted(
            (one for one in vouched if one.size >= start.size),
            key=lambda one: one.size,
        )
        self.size = start.size
        self.compared = 0
        """Tiles that were compared and are what the leaves give."""

    def add(self, hashes: Sequence[bytes]) -> None:
        """Take leaves in; compare the tiles that are full now, and the roots passed.

        Raises:
            VerificationError: A tile or a root is another one; the message names it.
        """
        at, end = 0, self.size + len(hashes)
        while self.size < end:
            self._meet()
            stop = min(end, self._vouched[0].size) if self._vouched else end
            part = hashes[at : at + stop - self.size]
            self._grow(part)
            at += len(part)

    def _grow(self, hashes: Sequence[bytes]) -> None:
        tiles = self._tiles
        changed = integrate(lambda *tile: tiles.get(tile, b""), self.size, hashes)
        self.size += len(hashes)
        for tile, content in changed.items():
            if len(content) == FULL_TILE:
                self._compare(tile, content)
                self.compared += 1
                tiles.pop(tile, None)  # the level above has its root
            else:
                tiles[tile] = content

    def _meet(self) -> None:
        """Compare the roots that were vouched for at this size."""
        while self._vouched and self._vouched[0].size == self.size:
            one = self._vouched.pop(0)
            if one.root != _root(self._tiles, self.size):
                raise VerificationError(f"{one.name}: the entries give another root")

    def edge(self) -> Edge:
        """Return where the tree stands, to go on from there later."""
        return Edge(self.size, dict(self._tiles))

    def finish(self) -> None:
        """Compare the tiles that are not full, and the last root, once all are in.

        Tiles come first: they name the place where something is wrong, a root does not.

        Raises:
            VerificationError: One is another, or a root was of more entries.
        """
        if self._vouched and self._vouched[-1].size > self.size:
            name = self._vouched[-1].name
            raise VerificationError(f"{name}: of more entries than there are")
        for tile, content in sorted(self._tiles.items()):
            self._compare(tile, content)
            self.compared += 1
        self._meet()


def _root(tiles: Mapping[TileId, bytes], size: int) -> bytes:
    if size == 0:
        return EMPTY_ROOT
    for (level, index), content in tiles.items():
        nodes = size >> TILE_HEIGHT * level
        if (index, len(content) // HASH_SIZE) != divmod(nodes, TILE_WIDTH):
            raise VerificationError("the edge is not that of a tree of this size")
    return tree_root(node_reader(lambda *tile: tiles.get(tile, b"")), size)
