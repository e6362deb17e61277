"""The outermost ring of the API, as pure ASGI: limits, ids, the access log, metrics.

Every request passes `Edge` once, before the framework has seen it: a middleware that
builds request objects of its own would cost more than a governed look-up.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from fastapi import Response
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from exchange.api.problems import (
    INTERNAL,
    INVALID_REQUEST,
    MALFORMED,
    TOO_BUSY,
    TOO_LARGE,
    WordedError,
    problem,
)
from exchange.incoming import Incoming
from exchange.telemetry import Metrics
from schemas.clock import Clock
from schemas.errors import Complaint, Where
from schemas.ids import NewId

_log = structlog.get_logger(__name__)

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_UNKNOWN_METHOD, _NO_ROUTE = "OTHER", "none"
"""What the access log and the metrics call what is not ours."""
_MALFORMED_LINE = b"HTTP/1.1 400 Bad Request\r\n"
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})"
    rb"-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?",
    re.DOTALL,
)
"""SOURCE: W3C Trace Context, sections 3.2 and 3.2.4: after its 55 characters a version
later than 00 may have a dash, and what nobody knows yet."""
_ALWAYS_ANSWERED = "/health/"
_ONCE = {
    b"authorization": "Authorization",
    b"content-type": "Content-Type",
    b"errand-official": "Errand-Official",
    b"errand-subject": "Errand-Subject",
    b"idempotency-key": "Idempotency-Key",
    b"last-event-id": "Last-Event-ID",
}
"""Headers that have one value: of two, another reader would take the other one."""
_READ_HERE = (b"content-encoding", b"content-length", b"prefer", b"traceparent")
_NOT_TO_BE_GUESSED = (b"x-content-type-options", b"nosniff")
_NOT_TO_BE_KEPT = (b"cache-control", b"no-store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one gateway takes on."""

    body_bytes: int
    """The largest request body."""
    in_flight: int
    """How many requests are worked on at once."""


