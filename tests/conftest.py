"""What every test shares."""

from collections.abc import Iterator

import pytest

from exchange.demo.postgres import PostgresServer, a_server
from tests.harness.postgres import Databases


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the gateway does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL for the whole session: started by the first who asks."""
    with a_server() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Databases:
    """Return what makes fresh databases on the session's PostgreSQL."""
    return Databases(postgres)


@pytest.fixture
def postgres_url(databases: Databases) -> str:
    """Return the URL of an empty database on PostgreSQL."""
    return databases.empty()


@pytest.fixture
def postgres_tables(databases: Databases) -> Iterator[str]:
    """Lend a database on PostgreSQL with the gateway's tables, all empty."""
    with databases.tables() as url:
        yield url
