"""Forgetting: what one process erases goes from the memory of all that share a log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from audit.erasure import Erasures, Request
from audit.forgetting import LEASE, Forgetting
from audit.keys import LogKeys, make_keys
from audit.ledger import Act, Ledger, Line, What
from audit.record import Section
from audit.shelf import Shelf
from audit.sql import Place, Postgres
from schemas.errors import LogUnavailableError, StateConflictError
from tests.audit.examples import (
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    an_id,
    open_room,
)
from tests.audit.test_erasure import brought_up, ref_of, sections
from tests.harness.postgres import ask_until
from tests.harness.relay import Relay, a_relay

pytestmark = pytest.mark.anyio
BECAUSE = Request("operator", "file-2026-118")
LONG = timedelta(hours=1)
BRIEF = timedelta(seconds=0.2)
SOON_S = 0.01
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Member:
    """One process of those that share a log."""

    name: str
    room: Room
    erasures: Erasures

    def forgetting(self, lease: timedelta = LONG, look_s: float = 3_600) -> Forgetting:
        """Return what follows the ledger; by itself it looks when it is told to."""
        return Forgetting(
            self.erasures,
            an_id(),
            self.name,
            self.room.clock,
            lease=lease,
            look_s=look_s,
        )

    @asynccontextmanager
    async def living(
        self, lease: timedelta = LONG, look_s: float = 3_600
    ) -> AsyncIterator[Forgetting]:
        """Be one of them while the block lasts."""
        forgetting = self.forgetting(lease, look_s)
        await forgetting.start()
        try:
            yield forgetting
        finally:
            await forgetting.stop()

    @property
    def at_hand(self) -> set[str]:
        """The references of all whose keys are in memory, in whatever form."""
        directory, sealer = self.room.directory, self.room.sealer
        known = {one.ref for one in directory._recent._values.values()}
        return known.union(*sealer._keys._values)


@contextmanager
def a_member(
    name: str, folder: Path, place: Place, keys: LogKeys, ledger: Place | None = None
) -> Iterator[Member]:
    """Open a process of those that share the log at a place."""
    (folder / name).mkdir()
    room = open_room(folder / name, keys, place=place)
    erasures = Erasures(
        room.log,
        room.sealer,
        Ledger(ledger or room.beside("erasures")),
        Shelf(),
        room.clock,
        an_id,
    )
    try:
        yield Member(name, room, erasures)
    finally:
        erasures.close()
        room.close()


@pytest.fixture
def keys() -> LogKeys:
    """Return the keys that all of them have."""
    return make_keys(ORIGIN)


@pytest.fixture
def schema(a_schema: Callable[[], Postgres]) -> Postgres:
    """Return where their log is kept."""
    return a_schema()


@pytest.fixture
def one(tmp_path: Path, schema: Postgres, keys: LogKeys) -> Iterator[Member]:
    """Open a process."""
    with a_member("gateway-1", tmp_path, schema, keys) as member:
        yield member


@pytest.fixture
def other(tmp_path: Path, schema: Postgres, keys: LogKeys) -> Iterator[Member]:
    """Open another."""
    with a_member("gateway-2", tmp_path, schema, keys) as member:
        yield member


async def meet(*members: Member) -> str:
    """Have the parents in the memory of each; return the mother's reference."""
    for member in members:
        await member.room.log.append([an_event(subjects=(MOTHER, FATHER))])
        assert 2 == len(member.at_hand)
    return ref_of(members[0].room, MOTHER)


async def until_forgotten(member: Member, ref: str) -> None:
    """Return once a key is out of a process's memory."""
    async with asyncio.timeout(PATIENCE_S):
        while ref in member.at_hand:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)


async def test_an_erasure_holds_once_every_process_has_forgotten(
    one: Member, other: Member
) -> None:
    """Whom it waits for is told by name; afterwards nobody has the key in memory."""
    async with one.living() as first, other.living() as second:
        mother = await meet(one, other)
        father = ref_of(one.room, FATHER)
        done = await one.erasures.erase(What.SUBJECT, mother, BECAUSE)
        behind = await first.awaited(done.event, 0.0)
        before = other.at_hand
        await second.look()

        assert (["gateway-2"], {mother, father}) == (behind, before)
        assert {father} == one.at_hand == other.at_hand
        assert [] == await first.awaited(done.event, 0.0)
        [again] = await other.room.log.append([an_event(subjects=(MOTHER,))])
    assert mother != ref_of(one.room, MOTHER) == ref_of(other.room, MOTHER)
    assert Section.SUBJECT in sections(one.room, again)


