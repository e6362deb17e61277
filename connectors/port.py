"""The connector port: what a look-up is, what may come back, and the guard between.

A kind of connector writes `_fetch` and may raise anything. The gateway calls
`fetch`, which keeps four promises whatever the kind or the department does: only
`ConnectorError` leaves it, it ends within the time limit, a service that is down is
not hammered, and evidence comes out only when it is the signed, fresh answer to this
very look-up about this very subject, with the fields asked for and no others.
"""

import asyncio
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias, assert_never

import jsonschema_rs
import orjson
from pydantic import JsonValue

from connectors.health import Health
from connectors.protocol import (
    CLOCK_SKEW_S,
    Disclosed,
    EvidenceClaims,
    OpenedEvidence,
    from_seconds,
    open_evidence,
    parse_disclosures,
    subject_digest,
)
from schemas.canonical import b64url_decode, sha256_b64url
from schemas.clock import Clock
from schemas.directory import DataService, PublicKey
from schemas.errors import (
    ConnectorError,
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
)
from schemas.evidence import EvidenceType, Mode
from schemas.fieldtypes import compile_fields
from schemas.ids import EventId, EvidenceId, LookupId
from schemas.model import value

_SKEW = timedelta(seconds=CLOCK_SKEW_S)


@value
class IntentRef:
    """The durable log record of the intent that a look-up rests on."""

    event: EventId
    index: int
    leaf_hash: bytes
    """RFC 6962 leaf hash of the record, 32 bytes."""
    log: str
    """Origin of the log, as in its checkpoints."""


@value
class LookupRequest:
    """One question to one data service."""

    id: LookupId
    service: DataService
    evidence_type: EvidenceType
    mode: Mode
    keys: Mapping[str, str] = field(repr=False)
    """One whole set of the evidence type's keys, by key name."""
    fields: tuple[str, ...]
    """Fields asked for, to pass on or to compare; empty in verify mode."""
    match: Mapping[str, str] = field(repr=False)
    """Facts to compare at the source, by field name; empty in retrieve mode."""
    requester: str
    """For whom the evidence is: its `aud`."""
    purpose: str
    matter: str
    """The matter as `id@version`."""
    basis: Mapping[str, str]
    """The kind of lawful basis by role."""
    grant: str
    intent: IntentRef
    subject_salt: bytes = field(repr=False)
    """16 fresh random bytes, known to gateway and department only: without them
    nobody can test guesses of an id against the signed subject digest."""
    issued_at: datetime
    timeout_s: float


@value
class Evidence:
    """One signed statement of a provider about a subject, checked."""

    id: EvidenceId
    provider: str
    service: str
    evidence_type: str
    """The evidence type as `id@version`."""
    lookup: LookupId
    as_of: datetime
    issued_at: datetime
    jwt: str
    """The issuer-signed JWT, without disclosures."""
    disclosed: Disclosed
    """Only fields that were asked for; none in verify mode."""

    def presentation(self, fields: Iterable[str]) -> str:
        """Return the SD-JWT with the disclosures of `fields` and no others.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        # INVARIANT: a field that is not named here does not leave: rule 4.
        shown = [self.disclosed.encoded[name] for name in fields]
        return "~".join([self.jwt, *shown, ""])

    def values(self, fields: Iterable[str]) -> dict[str, JsonValue]:
        """Return the plain values of `fields`.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        return {name: self.disclosed.values[name] for name in fields}


class Answered(NamedTuple):
    """The fields came, and every check held."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Matched:
    """The stated facts were compared at the source; the evidence has no fields."""

    evidence: Evidence
    match: bool


@dataclass(frozen=True, slots=True)
class Deferred:
    """The department will be able to answer later: ask again then, by a new look-up."""

    retry_at: datetime


@dataclass(frozen=True, slots=True)
class NothingHeld:
    """The department says it has no such record, and is competent to say so."""


@dataclass(frozen=True, slots=True)
class NotCovered:
    """The department says it can't speak about this region or date."""


@dataclass(frozen=True, slots=True)
class Declined:
    """The department refuses by a rule of its own."""

    code: str
    """Which rule, as a slug of the department: `ambiguous`, `declined`..."""


Answer: TypeAlias = Answered | Matched | Deferred | NothingHeld | NotCovered | Declined


@dataclass(frozen=True, slots=True)
class SignedReply:
    """What a kind got from a department as evidence, not yet checked."""

    sd_jwt: str = field(repr=False)


Reply: TypeAlias = SignedReply | Deferred | NothingHeld | NotCovered | Declined

ProviderKeys: TypeAlias = Callable[[str], tuple[PublicKey, ...]]
"""The pinned keys of a provider by its id, old ones included; none when unknown."""


