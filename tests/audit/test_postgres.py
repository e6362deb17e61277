"""A connection to PostgreSQL: who is silent holds nobody up, and closed is closed."""

import select
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from audit.leading import open_lead
from audit.postgres import PostgresSql
from audit.sql import Changes, Postgres, Tables
from audit.writer import AuditLog
from schemas.errors import LogUnavailableError
from tests.audit.examples import Room

_SOON = "options=-c%20idle_in_transaction_session_timeout%3D50"
PATIENCE_S = 20.0


@pytest.fixture
def impatient(postgres_url: str) -> Postgres:
    """Return a schema with a table, whose server ends who is idle in a transaction."""
    place = Postgres(f"{postgres_url}&{_SOON}", "silent")
    with closing(PostgresSql(place)) as sql:
        sql.make(Tables("", "CREATE TABLE thing (id INTEGER PRIMARY KEY)"))
    return place


@pytest.fixture
def administrator(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Connect as somebody else."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def add(changes: Changes, number: int) -> None:
    """Add a thing."""
    changes.change("INSERT INTO thing VALUES (?)", (number,))


def hear_the_end(sql: PostgresSql) -> None:
    """Say nothing until the server has said that it ends the session."""
    assert [] != select.select([sql.connected().fileno()], [], [], PATIENCE_S)[0]


@pytest.mark.parametrize("asks", [True, False])
def test_a_silent_transaction_is_ended_and_the_next_one_goes_on(
    impatient: Postgres, administrator: psycopg.Connection, *, asks: bool
) -> None:
    """Its locks go with it, and whoever comes back hears that nothing is stored."""

    def fall_silent(sql: PostgresSql) -> None:
        with sql.transaction() as changes:
            add(changes, 1)
            hear_the_end(sql)
            # It would wait for who was silent, who had the same row.
            administrator.execute("SET lock_timeout = '1s'")
            administrator.execute("INSERT INTO silent.thing VALUES (1)")
            if asks:
                changes.rows("SELECT id FROM thing")

    with closing(PostgresSql(impatient)) as sql:
        with pytest.raises(LogUnavailableError):
            fall_silent(sql)
        with sql.transaction() as changes:
            add(changes, 2)
        found = sql.rows("SELECT id FROM thing ORDER BY id")

    assert [(1,), (2,)] == found


def test_a_silent_snapshot_is_ended_and_the_next_one_goes_on(
    impatient: Postgres,
) -> None:
    """What was read before and after it is not taken for one instant."""

    def fall_silent(sql: PostgresSql) -> None:
        with sql.snapshot():
            sql.rows("SELECT id FROM thing")
            hear_the_end(sql)
            sql.rows("SELECT id FROM thing")

    with closing(PostgresSql(impatient, read_only=True)) as sql:
        with pytest.raises(LogUnavailableError):
            fall_silent(sql)
        with sql.snapshot():
            found = sql.rows("SELECT id FROM thing")

    assert [] == found


@pytest.mark.parametrize(("read_only", "idle"), [(False, "15s"), (True, "10min")])
def test_the_server_is_told_how_long_to_wait_for_who_is_gone(
    postgres_url: str, *, read_only: bool, idle: str
) -> None:
    """Both in the middle of a transaction and for a host that vanished."""
    with closing(PostgresSql(Postgres(postgres_url, "x"), read_only=read_only)) as sql:
        [[found]] = sql.rows("SHOW idle_in_transaction_session_timeout")
        asked = sql.rows(
            "SELECT name FROM pg_settings"
            " WHERE name ~ '^tcp' AND source = 'session' ORDER BY name"
        )

    assert idle == found
    assert [
        ("tcp_keepalives_count",),
        ("tcp_keepalives_idle",),
        ("tcp_keepalives_interval",),
        ("tcp_user_timeout",),
    ] == asked


@pytest.mark.parametrize(
    ("read_only", "expected"),
    [
        (False, ["off", "off", "0", "force_generic_plan", '"a b"', "0"]),
        (True, ["on", "on", "0", "auto", '"a b"', "1min"]),
    ],
)
def test_every_use_rests_on_the_same_settings(
    postgres_url: str, *, read_only: bool, expected: list[str]
) -> None:
    """A writer has its plans and its patience, a reader its limits; both the schema."""
    place = Postgres(postgres_url, "a b")
    with closing(PostgresSql(place, read_only=read_only)) as sql:
        found = sql.rows(
            "SELECT current_setting(name) FROM pg_settings WHERE name IN"
            " ('default_transaction_read_only', 'enable_hashjoin', 'lock_timeout',"
            " 'plan_cache_mode', 'search_path', 'statement_timeout')"
            " ORDER BY name"
        )

    assert expected == [value for (value,) in found]


def test_who_leads_is_idle_in_no_transaction(
    log_database: str, server_room: Room
) -> None:
    """The lock of a leader is its session's, so no silence in a transaction ends it."""
    log: AuditLog = server_room.log
    assert isinstance(log.place, Postgres)
    with (
        closing(open_lead(log, 60.0)) as lead,
        psycopg.connect(log_database, autocommit=True) as connection,
    ):
        assert lead.is_held()
        holders = connection.execute(
            "SELECT state, xact_start FROM pg_stat_activity"
            " JOIN pg_locks USING (pid) WHERE locktype = 'advisory'"
        ).fetchall()

    assert [("idle", None)] == holders


def test_what_was_closed_is_never_opened_again(postgres_url: str) -> None:
    """Whoever comes late leaves no connection behind."""
    sql = PostgresSql(Postgres(postgres_url, "x"))
    before = sql.rows("SELECT 1")
    sql.close()
    with pytest.raises(LogUnavailableError, match="closed"):
        sql.rows("SELECT 1")

    assert [(1,)] == before
    assert sql.is_lost


def test_a_server_that_is_not_there_is_told_by_what_was_looked_for() -> None:
    """The schema tells which setting leads there; the address is not shown."""
    place = Postgres("postgresql://u:planted@127.0.0.1:1/x", "errand_subjects")
    with (
        closing(PostgresSql(place)) as sql,
        pytest.raises(LogUnavailableError, match="for `errand_subjects`") as caught,
    ):
        sql.rows("SELECT 1")

    assert "planted" not in str(caught.value)
