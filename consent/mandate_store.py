"""The store of mandates: given, confirmed, found again, ended before their time.

Each function takes a connection inside a transaction that the caller owns, as in
`consent.store`.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import Connection, or_, select, update

from consent.artefact import Person
from consent.mandates import Mandate
from consent.rows import MANDATE, insert_or_ignore, mandate_of, mandate_values, micros
from consent.store import MOST_FOUND
from schemas.errors import NotFoundError
from schemas.ids import MandateId


def give(connection: Connection, mandate: Mandate) -> Mandate:
    """Store a mandate; one of that id that is there already stays as it is."""
    insert_or_ignore(connection, MANDATE, mandate_values(mandate))
    return get(connection, mandate.id)


def confirm(connection: Connection, mandate: MandateId) -> None:
    """Let a mandate that was given hold, once that is recorded; twice is once."""
    confirmed = update(MANDATE).where(MANDATE.c.id == mandate, MANDATE.c.giving)
    connection.execute(confirmed.values(giving=False))


def revoke(
    connection: Connection, mandate: MandateId, person: Person, now: datetime
) -> tuple[Mandate, bool]:
    """End a mandate, as its principal or its agent; ending it twice is once.

    The caller acknowledges it only when the transaction has committed and every use
    taken before is over: see `consent.uses.open_uses`.

    Returns:
        The mandate, and whether this has ended it.

    Raises:
        NotFoundError: There is no such mandate of or to this person.
    """
    ended = (
        update(MANDATE)
        .where(MANDATE.c.id == mandate, MANDATE.c.revoked_at.is_(None))
        .where(or_(MANDATE.c.principal == person, MANDATE.c.agent == person))
        .values(revoked_at=micros(now))
    )
    is_new = connection.execute(ended).rowcount == 1
    found = find(connection, mandate)
    # One message for both, so that nobody learns whether another's mandate exists.
    if found is None or person not in (found.principal, found.agent):
        raise NotFoundError("there is no such mandate")
    return found, is_new


def hold(
    connection: Connection, mandates: Collection[MandateId]
) -> Mapping[MandateId, Mandate]:
    """Keep mandates from being ended until the transaction ends; return those found."""
    if not mandates:
        return {}
    statement = (
        select(MANDATE)
        .where(MANDATE.c.id.in_(sorted(mandates)))
        .order_by(MANDATE.c.id)
        .with_for_update(read=True)
    )
    found = [mandate_of(row) for row in connection.execute(statement)]
    return {mandate.id: mandate for mandate in found}


def find(connection: Connection, mandate: MandateId) -> Mandate | None:
    """Return a mandate, or None when there is none of that id."""
    row = connection.execute(select(MANDATE).where(MANDATE.c.id == mandate)).first()
    return None if row is None else mandate_of(row)


def get(connection: Connection, mandate: MandateId) -> Mandate:
    """Return a mandate.

    Raises:
        NotFoundError: There is none of that id.
    """
    found = find(connection, mandate)
    if found is None:
        raise NotFoundError("there is no such mandate")
    return found


def find_by_person(connection: Connection, person: Person) -> tuple[Mandate, ...]:
    """Return the mandates that a person gave or holds, the newest first."""
    theirs = or_(MANDATE.c.principal == person, MANDATE.c.agent == person)
    newest = MANDATE.c.given_at.desc(), MANDATE.c.id.desc()
    query = select(MANDATE).where(theirs).order_by(*newest).limit(MOST_FOUND)
    return tuple(mandate_of(row) for row in connection.execute(query))
