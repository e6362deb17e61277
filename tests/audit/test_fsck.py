"""Verifying what a log serves: every flipped bit of every file is found and named."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.fetching import fetch_from_folder, fetching_from_url
from audit.fsck import check_log
from audit.merkle import leaf_hash, tree_root
from audit.note import Checkpoint, Signer
from audit.tiles import (
    TileId,
    entry_bundle,
    integrate,
    node_reader,
)
from schemas.errors import UnverifiableError, VerificationError
from tests.audit.examples import pieces_of_size
from tests.audit.test_served import served as serving
from tests.harness.commands import errand

LOG = Signer("log.example/of-others", b"s" * 32)
VKEY = LOG.verifier.vkey
SIZES = (0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 65_793)


def nothing(_done: int, _of: int) -> None:
    """Report to nobody."""


def a_log(size: int) -> dict[str, bytes]:
    """Return a log as somebody else may serve it: entries are no records of ours."""
    leaves = [str(number).encode() for number in range(size)]
    tiles: dict[TileId, bytes] = integrate(
        lambda *_: b"", 0, [leaf_hash(leaf) for leaf in leaves]
    )
    root = tree_root(node_reader(lambda *tile: tiles[tile]), size)
    served = {"checkpoint": LOG.sign(Checkpoint(LOG.name, size, root).text).encode()}
    for piece in pieces_of_size(size):
        start = piece.index * 256
        served[piece.path] = (
            entry_bundle(leaves[start : start + piece.width])
            if piece.level is None
            else tiles[piece.level, piece.index]
        )
    return served


@pytest.mark.parametrize("size", SIZES)
def test_a_log_that_somebody_else_wrote_is_verified(size: int) -> None:
    """At every edge of a tile and of a level of tiles, each tile is compared once."""
    served = a_log(size)
    done: list[tuple[int, int]] = []
    checked = check_log(served.get, VKEY, lambda *at: done.append(at))
    tiles = [one for one in pieces_of_size(size) if one.level is not None]

    assert (LOG.name, size) == (checked.origin, checked.entries)
    assert len(tiles) == checked.tiles
    assert not size or (size, size) == done[-1]


SERVED = a_log(700)


@given(st.sampled_from(sorted(SERVED)), st.data())
def test_one_flipped_bit_anywhere_is_found_and_named(
    path: str, data: st.DataObject
) -> None:
    """In the checkpoint, in any tile, in any bundle; in an entry, by its tile."""
    content = bytearray(SERVED[path])
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at >> 3] ^= 1 << (at & 7)
    changed = {**SERVED, path: bytes(content)}
    with pytest.raises(VerificationError) as caught:
        check_log(changed.get, VKEY, nothing)
    number = path.replace("entries", "0")
    named = str(caught.value)

    assert path == "checkpoint" or path in named or number.split(".p/")[0] in named


@pytest.mark.parametrize("path", sorted(SERVED))
def test_what_is_missing_or_cut_short_is_named(path: str) -> None:
    """Each resource that the checkpoint implies."""
    without = {key: value for key, value in SERVED.items() if key != path}
    cut = {**SERVED, path: SERVED[path][:-1]}

    with pytest.raises(VerificationError, match="missing"):
        check_log(without.get, VKEY, nothing)
    with pytest.raises(VerificationError):
        check_log(cut.get, VKEY, nothing)


def test_two_entries_that_changed_places_are_found() -> None:
    """The order is part of what is signed."""
    leaves = [str(number).encode() for number in range(256)]
    leaves[3], leaves[4] = leaves[4], leaves[3]
    changed = {**SERVED, "tile/entries/000": entry_bundle(leaves)}

    with pytest.raises(VerificationError, match="tile/0/000"):
        check_log(changed.get, VKEY, nothing)


def test_a_bundle_with_an_entry_too_many_is_found() -> None:
    """What no checkpoint implies is not served beside what it does."""
    path = "tile/entries/002.p/188"
    leaves = [str(number).encode() for number in range(512, 701)]
    changed = {**SERVED, path: entry_bundle(leaves)}

    with pytest.raises(VerificationError, match=f"{path}: it has 189 entries"):
        check_log(changed.get, VKEY, nothing)


def test_full_pieces_do_for_partial_ones_that_are_gone() -> None:
    """A log may remove a partial piece once the full one is there."""
    small, large = a_log(700), a_log(1_000)
    served = {path: one for path, one in small.items() if ".p/" not in path}
    served |= {
        path: one
        for path, one in large.items()
        if ".p/" not in path and path != "checkpoint"
    }
    # Level 1 has no full tile yet, so its partial one must stay.
    served["tile/1/000.p/2"] = small["tile/1/000.p/2"]
    served["tile/0/002"] = a_log(768)["tile/0/002"]

    assert 700 == check_log(served.get, VKEY, nothing).entries


def test_a_head_over_another_root_is_found() -> None:
    """It is well signed, and every tile is what the entries give."""
    forged = Checkpoint(LOG.name, 700, bytes(32)).text
    changed = {**SERVED, "checkpoint": LOG.sign(forged).encode()}

    with pytest.raises(VerificationError, match="checkpoint: the entries give another"):
        check_log(changed.get, VKEY, nothing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log as files."""
    root = tmp_path_factory.mktemp("log")
    for path, content in SERVED.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    yield root
    shutil.rmtree(root)


def test_the_command_tells_by_its_status(folder: Path, tmp_path: Path) -> None:
    """0 for a log that holds, 1 for one that doesn't, with one line that says where."""
    good = errand("audit", "fsck", folder, "--key", VKEY, "--json")
    shown = errand("audit", "fsck", folder, "--key", VKEY)
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    tile = bad / "tile/0/001"
    content = bytearray(tile.read_bytes())
    content[random.Random(1).randrange(len(content))] ^= 1  # noqa: S311 - any byte
    tile.write_bytes(content)
    found = errand("audit", "fsck", bad, "--key", VKEY)

    assert 0 == good.status == shown.status
    assert 700 == good.json["entries"]
    assert "700" in shown.stdout
    assert 1 == found.status
    assert "errand: tile/0/001: not what the entries give" in found.stderr


def test_a_log_is_read_over_http(folder: Path) -> None:
    """What is not found may be full by now; what fails otherwise is named."""
    with serving(folder) as url:
        done = errand("audit", "fsck", url, "--key", VKEY, "--json")
    with (
        fetching_from_url(url) as fetch,
        pytest.raises(UnverifiableError, match=r"checkpoint: .*ConnectError"),
    ):
        fetch("checkpoint")

    assert (0, 700) == (done.status, done.json["entries"])
    assert fetch_from_folder(folder)("tile/9/000") is None