async def test_a_process_looks_by_itself(one: Member, other: Member) -> None:
    """Nobody has to tell it."""
    async with one.living() as first, other.living(look_s=SOON_S):
        mother = await meet(one, other)
        done = await one.erasures.erase(What.SUBJECT, mother, BECAUSE)

        assert [] == await asyncio.wait_for(
            first.awaited(done.event, PATIENCE_S), PATIENCE_S
        )
        assert mother not in other.at_hand


async def test_whoever_hears_of_an_erasure_brings_it_to_its_end(
    one: Member, other: Member
) -> None:
    """The process that began it died behind the ledger: nothing waits for its start."""
    async with other.living() as second:
        mother = await meet(one, other)
        one.room.log.hold("it dies here")
        with pytest.raises(LogUnavailableError):
            await one.erasures.erase(What.SUBJECT, mother, BECAUSE)
        there = other.room.directory.by_ref(mother)
        await second.look()
        line = await other.erasures.erased(ORIGIN, mother)

        assert there is not None
        assert line is not None
        assert None is other.room.directory.by_ref(mother)
        assert None is not await other.room.log.find(line.event)
        assert 0 == await brought_up(one.erasures)


async def test_a_record_that_is_missing_is_made_as_soon_as_can_be(
    one: Member, other: Member
) -> None:
    """While the log takes none, the key is gone all the same, and that is told."""
    async with one.living() as first, other.living() as second:
        mother = await meet(one, other)
        for member in (one, other):
            member.room.log.hold("the disk is nearly full")
        for erase in (one.erasures.erase(What.SUBJECT, mother, BECAUSE), second.look()):
            with pytest.raises(LogUnavailableError):
                await erase
        line = await one.erasures.erased(ORIGIN, mother)
        assert line is not None
        behind = await first.awaited(line.event, 0.0)
        missing = await other.room.log.find(line.event)
        other.room.log.hold(None)
        await second.look()

        assert ([], None) == (behind, missing)
        assert None is not await one.room.log.find(line.event)


async def test_a_silent_process_is_waited_for_no_longer_than_its_lease(
    one: Member, other: Member
) -> None:
    """One that was killed keeps nothing in memory, and holds nobody up."""
    mother = await meet(one, other)
    await other.forgetting(BRIEF).look()
    async with one.living() as first:
        done = await one.erasures.erase(What.SUBJECT, mother, BECAUSE)

        assert [] == await asyncio.wait_for(
            first.awaited(done.event, PATIENCE_S), PATIENCE_S
        )


async def test_a_process_that_ends_is_waited_for_no_more(
    one: Member, other: Member
) -> None:
    """It counts itself out."""
    async with one.living() as first:
        async with other.living():
            mother = await meet(one, other)
        done = await one.erasures.erase(What.SUBJECT, mother, BECAUSE)

        assert [] == await first.awaited(done.event, 0.0)


@pytest.fixture
def relay(schema: Postgres, tmp_path: Path) -> Iterator[Relay]:
    """Run a relay to the ledger, which can be cut off."""
    with a_relay(schema.url, tmp_path) as relay:
        yield relay


async def test_who_can_not_hear_lets_go_of_every_key(
    tmp_path: Path, schema: Postgres, keys: LogKeys, relay: Relay
) -> None:
    """Before its lease is over, since nobody waits for it any longer then."""
    ledger = Postgres(relay.url, f"{schema.schema}_erasures")
    with a_member("gateway-2", tmp_path, schema, keys, ledger) as other:
        async with other.living(LEASE, SOON_S) as second:
            mother = await meet(other)
            relay.is_open = False
            relay.close()
            while True:
                try:
                    await second.look()
                except LogUnavailableError:
                    break
            other.room.clock.advance(LEASE / 2)
            for _ in range(100):
                await asyncio.sleep(0)
            kept = other.at_hand
            other.room.clock.advance(LEASE / 2 - timedelta(seconds=SOON_S))
            await until_forgotten(other, mother)

            assert mother in kept
            assert set() == other.at_hand


