"""The store of cases and of the evidence they hold: sealed rows, and nothing else.

The functions take a connection: whoever calls them owns the transaction. Instants
are stored as milliseconds since 1970, so that both engines compare them alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Row,
    Select,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlmodel import Field, SQLModel

from exchange.case import CaseHead, CaseStatus
from exchange.statements import Rows, Statement, Values
from schemas.errors import StateConflictError
from schemas.ids import CaseId, EvidenceId, KeyId, MandateId


class CaseRow(SQLModel, table=True):
    """One case."""

    __tablename__ = "case_file"  # type: ignore[mutable-override] # SQLModel's own way

    id: str = Field(primary_key=True)
    key_id: str = Field(unique=True)
    """INVARIANT: no two cases have one key."""
    requester: str
    matter: str
    purpose: str
    status: str
    opened_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    closed_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    version: int
    content: bytes | None
    """`CaseContent`, sealed under the case's key; None once it is closed."""
    summary: bytes | None = None
    """Outcomes by requirement, kept after closing: they hold no person's value."""
    mandate: str | None = Field(default=None, index=True)
    """The mandate under which an open case goes on; empty where there is none. None in
    a case that an earlier version has opened, until it is noted."""


class EvidenceRow(SQLModel, table=True):
    """One evidence that a case holds."""

    __tablename__ = "evidence"  # type: ignore[mutable-override] # as above

    case_id: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    content: bytes
    """The signed evidence, sealed under the case's key."""
    expires_at: int | None = Field(
        default=None, sa_column=Column(BigInteger, index=True)
    )


_CASE = CaseRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table
_EVIDENCE = EvidenceRow.__table__  # type: ignore[attr-defined] # as above

# Every case passes these.
_INSERT_CASE = Statement(insert(_CASE))
_EVIDENCE_ROWS = Rows(_EVIDENCE)
_SAVE_CASE = Statement(
    update(_CASE).where(
        _CASE.c.id == bindparam("saved"),
        _CASE.c.version == bindparam("before"),
        _CASE.c.status != bindparam("closed"),
    ),
    "content",
    "status",
    "version",
)


_NONE = ""
"""In the place of a mandate where no agent acts."""
_CHUNK = 500
"""Most cases that one statement names."""
_UNDER_WAY_MS = 5_000
"""How long cases that are being stored are waited for: nobody stores one meanwhile."""


@dataclass(frozen=True, slots=True)
class StoredCase:
    """A case as it lies in the store."""

    head: CaseHead
    key: KeyId
    content: bytes | None
    """Sealed; None once the case is closed."""
    summary: bytes | None


class SealedEvidence(NamedTuple):
    """One evidence as it lies in the store."""

    id: EvidenceId
    content: bytes
    expires_at: datetime | None


def to_ms(instant: datetime) -> int:
    """Return milliseconds since 1970."""
    return int(instant.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """Return the instant, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def insert_case(
    connection: Connection,
    head: CaseHead,
    key: KeyId,
    content: bytes,
    mandate: MandateId | None = None,
) -> None:
    """Store a new case, whose content is sealed under `key`."""
    _INSERT_CASE.run(
        connection,
        {
            "id": head.id,
            "key_id": key,
            "requester": head.requester,
            "matter": head.matter,
            "purpose": head.purpose,
            "status": head.status.value,
            "opened_at": to_ms(head.opened_at),
            "closed_at": None,
            "version": head.version,
            "content": content,
            "summary": None,
            "mandate": mandate or _NONE,
        },
    )


def find_case(connection: Connection, case: CaseId) -> StoredCase | None:
    """Return a case, or None when there is none of that id."""
    row = connection.execute(select(_CASE).where(_CASE.c.id == case)).one_or_none()
    return None if row is None else _stored(row)


def _stored(row: Row[Any]) -> StoredCase:
    head = CaseHead(
        id=CaseId(row.id),
        requester=row.requester,
        matter=row.matter,
        purpose=row.purpose,
        status=CaseStatus(row.status),
        opened_at=from_ms(row.opened_at),
        closed_at=None if row.closed_at is None else from_ms(row.closed_at),
        version=row.version,
    )
    return StoredCase(
        head=head, key=KeyId(row.key_id), content=row.content, summary=row.summary
    )


def under(mandate: MandateId) -> Select[tuple[str]]:
    """Return the query for the open cases that go on under a mandate."""
    return select(_CASE.c.id).where(_CASE.c.mandate == mandate)


def find_unnoted(
    connection: Connection, after: CaseId, limit: int
) -> Sequence[StoredCase]:
    """Return open cases whose mandate is not noted, in the order of their ids."""
    query = select(_CASE).where(
        _CASE.c.mandate.is_(None), _CASE.c.content.is_not(None), _CASE.c.id > after
    )
    rows = connection.execute(query.order_by(_CASE.c.id).limit(limit))
    return [_stored(row) for row in rows]


def note_mandate(
    connection: Connection, case: CaseId, mandate: MandateId | None
) -> None:
    """Note under which mandate a case goes on, where that is not noted."""
    unnoted = (_CASE.c.id == case) & _CASE.c.mandate.is_(None)
    connection.execute(update(_CASE).where(unnoted).values(mandate=mandate or _NONE))


def find_open(connection: Connection, among: Sequence[CaseId]) -> list[CaseId]:
    """Return those of some cases that are not closed."""
    found: list[CaseId] = []
    for at in range(0, len(among), _CHUNK):
        query = select(_CASE.c.id).where(
            _CASE.c.id.in_(among[at : at + _CHUNK]),
            _CASE.c.status != CaseStatus.CLOSED.value,
        )
        found += [CaseId(case) for case in connection.scalars(query)]
    return found


def find_keys(connection: Connection, among: Sequence[KeyId]) -> list[KeyId]:
    """Return those of some keys that cases name, or may be about to.

    A gateway that was killed may have a commit under way at the server: it is waited
    for. The statement that stored the case was answered before its commit was sent,
    so that its lock on the table is held until the commit is seen.

    Raises:
        sqlalchemy.exc.OperationalError: Who stores a case does not come to an end.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_UNDER_WAY_MS}")
        # Waits for all who have written to the table, and for nobody who reads it.
        connection.exec_driver_sql(f"LOCK TABLE {_CASE.name} IN SHARE MODE")
    query = select(_CASE.c.key_id).where(_CASE.c.key_id.in_(among))
    return [KeyId(key) for key in connection.scalars(query)]


