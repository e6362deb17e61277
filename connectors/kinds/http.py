"""The `http` kind: a department that speaks the provider protocol."""

from datetime import datetime, timedelta
from math import ceil
from typing import assert_never

import orjson
from typing_extensions import override

from connectors.client import HttpReply, ServiceClient
from connectors.health import Health
from connectors.jose import SigningKey, sign_compact
from connectors.lookup import (
    Declined,
    Deferred,
    LookupRequest,
    NotCovered,
    NothingHeld,
    Reply,
    SignedReply,
)
from connectors.port import Connector, ProviderKeys
from connectors.problems import PROBLEM_MEDIA_TYPE, Problem, ProblemType, parse_problem
from connectors.protocol import (
    DEFERRED_MEDIA_TYPE,
    EVIDENCE_MEDIA_TYPE,
    LOOKUP_TYPE,
    MAX_LIFETIME_S,
    MAX_VALUE,
    DeferredBody,
    LookupClaims,
)
from schemas.canonical import Json, b64url, check_members
from schemas.clock import Clock
from schemas.errors import ConnectorFaultError, ConnectorUnavailableError, Fault, Layer

UNDERSTOOD = f"{EVIDENCE_MEDIA_TYPE}, {DEFERRED_MEDIA_TYPE}, {PROBLEM_MEDIA_TYPE}"
"""What a client of this kind accepts."""
_GRACE_S = 30
"""How much longer than its time limit a look-up stays valid, for slow clocks."""
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = range(500, 600)
_FURTHEST = timedelta(days=30)
"""No department may put off a case for longer without being asked again."""


class HttpConnector(Connector):
    """Asks one data service over the provider protocol."""

    def __init__(
        self,
        gateway: str,
        signing_key: SigningKey,
        client: ServiceClient,
        keys: ProviderKeys,
        clock: Clock,
        *,
        health: Health | None = None,
    ) -> None:
        """Take what a look-up is signed, sent and judged with.

        Args:
            gateway: Who asks: `iss` of every look-up, as departments have pinned it.
            signing_key: The gateway's key.
            client: The client of this one data service.
            keys: The pinned keys of providers.
            clock: Tells the time.
            health: Where the health of all services is kept; one's own by default.
        """
        super().__init__(keys, clock, health)
        self._gateway = gateway
        self._signing_key = signing_key
        self._client = client

    @override
    async def _fetch(self, request: LookupRequest) -> Reply:
        payload = lookup_payload(request, self._gateway)
        token = sign_compact(payload, LOOKUP_TYPE, self._signing_key)
        reply = await self._client.post(token)
        return read_reply(reply, request.id, self._clock.now())

    @override
    async def prepare(self) -> None:
        await self._client.prepare()

    @override
    async def aclose(self) -> None:
        await self._client.aclose()


def lookup_claims(request: LookupRequest, gateway: str) -> LookupClaims:
    """Return what the gateway signs for a look-up.

    Raises:
        ValueError: The request does not fit the protocol: a key or a field is named
            or sized otherwise than it allows.
    """
    return LookupClaims.model_validate_json(lookup_payload(request, gateway))


def lookup_payload(request: LookupRequest, gateway: str) -> bytes:
    """Return `lookup_claims` as JSON, without making them.

    What comes from a pack was checked when the pack was read, and what the gateway
    makes is of its form; a value of a person's is checked here.

    Raises:
        ValueError: A key, or a fact to compare, is too long for the protocol.
    """
    for values in (request.keys, request.match):
        if any([len(value) > MAX_VALUE for value in values.values()]):  # noqa: C419 - a list is twice as fast
            raise ValueError(f"a value to look up by exceeds {MAX_VALUE} characters")
    issued = int(request.issued_at.timestamp())
    intent = request.intent
    claims: dict[str, Json] = {
        "iss": gateway,
        "aud": request.service.provider,
        "jti": request.id,
        "iat": issued,
        "exp": issued + min(ceil(request.timeout_s) + _GRACE_S, MAX_LIFETIME_S),
        "service": request.service.id,
        "evidence_type": request.evidence_type.ref,
        "mode": request.mode.value,
        "keys": dict(request.keys),
        "subject_salt": b64url(request.subject_salt),
        "requester": request.requester,
        "purpose": request.purpose,
        "matter": request.matter,
        "basis": dict(request.basis),
        "grant": request.grant,
        "intent": {
            "event": intent.event,
            "index": intent.index,
            "leaf_hash": b64url(intent.leaf_hash),
            "log": intent.log,
        },
    }
    if request.fields:
        claims["fields"] = request.fields
    if request.match:
        claims["match"] = dict(request.match)
    return orjson.dumps(claims)


def read_reply(reply: HttpReply, lookup: str, now: datetime) -> Reply:
    """Return what an HTTP reply says, or raise what it amounts to.

    Raises:
        ConnectorUnavailableError: The department can't answer now.
        ConnectorFaultError: It is not an answer of the protocol.
    """
    match reply.status, reply.media_type:
        case 200, "application/sd-jwt":
            return _signed(reply)
        case 202, "application/json":
            return _deferred(reply, lookup, now)
        case status, "application/problem+json":
            return _refused(parse_problem(reply.body, status), reply)
        case status, _ if status in _SERVER_ERRORS or status == _TOO_MANY_REQUESTS:
            # A proxy before the department speaks for it: the source is down.
            raise ConnectorUnavailableError(
                f"the data service answered with status {status}",
                layer=Layer.SOURCE,
                retry_after_s=reply.retry_after_s,
            )
        case status, _:
            message = f"status {status} with a media type the protocol has not"
            raise ConnectorFaultError(Fault.FORMAT, message)


def _signed(reply: HttpReply) -> SignedReply:
    try:
        return SignedReply(reply.body.decode("ascii"))
    except UnicodeDecodeError:
        raise ConnectorFaultError(Fault.FORMAT, "an SD-JWT is ASCII") from None


def _deferred(reply: HttpReply, lookup: str, now: datetime) -> Deferred:
    try:
        body = DeferredBody.model_validate_json(reply.body)
        check_members(reply.body)
    except ValueError:
        message = "the body of a deferred answer is not one"
        raise ConnectorFaultError(Fault.FORMAT, message) from None
    if body.lookup != lookup:
        raise ConnectorFaultError(Fault.LOOKUP, "it defers another look-up")
    return Deferred(retry_at=max(now, min(body.retry_at, now + _FURTHEST)))


def _refused(problem: Problem, reply: HttpReply) -> Reply:
    match problem.type:
        case ProblemType.NOT_HELD:
            return NothingHeld()
        case ProblemType.NOT_COVERED:
            return NotCovered()
        case ProblemType.DECLINED:
            return Declined(problem.code or "declined")
        case ProblemType.OVERLOADED | ProblemType.UNAVAILABLE:
            layer = Layer.SOURCE
        case ProblemType.UNKNOWN_EVIDENCE_TYPE:
            layer = Layer.CONNECTOR
        case (
            ProblemType.INVALID_LOOKUP
            | ProblemType.NOT_TRUSTED
            | ProblemType.EXPIRED
            | ProblemType.REPLAYED
            | ProblemType.TOO_LARGE
        ):
            # The two sides disagree about our look-up: when that is put right, asking
            # again, by a new look-up, helps.
            layer = Layer.GATEWAY
        case _:
            assert_never(problem.type)
    raise ConnectorUnavailableError(
        f"the department refused the look-up as `{problem.type.value}`",
        layer=layer,
        retry_after_s=reply.retry_after_s,
    )
