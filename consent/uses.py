"""Uses and suspensions: what is checked at the last instant before a look-up is sent.

INVARIANT: when a withdrawal or a suspension has been acknowledged, no later look-up
rests on it (rule 5). It is acknowledged once its transaction has committed and
`open_uses` names nothing more. A use is judged against the same rows, in one
transaction, just before its look-up is sent, so it either comes first and is waited
for, or comes later and is denied. Nothing here is cached.

Each function takes a connection inside a transaction that the caller owns, as in
`consent.store`. Look-ups that rest on no consent pay no write: `consent.in_flight`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from consent import mandate_store
from consent.artefact import Consent, ConsentState
from consent.mandates import ended_rule
from consent.replicas import count_change, gate
from consent.rows import (
    CONSENT,
    GRANT_USE,
    SUSPENSION,
    USE,
    consent_of,
    insert_into,
    insert_or_ignore,
    micros,
)
from consent.rules import Rule, Suspendable, Target, suspension_rule, target
from consent.verdict import Permit
from schemas.clock import BEIJING
from schemas.directory import Quota
from schemas.errors import NotFoundError
from schemas.ids import ConsentId, LookupId, MandateId
from schemas.model import Slug


def suspend(
    connection: Connection, thing: Target, *, reason: str, by: str, now: datetime
) -> int | None:
    """Suspend something; suspending it twice is once.

    The caller acknowledges it only when the transaction has committed and every use
    taken before is over: `open_uses`, and for the look-ups that rest on no consent
    `consent.in_flight`, in each gateway (`consent.replicas.behind`).

    Returns:
        Its number among all changes of suspensions; None when it was suspended before,
        and nobody was about to end that.
    """
    gate(connection, shared=False)
    said = {"reason": reason, "by": by, "since": micros(now), "lifting": None}
    # In one statement: whoever lifts it at this instant comes before or after.
    added = (
        insert_into(connection, SUSPENSION)
        .values(target=thing, **said)
        .on_conflict_do_update(
            index_elements=[SUSPENSION.c.target],
            set_=said,
            where=SUSPENSION.c.lifting.is_not(None),
        )
        .returning(SUSPENSION.c.target)
    )
    is_new = connection.execute(added).first() is not None
    return count_change(connection) if is_new else None


def resume(connection: Connection, thing: Target, act: str) -> int | None:
    """Decide that a suspension ends; it holds until `lift`. Deciding twice is once.

    Args:
        connection: Inside a writing transaction.
        thing: What is suspended.
        act: An id of the decision.

    Returns:
        Its number among all changes of suspensions; None when it was decided before.

    Raises:
        NotFoundError: It is not suspended.
    """
    ending = (
        update(SUSPENSION)
        .where(SUSPENSION.c.target == thing, SUSPENSION.c.lifting.is_(None))
        .values(lifting=act)
    )
    if connection.execute(ending).rowcount == 1:
        return count_change(connection)
    known = select(SUSPENSION.c.target).where(SUSPENSION.c.target == thing)
    if connection.scalar(known) is None:
        raise NotFoundError("this is not suspended")
    return None


def lift(connection: Connection, thing: Target, act: str) -> bool:
    """End a suspension, once the decision is recorded; twice is once.

    Returns:
        False when it ended already, or the thing was suspended anew meanwhile.
    """
    mine = (SUSPENSION.c.target == thing) & (SUSPENSION.c.lifting == act)
    if connection.execute(delete(SUSPENSION).where(mine)).rowcount != 1:
        return False
    count_change(connection)
    return True


def suspended(connection: Connection) -> frozenset[Target]:
    """Return everything that is suspended."""
    return frozenset(connection.execute(_ALL_SUSPENDED).scalars())


# Using.


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What look-ups rest on that are asked of one service under one permit."""

    permit: Permit
    service: Slug
    provider: Slug
    requester: Slug
    quota: Quota | None
    """The quota of the permit's grant."""
    targets: frozenset[Target] = field(init=False)
    """What must not be suspended when one is sent."""
    rests_on: frozenset[str] = field(init=False)
    """The same, and the consents: what can be taken from under it."""
    is_written: bool = field(init=False)
    """Whether `take_uses` is needed: it rests on a consent or counts on a quota.

    Any other look-up pays no write; `consent.in_flight` guards it.
    """

    def __post_init__(self) -> None:
        # Worked out here, since many look-ups share one claim.
        targets = frozenset(
            (
                target(Suspendable.GRANT, self.permit.grant),
                target(Suspendable.SERVICE, self.service),
                target(Suspendable.PROVIDER, self.provider),
                target(Suspendable.REQUESTER, self.requester),
            )
        )
        is_written = bool(self.permit.consents) or self.quota is not None
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "rests_on", targets.union(self.permit.consents))
        object.__setattr__(self, "is_written", is_written)


