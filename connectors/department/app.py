"""The service that a department runs beside its register: look-ups in, evidence out.

`POST /lookups` takes a signed look-up and answers it; `GET /.well-known/jwks.json`
publishes the department's key; `GET /health` tells whether the register can be read.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from pydantic import JsonValue

from connectors.department.answering import Department, Refusal, Reply
from connectors.department.config import DepartmentConfig
from connectors.department.database import REGISTER_ERRORS, reason
from connectors.department.signing import jwks
from connectors.problems import ProblemType
from connectors.protocol import MAX_LOOKUP
from schemas.clock import Clock, SystemClock

_READING_S = 10.0
"""How long the body of a look-up may take to arrive."""

log = structlog.get_logger(__name__)


class _Gate:
    """Lets so many look-ups read the register at once, and so many more wait."""

    def __init__(self, threads: int, waiting: int) -> None:
        self._limiter = CapacityLimiter(threads)
        self._room = threads + waiting
        self._inside = 0

    async def run(self, department: Department, token: str) -> Reply:
        if self._inside >= self._room:
            message = "too many look-ups at once"
            return Reply.of(Refusal(ProblemType.OVERLOADED, message))
        self._inside += 1
        try:
            return await to_thread.run_sync(
                department.answer, token, limiter=self._limiter
            )
        finally:
            self._inside -= 1


async def _read_body(request: Request) -> str:
    """Return the body of a look-up, reading no more than a look-up may have."""
    body = b""
    try:
        async with asyncio.timeout(_READING_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_LOOKUP:
                    message = f"a look-up has at most {MAX_LOOKUP} bytes"
                    raise Refusal(ProblemType.TOO_LARGE, message)
    except TimeoutError:
        message = "the look-up did not arrive in time"
        raise Refusal(ProblemType.INVALID_LOOKUP, message) from None
    try:
        return body.decode("ascii").strip()
    except UnicodeDecodeError:
        message = "a look-up is ASCII"
        raise Refusal(ProblemType.INVALID_LOOKUP, message) from None


def build_app(
    config: DepartmentConfig,
    *,
    clock: Clock | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> FastAPI:
    """Return the department's service as an ASGI app.

    Raises:
        SettingsError: The key, the register or the log is not usable.
    """
    department = Department(config, clock or SystemClock(), entropy)
    gate = _Gate(config.limits.threads, config.limits.waiting)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        department.close()

    app = FastAPI(
        title="Errand department",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )

    @app.post("/lookups")
    async def lookups(request: Request) -> Response:
        try:
            token = await _read_body(request)
        except Refusal as refusal:
            return _response(Reply.of(refusal))
        return _response(await gate.run(department, token))

    @app.get("/.well-known/jwks.json")
    async def keys() -> Response:
        return _json(jwks(department.key))

    @app.get("/health")
    async def health() -> Response:
        try:
            await to_thread.run_sync(department.register.ping)
        except REGISTER_ERRORS as error:
            log.warning("register_unavailable", reason=reason(error))
            return _json({"status": "register unavailable"}, 503)
        return _json({"status": "ok"})

    return app


def _response(reply: Reply) -> Response:
    headers = {"cache-control": "no-store"}
    if reply.retry_after_s is not None:
        headers["retry-after"] = str(reply.retry_after_s)
    if reply.outcome == ProblemType.TOO_LARGE.value:
        # What is left of the body is not even taken off the wire.
        headers["connection"] = "close"
    return Response(reply.body, reply.status, headers, reply.media_type)


def _json(value: dict[str, JsonValue], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
