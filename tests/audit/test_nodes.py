"""Nodes that proofs share: the proofs are those of the tiles, and few are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import inclusion_proof, tree_root, verify_inclusion
from audit.nodes import SharedNodes
from audit.tiles import TileId, integrate, node_reader
from schemas.errors import VerificationError
from tests.audit.test_merkle import numbers

LEAVES = numbers(2_000)
TILES = integrate(lambda *_: b"", 0, LEAVES)
PLAIN = node_reader(lambda *at: TILES[at])
ROOT = tree_root(PLAIN, 2_000)


def grown(tiles: dict[TileId, bytes], size: int, to: int) -> None:
    """Take leaves into tiles."""
    tiles.update(integrate(lambda *at: tiles.get(at, b""), size, LEAVES[size:to]))


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.lists(st.floats(0, 0.999), max_size=4)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 40),
)
def test_proofs_are_those_of_the_tiles_while_the_tree_grows(
    steps: list[tuple[int, list[float]]], most: int
) -> None:
    """Whatever is kept from earlier sizes, each proof is as without it."""
    tiles: dict[TileId, bytes] = {}
    plain = node_reader(lambda *at: tiles[at])
    shared = SharedNodes(lambda *at: tiles[at], most)
    size = 0
    for more, places in steps:
        grown(tiles, size, size + more)
        size += more
        root = tree_root(plain, size)
        for index in [int(place * size) for place in places]:
            with shared.proving() as read:
                proof = inclusion_proof(read, index, size)
                verify_inclusion(LEAVES[index], index, size, proof, root)

            assert inclusion_proof(plain, index, size) == proof
            assert 2 * most >= len(shared)


@given(st.integers(0, 1_999), st.integers(0, 1_999))
def test_what_one_proof_has_shown_is_not_read_again(first: int, second: int) -> None:
    """A proof that was made before takes no tile, whatever was proved since."""
    asked: list[TileId] = []

    def tile(level: int, number: int) -> bytes:
        asked.append((level, number))
        return TILES[level, number]

    shared = SharedNodes(tile)

    def prove(index: int) -> None:
        with shared.proving() as read:
            proof = inclusion_proof(read, index, 2_000)
            verify_inclusion(LEAVES[index], index, 2_000, proof, ROOT)

    prove(first)
    prove(second)
    asked.clear()
    prove(first)

    assert not asked


def test_what_a_shown_node_was_hashed_from_is_not_read_again() -> None:
    """Above the lowest tiles a proof takes what lies under the nodes of others."""
    asked: list[TileId] = []

    def tile(level: int, number: int) -> bytes:
        asked.append((level, number))
        return TILES[level, number]

    shared = SharedNodes(tile)
    for index in (0, 1_999, 700):
        asked.clear()
        with shared.proving() as read:
            proof = inclusion_proof(read, index, 2_000)
            verify_inclusion(LEAVES[index], index, 2_000, proof, ROOT)

    assert [(0, 2)] == asked


@given(st.integers(0, 1_999), st.integers(0, 1_999), st.integers(1, 255))
def test_a_tile_that_was_misread_spoils_no_later_proof(
    first: int, second: int, byte: int
) -> None:
    """What does not verify is not kept: once the tile is right, proofs are again."""
    stored = {at: bytes([row[0] ^ byte]) + row[1:] for at, row in TILES.items()}
    shared = SharedNodes(lambda *at: stored[at])

    def prove(index: int) -> list[bytes]:
        with shared.proving() as read:
            proof = inclusion_proof(read, index, 2_000)
            verify_inclusion(LEAVES[index], index, 2_000, proof, ROOT)
        return proof

    with pytest.raises(VerificationError):
        prove(first)
    stored.update(TILES)

    assert inclusion_proof(PLAIN, second, 2_000) == prove(second)


def test_after_a_proof_that_fails_what_is_stored_is_read() -> None:
    """Nodes of a history that is gone are forgotten with the first proof they spoil."""
    tiles: dict[TileId, bytes] = {}
    grown(tiles, 0, 600)
    old = tree_root(node_reader(lambda *at: tiles[at]), 600)
    shared = SharedNodes(lambda *at: tiles[at])
    with shared.proving() as read:
        verify_inclusion(LEAVES[3], 3, 600, inclusion_proof(read, 3, 600), old)
    other = [bytes(32), *LEAVES[1:600]]
    tiles.update(integrate(lambda *_: b"", 0, other))
    root = tree_root(node_reader(lambda *at: tiles[at]), 600)

    with pytest.raises(VerificationError), shared.proving() as read:
        verify_inclusion(LEAVES[3], 3, 600, inclusion_proof(read, 3, 600), root)
    with shared.proving() as read:
        proof = inclusion_proof(read, 3, 600)
        verify_inclusion(LEAVES[3], 3, 600, proof, root)

    assert 10 == len(proof)
