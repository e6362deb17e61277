"""A start that can't reach a database: which one, and why, and nothing of its URL."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from audit.postgres import why_unreached
from exchange.connecting import connected, telling_where
from exchange.opening import opened
from exchange.settings import Settings, parse_settings
from exchange.telemetry import Metrics
from schemas.clock import SystemClock
from schemas.errors import ErrandError, StoreUnavailableError
from tests.harness.postgres import Databases

NOBODY = "postgresql://planted:secret@127.0.0.1:1/planted"
"""Nobody listens there."""
KEYS = ("database_url", "vault_url", "log_url", "subjects_url", "erasures_url")


def refused(settings: Settings) -> str:
    """Start a gateway that can't start, and return why."""

    async def start() -> None:
        async with opened(settings, SystemClock(), Metrics()):
            pass

    with pytest.raises(ErrandError) as told:
        asyncio.run(start())
    return str(told.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_server_that_nobody_runs_is_told_by_its_setting(
    tmp_path: Path, key: str
) -> None:
    """Whichever of them it is; an operator looks there, and at the server."""
    why = refused(parse_settings(f"{key}: {NOBODY}", {}, tmp_path))

    assert f"the server of `{key}`" in why
    assert why.endswith(": its host is not found, or nobody listens there")
    assert "planted" not in why
    assert "secret" not in why


def test_a_server_that_has_no_such_database_is_told_apart(
    tmp_path: Path, databases: Databases
) -> None:
    """It is there and refuses us: host and port are right."""
    url = databases.empty()
    missing = url.replace("?", "_not_there?")
    more = f"log_url: {url}\ndatabase_url: {missing}"
    why = refused(parse_settings(more, {}, tmp_path))

    assert "`database_url` can't be read or written now: it refuses the account" in why
    assert "not_there" not in why


def test_why_there_is_no_connection_is_told_in_our_own_words() -> None:
    """What the driver says names the account, and is in any language."""
    no_tls = "connection failed: server does not support SSL, but SSL was required"

    assert "it does not answer in time" == why_unreached(
        psycopg.errors.ConnectionTimeout("connection timeout expired")
    )
    assert "it answers with SQLSTATE 55P03" == why_unreached(
        psycopg.errors.LockNotAvailable("planted")
    )
    assert why_unreached(psycopg.OperationalError(no_tls)).endswith("password and TLS")


def test_a_file_is_told_by_its_name_and_the_kind_of_its_error(tmp_path: Path) -> None:
    """It has no server: the setting would send the operator to the wrong place."""
    url = f"sqlite:///{tmp_path / 'errand.db'}"
    with (
        pytest.raises(
            StoreUnavailableError, match=r"errand\.db` can't .*: SQLITE_READ"
        ),
        telling_where(url, "database_url"),
        connected(url, read_only=True) as connection,
    ):
        connection.exec_driver_sql("CREATE TABLE made (number INTEGER)")
