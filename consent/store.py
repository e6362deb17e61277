"""The store of consents: asked for, given, refused, withdrawn, found again.

Each function takes a connection inside a transaction that the caller owns, and the
time and ids as values. On SQLite a function that changes anything needs a writing
transaction from its first statement (`BEGIN IMMEDIATE`), as the gateway's one writer
opens it; on PostgreSQL the functions take row locks of their own. Uses of a consent
and suspensions stand in `consent.uses`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy import case as either

from consent.artefact import (
    Consent,
    ConsentFields,
    ConsentScope,
    ConsentState,
    Person,
    is_within,
    merged,
)
from consent.rows import (
    CONSENT,
    consent_of,
    insert_or_ignore,
    micros,
    plain_fields,
    values_of,
)
from schemas.canonical import Json
from schemas.errors import (
    Complaint,
    InvalidRequestError,
    NotFoundError,
    StateConflictError,
)
from schemas.evidence import FieldName
from schemas.ids import CaseId, ConsentId, NewId
from schemas.model import Slug, VersionedId

MOST_FOUND = 500
"""How many consents one search returns at most."""
_ALIVE = CONSENT.c.state.in_((ConsentState.ASKED.value, ConsentState.GIVEN.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRequest:
    """What a person is asked to allow.

    Raises:
        ValueError: It asks for nothing, or for less than one use.
    """

    scope: ConsentScope
    asked_in: CaseId
    """The case that asks; the scope's own case where the scope has one."""
    fields: ConsentFields
    expires_at: datetime
    """First instant at which neither the request nor the consent holds any more."""
    uses: int | None
    """Look-ups that may rest on it; None for any number."""

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a consent is about at least one evidence type")
        if self.uses is not None and self.uses < 1:
            raise ValueError("a consent is for at least one use")
        if self.scope.case not in (None, self.asked_in):
            raise ValueError("a consent to one case is asked for in that case")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a person narrows while giving a consent; None leaves it as asked for."""

    fields: ConsentFields | None = None
    expires_at: datetime | None = None
    uses: int | None = None


AS_ASKED = Terms()
"""The person gives what was asked for."""


class Asked(NamedTuple):
    """What came of asking."""

    consent: Consent
    """The open request."""
    changed: tuple[Consent, ...]
    """Every consent that was changed by it: one that had run out, and the open request,
    unless all of it was being asked for already."""


def ask(
    connection: Connection, request: ConsentRequest, now: datetime, new_id: NewId
) -> Asked:
    """Ask a person's consent, or add to what is being asked.

    (1) Let an open request that has run out make room.
    (2) Where one is open: add what is new to it, and raise its version so that nobody
        gives more than was shown. Nothing new changes nothing.
    (3) Else open one.
    """
    # (1): it can't be answered any more, and only one may be open.
    scope = request.scope
    same = (
        (CONSENT.c.asked_in == request.asked_in)
        & (CONSENT.c.person == scope.person)
        & (CONSENT.c.role == scope.role)
        & (CONSENT.c.requester == scope.requester)
        & (CONSENT.c.purpose == scope.purpose)
        & (CONSENT.c.whole_matter == (scope.case is None))
        & (CONSENT.c.state == ConsentState.ASKED.value)
    )
    lapsed = _expire(connection, same, now)
    # (2): locked, so that two cannot both add to the same version.
    open_one = select(CONSENT).where(same).with_for_update()
    row = connection.execute(open_one).first()
    if row is not None:
        return _widen(connection, consent_of(row), request, lapsed)
    # (3): the index refuses a second one; who came second adds to the first.
    opened = _opened(request, ConsentId(new_id()), now)
    if insert_or_ignore(connection, CONSENT, values_of(opened)):
        consent = get(connection, opened.id)
        return Asked(consent, (*lapsed, consent))
    first = consent_of(connection.execute(open_one).one())
    return _widen(connection, first, request, lapsed)


def give(
    connection: Connection,
    consent: ConsentId,
    person: Person,
    version: int,
    now: datetime,
    terms: Terms = AS_ASKED,
) -> Consent:
    """Take a person's word that they give the consent as it was shown, or less.

    Nothing rests on it until `confirm`, and nobody can refuse it any more: so whoever
    records in between that it was given records what is so. The same word again, while
    it is not over, changes nothing: the answer may have been lost.

    Args:
        connection: Inside a writing transaction.
        consent: The request.
        person: Who gives it.
        version: The version that was shown.
        now: When.
        terms: What is narrowed.

    Raises:
        NotFoundError: There is no such request to this person.
        StateConflictError: It has been answered otherwise, has run out, or asks for
            more by now than was shown.
        InvalidRequestError: The terms widen it, or leave nothing of it.
    """
    asked = lock(connection, consent, person)
    if asked.state_at(now) in (ConsentState.GIVING, ConsentState.GIVEN):
        if (version + 1, _plain(terms)) == (asked.version, _terms(connection, consent)):
            return asked
        raise StateConflictError("the consent was given before, and otherwise")
    if asked.state_at(now) is not ConsentState.ASKED:
        raise StateConflictError("the consent is not being asked for any more")
    if asked.version != version:
        raise StateConflictError("the request has changed since it was shown")
    complaints = objections(asked, terms, now)
    if complaints:
        raise InvalidRequestError(*complaints)
    fields = asked.fields if terms.fields is None else terms.fields
    changes = {
        "state": ConsentState.GIVING.value,
        "given_at": micros(now),
        "fields": plain_fields(fields),
        "expires_at": micros(terms.expires_at or asked.expires_at),
        "uses_left": asked.uses_left if terms.uses is None else terms.uses,
        "terms": _plain(terms),
    }
    return _change(connection, consent, changes)


def confirm(connection: Connection, consent: ConsentId) -> bool:
    """Let a consent that was given hold, once that is recorded; twice is once.

    Returns:
        False when it holds already, or was withdrawn meanwhile.
    """
    confirmed = (
        update(CONSENT)
        .where(CONSENT.c.id == consent, CONSENT.c.state == ConsentState.GIVING.value)
        .values(state=ConsentState.GIVEN.value)
    )
    return connection.execute(confirmed).rowcount == 1


def refuse(
    connection: Connection, consent: ConsentId, person: Person, now: datetime
) -> Consent:
    """Record that a person refuses; refusing twice is once.

    Raises:
        NotFoundError: There is no such request to this person.
        StateConflictError: It has been given, withdrawn, or has run out.
    """
    asked = lock(connection, consent, person)
    if asked.state is ConsentState.REFUSED:
        return asked
    if asked.state_at(now) is not ConsentState.ASKED:
        raise StateConflictError("the consent is not being asked for any more")
    changes = {"state": ConsentState.REFUSED.value, "ended_at": micros(now)}
    return _change(connection, consent, changes)


def withdraw(
    connection: Connection, consent: ConsentId, person: Person, now: datetime
) -> Consent:
    """Record that a person withdraws a consent; withdrawing twice is once.

    The caller acknowledges it only when the transaction has committed and every use
    taken before is over: see `open_uses`.

    Raises:
        NotFoundError: There is no such consent of this person.
        StateConflictError: It was never given, or has run out.
    """
    given = lock(connection, consent, person)
    if given.state is ConsentState.WITHDRAWN:
        return given
    if given.state_at(now) not in (ConsentState.GIVEN, ConsentState.GIVING):
        raise StateConflictError("the consent is not given, so it can't be withdrawn")
    changes = {"state": ConsentState.WITHDRAWN.value, "ended_at": micros(now)}
    return _change(connection, consent, changes)


def end_requests(
    connection: Connection, case: CaseId, now: datetime
) -> tuple[Consent, ...]:
    """End what a case that is over has asked and nobody has answered.

    What was asked for the whole matter stands: later cases may rest on it.

    Returns:
        What was ended, for the record of it.
    """
    statement = (
        update(CONSENT)
        .where(
            CONSENT.c.asked_in == case,
            CONSENT.c.whole_matter.is_(False),
            CONSENT.c.state == ConsentState.ASKED.value,
        )
        .values(**_expired(now))
        .returning(*CONSENT.c)
    )
    ended = [consent_of(row) for row in connection.execute(statement)]
    return tuple(sorted(ended, key=lambda consent: consent.id))


def expire(connection: Connection, now: datetime) -> tuple[Consent, ...]:
    """Mark what has run out, at most `MOST_FOUND` at a time; return what was marked.

    For the record of it and for the cases that wait; no decision needs the mark.
    """
    return _expire(connection, _ALIVE, now)


def find_over(connection: Connection, now: datetime) -> tuple[Consent, ...]:
    """Return what `expire` would mark."""
    return _found(
        connection, select(CONSENT).where(CONSENT.c.id.in_(_over(_ALIVE, now)))
    )


# Finding.


def lock(connection: Connection, consent: ConsentId, person: Person) -> Consent:
    """Lock a person's consent until the transaction ends, and return it.

    Raises:
        NotFoundError: There is no such consent, or it is another person's.
    """
    statement = select(CONSENT).where(CONSENT.c.id == consent).with_for_update()
    return _owned(connection.execute(statement).first(), person)


def get(
    connection: Connection, consent: ConsentId, person: Person | None = None
) -> Consent:
    """Return one consent; with `person`, only one of that person.

    Raises:
        NotFoundError: There is no such consent, or it is another person's.
    """
    row = connection.execute(select(CONSENT).where(CONSENT.c.id == consent)).first()
    return _owned(row, person)


def find_by_person(connection: Connection, person: Person) -> tuple[Consent, ...]:
    """Return a person's consents in any state, the newest first."""
    newest = CONSENT.c.asked_at.desc(), CONSENT.c.id.desc()
    return _found(
        connection,
        select(CONSENT).where(CONSENT.c.person == person).order_by(*newest),
    )


