"""The log as outsiders read it: the signed head and its immutable pieces.

SOURCE: C2SP tlog-tiles. What a signed checkpoint implies is served, and nothing else:
of what is recorded but not published, no byte leaves this way. Partial pieces are the
beginnings of growing ones, so every width that any checkpoint ever implied is served
for good, also beside the full piece.
"""

from audit.merkle import HASH_SIZE
from audit.store import LogReader
from audit.tiles import Piece, entry_bundle
from schemas.errors import VerificationError

CHECKPOINT = "checkpoint"
"""Where the signed head is served, below the log's address."""


def read_piece(reader: LogReader, piece: Piece) -> bytes | None:
    """Return a piece of the log; None when no checkpoint implies it.

    Raises:
        VerificationError: The checkpoint implies it, and the store does not have it.
    """
    head = reader.published()
    if head is None or not piece.is_within(head.size):
        return None
    start = piece.index << 8
    if piece.level is None:
        leaves = reader.leaves(start, start + piece.width)
        if len(leaves) != piece.width:
            raise VerificationError(f"{piece.path} has not all its entries")
        return entry_bundle(leaves)
    hashes = reader.tile(piece.level, piece.index)[: piece.width * HASH_SIZE]
    if len(hashes) != piece.width * HASH_SIZE:
        raise VerificationError(f"{piece.path} is too short")
    return hashes
