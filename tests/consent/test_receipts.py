"""The receipt that a person can check without asking anybody."""

from dataclasses import replace
from typing import Any

import pytest
from joserfc.jwk import KeySet, OKPKey

from consent.artefact import ConsentState
from consent.receipts import ConsentNotice, consent_receipt
from schemas.clock import to_rfc3339_ms
from schemas.directory import LegalReference, Requester, Scope
from schemas.evidence import (
    EvidenceField,
    EvidenceType,
    LookupKey,
    Mode,
    Sensitivity,
    SharingAttribute,
)
from schemas.model import Name
from tests.consent.examples import DAY, FATHER, NOW, a_consent, open_receipt

KEY = OKPKey.generate_key("Ed25519", {"kid": "gateway-1"})
KEYS = KeySet([KEY])


def _name(en: str) -> Name:
    return Name(zh="名称", en=en)


def a_notice() -> ConsentNotice:
    """Return what a father is told about the marriage look-up."""
    marriage = EvidenceType(
        id="marriage",
        version=1,
        name=_name("Marriage record"),
        modes=(Mode.VERIFY,),
        keys=((LookupKey(name="id", concept="self.id"),),),
        fields={
            "status": EvidenceField(name=_name("Status"), json_schema={}),
            "registered_on": EvidenceField(
                name=_name("Registered on"), json_schema={}, sensitive=True
            ),
        },
        sharing=SharingAttribute.CONDITIONAL,
        sensitivity=Sensitivity.ORDINARY,
        max_age=None,
    )
    return ConsentNotice(
        requester=Requester(
            id="hospital", name=_name("Hospital"), scopes=(Scope.PORTAL,)
        ),
        matter=_name("Newborn"),
        purpose=_name("Registration of a newborn"),
        evidence_types={"marriage@1": marriage},
        basis=LegalReference(law=_name("PIPL"), article="13(1)(1)"),
        language="zh-CN",
        jurisdiction="CN",
        notice_url="https://errand.example/notices/newborn",
        withdraw_url="https://errand.example/v1/consents/consent-1/withdraw",
    )


def a_receipt(**changes: object) -> str:
    """Return the receipt of a consent that was given."""
    consent = replace(a_consent(), **changes)  # type: ignore[arg-type] # any field
    return consent_receipt(
        consent, a_notice(), issuer="https://gateway", key=KEY, issued_at=NOW
    )


def _record(receipt: str) -> dict[str, Any]:
    record = open_receipt(receipt, KEYS)["record"]
    assert isinstance(record, dict)
    return record


def test_the_receipt_opens_with_the_published_key_alone() -> None:
    """The public half of the key is enough to check and read it."""
    public = KeySet.import_key_set({"keys": [KEY.as_dict(private=False)]})
    claims = open_receipt(a_receipt(), public)

    assert (claims["iss"], claims["sub"]) == ("https://gateway", FATHER)
    assert claims["aud"] == "hospital"
    assert claims["jti"] == "consent-1.2"


def test_the_record_says_what_whom_why_and_how_to_withdraw() -> None:
    """The parts that ISO/IEC TS 27560 demands are there."""
    record = _record(a_receipt())
    purpose = record["purposes"][0]

    assert {
        "schema_version",
        "record_id",
        "pii_principal_id",
        "privacy_notice",
        "language",
        "jurisdiction",
        "pii_controllers",
        "withdrawal_method",
        "events",
    } <= set(record)
    assert {
        "purpose",
        "lawful_basis",
        "pii_information",
        "storage_locations",
        "retention_period",
        "recipient_third_parties",
    } <= set(purpose)
    assert [
        (item["pii_attribute_id"], item["sensitive_pii"])
        for item in purpose["pii_information"]
    ] == [("registered_on", True), ("status", False)]


def test_a_consent_to_all_fields_lists_them_all() -> None:
    """The person reads each field, also where all are allowed."""
    record = _record(a_receipt(fields={"marriage@1": None}))

    assert len(record["purposes"][0]["pii_information"]) == 2


@pytest.mark.parametrize(
    ("changes", "states"),
    [
        ({"state": ConsentState.ASKED, "given_at": None}, ["asked"]),
        ({}, ["asked", "given"]),
        (
            {"state": ConsentState.WITHDRAWN, "ended_at": NOW},
            ["asked", "given", "withdrawn"],
        ),
        (
            {"state": ConsentState.REFUSED, "given_at": None, "ended_at": NOW},
            ["asked", "refused"],
        ),
        ({"expires_at": NOW - DAY / 2}, ["asked", "given", "expired"]),
    ],
)
def test_the_record_is_the_history(
    changes: dict[str, object], states: list[str]
) -> None:
    """The events are those that happened, in order, and the state is the last."""
    record = _record(a_receipt(**changes))

    assert states == [event["event_state"] for event in record["events"]]
    assert states[-1] == record["state"]


def test_what_was_given_alone_has_an_end() -> None:
    """The end that the person set is none that was asked for."""
    events = _record(a_receipt(state=ConsentState.WITHDRAWN, ended_at=NOW))["events"]
    ends = {e["event_state"]: e.get("validity_duration") for e in events}

    assert {"asked", "given", "withdrawn"} == set(ends)
    assert f"until {to_rfc3339_ms(NOW + DAY)}" == ends.pop("given")
    assert {None} == set(ends.values())


def test_a_request_that_its_case_ended_has_ended_then() -> None:
    """No event of the history lies ahead."""
    ended_at = NOW - DAY / 2
    receipt = a_receipt(state=ConsentState.EXPIRED, given_at=None, ended_at=ended_at)
    last = _record(receipt)["events"][-1]

    assert ("expired", "hospital") == (last["event_state"], last["entity_id"])
    assert to_rfc3339_ms(ended_at) == last["event_time"]
