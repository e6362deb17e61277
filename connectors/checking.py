"""Whether evidence answers the look-up that it came for: nothing unproved gets past.

Evidence is an SD-JWT (RFC 9901); see `connectors.protocol` for its signature.
"""

import hmac
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import assert_never

import jsonschema_rs
from pydantic import JsonValue

from connectors.lookup import Evidence, LookupRequest
from connectors.protocol import (
    CLOCK_SKEW_S,
    EvidenceClaims,
    OpenedEvidence,
    from_seconds,
    open_evidence,
    parse_disclosures,
    subject_digest,
)
from schemas.canonical import b64url_decode, sha256_b64url
from schemas.directory import PublicKey
from schemas.errors import ConnectorFaultError, Fault
from schemas.evidence import EvidenceType, Mode
from schemas.fieldtypes import compile_fields
from schemas.ids import EvidenceId, LookupId

_SKEW = timedelta(seconds=CLOCK_SKEW_S)


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
        return self._validator(evidence_type).is_valid(values)

    def unfit(
        self, evidence_type: EvidenceType, values: Mapping[str, JsonValue]
    ) -> list[str]:
        """Return the names of the fields whose values do not fit, sorted."""
        errors = self._validator(evidence_type).iter_errors(values)
        return sorted({str(next(iter(one.instance_path), "")) for one in errors})

    def _validator(
        self, evidence_type: EvidenceType
    ) -> jsonschema_rs.Draft202012Validator:
        kept = self._compiled.get(evidence_type.ref)
        if kept is None or kept[0] is not evidence_type:
            kept = (evidence_type, compile_fields(evidence_type))
            self._compiled[evidence_type.ref] = kept
        return kept[1]


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
        unfit = checker.unfit(request.evidence_type, values)
        named = ", ".join(f"`{name}`" for name in unfit)
        message = f"what it says does not fit the schema of {named}"
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
    claims = EvidenceClaims.model_validate_json(b64url_decode(jwt.split(".")[1]))
    disclosed, _ = parse_disclosures(encoded)
    opened = OpenedEvidence(claims, from_seconds(claims.iat), jwt, disclosed)
    return _evidence(opened, service)
