"""A clock that stands still until it is told to go on."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(slots=True)
class FakeClock:
    """The fake of the port `schemas.clock.Clock`."""

    instant: datetime
    seconds: float = 0.0

    def now(self) -> datetime:
        """Return the instant."""
        return self.instant

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.seconds

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self.instant += by
        self.seconds += by.total_seconds()
