"""Tables of a SQL database, read as evidence types.

With `connectors.department.finder` the only SQL of the department. Statements are built
by SQLAlchemy from tables that were read from the database itself, and values are bound:
nothing from a look-up ever becomes part of a statement.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from functools import partial
from typing import Any, TypeAlias, TypeVar, assert_never

import jsonschema_rs
from pydantic import JsonValue
from sqlalchemy import (
    Column,
    Engine,
    RowMapping,
    select,
)
from sqlalchemy.engine import Connection

from connectors.department.columns import check_findable, may_hold, reflect
from connectors.department.config import (
    AsOfColumn,
    ColumnField,
    Coverage,
    EvidenceSource,
    RowsField,
)
from connectors.department.database import BadValueError, read
from connectors.department.finder import Finder
from connectors.department.signing import Statement
from connectors.department.values import as_json, as_text
from connectors.protocol import LookupClaims
from schemas.codes import region_contains
from schemas.errors import SettingsError
from schemas.evidence import Mode

MAX_ROWS = 200
"""How many rows a field may list."""
NOT_IN_ORDER = "record_not_in_order"
"""The code of a record that can't be told truly."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NoRecord:
    """There is no such record."""


@dataclass(frozen=True, slots=True)
class OutsideCoverage:
    """The register can't speak about this region or date."""


@dataclass(frozen=True, slots=True)
class NeedsPerson:
    """A person must look: the rule's code says why."""

    code: str
    place: str | None = None
    """The table and column of what is not in order, for the department's own eyes."""


Finding: TypeAlias = Statement | NoRecord | OutsideCoverage | NeedsPerson


