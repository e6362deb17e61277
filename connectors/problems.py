"""Why a department gives no evidence: problems (RFC 9457) of a closed list.

A part of the provider protocol; `docs/provider-protocol.md` is the contract.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import orjson
from pydantic import ConfigDict, JsonValue

from schemas.canonical import check_members
from schemas.documented import Documented
from schemas.errors import ConnectorFaultError, Fault
from schemas.model import Slug

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_BASE = "https://errand.example/provider-problems/"


class ProblemType(StrEnum):
    """Why a department gives no evidence: the closed list."""

    NOT_HELD = "not-held"
    """It has no such record, and would have it if there were one."""
    NOT_COVERED = "not-covered"
    """It can't speak about this region or date."""
    DECLINED = "declined"
    """It refuses by a rule of its own; `code` says which."""
    INVALID_LOOKUP = "invalid-lookup"
    NOT_TRUSTED = "not-trusted"
    """Signed by a key that it has not pinned, or made for somebody else."""
    EXPIRED = "expired"
    REPLAYED = "replayed"
    UNKNOWN_EVIDENCE_TYPE = "unknown-evidence-type"
    TOO_LARGE = "too-large"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    """Its register can't be read now."""


PROBLEM_STATUS: Mapping[ProblemType, int] = {
    ProblemType.NOT_HELD: 404,
    ProblemType.NOT_COVERED: 404,
    ProblemType.DECLINED: 403,
    ProblemType.INVALID_LOOKUP: 400,
    ProblemType.NOT_TRUSTED: 401,
    ProblemType.EXPIRED: 401,
    ProblemType.REPLAYED: 409,
    ProblemType.UNKNOWN_EVIDENCE_TYPE: 404,
    ProblemType.TOO_LARGE: 413,
    ProblemType.OVERLOADED: 503,
    ProblemType.UNAVAILABLE: 503,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of the closed list, as a department sent it."""

    type: ProblemType
    code: str | None


def problem_body(problem: ProblemType, detail: str, code: str | None = None) -> bytes:
    """Return a problem as JSON (RFC 9457); `detail` must hold no person's value."""
    body: dict[str, JsonValue] = {
        "type": PROBLEM_BASE + problem.value,
        "title": problem.value.replace("-", " "),
        "status": PROBLEM_STATUS[problem],
        "detail": detail,
    }
    return orjson.dumps(body if code is None else {**body, "code": code})


class _ProblemBody(Documented):
    model_config = ConfigDict(frozen=True, strict=True)

    type: str
    status: int | None = None
    code: Slug | None = None


def parse_problem(body: bytes, status: int) -> Problem:
    """Return the problem of the closed list that a department sent with `status`.

    Raises:
        ConnectorFaultError: It is none of the list, or its status is another's.
    """
    try:
        parsed = _ProblemBody.model_validate_json(body)
        check_members(body)
        kind = ProblemType(parsed.type.removeprefix(PROBLEM_BASE))
    except ValueError:
        message = "the answer is not a problem of the closed list"
        raise ConnectorFaultError(Fault.FORMAT, message) from None
    if PROBLEM_STATUS[kind] != status or not parsed.type.startswith(PROBLEM_BASE):
        raise ConnectorFaultError(Fault.FORMAT, "a problem with another's status")
    return Problem(kind, parsed.code)
