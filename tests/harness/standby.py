"""A standby of a PostgreSQL server: it streams all that the other one writes.

SOURCE: PostgreSQL documentation, 26.2.6 (streaming replication), `pg_basebackup`.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from exchange.demo.postgres import PostgresServer

_ALONE = "SET synchronous_commit = local"
"""Who changes what commits wait for must not wait for it."""


def tell(server: PostgresServer, *statements: str) -> None:
    """Run statements, each by itself."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class Standby(PostgresServer):
    """A server that has everything of another one, and takes nothing until promoted.

    Args:
        folder: Where it keeps its copy.
        primary: The other one; it runs.
    """

    def __init__(self, folder: Path, primary: PostgresServer) -> None:
        super().__init__(folder, primary._programs)
        self._folder.mkdir(parents=True)
        self._own(self._folder)
        self._run(
            "pg_basebackup",
            *("--pgdata", str(self._folder / "data"), "--dbname", primary.url()),
            *("--checkpoint", "fast", "--write-recovery-conf", "--no-sync"),
        )

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Freeze what receives, while the block lasts: it hears all, and says nothing.

        Connections stay open, as those of a host that hangs.
        """
        with psycopg.connect(self.url()) as connection:
            query = "SELECT pid FROM pg_stat_wal_receiver"
            [[receiver]] = connection.execute(query).fetchall()
        os.kill(receiver, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(receiver, signal.SIGCONT)

    def promote(self) -> None:
        """Make it the one that takes records; return once it does."""
        tell(self, "SELECT pg_promote(wait => true)")


def follow(standby: Standby, primary: PostgresServer) -> None:
    """Start a standby that every commit waits for; return once it counts."""
    name = "synchronous_standby_names"
    # Before it is started: the server's processes hear of it a little later.
    tell(primary, _ALONE, f"ALTER SYSTEM SET {name} = '*'", "SELECT pg_reload_conf()")
    standby.start()
    query = b"SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        while connection.execute(query).fetchone() is None:
            os.sched_yield()