async def test_a_key_that_was_read_before_it_was_erased_is_not_kept(
    file_room: Room,
) -> None:
    """What comes from the directory's thread after that does not stay in memory."""
    room = file_room
    await room.log.append([an_event(subjects=(MOTHER, FATHER))])
    known = [room.directory.lookup(one) for one in (MOTHER, FATHER)]
    mother, father = known
    assert mother is not None
    assert father is not None
    room.sealer.forget(mother.ref)
    room.directory.remember(MOTHER, mother)
    room.directory.remember(FATHER, father)
    room.sealer.seal(an_event(subjects=(MOTHER,)), [mother])
    room.sealer.seal(an_event(subjects=(FATHER,)), [father])

    assert [father] == list(room.directory._recent._values.values())
    assert [(father.ref,)] == list(room.sealer._keys._values)


async def test_one_process_alone_has_nobody_to_wait_for(
    tmp_path: Path, keys: LogKeys
) -> None:
    """A log in a file: what it erased itself holds at once, by itself."""
    with a_member("gateway", tmp_path, tmp_path / "log.db", keys) as alone:
        async with alone.living(look_s=SOON_S) as forgetting:
            mother = await meet(alone)
            done = await alone.erasures.erase(What.SUBJECT, mother, BECAUSE)

            assert [] == await forgetting.awaited(done.event, 0.0)
            assert mother not in alone.at_hand


async def test_an_erasure_that_was_stopped_half_way_goes_on_by_itself(
    tmp_path: Path, keys: LogKeys
) -> None:
    """As soon as the log takes records again, without a new start."""
    with a_member("gateway", tmp_path, tmp_path / "log.db", keys) as alone:
        async with alone.living(look_s=SOON_S):
            mother = await meet(alone)
            alone.room.log.hold("the disk is nearly full")
            with pytest.raises(LogUnavailableError):
                await alone.erasures.erase(What.SUBJECT, mother, BECAUSE)
            await until_forgotten(alone, mother)
            line = await alone.erasures.erased(ORIGIN, mother)
            assert line is not None
            alone.room.log.hold(None)
            while await alone.room.log.find(line.event) is None:  # noqa: ASYNC110 - rows
                await asyncio.sleep(SOON_S)

            assert None is alone.room.directory.by_ref(mother)


# Two of them want what can't be both.

IN_INSERT = """
CREATE FUNCTION {schema}.in_insert() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(78); RETURN NEW; END $$;
CREATE TRIGGER in_insert BEFORE INSERT ON {schema}.ledger
FOR EACH ROW EXECUTE FUNCTION {schema}.in_insert()
"""
"""Has every line of the ledger wait, between being allowed and being written."""
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND datname = current_database()
"""


def until_waiting(connection: psycopg.Connection, sessions: int) -> None:
    """Return once so many sessions of the database wait for a lock."""
    ask_until(connection, WAITING, lambda found: found == [(sessions,)])


def test_of_a_hold_and_an_erasure_at_once_the_first_one_stands(
    schema: Postgres,
) -> None:
    """Two replicas: the hold is allowed and not written yet, when the other erases."""
    place = Postgres(schema.url, f"{schema.schema}_erasures")
    held, erased = (
        Line(0, act, What.SUBJECT, "s-1", an_id(), "operator", "file-7")
        for act in (Act.HOLD, Act.ERASE)
    )
    with (
        closing(Ledger(place)) as one,
        closing(Ledger(place)) as other,
        psycopg.connect(schema.url, autocommit=True) as connection,
        ThreadPoolExecutor(2) as pool,
    ):
        connection.execute(IN_INSERT.format(schema=place.schema))
        connection.execute("SELECT pg_advisory_lock(78)")
        holding = pool.submit(one.add, held)
        until_waiting(connection, 1)
        erasing = pool.submit(other.add, erased)
        until_waiting(connection, 2)
        connection.execute("SELECT pg_advisory_unlock(78)")
        holding.result(PATIENCE_S)
        with pytest.raises(StateConflictError, match="hold"):
            erasing.result(PATIENCE_S)
        holds, erasures = one.holds(), other.erasures()

    assert ([held], []) == (holds, erasures)
