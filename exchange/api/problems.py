"""Errors as callers see them: RFC 9457 problems with stable types.

The error tree of `schemas.errors` is mapped here once, and nowhere else. Every type
is listed in `docs/problems.md`, which a test compares with `PROBLEMS`.

INVARIANT: no problem quotes a value of the request (rule 8): it names the place and
the rule. Even the names of members are quoted only where they look like names, and
of what pydantic says only what the contract itself says (`exchange.api.complaints`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from exchange.api.complaints import complaints_of
from schemas.errors import (
    Complaint,
    ConnectorError,
    ErrandError,
    ForbiddenError,
    InvalidRequestError,
    KeyReusedError,
    LogUnavailableError,
    MandateError,
    NotFoundError,
    PurposeNotAllowedError,
    RequestError,
    ScopeMissingError,
    StateConflictError,
    StoreUnavailableError,
    TooLargeError,
    UnauthenticatedError,
    VerificationError,
    Where,
)

TYPE_BASE = "https://errand.example/problems/"
MEDIA_TYPE = "application/problem+json"
_MOST_COMPLAINTS = 50


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem that the API answers with."""

    slug: str
    status: int
    title: str
    retry_after_s: int | None = None
    """When to ask again, in seconds; None when asking again doesn't help by itself."""

    @property
    def uri(self) -> str:
        """The problem's `type`."""
        return TYPE_BASE + self.slug


MALFORMED = ProblemType("malformed-request", 400, "The request can't be parsed")
UNAUTHENTICATED = ProblemType("unauthenticated", 401, "The caller is not known")
FORBIDDEN = ProblemType("forbidden", 403, "The caller may not do this")
SCOPE_MISSING = ProblemType(
    "scope-missing", 403, "The token does not carry the scope that this takes"
)
PURPOSE_NOT_ALLOWED = ProblemType(
    "purpose-not-allowed", 403, "The caller may not ask for this purpose"
)
MANDATE_NOT_VALID = ProblemType(
    "mandate-not-valid", 403, "The mandate does not let the agent do this"
)
NOT_FOUND = ProblemType("not-found", 404, "There is no such thing")
NOT_PUBLISHED = ProblemType(
    "not-yet-published", 404, "The record waits for the next checkpoint", 1
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed", 405, "This can't be done with this method"
)
STATE_CONFLICT = ProblemType("state-conflict", 409, "Its state forbids this")
TOO_LARGE = ProblemType("too-large", 413, "The request exceeds a limit")
INVALID_REQUEST = ProblemType("invalid-request", 422, "Parts of the request are wrong")
KEY_REUSED = ProblemType(
    "idempotency-key-reused", 422, "The idempotency key came with another request"
)
INTERNAL = ProblemType("internal-error", 500, "The exchange has a fault")
NOT_VERIFIED = ProblemType(
    "verification-failed", 500, "Something that the exchange holds does not verify"
)
DEPARTMENT_FAILED = ProblemType(
    "department-failed", 502, "A department could not be asked, or answered wrongly"
)
TOO_BUSY = ProblemType(
    "too-busy", 503, "The exchange has too much to do", retry_after_s=1
)
LOG_UNAVAILABLE = ProblemType(
    "log-unavailable", 503, "The log can't be written: nothing is released", 5
)
STORE_UNAVAILABLE = ProblemType(
    "store-unavailable", 503, "The tables can't be read or written now", 2
)

PROBLEMS: tuple[ProblemType, ...] = (
    MALFORMED,
    UNAUTHENTICATED,
    FORBIDDEN,
    SCOPE_MISSING,
    PURPOSE_NOT_ALLOWED,
    MANDATE_NOT_VALID,
    NOT_FOUND,
    NOT_PUBLISHED,
    METHOD_NOT_ALLOWED,
    STATE_CONFLICT,
    TOO_LARGE,
    INVALID_REQUEST,
    KEY_REUSED,
    INTERNAL,
    NOT_VERIFIED,
    DEPARTMENT_FAILED,
    TOO_BUSY,
    LOG_UNAVAILABLE,
    STORE_UNAVAILABLE,
)

_OF_ERROR: Mapping[type[ErrandError], ProblemType] = {
    InvalidRequestError: INVALID_REQUEST,
    NotFoundError: NOT_FOUND,
    StateConflictError: STATE_CONFLICT,
    ScopeMissingError: SCOPE_MISSING,
    PurposeNotAllowedError: PURPOSE_NOT_ALLOWED,
    MandateError: MANDATE_NOT_VALID,
    ForbiddenError: FORBIDDEN,
    UnauthenticatedError: UNAUTHENTICATED,
    TooLargeError: TOO_LARGE,
    KeyReusedError: KEY_REUSED,
    RequestError: MALFORMED,
    VerificationError: NOT_VERIFIED,
    ConnectorError: DEPARTMENT_FAILED,
    LogUnavailableError: LOG_UNAVAILABLE,
    StoreUnavailableError: STORE_UNAVAILABLE,
    ErrandError: INTERNAL,
}

