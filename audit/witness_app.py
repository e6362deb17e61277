"""The witness's HTTP service: two routes over `audit.witness`."""

import sqlite3
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit.keys import SECRET_SIZE, Entropy, read_secret, write_secret
from audit.note import Cosigner, parse_cosigner
from audit.policy import parse_policy
from audit.witness import BODY_LIMIT, Reply, Witness
from schemas.clock import Clock
from schemas.errors import SettingsError, VerificationError

_log = structlog.get_logger(__name__)


def build_witness_app(witness: Witness, clock: Clock) -> Starlette:
    """Return the service: it takes checkpoints, and shows the last of each log."""

    async def add_checkpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_LIMIT:
                return _response(Reply(413, "too large\n"))
        unix_s = int(clock.now().timestamp())
        return _response(
            await run_in_threadpool(witness.add_checkpoint, bytes(body), unix_s)
        )

    async def checkpoint(request: Request) -> Response:
        path = f"{request.path_params['origin']}/checkpoint"
        note = await run_in_threadpool(witness.checkpoint, path)
        return _response(
            Reply(404, "unknown log\n") if note is None else Reply(200, note)
        )

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", checkpoint, methods=["GET"]),
        ],
        exception_handlers={sqlite3.Error: _cannot_remember},
    )


async def _cannot_remember(_: Request, error: Exception) -> Response:
    """Answer where the witness's memory fails: nothing was cosigned."""
    _log.error("witness_memory_failed", error=str(error))
    return _response(Reply(503, "the witness can't use its memory\n"))


def _response(reply: Reply) -> Response:
    headers = {"cache-control": "no-store"}
    # `text/x.tlog.size` stands alone: the format gives it no charset.
    headers["content-type"] = reply.media_type
    return Response(reply.body, reply.status, headers)


def make_cosigner(file: Path, name: str, entropy: Entropy) -> Cosigner:
    """Make a witness's key and keep it in a file of its own, for its owner alone.

    Raises:
        SettingsError: There is a file already, or the name has spaces or a plus.
    """
    try:
        cosigner = Cosigner(name, entropy(SECRET_SIZE))
    except ValueError:
        raise SettingsError("a witness's name has no spaces and no `+`") from None
    write_secret(file, cosigner.skey)
    return cosigner


def open_witness(key_file: Path, logs_file: Path, data_file: Path) -> Witness:
    """Open a witness from its files.

    Args:
        key_file: Its private key, as `errand witness keygen` wrote it.
        logs_file: A tlog-policy whose `log` lines say what it watches.
        data_file: What it has cosigned (SQLite); made where there is none.

    Raises:
        SettingsError: A file can't be read, or is wrong, or is something else's.
    """
    try:
        cosigner = parse_cosigner(read_secret(key_file))
        policy = parse_policy(logs_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"a file of the witness can't be read: {error}") from None
    except VerificationError as error:
        raise SettingsError(f"`{key_file.name}`: {error}") from None
    logs = {log.verifier.name: log.verifier for log in policy.logs}
    if not logs or len(logs) != len(policy.logs):
        raise SettingsError(f"`{logs_file.name}` must name logs, each origin once")
    try:
        return Witness(data_file, cosigner, logs)
    except sqlite3.Error as error:
        raise SettingsError(f"`{data_file}` can't be used: {error}") from None