class Source:
    """One evidence type: a table, its columns, and how they become fields."""

    def __init__(self, spec: EvidenceSource, engine: Engine) -> None:
        """Read the tables from the database.

        Raises:
            SettingsError: A table or a column is not there.
        """
        self._spec = spec
        self._coverage = spec.coverage
        self._table = reflect(engine, spec.table, spec.db_schema)
        self._fields: dict[str, ColumnField | RowsField] = {
            name: _as_field(field) for name, field in spec.fields.items()
        }
        self._children = {
            name: reflect(engine, field.rows, spec.db_schema)
            for name, field in self._fields.items()
            if isinstance(field, RowsField)
        }
        self._offset = _offset(spec.as_of)
        self._check_columns(engine)
        self._finder = Finder(spec, self._table, engine)
        self._validators = {
            name: _validator(name, field.json_schema)
            for name, field in self._fields.items()
            if field.json_schema is not None
        }

    def complaint(self, lookup: LookupClaims) -> str | None:
        """Return what is wrong with a look-up for this evidence type; None if nothing.

        The words name keys and fields of the configuration, and no values.
        """
        return self._finder.complaint(lookup.keys) or self._complaint_of_mode(lookup)

    def probe(self, connection: Connection) -> None:
        """Read from each table, and no value of it.

        Raises:
            SQLAlchemyError: A table can't be read.
        """
        for table in (self._table, *self._children.values()):
            connection.execute(select(1).select_from(table).limit(1))

    def _complaint_of_mode(self, lookup: LookupClaims) -> str | None:
        offered, wanted = set(self._fields), lookup.fields
        member, other = "fields", bool(lookup.match)
        if lookup.mode is Mode.VERIFY:
            offered, wanted = set(self._spec.compare), tuple(lookup.match)
            member, other = "match", bool(lookup.fields)
        if other or not wanted or len(set(wanted)) != len(wanted):
            return f"mode `{lookup.mode.value}` takes `{member}`, each once, alone"
        if not set(wanted) <= offered:
            return f"`{member}` may hold only: {', '.join(sorted(offered))}"
        return None

    def find(
        self, connection: Connection, lookup: LookupClaims, now: datetime
    ) -> Finding:
        """Look one record up.

        (1) Outside of the register's days there is nothing to say.
        (2) Read the row, or the newest; several need a person.
        (3) Outside of the register's regions there is nothing to say.
        (4) Take the fields asked for, or compare the facts stated.

        Raises:
            BadValueError: The record holds what its columns' types have not.
            SQLAlchemyError: The database can't be read.
        """
        if _too_early(self._coverage, lookup.keys):  # (1)
            return OutsideCoverage()
        statement = self._finder.statement(lookup.keys, self._columns_for(lookup))
        rows = read(connection, statement)  # (2)
        if not rows:
            return NoRecord()
        if len(rows) > 1:
            return NeedsPerson("ambiguous")
        if not self._covers(rows[0]):  # (3)
            return OutsideCoverage()
        return self._told(connection, rows[0], lookup, now)  # (4)

    def _told(
        self,
        connection: Connection,
        row: RowMapping,
        lookup: LookupClaims,
        now: datetime,
    ) -> Finding:
        """Return what one row says in answer to a look-up."""
        keys = self._finder.columns_of(lookup.keys)
        told = {name: self._read(row, keys[name], as_text) for name in keys}
        as_of = self._as_of(row, now)
        if lookup.mode is Mode.VERIFY:
            return Statement(told, as_of, None, self._agrees(row, lookup.match))
        values = {name: self._value(connection, row, name) for name in lookup.fields}
        for name, value in values.items():
            if not self._is_in_order(name, value):
                return NeedsPerson(NOT_IN_ORDER, self._place(name))
        return Statement(told, as_of, values, None)

    def _columns_for(self, lookup: LookupClaims) -> list[str]:
        """Return the columns that a look-up takes: no other may stand in its way."""
        spec = self._spec
        taken = set(self._finder.columns_of(lookup.keys).values())
        taken |= {spec.compare[name] for name in lookup.match}
        taken |= _columns_of_fields(self._fields[name] for name in lookup.fields)
        if self._coverage.region_column is not None:
            taken.add(self._coverage.region_column)
        if isinstance(spec.as_of, AsOfColumn):
            taken.add(spec.as_of.column)
        return sorted(taken)

    def _read(self, row: RowMapping, column: str, convert: Callable[[Any], T]) -> T:
        return _converted(self._table.c[column], row[column], convert)

    def _covers(self, row: RowMapping) -> bool:
        column, regions = self._coverage.region_column, self._coverage.regions
        if column is None or not regions:
            return True
        region = self._read(row, column, as_text)
        return any(region_contains(outer, region) for outer in regions)

    def _as_of(self, row: RowMapping, now: datetime) -> datetime:
        spec = self._spec.as_of
        if not isinstance(spec, AsOfColumn):
            return now
        return self._read(row, spec.column, self._instant)

    def _instant(self, value: Any) -> datetime:  # noqa: ANN401 - whatever a driver gives
        """Return when the register held a record, in UTC."""
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if not isinstance(value, datetime):
            value = datetime.combine(value, time())
        aware: datetime = value.replace(tzinfo=value.tzinfo or self._offset)
        return aware.astimezone(UTC)

    def _agrees(self, row: RowMapping, stated: Mapping[str, str]) -> bool:
        columns = self._spec.compare
        # What the register does not know agrees with nothing, and " " is nothing too.
        return all(
            row[columns[name]] is not None
            and self._read(row, columns[name], as_text).strip() == value.strip()
            for name, value in stated.items()
        )

    def _value(self, connection: Connection, row: RowMapping, name: str) -> JsonValue:
        field = self._fields[name]
        if isinstance(field, ColumnField):
            return self._read(row, field.column, partial(as_json, spec=field))
        child = self._children[name]
        members = {key: _as_column(spec) for key, spec in field.columns.items()}
        taken = {spec.column for spec in members.values()} | set(field.joined_by)
        # One row more than may be: a list that was cut would be a false statement.
        statement = select(*(child.c[name] for name in sorted(taken)))
        statement = statement.limit(MAX_ROWS + 1)
        for column, parent in field.joined_by.items():
            statement = statement.where(may_hold(child.c[column], row[parent]))
        if field.order_by is not None:
            statement = statement.order_by(child.c[field.order_by])
        return [
            {
                key: _converted(
                    child.c[spec.column], item[spec.column], partial(as_json, spec=spec)
                )
                for key, spec in members.items()
            }
            for item in read(connection, statement)
        ]

    def _is_in_order(self, name: str, value: JsonValue) -> bool:
        is_list = isinstance(self._fields[name], RowsField)
        if is_list and isinstance(value, list) and len(value) > MAX_ROWS:
            return False
        return name not in self._validators or self._validators[name].is_valid(value)

    def _place(self, name: str) -> str:
        """Return where a field comes from."""
        field = self._fields[name]
        if isinstance(field, RowsField):
            return field.rows
        return f"{self._spec.table}.{field.column}"

    def _check_columns(self, engine: Engine) -> None:
        missing = [
            f"`{self._spec.table}.{column}`"
            for column in sorted(_record_columns(self._spec, self._fields.values()))
            if column not in self._table.c
        ]
        for name, field in self._fields.items():
            if isinstance(field, RowsField):
                child = self._children[name]
                missing += [
                    f"`{field.rows}.{column}`"
                    for column in sorted(_row_columns(field))
                    if column not in child.c
                ]
        if missing:
            raise SettingsError(f"the register has no {', '.join(missing)}")
        for name, field in self._fields.items():
            if isinstance(field, RowsField):
                for column, parent in field.joined_by.items():
                    check_findable(self._children[name].c[column], engine)
                    check_findable(self._table.c[parent], engine)


