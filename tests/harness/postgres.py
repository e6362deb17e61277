"""Databases for tests: both engines, fresh for each test, and soon there.

Migrations run once in a session and engine; a test gets a copy of what they made.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import sql

from exchange.demo.postgres import PostgresServer
from exchange.migrations.schema import Part, upgrade
from tests.harness.patience import until

Prepare: TypeAlias = Callable[[str], None]
"""Fills an empty database, given its URL, and lets go of it."""
Lend: TypeAlias = Callable[[str, Prepare], str]
"""Returns the URL of a fresh database of a name, as `prepare` fills it."""
Rows: TypeAlias = list[tuple[Any, ...]]


class Databases:
    """Makes fresh databases on one PostgreSQL server.

    Args:
        server: It runs.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self._free: dict[str, list[str]] = {}

    def empty(self) -> str:
        """Make a database without anything in it, and return its URL."""
        return self.server.create_database(f"test_{next(self._numbers)}")

    def copy_of(self, name: str, prepare: Prepare) -> str:
        """Make a copy of a database that `prepare` fills once; return its URL.

        Args:
            name: What is prepared; the same name is the same preparation.
            prepare: Fills an empty database, given its URL, and lets go of it.
        """
        template = f"template_{name}"
        if name not in self._templates:
            url = self.server.create_database(template)
            prepare(url)
            self._templates[name] = url
        copy = f"test_{next(self._numbers)}"
        return self.server.create_database(copy, template)

    @contextmanager
    def lend(self, name: str, prepare: Prepare) -> Iterator[str]:
        """Lend a database that `prepare` has filled with empty tables; yield its URL.

        One that was lent is emptied and lent again: no files are made for it.
        """
        free = self._free.setdefault(name, [])
        url = free.pop() if free else self.copy_of(name, prepare)
        try:
            yield url
        finally:
            _empty(url)
            free.append(url)


class Files:
    """Makes fresh databases on SQLite.

    Args:
        folder: Where the files lie that are copied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy_of(self, name: str, prepare: Prepare, folder: Path) -> str:
        """Make a copy of a file that `prepare` fills once; return its URL.

        Args:
            name: What is prepared; the same name is the same preparation.
            prepare: Fills an empty database, given its URL, and lets go of it.
            folder: Where the copy goes.
        """
        template, copy = self._folder / f"{name}.db", folder / f"{name}.db"
        if not template.exists():
            prepare(f"sqlite:///{template}")
        shutil.copy(template, copy)
        return f"sqlite:///{copy}"


def migrated(part: Part, url: str) -> None:
    """Make the gateway's tables in an empty database."""
    upgrade(url, part)


def ask_until(
    connection: psycopg.Connection,
    query: LiteralString,
    is_met: Callable[[Rows], bool],
    values: Sequence[object] = (),
) -> Rows:
    """Ask again and again until the answer is as it should be, and return it.

    Args:
        connection: Commits by itself, or it would be told the same each time.
        query: What is asked.
        is_met: Whether an answer is what is waited for.
        values: Of the query.
    """
    found: Rows = []

    def is_so() -> bool:
        found[:] = connection.execute(query, values).fetchall()
        return is_met(found)

    until(is_so, query)
    return found


_TABLES = """
    SELECT schemaname, tablename FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
    AND tablename NOT IN ('alembic_version', 'dbos_migrations')
"""
_CUT_OTHERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _empty(url: str) -> None:
    """Cut off whoever is connected, and empty every table but those of migrations."""
    with psycopg.connect(url) as connection:
        connection.execute(_CUT_OTHERS)
        names = connection.execute(_TABLES).fetchall()
        # DELETE is ten times as fast as TRUNCATE, which makes new files.
        for name in names:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*name)))
