"""The tables of this room, and how a row becomes a consent or a mandate.

Instants are stored as whole microseconds since 1970, exactly, so that both engines
compare them alike. No table holds a raw id of a person: only person refs.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Index,
    Row,
    Table,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, SQLModel

from consent.artefact import Consent, ConsentFields, ConsentScope, ConsentState
from consent.mandates import Authentication, Mandate, Power, Signature
from schemas.ids import CaseId, ConsentId, MandateId


class ConsentRow(SQLModel, table=True):
    """One consent, from the asking on."""

    __tablename__: ClassVar[str | Callable[..., str]] = "consent"
    __table_args__ = (
        # One open request for each person, role, requester, case and reach: asking
        # again adds to it. The engine holds this even where two processes ask.
        Index(
            "one_open_request",
            "asked_in",
            "person",
            "role",
            "requester",
            "purpose",
            "whole_matter",
            unique=True,
            sqlite_where=text("state = 'asked'"),
            postgresql_where=text("state = 'asked'"),
        ),
        Index("consent_by_person", "person", "requester", "matter"),
    )

    id: str = Field(primary_key=True)
    person: str
    role: str
    requester: str
    matter: str
    purpose: str
    asked_in: str = Field(index=True)
    whole_matter: bool
    fields: dict[str, list[str] | None] = Field(sa_column=Column(JSON, nullable=False))
    state: str
    asked_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    given_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    ended_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    expires_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    uses_left: int | None = None
    version: int
    terms: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    """How it was narrowed when it was given; None before that."""


class ConsentUseRow(SQLModel, table=True):
    """One look-up that rests on one consent, or is made under one mandate."""

    __tablename__: ClassVar[str | Callable[..., str]] = "consent_use"

    lookup: str = Field(primary_key=True)
    consent: str = Field(primary_key=True, index=True)
    """Its id, or the mandate's."""
    grant_id: str
    service: str
    provider: str
    requester: str
    taken_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    lease_until: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    """First instant at which the look-up may not be sent any more."""
    finished_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    sent: bool | None = None
    """Whether it was sent; None until finished."""


class GrantUseRow(SQLModel, table=True):
    """How many look-ups a grant with a quota has had in one period."""

    __tablename__: ClassVar[str | Callable[..., str]] = "grant_use"

    grant_id: str = Field(primary_key=True)
    period: int = Field(sa_column=Column(BigInteger, primary_key=True))
    """The first instant of the period."""
    lookups: int


class SuspensionRow(SQLModel, table=True):
    """One thing that may not be used for now."""

    __tablename__: ClassVar[str | Callable[..., str]] = "suspension"

    target: str = Field(primary_key=True)
    reason: str
    by: str
    since: int = Field(sa_column=Column(BigInteger, nullable=False))
    lifting: str | None = None
    """The act that ends it, once that is recorded; it holds until then."""


class SuspensionStateRow(SQLModel, table=True):
    """How often it changed what is suspended; one row."""

    __tablename__: ClassVar[str | Callable[..., str]] = "suspension_state"

    id: int = Field(primary_key=True)
    changes: int = Field(sa_column=Column(BigInteger, nullable=False))


class ReplicaRow(SQLModel, table=True):
    """One gateway that shares these tables with others."""

    __tablename__: ClassVar[str | Callable[..., str]] = "replica"

    name: str = Field(primary_key=True)
    """Its executor id."""
    place: str
    """The id of its data folder."""
    heard: int = Field(sa_column=Column(BigInteger, nullable=False))
    """Up to which change of the suspensions it has acted."""
    lease_until: int = Field(sa_column=Column(BigInteger, nullable=False))
    """First instant, by the database's clock, at which it sends nothing any more."""


class MandateRow(SQLModel, table=True):
    """One mandate, from the giving on."""

    __tablename__: ClassVar[str | Callable[..., str]] = "mandate"

    id: str = Field(primary_key=True)
    principal: str = Field(index=True)
    role: str
    agent: str = Field(index=True)
    requester: str | None = None
    matters: list[str] = Field(sa_column=Column(JSON, nullable=False))
    powers: list[str] = Field(sa_column=Column(JSON, nullable=False))
    valid_from: int = Field(sa_column=Column(BigInteger, nullable=False))
    valid_until: int = Field(sa_column=Column(BigInteger, nullable=False))
    given_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    revoked_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    client: str
    """Who authenticated the principal."""
    method: str
    authenticated_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    giving: bool | None = None
    """Whether its record is still owed; None of what an earlier version stored."""


