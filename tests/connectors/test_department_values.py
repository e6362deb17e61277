"""What a column's value becomes in evidence: the truth, or nothing."""

from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.department.config import ColumnField, ValueType
from connectors.department.values import as_json, as_key
from schemas.clock import BEIJING

UNZONED = datetime.fromisoformat("2019-05-20T15:00")
WORDS = {"true_is": ("Y", "是", "1"), "false_is": ("N", "否", "2")}


def told(value: object, kind: str | None = None, **words: Any) -> object:  # noqa: ANN401 - of the configuration
    """Return what a value is told as."""
    type_ = None if kind is None else ValueType(kind)
    return as_json(value, ColumnField(column="c", type=type_, **words))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[("boolean", v) for v in ("N", "0", "no", "否", " ", "1", 2, 0.5, b"\0")],
        *[("integer", v) for v in (1.9, "1.0", Decimal("1.5"), 2**63, "x", "٣", "")],
        *[("integer", v) for v in (float("inf"), Decimal("NaN"), "1_000", b"1")],
        *[("number", v) for v in ("Infinity", "nan", float("-inf"), Decimal("NaN"))],
        *[("number", v) for v in ("1e999", 2**53 + 1, "1_0", "", b"1")],
        *[("date", v) for v in ("20190520", "02.01.2020", "2019-W21-1", "", 20190520)],
        *[("date", v) for v in ("2019-02-30", "2019-05-20T00:00:00Z", b"2019-05-20")],
        *[("text", v) for v in (b"x", ["a"], timedelta(1), float("nan"), {"a": 1})],
        *[("json", v) for v in ("{", '{"a": NaN}', "1e999", str(2**64), b"{}")],
        *[("json", v) for v in ('"\\ud800"', "[" * 9999, " " + "[" * 65 + "]" * 65)],
        *[("json", v) for v in ([date(2020, 1, 1)], {1: 2}, [float("inf")])],
        *[(None, v) for v in (b"x", ["a"], {"a": 1}, timedelta(1), 2**63)],
        *[(None, v) for v in (float("inf"), Decimal("NaN"), Decimal("sNaN"))],
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_can_t_be_told_truly_is_not_told(kind: str | None, value: object) -> None:
    """Nothing near the value is signed in its place."""
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        told(value, kind)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        *[("boolean", v, True) for v in (True, 1, Decimal(1))],
        *[("boolean", v, False) for v in (False, 0, Decimal(0))],
        *[("integer", v, 12) for v in (12, "12", 12.0, Decimal("12.00"))],
        ("integer", -(2**63), -(2**63)),
        *[("number", v, 12.5) for v in (12.5, "12.5", Decimal("12.5"), "1.25e1")],
        *[("date", v, "2019-05-20") for v in (date(2019, 5, 20), "2019-05-20")],
        ("date", datetime.fromisoformat("2019-05-20T23:00"), "2019-05-20"),
        ("date", "2019-05-20 23:00:00", "2019-05-20"),
        ("date", datetime(2019, 5, 19, 16, tzinfo=UTC), "2019-05-20"),
        ("json", '{"a": [1, null, "x", 0.5]}', {"a": [1, None, "x", 0.5]}),
        ("json", OrderedDict(a=["x"]), {"a": ["x"]}),
        (None, Decimal("3.50"), "3.50"),
        (None, Decimal("0E-8"), "0.00000000"),
        ("text", Decimal("1E+3"), "1000"),
        (None, time(14, 30), "14:30:00"),
        (None, datetime(2019, 5, 20, 15, tzinfo=BEIJING), "2019-05-20T07:00:00.000Z"),
        *[(k, UNZONED, "2019-05-20T15:00:00") for k in (None, "text")],
        (None, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (None, True, True),
        ("text", 7, "7"),
        *[(kind.value, None, None) for kind in ValueType],
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_true_is_told_in_its_type(
    kind: str | None, value: object, expected: object
) -> None:
    """Each driver's form of a value becomes the same JSON."""
    actual = told(value, kind)

    assert (type(expected), expected) == (type(actual), actual)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Y", True), ("是", True), (1, True), ("否", False), (2, False)],
)
def test_words_for_true_and_false_are_those_of_the_configuration(
    value: object, *, expected: bool
) -> None:
    """A register that writes Y and N, or 1 and 2, is understood."""
    assert expected is told(value, "boolean", **WORDS)


@pytest.mark.parametrize("value", ["y", "", " ", 0, True, "Y "])
def test_what_is_no_word_of_the_configuration_is_not_told(value: object) -> None:
    """With words of its own a register has no others."""
    with pytest.raises(ValueError, match="word"):
        told(value, "boolean", **WORDS)


@pytest.mark.parametrize(
    "words",
    [
        {"type": "boolean", "true_is": ("Y",)},
        {"type": "boolean", "false_is": ("N",)},
        {"type": "text", **WORDS},
        {"type": "boolean", "true_is": ("Y",), "false_is": ("N", "Y")},
    ],
    ids=str,
)
def test_words_that_say_nothing_are_refused(words: dict[str, Any]) -> None:
    """Half of a pair, a word on both sides, words of another type."""
    with pytest.raises(ValidationError):
        ColumnField(column="c", **words)


_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(document=_documents)
def test_a_document_is_sent_as_it_is_or_not_at_all(document: Any) -> None:  # noqa: ANN401 - any document
    """Whatever passes is the same again after it was sent."""
    try:
        passed = told(document, "json")
    except ValueError:
        return

    assert document == passed == orjson.loads(orjson.dumps(passed))


@pytest.mark.parametrize(
    ("text", "kind"),
    [("a\0", str), (str(2**63), int), ("01", int), ("1", bool), ("2019-5-20", date)]
    + [(text, Decimal) for text in ("x", "1e3", "NaN", "sNaN", " 1", "1_0", "")],
)
def test_a_key_that_no_column_holds_is_refused(text: str, kind: type) -> None:
    """The database is not even asked, so that it can't fail."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        as_key(text, kind)


def test_a_truth_may_be_a_key() -> None:
    """Both are written as Python writes them."""
    assert [True, False] == [as_key(text, bool) for text in ("True", "False")]
