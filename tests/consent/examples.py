"""Grants, consents and look-ups for tests: whole, permitted unless told otherwise."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from joserfc import jws
from joserfc.jwk import KeySet
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from consent import store
from consent.artefact import Consent, ConsentFields, ConsentScope, ConsentState
from consent.receipts import TYPE
from consent.rules import Rule
from consent.store import AS_ASKED, ConsentRequest, Terms, ask
from consent.uses import Claim, Use
from consent.verdict import Permit, ProposedLookup, RoleBasis
from schemas.directory import (
    LawfulBasis,
    LawfulBasisKind,
    LegalReference,
    Quota,
    SharingGrant,
)
from schemas.evidence import Mode
from schemas.ids import CaseId, ConsentId, LookupId
from schemas.model import Name

NOW = datetime(2026, 1, 8, 6, 30, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
LEASE = timedelta(seconds=30)
CASE = CaseId("case-1")
FATHER = "ref-father"
MOTHER = "ref-mother"
DUTY = LawfulBasisKind.STATUTORY_DUTY
BY_CONSENT = LawfulBasisKind.CONSENT


def a_basis(kind: LawfulBasisKind = DUTY) -> LawfulBasis:
    """Return a lawful basis of a kind."""
    law = Name(zh="个人信息保护法", en="Personal Information Protection Law")
    return LawfulBasis(kind=kind, reference=LegalReference(law=law, article="13"))


def a_grant(
    bases: Mapping[str, LawfulBasisKind] | None = None, **changes: object
) -> SharingGrant:
    """Return a grant of two fields of `marriage@1`: mother by duty, father asked."""
    kinds = {"mother": DUTY, "father": BY_CONSENT} if bases is None else bases
    values = {
        "id": "hospital_marriage",
        "version": 3,
        "requester": "hospital",
        "evidence_type": "marriage@1",
        "modes": (Mode.RETRIEVE, Mode.VERIFY),
        "fields": ("status", "registered_on"),
        "matters": ("newborn",),
        "purposes": ("newborn_registration",),
        "bases": {role: a_basis(kind) for role, kind in kinds.items()},
        "valid_from": NOW - DAY,
        "valid_until": NOW + DAY,
    }
    return SharingGrant.model_validate({**values, **changes})


def a_lookup(**changes: object) -> ProposedLookup:
    """Return a look-up about the mother that concerns the father."""
    values: dict[str, object] = {
        "evidence_type": "marriage@1",
        "mode": Mode.RETRIEVE,
        "fields": frozenset({"status", "registered_on"}),
        "subjects": {"mother": MOTHER, "father": FATHER},
        "requester": "hospital",
        "matter": "newborn",
        "purpose": "newborn_registration",
        "case": CASE,
        "service": "civil_marriage",
        "provider": "civil_affairs",
    }
    return ProposedLookup(**{**values, **changes})  # type: ignore[arg-type] # checked by the tests that use it


def a_scope(**changes: object) -> ConsentScope:
    """Return what the father is asked: for one case."""
    values: dict[str, object] = {
        "person": FATHER,
        "role": "father",
        "requester": "hospital",
        "matter": "newborn",
        "purpose": "newborn_registration",
        "case": CASE,
    }
    return ConsentScope(**{**values, **changes})  # type: ignore[arg-type] # as above


ALL_FIELDS: ConsentFields = {"marriage@1": frozenset({"status", "registered_on"})}


def a_consent(scope: ConsentScope | None = None, **changes: object) -> Consent:
    """Return a consent that the father gave, without a count."""
    values: dict[str, object] = {
        "id": ConsentId("consent-1"),
        "scope": scope or a_scope(),
        "asked_in": CASE,
        "fields": ALL_FIELDS,
        "state": ConsentState.GIVEN,
        "asked_at": NOW - DAY,
        "given_at": NOW - DAY,
        "ended_at": None,
        "expires_at": NOW + DAY,
        "uses_left": None,
        "version": 2,
    }
    state = changes.get("state", ConsentState.GIVEN)
    if state in (ConsentState.ASKED, ConsentState.REFUSED):
        values["given_at"] = None
    if state in (ConsentState.REFUSED, ConsentState.WITHDRAWN):
        values["ended_at"] = NOW - DAY / 2
    return Consent(**{**values, **changes})  # type: ignore[arg-type] # as above


def a_quota(lookups: int, per: timedelta = DAY) -> Quota:
    """Return a quota of so many look-ups a day."""
    return Quota(lookups=lookups, per=per)


def a_use(
    lookup: str = "lookup-1",
    consents: Iterable[str] = ("consent-1",),
    quota: Quota | None = None,
) -> Use:
    """Return a use of consents, one for each role, under the example's grant."""
    bases = {
        f"role_{place}": RoleBasis(a_basis(BY_CONSENT), ConsentId(consent))
        for place, consent in enumerate(consents)
    }
    bases["mother"] = RoleBasis(a_basis())
    claim = Claim(
        permit=Permit(Rule.CONSENT_GIVEN, "hospital_marriage", 3, bases),
        service="civil_marriage",
        provider="civil_affairs",
        requester="hospital",
        quota=quota,
    )
    return Use(LookupId(lookup), claim)


def a_request(scope: ConsentScope | None = None, **changes: object) -> ConsentRequest:
    """Return a request to the father, for any number of uses."""
    values: dict[str, object] = {
        "scope": scope or a_scope(),
        "asked_in": CASE,
        "fields": ALL_FIELDS,
        "expires_at": NOW + DAY,
        "uses": None,
    }
    return ConsentRequest(**{**values, **changes})  # type: ignore[arg-type] # as above


def given(
    connection: Connection, consent: str = "consent-1", uses: int | None = None
) -> Consent:
    """Ask and give a consent of a role that is named after it; return it."""
    role = consent.replace("-", "_")
    request = a_request(a_scope(role=role), uses=uses)
    asked = ask(connection, request, NOW, lambda: consent).consent
    return give(connection, asked.id, FATHER, asked.version, NOW)


def give(
    connection: Connection,
    consent: ConsentId,
    person: str,
    version: int,
    now: datetime,
    terms: Terms = AS_ASKED,
) -> Consent:
    """Give a consent, and let it hold as if that were recorded; return it."""
    store.give(connection, consent, person, version, now, terms)
    store.confirm(connection, consent)
    return store.get(connection, consent)


def open_engine(url: str) -> Engine:
    """Return an engine on migrated tables, with explicit transactions on SQLite."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_size=8)
    engine = create_engine(parsed, connect_args={"timeout": 30}, pool_size=8)

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=OFF")  # power loss is not tested here
        cursor.close()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


@contextmanager
def an_engine(url: str) -> Iterator[Engine]:
    """Open an engine for one test, and close its connections afterwards."""
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def open_receipt(receipt: str, keys: KeySet) -> dict[str, Any]:
    """Return the claims of a receipt that one of the keys signed, as a person would."""
    opened = jws.deserialize_compact(receipt, keys, ["Ed25519"])
    assert opened.headers()["typ"] == TYPE
    claims = orjson.loads(opened.payload or b"")
    assert isinstance(claims, dict)
    return claims
