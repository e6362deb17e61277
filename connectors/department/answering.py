"""How a department answers one look-up: trust, register, signature, log.

Whatever carries look-ups to it, as the service of `connectors.department.app` does.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

import structlog

from connectors.department.config import DepartmentConfig, Gateway
from connectors.department.database import REGISTER_ERRORS, reason, sqlite_file
from connectors.department.log import DepartmentLog, NewEntry
from connectors.department.register import Register
from connectors.department.signing import Statement, sign_statement
from connectors.department.sources import (
    Finding,
    NeedsPerson,
    NoRecord,
    OutsideCoverage,
    Source,
)
from connectors.jose import SigningKey, parse_header
from connectors.problems import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_STATUS,
    ProblemType,
    problem_body,
)
from connectors.protocol import (
    CLOCK_SKEW_S,
    EVIDENCE_MEDIA_TYPE,
    MAX_LIFETIME_S,
    LookupClaims,
    open_lookup,
)
from schemas.canonical import sha256_b64url
from schemas.clock import Clock
from schemas.errors import LogUnavailableError, SettingsError, VerificationError

_RETRY_AFTER_S = {ProblemType.OVERLOADED: 1, ProblemType.UNAVAILABLE: 30}

_MOST_DISTRUSTED = 100
"""How many pairs of a key and a reason are told."""
_KEY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""How a key that is told may be called: anybody may send any name."""

log = structlog.get_logger(__name__)


