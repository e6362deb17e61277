"""The form of the tables, and the idempotency keys that live in them."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, inspect

from exchange import cases
from exchange.connecting import connected
from exchange.database import Database
from exchange.idempotency import RepeatKey, RepeatKeys, claim, find, forget_before
from exchange.migrations.schema import (
    Part,
    _config,
    metadata,
    upgrade,
)
from schemas.errors import InvalidRequestError, KeyReusedError, SettingsError
from schemas.ids import KeyId

NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
KEYS = RepeatKeys(bytes(32))


def differences(connection: Connection, part: Part) -> list[object]:
    """Return how a database differs from what the code declares; nothing is right."""
    migration = MigrationContext.configure(connection, opts={"compare_type": True})
    found: list[object] = compare_metadata(migration, metadata(part))
    return found


@pytest.mark.parametrize("part", Part)
def test_migrated_tables_are_what_the_code_declares(empty_url: str, part: Part) -> None:
    """From nothing, the revisions end exactly where the code is."""
    upgrade(empty_url, part)
    with connected(empty_url, read_only=True) as connection:
        found = differences(connection, part)

    assert found == []


@pytest.mark.parametrize("part", Part)
def test_the_comparison_sees_a_missing_table(empty_url: str, part: Part) -> None:
    """The test above could fail: a dropped table is noticed."""
    upgrade(empty_url, part)
    name = next(iter(metadata(part).tables))
    with connected(empty_url, read_only=False) as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")
        found = differences(connection, part)

    assert found != []


@pytest.mark.parametrize("part", Part)
def test_a_database_that_lacks_a_table_is_refused_by_the_name_of_that(
    empty_url: str, part: Part
) -> None:
    """No revision makes it again, and of this one nobody would miss anything."""
    upgrade(empty_url, part)
    for before, after in ("commit_mark", "gone"), ("gone", "commit_mark"):
        with connected(empty_url, read_only=False) as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")
            connection.commit()
        if after == "gone":
            with pytest.raises(SettingsError, match="no table `commit_mark`: it is"):
                upgrade(empty_url, part)
    upgrade(empty_url, part)


def test_the_keys_of_cases_are_in_the_vault_alone() -> None:
    """The tables of the gateway have no column that could hold a case's key."""
    vault, tables = metadata(Part.VAULT).tables, metadata(Part.TABLES).tables

    assert set(vault) == {"case_key", "commit_mark", "key_batch"}
    assert "case_key" not in tables
    assert {"case_file", "evidence", "consent", "due", "idempotency"} <= set(tables)


def test_upgrading_twice_is_upgrading_once(tables_url: str) -> None:
    """A restart finds the tables as they are and leaves what they hold."""
    with connected(tables_url, read_only=False) as connection:
        claim(connection, _repeat("key", b"{}"), "case-1", NOW)
        connection.commit()
    upgrade(tables_url, Part.TABLES)
    with connected(tables_url, read_only=True) as connection:
        found = find(connection, _repeat("key", b"{}"))

    assert found == "case-1"


def test_cases_of_before_keep_their_keys(empty_url: str) -> None:
    """A case that was opened before keys had ids of their own names its key by its id.

    And the way back leads to the tables as they were.
    """
    case = (
        "INSERT INTO case_file (id, requester, matter, purpose, status, opened_at, "
        "version) VALUES ('case-1', 'portal', 'newborn@1', 'any', 'open', 0, 0)"
    )
    with connected(empty_url, read_only=False) as connection:
        config = _config(connection, Part.TABLES)
        command.upgrade(config, "0003")
        connection.exec_driver_sql(case)
        command.upgrade(config, "head")
        keys = cases.find_keys(connection, [KeyId("case-1"), KeyId("case-2")])
        command.downgrade(config, "0003")
        columns = {one["name"] for one in inspect(connection).get_columns("case_file")}

    assert ["case-1"] == keys
    assert "key_id" not in columns


def _repeat(header: str, body: bytes, client: str = "portal") -> RepeatKey:
    return KEYS.of(client, header, "POST /v1/cases", body)


@pytest.fixture
def connection(tables_url: str) -> Iterator[Connection]:
    """A connection to migrated tables."""
    with connected(tables_url, read_only=False) as opened:
        yield opened


def test_a_repeated_request_names_what_it_made(connection: Connection) -> None:
    """The same key with the same request leads to the first resource."""
    first = claim(connection, _repeat("key", b"{}"), "case-1", NOW)
    second = claim(connection, _repeat("key", b"{}"), "case-2", NOW)
    other_client = claim(connection, _repeat("key", b"{}", "other"), "case-3", NOW)

    assert [first, second, other_client] == ["case-1", "case-1", "case-3"]


def test_a_key_with_another_request_is_refused(connection: Connection) -> None:
    """Another body, or another operation, under the same key is the client's error."""
    claim(connection, _repeat("key", b"{}"), "case-1", NOW)
    with pytest.raises(KeyReusedError):
        claim(connection, _repeat("key", b"[]"), "case-2", NOW)
    with pytest.raises(KeyReusedError):
        find(connection, KEYS.of("portal", "key", "POST /v1/consents", b"{}"))


def test_old_keys_are_forgotten(connection: Connection) -> None:
    """After its lifetime a key makes something new."""
    claim(connection, _repeat("old", b"{}"), "case-1", NOW - timedelta(days=8))
    claim(connection, _repeat("new", b"{}"), "case-2", NOW)
    forgotten = forget_before(connection, NOW - timedelta(days=7))

    assert forgotten == 1
    assert find(connection, _repeat("old", b"{}")) is None
    assert find(connection, _repeat("new", b"{}")) == "case-2"


def test_of_many_at_once_one_makes_the_resource(tables_url: str) -> None:
    """The same request sent many times at the same instant makes one thing."""

    async def run() -> list[str]:
        with Database(tables_url) as database:
            works = (
                partial(claim, repeat=_repeat("key", b"{}"), resource=name, now=NOW)
                for name in ("case-0", "case-1", "case-2", "case-3")
            )
            return await asyncio.gather(*(database.write(work) for work in works))

    assert set(asyncio.run(run())) == {"case-0"}


@pytest.mark.parametrize("header", ["", "x" * 256, "a\nb", "键"])
def test_a_key_that_is_no_key_is_refused(header: str) -> None:
    """Empty, too long or not printable ASCII."""
    with pytest.raises(InvalidRequestError):
        _repeat(header, b"{}")


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_different_requests_have_different_digests(one: bytes, other: bytes) -> None:
    """Two bodies share a digest exactly when they are the same."""
    same = _repeat("key", one).request == _repeat("key", other).request

    assert same == (one == other)


def test_a_digest_tells_nothing_without_the_gateways_key() -> None:
    """Another gateway gets other digests of the same request, key and body alike."""
    ours, theirs = _repeat("key", b"{}"), RepeatKeys(b"k" * 32)
    foreign = theirs.of("portal", "key", "POST /v1/cases", b"{}")

    assert ours.key != foreign.key
    assert ours.request != foreign.request
