"""The signed receipt that a person gets for a consent, whatever its state.

A compact JWS (RFC 7515) by the gateway over a record shaped as ISO/IEC TS 27560:2023
has it: what is processed, for whom, on which basis, how to withdraw, and the history
of events. The person can keep it and check it against the gateway's published keys
without asking anybody. It holds the person ref and never an id or a name.

SOURCE: ISO/IEC TS 27560:2023 as mapped by the W3C Data Privacy Vocabulary; PIPL 17
(what a person must be told).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from joserfc import jws
from joserfc.jwk import OKPKey
from pydantic import JsonValue

from consent.artefact import Consent, ConsentState
from schemas.canonical import canonical
from schemas.clock import to_rfc3339_ms
from schemas.directory import LegalReference, Requester
from schemas.evidence import EvidenceType, Sensitivity
from schemas.model import Name, VersionedId

TYPE = "consent-receipt+jwt"
"""The `typ` of a receipt: nothing else that the gateway signs passes as one."""
_ALGORITHMS = ["Ed25519"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentNotice:
    """What the person was told when asked (PIPL 17)."""

    requester: Requester
    """Who may use the data, and answers for it."""
    matter: Name
    purpose: Name
    evidence_types: Mapping[VersionedId, EvidenceType]
    """At least every evidence type that the consent is about."""
    basis: LegalReference
    language: str
    """Language tag (RFC 5646) of what was shown, such as `zh-CN`."""
    jurisdiction: str
    """Country (ISO 3166-1) whose law applies, such as `CN`."""
    notice_url: str
    withdraw_url: str


def consent_receipt(
    consent: Consent,
    notice: ConsentNotice,
    *,
    issuer: str,
    key: OKPKey,
    issued_at: datetime,
) -> str:
    """Return a consent's receipt as a compact JWS.

    Args:
        consent: As it stands now.
        notice: What the person was told.
        issuer: The gateway, as its metadata names it.
        key: The gateway's Ed25519 key, with its `kid`.
        issued_at: When the receipt is made.

    Raises:
        KeyError: The notice lacks an evidence type of the consent.
    """
    header = {"alg": _ALGORITHMS[0], "kid": key.kid, "typ": TYPE}
    claims: JsonValue = {
        "iss": issuer,
        "sub": consent.scope.person,
        "aud": consent.scope.requester,
        "jti": f"{consent.id}.{consent.version}",
        "iat": int(issued_at.timestamp()),
        "record": _record(consent, notice, issued_at),
    }
    return jws.serialize_compact(header, canonical(claims), key, _ALGORITHMS)


def _record(consent: Consent, notice: ConsentNotice, now: datetime) -> JsonValue:
    """Return the record: header, processing, parties and events, in this order."""
    requester: JsonValue = {
        "id": notice.requester.id,
        "name": _named(notice.requester.name),
        "type": "public_authority",
    }
    return {
        "schema_version": "ISO/IEC TS 27560:2023",
        "record_id": consent.id,
        "record_version": consent.version,
        "pii_principal_id": consent.scope.person,
        "state": consent.state_at(now).value,
        "privacy_notice": notice.notice_url,
        "language": notice.language,
        "jurisdiction": notice.jurisdiction,
        "purposes": [
            {
                "purpose": consent.scope.purpose,
                "name": _named(notice.purpose),
                "service": _named(notice.matter),
                "matter": consent.scope.matter,
                "case": consent.scope.case,
                "role": consent.scope.role,
                "lawful_basis": {
                    "type": "consent",
                    "law": _named(notice.basis.law),
                    "article": notice.basis.article,
                },
                "pii_information": _information(consent, notice),
                "collection_method": "looked up at the register that holds it",
                "storage_locations": [notice.jurisdiction],
                "retention_period": "while the case is open, encrypted",
                "recipient_third_parties": [],
                "uses_left": consent.uses_left,
                "expires_at": to_rfc3339_ms(consent.expires_at),
            }
        ],
        "pii_controllers": [requester],
        "withdrawal_method": notice.withdraw_url,
        "events": _events(consent, now),
    }


def _information(consent: Consent, notice: ConsentNotice) -> JsonValue:
    """Return each evidence type and its fields, with their names in both languages."""
    items: list[JsonValue] = []
    for evidence_type, names in sorted(consent.fields.items()):
        described = notice.evidence_types[evidence_type]
        is_sensitive = described.sensitivity is Sensitivity.SENSITIVE
        items.extend(
            {
                "pii_type": evidence_type,
                "pii_type_name": _named(described.name),
                "pii_attribute_id": name,
                "pii_attribute_name": _named(described.fields[name].name),
                "sensitive_pii": is_sensitive or described.fields[name].sensitive,
            }
            for name in sorted(described.fields if names is None else names)
        )
    return items


def _events(consent: Consent, now: datetime) -> JsonValue:
    """Return what happened to the consent, in order."""
    happened = [(consent.asked_at, ConsentState.ASKED, consent.scope.requester)]
    if consent.given_at is not None:
        happened.append(
            (consent.given_at, ConsentState.GIVEN, consent.scope.person),
        )
    ended_at = consent.ended_by(now)
    if ended_at is not None:
        state, scope = consent.state_at(now), consent.scope
        ran_out = state is ConsentState.EXPIRED
        by = scope.requester if ran_out else scope.person
        happened.append((ended_at, state, by))
    return [_event(consent, at, event, by) for at, event, by in happened]


def _event(
    consent: Consent, at: datetime, event: ConsentState, by: str
) -> dict[str, JsonValue]:
    """Return one event; what the person gave alone holds for a time."""
    told: dict[str, JsonValue] = {
        "event_time": to_rfc3339_ms(at),
        "event_type": "explicit",
        "event_state": event.value,
        "entity_id": by,
    }
    if event is ConsentState.GIVEN:
        told["validity_duration"] = f"until {to_rfc3339_ms(consent.expires_at)}"
    return told


def _named(name: Name) -> JsonValue:
    return {"zh": name.zh, "en": name.en}