class Refusal(Exception):  # noqa: N818 - it is an answer, raised to leave early
    """A problem of the closed list, as the answer to a look-up.

    Args:
        problem: Which one.
        detail: What whoever asks is told.
        code: The rule of the department that refuses.
        reason: What the department's own output says in place of `detail`.
    """

    def __init__(
        self,
        problem: ProblemType,
        detail: str,
        code: str | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.code = code
        self.reason = reason or detail


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back, and the word that the log keeps for it."""

    outcome: str
    status: int
    media_type: str
    body: bytes
    retry_after_s: int | None = None

    @classmethod
    def of(cls, refusal: Refusal) -> "Reply":
        """Return a refusal as it is sent."""
        problem = refusal.problem
        return cls(
            problem.value,
            PROBLEM_STATUS[problem],
            PROBLEM_MEDIA_TYPE,
            problem_body(problem, refusal.detail, refusal.code),
            _RETRY_AFTER_S.get(problem),
        )


class _Distrusted:
    """Tells the department whom it did not trust, once for each key and reason.

    Anybody can send what is not trusted: so the lines are few, and short.
    """

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def tell(self, token: str, refusal: Refusal) -> None:
        """Write a line about a look-up that was refused as `not-trusted`, if new."""
        if refusal.problem is not ProblemType.NOT_TRUSTED:
            return
        one = (_key_named(token), refusal.reason)
        if one not in self._told and len(self._told) < _MOST_DISTRUSTED:
            self._told.add(one)
            log.warning("not_trusted", key=one[0], reason=one[1])


def _key_named(token: str) -> str:
    """Return the key that a look-up says it is signed by, as far as it may be told."""
    try:
        kid = parse_header(token.partition(".")[0]).kid
    except VerificationError:
        return "none"
    return kid if _KEY_NAME.fullmatch(kid) else "none"


class Department:
    """Answers look-ups from a register; blocks, and may be used by several threads."""

    def __init__(
        self,
        config: DepartmentConfig,
        clock: Clock,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Read the key, connect to the register, open the log.

        Raises:
            SettingsError: One of them is not there or not usable.
        """
        self.key = SigningKey.from_file(config.key)
        self.register = Register(config.database, config.evidence_types)
        try:
            _refuse_register_as_log(config)
            self._log = DepartmentLog(config.log)
        except SettingsError:
            self.register.close()
            raise
        self._provider = config.provider
        self._gateways = {
            str(key.jwk.get("kid")): gateway
            for gateway in config.gateways
            for key in gateway.keys
        }
        self._distrusted = _Distrusted()
        self._clock = clock
        self._entropy = entropy

    def answer(self, token: str) -> Reply:
        """Answer one look-up, and take it down.

        (1) One of the pinned gateway keys signed it.
        (2) It is for this department, and alive.
        (3) It asks for what the configuration offers, and for nothing else.
        (4) Look the record up, and sign what it says.
        (5) Take the look-up and the answer down, durably; a look-up that was taken
            before is a replay and gets nothing.
        """
        now = self._clock.now()
        try:
            lookup = self._open(token)  # (1)
        except Refusal as refusal:
            self._distrusted.tell(token, refusal)
            return Reply.of(refusal)
        try:
            self._check_alive(lookup, now)  # (2)
            source = self._source(lookup)  # (3)
            reply, take = self._look_up(source, lookup, now), True  # (4)
        except Refusal as refusal:
            self._distrusted.tell(token, refusal)
            # A look-up that was not put to the register may be sent again.
            reply, take = Reply.of(refusal), refusal.problem in _OF_THE_REGISTER
        return self._take_down(token, lookup, reply, now, take=take)  # (5)

    def close(self) -> None:
        """Close the register and the log."""
        self.register.close()
        self._log.close()

    def _open(self, token: str) -> LookupClaims:
        try:
            gateway = self._gateway(token)
            lookup = open_lookup(token, gateway.keys)
        except VerificationError as error:
            # One message for a stranger: which keys are pinned is nobody's business.
            raise Refusal(
                ProblemType.NOT_TRUSTED, _UNSIGNED, reason=str(error)
            ) from None
        except ValueError as error:
            raise Refusal(ProblemType.INVALID_LOOKUP, str(error)) from None
        if lookup.iss != gateway.id:
            raise Refusal(ProblemType.NOT_TRUSTED, "`iss` is not the key's gateway")
        return lookup

    def _gateway(self, token: str) -> Gateway:
        header = parse_header(token.partition(".")[0])
        if header.kid not in self._gateways:
            raise VerificationError("signed by a key that is not pinned")
        return self._gateways[header.kid]

    def _check_alive(self, lookup: LookupClaims, now: datetime) -> None:
        if lookup.aud != self._provider:
            message = "`aud` is another provider"
            raise Refusal(ProblemType.NOT_TRUSTED, message)
        seconds = now.timestamp()
        if lookup.exp - lookup.iat > MAX_LIFETIME_S:
            message = f"a look-up lives at most {MAX_LIFETIME_S} s"
            raise Refusal(ProblemType.INVALID_LOOKUP, message)
        if not lookup.iat - CLOCK_SKEW_S <= seconds < lookup.exp + CLOCK_SKEW_S:
            message = "`iat` lies in the future or `exp` in the past"
            raise Refusal(ProblemType.EXPIRED, message)

    def _source(self, lookup: LookupClaims) -> Source:
        source = self.register.source(lookup.evidence_type)
        if source is None:
            message = "this evidence type, or this version of it, is not held here"
            raise Refusal(ProblemType.UNKNOWN_EVIDENCE_TYPE, message)
        complaint = source.complaint(lookup)
        if complaint is not None:
            raise Refusal(ProblemType.INVALID_LOOKUP, complaint)
        return source

    def _look_up(self, source: Source, lookup: LookupClaims, now: datetime) -> Reply:
        told = {"evidence_type": lookup.evidence_type, "lookup": lookup.jti}
        try:
            finding = self.register.find(source, lookup, now)
        except REGISTER_ERRORS as error:
            # Never the message: it may hold the values that were looked up.
            log.warning("register_unavailable", reason=reason(error), **told)
            message = "the register can't be read now"
            raise Refusal(ProblemType.UNAVAILABLE, message) from None
        if isinstance(finding, NeedsPerson):
            log.warning("declined", code=finding.code, place=finding.place, **told)
        statement = _statement(finding)
        body = sign_statement(statement, lookup, self.key, now, self._entropy).encode()
        outcome = "answered" if statement.match is None else "matched"
        return Reply(outcome, 200, EVIDENCE_MEDIA_TYPE, body)

    def _take_down(
        self,
        token: str,
        lookup: LookupClaims,
        reply: Reply,
        now: datetime,
        *,
        take: bool,
    ) -> Reply:
        """Return `reply` once it is in the log, or what must be sent instead."""
        entry = _entry(token, lookup, reply, now)
        try:
            if self._log.append(entry, take=take):
                return reply
            message = "this look-up was answered before"
            replay = Reply.of(Refusal(ProblemType.REPLAYED, message))
            self._log.append(_entry(token, lookup, replay, now), take=False)
        except LogUnavailableError:
            log.error("department_log_unavailable")  # noqa: TRY400 - no values in logs
            message = "the department's log can't be written"
            return Reply.of(Refusal(ProblemType.UNAVAILABLE, message))
        return replay


def _refuse_register_as_log(config: DepartmentConfig) -> None:
    register = sqlite_file(config.database)
    if register is not None and config.log.exists() and config.log.samefile(register):
        raise SettingsError(f"`log`: `{config.log}` is the register's own file")


_UNSIGNED = "no gateway that is pinned here signed the look-up with a key valid then"

_OF_THE_REGISTER = frozenset(
    {ProblemType.NOT_HELD, ProblemType.NOT_COVERED, ProblemType.DECLINED}
)
"""Refusals that say something about the register, and are given once a look-up."""


def _statement(finding: Finding) -> Statement:
    match finding:
        case Statement():
            return finding
        case NoRecord():
            raise Refusal(ProblemType.NOT_HELD, "there is no such record")
        case OutsideCoverage():
            message = "the register does not cover this region or date"
            raise Refusal(ProblemType.NOT_COVERED, message)
        case NeedsPerson(code=code):
            message = "a person must look at this"
            raise Refusal(ProblemType.DECLINED, message, code)
        case _:
            assert_never(finding)


def _entry(token: str, lookup: LookupClaims, reply: Reply, now: datetime) -> NewEntry:
    return NewEntry(
        at=now,
        gateway=lookup.iss,
        lookup=lookup.jti,
        evidence_type=lookup.evidence_type,
        requester=lookup.requester,
        purpose=lookup.purpose,
        outcome=reply.outcome,
        lookup_jws=token,
        answer_digest=sha256_b64url(reply.body),
    )
