"""The store that the tests of this room share."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine

from tests.consent.examples import an_engine


@pytest.fixture
def engine(tables_url: str) -> Iterator[Engine]:
    """Open a store of one's own, on SQLite and on PostgreSQL."""
    with an_engine(tables_url) as engine:
        yield engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Open one writing transaction."""
    with engine.begin() as connection:
        yield connection
