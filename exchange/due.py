"""What is owed to cases and when: the due row, and the lease of a case.

INVARIANT (decision 17): the due row is the truth. A case that is not settled has
exactly one row, written in the case's own transaction; whatever runs the work
(`exchange.waiting`) only reads it. So a kill at any instant leaves either a settled
case or a row that falls due.

INVARIANT (rule 10): a person is never sent home. While something is owed there is
an instant at which it is tried again, up to the matter's limit (`next_try`).

Who works on a case, a request or a waiting attempt, holds its lease, so that never
two do at once. A lease that is not given back ends by itself. A holder that was too
slow and lost its lease is stopped by the version of the case (`cases.save_case`).

The functions take a connection: whoever calls them owns the transaction. Instants
are stored as milliseconds since 1970.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Executable,
    Row,
    Table,
    and_,
    bindparam,
    case,
    delete,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, SQLModel

from exchange.cases import from_ms, to_ms, under
from exchange.statements import Statement
from schemas.ids import CaseId, DueId, MandateId


class DueRow(SQLModel, table=True):
    """One case's work that waits."""

    __tablename__ = "due"  # type: ignore[mutable-override] # SQLModel's own way

    id: str = Field(primary_key=True)
    """A new one for every attempt."""
    case_id: str = Field(unique=True)
    due_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    attempt: int
    """How many attempts were made before."""
    made_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    wake_at: int | None = Field(default=None, sa_column=Column(BigInteger))
    """When something happened that the attempt under way may not have seen."""
    lease_id: str | None = None
    lease_holder: str | None = None
    """The gateway (its executor id) that works on the case."""
    lease_until: int | None = Field(default=None, sa_column=Column(BigInteger))


_Upsert: TypeAlias = sqlite.Insert | postgresql.Insert
"""Both engines know INSERT ... ON CONFLICT; SQLAlchemy has one class for each."""

_DUE: Table = DueRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table
_INSERT: dict[str, Callable[[Table], _Upsert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}

_SPREAD = 0.1
"""Share of a wait that jitter takes away at most."""


@dataclass(frozen=True, slots=True)
class Due:
    """Work that a case is owed."""

    id: DueId
    case: CaseId
    due_at: datetime
    """First instant at which it is done without anybody asking."""
    attempt: int
    """How many attempts were made before."""
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a case, for a while."""

    id: str
    """A fresh id for each taking; an attempt takes the id of its row (`for_attempt`),
    so that the lease ends with the row when the attempt is cut off."""
    case: CaseId
    holder: str
    """The gateway's executor id; a gateway that starts ends what it once held."""
    until: datetime
    """First instant at which somebody else may take it."""


def for_attempt(due: Due, holder: str, until: datetime) -> Lease:
    """Return the lease under which a waiting attempt works on what `due` owes."""
    return Lease(id=due.id, case=due.case, holder=holder, until=until)


def next_try(
    attempt: int,
    now: datetime,
    waits: Sequence[float],
    limit: datetime | None,
    *,
    jitter: float,
) -> datetime | None:
    """Return when to try again after `attempt` attempts, or None: `limit` has passed.

    The last try is at the limit itself, so that what is owed ends with an answer.

    Args:
        attempt: Attempts made so far, at least 1.
        now: When the last one ended.
        waits: Seconds after each attempt, at least one; the last one repeats
            (the setting `retry_s`).
        limit: The matter's limit for the source; None where it sets none.
        jitter: From 0 up to 1, at random: cases that failed together then don't come
            back together. It takes away a tenth of the wait at most.

    >>> from datetime import UTC
    >>> noon = datetime(2026, 1, 8, 12, tzinfo=UTC)
    >>> [next_try(n, noon, (2, 4), None, jitter=0).second for n in (1, 2, 3)]
    [2, 4, 4]
    >>> next_try(1, noon, (2, 4), noon, jitter=0) is None
    True
    """
    if limit is not None and now >= limit:
        return None
    wait = waits[min(max(attempt, 1), len(waits)) - 1] * (1 - _SPREAD * jitter)
    at = now + timedelta(seconds=wait)
    return at if limit is None else min(at, limit)


def owe(connection: Connection, due: Due) -> None:
    """Write what a case is owed, in place of what it was owed before.

    It ends the lease of the case: the attempt is over. Where somebody called for one
    (`hasten`) during the attempt, the new row falls due at that instant already.
    """
    new = _insert(connection, due)
    woken = _DUE.c.wake_at
    due_at = case(
        (and_(woken.is_not(None), woken < new.excluded.due_at), woken),
        else_=new.excluded.due_at,
    )
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[_DUE.c.case_id],
            set_={
                "id": new.excluded.id,
                "due_at": due_at,
                "attempt": new.excluded.attempt,
                "made_at": new.excluded.made_at,
                "wake_at": None,
                **_NO_LEASE,
            },
        )
    )


