"""What stands for an instant in JSON, and what an array may hold."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.model import Instant

_INSTANT = TypeAdapter[datetime](Instant)


@given(st.datetimes(), st.integers(-1439, 1439))
def test_every_instant_of_rfc_3339_is_read(local: datetime, minutes: int) -> None:
    """With its offset, in either case of the letters."""
    instant = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = instant.isoformat()

    assert instant == _INSTANT.validate_python(text)
    assert instant == _INSTANT.validate_json(f'"{text.lower()}"', strict=True)


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
