"""Statements for the driver itself: rows, transactions and errors as of any other."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError

from exchange.connecting import connected
from exchange.statements import Rows, Statement, Value
from tests.harness.postgres import Lend

_METADATA = MetaData()
_THING = Table(
    "stated",
    _METADATA,
    Column("name", String, primary_key=True),
    Column("count", BigInteger),
    Column("content", LargeBinary),
)
_INSERT = Statement(insert(_THING))
_ROWS = Rows(_THING)
_COUNT = Statement(update(_THING).where(_THING.c.name == bindparam("named")), "count")
_DELETE = Statement(delete(_THING).where(_THING.c.name == bindparam("named")))


def _prepare(url: str) -> None:
    with connected(url, read_only=False) as connection:
        _METADATA.create_all(connection)
        connection.commit()


@pytest.fixture
def connection(lend: Lend) -> Iterator[Connection]:
    """A connection to one empty table, on each engine."""
    with connected(lend("stated", _prepare), read_only=False) as opened:
        yield opened


def _thing(name: str, count: int | None = 0, content: bytes = b"") -> dict[str, Value]:
    return {"name": name, "count": count, "content": content}


def _all(connection: Connection) -> list[tuple[Value, ...]]:
    return [tuple(row) for row in connection.execute(select(_THING)).all()]


def test_what_a_statement_stores_reads_the_same(connection: Connection) -> None:
    """Text, numbers of 64 bits, bytes and nothing at all come back as they were."""

    @settings(max_examples=30, deadline=None)
    @given(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.binary(),
    )
    def holds(name: str, count: int | None, content: bytes) -> None:
        _INSERT.run(connection, _thing(name, count, content))
        found = _all(connection)
        connection.rollback()

        assert [(name, count, content)] == found

    holds()


def test_each_row_of_many_is_stored(connection: Connection) -> None:
    """However many rows are given at once, all are there, and nothing else."""

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=100))
    @example(list(range(32)))
    @example(list(range(33)))
    @example(list(range(100)))
    def holds(counts: list[int]) -> None:
        names = [f"{number:03}" for number in range(len(counts))]
        _ROWS.insert(connection, list(map(_thing, names, counts)))
        found = sorted(_all(connection))
        connection.rollback()

        assert [(n, c, b"") for n, c in zip(names, counts, strict=True)] == found

    holds()


def test_it_counts_the_rows_that_it_changed(connection: Connection) -> None:
    """Who changes a row learns whether it was there."""
    _ROWS.insert(connection, [_thing("a"), _thing("b")])
    asked: list[tuple[Statement, dict[str, Value]]] = [
        (_COUNT, {"named": "a", "count": 7}),
        (_COUNT, {"named": "nobody", "count": 7}),
        (_DELETE, {"named": "b"}),
        (_DELETE, {"named": "b"}),
    ]
    changed = [one.run(connection, values).rowcount for one, values in asked]

    assert [1, 0, 1, 0] == changed
    assert [("a", 7, b"")] == _all(connection)


def test_it_is_part_of_the_transaction(connection: Connection) -> None:
    """It begins one where none is, and is undone with it."""
    _INSERT.run(connection, _thing("a"))
    was_open = connection.in_transaction()
    connection.rollback()

    assert was_open
    assert [] == _all(connection)


def test_its_error_is_like_any_other_and_holds_no_value(connection: Connection) -> None:
    """A row that is there twice is SQLAlchemy's own error, without the parameters."""
    _INSERT.run(connection, _thing("a", content=b"planted"))
    connection.commit()
    for run in (_INSERT.run, lambda c, row: _ROWS.insert(c, [row])):
        with pytest.raises(IntegrityError) as caught:
            run(connection, _thing("a", content=b"planted"))
        connection.rollback()

        assert "planted" not in str(caught.value)


def test_a_lost_connection_is_known_as_lost(postgres_url: str) -> None:
    """A connection that the server cut is invalidated, and said to be."""
    _prepare(postgres_url)
    with connected(postgres_url, read_only=False) as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        connection.commit()
        with connected(postgres_url, read_only=False) as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")
        with pytest.raises(OperationalError) as caught:
            _INSERT.run(connection, _thing("a"))

        assert caught.value.connection_invalidated
        assert connection.invalidated
