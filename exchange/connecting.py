"""Connections to the gateway's tables, ready for its transactions, on either engine.

What differs between SQLite and PostgreSQL stands here and nowhere else but in the
statements of stores: how transactions begin, what makes a commit durable, how long
anything is waited for, and how a lost connection is known.

SOURCE: SQLite documentation, PRAGMA; PostgreSQL documentation, chapters 19 (settings)
and 28 (reliability and the write-ahead log).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from audit.postgres import ALIVE, MISSED, why_unreached
from audit.sql import Place
from schemas.errors import SettingsError, StoreUnavailableError

_BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for whoever else holds what it needs: another process
that holds the file on SQLite, a row lock of another replica on PostgreSQL."""
_CONNECT_S = 5
"""How long connecting to PostgreSQL may take."""
_IDLE_S = 10
"""How long PostgreSQL waits in the middle of a transaction for the next thing that is
said, before it ends the session, and with it its locks: as long as a gateway that has
fallen silent counts as running (`exchange.fleet.LEASE`). A transaction is a plain
function that asks nobody, so between two statements there are milliseconds; a longer
silence is that of a process that is frozen, or of a host that is gone. A commit is
never idle: none is cut."""
_LEAST_FREE_BYTES = 1 << 20
"""What has to be free on the disk of a SQLite file that took no writes before."""
_AGAIN = frozenset({"40001", "40P01"})
"""SQLSTATEs of a transaction that lost against another one, and may be repeated."""
_MIGRATING = 0x6572_7262
"""Any number that nothing else in the database locks (`consent.uses` has one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the connections of an engine may do, and how."""

    read_only: bool


def open_engine(url: str, kind: Kind, *, connections: int) -> Engine:
    """Return an engine whose connections are ready for our transactions.

    Raises:
        SettingsError: The URL names no database that the gateway can keep.
    """
    parsed = _parse(url)
    on_postgres = parsed.get_backend_name() == "postgresql"
    engine = create_engine(
        parsed,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # INVARIANT: no person's value in an error (rule 8)
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
        connect_args=_postgres_arguments(parsed, kind) if on_postgres else {},
    )
    if on_postgres:
        _prepare_postgres(engine, kind)
    else:
        _prepare_sqlite(engine, str(parsed.database), kind)
    return engine


def file_of(url: str) -> Path | None:
    """Return the file that a database is; None where it is at a server.

    Raises:
        SettingsError: As for `open_engine`.
    """
    parsed = _parse(url)
    on_postgres = parsed.get_backend_name() == "postgresql"
    return None if on_postgres else Path(str(parsed.database))


