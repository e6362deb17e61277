"""Keys of cases whose gateway was killed while PostgreSQL still commits them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

from exchange import cases
from exchange.database import Database
from exchange.migrations.schema import Part
from exchange.opening import _named
from schemas.ids import KeyId
from tests.exchange.opening_child import CASE, a_vault
from tests.harness.patience import until
from tests.harness.postgres import Databases, migrated

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
# The commit of a case waits for the test, for as long as that takes.
_HELD_COMMIT = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER held AFTER INSERT ON case_file
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
"""
_WAITING = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
              AND datname = current_database() AND query LIKE %s"""


@dataclass(frozen=True, slots=True)
class Place:
    """The tables and the vault of a gateway, open in its next life."""

    tables: Database
    keys: Database
    urls: tuple[str, str]
    server: psycopg.Connection
    """A connection of the test's own."""

    async def start(self) -> None:
        """Start the vault as a gateway does."""
        await a_vault(self.keys).start(partial(_named, self.tables))

    def waits(self, statement: str) -> bool:
        """Return whether a statement waits for another's lock."""
        return self.server.execute(_WAITING, (statement,)).fetchone() != (0,)

    def has(self, key: KeyId) -> bool:
        """Return whether a key is stored."""
        query = "SELECT count(*) FROM case_key WHERE id = %s"
        with psycopg.connect(self.urls[1]) as connection:
            return connection.execute(query, (key,)).fetchone() == (1,)


@pytest.fixture
def place(databases: Databases) -> Iterator[Place]:
    """Make a gateway's databases, of its own."""
    tables, keys = (
        databases.copy_of(part.value, partial(migrated, part))
        for part in (Part.TABLES, Part.VAULT)
    )
    with (
        Database(tables) as first,
        Database(keys) as second,
        psycopg.connect(tables, autocommit=True) as server,
    ):
        yield Place(first, second, (tables, keys), server)


def kill_in_its_commit(place: Place) -> KeyId:
    """Kill a gateway while the server commits its case; return the case's key."""
    child = [sys.executable, "-m", "tests.exchange.opening_child", *place.urls]
    with subprocess.Popen(child, cwd=ROOT, stdout=subprocess.PIPE, text=True) as gone:
        try:
            assert gone.stdout is not None
            key = KeyId(gone.stdout.readline().strip())
            until(lambda: place.waits("COMMIT"), "a commit under way")
        finally:
            gone.kill()
    return key


async def test_a_case_whose_commit_outlives_its_gateway_keeps_its_key(
    place: Place,
) -> None:
    """Killed while the server commits, and started before that has done so."""
    place.server.execute(_HELD_COMMIT)
    place.server.execute("SELECT pg_advisory_lock(1)")
    key = await asyncio.to_thread(kill_in_its_commit, place)
    starting = asyncio.create_task(place.start())
    while not (starting.done() or place.waits("LOCK TABLE%")):  # noqa: ASYNC110 - the server tells by no event
        await asyncio.sleep(0)
    place.server.execute("SELECT pg_advisory_unlock(1)")
    await starting
    stored = await place.tables.read(partial(cases.find_case, case=CASE.id))

    assert stored is not None
    assert key == stored.key
    assert place.has(key)


async def test_where_a_commit_does_not_end_keys_are_left_to_the_next_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway starts all the same, with keys that are new."""
    vault = a_vault(place.keys)
    await vault.start(partial(_named, place.tables))
    key = (await vault.new_key(CASE.id)).id
    monkeypatch.setattr("exchange.cases._UNDER_WAY_MS", 20)
    with psycopg.connect(place.urls[0]) as writing:
        writing.execute("LOCK TABLE case_file IN ROW EXCLUSIVE MODE")
        await place.start()
        left = place.has(key)
    await place.start()

    assert left
    assert not place.has(key)
