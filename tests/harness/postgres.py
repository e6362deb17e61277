"""Databases for tests: both engines, fresh for each test, and soon there.

Migrations run once in a session and engine; a test gets a copy of what they made.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from exchange.demo.postgres import PostgresServer
from exchange.migrations.schema import Part, metadata, upgrade


class Databases:
    """Makes fresh databases on one PostgreSQL server.

    Args:
        server: It runs.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self._free: dict[Part, list[str]] = {}

    def empty(self) -> str:
        """Make a database without anything in it, and return its URL."""
        return self.server.create_database(f"test_{next(self._numbers)}")

    def copy_of(self, name: str, prepare: Callable[[str], None]) -> str:
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
    def tables(self, part: Part = Part.TABLES) -> Iterator[str]:
        """Lend a database with the gateway's tables, all empty; yield its URL.

        One that was lent is emptied and lent again: that is ten times as fast as
        another copy.
        """
        free = self._free.setdefault(part, [])
        url = free.pop() if free else self._migrated(part)
        try:
            yield url
        finally:
            _empty(url, part)
            free.append(url)

    def _migrated(self, part: Part) -> str:
        return self.copy_of(part.value, lambda url: upgrade(url, part))


_CUT_OTHERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _empty(url: str, part: Part) -> None:
    """Cut off whoever is still connected, and empty every table."""
    with psycopg.connect(url) as connection:
        connection.execute(_CUT_OTHERS)
        # Ten times as fast as TRUNCATE, which makes new files.
        for table in reversed(metadata(part).sorted_tables):
            connection.execute(
                sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name))
            )