class Connector(ABC):
    """The code that speaks to data services."""

    def __init__(
        self, keys: ProviderKeys, clock: Clock, health: Health | None = None
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._health = health or Health()
        self._checker = FieldChecker()

    async def fetch(self, request: LookupRequest) -> Answer:
        """Ask, and return a checked answer.

        Raises:
            ConnectorUnavailableError: Asking again later may help.
            ConnectorFaultError: The department answered wrongly.
        """
        service, since = request.service.id, self._clock.monotonic()
        wait = self._health.admit(service, since)
        if wait > 0:
            message = f"data service `{service}` is down and is asked again later"
            raise ConnectorUnavailableError(
                message, layer=Layer.SOURCE, retry_after_s=wait
            )
        ended: tuple[str, bool | None] = ("abandoned", None)
        try:
            answer = self._judge(request, await self._ask(request))
            ended = (_word(answer), True)
        except ConnectorError as error:
            ended = _ended(error)
            raise
        finally:
            now = self._clock.monotonic()
            self._health.report(service, ended, since=since, now=now)
        return answer

    async def _ask(self, request: LookupRequest) -> Reply:
        """Call the kind within the time limit, and let only `ConnectorError` out."""
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._fetch(request)
        except ConnectorError:
            raise
        except TimeoutError:
            message = f"no answer within {request.timeout_s:g} s"
            raise ConnectorUnavailableError(message, layer=Layer.SOURCE) from None
        except Exception as error:  # noqa: BLE001 - the port's promise: nothing else out
            # Not chained: what a kind raises may hold what the department sent.
            message = f"the connector failed with `{type(error).__name__}`"
            raise ConnectorUnavailableError(message, layer=Layer.CONNECTOR) from None

    def _judge(self, request: LookupRequest, reply: Reply) -> Answer:
        """Return the answer in a reply, with evidence checked."""
        if not isinstance(reply, SignedReply):
            return reply
        try:
            keys = self._keys(request.service.provider)
            now = self._clock.now()
            evidence, match = check_evidence(
                request, reply.sd_jwt, keys, now, self._checker
            )
        except ConnectorError:
            raise
        except Exception as error:  # noqa: BLE001 - the port's promise: nothing else out
            message = f"the evidence can't be read: `{type(error).__name__}`"
            raise ConnectorFaultError(Fault.FORMAT, message) from None
        return Answered(evidence) if match is None else Matched(evidence, match)

    @abstractmethod
    async def _fetch(self, request: LookupRequest) -> Reply:
        """Ask, and return what came, unchecked; may raise anything."""

    async def prepare(self) -> None:  # noqa: B027 - most kinds have nothing to prepare
        """Do at start-up what the first look-up would wait for; nothing is asked.

        Raises:
            ConnectorUnavailableError: It can't be done now, and is done later.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open; no `fetch` may follow."""


def _word(answer: Answer) -> str:
    """Name an answer, for the counters."""
    match answer:
        case Answered():
            return "answered"
        case Matched():
            return "matched"
        case Deferred():
            return "deferred"
        case NothingHeld():
            return "not_held"
        case NotCovered():
            return "not_covered"
        case Declined():
            return "declined"
        case _:
            assert_never(answer)


def _ended(error: ConnectorError) -> tuple[str, bool | None]:
    """Name a failure, and tell whether the department was there."""
    match error:
        case ConnectorFaultError():
            return f"fault:{error.fault.value}", True
        case ConnectorUnavailableError(layer=Layer.GATEWAY):
            # What the gateway itself could not do says nothing about the service.
            return "unavailable:gateway", None
        case ConnectorUnavailableError():
            return f"unavailable:{error.layer.value}", False
        case _:
            return "unavailable", False


class FieldChecker:
    """Checks field values by JSON Schema, compiled once for each evidence type.

    Comparison fields are held to their schema like all others, which for an id is a
    pattern: check digits are never demanded here, so that a wrong digit comes out as
    the conflict that it is.
    """

    def __init__(self) -> None:
        self._compiled: dict[
            str, tuple[EvidenceType, jsonschema_rs.Draft202012Validator]
        ] = {}

    def is_valid(
        self, evidence_type: EvidenceType, values: Mapping[str, JsonValue]
    ) -> bool:
        """Tell whether every value fits its field's schema."""
        kept = self._compiled.get(evidence_type.ref)
        if kept is None or kept[0] is not evidence_type:
            kept = (evidence_type, compile_fields(evidence_type))
            self._compiled[evidence_type.ref] = kept
        return kept[1].is_valid(values)


def check_evidence(
    request: LookupRequest,
    sd_jwt: str,
    keys: tuple[PublicKey, ...],
    now: datetime,
    checker: FieldChecker,
) -> tuple[Evidence, bool | None]:
    """Return the evidence in an SD-JWT, and the match in verify mode, once proved.

    (1) The provider signed it, with a key that was valid then; see `open_evidence`.
    (2) It answers this look-up, for this requester, with this evidence type.
    (3) It is about the subject that was asked about.
    (4) It was signed for this look-up and not before, and is fresh enough.
    (5) It has the form of the mode that was asked for.
    (6) It has the fields asked for, all of them and no others, of the right shape.

    Raises:
        ConnectorFaultError: Any of this does not hold; names which.
    """
    opened = open_evidence(sd_jwt, keys)  # (1)
    claims = opened.claims
    _check_addressed(request, claims)  # (2)
    subject = subject_digest(request.subject_salt, request.keys)
    # INVARIANT: the person in the answer is the person asked about: rule 6.
    if not hmac.compare_digest(subject, claims.subject):  # (3)
        raise ConnectorFaultError(Fault.SUBJECT, "it is about somebody else")
    _check_times(request, opened, now)  # (4)
    _check_mode(request, opened)  # (5)
    if request.mode is Mode.RETRIEVE:
        _check_fields(request, opened, checker)  # (6)
    return _evidence(opened, request.service.id), claims.match


def _check_addressed(request: LookupRequest, claims: EvidenceClaims) -> None:
    asked = (
        request.service.provider,
        request.id,
        request.requester,
        request.evidence_type.ref,
    )
    told = (claims.iss, claims.lookup, claims.aud, claims.evidence_type)
    if asked != told:
        message = "it answers another look-up, requester, evidence type or version"
        raise ConnectorFaultError(Fault.LOOKUP, message)


def _check_times(request: LookupRequest, opened: OpenedEvidence, now: datetime) -> None:
    latest, as_of = now + _SKEW, opened.claims.as_of
    if not request.issued_at - _SKEW <= opened.issued_at <= latest:
        message = "it was not signed between the look-up and now"
        raise ConnectorFaultError(Fault.STALE, message)
    if as_of > latest:
        raise ConnectorFaultError(Fault.STALE, "`as_of` lies in the future")
    max_age = request.evidence_type.max_age
    if max_age is not None and now - as_of > max_age:
        raise ConnectorFaultError(Fault.STALE, "`as_of` is older than allowed")


def _check_mode(request: LookupRequest, opened: OpenedEvidence) -> None:
    claims = opened.claims
    retrieved = claims.fields is not None and claims.match is None
    verified = claims.fields is None and claims.match is not None
    match request.mode:
        case Mode.RETRIEVE:
            right = retrieved
        case Mode.VERIFY:
            right = verified
        case _:
            assert_never(request.mode)
    if not right:
        raise ConnectorFaultError(Fault.FORMAT, "it has not the form of the mode asked")


def _check_fields(
    request: LookupRequest, opened: OpenedEvidence, checker: FieldChecker
) -> None:
    asked, values = frozenset(request.fields), opened.disclosed.values
    # INVARIANT: a field that nobody asked for ends here, signed or not: rule 4.
    if values.keys() != asked:
        raise _other_fields(asked, values.keys())
    if not checker.is_valid(request.evidence_type, values):
        message = "a field's value does not fit its schema"
        raise ConnectorFaultError(Fault.SCHEMA, message)


def _other_fields(
    asked: AbstractSet[str], shown: AbstractSet[str]
) -> ConnectorFaultError:
    """Return the fault of evidence that discloses more, or less, than was asked for."""
    if shown - asked:
        message = "it discloses a field that was not asked for"
        return ConnectorFaultError(Fault.UNASKED_FIELD, message)
    names = ", ".join(f"`{name}`" for name in sorted(asked - shown))
    return ConnectorFaultError(Fault.MISSING_FIELD, f"it does not disclose {names}")


def _evidence(opened: OpenedEvidence, service: str) -> Evidence:
    claims = opened.claims
    return Evidence(
        id=EvidenceId(sha256_b64url(opened.jwt.encode())),
        provider=claims.iss,
        service=service,
        evidence_type=claims.evidence_type,
        lookup=LookupId(claims.lookup),
        as_of=claims.as_of,
        issued_at=opened.issued_at,
        jwt=opened.jwt,
        disclosed=opened.disclosed,
    )


def restore_evidence(sd_jwt: str, service: str) -> Evidence:
    """Return evidence that was checked when it came and has been kept since.

    `sd_jwt` is what `Evidence.presentation` of all its fields gave. No signature is
    checked again: use it for what comes out of our own sealed storage alone.

    Raises:
        ValueError: It is not what this module gave out.
    """
    jwt, *encoded, _ = sd_jwt.split("~")
    payload = orjson.loads(b64url_decode(jwt.split(".")[1]))
    claims = EvidenceClaims.model_validate(payload)
    opened = OpenedEvidence(
        claims, from_seconds(claims.iat), jwt, parse_disclosures(encoded)
    )
    return _evidence(opened, service)