class Edge:
    """Wraps the whole application.

    Each request gets `state.request_id`, an id of our own that the answer carries as
    `X-Request-Id`, and `state.trace_id`, the caller's W3C trace id or that same id.
    INVARIANT (rule 8): nothing else of what a client sends reaches the access log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        metrics: Metrics,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._new_id = new_id
        self._in_flight = 0
        self._meters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """What counts and times the answers of one kind: looked up once."""
        metrics.in_flight.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._new_id(), self._limits)
        started = self._clock.monotonic()
        self._in_flight += 1
        try:
            refusal = self._refusal(scope, exchange)
            if refusal is not None:
                await refusal(scope, receive, exchange.send)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last one that can answer
            await self._answer_fault(exchange, error)
        except asyncio.CancelledError:  # the gateway stops, and waits no longer
            if not exchange.status:
                await problem(TOO_BUSY)(scope, receive, exchange.send)
            raise
        finally:
            self._in_flight -= 1
            self._account(exchange, self._clock.monotonic() - started)

    def answer_unreadable(self, why: str) -> bytes:
        """Return the whole answer to what is no request that can be read (RFC 9112)."""
        request_id = self._new_id()
        self._meters_of(_UNKNOWN_METHOD, _NO_ROUTE, MALFORMED.status)[0].inc()
        _log.info(
            "request",
            method=_UNKNOWN_METHOD,
            route=_NO_ROUTE,
            status=MALFORMED.status,
            request=request_id,
        )
        answer = problem(MALFORMED, why, headers={"connection": "close"})
        headers = [*answer.raw_headers, *_headers_of_ours(request_id), _NOT_TO_BE_KEPT]
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"".join([_MALFORMED_LINE, *lines, b"\r\n", answer.body])

    def _refusal(self, scope: Scope, exchange: "_Exchange") -> Response | None:
        """Return the answer to a request that is not let in, or None."""
        if exchange.announced > self._limits.body_bytes:
            told = _too_large(self._limits.body_bytes)
            return problem(TOO_LARGE, told, headers={"connection": "close"})
        if exchange.repeated:
            twice = Complaint(exchange.repeated, "must come once", Where.HEADER)
            return problem(INVALID_REQUEST, complaints=(twice,))
        if exchange.is_encoded:  # RFC 9110, section 8.4: it would be read as it is not
            return problem(MALFORMED, "send the body without a `Content-Encoding`")
        is_full = self._in_flight > self._limits.in_flight
        if is_full and not scope["path"].startswith(_ALWAYS_ANSWERED):
            return problem(TOO_BUSY)
        return None

    async def _answer_fault(self, exchange: "_Exchange", error: Exception) -> None:
        _log.error("unexpected_error", request=exchange.request_id, exc_info=error)
        if not exchange.status:
            answer = problem(INTERNAL)
            await answer(exchange.scope, exchange.receive, exchange.send)

    def _account(self, exchange: "_Exchange", seconds: float) -> None:
        method = exchange.scope["method"]
        method = method if method in _METHODS else _UNKNOWN_METHOD
        # The route's own pattern: a path may hold what its caller put there.
        route = getattr(exchange.scope.get("route"), "path", _NO_ROUTE)
        status = exchange.status or 499  # the caller left before any answer
        counter, histogram = self._meters_of(method, route, status)
        counter.inc()
        histogram.observe(seconds)
        state = exchange.scope["state"]
        _log.info(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            request=exchange.request_id,
            trace=state["trace_id"],
            client=state.get("client"),
        )

    def _meters_of(
        self, method: str, route: str, status: int
    ) -> tuple[Counter, Histogram]:
        found = self._meters.get((method, route, status))
        if found is None:
            found = (
                self._metrics.requests.labels(method, route, status),
                self._metrics.request_seconds.labels(route),
            )
            self._meters[method, route, status] = found
        return found


def protocol_of(edge: Edge) -> type[Incoming]:
    """Return how the server speaks HTTP: what it can't read, the edge answers as well.

    For uvicorn's setting `http`. By itself the server would answer without an id, and
    nobody could find the request in the log.
    """

    class Protocol(Incoming):
        """HTTP/1.1 before the edge."""

        @override
        def unreadable(self, why: str) -> bytes:
            return edge.answer_unreadable(why)

    return Protocol


class _Exchange:
    """One request and its answer, as they pass."""

    __slots__ = (
        "_limit",
        "_receive",
        "_received",
        "_send",
        "announced",
        "is_encoded",
        "repeated",
        "request_id",
        "scope",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: str,
        limits: Limits,
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._limit = limits.body_bytes
        self._received = 0
        self.status = 0
        self.request_id = request_id
        self.repeated = ""
        sent: dict[bytes, list[bytes]] = {name: [] for name in _READ_HERE}
        seen: set[bytes] = set()
        for name, value in scope["headers"]:
            if name in _ONCE:
                if name in seen:
                    self.repeated = _ONCE[name]
                seen.add(name)
            elif name in sent:
                sent[name].append(value)
        codings = sent[b"content-encoding"]
        self.is_encoded = any(one.strip().lower() != b"identity" for one in codings)
        preferred = sent[b"prefer"]
        if len(preferred) > 1:  # RFC 9110, section 5.3: several lines are one list
            others = [one for one in scope["headers"] if one[0] != b"prefer"]
            scope["headers"] = [*others, (b"prefer", b", ".join(preferred))]
        # 20 digits are more than any limit, and few enough to read.
        length = sent[b"content-length"][-1:]
        self.announced = int(length[0][:20]) if length and length[0].isdigit() else 0
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        trace = _trace_of(sent[b"traceparent"])
        state["trace_id"] = trace or request_id.replace("-", "")

    async def receive(self) -> Message:
        """Pass on a piece of the body, up to the limit.

        Raises:
            WordedError: 413, before the rest is read.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._limit:
                told = _too_large(self._limit)
                raise WordedError(413, told, headers={"connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        """Pass on the answer with its id, and as nothing to be kept by others."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = [
                *message.get("headers", ()),
                *_headers_of_ours(self.request_id),
            ]
            if b"cache-control" not in [name for name, _ in headers]:
                headers.append(_NOT_TO_BE_KEPT)
        await self._send(message)


def _trace_of(parents: Sequence[bytes]) -> str | None:
    """Return the trace that a request goes on with; None: it begins one of its own.

    What is wrong or comes twice is as if it were not there, and never an error.
    SOURCE: W3C Trace Context, sections 3.2, 3.2.4 and 4.3.
    """
    valid = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    return None if valid is None else valid[1].decode("ascii")


def _headers_of_ours(request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return what every answer carries."""
    return (b"x-request-id", request_id.encode()), _NOT_TO_BE_GUESSED


def _too_large(limit: int) -> str:
    return f"the body may have {limit} bytes at most"