CONSENT = ConsentRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table
USE = ConsentUseRow.__table__  # type: ignore[attr-defined] # as above
GRANT_USE = GrantUseRow.__table__  # type: ignore[attr-defined] # as above
SUSPENSION = SuspensionRow.__table__  # type: ignore[attr-defined] # as above
SUSPENSION_STATE = SuspensionStateRow.__table__  # type: ignore[attr-defined] # as above
REPLICA = ReplicaRow.__table__  # type: ignore[attr-defined] # as above
MANDATE = MandateRow.__table__  # type: ignore[attr-defined] # as above


def consent_of(row: Row[Any]) -> Consent:
    """Return the consent that a row holds."""
    return Consent(
        id=ConsentId(row.id),
        scope=ConsentScope(
            person=row.person,
            role=row.role,
            requester=row.requester,
            matter=row.matter,
            purpose=row.purpose,
            case=None if row.whole_matter else CaseId(row.asked_in),
        ),
        asked_in=CaseId(row.asked_in),
        fields={
            evidence_type: None if fields is None else frozenset(fields)
            for evidence_type, fields in row.fields.items()
        },
        state=ConsentState(row.state),
        asked_at=instant(row.asked_at),
        given_at=None if row.given_at is None else instant(row.given_at),
        ended_at=None if row.ended_at is None else instant(row.ended_at),
        expires_at=instant(row.expires_at),
        uses_left=row.uses_left,
        version=row.version,
    )


def values_of(consent: Consent) -> Mapping[str, object]:
    """Return the row of a consent that is being asked for."""
    scope = consent.scope
    return {
        "id": consent.id,
        "person": scope.person,
        "role": scope.role,
        "requester": scope.requester,
        "matter": scope.matter,
        "purpose": scope.purpose,
        "asked_in": consent.asked_in,
        "whole_matter": scope.case is None,
        "fields": plain_fields(consent.fields),
        "state": consent.state.value,
        "asked_at": micros(consent.asked_at),
        "expires_at": micros(consent.expires_at),
        "uses_left": consent.uses_left,
        "version": consent.version,
    }


def mandate_of(row: Row[Any]) -> Mandate:
    """Return the mandate that a row holds."""
    return Mandate(
        id=MandateId(row.id),
        principal=row.principal,
        role=row.role,
        agent=row.agent,
        requester=row.requester,
        matters=frozenset(row.matters),
        powers=frozenset(map(Power, row.powers)),
        valid_from=instant(row.valid_from),
        valid_until=instant(row.valid_until),
        given_at=instant(row.given_at),
        revoked_at=None if row.revoked_at is None else instant(row.revoked_at),
        is_giving=bool(row.giving),
        signature=Signature(
            client=row.client,
            method=Authentication(row.method),
            at=instant(row.authenticated_at),
        ),
    )


def mandate_values(mandate: Mandate) -> Mapping[str, object]:
    """Return the row of a mandate that nobody has ended."""
    return {
        "id": mandate.id,
        "principal": mandate.principal,
        "role": mandate.role,
        "agent": mandate.agent,
        "requester": mandate.requester,
        "matters": sorted(mandate.matters),
        "powers": sorted(power.value for power in mandate.powers),
        "valid_from": micros(mandate.valid_from),
        "valid_until": micros(mandate.valid_until),
        "given_at": micros(mandate.given_at),
        "giving": mandate.is_giving,
        "client": mandate.signature.client,
        "method": mandate.signature.method.value,
        "authenticated_at": micros(mandate.signature.at),
    }


def insert_into(
    connection: Connection, table: Table
) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that can say what happens where another row is in its way."""
    on_postgres = connection.dialect.name == "postgresql"
    return postgresql.insert(table) if on_postgres else sqlite.insert(table)


def insert_or_ignore(
    connection: Connection, table: Table, values: Mapping[str, object]
) -> bool:
    """Insert a row; return False where another stands in its way, also a replica's.

    Where the other one is not committed yet, it is waited for.
    """
    added = insert_into(connection, table).values(values).on_conflict_do_nothing()
    # By the row that comes back: PostgreSQL's driver does not count an ignored one.
    found = connection.execute(added.returning(*table.primary_key.columns))
    return found.first() is not None


def plain_fields(fields: ConsentFields) -> dict[str, list[str] | None]:
    """Return fields as JSON holds them, in order."""
    return {
        evidence_type: None if names is None else sorted(names)
        for evidence_type, names in sorted(fields.items())
    }


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Return whole microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    """Return the instant that lies so many microseconds after 1970 began."""
    return _EPOCH + microseconds * _MICROSECOND
