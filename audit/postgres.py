"""A connection to PostgreSQL that loses nothing silently, and comes back by itself.

SOURCE: PostgreSQL documentation, 20.5 (write-ahead log settings), 27.2.8
(synchronous replication): a commit whose wait for a standby is cancelled is told by
a warning alone, so here a warning is a failure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, LiteralString, TypeAlias, cast

import psycopg
from psycopg import errors, sql

from audit.arrays import take_packed
from audit.sql import Changes, Postgres, Row, Tables, Value
from schemas.errors import LogUnavailableError, SettingsError

_DURABLE: Final = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}
"""What a server must be set to, so that what it confirms is on its disks."""
_TIME_WRITING: Final = "SET statement_timeout = 0"
"""Nobody may cut a commit short: neither a caller nor a time limit."""
_TIME_READING: Final = "SET statement_timeout = '60s'"
_WRITING: Final = {
    "lock_timeout": "0",
    # A plan that was made while a table was small is kept: none may read it whole.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_READING: Final = {"default_transaction_read_only": "on"}
ALIVE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""How to connect, so that a server that vanished is missed within some ten seconds,
and not in hours: parameters of libpq."""
MISSED: Final = {
    f"tcp_{name.removeprefix('tcp_')}": str(value) for name, value in ALIVE.items()
}
"""What the server is asked for, to miss us as soon, and let go of the locks that we
held; the `options` of the URL outweigh it."""
_CONNECT: Final = {"connect_timeout": 3, **ALIVE}
_IDLE: Final = "idle_in_transaction_session_timeout"
_IDLE_WRITING: Final = "15s"
"""How long who is in the middle of a transaction may say nothing, before the server
ends it, and with it its locks: as long as a publisher that leads (`publisher.Pace`).
Between two statements of a transaction there are milliseconds; a longer silence is that
of a process that is frozen, or of a host that is gone. A commit is never idle, so none
is cut; nor is a lock of a session, which is idle in no transaction."""
_IDLE_READING: Final = "10min"
"""The same for who only reads: it holds nobody up, but the server can't tidy up. And a
command compares what it has read before it reads on, on a slow machine for long."""
_SHOW: Final[LiteralString] = (
    "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name"
)
_SET: Final[LiteralString] = (
    "SELECT set_config(name, value, false)"
    " FROM unnest(%s::text[], %s::text[]) AS chosen(name, value)"
)
_ASK: Final[LiteralString] = (
    "SELECT set_config(name, asked.value, false) FROM pg_settings"
    " JOIN unnest(%s::text[], %s::text[]) AS asked(name, value) USING (name)"
    " WHERE source <> 'client'"
)
"""Asks for settings, but for those that the URL has chosen."""
_PARTS: Final = """
WITH here AS (SELECT oid AS schema FROM pg_namespace WHERE nspname = ?)
SELECT CASE relkind WHEN 'i' THEN 'index' ELSE 'table' END, relname::text
FROM here JOIN pg_class ON relnamespace = schema WHERE relkind IN ('r', 'p', 'i')
UNION ALL SELECT 'function', proname::text
FROM here JOIN pg_proc ON pronamespace = schema
UNION ALL SELECT 'trigger', tgname::text FROM here JOIN pg_class
ON relnamespace = schema JOIN pg_trigger ON tgrelid = pg_class.oid
WHERE tgenabled <> 'D'
"""
"""What a schema has, as `Tables.parts` names it. A trigger that is off is none."""
_TEMPORARY: Final = (
    psycopg.OperationalError,
    errors.ReadOnlySqlTransaction,
    # The server's own words when it ends one, and no kind of OperationalError.
    errors.IdleInTransactionSessionTimeout,
)
"""What may be gone when it is tried again; after any other error people must look."""

_REFUSED: Final = re.compile(r"failed: \S+:  ")
"""How libpq writes what a server, in any language, said instead of connecting."""
_ABSENT: Final = re.compile(
    "failed to resolve host|Connection refused|No such file or directory"
    "|No route to host|Network is unreachable"
)
"""How it writes that there is no server; the system's part is never translated here."""

SEALED_STATE: Final = "ER002"
"""The SQL state with which a sealed shard refuses."""
_SEALED: Final = "the log is a sealed shard: go on with the next one"

_Connection: TypeAlias = psycopg.Connection[Row]


