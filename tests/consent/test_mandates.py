"""Mandates: decided by a table, bounded exactly in time, kept in the store."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from consent import mandate_store
from consent.mandates import (
    MANDATE_RULES,
    Act,
    Authentication,
    Mandate,
    MandateState,
    Power,
    Signature,
    check_mandate,
)
from consent.rules import Rule
from schemas.errors import NotFoundError
from schemas.ids import MandateId
from tests.consent.examples import DAY, FATHER, MOTHER, NOW, TICK

AGENT = "ref-agent"


def a_mandate(**changes: object) -> Mandate:
    """Return the mother's mandate to an agent: to apply for a newborn's papers."""
    values: dict[str, object] = {
        "id": MandateId("mandate-1"),
        "principal": MOTHER,
        "role": "mother",
        "agent": AGENT,
        "requester": None,
        "matters": frozenset({"newborn"}),
        "powers": frozenset({Power.APPLY}),
        "valid_from": NOW - DAY,
        "valid_until": NOW + DAY,
        "given_at": NOW - DAY,
        "revoked_at": None,
        "signature": Signature(
            client="citizen_app", method=Authentication.FACE, at=NOW - DAY
        ),
    }
    return Mandate(**{**values, **changes})  # type: ignore[arg-type] # checked by the tests that use it


def an_act(**changes: object) -> Act:
    """Return what the agent does: opens the mother's case."""
    values: dict[str, object] = {
        "agent": AGENT,
        "principal": MOTHER,
        "role": "mother",
        "requester": "portal",
        "matter": "newborn",
        "powers": frozenset({Power.APPLY}),
    }
    return Act(**{**values, **changes})  # type: ignore[arg-type] # as above


BOTH = frozenset(Power)
TABLE: tuple[tuple[Rule | None, Mandate | None, Act], ...] = (
    (None, a_mandate(), an_act()),
    (None, a_mandate(requester="portal"), an_act()),
    (None, a_mandate(matters=frozenset({"newborn", "school"})), an_act()),
    (None, a_mandate(powers=BOTH), an_act()),
    (None, a_mandate(powers=BOTH), an_act(powers=BOTH)),
    (None, a_mandate(valid_from=NOW), an_act()),
    (None, a_mandate(valid_until=NOW + TICK), an_act()),
    (None, a_mandate(revoked_at=NOW + TICK), an_act()),
    (Rule.MANDATE_NOT_FOUND, None, an_act()),
    (Rule.MANDATE_OTHER_AGENT, a_mandate(), an_act(agent="ref-other")),
    (Rule.MANDATE_OTHER_AGENT, a_mandate(), an_act(agent=MOTHER, principal=AGENT)),
    (Rule.MANDATE_OTHER_PRINCIPAL, a_mandate(), an_act(principal=FATHER)),
    (Rule.MANDATE_OTHER_PRINCIPAL, a_mandate(), an_act(principal=None)),
    (Rule.MANDATE_OTHER_PRINCIPAL, a_mandate(role="father"), an_act()),
    (Rule.MANDATE_OTHER_REQUESTER, a_mandate(requester="other"), an_act()),
    (Rule.MANDATE_MATTER_OUTSIDE, a_mandate(), an_act(matter="school")),
    (Rule.MANDATE_POWER_OUTSIDE, a_mandate(), an_act(powers=BOTH)),
    (
        Rule.MANDATE_POWER_OUTSIDE,
        a_mandate(powers=frozenset({Power.COMMIT})),
        an_act(),
    ),
    (Rule.MANDATE_NOT_YET_VALID, a_mandate(valid_from=NOW + TICK), an_act()),
    (Rule.MANDATE_EXPIRED, a_mandate(valid_until=NOW), an_act()),
    (Rule.MANDATE_REVOKED, a_mandate(revoked_at=NOW), an_act()),
    (
        Rule.MANDATE_REVOKED,
        a_mandate(revoked_at=NOW - 2 * TICK, valid_until=NOW - TICK),
        an_act(),
    ),
    (
        Rule.MANDATE_EXPIRED,
        a_mandate(revoked_at=NOW - TICK, valid_until=NOW - TICK),
        an_act(),
    ),
    # Who it is between is told before how it stands.
    (
        Rule.MANDATE_OTHER_AGENT,
        a_mandate(valid_until=NOW, matters=frozenset({"school"})),
        an_act(agent="ref-other"),
    ),
    (
        Rule.MANDATE_MATTER_OUTSIDE,
        a_mandate(valid_until=NOW),
        an_act(matter="school"),
    ),
)


@pytest.mark.parametrize(("rule", "mandate", "act"), TABLE)
def test_a_mandate_lets_the_agent_act_or_names_the_rule(
    rule: Rule | None, mandate: Mandate | None, act: Act
) -> None:
    """Each line of the table."""
    assert rule == check_mandate(mandate, act, NOW)


def test_the_table_knows_every_rule_of_mandates() -> None:
    """No rule is without a line, and none but a rule of mandates is named."""
    named = {rule for rule, _, _ in TABLE if rule is not None}

    assert named == MANDATE_RULES
    assert {r for r in Rule if r.value.startswith("mandate_")} == MANDATE_RULES


@pytest.mark.parametrize(
    "changes",
    [
        {"matters": frozenset()},
        {"powers": frozenset()},
        {"valid_until": NOW - DAY},
        {"agent": MOTHER},
    ],
)
def test_a_mandate_that_says_nothing_is_none(changes: dict[str, object]) -> None:
    """Matters, powers, a period and two persons are what makes one (Civil Code 165)."""
    with pytest.raises(ValueError, match=r"mandate|agent"):
        a_mandate(**changes)


