"""What cases are owed: schedule, leases, and the one row of a case."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, select
from typing_extensions import override

from exchange import due as dues
from exchange.connecting import connected
from exchange.due import Due, Lease, next_try
from schemas.ids import CaseId, DueId
from tests.fakes.waiting import owed_to

NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
CASE = CaseId("case-1")
MINUTE = timedelta(minutes=1)

instants = st.datetimes(
    min_value=datetime(2026, 1, 1),  # noqa: DTZ001 - `timezones` adds the zone
    max_value=datetime(2030, 1, 1),  # noqa: DTZ001 - as above
    timezones=st.just(UTC),
)
schedules = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=8)
shares = st.floats(0, 1, exclude_max=True)


def a_due(number: int = 0, *, at: datetime = NOW, case: CaseId = CASE) -> Due:
    """Return a row; each number has its own id."""
    return Due(DueId(f"due-{number}"), case, due_at=at, attempt=0, made_at=NOW)


def a_lease(holder: str = "gateway-1", *, until: datetime = NOW + MINUTE) -> Lease:
    """Return a lease of the case."""
    return Lease(f"lease-of-{holder}", CASE, holder, until)


@pytest.fixture
def table(tables_url: str) -> Iterator[Connection]:
    """Give a test a connection to the tables, on SQLite and on PostgreSQL."""
    with connected(tables_url, read_only=False) as connection:
        yield connection


@given(st.integers(1, 10_000), instants, schedules, shares)
def test_wait_follows_the_schedule(
    attempt: int, now: datetime, waits: list[float], jitter: float
) -> None:
    """Each attempt waits its own time of the schedule, less a tenth at most."""
    at = next_try(attempt, now, waits, None, jitter=jitter)

    assert at is not None
    full = timedelta(seconds=waits[min(attempt, len(waits)) - 1])
    rounding = timedelta(microseconds=1)
    assert full * 0.9 - rounding <= at - now <= full + rounding


@given(st.integers(1, 50), schedules.map(sorted), shares)
def test_wait_never_shrinks_on_a_growing_schedule(
    attempt: int, waits: list[float], jitter: float
) -> None:
    """Where the schedule grows, so do the waits, for the same jitter."""
    first = next_try(attempt, NOW, waits, None, jitter=jitter)
    second = next_try(attempt + 1, NOW, waits, None, jitter=jitter)

    assert first is not None
    assert second is not None
    assert first <= second


@given(st.integers(1, 50), schedules, shares, st.timedeltas(-MINUTE, MINUTE))
def test_last_try_is_at_the_limit_and_none_follows(
    attempt: int, waits: list[float], jitter: float, left: timedelta
) -> None:
    """No try is planned past the limit, and one is planned while it is not reached."""
    limit = NOW + left

    at = next_try(attempt, NOW, waits, limit, jitter=jitter)

    assert (at is None) == (limit <= NOW)
    assert at is None or NOW <= at <= limit


def test_row_is_due_at_its_instant(table: Connection) -> None:
    """A row is seen from the instant at which it falls due, and not before."""
    due = a_due()
    dues.owe(table, due)

    assert [] == dues.rows_due(table, NOW - timedelta(milliseconds=1), 10)
    assert [due] == dues.rows_due(table, NOW, 10)


def test_oldest_rows_come_first_and_no_more_than_asked(table: Connection) -> None:
    """Rows are seen in the order in which they fell due, up to the limit."""
    rows = [a_due(n, at=NOW - n * MINUTE, case=CaseId(f"case-{n}")) for n in range(5)]
    for due in rows:
        dues.owe(table, due)

    assert [rows[4], rows[3]] == dues.rows_due(table, NOW, 2)


def test_rows_that_were_never_tried_are_found_behind_any_number_of_others(
    table: Connection,
) -> None:
    """The limit counts those that are looked for, and no others."""
    for n in range(4):
        at, case = NOW - (4 - n) * MINUTE, CaseId(f"case-{n}")
        tried = a_due(n, at=at, case=case)
        dues.owe(table, replace(tried, attempt=0 if n == 3 else n + 1))

    assert [1, 2, 3] == [one.attempt for one in dues.rows_due(table, NOW, 3)]
    untried = dues.rows_due(table, NOW, 1, untried=True)
    assert ["case-3"] == [one.case for one in untried]


def test_case_is_owed_one_thing(table: Connection) -> None:
    """What a case is owed takes the place of what it was owed, and ends its lease."""
    dues.begin(table, a_due(1), a_lease(), NOW)
    dues.owe(table, a_due(2))

    assert dues.find(table, DueId("due-1")) is None
    assert a_due(2) == owed_to(table, CASE)
    assert dues.claim(table, a_lease("gateway-2"), NOW)


def test_settled_case_is_owed_nothing(table: Connection) -> None:
    """Settling strikes the row out, lease and all."""
    dues.begin(table, a_due(), a_lease(), NOW)
    dues.settle(table, CASE)

    assert owed_to(table, CASE) is None
    assert not dues.claim(table, a_lease(), NOW)


def test_leased_case_is_left_alone(table: Connection) -> None:
    """While one works on a case, nobody else gets it, and the row is not seen."""
    dues.begin(table, a_due(), a_lease("gateway-1"), NOW)

    assert [] == dues.rows_due(table, NOW, 10)
    assert not dues.claim(table, a_lease("gateway-2"), NOW)
    assert not dues.begin(table, a_due(2), a_lease("gateway-2"), NOW)
    assert a_due() == owed_to(table, CASE)


def test_lease_ends_by_itself(table: Connection) -> None:
    """A lease that nobody gave back is over at its last instant."""
    lease = a_lease("gateway-1", until=NOW + MINUTE)
    dues.begin(table, a_due(), lease, NOW)

    assert [] == dues.rows_due(table, NOW + MINUTE - timedelta(milliseconds=1), 10)
    assert [a_due()] == dues.rows_due(table, NOW + MINUTE, 10)
    assert dues.claim(table, a_lease("gateway-2"), NOW + MINUTE)


def test_lost_lease_is_not_released(table: Connection) -> None:
    """Who lost a lease learns so, and takes nothing from the one who has it."""
    lost = a_lease("gateway-1")
    dues.begin(table, a_due(), lost, NOW)
    dues.claim(table, a_lease("gateway-2", until=NOW + 5 * MINUTE), NOW + MINUTE)

    assert not dues.release(table, lost)
    assert not dues.claim(table, a_lease("gateway-3"), NOW + 4 * MINUTE)


def test_released_case_is_owed_the_same(table: Connection) -> None:
    """Giving a lease back changes nothing of what is owed."""
    lease = a_lease()
    dues.begin(table, a_due(), lease, NOW)

    assert dues.release(table, lease)
    assert [a_due()] == dues.rows_due(table, NOW, 10)


def test_gateway_that_starts_ends_its_own_leases_alone(table: Connection) -> None:
    """A dead gateway's leases are ended by its name; another's stay."""
    dues.begin(table, a_due(), a_lease("gateway-1"), NOW)

    assert 0 == dues.release_all(table, "gateway-2")
    assert 1 == dues.release_all(table, "gateway-1")
    assert [a_due()] == dues.rows_due(table, NOW, 10)


def test_request_never_delays_what_is_owed(table: Connection) -> None:
    """A request that takes a case over keeps its row, or brings it closer."""
    dues.owe(table, a_due(1, at=NOW + 5 * MINUTE))

    assert dues.begin(table, a_due(2, at=NOW + MINUTE), a_lease(), NOW)
    dues.release_all(table, "gateway-1")
    assert dues.begin(table, a_due(3, at=NOW + 9 * MINUTE), a_lease(), NOW)
    assert a_due(1, at=NOW + MINUTE) == owed_to(table, CASE)


def test_hastened_row_is_due_now_under_a_new_id(table: Connection) -> None:
    """A call for an attempt makes the row due at once, for another workflow."""
    dues.owe(table, a_due(1, at=NOW + MINUTE))

    assert dues.hasten(table, CASE, DueId("due-2"), NOW)
    assert [a_due(2, at=NOW)] == dues.rows_due(table, NOW, 10)


def test_call_during_an_attempt_is_heeded_after_it(table: Connection) -> None:
    """An attempt may not have seen what came meanwhile: another follows at once."""
    dues.begin(table, a_due(1), a_lease(), NOW)
    dues.hasten(table, CASE, DueId("due-2"), NOW)

    assert dues.find(table, DueId("due-1")) is not None
    dues.owe(table, a_due(3, at=NOW + MINUTE))
    assert [a_due(3, at=NOW)] == dues.rows_due(table, NOW, 10)


def test_call_before_an_attempt_is_answered_by_it(table: Connection) -> None:
    """An attempt that starts after the call has seen all: none follows at once."""
    dues.owe(table, a_due(1))
    dues.hasten(table, CASE, DueId("due-2"), NOW)
    dues.claim(table, a_lease(), NOW)
    dues.owe(table, a_due(3, at=NOW + MINUTE))

    assert [] == dues.rows_due(table, NOW, 10)


def test_nothing_owed_is_not_hastened(table: Connection) -> None:
    """A settled case is not worked on because somebody calls."""
    assert not dues.hasten(table, CASE, DueId("due-2"), NOW)
    assert owed_to(table, CASE) is None


def test_replaced_row_frees_the_case_of_its_own_attempt(table: Connection) -> None:
    """The lease of an attempt that was cut off ends with the row."""
    due = a_due(1)
    dues.owe(table, due)
    dues.claim(table, dues.for_attempt(due, "gateway-1", NOW + MINUTE), NOW)

    assert dues.replace(table, due.id, a_due(2))
    assert [a_due(2)] == dues.rows_due(table, NOW, 10)


def test_replaced_row_keeps_the_lease_of_a_request(table: Connection) -> None:
    """Another row in the place of one takes the case from no request."""
    dues.begin(table, a_due(1), a_lease(), NOW)

    assert dues.replace(table, DueId("due-1"), a_due(2))
    assert not dues.replace(table, DueId("due-1"), a_due(3))
    assert not dues.claim(table, a_lease("gateway-2"), NOW)
    assert a_due(2) == owed_to(table, CASE)


class LeasesOfOneCase(RuleBasedStateMachine):
    """Whatever gateways do in whatever order, one at most works on a case."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.now = NOW
        self.taken = 0
        self.holding: Lease | None = None
        self.owed = False

    @override
    def teardown(self) -> None:
        """Leave nothing to the next run."""
        self.connection.rollback()

    def new_lease(self, seconds: int) -> Lease:
        """Return a lease that nobody had yet."""
        self.taken += 1
        until = self.now + timedelta(seconds=seconds)
        return Lease(f"lease-{self.taken}", CASE, "gateway", until)

    def is_free(self) -> bool:
        """Tell whether the model knows of no holder."""
        return self.holding is None or self.holding.until <= self.now

    @rule(seconds=st.integers(1, 60))
    def a_request_begins(self, seconds: int) -> None:
        """A request takes the case, if nobody has it."""
        lease = self.new_lease(seconds)
        got = dues.begin(self.connection, a_due(self.taken), lease, self.now)
        assert self.is_free() == got
        self.owed = True
        if got:
            self.holding = lease

    @rule(seconds=st.integers(1, 60))
    def an_attempt_claims(self, seconds: int) -> None:
        """An attempt takes the case, if something is owed and nobody has it."""
        lease = self.new_lease(seconds)
        got = dues.claim(self.connection, lease, self.now)
        assert (self.owed and self.is_free()) == got
        if got:
            self.holding = lease

    @precondition(lambda self: self.holding is not None)
    @rule(ends=st.sampled_from(["release", "owe", "settle"]))
    def the_holder_ends(self, ends: str) -> None:
        """Who works on the case ends, one way or another."""
        assert self.holding is not None
        if ends == "release":
            assert dues.release(self.connection, self.holding)
        elif ends == "owe":
            dues.owe(self.connection, a_due(self.taken))
        else:
            dues.settle(self.connection, CASE)
            self.owed = False
        self.holding = None

    @rule()
    def somebody_calls(self) -> None:
        """A call for an attempt takes no lease from anybody."""
        self.taken += 1
        called = dues.hasten(
            self.connection, CASE, DueId(f"due-{self.taken}"), self.now
        )
        assert self.owed == called

    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        """Leases run out."""
        self.now += timedelta(seconds=seconds)

    @invariant()
    def case_has_one_row_while_owed(self) -> None:
        """A case has one row while something is owed, and none afterwards."""
        rows = self.connection.execute(select(dues._DUE)).all()
        assert int(self.owed) == len(rows)

    @invariant()
    def leased_rows_are_not_seen(self) -> None:
        """The dispatcher sees a row only while nobody works on the case."""
        later = self.now + timedelta(days=1)
        with self.connection.begin_nested():
            seen = dues.rows_due(self.connection, self.now, 10)
        assert not (seen and not self.is_free())
        assert self.owed == bool(dues.rows_due(self.connection, later, 10))


def test_leases_follow_the_model(table: Connection) -> None:
    """Whatever gateways do in any order, store and model agree."""
    run_state_machine_as_test(
        lambda: LeasesOfOneCase(table),  # type: ignore[arg-type] # takes what makes one, too
        settings=settings(
            max_examples=25 if table.dialect.name == "sqlite" else 10,
            stateful_step_count=30,
            deadline=None,
        ),
    )