def settle(connection: Connection, case_id: CaseId) -> None:
    """Strike out what a case is owed: it is settled or closed. Lease and all."""
    _SETTLE.run(connection, {"settled": case_id})


def begin_new(connection: Connection, due: Due, lease: Lease) -> None:
    """Owe a new case its work and take its lease, in the transaction that opens it.

    The row stands before anything is done, so that a kill in mid-request leaves a
    row that falls due.
    """
    _BEGIN_NEW.run(connection, {**_columns(due), **_lease(lease), "wake_at": None})


def begin(connection: Connection, due: Due, lease: Lease, now: datetime) -> bool:
    """Owe a case its work and take its lease, in one statement: for a request.

    Where the case has a row already, its id and attempts stay and its time may only
    come closer.

    Returns:
        False when somebody else holds the lease: nothing was changed.
    """
    # Not by the row count: PostgreSQL's driver has none for an INSERT.
    taken = connection.scalar(
        _BEGIN[connection.dialect.name],
        {**_columns(due), **_lease(lease), "begun": to_ms(now)},
    )
    return taken is not None


def claim(connection: Connection, lease: Lease, now: datetime) -> bool:
    """Take the lease of a case that is owed something: for a waiting attempt.

    Returns:
        False when somebody else holds it, or nothing is owed.
    """
    taken = connection.execute(
        update(_DUE)
        .where(_DUE.c.case_id == lease.case, _free(now))
        .values(wake_at=None, **_lease(lease))
    )
    return taken.rowcount == 1


def release(connection: Connection, lease: Lease) -> bool:
    """Give a lease back, what is owed unchanged; False when it was lost meanwhile."""
    given = connection.execute(
        update(_DUE)
        .where(_DUE.c.case_id == lease.case, _DUE.c.lease_id == lease.id)
        .values(_NO_LEASE)
    )
    return given.rowcount == 1


def release_all(connection: Connection, holder: str) -> int:
    """End the leases of a gateway that is not running; return how many it held."""
    ended = connection.execute(
        update(_DUE).where(_DUE.c.lease_holder == holder).values(_NO_LEASE)
    )
    return ended.rowcount


def hasten(
    connection: Connection, case_id: CaseId, new_id: DueId, now: datetime
) -> bool:
    """Call for an attempt now: a consent, an answer or a step's output came.

    An attempt that is under way may not have seen it, so another follows.

    Returns:
        False when the case is owed nothing.
    """
    return _call(connection, _DUE.c.case_id == case_id, literal(new_id), now) == 1


def hasten_under(
    connection: Connection, mandate: MandateId, new_id: DueId, now: datetime
) -> int:
    """Call for an attempt now at each open case under a mandate; say how many."""
    which = _DUE.c.case_id.in_(under(mandate))
    return _call(connection, which, literal(f"{new_id}.") + _DUE.c.case_id, now)


def _call(
    connection: Connection,
    which: ColumnElement[bool],
    new_id: ColumnElement[str],
    now: datetime,
) -> int:
    stamp = to_ms(now)
    called = connection.execute(
        update(_DUE)
        .where(which)
        .values(
            # A row that nobody works on starts afresh; the other's id is in use.
            id=case((_free(now), new_id), else_=_DUE.c.id),
            due_at=case((_DUE.c.due_at < stamp, _DUE.c.due_at), else_=stamp),
            wake_at=stamp,
        )
    )
    return called.rowcount