def _converted(column: Column[Any], value: Any, convert: Callable[[Any], T]) -> T:  # noqa: ANN401 - whatever a driver gives
    """Return a value as it is told.

    Raises:
        BadValueError: It can't be told truly.
    """
    try:
        return convert(value)
    except (ValueError, TypeError, ArithmeticError):  # not chained: it holds the value
        raise BadValueError(str(column)) from None


def _as_column(spec: ColumnField | str) -> ColumnField:
    return ColumnField(column=spec) if isinstance(spec, str) else spec


def _as_field(spec: ColumnField | RowsField | str) -> ColumnField | RowsField:
    return spec if isinstance(spec, RowsField) else _as_column(spec)


def _record_columns(
    spec: EvidenceSource, fields: Iterable[ColumnField | RowsField]
) -> set[str]:
    """Return every column of the record's table that the configuration names."""
    named = {column for keys in spec.keys for column in keys.values()}
    named |= set(spec.compare.values()) | set(spec.where)
    for column in (spec.newest_by, spec.coverage.region_column):
        named |= set() if column is None else {column}
    if isinstance(spec.as_of, AsOfColumn):
        named.add(spec.as_of.column)
    return named | _columns_of_fields(fields)


def _columns_of_fields(fields: Iterable[ColumnField | RowsField]) -> set[str]:
    """Return the columns of the record's table that fields come from."""
    named: set[str] = set()
    for field in fields:
        match field:
            case ColumnField():
                named.add(field.column)
            case RowsField():
                named |= set(field.joined_by.values())
            case _:
                assert_never(field)
    return named


def _row_columns(field: RowsField) -> set[str]:
    """Return every column of the other table that a list field names."""
    named = {_as_column(spec).column for spec in field.columns.values()}
    named |= set(field.joined_by)
    return named | ({field.order_by} if field.order_by is not None else set())


def _validator(
    name: str, schema: Mapping[str, JsonValue]
) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            dict(schema), validate_formats=True, offline=True
        )
    except ValueError as error:
        raise SettingsError(f"field `{name}`: `json_schema` is not one") from error


def _offset(as_of: object) -> timezone:
    text = as_of.utc_offset if isinstance(as_of, AsOfColumn) else "+00:00"
    size = timedelta(hours=int(text[1:3]), minutes=int(text[4:6]))
    return timezone(-size if text[0] == "-" else size)


def _too_early(coverage: Coverage, keys: Mapping[str, str]) -> bool:
    if coverage.from_date is None or coverage.date_key is None:
        return False
    # ISO dates sort as text does.
    day = keys.get(coverage.date_key)
    return day is not None and day < coverage.from_date.isoformat()