_OF_STATUS: Mapping[int, ProblemType] = {
    400: MALFORMED,
    401: UNAUTHENTICATED,
    403: FORBIDDEN,
    404: NOT_FOUND,
    405: METHOD_NOT_ALLOWED,
    413: TOO_LARGE,
    503: TOO_BUSY,
}

_CHALLENGES: Mapping[ProblemType, str] = {
    UNAUTHENTICATED: 'Bearer realm="errand"',
    SCOPE_MISSING: 'Bearer realm="errand", error="insufficient_scope"',
}
"""What `WWW-Authenticate` says (RFC 6750, section 3)."""

_LOOKS_LIKE_A_NAME = re.compile(
    r"(?!(?:[^0-9]*[0-9]){6})[A-Za-z][A-Za-z0-9_.@-]{0,63}|[0-9]{1,4}|-"
)
"""Six digits are as much as a date of birth: no member of ours has so many."""


def of_error(error: ErrandError) -> ProblemType:
    """Return the problem type of an error of the tree."""
    for kind in type(error).__mro__:
        if kind in _OF_ERROR:
            return _OF_ERROR[kind]
    raise AssertionError("the tree's root is mapped")


def problem(
    kind: ProblemType,
    detail: str | None = None,
    complaints: Iterable[Complaint] = (),
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem as a response.

    Args:
        kind: Which.
        detail: What happened this time, without any value of the request.
        complaints: Each part of the request that is wrong.
        headers: Further headers.
    """
    body: dict[str, object] = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
    }
    if detail:
        body["detail"] = detail
    listed = [{c.where.value: _place(c), "detail": c.message} for c in complaints]
    if listed:
        body["errors"] = listed[:_MOST_COMPLAINTS]
    sent = dict(headers or {})
    if kind.retry_after_s is not None:
        sent["retry-after"] = str(kind.retry_after_s)
    if kind in _CHALLENGES:
        sent["www-authenticate"] = _CHALLENGES[kind]
    return Response(orjson.dumps(body), kind.status, sent, MEDIA_TYPE)


class WordedError(HTTPException):
    """Ends a request where no error of ours would come through; quotes nothing of it.

    The framework passes its own kind of error on, and hides any other. Of this one
    `detail` is told as well, since it is in our words.
    """


def install(app: FastAPI) -> None:
    """Make an application answer with problems only."""
    app.add_exception_handler(ErrandError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)


def of(error: ErrandError) -> Response:
    """Return an error of the tree as a response."""
    kind = of_error(error)
    if isinstance(error, InvalidRequestError):
        return problem(kind, complaints=error.complaints)
    # What went wrong inside is the operator's business, and in the logs.
    return problem(kind, str(error) if kind.status < 500 else None)  # noqa: PLR2004 - HTTP


async def _on_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ErrandError):
        raise error
    return of(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    sent_as = request.headers.get("content-type", "")
    if "json" not in sent_as and any(one["loc"] == ("body",) for one in found):
        return problem(MALFORMED, "send the body as `application/json`")
    return problem(INVALID_REQUEST, complaints=complaints_of(found, error.body))


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return problem(INTERNAL)  # and the framework raises it again, for the edge to log


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = _OF_STATUS.get(error.status_code, INTERNAL)
    headers = {name.lower(): text for name, text in (error.headers or {}).items()}
    if kind is METHOD_NOT_ALLOWED:
        headers["allow"] = _allowed(request)
    # Of the framework's own words none is passed on: they could quote.
    detail = error.detail if isinstance(error, WordedError) else None
    return problem(kind, detail, headers=headers)


def _allowed(request: Request) -> str:
    """Return every method of a path: the router itself names those of one route."""
    paths: Mapping[str, Mapping[str, object]] = request.app.openapi()["paths"]
    asked = request.url.path
    if asked not in paths:  # a path of its own comes before one with a parameter
        asked = next(p for p in paths if compile_path(p)[0].fullmatch(asked))
    found = (method.upper() for method in paths[asked])
    return ", ".join(sorted(found))


def _place(complaint: Complaint) -> str:
    """Return where a complaint points, without what could be a value."""
    if complaint.where is Where.BODY:
        return _safe_pointer(complaint.path)
    return complaint.path if _LOOKS_LIKE_A_NAME.fullmatch(complaint.path) else "*"


def _safe_pointer(pointer: str) -> str:
    """Return a pointer with `*` for every token that could be a value."""
    head, *tokens = pointer.split("/")
    if head:
        return "/*"
    safe = (t if _LOOKS_LIKE_A_NAME.fullmatch(t) else "*" for t in tokens)
    return "".join(f"/{token}" for token in safe)
