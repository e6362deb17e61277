"""The store that the tests of this room share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from tests.consent.examples import an_engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Open a store of one's own on a real file."""
    with an_engine(tmp_path / "consent.db") as engine:
        yield engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Open one writing transaction."""
    with engine.begin() as connection:
        yield connection
