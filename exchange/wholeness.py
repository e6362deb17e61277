"""Whether a data folder is whole: half a copy of one answers falsely, or signs twice.

Each store makes its own file where there is none. That is right once: at the first
start. Later a file that is missing was lost, or its volume is not there, and an empty
one in its place would say that nobody was ever asked.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from audit.places import open_sql
from audit.shards import Shard
from audit.sql import Place, Postgres
from exchange.connecting import file_of
from exchange.keys import missing_keys
from exchange.settings import Settings
from schemas.errors import SettingsError

_BACK = "put it back from the same copy"


def check_whole(settings: Settings, shards: Sequence[Shard]) -> None:
    """Raise where a store or a key is missing of a gateway that has run before.

    Nothing is missing while all that is there is empty: the first start makes all
    stores before it writes a row into any, so one that was killed goes on. The search
    index, the pieces given away and the engine of waiting work are not looked for:
    they are made anew.

    Raises:
        SettingsError: Says what is there and what is not.
    """
    current = shards[-1].name if shards else ""
    stores = dict(_stores(settings, shards))
    files = {place: table for place, table in stores.items() if isinstance(place, Path)}
    used = [place for place, table in files.items() if _is_used(place, table)]
    lost = [place for place, table in stores.items() if not _is_made(place, table)]
    if used and lost:
        raise SettingsError(
            f"the data folder has `{used[0].name}` and lacks `{_called(lost[0])}`: "
            f"{_BACK}; nothing was made in its place"
        )
    _check_directory(settings.log_place(current), settings.subjects_place())
    missing = missing_keys(settings.keys_dir, current)
    if missing and (used or _is_used(settings.log_place(current), "entry")):
        raise SettingsError(
            f"the keys folder `{settings.keys_dir}` lacks `{missing[0]}`, and there is "
            f"data under it: {_BACK}; no key was made"
        )


def _check_directory(log: Place, subjects: Place) -> None:
    """Raise where a log on a server has records and its subject directory is gone."""
    if not isinstance(log, Postgres) or not isinstance(subjects, Postgres):
        return
    if _is_used(log, "entry") and not _is_made(subjects, "subject"):
        raise SettingsError(
            f"the schema `{log.schema}` has records and there is no `subject` in "
            f"`{subjects.schema}`: put it back from the same backup"
        )


def _stores(settings: Settings, shards: Sequence[Shard]) -> Iterator[tuple[Place, str]]:
    """Yield where the stores are kept, each with a table of it.

    Cases and their keys only where they are in files: who opens them on a server makes
    what is missing there for all gateways at once.
    """
    for url, table in (
        (settings.tables_url(), "registered"),
        (settings.vault_tables_url(), "case_key"),
    ):
        if (file := file_of(url)) is not None:
            yield file, table
    logs = [settings.log_place(name) for name in ("", *(one.name for one in shards))]
    yield from ((log, "entry") for log in logs)
    yield settings.subjects_place(), "subject"
    yield settings.erasures_place(), "ledger"


def _called(place: Place) -> str:
    """Return what to call a place that is empty; a server's address is not shown."""
    return str(place) if isinstance(place, Path) else place.name


def _is_made(place: Place, table: str) -> bool:
    """Return whether a store has its tables, as far as it can be read."""
    if isinstance(place, Path) and not place.is_file():
        return False
    try:
        with closing(open_sql(place, read_only=True)) as sql:
            return sql.is_made(table)
    except sqlite3.Error:
        return True  # who opens it says what is wrong with it


def _is_used(place: Place, table: str) -> bool:
    """Return whether a store has a row, as far as it can be read."""
    if not _is_made(place, table):
        return False
    try:
        with closing(open_sql(place, read_only=True)) as sql:
            return bool(sql.rows(f"SELECT 1 FROM {table} LIMIT 1"))  # noqa: S608 - a name of ours
    except sqlite3.Error:
        return True
