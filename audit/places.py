"""Opening what the log's parts are kept in, on whichever engine."""

from pathlib import Path
from typing import Final

from audit.sql import Place, Postgres, Sql, SqliteSql

POSTGRES_PREFIXES: Final = ("postgresql://", "postgres://")
"""How the URL of a PostgreSQL database begins."""


def open_sql(place: Place, *, read_only: bool = False) -> Sql:
    """Open a file, or make ready to ask a server.

    Raises:
        sqlite3.Error: The file can't be opened.
    """
    if isinstance(place, Path):
        return SqliteSql.open(place, read_only=read_only)
    # Only where it is used: a gateway on SQLite never loads the driver.
    from audit.postgres import PostgresSql  # noqa: PLC0415 - as said above

    return PostgresSql(place, read_only=read_only)


def libpq_url(url: str) -> str:
    """Return a URL without the driver that SQLAlchemy lets it name.

    >>> libpq_url("postgresql+psycopg://errand@db.example/errand")
    'postgresql://errand@db.example/errand'
    """
    scheme, colon, rest = url.partition(":")
    return f"{scheme.partition('+')[0]}{colon}{rest}"


def parse_place(text: str, schema: str) -> Place:
    """Return what a command's argument names: a PostgreSQL URL, or a path.

    >>> parse_place("data", "errand_log")
    PosixPath('data')
    """
    if text.startswith(POSTGRES_PREFIXES):
        return Postgres(text, schema)
    return Path(text)
