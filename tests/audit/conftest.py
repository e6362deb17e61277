"""A log of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.examples import Room, open_room


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Return a fresh log, closed after the test."""
    opened = open_room(tmp_path)
    yield opened
    opened.close()
