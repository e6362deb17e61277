"""The log as outsiders read it: the signed head and its immutable pieces.

SOURCE: C2SP tlog-tiles. What a signed checkpoint implies is served, and nothing else:
of what is recorded but not published, no byte leaves this way. Partial pieces are the
beginnings of growing ones, so every width that any checkpoint ever implied is served
for good, also beside the full piece.
"""

from pathlib import Path

from audit.keys import sync_folder
from audit.merkle import HASH_SIZE
from audit.store import LogReader
from audit.tiles import Piece, entry_bundle, pieces_of_size
from schemas.errors import NotFoundError, VerificationError

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
        leaves = [leaf for _, leaf, _ in reader.leaves(start, start + piece.width)]
        if len(leaves) != piece.width:
            raise VerificationError(f"{piece.path} has not all its entries")
        return entry_bundle(leaves)
    hashes = reader.tile(piece.level, piece.index)[: piece.width * HASH_SIZE]
    if len(hashes) != piece.width * HASH_SIZE:
        raise VerificationError(f"{piece.path} is too short")
    return hashes


def export_pieces(reader: LogReader, folder: Path) -> int:
    """Write the published log to a folder, as files exactly as they are served.

    The checkpoint comes last, so that what it implies is there before it is.

    Returns:
        The size of the checkpoint.

    Raises:
        NotFoundError: Nothing is published yet.
        FileExistsError: A file is there already, with other content.
        VerificationError: The store does not have what the checkpoint implies.
    """
    head = reader.published()
    if head is None:
        raise NotFoundError("nothing is published yet")
    for piece in pieces_of_size(head.size):
        content = read_piece(reader, piece)
        if content is None:
            raise VerificationError("the checkpoint went back")
        _write_once(folder / piece.path, content)
    sync_folder(folder)
    target = folder / CHECKPOINT
    beside = folder / f"{CHECKPOINT}.new"
    beside.write_text(head.note, encoding="utf-8")
    beside.replace(target)
    sync_folder(folder)
    return head.size


def _write_once(path: Path, content: bytes) -> None:
    """Write a piece that never changes; equal bytes that are there are a success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        if path.read_bytes() != content:
            raise FileExistsError(f"`{path}` holds something else")
        return
    # INVARIANT: a piece is whole or not there, whatever ends the process.
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)
