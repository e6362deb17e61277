"""A log of its own for each test, on both engines or on one."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.sql import Place, Postgres
from tests.audit.examples import Room, open_room
from tests.harness.postgres import Databases

_schemas = itertools.count(1)


@pytest.fixture(scope="session")
def log_database(databases: Databases) -> str:
    """Return the URL of a database for the logs of all tests, a schema for each."""
    return databases.empty()


@pytest.fixture
def a_schema(request: pytest.FixtureRequest) -> Callable[[], Postgres]:
    """Return what makes fresh places on PostgreSQL, which starts when it is used."""

    def make() -> Postgres:
        url: str = request.getfixturevalue("log_database")
        return Postgres(url, f"log_{next(_schemas)}")

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def a_place(
    request: pytest.FixtureRequest,
    a_schema: Callable[[], Postgres],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], Place]:
    """Return what makes fresh places, on one engine after the other."""
    if request.param == "postgres":
        return a_schema
    return lambda: tmp_path_factory.mktemp("log") / "log.db"


@pytest.fixture
def place(a_place: Callable[[], Place]) -> Place:
    """Return a fresh place, on one engine after the other."""
    return a_place()


@pytest.fixture
def room(file_room: Room) -> Room:
    """Return a fresh log in a file: most is tested above the engines."""
    return file_room


@pytest.fixture
def either_room(tmp_path: Path, place: Place) -> Iterator[Room]:
    """Return a fresh log, on one engine after the other; closed after the test."""
    folder = place.parent if isinstance(place, Path) else tmp_path
    opened = open_room(folder, place=place)
    yield opened
    opened.close()


@pytest.fixture
def file_room(tmp_path: Path) -> Iterator[Room]:
    """Return a fresh log in a file, closed after the test."""
    opened = open_room(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def server_room(tmp_path: Path, a_schema: Callable[[], Postgres]) -> Iterator[Room]:
    """Return a fresh log on PostgreSQL, closed after the test."""
    opened = open_room(tmp_path, place=a_schema())
    yield opened
    opened.close()
