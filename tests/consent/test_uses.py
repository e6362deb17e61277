"""Uses and suspensions: what is taken just before a look-up is sent."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as given_that
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from typing_extensions import override

from consent import mandate_store
from consent.artefact import ConsentState
from consent.rules import Rule
from consent.store import ask, get, refuse, withdraw
from consent.uses import (
    Use,
    finish_uses,
    grant_uses,
    lift,
    open_uses,
    period_start,
    purge_uses,
    resume,
    suspend,
    suspended,
    take_uses,
)
from schemas.errors import NotFoundError
from schemas.ids import ConsentId, LookupId, MandateId
from tests.consent.examples import (
    DAY,
    FATHER,
    LEASE,
    NOW,
    TICK,
    a_quota,
    a_request,
    a_use,
    given,
)
from tests.consent.test_mandates import a_mandate

ONE = ConsentId("consent-1")
L1, L2, L3 = LookupId("l1"), LookupId("l2"), LookupId("l3")


def taken(connection: Connection, *uses: Use, now: datetime = NOW) -> dict[str, Rule]:
    """Take the uses; return what was denied."""
    denied = take_uses(connection, uses, now, LEASE)
    return {str(lookup): rule for lookup, rule in denied.items()}


def test_a_use_of_a_consent_that_holds_is_taken(connection: Connection) -> None:
    """A use is open from its taking to its end."""
    given(connection)
    denied = taken(connection, a_use(L1))

    assert {} == denied
    assert (L1,) == open_uses(connection, ONE, NOW)
    finish_uses(connection, [L1], [], NOW)
    assert () == open_uses(connection, ONE, NOW)


def test_uses_are_counted_down_to_the_last(connection: Connection) -> None:
    """A consent to two look-ups bears two, even in one wave."""
    given(connection, uses=2)
    denied = taken(connection, a_use(L1), a_use(L2), a_use(L3))

    assert {L3: Rule.CONSENT_USED_UP} == denied
    assert get(connection, ONE).uses_left == 0
    assert {"l4": Rule.CONSENT_USED_UP} == taken(connection, a_use("l4"))


def test_a_cancelled_use_goes_back(connection: Connection) -> None:
    """What was never sent is not used up, however often it is said."""
    given(connection, uses=2)
    taken(connection, a_use(L1), a_use(L2))
    finish_uses(connection, [L1], [L2], NOW)
    finish_uses(connection, [], [L1, L2], NOW)

    assert get(connection, ONE).uses_left == 1


def test_a_use_is_taken_whole_or_not_at_all(connection: Connection) -> None:
    """When one consent of two is missing, the other one's count stays."""
    given(connection, uses=1)
    denied = taken(connection, a_use(L1, ["consent-1", "consent-2"]), a_use(L2))

    assert {L1: Rule.CONSENT_MISSING} == denied
    assert (L2,) == open_uses(connection, ONE, NOW)


def test_a_use_is_denied_at_the_consents_last_instant(connection: Connection) -> None:
    """The instant of expiry is too late, whatever was decided before."""
    given(connection)

    assert {} == taken(connection, a_use(L1), now=NOW + DAY - TICK)
    assert {L2: Rule.CONSENT_EXPIRED} == taken(connection, a_use(L2), now=NOW + DAY)


def _withdraw(connection: Connection) -> None:
    withdraw(connection, ONE, FATHER, NOW)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_withdraw, Rule.CONSENT_WITHDRAWN),
        (
            lambda c: suspend(c, "grant:hospital_marriage", reason="", by="", now=NOW),
            Rule.GRANT_SUSPENDED,
        ),
        (
            lambda c: suspend(c, "service:civil_marriage", reason="", by="", now=NOW),
            Rule.SERVICE_SUSPENDED,
        ),
        (
            lambda c: suspend(c, "provider:civil_affairs", reason="", by="", now=NOW),
            Rule.PROVIDER_SUSPENDED,
        ),
        (
            lambda c: suspend(c, "requester:hospital", reason="", by="", now=NOW),
            Rule.REQUESTER_SUSPENDED,
        ),
    ],
)
def test_what_was_decided_earlier_is_judged_again(
    connection: Connection, change: Callable[[Connection], object], rule: Rule
) -> None:
    """A permit from before a withdrawal or suspension takes no use after it."""
    given(connection)
    change(connection)

    assert {L1: rule} == taken(connection, a_use(L1))
    assert () == open_uses(connection, ONE, NOW)


