"""Opening what the log's parts are kept in, on whichever engine."""

import re
from pathlib import Path
from typing import Final

from audit.sql import Place, Postgres, Sql, SqliteSql
from schemas.errors import SettingsError

_POSTGRES: Final = re.compile(r"postgres(ql)?(\+[a-z0-9_]+)?://")
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How any address begins, as one with a slip in it does."""
_FORM: Final = (
    "write `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`; in a password `%` is "
    "written `%25`, `@` is `%40`, `/` is `%2F` and `:` is `%3A`"
)
_LAST_PORT: Final = 65_535


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

    INVARIANT: a URL may hold a password, so no error repeats anything of it; the
    driver's own would.

    Raises:
        ValueError: It is none that PostgreSQL's library can read; says what to write.

    >>> libpq_url("postgresql+psycopg://errand@db.example/errand")
    'postgresql://errand@db.example/errand'
    """
    if not _POSTGRES.match(url):
        raise ValueError(f"no address of a PostgreSQL database: {_FORM}")
    # Only where it is used, as above.
    from psycopg import Error  # noqa: PLC0415 - as said above
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - as said above

    scheme, _, rest = url.partition("://")
    plain = f"{scheme.partition('+')[0]}://{rest}"
    try:
        found = conninfo_to_dict(plain)
    except (Error, UnicodeError, ValueError):
        found = None
    if found is None or not all(map(_is_port, str(found.get("port", "")).split(","))):
        raise ValueError(f"PostgreSQL can't read this address: {_FORM}")
    return plain


def _is_port(text: str) -> bool:
    """Return whether it is a port, or none: of several servers each may have one."""
    return not text or (text.isdecimal() and 0 < int(text) <= _LAST_PORT)


def parse_place(text: str, schema: str) -> Place:
    """Return what a command's argument names: a PostgreSQL URL, or a path.

    Raises:
        SettingsError: It is an address, and of no PostgreSQL database.

    >>> parse_place("data", "errand_log")
    PosixPath('data')
    """
    if not _ADDRESS.match(text):
        return Path(text)
    try:
        return Postgres(libpq_url(text), schema)
    except ValueError as error:
        raise SettingsError(str(error)) from None
