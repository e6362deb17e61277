"""The log for outsiders: its signed head and its immutable pieces (C2SP tlog-tiles).

Hash tiles tell nothing, since every leaf is salted: they are for everybody. Bundles
hold the leaves themselves, which say which organisation asked which for what kind of
evidence, and when: they are for auditors and mirrors, which hold the scope
`auditor`, unless the setting `log_bundles` opens them. Fetching them is no question
about anybody, and makes no record: a mirror that follows the log would otherwise
never come to its end.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, Security

from audit.anchor import ANCHORS, LIST, parse_name
from audit.objects import Objects
from audit.tiles import parse_piece
from exchange.api.dependencies import (
    Authorization,
    Gateway,
    ThisGateway,
    any_caller,
    caller_with,
)
from exchange.api.problems import NOT_FOUND, problem
from exchange.api.strict import StrictRoute
from schemas.directory import Scope

router = APIRouter(route_class=StrictRoute, tags=["log"])

_NOTE = "text/plain; charset=utf-8"
_FEW_SECONDS = {"cache-control": "public, max-age=1"}
_BYTES = "application/octet-stream"
_FOREVER = "max-age=31536000, immutable"
_PIECE_PATH = Path(
    max_length=64,
    description="Its index in groups of three digits; `.p/W` if it is partial.",
)

_STAMP_TYPES = {
    "checkpoint": _NOTE,
    "tsq": "application/timestamp-query",
    "tsr": "application/timestamp-reply",
}

AnchorPath = Annotated[
    str, Path(max_length=64, description="An anchor's name, and which part of it.")
]
PiecePath = Annotated[str, _PIECE_PATH]
Level = Annotated[str, Path(max_length=2, description="The tile's level, 0 to 63.")]
ShardName = Annotated[
    str,
    Path(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="`first`, or as `2026h2`."),
]


async def _bundle_reader(
    request: Request, gateway: ThisGateway, authorization: Authorization
) -> bool:
    """Return whether bundles are open to everybody, else demand an auditor's token.

    Raises:
        UnauthenticatedError: They are not, and there is no good token.
        ScopeMissingError: The token is not an auditor's.
    """
    if gateway.settings.log_bundles == "everybody":
        return True
    caller = await any_caller(request, gateway, authorization)
    await caller_with(Scope.AUDITOR)(caller)
    return False


@router.get("/log/checkpoint", response_class=Response)
async def read_checkpoint(gateway: ThisGateway) -> Response:
    """Return the signed head of the log's tree (C2SP checkpoint)."""
    return Response(await gateway.oversight.checkpoint(), 200, _FEW_SECONDS, _NOTE)


@router.get("/log/keys", response_class=Response)
async def read_log_keys(gateway: ThisGateway) -> Response:
    """Return the verifier keys of checkpoints and of receipts, one vkey a line."""
    keys = gateway.keys.log
    lines = f"{keys.log.verifier.vkey}\n{keys.receipt.verifier.vkey}\n"
    return Response(lines, media_type=_NOTE)


@router.get("/log/anchors/list", response_class=Response)
async def read_anchors(gateway: ThisGateway) -> Response:
    """Return the names of all time stamps over checkpoints, one a line."""
    listed = await asyncio.to_thread(gateway.public.read, LIST)
    return Response(listed or b"", 200, _FEW_SECONDS, _NOTE)


@router.get("/log/anchors/{path}", response_class=Response)
async def read_anchor(path: AnchorPath, gateway: ThisGateway) -> Response:
    """Return a stamped checkpoint, the question for its stamp, or the stamp (RFC 3161).

    `NAME.checkpoint`, `NAME.tsq` or `NAME.tsr`.
    """
    return await _anchor(gateway.public, path)