class PostgresSql:
    """A connection to a schema, of one thread at a time.

    It is opened with its first use, and anew when it was lost. Each use raises
    SettingsError where the server is set to lose what it has confirmed, and
    LogUnavailableError once it is closed.

    Who closes it waits first for the thread that uses it: the driver would wait for
    ever for an answer on a connection that was closed under it.

    Args:
        place: The database and the schema.
        read_only: Whether it only ever reads.
    """

    def __init__(self, place: Postgres, *, read_only: bool = False) -> None:
        self._place = place
        self._read_only = read_only
        self._connection: _Connection | None = None
        self._is_held = False
        """Whether a transaction or a snapshot is open on the connection."""
        self._is_closed = False
        self._notices: list[str] = []

    def connected(self) -> _Connection:
        """Return the connection, opened anew where it was lost.

        INVARIANT: what was begun on one connection never goes on on another one: so
        none is opened while a transaction or a snapshot is.

        Raises:
            SettingsError: The server is set to lose what it has confirmed.
            LogUnavailableError: It can't be reached, was lost in a transaction, or is
                closed.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self._is_held:
            raise LogUnavailableError("the log's PostgreSQL: lost in a transaction")
        self._refuse_when_closed()
        try:
            self._connection = connection = self._connect()
        except psycopg.Error as error:
            raise unavailable(error, _unreached(self._place, error)) from None
        self._refuse_when_closed()
        return connection

    def _refuse_when_closed(self) -> None:
        # INVARIANT: no connection is left behind, whoever comes late.
        if self._is_closed:
            self.drop()
            raise LogUnavailableError("the log's PostgreSQL: closed")

    def _connect(self) -> _Connection:
        connection = psycopg.connect(
            self._place.url,
            autocommit=True,
            application_name="errand-log",
            cursor_factory=psycopg.Cursor,
            **cast(Any, _CONNECT),
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: _Connection) -> None:
        """Check what the server keeps, and set what every use rests on."""
        # First, and by itself: the database's own time limit could cut all else short.
        connection.execute(_TIME_READING if self._read_only else _TIME_WRITING)
        if not self._read_only:
            _check_durable(connection)
        settings = _READING if self._read_only else _WRITING
        path = sql.Identifier(self._place.schema).as_string(connection)
        chosen = {**settings, "search_path": path}
        connection.execute(_SET, (list(chosen), list(chosen.values())))
        # Not before: the database's own time limit could cut this short.
        idle = _IDLE_READING if self._read_only else _IDLE_WRITING
        asked = {**MISSED, _IDLE: idle}
        connection.execute(_ASK, (list(asked), list(asked.values())))
        connection.add_notice_handler(self._note)
        take_packed(connection)

    def _note(self, notice: errors.Diagnostic) -> None:
        self._notices.append(notice.sqlstate or "a warning")

    def drop(self) -> None:
        """Let go of the connection, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Let go of the connection, for good."""
        self._is_closed = True
        self.drop()

    def refuse_warnings(self) -> None:
        """Raise when the server has warned since this was last asked.

        INVARIANT: a commit that the server only warns about is not believed: its
        wait for the standby was cut short.
        """
        notices, self._notices = self._notices, []
        if notices:
            self.drop()
            raise LogUnavailableError(f"PostgreSQL warned of a commit: {notices[0]}")

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds; asked again once when the connection was lost.

        In a transaction or a snapshot it is not asked again: that is lost as well.
        """
        may_ask_again = not (self.is_lost or self._is_held)
        try:
            return _rows(self.connected(), query, values)
        except psycopg.Error as error:
            if not (may_ask_again and self.is_lost):
                raise unavailable(error) from None
        try:
            return _rows(self.connected(), query, values)
        except psycopg.Error as error:
            raise unavailable(error) from None

    @property
    def is_lost(self) -> bool:
        """Whether the server was lost: it may have done what it did not confirm."""
        return self._connection is None or self._connection.closed

    @contextmanager
    def transaction(self) -> Iterator[Changes]:
        """Begin a transaction, and commit it; an exception undoes it."""
        connection = self.connected()
        self._notices.clear()
        try:
            with self._holding(), connection.transaction():
                yield _Transaction(connection)
                # Of a connection that is closed the driver commits nothing, silently.
                self.connected()
        except psycopg.Error as error:
            self.drop()
            raise unavailable(error) from None
        self.refuse_warnings()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that is read in the block be as of one instant."""
        connection = self.connected()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                with self._holding():
                    yield
            finally:
                if not connection.closed:
                    connection.execute("ROLLBACK")
        except psycopg.Error as error:
            raise unavailable(error) from None

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Keep to the connection that there is."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def is_made(self, table: str) -> bool:
        """Return whether there is a table in the schema."""
        return bool(self.rows("SELECT 1 WHERE to_regclass(?) IS NOT NULL", (table,)))

    def make(self, tables: Tables) -> None:
        """Make tables in the schema, where there are none; one replica does it.

        Raises:
            SettingsError: The role may not; or there are some, and not all that belongs
                to them: what is missing is named, and what makes it.
            LogUnavailableError: The server can't be reached.
        """
        schema = self._place.schema
        try:
            self._make(schema, tables)
        except psycopg.Error as error:
            raise SettingsError(
                f"PostgreSQL refuses to make the schema `{schema}`: "
                f"{type(error).__name__}; the log's role must own it"
            ) from None

    def _make(self, schema: str, tables: Tables) -> None:
        with self.transaction() as changes:
            changes.rows("SELECT pg_advisory_xact_lock(hashtext(?))", (schema,))
            there = "SELECT 1 FROM pg_namespace WHERE nspname = ?"
            if not changes.rows(there, (schema,)):
                name = sql.Identifier(schema).as_string(self.connected())
                changes.change(f"CREATE SCHEMA {name}")
            there = "SELECT 1 FROM pg_tables WHERE schemaname = ? LIMIT 1"
            if not changes.rows(there, (schema,)):
                changes.change(tables.postgres)
            found = set(changes.rows(_PARTS, (schema,)))
        missing = [part for part in tables.parts if part not in found]
        if missing:
            raise SettingsError(_lacking(schema, missing, tables.remedy))


def _lacking(schema: str, parts: Sequence[tuple[str, str]], remedy: str) -> str:
    """Say what a schema lacks, and what makes it."""
    named = ", ".join(f"no {kind} `{name}`" for kind, name in parts)
    told = f"the schema `{schema}` has {named}: {remedy}"
    if any(kind == "table" for kind, _ in parts):
        return told
    # It holds no row: a backup of any age has it.
    made = f"pg_restore --schema-only --schema={schema}"
    return f"{told}; where all rows are there, `{made}` makes it from any backup"


class _Transaction:
    """A transaction under way on PostgreSQL."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds."""
        return _rows(self._connection, query, values)

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Do something; return how many rows it changed."""
        return self._connection.execute(_translated(statement), values).rowcount

    def change_all(self, statement: str, rows: Iterable[Sequence[Value]]) -> None:
        """Do the same for each of some rows."""
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(statement), rows)

    def add_all(self, table: str, rows: Sequence[Sequence[Value]]) -> None:
        """Add rows to a table, with a value for each of its columns."""
        into = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
        with self._connection.cursor() as cursor, cursor.copy(into) as copy:
            for row in rows:
                copy.write_row(row)


def _check_durable(connection: _Connection) -> None:
    """Raise SettingsError unless what the server confirms is on its disks."""
    found: dict[str, str] = dict(
        connection.execute(_SHOW, (list(_DURABLE),)).fetchall()
    )
    for name, allowed in _DURABLE.items():
        if found[name] not in allowed:
            raise SettingsError(
                f"PostgreSQL's `{name}` is `{found[name]}`: the log needs "
                f"`{allowed[0]}`, or it would lose what it has promised"
            )


def _rows(connection: _Connection, query: str, values: Sequence[Value]) -> list[Row]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(_translated(query), values).fetchall()


@lru_cache(maxsize=256)
def _translated(statement: str) -> str:
    """Return a statement with the driver's marks; ours has no `%` and no other `?`."""
    return statement.replace("?", "%s")