def find_for_decision(
    connection: Connection, persons: Collection[Person], requester: Slug, matter: Slug
) -> tuple[Consent, ...]:
    """Return what these persons have said to this requester about this matter.

    One query for all look-ups of a case; `decide` picks what bears on each.
    """
    if not persons:
        return ()
    newest = CONSENT.c.asked_at.desc(), CONSENT.c.id.desc()
    return _found(
        connection,
        select(CONSENT)
        .where(
            CONSENT.c.person.in_(sorted(persons)),
            CONSENT.c.requester == requester,
            CONSENT.c.matter == matter,
        )
        .order_by(*newest),
    )


# Below: what narrows, rows and statements.


def _plain(terms: Terms) -> Json:
    """Return terms as JSON holds them."""
    return {
        "fields": None if terms.fields is None else plain_fields(terms.fields),
        "expires_at": None if terms.expires_at is None else micros(terms.expires_at),
        "uses": terms.uses,
    }


def _terms(connection: Connection, consent: ConsentId) -> Json:
    """Return how a consent was narrowed when it was given."""
    query = select(CONSENT.c.terms).where(CONSENT.c.id == consent)
    return cast(Json, connection.execute(query).scalar_one())


def objections(asked: Consent, terms: Terms, now: datetime) -> list[Complaint]:
    """Return what is wrong with terms: they may narrow a request, and not to nothing.

    The paths are those of the request in which a person gives (`/fields`, ...).
    """
    wrong: list[Complaint] = []
    if terms.fields is not None and not terms.fields:
        wrong.append(Complaint("/fields", "name at least one evidence type"))
    for evidence_type, names in (terms.fields or {}).items():
        message = _objection(asked, evidence_type, names)
        if message is not None:
            wrong.append(Complaint(f"/fields/{evidence_type}", message))
    if terms.expires_at is not None and not now < terms.expires_at <= asked.expires_at:
        message = "must lie ahead, and not after the end that was asked for"
        wrong.append(Complaint("/expires_at", message))
    most = asked.uses_left
    if terms.uses is not None and not 1 <= terms.uses <= (most or terms.uses):
        message = "must be at least one, and no more than were asked for"
        wrong.append(Complaint("/uses", message))
    return wrong