def replace(connection: Connection, old: DueId, due: Due) -> bool:
    """Put another row in the place of `old`.

    A lease under which `old` was attempted ends with it; a request's stays. A call
    for an attempt (`hasten`) that came meanwhile is heeded, once.

    Returns:
        False when there is no such row any more: nothing was changed.
    """
    later, woken = to_ms(due.due_at), _DUE.c.wake_at
    over = _DUE.c.lease_id == old
    replaced = connection.execute(
        update(_DUE)
        .where(_DUE.c.id == old)
        .values(
            id=due.id,
            due_at=case((and_(woken.is_not(None), woken < later), woken), else_=later),
            attempt=due.attempt,
            made_at=to_ms(due.made_at),
            wake_at=None,
            **{name: case((over, None), else_=_DUE.c[name]) for name in _NO_LEASE},
        )
    )
    return replaced.rowcount == 1


def find(connection: Connection, due_id: DueId) -> Due | None:
    """Return a row by its id; None when it was replaced or settled."""
    row = connection.execute(select(_DUE).where(_DUE.c.id == due_id)).one_or_none()
    return None if row is None else _due(row)


def rows_due(
    connection: Connection, now: datetime, limit: int, *, untried: bool = False
) -> Sequence[Due]:
    """Return up to `limit` rows that are due and that nobody works on, oldest first.

    Args:
        connection: Reads the rows.
        now: The instant.
        limit: How many at most.
        untried: Only those for which no attempt was made before.
    """
    query = _ROWS_DUE.where(_DUE.c.attempt == 0) if untried else _ROWS_DUE
    found = connection.execute(query, {"now": to_ms(now), "most": limit})
    return [_due(row) for row in found]


_NO_LEASE = {"lease_id": None, "lease_holder": None, "lease_until": None}


def _lease(lease: Lease) -> dict[str, str | int]:
    return {
        "lease_id": lease.id,
        "lease_holder": lease.holder,
        "lease_until": to_ms(lease.until),
    }


def _free(now: datetime) -> ColumnElement[bool]:
    """The condition that nobody holds the lease."""
    return _free_at(to_ms(now))


def _free_at(now: int | BindParameter[int]) -> ColumnElement[bool]:
    return or_(_DUE.c.lease_until.is_(None), _DUE.c.lease_until <= now)


def _insert(connection: Connection, due: Due) -> _Upsert:
    insert = _INSERT[connection.dialect.name](_DUE)
    return insert.values(**_columns(due), **_NO_LEASE)


def _columns(due: Due) -> dict[str, str | int]:
    return {
        "id": due.id,
        "case_id": due.case,
        "due_at": to_ms(due.due_at),
        "attempt": due.attempt,
        "made_at": to_ms(due.made_at),
    }


_BEGIN_NEW = Statement(insert(_DUE))

# Built once, since building costs more than running: each request for a case that is
# there passes the first, the dispatcher the second, also with nothing to do.


def _begin(insert: Callable[[Table], _Upsert]) -> Executable:
    """Return the statement of `begin`; `begun` is the instant."""
    new = insert(_DUE)
    due_at = case(
        (_DUE.c.due_at < new.excluded.due_at, _DUE.c.due_at),
        else_=new.excluded.due_at,
    )
    taken = {name: new.excluded[name] for name in _NO_LEASE}
    return new.on_conflict_do_update(
        index_elements=[_DUE.c.case_id],
        set_={"due_at": due_at, "wake_at": None, **taken},
        where=_free_at(bindparam("begun", type_=BigInteger())),
    ).returning(_DUE.c.case_id)


_BEGIN = {engine: _begin(insert) for engine, insert in _INSERT.items()}
_NOW: BindParameter[int] = bindparam("now", type_=BigInteger())
_ROWS_DUE = (
    select(_DUE)
    .where(_DUE.c.due_at <= _NOW, _free_at(_NOW))
    .order_by(_DUE.c.due_at, _DUE.c.id)
    .limit(bindparam("most", type_=BigInteger()))
)
_SETTLE = Statement(delete(_DUE).where(_DUE.c.case_id == bindparam("settled")))


def _due(row: Row[tuple[object, ...]]) -> Due:
    return Due(
        id=DueId(row.id),
        case=CaseId(row.case_id),
        due_at=from_ms(row.due_at),
        attempt=row.attempt,
        made_at=from_ms(row.made_at),
    )
