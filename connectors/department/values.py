"""Between a column's values, the JSON of evidence, and the text of keys."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from pydantic import JsonValue

from connectors.department.config import ValueType
from schemas.clock import to_rfc3339_ms


def as_text(value: object) -> str:
    """Return a value as it is written in keys and comparisons; "" for none."""
    match value:
        case None:
            return ""
        case datetime():
            return to_rfc3339_ms(value.replace(tzinfo=value.tzinfo or UTC))
        case date():
            return value.isoformat()
        case _:
            return str(value)


def as_key(text: str, kind: type) -> object:
    """Return a key as a column whose values are of Python's type `kind` has it.

    Raises:
        ValueError: No value of the column is written so.
    """
    value: object = text
    if issubclass(kind, date):
        value = kind.fromisoformat(text)
    elif kind in {int, UUID}:
        value = kind(text)
    if as_text(value) != text:
        raise ValueError("written otherwise than the column's values are")
    return value


def as_json(value: Any, kind: ValueType | None) -> JsonValue:  # noqa: ANN401 - whatever a driver gives
    """Return a column's value in JSON; `kind` None is what the value itself says.

    Raises:
        ValueError: The value is not of that kind.
    """
    if value is None:
        return None
    return _CONVERSIONS[kind](value)


def _document(value: Any) -> JsonValue:  # noqa: ANN401 - whatever a driver gives
    # Some drivers parse JSON columns themselves.
    document: JsonValue = orjson.loads(value) if isinstance(value, str) else value
    return document


def _natural(value: object) -> JsonValue:
    match value:
        case bool() | int() | float() | str():
            return value
        case Decimal():
            # As text: JSON numbers are floats to many readers, and money is not.
            return str(value)
        case _:
            return as_text(value)


_CONVERSIONS: Mapping[ValueType | None, Callable[[Any], JsonValue]] = {
    None: _natural,
    ValueType.TEXT: as_text,
    ValueType.INTEGER: int,
    ValueType.NUMBER: float,
    ValueType.BOOLEAN: bool,
    ValueType.DATE: lambda value: as_text(value)[:10],
    ValueType.JSON: _document,
}
