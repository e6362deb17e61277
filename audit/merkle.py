"""The Merkle tree of the log: hashes, roots, proofs and their verification.

SOURCE: RFC 6962, section 2.1, and RFC 9162, section 2.1, with SHA-256. A *node* is
named by its level (0 for leaves) and its index within the level; node (l, i) covers
the leaves from i·2^l to (i+1)·2^l, and exists once the tree holds all of them.
Hashes are 32 bytes, sizes count leaves, indexes start at 0.
"""

import hashlib
from collections.abc import Callable, Sequence

from schemas.errors import VerificationError

HASH_SIZE = 32
"""Bytes of a SHA-256 hash."""

NodeReader = Callable[[int, int], bytes]
"""Gives the hash of one complete node: (level, index) to 32 bytes."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

LEAF_PREFIX = b"\x00"
"""Hashed before a leaf, so that no leaf has the hash of an inner node."""

# A hash that has taken the first byte in is copied: that costs less than a new one.
_leaf = hashlib.sha256(LEAF_PREFIX).copy
_node = hashlib.sha256(b"\x01").copy


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf that holds `data`."""
    hashed = _leaf()
    hashed.update(data)
    return hashed.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node over the hashes of its two children."""
    hashed = _node()
    hashed.update(left + right)
    return hashed.digest()


def fold(hashes: bytes) -> bytes:
    """Return the root over a power of two of adjacent hashes, one after the other."""
    return fold_rows(hashes)[-1]


def fold_rows(hashes: bytes) -> list[bytes]:
    """Return a power of two of adjacent hashes, and each row above up to the root."""
    rows = [hashes]
    while len(hashes) > HASH_SIZE:
        row: list[bytes] = []
        for at in range(0, len(hashes), 2 * HASH_SIZE):
            hashed = _node()
            hashed.update(hashes[at : at + 2 * HASH_SIZE])
            row.append(hashed.digest())
        hashes = b"".join(row)
        rows.append(hashes)
    return rows


def fold_peaks(peaks: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees, given largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def subtree_root(read: NodeReader, start: int, end: int) -> bytes:
    """Return the root over the leaves from `start` up to, not including, `end`.

    `start` must be a multiple of the power of two at or above `end - start`, as it
    is for every subtree that RFC 6962 names.
    """
    peaks: list[bytes] = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(read(level, start >> level))
        start += 1 << level
    return fold_peaks(peaks)


def tree_root(read: NodeReader, size: int) -> bytes:
    """Return the root of the tree of the first `size` leaves."""
    return subtree_root(read, 0, size)


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(read: NodeReader, index: int, size: int) -> list[bytes]:
    """Return the hashes that lead from leaf `index` to the root of size `size`.

    The leaf's sibling comes first.

    Raises:
        ValueError: There is no leaf `index` in a tree of `size` leaves.
    """
    if not 0 <= index < size:
        raise ValueError("the leaf is not in a tree of this size")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(subtree_root(read, middle, end))
            end = middle
        else:
            path.append(subtree_root(read, start, middle))
            start = middle
    path.reverse()
    return path


def consistency_proof(read: NodeReader, size1: int, size2: int) -> list[bytes]:
    """Return the hashes that show the first tree to be the start of the second.

    Raises:
        ValueError: Not `0 < size1 <= size2`.
    """
    if not 0 < size1 <= size2:
        raise ValueError("a consistency proof needs 0 < size1 <= size2")
    path: list[bytes] = []
    start, end, is_whole = 0, size2, True
    while size1 != end:
        middle = start + _split(end - start)
        if size1 <= middle:
            path.append(subtree_root(read, middle, end))
            end = middle
        else:
            path.append(subtree_root(read, start, middle))
            start, is_whole = middle, False
    if not is_whole:
        path.append(subtree_root(read, start, end))
    path.reverse()
    return path


def _check_hashes(*hashes: bytes) -> None:
    """Refuse anything that is no SHA-256 hash."""
    if any(len(value) != HASH_SIZE for value in hashes):
        raise VerificationError("a hash of the proof is not 32 bytes long")


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Verify that a leaf stands at `index` in the tree with this size and root.

    The length of the proof is known in advance, so that one leaf has one proof.

    Args:
        leaf: The hash of the leaf.
        index: Where it stands.
        size: How many leaves the tree has.
        proof: What `inclusion_proof` returned.
        root: The root of the tree.

    Raises:
        VerificationError: It does not, or the proof has not the exact length.
    """
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size:
        raise VerificationError("the leaf's index is outside the tree")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border:
        raise VerificationError("the inclusion proof has not the length it must have")
    result = leaf
    for level, sibling in enumerate(proof):
        if level < inner and not index >> level & 1:
            result = node_hash(result, sibling)
        else:
            result = node_hash(sibling, result)
    if result != root:
        raise VerificationError("the inclusion proof leads to another root")


def verify_consistency(
    size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes
) -> None:
    """Verify that the tree of `size2` only added leaves to the tree of `size1`.

    SOURCE: RFC 9162, section 2.1.4.2.

    Raises:
        VerificationError: It does not, or the proof has not the exact length. An
            empty first tree is refused too: every tree would be consistent with it.
    """
    _check_hashes(root1, root2, *proof)
    if not 0 < size1 <= size2:
        raise VerificationError("a consistency proof needs 0 < size1 <= size2")
    if size1 == size2:
        if proof or root1 != root2:
            raise VerificationError("trees of one size must have one root and no proof")
        return
    if not proof:
        raise VerificationError("the consistency proof is empty")
    hashes = list(proof)
    if size1 & (size1 - 1) == 0:
        hashes.insert(0, root1)
    if _walk_consistency(size1, size2, hashes) != (root1, root2):
        raise VerificationError("the consistency proof leads to other roots")


def _walk_consistency(
    size1: int, size2: int, hashes: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Return both roots that the hashes of a consistency proof lead to."""
    node1, node2 = size1 - 1, size2 - 1
    while node1 & 1:
        node1, node2 = node1 >> 1, node2 >> 1
    result1 = result2 = hashes[0]
    for sibling in hashes[1:]:
        if node2 == 0:
            raise VerificationError("the consistency proof is too long")
        if node1 & 1 or node1 == node2:
            result1 = node_hash(sibling, result1)
            result2 = node_hash(sibling, result2)
            while node1 and not node1 & 1:
                node1, node2 = node1 >> 1, node2 >> 1
        else:
            result2 = node_hash(result2, sibling)
        node1, node2 = node1 >> 1, node2 >> 1
    if node2 != 0:
        raise VerificationError("the consistency proof is too short")
    return result1, result2