def find_version(connection: Connection, case: CaseId) -> int | None:
    """Return a case's version, for those who follow it."""
    query = select(_CASE.c.version).where(_CASE.c.id == case)
    found: int | None = connection.scalar(query)
    return found


def save_case(connection: Connection, head: CaseHead, content: bytes) -> None:
    """Store what a case knows now; `head.version` is the new one.

    Raises:
        StateConflictError: Somebody else changed or closed the case meanwhile.
    """
    changed = _SAVE_CASE.run(
        connection,
        {
            "saved": head.id,
            "before": head.version - 1,
            "closed": CaseStatus.CLOSED.value,
            "content": content,
            "status": head.status.value,
            "version": head.version,
        },
    )
    if changed.rowcount != 1:
        raise StateConflictError("the case was changed meanwhile")


def keep_open(connection: Connection, case: CaseId) -> None:
    """See that a case is open, and keep it from being closed until all is stored.

    Raises:
        StateConflictError: It is closed, or there is none of that id.
    """
    query = select(_CASE.c.status).where(_CASE.c.id == case)
    status = connection.scalar(query.with_for_update(read=True))
    if status is None or status == CaseStatus.CLOSED.value:
        raise StateConflictError("the case is closed")


def close_case(
    connection: Connection, case: CaseId, summary: bytes, now: datetime
) -> None:
    """Drop all that a case holds, but its outcomes.

    Raises:
        StateConflictError: It is closed already.
    """
    changed = connection.execute(
        update(_CASE)
        .where(_CASE.c.id == case, _CASE.c.status != CaseStatus.CLOSED.value)
        .values(
            content=None,
            summary=summary,
            status=CaseStatus.CLOSED.value,
            closed_at=to_ms(now),
            version=_CASE.c.version + 1,
            mandate=_NONE,
        )
    )
    if changed.rowcount != 1:
        raise StateConflictError("the case is closed already")
    connection.execute(delete(_EVIDENCE).where(_EVIDENCE.c.case_id == case))


def put_evidence(
    connection: Connection, case: CaseId, evidence: Iterable[SealedEvidence]
) -> None:
    """Store evidence of a case."""
    rows: list[Values] = [
        {
            "case_id": case,
            "id": item.id,
            "content": item.content,
            "expires_at": None if item.expires_at is None else to_ms(item.expires_at),
        }
        for item in evidence
    ]
    if rows:
        _EVIDENCE_ROWS.insert(connection, rows)


def find_evidence(connection: Connection, case: CaseId) -> Mapping[EvidenceId, bytes]:
    """Return all sealed evidence of a case."""
    query = select(_EVIDENCE.c.id, _EVIDENCE.c.content)
    rows = connection.execute(query.where(_EVIDENCE.c.case_id == case))
    return {EvidenceId(row.id): row.content for row in rows}


def purge_stale_evidence(connection: Connection, now: datetime) -> int:
    """Delete evidence that is no longer fresh; return how many there were."""
    stale = _EVIDENCE.c.expires_at <= to_ms(now)
    return connection.execute(delete(_EVIDENCE).where(stale)).rowcount