@pytest.mark.parametrize("state", [ConsentState.ASKED, ConsentState.REFUSED])
def test_what_was_not_given_bears_nothing(
    connection: Connection, state: ConsentState
) -> None:
    """Neither an open request nor a refusal bears a use."""
    ask(connection, a_request(), NOW, lambda: ONE)
    if state is ConsentState.REFUSED:
        refuse(connection, ONE, FATHER, NOW)

    assert {L1: Rule[f"CONSENT_{state.name}"]} == taken(connection, a_use(L1))


def test_a_lease_bounds_the_wait(connection: Connection) -> None:
    """A use whose holder died is waited for until its lease is over, no longer."""
    given(connection)
    taken(connection, a_use(L1))

    assert (L1,) == open_uses(connection, ONE, NOW + LEASE - TICK)
    assert () == open_uses(connection, ONE, NOW + LEASE)


@pytest.mark.parametrize(
    ("thing", "is_open"),
    [
        ("grant:hospital_marriage", True),
        ("service:civil_marriage", True),
        ("provider:civil_affairs", True),
        ("requester:hospital", True),
        ("service:hospital_marriage", False),
        ("provider:police", False),
        ("consent-2", False),
    ],
)
def test_open_uses_are_found_by_whatever_they_rest_on(
    connection: Connection, thing: str, *, is_open: bool
) -> None:
    """A suspension waits for its own uses and for no others."""
    given(connection)
    taken(connection, a_use(L1))

    assert is_open == bool(open_uses(connection, thing, NOW))


def test_a_use_under_a_mandate_is_waited_for_and_denied_once_that_has_ended(
    connection: Connection,
) -> None:
    """Also one that rests on no consent, and one of a mandate that never was."""
    mandate = a_mandate(id=MandateId("mandate-1"))
    mandate_store.give(connection, mandate)
    under = {
        lookup: a_use(lookup, [])._replace(mandate=mandate.id) for lookup in (L1, L2)
    }
    never = a_use(L3, [])._replace(mandate=MandateId("never"))
    first = taken(connection, under[L1], never)
    waited_for = open_uses(connection, mandate.id, NOW)
    late = taken(connection, under[L2], now=mandate.valid_until)
    mandate_store.revoke(connection, mandate.id, mandate.agent, NOW)
    last = taken(connection, under[L2])
    finish_uses(connection, [L1], [], NOW)

    assert under[L1].is_written
    assert {L3: Rule.MANDATE_NOT_FOUND} == first
    assert (L1,) == waited_for
    assert [{L2: Rule.MANDATE_EXPIRED}, {L2: Rule.MANDATE_REVOKED}] == [late, last]
    assert () == open_uses(connection, mandate.id, NOW)


def test_a_quota_holds_at_the_last_instant_too(connection: Connection) -> None:
    """A quota of two bears two look-ups in a period, and two in the next."""
    quota = a_quota(2)
    wave = [a_use(name, [], quota) for name in (L1, L2, L3)]
    denied = taken(connection, *wave)
    tomorrow = period_start(DAY, NOW) + DAY

    assert {L3: Rule.QUOTA_USED_UP} == denied
    grant = {"hospital_marriage": quota}
    assert grant_uses(connection, grant, NOW) == {"hospital_marriage": 2}
    assert grant_uses(connection, grant, tomorrow) == {"hospital_marriage": 0}
    assert {} == taken(connection, a_use(L3, [], quota), now=tomorrow)


def test_a_use_without_consent_or_quota_writes_nothing(connection: Connection) -> None:
    """A look-up by statutory duty has no row to wait for, and needs none."""
    use = a_use(L1, [])
    denied = taken(connection, use)

    assert not use.is_written
    assert {} == denied
    assert () == open_uses(connection, "provider:civil_affairs", NOW)


def test_suspending_and_resuming_twice_is_once(connection: Connection) -> None:
    """Each tells whether it changed anything, and what came later has a higher number.

    A suspension that is about to end holds until it is lifted.
    """
    thing = "grant:g"
    first = suspend(connection, thing, reason="misuse", by="operator", now=NOW)
    again = suspend(connection, thing, reason="misuse", by="operator", now=NOW)
    ending = [resume(connection, thing, act) for act in ("a", "b")]
    held = suspended(connection)
    lifted = [lift(connection, thing, act) for act in ("b", "a", "a")]

    assert isinstance(first, int)
    assert isinstance(ending[0], int)
    assert first < ending[0]
    assert [None, None] == [again, ending[1]]
    assert frozenset({thing}) == held
    assert [False, True, False] == lifted
    assert frozenset() == suspended(connection)
    with pytest.raises(NotFoundError):
        resume(connection, thing, "c")


