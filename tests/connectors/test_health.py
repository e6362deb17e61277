"""The circuit breaker: what always holds of it, whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.health import (
    PROBE_LEASE_S,
    PROBE_TELLS_S,
    Breaker,
    BreakerPolicy,
    Closed,
    Ended,
    HalfOpen,
    Health,
    Open,
    abandoned,
    admit,
    failed,
    succeeded,
)

POLICY = BreakerPolicy(threshold=3, cooldown_s=5.0, max_cooldown_s=40.0)

seconds = st.floats(0, 1000, allow_nan=False)
breakers = st.one_of(
    st.builds(Closed, st.integers(0, POLICY.threshold - 1)),
    st.builds(Open, seconds, st.floats(5, 40)),
    st.builds(HalfOpen, seconds, st.floats(5, 40)),
)


def after_failures(count: int, now: float = 0.0) -> Breaker:
    """Return a fresh breaker after so many failures in a row."""
    breaker: Breaker = Closed()
    for _ in range(count):
        breaker = failed(breaker, now, POLICY)
    return breaker


def test_opens_at_the_threshold_and_not_before() -> None:
    """The last failure of the row opens it."""
    assert isinstance(after_failures(2), Closed)
    assert Open(5.0, 5.0) == after_failures(3)


@given(breakers)
def test_a_success_forgets_every_failure(breaker: Breaker) -> None:
    """A department that answered is up."""
    assert Closed(0) == succeeded(breaker)


@given(breakers, seconds)
def test_whoever_is_turned_away_is_told_when_to_knock_again(
    breaker: Breaker, now: float
) -> None:
    """After exactly the time that was said, a look-up passes."""
    turned, wait = admit(breaker, now)
    _, again = admit(turned, now + wait + 1e-6)

    assert wait == 0 or again == 0


@given(st.floats(5, 40), seconds)
def test_one_probe_at_a_time(cooldown_s: float, now: float) -> None:
    """When the cool-down is over one look-up passes, and no second beside it."""
    probing, first = admit(Open(now, cooldown_s), now)
    _, second = admit(probing, now)

    assert 0 == first
    assert pytest.approx(PROBE_LEASE_S) == second


def test_a_probe_that_never_reports_does_not_block_for_ever() -> None:
    """After the lease another look-up is the probe."""
    breaker, wait = admit(HalfOpen(0.0, 5.0), PROBE_LEASE_S)

    assert 0 == wait
    assert HalfOpen(PROBE_LEASE_S, 5.0) == breaker


@given(st.floats(5, 40), seconds)
def test_a_failed_probe_waits_longer_up_to_a_limit(
    cooldown_s: float, now: float
) -> None:
    """Each failed probe doubles the wait, and none exceeds the maximum."""
    opened = failed(HalfOpen(now, cooldown_s), now, POLICY)
    expected = min(2 * cooldown_s, 40.0)

    assert Open(now + expected, expected) == opened


@given(breakers, seconds)
def test_a_look_up_given_up_tells_nothing(breaker: Breaker, now: float) -> None:
    """A cancelled look-up neither opens nor closes, and frees the probe's place."""
    after = abandoned(breaker, now)
    _, wait = admit(after, now)

    assert isinstance(after, Closed) == isinstance(breaker, Closed)
    assert wait == 0 or breaker == after


events = st.lists(
    st.tuples(st.sampled_from([True, False, None]), st.floats(0, 30)), max_size=60
)


@given(events)
def test_a_dead_service_is_asked_seldom(
    events: list[tuple[bool | None, float]],
) -> None:
    """However look-ups come, between an opening and the next probe none passes."""
    health, now = Health(POLICY), 0.0
    for reached, pause in events:
        now += pause
        before = health.services["s"].breaker if "s" in health.services else Closed()
        if health.admit("s", now) == 0:
            assert not isinstance(before, Open) or now >= before.until
            health.report("s", Ended("word", reached), since=now, now=now)

    counted = health.services["s"].outcomes if events else {}

    assert len(events) == sum(counted.values())


def test_counts_outcomes_and_time() -> None:
    """The metrics get how many ended how, and how long they took."""
    health = Health()
    health.admit("s", 1.0)
    health.report("s", Ended("answered", reached=True), since=1.0, now=3.5)

    assert {"answered": 1} == health.services["s"].outcomes
    assert 2.5 == health.services["s"].seconds


def test_whoever_comes_beside_the_probe_is_told_to_come_back_soon() -> None:
    """The probe reports within seconds: its lease is for one that never does."""
    health = Health(BreakerPolicy(threshold=1, cooldown_s=5.0))
    health.admit("s", 0.0)
    health.report("s", Ended("unavailable", reached=False), since=0.0, now=0.0)
    while_open = health.admit("s", 1.0)
    probe, beside = health.admit("s", 5.0), health.admit("s", 5.0)

    assert (4.0, 0, PROBE_TELLS_S) == (while_open, probe, beside)


def test_a_service_is_told_when_it_fails_and_when_it_works_again() -> None:
    """Once for each change, and one that comes and goes once a minute at most."""
    told: list[tuple[float, str, str | None]] = []
    now = 0.0
    health = Health(tell=lambda service, why: told.append((now, service, why)))
    down = Ended("unavailable:source", reached=False, why="no answer")
    refused = Ended("unavailable:gateway", reached=None, why="not trusted")
    up = Ended("answered", reached=True)
    for at, ended in (
        *((0.0, up), (1.0, down), (2.0, down), (3.0, refused), (4.0, up), (5.0, up)),
        *((6.0, down), (7.0, up), (61.0, refused), (62.0, Ended("abandoned", None))),
        *((121.0, down), (122.0, Ended("fault:stale", reached=True))),
    ):
        now = at
        health.admit("s", now)
        health.report("s", ended, since=now, now=now)

    assert [
        (1.0, "s", "no answer"),
        (4.0, "s", None),
        (61.0, "s", "not trusted"),
        (121.0, "s", "no answer"),
        (122.0, "s", None),
    ] == told
