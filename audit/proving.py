"""Proofs from what a log serves: whoever serves the pieces need not be asked for more.

Each proof is verified as its receiver will do it, before it is given away.
"""

from dataclasses import dataclass

from audit.fetching import Fetch, fetch_head, fetch_piece
from audit.merkle import (
    HASH_SIZE,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from audit.note import Checkpoint, Verifier, open_checkpoint
from audit.receipt import Consistency, Proof, Receipt, parse_proof
from audit.tiles import TILE_HEIGHT, TILE_WIDTH, Piece, node_reader
from schemas.errors import NotFoundError, VerificationError


@dataclass(frozen=True, slots=True)
class ServedTree:
    """The tree under one signed head, read from the pieces that it implies."""

    note: str
    """The signed head."""
    head: Checkpoint
    verifier: Verifier
    """The log's key."""
    read: NodeReader


def open_tree(
    fetch: Fetch, verifier: Verifier, note: bytes | None = None
) -> ServedTree:
    """Return the tree that a log serves.

    Args:
        fetch: Reads what is served.
        verifier: The log's key.
        note: The head; None reads the one that is served now.

    Raises:
        VerificationError: The head is not signed with this key.
        UnverifiableError: It is the head of another log, or shard.
    """
    note = fetch_head(fetch, verifier.name) if note is None else note
    head = open_checkpoint(note, verifier)

    def tile(level: int, index: int) -> bytes:
        nodes = head.size >> TILE_HEIGHT * level
        width = min(TILE_WIDTH, nodes - index * TILE_WIDTH)
        content, _ = fetch_piece(fetch, Piece(level, index, width))
        return content

    return ServedTree(note.decode(), head, verifier, node_reader(tile))


def prove_index(tree: ServedTree, index: int) -> Proof:
    """Return the proof that an entry stands where it does, as a `.tlog-proof`.

    Raises:
        NotFoundError: The head does not reach it.
        VerificationError: The tiles that are served do not prove it.
    """
    head = tree.head
    if index >= head.size:
        raise NotFoundError(f"the log has published {head.size} entries")
    proof = Proof(index, tuple(inclusion_proof(tree.read, index, head.size)), tree.note)
    # INVARIANT: no proof leaves that its receiver would refuse.
    told = parse_proof(proof.as_text())
    verify_inclusion(tree.read(0, index), index, head.size, told.hashes, head.root)
    return proof


def prove_kept(tree: ServedTree, receipt: Receipt) -> Proof:
    """Return the proof that a log keeps a promise: from its tiles, without its entries.

    Raises:
        NotFoundError: The head does not reach it yet.
        VerificationError: The log broke its promise, or its tiles prove nothing.
    """
    proof = prove_index(tree, receipt.index)
    if tree.read(0, receipt.index) != receipt.leaf_hash:
        raise VerificationError(
            f"the log broke its promise at {receipt.index}: another leaf stands there"
        )
    return proof


def prove_growth(tree: ServedTree, size1: int, size2: int) -> Consistency:
    """Return the proof that the tree of `size2` continues that of `size1`.

    Raises:
        NotFoundError: Not `0 < size1 <= size2`, or not so much is published.
        VerificationError: The tiles that are served do not prove it.
    """
    head = tree.head
    if not 0 < size1 <= size2 <= head.size:
        raise NotFoundError("the log has published no trees of these sizes")
    root1, root2 = tree_root(tree.read, size1), tree_root(tree.read, size2)
    # What the signed head does not contain is no tree of this log.
    rest = consistency_proof(tree.read, size2, head.size)
    verify_consistency(size2, head.size, rest, root2, head.root)
    hashes = tuple(consistency_proof(tree.read, size1, size2))
    if any(len(one) != HASH_SIZE for one in hashes):
        raise VerificationError("a hash of the proof has another size")
    verify_consistency(size1, size2, hashes, root1, root2)
    return Consistency(size1, root1, size2, root2, hashes)
