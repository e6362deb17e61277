"""The form of the tables, and how a database is brought to it.

There are two parts, each with revisions and a database of its own: the tables of the
gateway, and the vault with the keys of cases (decision 19).

To write a revision after changing a table: `python -m exchange.migrations.schema
tables "What changed"`, then read what it wrote.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy.schema import CreateSchema

import consent.rows
import exchange.assertions
import exchange.cases
import exchange.committing
import exchange.due
import exchange.idempotency
import exchange.owed_records
import exchange.registration
import exchange.vault
from exchange.connecting import alone, connected, file_of, telling_damage
from schemas.errors import SettingsError

_STORES: tuple[ModuleType, ...] = (
    consent.rows,
    exchange.assertions,
    exchange.cases,
    exchange.committing,
    exchange.due,
    exchange.idempotency,
    exchange.owed_records,
    exchange.registration,
)
_VAULT: tuple[ModuleType, ...] = (exchange.committing, exchange.vault)


class Part(StrEnum):
    """Which tables: each part is a database of its own."""

    TABLES = "tables"
    VAULT = "vault"


def metadata(part: Part) -> MetaData:
    """Return the tables of one part as the code declares them."""
    chosen = MetaData()
    for module in _VAULT if part is Part.VAULT else _STORES:
        for thing in vars(module).values():
            table = getattr(thing, "__table__", None)
            if isinstance(thing, type) and isinstance(table, Table):
                table.to_metadata(chosen)
    return chosen


def upgrade(url: str, part: Part) -> None:
    """Bring a database to the newest revision of its part.

    Replicas of a fleet that start together take turns.

    Raises:
        SettingsError: The URL names no database that the gateway can keep, a file that
            is damaged, or a database that lacks a table.
        StoreUnavailableError: It can't be reached.
    """
    with _upgraded(url, part) as connection:
        _check_whole(connection, part, file_of(url))


@contextmanager
def _upgraded(url: str, part: Part) -> Iterator[Connection]:
    """Bring a database to the newest revision, and yield a connection to it."""
    with (
        telling_damage(file_of(url)),
        connected(url, read_only=False) as connection,
        alone(connection),
    ):
        _make_schema(connection)
        command.upgrade(_config(connection, part), "head")
        yield connection


def _check_whole(connection: Connection, part: Part, file: Path | None) -> None:
    """Verify that all tables of a part are there: no revision makes one again."""
    found = inspect(connection)
    missing = metadata(part).tables.keys() - found.get_table_names()
    if missing:
        name = f"`{file}`" if file else f"the schema `{found.default_schema_name}`"
        raise SettingsError(
            f"{name} has no table `{min(missing)}`: it is no whole copy; restore all "
            "of it from one backup"
        )


def _make_schema(connection: Connection) -> None:
    """Make the schema that the URL names on PostgreSQL, where it is not there yet."""
    if connection.dialect.name != "postgresql":
        return
    if connection.exec_driver_sql("SELECT current_schema()").scalar() is None:
        path = str(connection.exec_driver_sql("SHOW search_path").scalar())
        connection.execute(CreateSchema(path.split(",", maxsplit=1)[0].strip('" ')))
    connection.commit()


def new_revision(part: Part, message: str) -> None:
    """Write the revision that takes the last one to what the code declares."""
    number = 1 + sum(1 for _ in _versions(part).glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/revision.db"
        if number > 1:
            with _upgraded(url, part):
                pass
        with connected(url, read_only=False) as connection:
            config = _config(connection, part)
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")


def _versions(part: Part) -> Path:
    return Path(__file__).parent / "versions" / part.value


def _config(connection: Connection, part: Part) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("version_locations", str(_versions(part)))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = metadata(part)
    return config


if __name__ == "__main__":
    new_revision(Part(sys.argv[1]), sys.argv[2])
