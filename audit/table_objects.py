"""A store of objects in a schema of PostgreSQL: anchors of a log that a fleet shares.

Gateways have data folders of their own, so what one of them was given by an authority
must lie where all of them, and whoever verifies the log, look for it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from audit.places import open_sql
from audit.sql import Postgres, Sql, Tables
from schemas.errors import (
    LogUnavailableError,
    StoreMovedError,
    StoreUnavailableError,
    VerificationError,
)

PUBLIC_SCHEMA: Final = "errand_public"
"""Where what is given away stands in a log's database, unless a store has it."""

_TABLES = Tables(
    sqlite="",  # there it is a folder
    postgres="""
CREATE TABLE object (path TEXT COLLATE "C" PRIMARY KEY, content BYTEA NOT NULL);
""",
)
_NEW = "INSERT INTO object VALUES (?, ?) ON CONFLICT DO NOTHING"
_SWAP = "UPDATE object SET content = ? WHERE path = ? AND content = ?"


@dataclass(frozen=True, slots=True)
class TableObjects:
    """Objects in a table, as `audit.objects.Objects` wants them.

    Each use has a connection of its own: they are few, and from any thread.
    """

    place: Postgres
    shard: str = ""
    """The shard's name, below which its objects stand; "" for the first."""

    def read(self, path: str) -> bytes | None:
        """Return an object; None for nothing."""
        with self._opened(read_only=True) as sql:
            return self._read(sql, path) if sql.is_made("object") else None

    def write_once(self, path: str, content: bytes) -> None:
        """Write an object that never changes, durably."""
        with self._opened() as sql:
            with sql.transaction() as changes:
                is_new = changes.change(_NEW, (self._at(path), content)) == 1
            if not is_new and self._read(sql, path) != content:
                # INVARIANT: what was published once is never another thing.
                raise VerificationError(f"{path}: the store holds something else")

    def swap(self, path: str, before: bytes | None, after: bytes) -> None:
        """Put an object in the place of the one that was read, durably."""
        at = self._at(path)
        with self._opened() as sql, sql.transaction() as changes:
            if before is None:
                swapped = changes.change(_NEW, (at, after))
            else:
                swapped = changes.change(_SWAP, (after, at, before))
            if swapped != 1:
                raise StoreMovedError(f"`{path}` was replaced meanwhile")

    def _at(self, path: str) -> str:
        return f"{self.shard}/{path}" if self.shard else path

    def _read(self, sql: Sql, path: str) -> bytes | None:
        query = "SELECT content FROM object WHERE path = ?"
        for (content,) in sql.rows(query, (self._at(path),)):
            return bytes(content)
        return None

    @contextmanager
    def _opened(self, *, read_only: bool = False) -> Iterator[Sql]:
        try:
            with closing(open_sql(self.place, read_only=read_only)) as sql:
                if not read_only:
                    sql.make(_TABLES)
                yield sql
        except LogUnavailableError as error:
            raise StoreUnavailableError(str(error)) from None
