"""Verifying a log from what it serves: any log in the formats of C2SP, ours or not.

From the entries alone every hash tile and the root are computed anew, and compared with
what is served. An entry is any bytes: what it says is not looked at here (`verify`
does, for a log's own file).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from audit.cosigning import cosigned_by
from audit.merkle import EMPTY_ROOT, leaf_hash, tree_root
from audit.note import Checkpoint, b64, open_checkpoint, parse_vkey
from audit.policy import Policy
from audit.served import CHECKPOINT
from audit.tiles import (
    FULL_TILE,
    Piece,
    TileId,
    integrate,
    node_reader,
    split_bundle,
    tile_path,
)
from schemas.canonical import Json
from schemas.errors import VerificationError

PIECE_LIMIT = 32 << 20
"""Largest resource that is read, in bytes: a bundle of 256 entries is at most half."""
_TIMEOUT_S = 30.0

Fetch = Callable[[str], bytes | None]
"""Gives what is served at a path below the log's address; None for nothing."""
Progress = Callable[[int, int], None]
"""Told how many entries of how many are done."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found to hold."""

    origin: str
    entries: int
    root: str
    """Root of the checkpoint, in base64."""
    tiles: int
    """Hash tiles that are what the entries give."""
    cosigned: Mapping[str, int] = field(default_factory=dict)
    """Who has cosigned, and when, in seconds since 1970."""

    def as_json(self) -> Mapping[str, Json]:
        """Return the result as JSON."""
        return asdict(self)


def fetch_from_folder(folder: Path) -> Fetch:
    """Return what reads a log from a folder of files as they are served."""

    def fetch(path: str) -> bytes | None:
        file = folder / path
        return file.read_bytes() if file.is_file() else None

    return fetch


def fetch_from_url(client: httpx.Client, url: str) -> Fetch:
    """Return what reads a log over HTTP; the client carries a token where needed."""

    def fetch(path: str) -> bytes | None:
        content = bytearray()
        try:
            address = f"{url.rstrip('/')}/{path}"
            with client.stream("GET", address, timeout=_TIMEOUT_S) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    return None
                if answer.status_code != httpx.codes.OK:
                    raise VerificationError(f"{path}: HTTP {answer.status_code}")
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > PIECE_LIMIT:
                        raise VerificationError(f"{path}: too large")
        except httpx.HTTPError as error:
            raise VerificationError(f"{path}: {type(error).__name__}") from None
        return bytes(content)

    return fetch


def check_log(
    fetch: Fetch, vkey: str, progress: Progress, policy: Policy | None = None
) -> Checked:
    """Verify a served log whole.

    (1) The checkpoint: its signature, and the quorum where a policy demands one.
    (2) Every bundle, and the tiles that its entries give.
    (3) The root.

    Args:
        fetch: Reads what is served.
        vkey: The log's public key.
        progress: Told how far it is.
        policy: Who must have cosigned.

    Raises:
        VerificationError: Something does not hold, or is missing; the message names it.
    """
    # (1): who signs says what size and root must come out.
    note = _wanted(fetch(CHECKPOINT), CHECKPOINT)
    verifier = parse_vkey(vkey)
    checkpoint = open_checkpoint(note, verifier)
    cosigned = {} if policy is None else cosigned_by(note, verifier, policy)
    if policy is not None and not policy.is_met(cosigned.keys()):
        raise VerificationError("checkpoint: too few witnesses have cosigned")
    # (2): in order, so that memory holds the right edge alone.
    growing = _Growing(fetch)
    for index in range(0, checkpoint.size, 256):
        _grow(growing, fetch, checkpoint, index >> 8)
        progress(growing.size, checkpoint.size)
    # (3): over what is left at the right edge, which is all that a root needs.
    growing.check_edge()
    root = growing.root()
    if root != checkpoint.root:
        raise VerificationError("checkpoint: the entries give another root")
    return Checked(verifier.name, checkpoint.size, b64(root), growing.checked, cosigned)


def _grow(
    growing: "_Growing", fetch: Fetch, checkpoint: Checkpoint, number: int
) -> None:
    """Take one bundle into the tree."""
    width = min(256, checkpoint.size - (number << 8))
    piece = Piece(None, number, width)
    content = _wanted(_fetch(fetch, piece), piece.path)
    try:
        entries = split_bundle(content)
    except VerificationError as error:
        raise VerificationError(f"{piece.path}: {error}") from None
    if len(entries) < width:
        raise VerificationError(f"{piece.path}: it has {len(entries)} entries")
    growing.add([leaf_hash(entry) for entry in entries[:width]])


def _fetch(fetch: Fetch, piece: Piece) -> bytes | None:
    """Return a piece; of a partial one that is gone, the full one that it begins."""
    found = fetch(piece.path)
    if found is None and piece.is_partial:
        return fetch(Piece(piece.level, piece.index).path)
    return found


def _wanted(content: bytes | None, path: str) -> bytes:
    if content is None:
        raise VerificationError(f"{path}: missing")
    return content


class _Growing:
    """A tree that is computed from entries, and compared with the tiles served."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._tiles: dict[TileId, bytes] = {}
        self.size = 0
        self.checked = 0

    def add(self, hashes: list[bytes]) -> None:
        """Take leaves in, and compare the tiles that are full now."""
        tiles = self._tiles
        changed = integrate(lambda *tile: tiles.get(tile, b""), self.size, hashes)
        tiles.update(changed)
        self.size += len(hashes)
        for tile, content in changed.items():
            if len(content) == FULL_TILE:
                self._compare(tile)

    def check_edge(self) -> None:
        """Compare the tiles that are not full."""
        for tile, content in sorted(self._tiles.items()):
            if len(content) < FULL_TILE:
                self._compare(tile)

    def _compare(self, tile: TileId) -> None:
        """Verify a served tile, and forget a full one that nothing needs any more."""
        content = self._tiles[tile]
        piece = Piece(*tile, len(content) >> 5)
        served = _wanted(_fetch(self._fetch, piece), piece.path)
        if served[: len(content)] != content:
            raise VerificationError(f"{tile_path(*tile)}: not what the entries give")
        self.checked += 1
        level, index = tile
        if index:
            self._tiles.pop((level, index - 1), None)

    def root(self) -> bytes:
        """Return the root over everything."""
        if self.size == 0:
            return EMPTY_ROOT
        return tree_root(node_reader(self._tile), self.size)

    def _tile(self, level: int, index: int) -> bytes:
        """Return a tile; a full one that was forgotten is in the level above."""
        return self._tiles.get((level, index), b"")
