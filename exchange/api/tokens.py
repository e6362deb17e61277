"""The routes by which a client gets a token, and others check what we sign.

SOURCE: RFC 6749 (sections 4.4, 5.1 and 5.2), RFC 8414, RFC 7517.
"""

from typing import Annotated, Literal, Protocol

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import JsonValue

from exchange.api.strict import StrictRoute
from exchange.identity import JWKS_PATH, METADATA_PATH, TOKEN_PATH, Identity
from exchange.token_request import ASSERTION_TYPE, TokenFault, TokenRefusal
from schemas.errors import TooLargeError
from schemas.model import Model

router = APIRouter(route_class=StrictRoute, tags=["tokens"])

_FORM = "application/x-www-form-urlencoded"
_MOST_BYTES = 16_384
_CACHED = {"cache-control": "public, max-age=300"}
_NOT_STORED = {"cache-control": "no-store", "pragma": "no-cache"}


class HasIdentity(Protocol):
    """What these routes need of the gateway."""

    @property
    def identity(self) -> Identity:
        """Who gives tokens."""
        ...


def identity_of(request: Request) -> Identity:
    """Return what gives tokens in the gateway that an application runs."""
    gateway: HasIdentity = request.app.state.gateway
    return gateway.identity


ThisIdentity = Annotated[Identity, Depends(identity_of)]


class TokenResponse(Model):
    """An access token (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    """Seconds that it holds."""
    scope: str
    """What it is for: `portal:<purpose>` and others, divided by spaces."""


class TokenErrorResponse(Model):
    """Why there is no token (RFC 6749, section 5.2)."""

    error: TokenFault
    error_description: str


_REQUEST_BODY: dict[str, JsonValue] = {
    "required": True,
    "content": {
        _FORM: {
            "schema": {
                "type": "object",
                "required": [
                    "grant_type",
                    "client_assertion_type",
                    "client_assertion",
                    "scope",
                ],
                "properties": {
                    "grant_type": {"const": "client_credentials"},
                    "client_assertion_type": {"const": ASSERTION_TYPE},
                    "client_assertion": {
                        "type": "string",
                        "description": "A JWT signed by the client's key (RFC 7523).",
                    },
                    "client_id": {"type": "string"},
                    "scope": {
                        "type": "string",
                        "description": "`portal:<purpose>`, `citizen`, `department`, "
                        "`auditor`, `operator`, divided by spaces.",
                    },
                },
            }
        }
    },
}


@router.post(
    TOKEN_PATH,
    response_model=TokenResponse,
    responses={
        status: {"model": TokenErrorResponse}
        for status in sorted({fault.status for fault in TokenFault})
    },
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def token(request: Request, identity: ThisIdentity) -> Response:
    """Give an access token to a client that proves who it is."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        what = f"send the parameters as `{_FORM}`"
        return _refusal(TokenRefusal(TokenFault.INVALID_REQUEST, what))
    answer = await identity.issue(await _body(request))
    if isinstance(answer, TokenRefusal):
        return _refusal(answer)
    given = TokenResponse(
        access_token=answer.access_token,
        token_type="Bearer",  # noqa: S106 - the kind of token, not a secret
        expires_in=answer.expires_in,
        scope=answer.scope,
    )
    return _json(given.model_dump(mode="json"), 200, _NOT_STORED)


@router.get(METADATA_PATH, response_model=dict[str, JsonValue])
async def metadata(identity: ThisIdentity) -> Response:
    """Say where tokens are given, and how (RFC 8414)."""
    return _json(identity.metadata(), 200, _CACHED)


@router.get(JWKS_PATH, response_model=dict[str, JsonValue])
async def jwks(identity: ThisIdentity) -> Response:
    """Publish the keys that sign tokens and consent receipts (RFC 7517)."""
    return _json(identity.jwks(), 200, _CACHED)


async def _body(request: Request) -> bytes:
    """Return the body, read no further than a form may be long.

    Raises:
        TooLargeError: It is longer.
    """
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > _MOST_BYTES:
            raise TooLargeError(f"a token request has up to {_MOST_BYTES} bytes")
    return bytes(read)


def _refusal(refusal: TokenRefusal) -> Response:
    body = TokenErrorResponse(
        error=refusal.fault, error_description=refusal.description
    )
    headers = dict(_NOT_STORED)
    if refusal.fault is TokenFault.INVALID_CLIENT:
        headers["www-authenticate"] = 'Bearer realm="errand"'  # RFC 9110, 11.6.1
    if refusal.fault is TokenFault.SLOW_DOWN:
        headers["retry-after"] = "60"
    return _json(body.model_dump(mode="json"), refusal.fault.status, headers)


def _json(content: object, status: int, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
