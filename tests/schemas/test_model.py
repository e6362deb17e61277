"""What stands for an instant in JSON, and what an array may hold."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.model import (
    MOST_DAYS,
    MOST_SHOWN,
    MOST_WORDING,
    Instant,
    Name,
    Span,
    Wording,
)

_INSTANT = TypeAdapter[datetime](Instant)
_SPAN = TypeAdapter[timedelta](Span)


_A_DAY = timedelta(days=1)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timedelta(minutes=minutes))


@given(st.timedeltas(_A_DAY, _LAST - _FIRST - _A_DAY), _OFFSETS)
def test_every_instant_of_rfc_3339_is_read(later: timedelta, offset: timedelta) -> None:
    """With its offset, in either case of the letters."""
    instant = (_FIRST + later).replace(tzinfo=timezone(offset))
    text = instant.isoformat()

    assert instant == _INSTANT.validate_python(text)
    assert instant == _INSTANT.validate_json(f'"{text.lower()}"', strict=True)


@given(st.timedeltas(timedelta(), _A_DAY), _OFFSETS)
def test_an_instant_that_utc_has_not_is_none_of_ours(
    apart: timedelta, offset: timedelta
) -> None:
    """At either end of the calendar an offset leads out of it, and is refused there."""
    for local, is_ours in (
        (_FIRST + apart, offset <= apart),
        (_LAST - apart, -offset <= apart),
    ):
        text = local.replace(tzinfo=timezone(offset)).isoformat()
        if is_ours:
            assert text == _INSTANT.validate_python(text).isoformat()
            continue
        with pytest.raises(ValidationError, match="years 1 to 9999"):
            _INSTANT.validate_python(text)


@pytest.mark.parametrize(
    "text",
    [
        "1797000000",
        "1797000000.5",
        "2026-01-08",
        "2026-01-08T14:30Z",
        "2026-01-08 14:30:00Z",
        "2026-01-08T14:30:00",
        "2026-01-08T14:30:00+0800",
        "2026-01-08T14:30:00\u221208:00",
        "2026-02-30T14:30:00Z",
        "\uff12026-01-08T14:30:00Z",
    ],
)
def test_nothing_else_is_an_instant(text: str) -> None:
    """However well another parser would guess."""
    with pytest.raises(ValidationError, match="datetime"):
        _INSTANT.validate_python(text)


@given(st.integers(1, MOST_DAYS * 86_400).map(lambda seconds: timedelta(0, seconds)))
def test_a_duration_is_read_as_it_is_written(span: timedelta) -> None:
    """What answers say of a pack may stand in a pack."""
    text = _SPAN.dump_python(span, mode="json")

    assert span == _SPAN.validate_python(text)
    assert re.search(_SPAN.json_schema()["pattern"], text)


@pytest.mark.parametrize(
    ("text", "days"), [("P1W", 7), ("P1Y2M3D", 428), ("PT36H", 1.5), ("P1DT720M", 1.5)]
)
def test_every_form_of_a_duration_is_read(text: str, days: float) -> None:
    """A month counts 30 days and a year 365, wherever they begin."""
    assert timedelta(days) == _SPAN.validate_python(text)


@pytest.mark.parametrize(
    "text", ["5 days", "1 day, 0:00:00", "P", "P1DT", "+P1D", "P1D ", "P0.5D", "p1d"]
)
def test_nothing_else_is_a_duration(text: str) -> None:
    """However well another parser would guess."""
    with pytest.raises(ValidationError, match="pattern"):
        _SPAN.validate_python(text)


@pytest.mark.parametrize(
    ("kind", "most"), [(Name, MOST_SHOWN), (Wording, MOST_WORDING)]
)
def test_what_people_read_has_a_limit(kind: type[Name | Wording], most: int) -> None:
    """A page, a table and a log line keep their shape whatever a pack says."""
    assert kind(zh="名" * most, en="n" * most).zh == "名" * most
    with pytest.raises(ValidationError, match=f"at most {most} characters"):
        kind(zh="名" * (most + 1), en="n")
