"""The department's register: tables of a SQL database, read as evidence types.

The only SQL of the department. Statements are built by SQLAlchemy from tables that
were read from the database itself, and values are bound: nothing from a look-up ever
becomes part of a statement. The connection reads only, where the database knows how.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from typing import Any, TypeAlias

import jsonschema_rs
from pydantic import JsonValue
from sqlalchemy import (
    Engine,
    MetaData,
    RowMapping,
    Select,
    Table,
    create_engine,
    event,
    select,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from connectors.department.config import (
    AsOfColumn,
    ColumnField,
    Coverage,
    EvidenceSource,
    RowsField,
)
from connectors.department.signing import Statement
from connectors.department.values import as_json, as_key, as_text
from connectors.protocol import LookupClaims
from schemas.codes import region_contains
from schemas.errors import SettingsError
from schemas.evidence import Mode

MAX_ROWS = 200
"""How many rows a field may list."""

_READ_ONLY = {
    "sqlite": "PRAGMA query_only=ON",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
"""How a session is made to read only; other databases need an account that may."""


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
        self._table = _reflect(engine, spec.table, spec.db_schema)
        self._fields: dict[str, ColumnField | RowsField] = {
            name: _as_field(field) for name, field in spec.fields.items()
        }
        self._children = {
            name: _reflect(engine, field.rows, spec.db_schema)
            for name, field in self._fields.items()
            if isinstance(field, RowsField)
        }
        self._offset = _offset(spec.as_of)
        self._columns = sorted(_record_columns(spec, self._fields.values()))
        self._check_columns()
        self._validators = {
            name: _validator(name, field.json_schema)
            for name, field in self._fields.items()
            if field.json_schema is not None
        }

    def complaint(self, lookup: LookupClaims) -> str | None:
        """Return what is wrong with a look-up for this evidence type; None if nothing.

        The words name keys and fields of the configuration, and no values.
        """
        if not any(set(lookup.keys) == set(keys) for keys in self._spec.keys):
            sets = " or ".join(
                "{" + ", ".join(sorted(keys)) + "}" for keys in self._spec.keys
            )
            return f"`keys` must be {sets}"
        for key, column in self._columns_of(lookup.keys).items():
            try:
                self._as_key(column, lookup.keys[key])
            except ValueError:
                return f"`keys/{key}` is not written as the register writes it"
        return self._complaint_of_mode(lookup)

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
        (2) Read the row; several need a person, unless the newest counts.
        (3) Outside of the register's regions there is nothing to say.
        (4) Take the fields asked for, or compare the facts stated.
        """
        if _too_early(self._coverage, lookup.keys):  # (1)
            return OutsideCoverage()
        statement = self._statement(lookup.keys)
        rows = connection.execute(statement).mappings().all()  # (2)
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
        keys = self._columns_of(lookup.keys)
        told = {name: as_text(row[column]) for name, column in keys.items()}
        as_of = self._as_of(row, now)
        if as_of is None:
            return NeedsPerson("record_not_in_order")
        if lookup.mode is Mode.VERIFY:
            return Statement(told, as_of, None, self._agrees(row, lookup.match))
        values = {name: self._value(connection, row, name) for name in lookup.fields}
        if not self._is_in_order(values):
            return NeedsPerson("record_not_in_order")
        return Statement(told, as_of, values, None)

    def _columns_of(self, keys: Mapping[str, str]) -> Mapping[str, str]:
        return next(known for known in self._spec.keys if set(known) == set(keys))

    def _as_key(self, column: str, text: str) -> object:
        try:
            kind = self._table.c[column].type.python_type
        except NotImplementedError:  # a type of one database alone: its text will do
            kind = str
        return as_key(text, kind)

    def _statement(self, keys: Mapping[str, str]) -> Select[Any]:
        """Return the query for a record, over the columns in use and no others."""
        table, spec = self._table, self._spec
        statement = select(*(table.c[name] for name in self._columns))
        for key, column in self._columns_of(keys).items():
            value = self._as_key(column, keys[key])
            statement = statement.where(table.c[column] == value)
        for column, value in spec.where.items():
            statement = statement.where(table.c[column] == value)
        if spec.newest_by is not None:
            return statement.order_by(table.c[spec.newest_by].desc()).limit(1)
        return statement.limit(2)

    def _covers(self, row: RowMapping) -> bool:
        column, regions = self._coverage.region_column, self._coverage.regions
        if column is None or not regions:
            return True
        region = as_text(row[column])
        return any(region_contains(outer, region) for outer in regions)

    def _as_of(self, row: RowMapping, now: datetime) -> datetime | None:
        spec = self._spec.as_of
        if not isinstance(spec, AsOfColumn):
            return now
        value = row[spec.column]
        if value is None:
            return None
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if not isinstance(value, datetime):
            value = datetime.combine(value, time())
        return value if value.tzinfo else value.replace(tzinfo=self._offset)

    def _agrees(self, row: RowMapping, stated: Mapping[str, str]) -> bool:
        return all(
            as_text(row[self._spec.compare[name]]).strip() == value.strip()
            for name, value in stated.items()
        )

    def _value(self, connection: Connection, row: RowMapping, name: str) -> JsonValue:
        field = self._fields[name]
        if isinstance(field, ColumnField):
            return as_json(row[field.column], field.type)
        child = self._children[name]
        members = {key: _as_column(spec) for key, spec in field.columns.items()}
        # One row more than may be: a list that was cut would be a false statement.
        statement = select(*(child.c[spec.column] for spec in members.values()))
        statement = statement.limit(MAX_ROWS + 1)
        for column, parent in field.joined_by.items():
            statement = statement.where(child.c[column] == row[parent])
        if field.order_by is not None:
            statement = statement.order_by(child.c[field.order_by])
        return [
            {
                key: as_json(item[spec.column], spec.type)
                for key, spec in members.items()
            }
            for item in connection.execute(statement).mappings()
        ]

    def _is_in_order(self, values: Mapping[str, JsonValue]) -> bool:
        if any(isinstance(v, list) and len(v) > MAX_ROWS for v in values.values()):
            return False
        return all(
            self._validators[name].is_valid(value)
            for name, value in values.items()
            if name in self._validators
        )

    def _check_columns(self) -> None:
        missing = [
            f"`{self._spec.table}.{column}`"
            for column in self._columns
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


class Register:
    """The department's database, open for reading."""

    def __init__(self, url: str, specs: Mapping[str, EvidenceSource]) -> None:
        """Connect, and read the tables that the evidence types come from.

        Raises:
            SettingsError: The database can't be reached or lacks a table or column.
        """
        try:
            # The threads bound the connections: a smaller pool would be a second queue.
            self._engine = create_engine(
                url,
                pool_pre_ping=True,
                hide_parameters=True,
                poolclass=QueuePool,
                max_overflow=-1,
            )
        except (ArgumentError, ImportError) as error:
            raise SettingsError("`database` is not a usable SQLAlchemy URL") from error
        event.listen(self._engine, "connect", self._make_read_only)
        try:
            self._sources = {
                ref: Source(spec, self._engine) for ref, spec in specs.items()
            }
        except SQLAlchemyError as error:
            message = f"the register can't be read: {type(error).__name__}"
            raise SettingsError(message) from error

    def source(self, evidence_type: str) -> Source | None:
        """Return the source of an evidence type `id@version`; None if not offered."""
        return self._sources.get(evidence_type)

    def find(self, source: Source, lookup: LookupClaims, now: datetime) -> Finding:
        """Look one record up; blocks.

        Raises:
            SQLAlchemyError: The database can't be read.
        """
        with self._engine.connect() as connection:
            return source.find(connection, lookup, now)

    def ping(self) -> None:
        """Read something.

        Raises:
            SQLAlchemyError: The database can't be read.
        """
        with self._engine.connect() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _make_read_only(self, raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - a DBAPI connection
        statement = _READ_ONLY.get(self._engine.dialect.name)
        if statement is None:
            return
        cursor = raw.cursor()
        cursor.execute(statement)
        cursor.close()
        raw.commit()


def _reflect(engine: Engine, name: str, schema: str | None) -> Table:
    try:
        return Table(name, MetaData(), schema=schema, autoload_with=engine)
    except NoSuchTableError as error:
        raise SettingsError(f"the register has no table `{name}`") from error


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
    for field in fields:
        match field:
            case ColumnField():
                named.add(field.column)
            case RowsField():
                named |= set(field.joined_by.values())
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
