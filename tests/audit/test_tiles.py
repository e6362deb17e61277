"""Tiles: made once or piece by piece they are the same, and they prove everything."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.merkle import (
    consistency_proof,
    inclusion_proof,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from audit.tiles import (
    FULL_TILE,
    TileId,
    bundle_path,
    entry_bundle,
    integrate,
    node_reader,
    reading_once,
    tile_path,
    tiles_of_size,
)
from schemas.errors import VerificationError
from tests.audit.test_merkle import OWN, mth, numbers

LEAVES = numbers(70_000)


TILES = integrate(lambda *_: b"", 0, LEAVES)


def grow(tiles: dict[TileId, bytes], size: int, to: int) -> None:
    """Take leaves into tiles."""
    tiles.update(integrate(lambda *tile: tiles.get(tile, b""), size, LEAVES[size:to]))


def test_tiles_of_the_large_vector_are_those_of_the_format() -> None:
    """70,000 leaves make the tiles that the format's description counts."""
    tiles: dict[TileId, bytes] = {}
    grow(tiles, 0, 70_000)
    read = node_reader(lambda *tile: tiles[tile])
    widths = {tile: len(hashes) // 32 for tile, hashes in tiles.items()}

    assert base64.b64decode(OWN[70_000]) == tree_root(read, 70_000)
    assert 273 + 1 + 1 + 1 + 1 == len(tiles)
    assert (112, 256, 17, 1) == tuple(
        widths[tile] for tile in ((0, 273), (1, 0), (1, 1), (2, 0))
    )
    assert dict(tiles_of_size(70_000)) == widths


def test_proofs_come_from_tiles_at_every_edge() -> None:
    """Proofs read from tiles verify around the borders of tiles and trees."""
    tiles: dict[TileId, bytes] = {}
    grow(tiles, 0, 70_000)
    read = node_reader(lambda *tile: tiles[tile])
    root = tree_root(read, 70_000)

    for index in (0, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999):
        proof = inclusion_proof(read, index, 70_000)
        verify_inclusion(LEAVES[index], index, 70_000, proof, root)
    for size in (1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999):
        proof = consistency_proof(read, size, 70_000)
        verify_consistency(size, 70_000, proof, tree_root(read, size), root)


@given(st.integers(0, 69_999))
def test_a_proof_reads_no_tile_twice_and_few_of_them(index: int) -> None:
    """A proof in a tree of 70,000 takes its own tiles and those of the right edge."""
    asked: list[TileId] = []

    def tile(level: int, number: int) -> bytes:
        asked.append((level, number))
        return TILES[level, number]

    read = node_reader(reading_once(tile))
    proof = inclusion_proof(read, index, 70_000)

    assert inclusion_proof(node_reader(lambda *at: TILES[at]), index, 70_000) == proof
    assert len(set(asked)) == len(asked)
    assert 5 >= len(asked)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_integration_does_not_depend_on_its_steps(steps: list[int]) -> None:
    """Leaves taken in piece by piece give the tiles of leaves taken in at once."""
    pieces: dict[TileId, bytes] = {}
    size = 0
    for step in steps:
        grow(pieces, size, size + step)
        # Done twice, as after a crash: nothing changes.
        before = dict(pieces)
        grow(pieces, size, size + step)
        assert before == pieces
        size += step
    whole: dict[TileId, bytes] = {}
    grow(whole, 0, size)

    assert whole == pieces
    assert mth(LEAVES[:size]) == tree_root(
        node_reader(lambda *tile: pieces[tile]), size
    )


@given(st.integers(1, 700))
def test_a_partial_tile_is_the_beginning_of_the_full_one(size: int) -> None:
    """What was served as a partial tile is found again in the tile that grew."""
    early: dict[TileId, bytes] = {}
    grow(early, 0, size)
    late: dict[TileId, bytes] = {}
    grow(late, 0, 1_000)

    assert all(late[tile].startswith(hashes) for tile, hashes in early.items())
    assert all(len(hashes) <= FULL_TILE for hashes in late.values())


def test_a_tile_that_is_too_short_is_named() -> None:
    """A missing or cut tile is refused by its path, when read and when built upon."""
    tiles: dict[TileId, bytes] = {}
    grow(tiles, 0, 300)
    tiles[0, 1] = tiles[0, 1][:-32]

    with pytest.raises(VerificationError, match="tile/0/001"):
        tree_root(node_reader(lambda *tile: tiles.get(tile, b"")), 300)
    with pytest.raises(VerificationError, match=r"tile/0/001\.p/44"):
        grow(tiles, 300, 301)


@pytest.mark.parametrize(
    ("path", "level", "index", "width"),
    [
        ("tile/0/000", 0, 0, 256),
        ("tile/0/999", 0, 999, 256),
        ("tile/3/x001/000", 3, 1000, 256),
        ("tile/0/x001/x234/067", 0, 1234067, 256),
        ("tile/1/x001/001.p/17", 1, 1001, 17),
        ("tile/63/000.p/1", 63, 0, 1),
    ],
)
def test_tiles_are_served_where_the_format_says(
    path: str, level: int, index: int, width: int
) -> None:
    """Paths group an index in threes, and name the width of a partial tile."""
    assert path == tile_path(level, index, width)


def test_bundles_hold_each_entry_after_its_length() -> None:
    """A bundle is lengths in 16 bits and entries, one after the other."""
    bundle = entry_bundle([b"a", b"", b"x" * 65_535])

    assert b"\x00\x01a\x00\x00\xff\xff" == bundle[:7]
    assert "tile/entries/x001/000.p/3" == bundle_path(1000, 3)


@pytest.mark.parametrize("leaves", [[b"x" * 65_536], [b""] * 257])
def test_what_no_bundle_can_hold_is_refused(leaves: list[bytes]) -> None:
    """An entry of 65,536 bytes or a 257th entry is refused."""
    with pytest.raises(ValueError, match="65,535"):
        entry_bundle(leaves)
