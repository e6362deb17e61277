"""The register of look-ups under way: what a suspension waits for."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.in_flight import InFlight
from consent.rules import Rule
from schemas.ids import LookupId
from tests.consent.examples import a_use

L1, L2 = LookupId("l1"), LookupId("l2")
SERVICE = "service:civil_marriage"


def test_what_is_suspended_is_denied_and_not_registered() -> None:
    """A look-up that may not be sent is not waited for."""
    register = InFlight([SERVICE])
    denied = register.take([a_use(L1, []), a_use(L2, [])])

    assert {L1: Rule.SERVICE_SUSPENDED, L2: Rule.SERVICE_SUSPENDED} == denied
    assert register.count == 0


def test_a_resumed_service_is_asked_again() -> None:
    """A suspension ends for whatever is taken afterwards."""
    register = InFlight([SERVICE])
    register.resume(SERVICE)

    assert {} == register.take([a_use(L1, [])])
    assert frozenset() == register.suspended


@pytest.mark.anyio
async def test_a_suspension_waits_for_lookups_taken_before() -> None:
    """It is acknowledged when the last of them is over."""
    register = InFlight()
    register.take([a_use(L1, [])])
    register.take([a_use(L2, [])])
    register.suspend(SERVICE)
    waiting = asyncio.create_task(register.drained(SERVICE))
    await _turns()
    register.finish([L1])
    await _turns()

    assert not waiting.done()
    register.finish([L2])
    await waiting


@pytest.mark.anyio
async def test_a_suspension_does_not_wait_for_others() -> None:
    """Look-ups that rest on something else don't hold it up."""
    register = InFlight()
    register.take([a_use(L1, [])])
    await register.drained("service:police_household")
    await register.drained("consent-1")

    assert register.count == 1


@pytest.mark.anyio
async def test_a_withdrawal_waits_for_the_lookups_that_rest_on_it() -> None:
    """A consent is waited for as a service is."""
    register = InFlight()
    register.take([a_use(L1, ["consent-1"])])
    waiting = asyncio.create_task(register.drained("consent-1"))
    await _turns()

    assert not waiting.done()
    register.finish([L1])
    register.finish([L1])
    await waiting


@pytest.mark.anyio
async def test_a_hearing_that_was_cut_off_is_waited_for_again() -> None:
    """Whoever hears of a suspension twice still waits for what was taken before."""
    register = InFlight()
    register.take([a_use(L1, [])])
    cut_off = asyncio.create_task(register.hear(frozenset({SERVICE})))
    await _turns()
    cut_off.cancel()
    again = asyncio.create_task(register.hear(frozenset({SERVICE})))
    await _turns()

    assert not again.done()
    register.finish([L1])
    await again


async def _turns() -> None:
    """Let every task go on as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _send(register: InFlight, name: str, turns: int, sent: list[str]) -> None:
    """Take a look-up, let others go first for some turns, send it, finish it."""
    use = a_use(name, [])
    if register.take([use]):
        return
    for _ in range(turns):
        await asyncio.sleep(0)
    sent.append(name)
    register.finish([use.lookup])


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8),
    st.integers(0, 6),
    st.integers(0, 3),
)
def test_in_any_order_nothing_is_sent_after_the_acknowledgement(
    lookups: list[tuple[int, int]], after: int, commit: int
) -> None:
    """However senders and suspension interleave, the wait's end is the last sending.

    The row's commit takes `commit` turns before the register hears of it, as it does
    in the writer's thread.
    """

    async def run() -> tuple[int, int]:
        register, sent = InFlight(), list[str]()

        async def later(delay: int, turns: int, name: str) -> None:
            for _ in range(delay):
                await asyncio.sleep(0)
            await _send(register, name, turns, sent)

        tasks = [
            asyncio.create_task(later(delay, turns, f"l{number}"))
            for number, (delay, turns) in enumerate(lookups)
        ]
        for _ in range(after + commit):
            await asyncio.sleep(0)
        register.suspend(SERVICE)
        await register.drained(SERVICE)
        acknowledged = len(sent)
        await asyncio.gather(*tasks)
        assert register.count == 0
        return acknowledged, len(sent)

    acknowledged, in_the_end = asyncio.run(run())

    assert acknowledged == in_the_end
