"""Nodes of a log's tree that many proofs take, and that are hashed once.

Half of a proof's work is in nodes that it shares with all others: those near the root,
and those of the right edge. A node that is complete never changes, however the tree
grows, so what one proof has shown to be right serves the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from audit.merkle import NodeReader
from audit.recent import Recent
from audit.tiles import TileReader, node_reader, reading_once
from schemas.errors import VerificationError

_MOST: Final = 8_192
"""Nodes that are kept at most, in some 2 MB: all that a thousand proofs took."""


class SharedNodes:
    """Keeps nodes that proofs have shown; of one thread, as its reader is.

    INVARIANT: a node is kept once a proof that it is part of was verified against a
    signed root, and not before: a tile that was misread spoils no later proof.
    """

    def __init__(self, read_tile: TileReader, most: int = _MOST) -> None:
        self._read_tile = read_tile
        self._kept: Recent[tuple[int, int], bytes] = Recent(most)

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    @contextmanager
    def proving(self) -> Iterator[NodeReader]:
        """Give what reads the nodes of one proof; each tile is read once at most.

        The block verifies the proof against a root that was signed: every node that
        it read has to be part of what it verified. If that fails, all that is kept is
        forgotten, so that the next proof is of what is stored.
        """
        stored = node_reader(reading_once(self._read_tile))
        fresh: dict[tuple[int, int], bytes] = {}

        def read(level: int, index: int) -> bytes:
            node = self._kept.get((level, index))
            if node is None:
                node = fresh[level, index] = stored(level, index)
            return node

        try:
            yield read
        except VerificationError:
            self._kept.clear()
            raise
        for place, node in fresh.items():
            self._kept.put(place, node)
