"""A copy of the published log in a store of objects, for whoever serves it from there.

It follows what is published: pieces first, the checkpoint last, so that what a
checkpoint implies is there before it is. Doing it twice, or by two replicas, does no
harm.
"""

from audit.merkle import tree_root
from audit.note import Checkpoint, parse_checkpoint
from audit.objects import Objects
from audit.served import CHECKPOINT, read_piece
from audit.store import LogReader
from audit.tiles import node_reader, pieces_between
from schemas.errors import NotFoundError, RolledBackError, VerificationError


def mirror(reader: LogReader, objects: Objects) -> int:
    """Bring a store up to what is published.

    (1) Compare what the store shows with the tree: it must be its beginning.
    (2) Write the pieces that it lacks.
    (3) Put the checkpoint in the place of the one that was read.

    Args:
        reader: Reads the log.
        objects: The store.

    Returns:
        The size of the checkpoint.

    Raises:
        NotFoundError: Nothing is published yet.
        VerificationError: The store shows something that this log does not contain.
        StoreUnavailableError: It can't be reached, or another replica was faster.
    """
    head = reader.published()
    if head is None:
        raise NotFoundError("nothing is published yet")
    # (1): a store that is ahead is that of a log which was rolled back since.
    shown = objects.read(CHECKPOINT)
    if shown == head.note.encode():
        return head.size
    old = 0 if shown is None else _check_shown(reader, shown, head.size).size
    # (2): nothing of what is there is written again.
    for piece in pieces_between(old, head.size):
        content = read_piece(reader, piece)
        if content is None:
            raise VerificationError("the checkpoint went back")
        objects.write_once(piece.path, content)
    # (3): outsiders see it from here on.
    objects.swap(CHECKPOINT, shown, head.note.encode())
    return head.size


def _check_shown(reader: LogReader, shown: bytes, size: int) -> Checkpoint:
    """Return the checkpoint that a store shows, after comparing it with the tree."""
    text, _, _ = shown.decode(errors="replace").rpartition("\n\n")
    checkpoint = parse_checkpoint(f"{text}\n")
    if checkpoint.size > size:
        raise RolledBackError(
            f"the store shows {checkpoint.size} records, here are {size}"
        )
    root = tree_root(node_reader(reader.tile), checkpoint.size)
    if checkpoint.size and root != checkpoint.root:
        raise RolledBackError("the store shows another root")
    return checkpoint
