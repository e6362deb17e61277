"""The API as it is served: the framework, with the edge and the hot route before it.

The hot route is a well-formed `POST /v1/cases`.

What is well-formed is checked by the very model of the route, and answered by the very
function; everything else (a wrong token, a body that doesn't fit) goes
on to the route as it came, so that there is one place that refuses. A test sends the
same requests both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from fastapi import FastAPI, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from exchange.api import problems
from exchange.api.cases import PATH, PREFER_MOST, OpenCaseRequest, answer_opening
from exchange.api.dependencies import Gateway
from exchange.api.edge import Edge
from exchange.api.forms import KEY_MOST
from exchange.token_request import Caller
from schemas.directory import Scope as Right
from schemas.errors import ErrandError, UnauthenticatedError

_READ = frozenset((b"authorization", b"content-type", b"prefer", b"idempotency-key"))
_ROUTE = SimpleNamespace(path=PATH)
"""What the access log and the metrics call it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that the shortcut can answer."""

    caller: Caller
    body: OpenCaseRequest
    raw: bytes
    prefer: str | None
    idempotency_key: str | None


class Application(FastAPI):
    """The API behind its edge.

    The framework's own layers are passed by those who need none of them: the edge
    answers what goes wrong itself, and the hot route is one function.
    """

    edge: Edge
    """What every request passes first; it ends at `shortcut`."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.edge(scope, receive, send)

    async def shortcut(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the hot route; hand everything else to the framework (ASGI)."""
        if scope.get("path") != PATH or scope.get("method") != "POST":
            await super().__call__(scope, receive, send)
            return
        messages = await _read(receive)
        gateway: Gateway = self.state.gateway
        asked = _asked(gateway, scope["headers"], messages)
        if asked is None:
            await super().__call__(scope, _again(messages, receive), send)
            return
        scope["route"] = _ROUTE
        scope["state"]["client"] = asked.caller.requester
        answer = await _answer(gateway, asked)
        await answer(scope, receive, send)


async def _answer(gateway: Gateway, asked: _Asked) -> Response:
    try:
        return await answer_opening(
            gateway,
            asked.caller,
            asked.body,
            asked.raw,
            prefer=asked.prefer,
            idempotency_key=asked.idempotency_key,
        )
    except ErrandError as error:
        return problems.of(error)


async def _read(receive: Receive) -> list[Message | HTTPException]:
    """Return the messages of the body, or how reading it ended."""
    messages: list[Message | HTTPException] = []
    more = True
    while more:
        try:
            message = await receive()
        except HTTPException as error:  # the body is too large
            messages.append(error)
            return messages
        messages.append(message)
        more = message["type"] == "http.request" and bool(message.get("more_body"))
    return messages


def _again(messages: Sequence[Message | HTTPException], receive: Receive) -> Receive:
    """Return what receives all of it once more, then what comes after."""
    left = iter(messages)

    async def receive_again() -> Message:
        message = next(left, None)
        if isinstance(message, HTTPException):
            raise message
        return await receive() if message is None else message

    return receive_again


def _asked(
    gateway: Gateway,
    headers: Sequence[tuple[bytes, bytes]],
    messages: Sequence[Message | HTTPException],
) -> _Asked | None:
    """Return the request, or None when the route has to look at it."""
    pieces: list[bytes] = []
    for message in messages:
        if isinstance(message, HTTPException) or message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
    sent = _headers(headers)
    prefer, key = sent.get(b"prefer"), sent.get(b"idempotency-key")
    if (
        sent.get(b"content-type") != "application/json"
        or len(prefer or "") > PREFER_MOST
        or len(key or "") > KEY_MOST
    ):
        return None
    try:
        caller = gateway.identity.authenticate(
            sent.get(b"authorization"), gateway.clock.now()
        )
        raw = b"".join(pieces)
        body = OpenCaseRequest.model_validate_json(raw)
    except (UnauthenticatedError, ValidationError):
        return None
    if Right.PORTAL not in caller.scopes or raw.count(b":") != _members(body):
        return None
    return _Asked(caller, body, raw, prefer, key)


def _members(body: OpenCaseRequest) -> int:
    """Return how many members the body's JSON has, if each came once.

    Each has one colon. Where there are more, a member came twice, or a text holds one:
    the route's own way tells which.
    """
    nested = sum(map(len, body.subjects.values())) + len(body.subjects)
    own = len(body.model_fields_set) + len(body.actor.model_fields_set)
    return own + nested + len(body.answers)


def _headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Return the headers that matter here: the edge lets each through once."""
    return {name: value.decode("latin-1") for name, value in headers if name in _READ}
