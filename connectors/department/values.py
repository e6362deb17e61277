"""Between a column's values, the JSON of evidence, and the text of keys.

INVARIANT: what can't be told truly is not told. A value that its type does not hold
whole (a fraction as an integer, "N" as a truth, infinity) raises, and its record goes
to a person; no message here holds a value.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from pydantic import JsonValue

from connectors.department.config import ColumnField, ValueType
from schemas.clock import day_in_beijing, to_rfc3339_ms

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGERS = range(-(2**63), 2**63)
"""What databases and readers of JSON have as an integer."""
_MAX_DEPTH = 64
"""How deep a document's lists and objects may lie in each other."""


def as_text(value: object) -> str:
    """Return a value as it is written in keys and comparisons; "" for none.

    Raises:
        ValueError: No text says the same.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case datetime(tzinfo=zone) if zone is not None:
            return to_rfc3339_ms(value)
        case date() | time():  # also a time that names no zone: nobody knows which
            return value.isoformat()
        case bool() | int() | UUID():
            return str(value)
        case float() | Decimal() if math.isfinite(value):
            # A decimal never with an exponent, as Python writes `0E-8`.
            return str(value) if isinstance(value, float) else format(value, "f")
        case _:
            raise ValueError("not a value that is written as text")


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
    elif kind is bool:
        value = text == str(True)
    elif kind is Decimal:
        value = _decimal(text)
    if as_text(value) != text or "\0" in text:
        raise ValueError("written otherwise than the column's values are")
    if kind is int and value not in _INTEGERS:
        raise ValueError("greater than the column's values are")
    return value


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError("not a number") from None


def as_json(value: Any, spec: ColumnField) -> JsonValue:  # noqa: ANN401 - whatever a driver gives
    """Return a column's value in JSON, as the field's type has it.

    Raises:
        ValueError: The value is not of that type.
    """
    if value is None:
        return None
    if spec.true_is:
        return _word(as_text(value), spec)
    return _CONVERSIONS[spec.type](value)


def as_number(value: object) -> float:
    """Return a value as a float that is the same number.

    Raises:
        ValueError: It is none, or a float is not it.
    """
    match value:
        case int() | float() | Decimal():
            number = float(value)
        case str() if _NUMBER.fullmatch(value):
            number = float(value)
        case _:
            raise ValueError("not a number")
    if not math.isfinite(number) or (isinstance(value, int) and number != value):
        raise ValueError("not a number that a float holds")
    return number


def _word(text: str, spec: ColumnField) -> bool:
    if text in spec.true_is:
        return True
    if text in spec.false_is:
        return False
    raise ValueError("not a word that was said to be true or false")


def _boolean(value: object) -> bool:
    if isinstance(value, bool | int | Decimal) and value in {0, 1}:
        return bool(value)
    raise ValueError("neither true nor false")


def _integer(value: object) -> int:
    match value:
        case int():
            whole = int(value)
        case float() | Decimal() if math.isfinite(value) and value == int(value):
            whole = int(value)
        case str() if _INTEGER.fullmatch(value):
            whole = int(value)
        case _:
            raise ValueError("not an integer")
    if whole not in _INTEGERS:
        raise ValueError("not an integer of 64 bits")
    return whole


def _day(value: object) -> str:
    match value:
        case datetime(tzinfo=None):
            return value.date().isoformat()
        case datetime():
            return day_in_beijing(value).isoformat()
        case date():
            return value.isoformat()
        case str():
            moment = datetime.fromisoformat(value)
            day = moment.date().isoformat()
            if moment.tzinfo is None and value.startswith(day):
                return day
        case _:
            pass
    raise ValueError("not a day")


def _document(value: object) -> JsonValue:
    # Some drivers parse JSON columns themselves.
    if not isinstance(value, str):
        return _plain(value)
    try:
        return _plain(json.loads(value, parse_constant=_refused))
    except RecursionError:
        raise ValueError("a document that is too deep") from None


def _refused(_constant: str) -> NoReturn:
    raise ValueError("infinity and NaN are not JSON")


def _plain(value: object, depth: int = 0) -> JsonValue:
    """Return a document that JSON, and every reader of it, has as it is."""
    match value:
        case None | bool():
            return value
        case str():
            value.encode()  # half of a character can't be sent
            return value
        case int() if value in _INTEGERS:
            return value
        case float() if math.isfinite(value):
            return value
        case list() if depth < _MAX_DEPTH:
            return [_plain(item, depth + 1) for item in value]
        case dict() if depth < _MAX_DEPTH and all(type(key) is str for key in value):
            return {key: _plain(item, depth + 1) for key, item in value.items()}
        case _:
            raise ValueError("not a JSON document")


def _natural(value: object) -> JsonValue:
    match value:
        case bool() | str():
            return value
        case int() if value in _INTEGERS:
            return value
        case float() if math.isfinite(value):
            return value
        case Decimal() | datetime() | date() | time() | UUID():
            # Decimals too: JSON numbers are floats to many readers, and money is not.
            return as_text(value)
        case _:
            raise ValueError("of a type that JSON has not")


_CONVERSIONS: Mapping[ValueType | None, Callable[[Any], JsonValue]] = {
    None: _natural,
    ValueType.TEXT: as_text,
    ValueType.INTEGER: _integer,
    ValueType.NUMBER: as_number,
    ValueType.BOOLEAN: _boolean,
    ValueType.DATE: _day,
    ValueType.JSON: _document,
}
