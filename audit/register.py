"""The register of a log's shards: which there are, and which one is written to.

A file in the data folder, replaced whole; or, where a log is on PostgreSQL, a table
that its gateways share. It is changed last when a shard is sealed: a crash before that
leaves the old shard current, and one after it the next.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import orjson

from audit.keys import sync_folder
from audit.places import open_sql
from audit.shards import Shard
from audit.sql import Place, Postgres, Row, Sql, Tables
from schemas.canonical import canonical_plain
from schemas.errors import SettingsError

REGISTER_FILE: Final = "shards.json"
"""The register's file in a data folder."""
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
_PUT = (
    "INSERT INTO shard (number, origin, name, vkey, size, root)"
    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE"
    " SET size = excluded.size, root = excluded.root"
    " WHERE shard.origin = excluded.origin AND shard.vkey = excluded.vkey"
    " AND shard.size IS NULL"
)
"""A shard is added, or sealed; nothing else of it ever changes."""
_SHARD = "SELECT origin, name, vkey, size, root FROM shard"
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(?, 0))"
_PATIENCE_S: Final = 1.0
"""How long somebody else may hold the lock, in seconds, before we give up."""
_LOOK_S: Final = 0.05


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
    if not sql.is_made("shard"):
        return ()
    return tuple(Shard(*row) for row in sql.rows(f"{_SHARD} ORDER BY number"))


def save_shards(place: Place, shards: Sequence[Shard]) -> None:
    """Replace the register, whole or not at all, and durably.

    Raises:
        SettingsError: Another log's shard stands in a place of one of these, or the
            same one with another end.
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
                [found] = changes.rows(f"{_SHARD} WHERE number = ?", (number,))
                _check_written(place, found, row)


def _check_written(place: Postgres, found: Row, written: Row) -> None:
    # INVARIANT: who was told that a shard is in the register finds it there.
    if found != written:
        raise SettingsError(
            f"the register of shards (schema `{place.schema}`) has `{found[0]}` where "
            f"`{written[0]}` was to be written, or has it with another end: see that "
            "`log_url` names this log's own database, and that nobody else has sealed "
            "the shard; nothing was changed"
        )


@contextmanager
def sealing(place: Postgres) -> Iterator[None]:
    """Keep others from sealing a log on this server, until the block or we end.

    Raises:
        SettingsError: Somebody else does it now.
        LogUnavailableError: The server can't be reached.
    """
    with closing(open_sql(place)) as sql:
        # A session of somebody who was killed ends soon, and not at once.
        until = time.monotonic() + _PATIENCE_S
        while not _is_taken(sql, place):
            if time.monotonic() >= until:
                raise SettingsError("somebody else is sealing a shard of this log now")
            time.sleep(_LOOK_S)
        yield


def _is_taken(sql: Sql, place: Postgres) -> bool:
    """Take the lock of those who seal, and return whether nobody else has it."""
    [[is_taken]] = sql.rows(_LOCK, (f"errand-sealing {place.schema}",))
    return bool(is_taken)


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
