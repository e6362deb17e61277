"""Arrays that are packed by hand: the server reads what was meant."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.arrays import Blobs, Numbers, Texts, take_packed

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), TEXT),
        st.binary(max_size=600),
        st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=40,
)


@pytest.fixture
def connection(log_database: str) -> Iterator[psycopg.Connection]:
    """Return a connection that takes packed arrays."""
    with psycopg.connect(log_database) as opened:
        take_packed(opened)
        yield opened


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ROWS)
def test_what_is_packed_is_what_the_server_reads(
    connection: psycopg.Connection, rows: list[tuple[str | None, bytes, int]]
) -> None:
    """Texts with NULLs among them, bytes and numbers: each element, in order."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    packed = [Texts.of(columns[0]), Blobs.of(columns[1]), Numbers.of(columns[2])]
    found = connection.execute(
        "SELECT * FROM unnest(%b::text[], %b::bytea[], %b::bigint[])",
        packed,
        binary=True,
    ).fetchall()

    assert rows == found
