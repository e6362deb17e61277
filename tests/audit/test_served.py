"""The log as outsiders read it: exactly what a checkpoint implies, and verifiable."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from audit.mirror import mirror
from audit.note import Checkpoint
from audit.objects import FolderObjects
from audit.served import read_piece
from audit.tiles import (
    Piece,
    entry_bundle,
    parse_piece,
    split_bundle,
)
from schemas.errors import NotFoundError, VerificationError
from tests.audit.examples import Room, an_event, pieces_of_size
from tests.harness.verifiers import build_go_verifier, node_verifier, run
from tests.harness.witnesses import answering

pieces = st.builds(
    Piece,
    st.none() | st.integers(0, 63),
    st.integers(0, 10**9) | st.integers(0, 2_000),
    st.integers(1, 256),
)


def append(room: Room, count: int) -> None:
    """Record some events."""
    asyncio.run(room.log.append([an_event(subjects=()) for _ in range(count)]))


@given(pieces)
def test_a_path_names_one_piece_and_a_piece_has_one_path(piece: Piece) -> None:
    """Writing and reading paths are inverse."""
    assert piece == parse_piece(piece.path)


@pytest.mark.parametrize(
    "path",
    [
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/0",
        "tile/0/x000/001",
        "tile/0/001/x000",
        "tile/0/1000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p",
        "tile/0/000/",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/x001/000\n",
        "tile/data/000",
        "tile/0/" + "x001/" * 8 + "000",
        "",
    ],
)
def test_another_spelling_names_nothing(path: str) -> None:
    """One piece, one address: what is cached is never cached twice."""
    assert parse_piece(path) is None


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_a_bundle_gives_its_entries_back(entries: list[bytes]) -> None:
    """Also empty ones."""
    assert entries == split_bundle(entry_bundle(entries))


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1), st.integers(1, 8))
def test_a_bundle_that_was_cut_is_refused(entries: list[bytes], cut: int) -> None:
    """It never gives fewer or shorter entries instead."""
    bundle = entry_bundle(entries)
    cut = min(cut, len(entries[-1]) + 1)
    with pytest.raises(VerificationError, match="middle of an entry"):
        split_bundle(bundle[:-cut])


@given(st.integers(0, 1 << 20))
def test_a_size_implies_its_own_pieces_and_those_of_smaller_ones(size: int) -> None:
    """And none that is wider."""
    for piece in pieces_of_size(size):
        wider = Piece(piece.level, piece.index, piece.width + 1)

        assert piece.is_within(size)
        assert piece.is_within(size + 1)
        assert not piece.is_partial or not wider.is_within(size)
        assert not Piece(piece.level, piece.index + 1, 1).is_within(size) or (
            not piece.is_partial
        )


def test_nothing_that_is_not_published_is_served(room: Room) -> None:
    """What is recorded, and even what is in the tree, waits for its checkpoint."""
    with room.reader() as reader:
        append(room, 3)
        before = [read_piece(reader, piece) for piece in pieces_of_size(3)]
        room.publisher.publish()
        append(room, 2)
        served = [read_piece(reader, piece) for piece in pieces_of_size(3)]
        beyond = [read_piece(reader, piece) for piece in pieces_of_size(5)]

    assert [None, None] == before
    assert all(served)
    assert [None, None] == beyond


def test_of_nothing_nothing_is_exported(room: Room, tmp_path: Path) -> None:
    """There is no log to read before its first checkpoint."""
    append(room, 1)
    with room.reader() as reader, pytest.raises(NotFoundError):
        mirror(reader, FolderObjects(tmp_path / "exported"))

    assert not (tmp_path / "exported").exists()


def test_a_partial_piece_is_the_beginning_of_the_full_one(room: Room) -> None:
    """Every width that any checkpoint implied is served for good."""
    append(room, 300)
    room.publisher.publish()
    with room.reader() as reader:
        for level, step in ((0, 32), (None, 0)):
            full = read_piece(reader, Piece(level, 0)) or b""
            widths = [read_piece(reader, Piece(level, 0, w)) for w in range(1, 256)]

            assert all(part and full.startswith(part) for part in widths)
            assert not step or [32 * w for w in range(1, 256)] == [
                len(part or b"") for part in widths
            ]
        assert read_piece(reader, Piece(0, 1, 45)) is None
        assert 32 * 44 == len(read_piece(reader, Piece(0, 1, 44)) or b"")
        assert 32 == len(read_piece(reader, Piece(1, 0, 1)) or b"")


def test_an_export_is_the_log_as_served_and_grows(room: Room, tmp_path: Path) -> None:
    """Doing it again adds what is new, and never changes what is there."""
    folder = tmp_path / "exported"
    append(room, 255)
    room.publisher.publish()
    with room.reader() as reader:
        mirror(reader, FolderObjects(folder))
        append(room, 2)
        room.publisher.publish()
        (folder / "tile/entries/000").write_bytes(b"something else")
        with pytest.raises(VerificationError, match="tile/entries/000: the store"):
            mirror(reader, FolderObjects(folder))
        (folder / "tile/entries/000").unlink()
        size = mirror(reader, FolderObjects(folder))
        files = {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file()
        }

        assert 257 == size
        assert {
            "checkpoint",
            "tile/0/000.p/255",
            "tile/entries/000.p/255",
            *(piece.path for piece in pieces_of_size(257)),
        } == files


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Keep it to itself."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's files on loopback."""
    handler = partial(_Quiet, directory=str(folder))
    with answering(handler) as url:
        yield url


