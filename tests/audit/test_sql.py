"""What both engines are told alike: rows come back as they were added."""

from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.places import open_sql, parse_place
from audit.sql import Place, Postgres, Tables, Value
from schemas.errors import SettingsError

_TABLE = (
    "CREATE TABLE thing (place {number}, word TEXT, amount {number}, bytes {bytes})"
)
_TABLES = Tables(
    sqlite=_TABLE.format(number="INTEGER", bytes="BLOB"),
    postgres=_TABLE.format(number="BIGINT", bytes="BYTEA"),
)
_WORDS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.sampled_from("\\\t\n\rN.,'\"")
)
_ROWS = st.lists(
    st.tuples(
        st.none() | _WORDS,
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.binary(),
    ),
    max_size=20,
)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it makes places
)
@given(st.lists(_ROWS, min_size=1, max_size=3))
def test_added_rows_come_back_as_they_were(
    a_place: Callable[[], Place], parts: list[list[tuple[Value, ...]]]
) -> None:
    """Whatever they hold, also where some are added after others, or none."""
    added: list[tuple[Value, ...]] = []
    with closing(open_sql(a_place())) as sql:
        sql.make(_TABLES)
        for part in parts:
            rows = [(len(added) + at, *row) for at, row in enumerate(part)]
            with sql.transaction() as changes:
                changes.add_all("thing", rows)
            added += rows
        found = sql.rows("SELECT * FROM thing ORDER BY place")

    assert added == found


def test_a_table_is_made_once_it_was_made(place: Place) -> None:
    """And no other table with it; who asks makes none."""
    with closing(open_sql(place)) as sql:
        before = sql.is_made("thing")
        sql.make(_TABLES)

        assert not before
        assert sql.is_made("thing")
        assert not sql.is_made("other")


@pytest.mark.parametrize(
    "text", ["postgresq://u:planted@h/x", "postgresql:/u:planted@h/x", "postgres://%z"]
)
def test_an_address_with_a_slip_is_no_path(text: str) -> None:
    """It is refused, and nothing of it is repeated."""
    with pytest.raises(SettingsError, match="write `postgresql://") as caught:
        parse_place(text, "errand_log")

    assert "planted" not in str(caught.value)


def test_an_address_is_taken_as_the_settings_have_it() -> None:
    """With the driver that only the gateway's tables need named."""
    place = parse_place("postgresql+psycopg://u@h/x", "errand_log")

    assert Postgres("postgresql://u@h/x", "errand_log") == place
