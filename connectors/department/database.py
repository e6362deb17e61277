"""The register's database: opened for reading alone, and reading rows.

What databases do differently from each other stands here. The connection reads only,
where the database knows how, and no file of SQLite is ever made.
"""

import re
import sqlite3
from collections.abc import Sequence
from errno import ENOENT
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from sqlalchemy import (
    Dialect,
    Engine,
    RowMapping,
    Select,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from schemas.errors import SettingsError

_READ_ONLY = {
    "sqlite": "PRAGMA query_only=ON",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
"""How a session is made to read only; other databases need an account that may."""

_NO_OPERATOR = "42883"
"""SQLSTATE of a comparison between a column and a value of another type."""

_REFUSED = re.compile(r"failed: \S+:  ")
"""How libpq writes what a server, in any language, said instead of connecting; it gives
no SQLSTATE then, and its text names the account."""

Rows: TypeAlias = Sequence[RowMapping]


class BadValueError(Exception):
    """A record holds what can't be read as its column's type.

    INVARIANT: it names the column, and never the value.
    """

    def __init__(self, column: str) -> None:
        super().__init__(f"column `{column}`")
        self.column = column


def open_register(url: str) -> Engine:
    """Return an engine whose connections read only; nothing is connected yet.

    Raises:
        SettingsError: The URL is none, or of SQLite and names no file that is there.
    """
    file = sqlite_file(url)
    # SQLite would make it, and a mistyped name would be an empty register.
    if file is not None and not file.is_file():
        why = "a folder, and no file" if file.is_dir() else "no such file"
        raise SettingsError(f"`database`: `{file}`: {why}")
    try:
        # The threads bound the connections: a smaller pool would be a second queue.
        engine = create_engine(
            url,
            pool_pre_ping=True,
            hide_parameters=True,
            poolclass=QueuePool,
            max_overflow=-1,
        )
    except (ArgumentError, ImportError) as error:
        raise SettingsError("`database` is not a usable SQLAlchemy URL") from error
    statement = _READ_ONLY.get(engine.dialect.name)
    if file is not None:
        _follow(engine, file)

    def make_read_only(raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - a DBAPI connection
        if isinstance(raw, sqlite3.Connection):
            # Its own decoder calls a text that is not UTF-8 a failed operation.
            raw.text_factory = bytes.decode
        if statement is not None:
            cursor = raw.cursor()
            cursor.execute(statement)
            cursor.close()
            raw.commit()

    event.listen(engine, "connect", make_read_only)
    return engine


def _follow(engine: Engine, file: Path) -> None:
    """Have every connection read the file that has the register's name now.

    An extract that is made each night is moved over the former one, and whoever had
    that open would read it for ever. A file that is not there is not made.
    """

    def note_file(_dialect: Dialect, entry: ConnectionPoolEntry, *_: object) -> None:
        if not file.is_file():
            raise FileNotFoundError(ENOENT, "no such file", str(file))
        # Before it is opened: if it is replaced in between, this is the former one.
        entry.info["file"] = _identity(file)

    def leave_former(_raw: object, entry: ConnectionPoolEntry, *_: object) -> None:
        if entry.info["file"] != _identity(file):
            raise DisconnectionError("the register's file was replaced")

    event.listen(engine, "do_connect", note_file)
    event.listen(engine, "checkout", leave_former)


def _identity(file: Path) -> tuple[int, int] | None:
    """Return which file has a name; None for none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for another database, or one in memory.

    Raises:
        SettingsError: It is not a URL of SQLAlchemy.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("`database` is not a usable SQLAlchemy URL") from error
    name = parsed.database
    in_memory = name in {None, "", ":memory:"} or parsed.query.get("mode") == "memory"
    if parsed.get_backend_name() != "sqlite" or in_memory or name is None:
        return None
    if not name.startswith("file:"):
        return Path(name)
    path = unquote(name.removeprefix("file:").partition("?")[0])
    return None if path == ":memory:" else Path(path)


def read(connection: Connection, statement: Select[Any]) -> Rows:
    """Return the rows of a statement.

    Raises:
        BadValueError: A row holds what the column's type has not, or a value that was
            bound is none of its column.
        SQLAlchemyError: The database can't be read.
    """
    try:
        return connection.execute(statement).mappings().all()
    except BAD_VALUES as error:
        if not is_bad_value(error):
            raise
    connection.rollback()
    raise BadValueError(_culprit(connection, statement))


REGISTER_ERRORS = (SQLAlchemyError, OSError)
"""What is raised when the database can't be read."""
BAD_VALUES = (StatementError, ValueError, TypeError, ArithmeticError)
"""What is raised for a bad value, and `StatementError` for other things too."""


def is_bad_value(error: Exception) -> bool:
    """Tell whether a value can't be read or bound, rather than the database."""
    if not isinstance(error, DBAPIError):
        return True
    unlike = getattr(error.orig, "sqlstate", None) == _NO_OPERATOR
    return unlike or isinstance(error, DataError)


def _culprit(connection: Connection, statement: Select[Any]) -> str:
    """Return the first column that can't be read, by reading each alone."""
    if _fails(connection, statement.limit(0)):
        return "a key that is looked up by"
    columns = statement.selected_columns
    alone = ((str(c), statement.with_only_columns(c)) for c in columns)
    return next((name for name, one in alone if _fails(connection, one)), "")


def _fails(connection: Connection, statement: Select[Any]) -> bool:
    try:
        connection.execute(statement).all()
    except BAD_VALUES as error:
        if not is_bad_value(error):
            raise
        connection.rollback()
        return True
    return False


def explain(url: str, error: SQLAlchemyError) -> str:
    """Return where the database was looked for, and what came of it.

    Names host, port and SQLSTATE: the URL and the message of the server may hold an
    account and its password.
    """
    parsed = make_url(url)
    file = sqlite_file(url)
    place = file or parsed.host or parsed.query.get("host") or "this machine"
    port = f":{parsed.port}" if parsed.port and file is None else ""
    return f"`{place}{port}`: {reason(error)}"


def reason(error: Exception) -> str:
    """Return what a database said, as an SQLSTATE where it gave one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return f"SQLSTATE {state}"
    name = getattr(original, "sqlite_errorname", None)
    if isinstance(name, str):
        return name
    if _REFUSED.search(str(original)):
        return "the server refuses the account, or has no such database"
    cut = isinstance(error, OperationalError | InterfaceError | OSError)
    return "no connection" if cut else type(error).__name__