class Use(NamedTuple):
    """One look-up that is about to be sent, and what it rests on."""

    lookup: LookupId
    claim: Claim
    mandate: MandateId | None = None
    """The mandate under which its case goes on; None where no agent acts."""

    @property
    def rests_on(self) -> frozenset[str]:
        """What can be taken from under it."""
        on = self.claim.rests_on
        return on if self.mandate is None else on | {self.mandate}

    @property
    def is_written(self) -> bool:
        """Whether `take_uses` is needed: also where it is made under a mandate."""
        return self.claim.is_written or self.mandate is not None


def take_uses(
    connection: Connection, uses: Collection[Use], now: datetime, lease: timedelta
) -> Mapping[LookupId, Rule]:
    """Take the uses of look-ups that are about to be sent; return those denied.

    All in one transaction, which the caller commits before sending anything. Each use
    is taken whole or not at all; one that is denied harms no other.

    (1) Shut out suspensions that come now, and lock the consents and mandates.
    (2) Judge each use by the rows as they are.
    (3) Count what was granted: uses left, quotas, open uses.

    Args:
        connection: Inside a writing transaction.
        uses: The look-ups of one wave.
        now: The instant.
        lease: How long each may wait to be sent. A look-up that was not sent by then
            must not be sent: a withdrawal waits no longer.

    Returns:
        The look-ups that may not be sent → the rule that denied them.
    """
    # (1): in the order of ids, so that two processes never wait for each other.
    gate(connection, shared=True)
    stopped = suspended(connection)
    ids = sorted({consent for use in uses for consent in use.claim.permit.consents})
    held = _lock_all(connection, ids)
    under = mandate_store.hold(connection, {use.mandate for use in uses if use.mandate})
    # (2): a use counts at once, so that the next in the same wave sees it.
    denied: dict[LookupId, Rule] = {}
    spent: dict[ConsentId, int] = {}
    granted: list[Use] = []
    for use in uses:
        rule = _judge(use, held, spent, stopped, now)
        if rule is None and use.mandate is not None:
            rule = ended_rule(under.get(use.mandate), now)
        if rule is None and not _count_quota(connection, use, now):
            rule = Rule.QUOTA_USED_UP
        if rule is not None:
            denied[use.lookup] = rule
            continue
        granted.append(use)
        for consent in use.claim.permit.consents:
            spent[consent] = spent.get(consent, 0) + 1
    # (3): locked rows, so the counts judged above still hold.
    _spend(connection, spent)
    _note_uses(connection, granted, now, lease)
    return denied


def finish_uses(
    connection: Connection,
    sent: Collection[LookupId],
    cancelled: Collection[LookupId],
    now: datetime,
) -> None:
    """Record that uses are over: their look-ups were sent, or never will be.

    A cancelled one goes back to its consent, so that a source that was down doesn't
    use up what a person gave once. It stays counted in the grant's quota, which errs
    on the safe side. Finishing twice is once.
    """
    for lookups, was_sent in ((sent, True), (cancelled, False)):
        if not lookups:
            continue
        closed = (
            update(USE)
            .where(USE.c.lookup.in_(sorted(lookups)), USE.c.finished_at.is_(None))
            .values(finished_at=micros(now), sent=was_sent)
            .returning(USE.c.consent)
        )
        back: dict[ConsentId, int] = {}
        for consent in connection.execute(closed).scalars().all():
            back[consent] = back.get(consent, 0) - 1
        if not was_sent:
            _spend(connection, back)


def open_uses(
    connection: Connection, thing: ConsentId | MandateId | Target, now: datetime
) -> tuple[LookupId, ...]:
    """Return the look-ups under way that rest on a consent, a mandate, or a thing.

    A withdrawal, revocation or suspension of it returns when there are none: each was
    sent or cancelled, or its lease has run out, after which it may not be sent.
    """
    kind, _, name = thing.partition(":")
    columns = {
        Suspendable.GRANT.value: USE.c.grant_id,
        Suspendable.SERVICE.value: USE.c.service,
        Suspendable.PROVIDER.value: USE.c.provider,
        Suspendable.REQUESTER.value: USE.c.requester,
    }
    rests = columns[kind] == name if name else USE.c.consent == thing
    statement = (
        select(USE.c.lookup)
        .where(rests, USE.c.finished_at.is_(None), USE.c.lease_until > micros(now))
        .distinct()
        .order_by(USE.c.lookup)
    )
    return tuple(connection.execute(statement).scalars())


def grant_uses(
    connection: Connection, quotas: Mapping[Slug, Quota], now: datetime
) -> Mapping[Slug, int]:
    """Return the look-ups made in the current period under each grant with a quota."""
    used: dict[Slug, int] = {}
    for grant, quota in sorted(quotas.items()):
        count = connection.execute(
            select(GRANT_USE.c.lookups).where(
                GRANT_USE.c.grant_id == grant,
                GRANT_USE.c.period == micros(period_start(quota.per, now)),
            )
        ).scalar()
        used[grant] = count or 0
    return used


