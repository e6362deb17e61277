"""Nodes of a log's tree that many proofs take, and that are hashed once.

Half of a proof's work is in nodes that it shares with others: those near the root, and
those of the right edge. A node that is complete never changes, however the tree grows,
so what one proof has shown to be right serves the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from audit.merkle import HASH_SIZE, NodeReader, fold_rows
from audit.recent import Recent
from audit.tiles import TILE_HEIGHT, TileReader, hashes_under, reading_once
from schemas.errors import VerificationError

_MOST: Final = 2_048
"""Nodes that are kept at most of each kind: of the lowest level of tiles what 200
proofs took, and above it all of a hundred tiles (26 million records), in some 4 MB."""

_Place = tuple[int, int]
"""A node's level and its index within the level."""


class SharedNodes:
    """Keeps nodes that proofs have shown; of one thread, as its reader is.

    With a node above the lowest level of tiles, the rows that it was hashed from are
    kept, as the next proof takes another node of them: what a proof costs then grows
    no more with the tree.

    INVARIANT: a node is kept once a proof that it is part of was verified against a
    signed root, and not before: a tile that was misread spoils no later proof. What a
    node was hashed from is as right as the node is.
    """

    def __init__(self, read_tile: TileReader, most: int = _MOST) -> None:
        self._read_tile = read_tile
        self._low: Recent[_Place, list[bytes]] = Recent(most)
        self._high: Recent[_Place, list[bytes]] = Recent(most)
        """Rows, the node's own first; apart, as each proof has its own low nodes."""

    def __len__(self) -> int:
        """Return how many nodes are kept with what lies under them."""
        return len(self._low) + len(self._high)

    @contextmanager
    def proving(self) -> Iterator[NodeReader]:
        """Give what reads the nodes of one proof; each tile is read once at most.

        The block verifies the proof against a root that was signed: every node that
        it read has to be part of what it verified. If that fails, all that is kept is
        forgotten, so that the next proof is of what is stored.
        """
        read_tile = reading_once(self._read_tile)
        fresh: dict[_Place, list[bytes]] = {}

        def read(level: int, index: int) -> bytes:
            node = self._kept(level, index)
            if node is None:
                rows = fold_rows(hashes_under(read_tile, level, index))[::-1]
                fresh[level, index] = rows
                node = rows[0]
            return node

        try:
            yield read
        except VerificationError:
            self._low.clear()
            self._high.clear()
            raise
        for (level, index), rows in fresh.items():
            if level < TILE_HEIGHT:
                self._low.put((level, index), rows[:1])
            else:
                self._high.put((level, index), rows)

    def _kept(self, level: int, index: int) -> bytes | None:
        """Return a node that is kept, itself or under another of its tile."""
        if level < TILE_HEIGHT:
            rows = self._low.get((level, index))
            return None if rows is None else rows[0]
        for up in range(TILE_HEIGHT - level % TILE_HEIGHT):
            rows = self._high.get((level + up, index >> up))
            if rows is not None:
                at = (index & ((1 << up) - 1)) * HASH_SIZE
                return rows[up][at : at + HASH_SIZE]
        return None