@pytest.mark.parametrize("size", [1, 255, 256, 700])
def test_the_verifier_for_node_reads_an_exported_log(
    room: Room, tmp_path: Path, size: int
) -> None:
    """A second language recomputes the root, and finds a flipped bit."""
    node, script = node_verifier()
    append(room, size)
    room.publisher.publish()
    with room.reader() as reader:
        mirror(reader, FolderObjects(tmp_path / "log"))
        head = reader.head()
    vkey = room.keys.log.verifier.vkey
    found = run(node, script, tmp_path / "log", vkey)
    other = run(node, script, tmp_path / "log", room.keys.receipt.verifier.vkey)
    bundle = next((tmp_path / "log/tile/entries").rglob("000*"))
    bundle = bundle if bundle.is_file() else next(bundle.iterdir())
    content = bytearray(bundle.read_bytes())
    content[77] ^= 1
    bundle.write_bytes(content)
    flipped = run(node, script, tmp_path / "log", vkey)

    assert head is not None
    assert f"{room.log.origin}: {size} entries under root" in found.stdout
    assert 0 == found.returncode
    assert (1, 1) == (other.returncode, flipped.returncode)
    assert "another root" in flipped.stderr


def test_gos_own_verifier_reads_a_log_that_we_wrote(room: Room, tmp_path: Path) -> None:
    """The packages that guard Go's modules prove every leaf, and find a forged tile."""
    program = build_go_verifier(tmp_path)
    append(room, 600)
    room.publisher.publish()
    folder, vkey = tmp_path / "log", room.keys.log.verifier.vkey
    with room.reader() as reader:
        mirror(reader, FolderObjects(folder))
    with served(folder) as url:
        found = run(program, url, vkey)
        stranger = run(program, url, room.keys.receipt.verifier.vkey)
        tile = folder / "tile/0/001"
        tile.write_bytes(tile.read_bytes()[:-1] + b"?")
        forged = run(program, url, vkey)

    assert f"{room.log.origin} 600\n" == found.stdout, found.stderr
    assert (1, 1) == (stranger.returncode, forged.returncode)


def test_a_signed_head_of_another_root_is_found_by_go(
    room: Room, tmp_path: Path
) -> None:
    """A good signature over a wrong root convinces nobody."""
    program = build_go_verifier(tmp_path)
    append(room, 5)
    room.publisher.publish()
    folder = tmp_path / "log"
    with room.reader() as reader:
        mirror(reader, FolderObjects(folder))
    forged = Checkpoint(room.log.origin, 5, bytes(32)).text
    (folder / "checkpoint").write_text(room.keys.log.sign(forged), encoding="utf-8")
    with served(folder) as url:
        found = run(program, url, room.keys.log.verifier.vkey)

    assert 1 == found.returncode