def why_unreached(error: psycopg.Error) -> str:
    """Say of a server why there is no connection to it.

    INVARIANT: nothing that the driver says is repeated: it names the account.
    """
    if error.sqlstate is not None:
        return f"it answers with SQLSTATE {error.sqlstate}"
    if isinstance(error, errors.ConnectionTimeout):
        return "it does not answer in time"
    said = str(error)
    if _REFUSED.search(said):
        return "it refuses the account, has no such database, or is not ready yet"
    if _ABSENT.search(said):
        return "its host is not found, or nobody listens there"
    return "no connection comes about: see host, port, password and TLS"


def _unreached(place: Postgres, error: psycopg.Error) -> str:
    """Say which server can't be reached, and why."""
    at = f" at the server of `{place.setting}`" if place.setting else ""
    return f"no connection for `{place.name}`{at}: {why_unreached(error)}"


def unavailable(error: psycopg.Error, told: str = "") -> Exception:
    """Return what to raise for an error of the driver.

    What may pass is LogUnavailableError, and so is what a sealed shard refuses; any
    other error is returned as it is.

    Args:
        error: The driver's.
        told: What happened, where that tells more than the error's kind.
    """
    name = type(error).__name__
    if error.sqlstate == SEALED_STATE:
        return LogUnavailableError(_SEALED)
    if isinstance(error, _TEMPORARY):
        return LogUnavailableError(f"the log's PostgreSQL: {told or name}")
    return error