def purge_uses(connection: Connection, before: datetime) -> int:
    """Forget uses that ended, and periods that began, before an instant.

    The access log keeps what has to be kept; these rows only count.
    """
    edge = micros(before)
    old = delete(USE).where(USE.c.lease_until < edge)
    connection.execute(delete(GRANT_USE).where(GRANT_USE.c.period < edge))
    return connection.execute(old).rowcount


_FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=BEIJING)


def period_start(per: timedelta, now: datetime) -> datetime:
    """Return when the current period of a quota began.

    Periods follow one another from a Monday's midnight in Beijing, so that a day is a
    day and a week begins on Monday, as offices count.

    >>> period_start(timedelta(days=1), datetime(2026, 1, 8, 15, 59, tzinfo=UTC))
    datetime.datetime(2026, 1, 7, 16, 0, tzinfo=datetime.timezone.utc)
    """
    return (_FIRST_MONDAY + (now - _FIRST_MONDAY) // per * per).astimezone(UTC)


# Below: rows and statements.

_ALL_SUSPENDED = select(SUSPENSION.c.target)


def _lock_all(
    connection: Connection, ids: list[ConsentId]
) -> Mapping[ConsentId, Consent]:
    """Lock consents in the order of their ids, and return them."""
    if not ids:
        return {}
    statement = (
        select(CONSENT)
        .where(CONSENT.c.id.in_(ids))
        .order_by(CONSENT.c.id)
        .with_for_update()
    )
    return {row.id: consent_of(row) for row in connection.execute(statement)}


def _judge(
    use: Use,
    held: Mapping[ConsentId, Consent],
    spent: Mapping[ConsentId, int],
    stopped: frozenset[Target],
    now: datetime,
) -> Rule | None:
    """Return why a use can't be taken, or None when it can."""
    rule = suspension_rule(use.claim.targets, stopped)
    for consent in use.claim.permit.consents:
        if rule is not None:
            break
        rule = _consent_rule(held.get(consent), spent.get(consent, 0), now)
    return rule


def _consent_rule(consent: Consent | None, spent: int, now: datetime) -> Rule | None:
    """Return why one more use of a consent can't be taken, or None when it can."""
    if consent is None:
        return Rule.CONSENT_MISSING
    match consent.state_at(now):
        case ConsentState.ASKED | ConsentState.GIVING:
            return Rule.CONSENT_ASKED
        case ConsentState.REFUSED:
            return Rule.CONSENT_REFUSED
        case ConsentState.WITHDRAWN:
            return Rule.CONSENT_WITHDRAWN
        case ConsentState.EXPIRED:
            return Rule.CONSENT_EXPIRED
        case ConsentState.GIVEN:
            is_used_up = consent.uses_left is not None and consent.uses_left <= spent
            return Rule.CONSENT_USED_UP if is_used_up else None


def _count_quota(connection: Connection, use: Use, now: datetime) -> bool:
    """Count one look-up on its grant's quota; return whether there was room."""
    grant, quota = use.claim.permit.grant, use.claim.quota
    if quota is None:
        return True
    period = micros(period_start(quota.per, now))
    fresh = {"grant_id": grant, "period": period, "lookups": 0}
    insert_or_ignore(connection, GRANT_USE, fresh)
    counted = connection.execute(
        update(GRANT_USE)
        .where(
            GRANT_USE.c.grant_id == grant,
            GRANT_USE.c.period == period,
            GRANT_USE.c.lookups < quota.lookups,
        )
        .values(lookups=GRANT_USE.c.lookups + 1)
    )
    return counted.rowcount == 1


def _spend(connection: Connection, spent: Mapping[ConsentId, int]) -> None:
    """Take uses off the consents that count them."""
    for consent, count in sorted(spent.items()):
        connection.execute(
            update(CONSENT)
            .where(CONSENT.c.id == consent, CONSENT.c.uses_left.is_not(None))
            .values(uses_left=CONSENT.c.uses_left - count)
        )


def _note_uses(
    connection: Connection, granted: Iterable[Use], now: datetime, lease: timedelta
) -> None:
    """Write down the uses that whoever ends what they rest on has to wait for."""
    rows = [
        {
            "lookup": use.lookup,
            "consent": basis,
            "grant_id": use.claim.permit.grant,
            "service": use.claim.service,
            "provider": use.claim.provider,
            "requester": use.claim.requester,
            "taken_at": micros(now),
            "lease_until": micros(now + lease),
        }
        for use in granted
        for basis in (*use.claim.permit.consents, use.mandate)
        if basis is not None
    ]
    if rows:
        connection.execute(insert(USE), rows)
