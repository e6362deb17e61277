"""The register of a log's shards: which there are, and which one is written to.

A file in the data folder, replaced whole; or, where a log is on PostgreSQL, a table
that its gateways share. It is changed last when a shard is sealed: a crash before that
leaves the old shard current, and one after it the next.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import orjson

from audit.keys import sync_folder
from audit.places import open_sql
from audit.shards import Shard
from audit.sql import Place, Postgres, Sql, Tables
from schemas.canonical import canonical_plain
from schemas.errors import SettingsError

REGISTER_SCHEMA: Final = "errand_shards"
"""Where the register stands in a PostgreSQL database."""

_TABLES = Tables(
    sqlite="",  # there it is a file
    postgres="""
CREATE TABLE shard (
    number INTEGER PRIMARY KEY,    -- in their order, from 1
    origin TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    vkey TEXT NOT NULL,
    size BIGINT,                   -- with the root: of the last checkpoint
    root TEXT,
    CHECK ((size IS NULL) = (root IS NULL))
);
CREATE UNIQUE INDEX one_is_written_to ON shard ((size IS NULL)) WHERE size IS NULL;
""",
)
_NO_REGISTER = "SELECT 1 WHERE to_regclass('shard') IS NULL"
"""Finds a row where the schema has no register."""
_PUT = (
    "INSERT INTO shard (number, origin, name, vkey, size, root)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE"
    " SET size = excluded.size, root = excluded.root"
    " WHERE shard.origin = excluded.origin AND shard.vkey = excluded.vkey"
    " AND shard.size IS NULL"
)
"""A shard is added, or sealed; nothing else of it ever changes."""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(?, 0))"


def load_shards(place: Place) -> tuple[Shard, ...]:
    """Return the shards in their order; none where there is no register yet.

    Raises:
        SettingsError: The file is damaged.
        LogUnavailableError: The server can't be reached.
    """
    if isinstance(place, Path):
        return _load_file(place)
    with closing(open_sql(place, read_only=True)) as sql:
        return read_register(sql)


def read_register(sql: Sql) -> tuple[Shard, ...]:
    """Return the shards that a register on PostgreSQL names, in their order.

    Raises:
        LogUnavailableError: The server can't be reached.
    """
    if sql.rows(_NO_REGISTER):
        return ()
    query = "SELECT origin, name, vkey, size, root FROM shard ORDER BY number"
    return tuple(Shard(*row) for row in sql.rows(query))


def save_shards(place: Place, shards: Sequence[Shard]) -> None:
    """Replace the register, whole or not at all, and durably.

    Raises:
        LogUnavailableError: It is not known to be stored.
    """
    if isinstance(place, Path):
        _save_file(place, shards)
        return
    with closing(open_sql(place)) as sql:
        sql.make(_TABLES)
        with sql.transaction() as changes:
            for number, shard in enumerate(shards, 1):
                row = (shard.origin, shard.name, shard.vkey, shard.size, shard.root)
                changes.change(_PUT, (number, *row))


@contextmanager
def sealing(place: Postgres) -> Iterator[None]:
    """Keep others from sealing a log on this server, until the block or we end.

    Raises:
        SettingsError: Somebody else does it now.
        LogUnavailableError: The server can't be reached.
    """
    with closing(open_sql(place)) as sql:
        [[is_taken]] = sql.rows(_LOCK, (f"errand-sealing {place.schema}",))
        if not is_taken:
            raise SettingsError("somebody else is sealing a shard of this log now")
        yield


def _load_file(file: Path) -> tuple[Shard, ...]:
    if not file.is_file():
        return ()
    try:
        return tuple(Shard(**one) for one in orjson.loads(file.read_bytes()))
    except (ValueError, TypeError):
        raise SettingsError(f"`{file.name}` is damaged") from None


def _save_file(file: Path, shards: Sequence[Shard]) -> None:
    rows = [
        {name: getattr(shard, name) for name in Shard.__slots__} for shard in shards
    ]
    beside = file.with_name(file.name + ".new")
    with beside.open("wb") as stream:
        stream.write(canonical_plain(rows))
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
    sync_folder(file.parent)
