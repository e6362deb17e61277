"""Which row of a table a look-up means, and the query that finds it."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    FromClause,
    Select,
    Table,
    and_,
    or_,
    select,
)

from connectors.department.columns import (
    check_findable,
    kind_of,
    may_be_text,
    may_hold,
)
from connectors.department.config import EvidenceSource, Scalar
from connectors.department.database import BadValueError, read
from connectors.department.values import as_key, as_number
from schemas.errors import SettingsError


class Finder:
    """Finds a record by one of the sets of keys that an evidence type has."""

    def __init__(self, spec: EvidenceSource, table: Table, engine: Engine) -> None:
        """Check what rows are found by against the columns, which must be there.

        Raises:
            SettingsError: Rows can't be looked up by a key's column, or a value of
                `where` is none of its column.
        """
        self._spec = spec
        self._table = table
        for column in {column for keys in spec.keys for column in keys.values()}:
            check_findable(table.c[column], engine)
        self._where = self._constants(engine)

    def columns_of(self, keys: Mapping[str, str]) -> Mapping[str, str]:
        """Return the column of each key of a whole set."""
        return next(known for known in self._spec.keys if set(known) == set(keys))

    def complaint(self, keys: Mapping[str, str]) -> str | None:
        """Return what is wrong with the keys of a look-up; None if nothing.

        The words name keys of the configuration, and no values.
        """
        if not any(set(keys) == set(known) for known in self._spec.keys):
            sets = " or ".join(
                "{" + ", ".join(sorted(known)) + "}" for known in self._spec.keys
            )
            return f"`keys` must be {sets}"
        for key, column in self.columns_of(keys).items():
            try:
                self._as_key(column, keys[key])
            except ValueError:
                return f"`keys/{key}` is not written as the register writes it"
        return None

    def statement(self, keys: Mapping[str, str], columns: Iterable[str]) -> Select[Any]:
        """Return the query for the rows that a whole set of keys means, at most two."""
        table, newest_by = self._table, self._spec.newest_by
        statement = select(*(table.c[name] for name in columns))
        statement = statement.where(*self._found_by(table, keys))
        if newest_by is not None:
            # Those that no other is newer than, by the database's own order: two of
            # one age are both found, and NULL is older than whatever is known.
            other = table.alias()
            mine, others = table.c[newest_by], other.c[newest_by]
            newer = or_(others > mine, and_(mine.is_(None), others.is_not(None)))
            at_hand = self._found_by(other, keys)
            statement = statement.where(~select(1).where(*at_hand, newer).exists())
        return statement.limit(2)

    def _found_by(
        self, table: FromClause, keys: Mapping[str, str]
    ) -> list[ColumnElement[bool]]:
        """Return what a row must hold to be one that the keys mean."""
        held = [
            may_hold(table.c[column], self._as_key(column, keys[key]))
            for key, column in self.columns_of(keys).items()
        ]
        where = [table.c[column] == value for column, value in self._where.items()]
        return held + where

    def _as_key(self, column: str, text: str) -> object:
        return as_key(text, kind_of(self._table.c[column]))

    def _constants(self, engine: Engine) -> Mapping[str, object]:
        """Return the values of `where` as their columns have them.

        Raises:
            SettingsError: One is no value of its column.
        """
        constants: dict[str, object] = {}
        for column, value in self._spec.where.items():
            held = self._table.c[column]
            try:
                constants[column] = self._as_constant(column, value, engine)
                statement = select(held).where(held == constants[column]).limit(0)
                with engine.connect() as connection:
                    read(connection, statement)
            except (BadValueError, ValueError):
                message = f"`where`: `{held}` can't hold what is given"
                raise SettingsError(message) from None
        return constants

    def _as_constant(self, column: str, value: Scalar, engine: Engine) -> object:
        """Return a value of `where` as its column has it.

        Raises:
            ValueError: The column has no such value. No row would count, and everybody
                would be said to be not held: SQLite and MySQL compare it all the same.
        """
        held, on_sqlite = self._table.c[column], engine.dialect.name == "sqlite"
        kind = kind_of(held)
        if issubclass(kind, date) and (on_sqlite or not isinstance(value, str)):
            # SQLite has it as text, in whichever form it was written.
            kind.fromisoformat(value if isinstance(value, str) else "")
            return value
        if not isinstance(value, str):
            return value
        if kind is float:
            return as_number(value)
        if on_sqlite and may_be_text(held.type):
            return value
        return self._as_key(column, value)