def _objection(
    asked: Consent, evidence_type: VersionedId, names: frozenset[FieldName] | None
) -> str | None:
    """Return what is wrong with the fields of one evidence type; None: nothing."""
    if not is_within({evidence_type: names}, asked.fields):
        return "only what was asked for can be given"
    # A look-up that only compares asks for no field: that is given as it was asked.
    if names is not None and not names and asked.fields[evidence_type] != frozenset():
        return "nothing is left; leave the evidence type out to withhold it"
    return None


def _expire(connection: Connection, which: Any, now: datetime) -> tuple[Consent, ...]:  # noqa: ANN401 - a condition
    """Mark those of `which` that have run out, and return them."""
    statement = (
        update(CONSENT)
        .where(CONSENT.c.id.in_(_over(which, now)), which)
        .values(**_expired(now))
        .returning(*CONSENT.c)
    )
    marked = [consent_of(row) for row in connection.execute(statement)]
    return tuple(sorted(marked, key=lambda consent: consent.id))


def _over(which: Any, now: datetime) -> Select[Any]:  # noqa: ANN401 - a condition
    """Return the ids of those of `which` that have run out, the earliest first."""
    return (
        select(CONSENT.c.id)
        .where(which, CONSENT.c.expires_at <= micros(now))
        .order_by(CONSENT.c.expires_at, CONSENT.c.id)
        .limit(MOST_FOUND)
    )