moments = st.integers(-(10**12), 10**12).map(
    lambda us: NOW + timedelta(microseconds=us)
)
periods = st.tuples(moments, moments).filter(lambda p: p[0] != p[1]).map(sorted)


@given(periods, moments, st.none() | moments, st.booleans())
def test_a_mandate_holds_exactly_in_its_period_until_revoked(
    period: list[datetime],
    now: datetime,
    revoked_at: datetime | None,
    is_giving: bool,  # noqa: FBT001 - Hypothesis gives it by its place
) -> None:
    """From its first instant on, up to and without its last, whatever the instants.

    Never while its giving is not recorded.
    """
    first, last = period
    mandate = a_mandate(
        valid_from=first,
        valid_until=last,
        revoked_at=revoked_at,
        is_giving=is_giving,
    )
    is_over = revoked_at is not None and now >= revoked_at
    holds = first <= now < last and not is_over and not is_giving

    assert holds == (check_mandate(mandate, an_act(), now) is None)
    assert holds == (mandate.state_at(now) is MandateState.VALID)


@given(periods, st.none() | moments, st.lists(moments, max_size=8))
def test_a_mandate_that_has_ended_never_holds_again(
    period: list[datetime], revoked_at: datetime | None, instants: list[datetime]
) -> None:
    """In the order of time the states only go on."""
    order = {MandateState.NOT_YET_VALID: 0, MandateState.VALID: 1}
    mandate = a_mandate(
        valid_from=period[0], valid_until=period[1], revoked_at=revoked_at
    )
    states = [order.get(mandate.state_at(at), 2) for at in sorted(instants)]

    assert sorted(states) == states


# The store.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"is_giving": True},
        {"requester": "portal", "powers": BOTH, "valid_from": NOW + TICK},
        {
            "matters": frozenset({"newborn", "school"}),
            "signature": Signature(
                client="app", method=Authentication.IN_PERSON, at=NOW - TICK
            ),
        },
    ],
)
def test_a_mandate_is_read_back_whole(
    connection: Connection, changes: dict[str, object]
) -> None:
    """The store returns it exactly as it was given, to the microsecond."""
    mandate = a_mandate(**changes)
    given = mandate_store.give(connection, mandate)

    assert mandate == given == mandate_store.find(connection, mandate.id)


def test_a_mandate_holds_once_it_is_confirmed(connection: Connection) -> None:
    """That one alone; twice is once, and nobody's end of it is undone."""
    for name in ("mandate-1", "mandate-2"):
        mandate_store.give(connection, a_mandate(id=MandateId(name), is_giving=True))
    one, other = MandateId("mandate-1"), MandateId("mandate-2")
    mandate_store.confirm(connection, one)
    held = mandate_store.get(connection, one)
    ended, _ = mandate_store.revoke(connection, one, MOTHER, NOW)
    mandate_store.confirm(connection, one)

    assert MandateState.VALID is held.state_at(NOW)
    assert ended == mandate_store.get(connection, one)
    assert MandateState.GIVING is mandate_store.get(connection, other).state_at(NOW)


def test_a_mandate_given_twice_stays_as_it_is(connection: Connection) -> None:
    """Whoever repeats the giving does not undo that somebody ended it."""
    mandate_store.give(connection, a_mandate())
    ended, _ = mandate_store.revoke(connection, MandateId("mandate-1"), MOTHER, NOW)
    again = mandate_store.give(connection, a_mandate(valid_until=NOW + 2 * DAY))

    assert NOW == ended.revoked_at
    assert ended == again


@pytest.mark.parametrize("person", [MOTHER, AGENT])
def test_principal_and_agent_end_a_mandate_once(
    connection: Connection, person: str
) -> None:
    """Either may (Civil Code 173(2)); the first instant counts."""
    mandate_store.give(connection, a_mandate())
    mandate = MandateId("mandate-1")
    first, is_new = mandate_store.revoke(connection, mandate, person, NOW)
    again, is_new_again = mandate_store.revoke(connection, mandate, MOTHER, NOW + DAY)

    assert (True, False) == (is_new, is_new_again)
    assert MandateState.VALID is first.state_at(NOW - TICK)
    assert MandateState.REVOKED is first.state_at(NOW)
    assert first == again


def test_nobody_else_ends_a_mandate_or_learns_of_it(connection: Connection) -> None:
    """Another person is told the same of this mandate as of none."""
    mandate_store.give(connection, a_mandate())
    with pytest.raises(NotFoundError) as others:
        mandate_store.revoke(connection, MandateId("mandate-1"), FATHER, NOW)
    with pytest.raises(NotFoundError) as none:
        mandate_store.revoke(connection, MandateId("mandate-2"), MOTHER, NOW)
    with pytest.raises(NotFoundError):
        mandate_store.get(connection, MandateId("mandate-2"))

    assert str(others.value) == str(none.value)
    assert mandate_store.get(connection, MandateId("mandate-1")).revoked_at is None


def test_both_parties_find_their_mandates_the_newest_first(
    connection: Connection,
) -> None:
    """Given or held, in any state; nobody else's."""
    newer = replace(
        a_mandate(), id=MandateId("mandate-2"), given_at=NOW, agent="ref-other"
    )
    for mandate in (a_mandate(), newer):
        mandate_store.give(connection, mandate)
    found = {
        person: [m.id for m in mandate_store.find_by_person(connection, person)]
        for person in (MOTHER, AGENT, "ref-other", FATHER)
    }

    assert found == {
        MOTHER: ["mandate-2", "mandate-1"],
        AGENT: ["mandate-1"],
        "ref-other": ["mandate-2"],
        FATHER: [],
    }
