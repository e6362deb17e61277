"""Where the log's parts are kept, and the SQL that both engines speak.

The log, the subject directory and the search index are each kept in a SQLite file or
in a schema of a PostgreSQL database. What is said to them is said once: plain SQL
with `?` for each value, through the two ports below. Only tables and the append of
records differ between the engines.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

_MADE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|FUNCTION|TRIGGER) (\w+)", re.MULTILINE
)
Value: TypeAlias = str | int | bytes | None
Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Postgres:
    """A schema in a PostgreSQL database."""

    url: str = field(repr=False)
    """As libpq takes it. It may hold a password, so it is never shown."""
    schema: str
    setting: str = field(default="", compare=False)
    """What names the database where an operator configures it; "" for an argument."""

    @property
    def name(self) -> str:
        """What an error may call it."""
        return self.schema


Place: TypeAlias = Path | Postgres
"""Where something is kept: a SQLite file, or a schema of a PostgreSQL database."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What makes some tables, on either engine."""

    sqlite: str
    """Statements for a file without any table."""
    postgres: str
    """Statements for a schema without any table."""
    remedy: str = "it is no whole copy; restore all of it from one backup"
    """What helps where a schema lacks a part of it."""

    @property
    def parts(self) -> list[tuple[str, str]]:
        """What the statements make on PostgreSQL: the kind of each part, and its name.

        >>> Tables("", "CREATE UNIQUE INDEX few ON some (n);").parts
        [('index', 'few')]
        """
        return [(kind.lower(), name) for kind, name in _MADE.findall(self.postgres)]


class Changes(Protocol):
    """A transaction under way."""

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds."""

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Do something; return how many rows it changed."""

    def change_all(self, statement: str, rows: Iterable[Sequence[Value]]) -> None:
        """Do the same for each of some rows."""

    def add_all(self, table: str, rows: Sequence[Sequence[Value]]) -> None:
        """Add rows to a table, with a value for each column: the quickest way."""


class Sql(Protocol):
    """A connection; it belongs to one thread at a time."""

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds.

        Raises:
            sqlite3.Error: The file can't be read.
            LogUnavailableError: The server can't be reached.
        """

    def transaction(self) -> AbstractContextManager[Changes]:
        """Begin a transaction, and commit it durably; an exception undoes it.

        Raises:
            sqlite3.Error: It could not be stored; nothing of it was.
            LogUnavailableError: It is not known to be stored.
        """

    def snapshot(self) -> AbstractContextManager[None]:
        """Have all that is read in the block be as of one instant."""

    def is_made(self, table: str) -> bool:
        """Return whether there is a table: who reads makes none."""

    def make(self, tables: Tables) -> None:
        """Make tables, all or none, where there are none.

        Raises:
            SettingsError: A server has a part of them alone, or refuses to make them.
        """

    def close(self) -> None:
        """Let go of it."""


class SqliteSql:
    """A connection to a SQLite file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection that begins no transactions by itself."""
        self.connection = connection

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> "SqliteSql":
        """Open a file, which is made where it is missing and may be written."""
        mode = "ro" if read_only else "rwc"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        return cls(
            sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False
            )
        )

    def rows(self, query: str, values: Sequence[Value] = ()) -> list[Row]:
        """Return what a query finds."""
        return self.connection.execute(query, values).fetchall()

    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        """Do something; return how many rows it changed."""
        return self.connection.execute(statement, values).rowcount

    def change_all(self, statement: str, rows: Iterable[Sequence[Value]]) -> None:
        """Do the same for each of some rows."""
        self.connection.executemany(statement, rows)

    def add_all(self, table: str, rows: Sequence[Sequence[Value]]) -> None:
        """Add rows to a table, with a value for each of its columns."""
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.change_all(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - a name of ours

    @contextmanager
    def transaction(self) -> Iterator[Changes]:
        """Begin a transaction, and commit it; an exception undoes it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self.connection.execute("COMMIT")
        except BaseException:
            # SQLite may have done so by itself.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all that is read in the block be as of one instant."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")

    def is_made(self, table: str) -> bool:
        """Return whether there is a table."""
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def make(self, tables: Tables) -> None:
        """Make tables, all or none, where there are none."""
        if not self.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            self.connection.executescript(f"BEGIN IMMEDIATE;{tables.sqlite};COMMIT;")

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()
