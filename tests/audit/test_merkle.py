"""The tree: published vectors, our own, and a second implementation to differ from."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import (
    EMPTY_ROOT,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from schemas.errors import VerificationError

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "merkle"
SHORT_ROOT = "sizes-are-equal-one-and-proof-is-empty"
"""The one vector whose roots are 12 bytes long, and which we refuse for that."""

OWN = {
    0: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    1: "2zQm6HgGjSjSabbIcXIyLOU3K2V1bQeJAB00g19gHAM=",
    2: "ywCYnZSlacCmeK4EK2Pc1GJduWRAUX83put5duok7Us=",
    255: "Mvhbyqh9e80Fco8J6a66NQumovczgwCH8Fl2goSL5cs=",
    256: "goUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE=",
    257: "HtoEmkNR2G92JSvX7At3Rq11t/oDFq1fVB29pFijEsQ=",
    65_536: "8CXQbtgEhZ/SdKG9rK3W5I6odjSqkeHtsgFD+UmM0Cs=",
    70_000: "Gkzfy2Y3SgwNy+9JrL1JdtE+6GT7PLJB/JQ8rQTwL34=",
}
"""Roots of the trees whose leaf i is the decimal number i, made by two programs."""

sizes = st.integers(1, 300) | st.sampled_from(
    [2**k + d for k in range(9) for d in (0, 1)]
)


def numbers(size: int) -> list[bytes]:
    """Return the leaf hashes of a tree whose leaf i is the decimal number i."""
    return [leaf_hash(str(number).encode()) for number in range(size)]


def reader(leaves: Sequence[bytes]) -> NodeReader:
    """Return a reader of nodes over leaf hashes: slow, and plainly right."""

    def read(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level
        return mth(part)

    return read


def mth(leaves: Sequence[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it, by recursion."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(mth(leaves[:split]), mth(leaves[split:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return an inclusion proof as RFC 6962, section 2.1.1, defines it."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*path(index, leaves[:split]), mth(leaves[split:])]
    return [*path(index - split, leaves[split:]), mth(leaves[:split])]


def subproof(size: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """Return a consistency proof as RFC 6962, section 2.1.2, defines it."""
    if size == len(leaves):
        return [] if whole else [mth(leaves)]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if size <= split:
        return [*subproof(size, leaves[:split], whole=whole), mth(leaves[split:])]
    rest = subproof(size - split, leaves[split:], whole=False)
    return [*rest, mth(leaves[:split])]


def vectors(name: str) -> list[dict[str, object]]:
    """Return the published vectors, or a reason to skip."""
    file = VECTORS / f"{name}.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def decoded(value: object) -> bytes:
    """Return the bytes of a base64 field."""
    return base64.b64decode(str(value))


def proof_of(vector: dict[str, object]) -> list[bytes]:
    """Return the proof of a vector."""
    hashes = vector["proof"]
    return [decoded(value) for value in hashes] if isinstance(hashes, list) else []


def refuses(vector: dict[str, object]) -> bool:
    """Return whether a vector has to be refused."""
    return bool(vector["wantErr"]) or SHORT_ROOT in str(vector["name"])


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the shared vectors are not here")
def test_every_published_inclusion_vector_agrees() -> None:
    """The 98 inclusion vectors are accepted and refused as they want to be."""
    found = vectors("inclusion")

    assert len(found) == 98
    for vector in found:
        arguments = (
            decoded(vector["leafHash"]),
            int(str(vector["leafIdx"])),
            int(str(vector["treeSize"])),
            proof_of(vector),
            decoded(vector["root"]),
        )
        if refuses(vector):
            with pytest.raises(VerificationError):
                verify_inclusion(*arguments)
        else:
            verify_inclusion(*arguments)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the shared vectors are not here")
def test_every_published_consistency_vector_agrees() -> None:
    """97 consistency vectors agree, and the one with 12-byte roots is refused."""
    found = vectors("consistency")

    assert len(found) == 98
    assert 1 == sum(SHORT_ROOT in str(vector["name"]) for vector in found)
    for vector in found:
        arguments = (
            int(str(vector["size1"])),
            int(str(vector["size2"])),
            proof_of(vector),
            decoded(vector["root1"]),
            decoded(vector["root2"]),
        )
        if refuses(vector):
            with pytest.raises(VerificationError):
                verify_consistency(*arguments)
        else:
            verify_consistency(*arguments)


def test_roots_of_our_own_vectors_agree() -> None:
    """The definition, by which all else is tested, agrees with two other programs."""
    leaves = numbers(max(OWN))
    roots = {size: mth(leaves[:size]) for size in OWN}

    assert {size: base64.b64decode(root) for size, root in OWN.items()} == roots


@given(sizes, st.data())
def test_proofs_are_those_of_the_definition(size: int, data: st.DataObject) -> None:
    """Both proofs equal the recursion of the standard, and verify."""
    leaves = numbers(size)
    index = data.draw(st.integers(0, size - 1))
    smaller = data.draw(st.integers(1, size))
    included = inclusion_proof(reader(leaves), index, size)
    consistent = consistency_proof(reader(leaves), smaller, size)

    assert path(index, leaves) == included
    assert subproof(smaller, leaves, whole=True) == consistent
    assert mth(leaves) == tree_root(reader(leaves), size)
    verify_inclusion(leaves[index], index, size, included, mth(leaves))
    verify_consistency(smaller, size, consistent, mth(leaves[:smaller]), mth(leaves))


@given(sizes, st.data())
def test_a_changed_proof_does_not_verify(size: int, data: st.DataObject) -> None:
    """A flipped bit, a hash too many or too few, or another place is refused."""
    leaves = numbers(size)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(reader(leaves), index, size)
    root = mth(leaves)
    flipped = bytearray(b"".join(proof) + root)
    bit = data.draw(st.integers(0, len(flipped) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    parts = [bytes(flipped[at : at + 32]) for at in range(0, len(flipped), 32)]

    for leaf, place, total, hashes, head in (
        (leaves[index], index, size, parts[:-1], parts[-1]),
        (leaves[index], index, size, [*proof, bytes(32)], root),
        (leaves[index], index, size, proof[1:] if proof else [root], root),
        (leaves[index], index + size, size, proof, root),
        (leaf_hash(b"another"), index, size, proof, root),
    ):
        with pytest.raises(VerificationError):
            verify_inclusion(leaf, place, total, hashes, head)


@given(st.integers(2, 300), st.data())
def test_a_rewritten_past_is_not_consistent(size: int, data: st.DataObject) -> None:
    """A tree in which one early leaf was changed continues nothing."""
    leaves = numbers(size)
    smaller = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, smaller - 1))
    rewritten = [*leaves]
    rewritten[changed] = leaf_hash(b"changed")
    proof = consistency_proof(reader(rewritten), smaller, size)

    with pytest.raises(VerificationError):
        verify_consistency(smaller, size, proof, mth(leaves[:smaller]), mth(rewritten))


@given(st.integers(2, 300), st.data())
def test_a_consistency_proof_has_its_exact_length(
    size: int, data: st.DataObject
) -> None:
    """A hash too many or too few is refused, as is a flipped bit."""
    leaves = numbers(size)
    smaller = data.draw(st.integers(1, size - 1))
    proof = consistency_proof(reader(leaves), smaller, size)
    roots = mth(leaves[:smaller]), mth(leaves)
    at = data.draw(st.integers(0, len(proof) - 1))
    flipped = [*proof]
    flipped[at] = bytes([flipped[at][0] ^ 1]) + flipped[at][1:]

    for hashes in ([*proof, bytes(32)], proof[:-1], proof[1:], flipped):
        with pytest.raises(VerificationError):
            verify_consistency(smaller, size, hashes, *roots)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_no_proof_is_made_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    """A leaf that is not in the tree has no proof."""
    with pytest.raises(ValueError, match="not in a tree"):
        inclusion_proof(reader(numbers(size)), index, size)


@pytest.mark.parametrize(("size1", "size2"), [(0, 5), (6, 5)])
def test_no_consistency_proof_is_made_of_nothing(size1: int, size2: int) -> None:
    """An empty first tree, or one that is larger, has no consistency proof."""
    with pytest.raises(ValueError, match="0 < size1"):
        consistency_proof(reader(numbers(size2)), size1, size2)


def test_a_proof_does_not_pass_for_one_of_another_shape() -> None:
    """A proof's length is fixed by index and sizes, whatever roots are claimed."""
    a, b, c = numbers(3)
    pair = node_hash(a, b)
    triple = node_hash(pair, c)

    verify_inclusion(b, 1, 2, [a], pair)
    verify_consistency(1, 2, [b], a, pair)
    with pytest.raises(VerificationError, match="one root"):
        verify_consistency(2, 2, [], pair, node_hash(b, a))
    with pytest.raises(VerificationError, match="length"):
        verify_inclusion(b, 0, 1, [a], pair)
    with pytest.raises(VerificationError, match="length"):
        verify_inclusion(b, 1, 4, [a], pair)
    with pytest.raises(VerificationError, match="too short"):
        verify_consistency(1, 4, [b], a, pair)
    with pytest.raises(VerificationError, match="too long"):
        verify_consistency(1, 2, [b, c], a, triple)
