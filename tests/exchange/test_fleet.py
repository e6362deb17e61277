"""Gateways that share their tables: a suspension at one holds at all of them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from consent import replicas, uses
from consent.in_flight import InFlight
from consent.rules import Rule
from exchange.database import Database
from exchange.fleet import Replica, place_of
from schemas.clock import SystemClock
from schemas.errors import SettingsError
from tests.consent.examples import NOW, a_use

pytestmark = pytest.mark.anyio
SERVICE = "service:civil_marriage"
LONG = timedelta(hours=1)
BRIEF = timedelta(seconds=0.2)


class Member:
    """One gateway of the fleet, as far as suspensions go."""

    def __init__(self, database: Database, name: str, place: str) -> None:
        self.database = database
        self.in_flight = InFlight()
        self.clock = SystemClock()
        self.name = name
        self.place = place

    def replica(self, lease: timedelta = LONG) -> Replica:
        """Return its place among the others."""
        return Replica(
            self.database,
            self.in_flight,
            self.name,
            self.place,
            self.clock,
            lease=lease,
        )

    async def suspend(self) -> None:
        """Suspend the service, as `exchange.permission` does."""
        await self.database.write(
            lambda c: uses.suspend(c, SERVICE, reason="r", by="o", now=NOW)
        )
        self.in_flight.suspend(SERVICE)

    async def acknowledged(self) -> None:
        """Return once every gateway has heard."""
        while await self.database.read(replicas.behind):  # noqa: ASYNC110 - rows
            await asyncio.sleep(0)

    @asynccontextmanager
    async def living(self, lease: timedelta = LONG) -> AsyncIterator[Replica]:
        """Live in the fleet while the block lasts."""
        replica = self.replica(lease)
        await replica.start()
        try:
            yield replica
        finally:
            await replica.stop()


@contextmanager
def a_member(url: str, name: str, place: str = "") -> Iterator[Member]:
    """Open a gateway of the fleet."""
    with Database(url) as database:
        yield Member(database, name, place or f"place-of-{name}")


@pytest.fixture
def one(postgres_tables: str) -> Iterator[Member]:
    """Open a gateway."""
    with a_member(postgres_tables, "gateway-1") as member:
        yield member


@pytest.fixture
def other(postgres_tables: str) -> Iterator[Member]:
    """Open another."""
    with a_member(postgres_tables, "gateway-2") as member:
        yield member


async def test_a_suspension_waits_for_the_other_gateways_look_ups(
    one: Member, other: Member
) -> None:
    """It is acknowledged when each gateway has heard, and its look-ups are over."""
    use = a_use("l1", [])
    async with other.living() as heard_of:
        assert {} == other.in_flight.take([use])
        await one.suspend()
        acknowledged = asyncio.create_task(one.acknowledged())
        looking = asyncio.create_task(heard_of.look())
        while not other.in_flight.take([a_use("l2", [])]):
            other.in_flight.finish([a_use("l2", []).lookup])
            await asyncio.sleep(0)
        # Whatever it has to say by now stands behind what it writes now.
        for _ in range(20):
            await asyncio.sleep(0)
        await other.database.write(uses.suspended)
        assert await one.database.read(replicas.behind)
        assert not acknowledged.done()
        other.in_flight.finish([use.lookup])
        await looking
        await asyncio.wait_for(acknowledged, 20)

        denied = other.in_flight.take([a_use("l3", [])])
        assert [Rule.SERVICE_SUSPENDED] == list(denied.values())


async def test_a_resumption_is_heard_as_well(one: Member, other: Member) -> None:
    """What is allowed again is allowed everywhere, soon."""
    async with one.living(), other.living() as hears:
        await one.suspend()
        await hears.look()
        await one.database.write(lambda c: uses.resume(c, SERVICE, "act"))
        await hears.look()
        denied = list(other.in_flight.take([a_use("l1", [])]).values())
        await one.database.write(lambda c: uses.lift(c, SERVICE, "act"))
        await hears.look()

        assert [Rule.SERVICE_SUSPENDED] == denied
        assert {} == other.in_flight.take([a_use("l1", [])])


async def test_a_silent_gateway_is_waited_for_no_longer_than_its_lease(
    one: Member, other: Member
) -> None:
    """One that was stopped in mid-flight sends nothing once its lease is over."""
    silent = other.replica(BRIEF)
    await silent.start()
    assert silent._living is not None
    silent._living.cancel()
    async with one.living():
        await one.suspend()
        await asyncio.wait_for(one.acknowledged(), 20)

    assert other.clock.monotonic() >= other.in_flight.current_until


async def test_a_gateway_that_comes_back_hears_before_it_sends(
    one: Member, other: Member
) -> None:
    """Who joins after a suspension knows of it."""
    await one.suspend()
    async with other.living():
        denied = other.in_flight.take([a_use("l1", [])])
        assert [Rule.SERVICE_SUSPENDED] == list(denied.values())


async def test_a_gateway_that_lives_keeps_its_lease(one: Member) -> None:
    """The lease is renewed for as long as it lives, and over when it stops."""
    async with one.living(BRIEF) as replica:
        first = one.in_flight.current_until
        while one.in_flight.current_until == first:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)

        assert replica._living is not None
        assert not replica._living.done()
    assert 0.0 == one.in_flight.current_until


async def test_two_gateways_of_one_name_are_refused(postgres_tables: str) -> None:
    """The second one says what to set; the same place takes over at once."""
    with (
        a_member(postgres_tables, "gateway-1", "here") as first,
        a_member(postgres_tables, "gateway-1", "there") as second,
        a_member(postgres_tables, "gateway-1", "here") as again,
    ):
        killed = first.replica()
        await killed.start()
        assert killed._living is not None
        killed._living.cancel()
        with pytest.raises(SettingsError, match="executor_id"):
            await second.replica().start()
        async with again.living():
            assert again.in_flight.current_until > again.clock.monotonic()
        async with second.living():
            pass


def test_a_place_stays_the_same(tmp_path: Path) -> None:
    """A data folder has one id, and another folder has another."""
    (tmp_path / "other").mkdir()

    assert place_of(tmp_path) == place_of(tmp_path)
    assert place_of(tmp_path) != place_of(tmp_path / "other")


def test_a_copied_folder_is_another_place(tmp_path: Path) -> None:
    """Else a gateway that runs from it would take over what is another one's."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    data.mkdir()
    place = place_of(data)
    shutil.copytree(data, copy)

    assert place == place_of(data)
    assert place != place_of(copy)
