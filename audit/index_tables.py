"""The tables of the search index, on either engine: made, and made anew."""

import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from audit.places import open_sql
from audit.sql import Place, Sql, SqliteSql, Tables
from audit.store import LogReader
from schemas.errors import SettingsError

INDEX_SCHEMA: Final = "errand_log_index"
"""Where the index stands in a PostgreSQL database."""
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE followed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size BIGINT NOT NULL           -- records that were taken in
);
INSERT INTO followed VALUES (1, 0);
CREATE TABLE record (
    seq {key} PRIMARY KEY,
    event_id TEXT NOT NULL,
    t BIGINT NOT NULL,
    kind TEXT NOT NULL,
    outcome TEXT NOT NULL,
    requester TEXT NOT NULL,
    provider TEXT NOT NULL,
    evidence_type TEXT NOT NULL,
    correlation TEXT NOT NULL,
    matter TEXT NOT NULL,
    case_ref TEXT,
    actor_ref TEXT
);
CREATE INDEX record_time ON record (t, seq);
CREATE INDEX record_requester ON record (requester, t, seq);
CREATE INDEX record_provider ON record (provider, t, seq);
CREATE INDEX record_matter ON record (matter, t, seq);
CREATE INDEX record_case ON record (case_ref, t, seq);
CREATE INDEX record_actor ON record (actor_ref, t, seq);
CREATE INDEX record_outcome ON record (outcome, t, seq);
CREATE INDEX record_kind ON record (kind, t, seq);
CREATE TABLE about (
    subject_ref TEXT NOT NULL,
    t BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (subject_ref, t, seq)
){clustered};
INSERT INTO meta VALUES ('format', '2');
"""
_FORMAT = "2"
_TABLES = Tables(
    sqlite=_SCHEMA.format(key="INTEGER", clustered=" WITHOUT ROWID"),
    postgres=_SCHEMA.format(key="BIGINT", clustered=""),
    remedy="drop it, and it is made anew",
)


def index_schema(shard: str) -> str:
    """Return the schema of a shard's index; "" stands for the first shard."""
    return f"errand_shard_index_{shard}" if shard else INDEX_SCHEMA


def open_index(place: Place) -> Sql:
    """Open the index; start over when it is not one of this form."""
    if not isinstance(place, Path):
        sql = open_sql(place)
        with ExitStack() as undone:
            undone.callback(sql.close)
            sql.make(_TABLES)
            if _format(sql) != _FORMAT:
                raise SettingsError(
                    f"the schema `{place.schema}` is an index of another form: drop "
                    "it, and it is made anew"
                )
            undone.pop_all()
        return sql
    file = SqliteSql.open(place)
    try:
        file.connection.execute("PRAGMA journal_mode=WAL")
        # It can be made again from the log, so it need not survive a power loss whole.
        file.connection.execute("PRAGMA synchronous=NORMAL")
        file.make(_TABLES)
        if _format(file) == _FORMAT:
            return file
    except sqlite3.DatabaseError:
        pass  # damaged, or something else: made anew below
    file.close()
    for suffix in ("", "-wal", "-shm"):
        place.with_name(place.name + suffix).unlink(missing_ok=True)
    return open_index(place)


def _format(sql: Sql) -> str:
    """Return the form of an index."""
    return str(sql.rows("SELECT value FROM meta WHERE name = 'format'")[0][0])


def is_of(sql: Sql, reader: LogReader) -> bool:
    """Return whether the last record of an index stands in this log."""
    last = sql.rows("SELECT seq, event_id FROM record ORDER BY seq DESC LIMIT 1")
    if not last:
        return True
    entry = reader.entry_of(last[0][1])
    return entry is not None and entry.seq == last[0][0]
