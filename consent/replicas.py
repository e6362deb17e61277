"""The gateways that share these tables, and which suspensions each has heard of.

A look-up under a statutory duty pays no write, so no row tells that it is under way;
`consent.in_flight` guards it, in the memory of one gateway. Where several share the
tables (PostgreSQL), each has a row here with a lease: it renews the lease, hears what
is suspended, waits for its own look-ups, and then says that it has heard.

INVARIANT (rule 5): a suspension is acknowledged when every gateway whose lease runs
has heard of it (`behind` is False). One that falls silent is waited for until its
lease is over; it sends nothing from then on, since it counts its lease by its own
clock from before it asked for it (`InFlight.current_until`).

Leases are counted by the database's clock, which all have in common. Each function
takes a connection inside a transaction that the caller owns; on SQLite, where one
process holds the tables, there are no rows of gateways.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, Cast, Connection, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from consent.rows import REPLICA, SUSPENSION, SUSPENSION_STATE, insert_or_ignore
from consent.rules import Target
from schemas.errors import StateConflictError

_GATE = 0x6572_7261  # any number that nothing else in the database locks
_STATE = 1
"""The one row of the state."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What is suspended, and how many changes of it there were up to here."""

    changes: int
    suspended: frozenset[Target]


def gate(connection: Connection, *, shared: bool) -> None:
    """Order takings, joinings and suspensions of several processes on PostgreSQL.

    A taking that has not committed is invisible to `open_uses`; so a suspension waits
    for it here. SQLite has one writer at a time, which is the same.
    """
    if connection.dialect.name == "postgresql":
        lock = (
            func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        )
        connection.execute(select(lock(_GATE)))


def join(connection: Connection, name: str, place: str, lease: timedelta) -> Heard:
    """Enter a gateway that starts, and return what it must not rest on.

    Args:
        connection: Inside a writing transaction.
        name: Its executor id, nobody else's.
        place: Where it keeps its own files, which one process holds at a time: who
            comes back to the same place takes over what it had.
        lease: How long it counts as running.

    Raises:
        StateConflictError: Another gateway of that name runs at another place.
    """
    gate(connection, shared=True)
    heard = read(connection)
    row = {
        "name": name,
        "place": place,
        "heard": heard.changes,
        "lease_until": _now() + _micros(lease),
    }
    entered = insert(REPLICA).values(row)
    mine = (REPLICA.c.place == place) | (REPLICA.c.lease_until <= _now())
    taken = connection.execute(
        entered.on_conflict_do_update(
            index_elements=[REPLICA.c.name],
            set_={key: entered.excluded[key] for key in row},
            where=mine,
        ).returning(REPLICA.c.name)
    )
    if taken.first() is None:
        raise StateConflictError("another gateway of this name runs")
    return heard


def renew(
    connection: Connection, name: str, place: str, heard: int, lease: timedelta
) -> bool:
    """Prolong a lease, and say what was heard; False when another has the name."""
    kept = connection.execute(
        update(REPLICA)
        .where(REPLICA.c.name == name, REPLICA.c.place == place)
        .values(heard=heard, lease_until=_now() + _micros(lease))
    )
    return kept.rowcount == 1


def leave(connection: Connection, name: str, place: str) -> None:
    """Take a gateway out that stops: it sends nothing more."""
    mine = (REPLICA.c.name == name) & (REPLICA.c.place == place)
    connection.execute(delete(REPLICA).where(mine))


def read(connection: Connection) -> Heard:
    """Return what is suspended."""
    # The count first: whatever it counts is in what is read after it.
    changes = connection.scalar(select(SUSPENSION_STATE.c.changes)) or 0
    suspended = connection.execute(select(SUSPENSION.c.target)).scalars()
    return Heard(changes, frozenset(suspended))


def count_change(connection: Connection) -> int:
    """Count a suspension or its end, in its own transaction, so that all hear of it.

    Returns:
        How many there were with it: who comes later gets a larger number.
    """
    insert_or_ignore(connection, SUSPENSION_STATE, {"id": _STATE, "changes": 0})
    one_more = (
        update(SUSPENSION_STATE)
        .values(changes=SUSPENSION_STATE.c.changes + 1)
        .returning(SUSPENSION_STATE.c.changes)
    )
    return int(connection.execute(one_more).scalar_one())


def behind(connection: Connection) -> bool:
    """Tell whether a gateway that runs has yet to hear of the latest suspension."""
    if connection.dialect.name != "postgresql":
        return False
    changes = select(SUSPENSION_STATE.c.changes).scalar_subquery()
    late = select(REPLICA.c.name).where(
        REPLICA.c.lease_until > _now(), REPLICA.c.heard < func.coalesce(changes, 0)
    )
    return connection.execute(late.limit(1)).first() is not None


def _now() -> Cast[int]:
    """Return the database's own instant, in microseconds since 1970."""
    seconds = func.extract("epoch", func.clock_timestamp())
    return cast(seconds * 1_000_000, BigInteger)


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