def _expired(now: datetime) -> dict[str, object]:
    """Return what ends one at an instant, or when it ran out before."""
    expires_at, at = CONSENT.c.expires_at, micros(now)
    return {
        "state": ConsentState.EXPIRED.value,
        "ended_at": either((expires_at < at, expires_at), else_=at),
        "version": CONSENT.c.version + 1,
    }


def _opened(request: ConsentRequest, consent: ConsentId, now: datetime) -> Consent:
    """Return what is asked for the first time."""
    return Consent(
        id=consent,
        scope=request.scope,
        asked_in=request.asked_in,
        fields=request.fields,
        state=ConsentState.ASKED,
        asked_at=now,
        given_at=None,
        ended_at=None,
        expires_at=request.expires_at,
        uses_left=request.uses,
        version=1,
    )


def _widen(
    connection: Connection,
    asked: Consent,
    request: ConsentRequest,
    lapsed: tuple[Consent, ...],
) -> Asked:
    """Add to an open request what is new; the person has answered nothing yet."""
    fields = merged(asked.fields, request.fields)
    expires_at = max(asked.expires_at, request.expires_at)
    uses = (
        None
        if asked.uses_left is None or request.uses is None
        else max(asked.uses_left, request.uses)
    )
    same = (asked.fields, asked.expires_at, asked.uses_left)
    if (fields, expires_at, uses) == same:
        return Asked(asked, lapsed)
    changes = {
        "fields": plain_fields(fields),
        "expires_at": micros(expires_at),
        "uses_left": uses,
    }
    wider = _change(connection, asked.id, changes)
    return Asked(wider, (*lapsed, wider))


def _change(
    connection: Connection, consent: ConsentId, changes: Mapping[str, object]
) -> Consent:
    """Change a locked consent, and return it as it is now."""
    statement = (
        update(CONSENT)
        .where(CONSENT.c.id == consent)
        .values(**changes, version=CONSENT.c.version + 1)
        .returning(*CONSENT.c)
    )
    return consent_of(connection.execute(statement).one())


def _owned(row: Row[Any] | None, person: Person | None) -> Consent:
    """Return a consent when there is one and it is the person's.

    One message for both, so that nobody learns whether another's consent exists.
    """
    if row is None or (person is not None and row.person != person):
        raise NotFoundError("there is no such consent")
    return consent_of(row)


def _found(connection: Connection, statement: Select[Any]) -> tuple[Consent, ...]:
    rows = connection.execute(statement.limit(MOST_FOUND))
    return tuple(consent_of(row) for row in rows)