def test_what_is_suspended_anew_is_not_lifted_by_an_earlier_decision(
    connection: Connection,
) -> None:
    """Whoever suspends it again means it, whatever waits for its record."""
    thing = "grant:g"
    values = {"by": "operator", "now": NOW}
    suspend(connection, thing, reason="misuse", **values)  # type: ignore[arg-type] # named above
    resume(connection, thing, "a")
    anew = suspend(connection, thing, reason="again", **values)  # type: ignore[arg-type] # named above

    assert anew is not None
    assert not lift(connection, thing, "a")
    assert frozenset({thing}) == suspended(connection)


def test_old_uses_are_forgotten_and_open_ones_are_not(connection: Connection) -> None:
    """Purging never touches what somebody may be waiting for."""
    given(connection)
    taken(connection, a_use(L1, quota=a_quota(5)))
    taken(connection, a_use(L2), now=NOW + LEASE)
    purged = purge_uses(connection, NOW + LEASE + TICK)

    assert purged == 1
    assert (L2,) == open_uses(connection, ONE, NOW + LEASE)


@given_that(
    st.timedeltas(timedelta(minutes=1), timedelta(days=40)),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis wants bare bounds
)
def test_periods_follow_one_another(per: timedelta, now: datetime) -> None:
    """Each instant lies in one period, and the next begins where it ends."""
    start = period_start(per, now)

    assert start <= now < start + per
    assert start == period_start(per, start)
    assert start + per == period_start(per, start + per)


def test_a_day_is_a_day_in_beijing() -> None:
    """The quota of a day begins at midnight in Beijing, of a week on Monday."""
    day = period_start(DAY, datetime(2026, 1, 8, 17, tzinfo=UTC))
    week = period_start(7 * DAY, datetime(2026, 1, 8, 17, tzinfo=UTC))

    assert datetime(2026, 1, 8, 16, tzinfo=UTC) == day
    assert datetime(2026, 1, 4, 16, tzinfo=UTC) == week


class Sender(threading.Thread):
    """Takes uses and sends look-ups, until it is denied."""

    def __init__(self, engine: Engine, name: str, sent: list[str]) -> None:
        super().__init__()
        self._engine = engine
        self._name = name
        self._sent = sent
        self.denials: list[Rule] = []
        self.went_on = threading.Event()

    @override
    def run(self) -> None:
        """Take, send, finish; many times over, each in a transaction of its own."""
        for count in range(10_000):
            lookup = LookupId(f"{self._name}-{count}")
            with self._engine.begin() as connection:
                denied = take_uses(connection, [a_use(lookup)], NOW, LEASE)
            if denied:
                self.denials.extend(denied.values())
                break
            self._sent.append(lookup)
            with self._engine.begin() as connection:
                finish_uses(connection, [lookup], [], NOW)
            self.went_on.set()
        self.went_on.set()


def test_nothing_is_sent_after_a_withdrawal_was_acknowledged(engine: Engine) -> None:
    """Four senders race a withdrawal: once it returns, none of them sends again."""
    with engine.begin() as connection:
        given(connection)
    sent: list[str] = []
    senders = [Sender(engine, f"s{number}", sent) for number in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        assert sender.went_on.wait(30)

    with engine.begin() as connection:
        withdraw(connection, ONE, FATHER, NOW)
    still_open = True
    while still_open:
        with engine.begin() as connection:
            still_open = bool(open_uses(connection, ONE, NOW))
    acknowledged = len(sent)
    for sender in senders:
        sender.join(30)

    assert acknowledged >= len(senders)
    assert acknowledged == len(sent)
    assert all(s.denials == [Rule.CONSENT_WITHDRAWN] for s in senders)


def test_racing_senders_never_use_a_consent_too_often(engine: Engine) -> None:
    """Four senders share a consent to ten look-ups: ten are sent."""
    with engine.begin() as connection:
        given(connection, uses=10)
    sent: list[str] = []
    senders = [Sender(engine, f"s{number}", sent) for number in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)

    assert len(sent) == 10
    assert all(s.denials == [Rule.CONSENT_USED_UP] for s in senders)
