"""What every test shares."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import hypothesis
import pytest

from exchange.demo.postgres import PostgresServer, a_server
from exchange.migrations.schema import Part
from tests.harness.postgres import Databases, Files, Lend, migrated

# No test asserts a time: a busy machine is no fault.
hypothesis.settings.register_profile("errand", deadline=None)
hypothesis.settings.load_profile("errand")


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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return what makes fresh databases on SQLite."""
    return Files(tmp_path_factory.mktemp("databases"))


@pytest.fixture
def postgres_url(databases: Databases) -> str:
    """Return the URL of an empty database on PostgreSQL."""
    return databases.empty()


@pytest.fixture(params=["sqlite", "postgresql"])
def lend(
    request: pytest.FixtureRequest, files: Files, tmp_path: Path
) -> Iterator[Lend]:
    """Lend fresh databases: each test that asks runs on SQLite and on PostgreSQL."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield lambda name, prepare: files.copy_of(name, prepare, tmp_path)
        else:
            databases: Databases = request.getfixturevalue("databases")
            yield lambda name, prepare: stack.enter_context(
                databases.lend(name, prepare)
            )


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database with nothing in it, on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def tables_url(lend: Lend) -> str:
    """Lend the gateway's tables, empty, on each engine."""
    return lend("tables", partial(migrated, Part.TABLES))


@pytest.fixture
def vault_url(lend: Lend) -> str:
    """Lend an empty vault, on each engine."""
    return lend("vault", partial(migrated, Part.VAULT))


@pytest.fixture
def postgres_tables(databases: Databases) -> Iterator[str]:
    """Lend the gateway's tables, empty, on PostgreSQL alone."""
    with databases.lend("tables", partial(migrated, Part.TABLES)) as url:
        yield url