@contextmanager
def connected(url: str, *, read_only: bool) -> Iterator[Connection]:
    """Open one connection outside the gateway: for migrations and for commands.

    Raises:
        SettingsError: As for `open_engine`; or the database keeps no promise.
        StoreUnavailableError: The tables can't be reached.
    """
    engine = open_engine(url, Kind(read_only=read_only), connections=1)
    try:
        with engine_failures(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Keep others who call this from doing the same at the same time, in a fleet."""
    if not _is_postgres(connection):
        yield
        return
    # Migrating takes longer than any statement of the gateway, and may reckon between
    # two statements for as long as others wait for it.
    connection.exec_driver_sql("SET lock_timeout = '10min'")
    connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '10min'")
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({_MIGRATING})")
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_MIGRATING})")
        connection.commit()


def truncate_journal(connection: Connection) -> None:
    """Leave nothing behind in SQLite's write-ahead log: for `Database.maintain`.

    Nothing that was deleted is left in any file after this: `_prepare_sqlite`. On
    PostgreSQL there is nothing of the kind: docs/architecture.md says what stays.

    Raises:
        StoreUnavailableError: A reader held the log all the time; ask again.
    """
    if connection.dialect.name != "sqlite":
        return
    cursor = connection.connection.cursor()
    busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreUnavailableError("the journal is in use and was not emptied")


def _is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


# Failures.

BACK = "put it back from a copy"
"""What helps where a store that can't be made anew is damaged."""


@contextmanager
def telling_damage(place: Place | None, advice: str = BACK) -> Iterator[None]:
    """Say which file is damaged, and what helps, while a store is opened and read.

    Args:
        place: The store; what is at a server is not damaged in this way.
        advice: What the operator can do.

    Raises:
        SettingsError: The file is no SQLite database, or a damaged one.
    """
    try:
        yield
    except (sqlite3.DatabaseError, DatabaseError) as error:
        # Each passing failure is of a kind of its own, below this one.
        cause = error.orig if isinstance(error, DatabaseError) else error
        if not isinstance(place, Path) or type(cause) is not sqlite3.DatabaseError:
            raise
        raise SettingsError(f"`{place}` is damaged, or no database: {advice}") from None


@contextmanager
def telling_where(url: str, setting: str) -> Iterator[None]:
    """Say which tables can't be used and why, while they are opened.

    INVARIANT: a server is told by its setting: its URL may hold a password.

    Args:
        url: Where they are.
        setting: The key of the settings that names their server.

    Raises:
        StoreUnavailableError: They can't be used now.
    """
    try:
        yield
    except StoreUnavailableError as error:
        cause = getattr(error.__cause__, "orig", None)
        if isinstance(cause, psycopg.Error):
            why = why_unreached(cause)
        else:
            why = getattr(cause, "sqlite_errorname", str(error))
        place = file_of(url)
        where = f"`{place}`" if place else f"the server of `{setting}`"
        told = f"the tables at {where} can't be read or written now: {why}"
        raise StoreUnavailableError(told) from error


@contextmanager
def engine_failures() -> Iterator[None]:
    """Turn the engine's own failures into what a caller can act on."""
    try:
        yield
    except DBAPIError as error:
        raise for_caller(error) from error


def for_caller(error: Exception) -> Exception:
    """Return the error that the caller of a transaction gets."""
    # PostgreSQL calls it internal that a server only reads, as a standby does.
    if isinstance(error, (OperationalError, InterfaceError, InternalError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    ):
        return unavailable(error)
    if isinstance(error, StopIteration):  # a future refuses to carry one
        return RuntimeError("a transaction raised StopIteration")
    return error


def unavailable(error: Exception) -> StoreUnavailableError:
    """Return a failure of the engine, with its own words as the cause."""
    if isinstance(error, StoreUnavailableError):
        return error
    told = f"the tables can't be read or written now: {kind_of(error)}"
    failure = StoreUnavailableError(told)
    failure.__cause__ = error
    return failure


def kind_of(error: BaseException) -> str:
    """Return what an engine calls a failure, such as `SQLITE_FULL` or `DiskFull`.

    Its words could quote a value (rule 8).
    """
    own = getattr(error, "orig", None) or error
    return getattr(own, "sqlite_errorname", None) or type(own).__name__


def lost_a_race(error: BaseException) -> bool:
    """Tell whether a transaction met another one in a deadlock, and may be repeated.

    Args:
        error: As `for_caller` returns it.
    """
    engines_own = getattr(error.__cause__ or error, "orig", None)
    return getattr(engines_own, "sqlstate", None) in _AGAIN


def is_gone(connection: Connection) -> bool:
    """Tell whether a connection was lost, and nothing more can be done on it."""
    if connection.closed or connection.invalidated:
        return True
    driver: Any = connection.connection.dbapi_connection
    return bool(getattr(driver, "closed", False))


def see_it_holds(connection: Connection) -> None:
    """Check that the transaction that is about to be committed is still there, whole.

    SQLite rolls everything back by itself on a full disk; PostgreSQL would answer the
    commit of a failed transaction by rolling it back, and that is no error.

    Raises:
        StoreUnavailableError: It is not: a failure of the engine was passed over.
    """
    driver: Any = connection.connection.dbapi_connection
    if _is_postgres(connection):
        holds = driver.info.transaction_status is not TransactionStatus.INERROR
    else:
        holds = driver.in_transaction
    if not holds:
        raise StoreUnavailableError("the engine gave the transaction up")


def write_again(connection: Connection) -> None:
    """Write what stands there already: it is seen whether anything can be written.

    On PostgreSQL the mark of the batch does it (`exchange.committing`).
    """
    if _is_postgres(connection):
        return
    cursor = connection.connection.cursor()
    version = int(cursor.execute("PRAGMA user_version").fetchone()[0])
    cursor.execute(f"PRAGMA user_version = {version}")  # the first page, as it was


def see_there_is_room(engine: Engine) -> None:
    """Check that the disk of a SQLite file has room for more than the next page.

    Where a transaction found no room, a smaller one may, and says nothing.

    Raises:
        StoreUnavailableError: It is full, or all but full.
    """
    if engine.dialect.name != "sqlite":
        return
    if disk_usage(str(engine.url.database)).free < _LEAST_FREE_BYTES:
        raise StoreUnavailableError("there is no room left on the tables' disk")


def let_go(connection: Connection) -> None:
    """Close a connection that failed, for good: nobody gets it from the pool again."""
    with suppress(DBAPIError):
        if not connection.invalidated and not connection.closed:
            connection.invalidate()
        connection.close()


def take_warnings(connection: Connection) -> list[str]:
    """Return what PostgreSQL warned of on this connection since the last call."""
    found: list[str] = connection.info.get("warnings", [])
    taken, found[:] = list(found), []
    return taken


# What the two engines want.


def _parse(url: str) -> URL:
    """Read a database URL, and refuse what the gateway can't keep its tables in."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # which repeat it, and it may hold a password
        raise SettingsError(
            "`database_url` or `vault_url` is no URL that the tables can be opened by: "
            "write `sqlite:///FILE` or `postgresql://...` with one server"
        ) from None
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            f"`database_url` names `{parsed.get_backend_name()}`: take sqlite or "
            "postgresql"
        )
    if parsed.database in (None, "", ":memory:"):
        raise SettingsError(
            "`database_url` names no file: cases must outlive the process, so write "
            "`sqlite:///FILE`"
        )
    return parsed


def _to_json(value: object) -> str:
    return orjson.dumps(value).decode()


def _postgres_arguments(url: URL, kind: Kind) -> dict[str, Any]:
    """Return how to connect: once for the connection, not for each transaction.

    Who writes waits for a lock for a bounded time, and is never cut off in a commit.
    """
    chosen = {"lock_timeout": str(_BUSY_TIMEOUT_MS), "statement_timeout": "0"}
    if kind.read_only:
        chosen = {
            "default_transaction_read_only": "on",
            "default_transaction_isolation": r"repeatable\ read",
        }
    patient = patience(url)
    options = [f"-c {name}={value}" for name, value in chosen.items()]
    return {**patient, "options": " ".join([patient["options"], *options])}


def patience(url: URL) -> dict[str, Any]:
    """Return how to connect to PostgreSQL, so that nobody waits long for who is gone.

    What the `options` of the URL say outweighs it.
    """
    asked = {**MISSED, "idle_in_transaction_session_timeout": f"{_IDLE_S}s"}
    given = url.query.get("options", ())
    options = [f"-c {name}={value}" for name, value in asked.items()]
    options += [given] if isinstance(given, str) else given
    return {**ALIVE, "connect_timeout": _CONNECT_S, "options": " ".join(options)}


def _prepare_postgres(engine: Engine, kind: Kind) -> None:
    """Have each connection that writes checked, and its warnings kept."""
    if kind.read_only:
        return

    def on_connect(connection: DBAPIConnection, record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's record of a connection
        driver: Any = connection
        warnings: list[str] = []
        record.info["warnings"] = warnings

        def note(notice: Any) -> None:  # noqa: ANN401 - psycopg's own
            if notice.severity_nonlocalized == "WARNING":
                warnings.append(str(notice.sqlstate))

        driver.add_notice_handler(note)
        _check_durable(driver)

    event.listen(engine, "connect", on_connect)


def _check_durable(driver: Any) -> None:  # noqa: ANN401 - psycopg's connection
    """INVARIANT (rule 1): what was committed is kept; refuse a server that may not.

    Raises:
        SettingsError: A setting of the server lets commits be lost.
    """
    wanted = {
        "fsync": ("on",),
        "full_page_writes": ("on",),
        "synchronous_commit": ("on", "remote_apply"),
    }
    with driver.cursor() as cursor:
        for name, good in wanted.items():
            value = cursor.execute(f"SHOW {name}").fetchone()[0]
            if value not in good:
                raise SettingsError(
                    f"PostgreSQL runs with `{name} = {value}`, so that what was "
                    f"committed could be lost: set it to `{good[0]}`"
                )
    driver.rollback()


def _prepare_sqlite(engine: Engine, file: str, kind: Kind) -> None:
    """Make every connection of a SQLite engine durable, and transactions explicit.

    `synchronous=FULL` syncs the write-ahead log on each commit: with NORMAL the last
    commits may be lost with the power (SQLite documentation, PRAGMA synchronous).
    `secure_delete` overwrites with zeros what is deleted: no record that was owed, and
    no key of a case, stays in a free page. It costs nothing that can be measured.
    """
    # The file and what SQLite puts beside it are the gateway's alone.
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # we begin; the driver doesn't
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.execute(f"PRAGMA query_only={int(kind.read_only)}")
        cursor.close()

    begin = "BEGIN" if kind.read_only else "BEGIN IMMEDIATE"

    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.connection.cursor().execute(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
