"""The one place that reads the clock; everything else takes the time as an argument."""

import time
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Tells the time: a port, so that a test decides what time it is."""

    def now(self) -> datetime:
        """Return the current instant, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the current instant, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - the one reader of the clock

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        return time.monotonic()


BEIJING = timezone(timedelta(hours=8))
"""The time of every region: China has one, without summer time."""


def day_in_beijing(instant: datetime) -> date:
    """Return which day it is, as people and offices count.

    >>> day_in_beijing(datetime(2026, 1, 8, 16, tzinfo=UTC))
    datetime.date(2026, 1, 9)
    """
    return instant.astimezone(BEIJING).date()


def is_in_utc(instant: datetime) -> bool:
    """Tell whether an instant lies in the years 1 to 9999 of UTC, as all ours do.

    >>> is_in_utc(datetime(1, 1, 1, tzinfo=BEIJING))
    False
    """
    try:
        instant.astimezone(UTC)
    except OverflowError:
        return False
    return True


@lru_cache(maxsize=256)
def to_rfc3339_ms(instant: datetime) -> str:
    """Return `instant` as RFC 3339 in UTC with milliseconds; `is_in_utc` holds for it.

    >>> to_rfc3339_ms(datetime(2026, 1, 8, 6, 30, tzinfo=UTC))
    '2026-01-08T06:30:00.000Z'
    """
    in_utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return in_utc.isoformat(timespec="milliseconds")[:-6] + "Z"
