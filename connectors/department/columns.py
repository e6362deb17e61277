"""Tables of a register, with columns that change nothing that is read from them.

SQLite holds its columns to nothing, and SQLAlchemy makes of a value what the column's
type says. Here what can't be told as it stands raises, and its record goes to a person.
"""

import math
import re
from datetime import date, datetime, time
from decimal import Context, Decimal
from typing import Any

from sqlalchemy import (
    CHAR,
    Boolean,
    Column,
    ColumnElement,
    Date,
    Dialect,
    Engine,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    false,
    func,
    not_,
    or_,
)
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import TypeDecorator, TypeEngine
from typing_extensions import override

from schemas.errors import SettingsError


class _Unpadded(TypeDecorator[str]):
    """CHAR(n) without the blanks that fill it: they say nothing (SQL-92, 8.2)."""

    impl = CHAR  # type: ignore[mutable-override]  # SQLAlchemy wants it so
    cache_ok = True  # type: ignore[mutable-override]  # SQLAlchemy wants it so

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value.rstrip(" ") if isinstance(value, str) else value


class _StrictBoolean(TypeDecorator[bool]):
    """BOOLEAN of SQLite, which may hold anything: SQLAlchemy takes "N" as true."""

    impl = Integer  # type: ignore[mutable-override]  # SQLAlchemy wants it so
    cache_ok = True  # type: ignore[mutable-override]  # SQLAlchemy wants it so

    @property
    @override
    def python_type(self) -> type[bool]:
        return bool

    @override
    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return self.process_result_value(value, dialect)

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        if isinstance(value, int) and value in {0, 1}:
            return bool(value)
        raise ValueError("neither true nor false")


_DIGITS = Context(prec=400)
"""Digits enough for every float, and for more places than columns are given."""


class _StrictDecimal(TypeDecorator[Decimal]):
    """NUMERIC and DECIMAL of SQLite, which keeps them as integers and floats.

    SQLAlchemy would round what has more places than the column was declared with, and
    whole numbers from 2^53 on.
    """

    impl = Integer  # type: ignore[mutable-override]  # SQLAlchemy wants it so
    cache_ok = True  # type: ignore[mutable-override]  # SQLAlchemy wants it so

    def __init__(self, scale: int | None) -> None:
        super().__init__()
        self.scale = scale

    @property
    @override
    def python_type(self) -> type[Decimal]:
        return Decimal

    @override
    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        # As text: SQLite compares it as the number that it writes (its "type
        # affinity"), and a float might be another number.
        return format(value, "f") if isinstance(value, Decimal) else value

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        if not isinstance(value, int | float):
            raise TypeError("not a number")
        # From there on one float stands for several decimals of so many places; and
        # SQLite makes an integer of what is one after it was rounded.
        may_be_rounded = isinstance(value, float) or bool(self.scale)
        if may_be_rounded and math.ulp(value) >= 10.0 ** -(self.scale or 0):
            raise ValueError("more digits than a float holds")
        exact = Decimal(repr(value))
        if self.scale is None:
            return exact
        told = exact.quantize(Decimal(1).scaleb(-self.scale), context=_DIGITS)
        if told != exact:
            raise ValueError("more places than the column has")
        return told


DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
"""How SQLite is told of a day, `2026-01-08`, in its `GLOB`."""
_A_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class _StrictDay(TypeDecorator[date]):
    """DATE of SQLite, which keeps it as a text of any form: of one form alone."""

    impl = String  # type: ignore[mutable-override]  # SQLAlchemy wants it so
    cache_ok = True  # type: ignore[mutable-override]  # SQLAlchemy wants it so

    @property
    @override
    def python_type(self) -> type[date]:
        return date

    @override
    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value.isoformat() if isinstance(value, date) else value

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        if not _A_DAY.fullmatch(value):
            raise ValueError("not a day as days are written")
        return date.fromisoformat(value)


def reflect(engine: Engine, name: str, schema: str | None) -> Table:
    """Return a table as the database has it.

    Raises:
        SettingsError: It is not there.
        SQLAlchemyError: The database can't be read.
    """
    try:
        table = Table(name, MetaData(), schema=schema, autoload_with=engine)
    except NoSuchTableError as error:
        raise SettingsError(f"the register has no table `{name}`") from error
    for column in table.columns:
        if isinstance(column.type, CHAR):
            column.type = _Unpadded(column.type.length)
        elif engine.dialect.name == "sqlite":
            column.type = _strict(column.type)
    return table


def _strict(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return a type of SQLite as one that changes nothing that it reads."""
    match kind:
        case Boolean():
            return _StrictBoolean()
        case Numeric(asdecimal=True, scale=scale):
            return _StrictDecimal(scale)
        case Date():
            return _StrictDay()
        case _:
            return kind


def may_be_text(kind: TypeEngine[Any]) -> bool:
    """Tell whether a column of SQLite may be one of texts.

    Types that SQLite does not know, such as `ENUM`, are decimals without a scale to it.
    """
    if isinstance(kind, _StrictDecimal):
        return kind.scale is None
    return kind.python_type in {str, object}


def kind_of(column: Column[Any]) -> type:
    """Return Python's type of a column's values."""
    try:
        return column.type.python_type
    except NotImplementedError:  # a type of one database alone: its text will do
        return str


def may_hold(column: ColumnElement[Any], value: object) -> ColumnElement[bool]:
    """Return what a row must hold to be one with this value, as far as can be told.

    INVARIANT: nobody is said to be not held because SQLite has a day in another form.
    Such a row may be the one that is meant: it is found as well, and reading it raises.
    And what is not known (NULL) is held by no row, as in SQL's own joins.
    """
    if value is None:
        return false()
    if isinstance(column.type, _StrictDay):
        return or_(column == value, not_(func.glob(DAY, column)))
    return column == value


def check_findable(column: Column[Any], engine: Engine) -> None:
    """Check that rows can be looked up by a column.

    Raises:
        SettingsError: SQLite has times there: as texts, of which some would not be
            found that say the same.
    """
    if engine.dialect.name == "sqlite" and kind_of(column) in {datetime, time}:
        raise SettingsError(
            f"`{column}` is a column of times, which SQLite has as texts of several"
            " forms: rows can't be looked up or joined by it. Name a view in which it"
            f" is text, such as `date({column.name})`"
        )