async def _anchor(public: Objects, path: str) -> Response:
    """Return a part of an anchor, to be kept for good."""
    parsed = parse_name(path)
    found = None
    if parsed is not None:
        found = await asyncio.to_thread(public.read, f"{ANCHORS}/{path}")
    if parsed is None or found is None:
        return problem(
            NOT_FOUND, "there is no such anchor", headers={"cache-control": "no-store"}
        )
    kept = {"cache-control": f"public, {_FOREVER}"}
    return Response(found, 200, kept, _STAMP_TYPES[parsed[1]])


@router.get("/log/shards", response_class=Response)
async def read_shards(gateway: ThisGateway) -> Response:
    """Return the list of the log's shards, signed with the key of each."""
    return Response(gateway.shards, 200, _FEW_SECONDS, _NOTE)


@router.get("/log/shards/{shard}/checkpoint", response_class=Response)
async def read_last_checkpoint(shard: ShardName, gateway: ThisGateway) -> Response:
    """Return the last signed head of a sealed shard."""
    note = await gateway.oversight.last_checkpoint(shard)
    return Response(note, 200, {"cache-control": f"public, {_FOREVER}"}, _NOTE)


@router.get("/log/shards/{shard}/anchors/list", response_class=Response)
async def read_sealed_anchors(shard: ShardName, gateway: ThisGateway) -> Response:
    """Return the names of all time stamps over a sealed shard's checkpoints."""
    public = gateway.oversight.anchors(shard)
    listed = await asyncio.to_thread(public.read, LIST)
    return Response(listed or b"", 200, _FEW_SECONDS, _NOTE)


@router.get("/log/shards/{shard}/anchors/{path}", response_class=Response)
async def read_sealed_anchor(
    shard: ShardName, path: AnchorPath, gateway: ThisGateway
) -> Response:
    """Return a part of a sealed shard's anchor, as `/log/anchors/{path}` does."""
    return await _anchor(gateway.oversight.anchors(shard), path)


@router.get("/log/shards/{shard}/tile/entries/{path:path}", response_class=Response)
async def read_sealed_bundle(
    shard: ShardName,
    path: PiecePath,
    gateway: ThisGateway,
    is_public: Annotated[bool, Security(_bundle_reader, scopes=[Scope.AUDITOR.value])],
) -> Response:
    """Return a bundle of a sealed shard's entries."""
    path = f"tile/entries/{path}"
    return await _piece(gateway, path, shard, is_public=is_public)


@router.get("/log/shards/{shard}/tile/{level}/{path:path}", response_class=Response)
async def read_sealed_tile(
    shard: ShardName, level: Level, path: PiecePath, gateway: ThisGateway
) -> Response:
    """Return a hash tile of a sealed shard's tree."""
    return await _piece(gateway, f"tile/{level}/{path}", shard, is_public=True)


@router.get("/log/tile/entries/{path:path}", response_class=Response)
async def read_bundle(
    path: PiecePath,
    gateway: ThisGateway,
    is_public: Annotated[bool, Security(_bundle_reader, scopes=[Scope.AUDITOR.value])],
) -> Response:
    """Return a bundle of the log's entries (C2SP tlog-tiles)."""
    return await _piece(gateway, f"tile/entries/{path}", is_public=is_public)


@router.get("/log/tile/{level}/{path:path}", response_class=Response)
async def read_tile(level: Level, path: PiecePath, gateway: ThisGateway) -> Response:
    """Return a hash tile of the log's tree (C2SP tlog-tiles)."""
    return await _piece(gateway, f"tile/{level}/{path}", is_public=True)


async def _piece(
    gateway: Gateway, path: str, shard: str | None = None, *, is_public: bool
) -> Response:
    """Return a piece that a checkpoint implies, to be kept for good."""
    piece = parse_piece(path)
    content = None if piece is None else await gateway.oversight.piece(piece, shard)
    if content is None:
        # Soon there may be: nobody on the way may remember that there was not.
        return problem(
            NOT_FOUND,
            "no published checkpoint implies this",
            headers={"cache-control": "no-store"},
        )
    kept = f"{'public' if is_public else 'private'}, {_FOREVER}"
    return Response(content, headers={"cache-control": kept}, media_type=_BYTES)
