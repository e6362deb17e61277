"""Keys of cases: made ahead, handed out once, removed where no case came of them."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from exchange.database import Database
from exchange.idempotency import RepeatKeys
from exchange.vault import CaseKey, Vault
from schemas.errors import NotFoundError, StoreUnavailableError, VerificationError
from schemas.ids import CaseId, KeyId, new_ids
from tests.exchange.newborn import (
    an_office,
    an_opening,
)
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
NEW_ID = new_ids(FakeClock(NOW))
MASTER = bytes(32)
CASE = CaseId("case-1")


def a_vault(database: Database, holder: str = "gateway-1") -> Vault:
    """Return a vault of a gateway."""
    return Vault(database, MASTER, holder, NEW_ID)


async def nobody(_keys: Sequence[KeyId]) -> Collection[KeyId]:
    """Return that no case names a key."""
    return ()


def used_by(keys: Collection[CaseKey], among: Sequence[KeyId]) -> Collection[KeyId]:
    """Return which keys cases name."""
    return {key.id for key in keys}.intersection(among)


def stored(database: Database) -> set[str]:
    """Return the ids of all keys that are stored."""
    query = text("SELECT id FROM case_key")
    return set(database.read_now(lambda c: c.execute(query).scalars().all()))


@pytest.fixture
def database(vault_url: str) -> Iterator[Database]:
    """An empty vault, on each engine."""
    with Database(vault_url) as opened:
        yield opened


async def test_a_new_key_waits_for_no_commit(database: Database) -> None:
    """A key that was made ahead is stored already when a case gets it."""
    vault = a_vault(database)
    await vault.start(nobody)
    commits: list[int] = []
    event.listen(database._writers, "commit", lambda _: commits.append(1))
    keys = [await vault.new_key(CaseId(f"case-{n}")) for n in range(20)]

    assert [] == commits
    assert {key.id for key in keys} <= stored(database)


async def test_what_a_key_sealed_is_read_after_a_restart(database: Database) -> None:
    """Another life of the gateway, and another gateway, open what a key sealed."""
    key = await a_vault(database).new_key(CASE)
    sealed = key.seal("content", b"plain")
    for holder in ("gateway-1", "gateway-2"):
        assert b"plain" == a_vault(database, holder).key(key.id, CASE).open(
            "content", sealed
        )
    with pytest.raises(VerificationError):
        a_vault(database).key(key.id, CaseId("case-2")).open("content", sealed)


@pytest.mark.parametrize(
    "wrapped", [b"", bytes(12), bytes(60)], ids=["emptied", "cut short", "replaced"]
)
async def test_a_stored_key_that_was_changed_is_named_as_such(
    database: Database, wrapped: bytes
) -> None:
    """Emptied, cut short or replaced: whoever needs the case learns which it is."""
    key = await a_vault(database).new_key(CASE)
    change = text("UPDATE case_key SET wrapped = :wrapped WHERE id = :id")
    values = {"wrapped": wrapped, "id": key.id}
    await database.write(lambda c: c.execute(change, values).close())

    with pytest.raises(VerificationError, match="the key of a case was changed"):
        a_vault(database).key(key.id, CASE)


async def test_no_key_is_handed_out_twice(database: Database) -> None:
    """Many cases at once, at two gateways: each has a key of its own, stored."""
    vaults = a_vault(database, "gateway-1"), a_vault(database, "gateway-2")
    keys = await asyncio.gather(
        *(vault.new_key(CaseId(f"case-{n}")) for n in range(150) for vault in vaults)
    )

    assert 300 == len({key.id for key in keys}) == len({key.raw for key in keys})
    assert {key.id for key in keys} <= stored(database)


async def test_a_start_removes_the_gateways_own_unused_keys(database: Database) -> None:
    """What cases name stays, and so does all that another gateway made ahead."""
    before, other = a_vault(database), a_vault(database, "gateway-2")
    await other.start(nobody)
    others = stored(database)
    taken = [await before.new_key(CaseId(f"case-{n}")) for n in range(3)]

    async def used(among: Sequence[KeyId]) -> Collection[KeyId]:
        return used_by(taken[:2], among)

    again = a_vault(database)
    await again.start(used)
    theirs = [await again.new_key(CASE) for _ in range(40)]
    left = stored(database) - others

    assert {key.id for key in taken[:2]} <= left
    assert taken[2].id not in left
    assert {key.id for key in theirs} <= left
    assert others <= stored(database)


async def test_a_destroyed_key_opens_nothing(database: Database) -> None:
    """A key that was destroyed is found neither in memory nor in the store."""
    vault = a_vault(database)
    key = await vault.new_key(CASE)
    await vault.destroy_key(key.id)

    assert key.id not in stored(database)
    with pytest.raises(NotFoundError):
        vault.key(key.id, CASE)


async def test_cases_are_opened_while_keys_last(database: Database) -> None:
    """A store that can't be written is felt when the keys that were made are used."""
    vault = a_vault(database)
    await vault.start(nobody)
    ahead = len(vault._ahead)
    database.close()
    keys = [await vault.new_key(CaseId(f"case-{n}")) for n in range(ahead)]

    assert ahead == len({key.id for key in keys})
    with pytest.raises(StoreUnavailableError):
        await vault.new_key(CASE)


def test_a_key_has_one_case_whatever_happens(vault_url: str) -> None:
    """Taken, given back, and started again in any order: no case's key is another's.

    And no case's key is ever lost.
    """

    async def run(database: Database, steps: list[str]) -> None:
        vault, named = a_vault(database), list[CaseKey]()

        async def used(among: Sequence[KeyId]) -> Collection[KeyId]:
            return used_by(named, among)

        for step in steps:
            if step == "restart":
                vault = a_vault(database)
                await vault.start(used)
                continue
            key = await vault.new_key(CASE)
            if step == "give back":
                vault.give_back(key)
            else:
                named.append(key)

        fresh = a_vault(database)

        assert len(named) == len({key.id for key in named})
        assert {key.id for key in named} <= stored(database)
        assert all(key.raw == fresh.key(key.id, CASE).raw for key in named)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(
            st.sampled_from([*["take"] * 20, "give back", "restart"]),
            # Enough for several batches: most lists would end in the first.
            min_size=100,
            max_size=200,
        )
    )
    def holds(steps: list[str]) -> None:
        with Database(vault_url) as database:
            asyncio.run(run(database, steps))

    holds()


async def test_a_request_that_opens_nothing_uses_up_no_key(
    tmp_path: Path, tables_url: str, vault_url: str
) -> None:
    """A repeated request is answered with its case, and its key goes to the next."""
    repeat = RepeatKeys(MASTER).of("portal", "key", "POST /v1/cases", b"{}")
    opening = an_opening()
    async with an_office(tmp_path, tables_url, vault_url) as office:
        first, _ = await office.resolver.open(opening, 5.0, repeat)
        ahead = list(office.vault._ahead)
        second, _ = await office.resolver.open(opening, 5.0, repeat)

        assert first == second
        assert ahead == list(office.vault._ahead)
