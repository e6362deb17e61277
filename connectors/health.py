"""How a data service is doing: the circuit breaker and the counters.

A breaker is a value with three states, moved by pure functions; times are seconds of
a monotonic clock that the caller passes in.

* closed: look-ups pass; after `threshold` failures in a row it opens
* open: none pass until the cool-down is over; then it is half open
* half open: one probe passes; if it succeeds the breaker closes, if it fails it opens
  again for twice as long; if it never reports, another passes after `PROBE_LEASE_S`

Only unavailability counts as failure. A department that answers wrongly is up: its
fault concerns the one requirement, and is counted apart.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

PROBE_LEASE_S = 60.0
PROBE_TELLS_S = 2.0
"""When to knock again while a probe is under way: it reports long before its lease is
over, and two look-ups of one case must not cost it a minute."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long."""

    threshold: int = 5
    """Failures in a row that open it."""
    cooldown_s: float = 5.0
    """How long it stays open the first time; doubled at each failed probe."""
    max_cooldown_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Closed:
    """Look-ups pass."""

    failures: int = 0
    """In a row."""


@dataclass(frozen=True, slots=True)
class Open:
    """No look-up passes before `until`."""

    until: float
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One probe is under way."""

    probe_since: float
    cooldown_s: float


Breaker: TypeAlias = Closed | Open | HalfOpen


def admit(breaker: Breaker, now: float) -> tuple[Breaker, float]:
    """Return the breaker after a look-up knocked, and how long that one must wait.

    Zero means that it passes; otherwise the seconds until knocking again can help.
    """
    match breaker:
        case Closed():
            return breaker, 0.0
        case Open(until, cooldown_s):
            wait = until - now
            return (breaker, wait) if wait > 0 else (HalfOpen(now, cooldown_s), 0.0)
        case HalfOpen(probe_since, cooldown_s):
            wait = probe_since + PROBE_LEASE_S - now
            return (breaker, wait) if wait > 0 else (HalfOpen(now, cooldown_s), 0.0)


_CLOSED = Closed()


def succeeded(_breaker: Breaker) -> Breaker:
    """Return the breaker after a look-up that reached the department."""
    return _CLOSED


def failed(breaker: Breaker, now: float, policy: BreakerPolicy) -> Breaker:
    """Return the breaker after a look-up that did not."""
    match breaker:
        case Closed(failures) if failures + 1 < policy.threshold:
            return Closed(failures + 1)
        case Closed():
            return Open(now + policy.cooldown_s, policy.cooldown_s)
        case Open():
            # One that was admitted before it opened: it tells nothing new.
            return breaker
        case HalfOpen(_, cooldown_s):
            longer = min(cooldown_s * 2, policy.max_cooldown_s)
            return Open(now + longer, longer)


def abandoned(breaker: Breaker, now: float) -> Breaker:
    """Return the breaker after a look-up that was given up and so tells nothing.

    If it was the probe, the next look-up is one.
    """
    match breaker:
        case HalfOpen(_, cooldown_s):
            return Open(now, cooldown_s)
        case Closed() | Open():
            return breaker


@dataclass(slots=True)
class ServiceHealth:
    """One data service: its breaker, and what came of its look-ups."""

    breaker: Breaker = field(default_factory=Closed)
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many look-ups ended how: `answered`, `not_held`, `fault:stale`..."""
    seconds: float = 0.0
    """Time spent in all look-ups together."""


class Health:
    """The health of every data service that was asked, by its id."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._services: dict[str, ServiceHealth] = {}

    @property
    def services(self) -> Mapping[str, ServiceHealth]:
        """Every service that was asked so far, for metrics."""
        return self._services

    def admit(self, service: str, now: float) -> float:
        """Return 0 when the service may be asked, else the seconds to wait."""
        health = self._services.get(service)
        if health is None:
            health = self._services[service] = ServiceHealth()
        health.breaker, wait = admit(health.breaker, now)
        if wait == 0:
            return wait
        health.outcomes["held_back"] += 1
        if isinstance(health.breaker, HalfOpen):
            return min(wait, PROBE_TELLS_S)
        return wait

    def report(
        self, service: str, ended: tuple[str, bool | None], *, since: float, now: float
    ) -> None:
        """Take down how an admitted look-up ended.

        Args:
            service: The data service.
            ended: A word of a closed list, for the counters; and whether the
                department was there, or None when nobody knows.
            since: When it was admitted.
            now: When it ended.
        """
        health = self._services[service]
        outcome, reached = ended
        health.outcomes[outcome] += 1
        health.seconds += now - since
        match reached:
            case True:
                health.breaker = succeeded(health.breaker)
            case False:
                health.breaker = failed(health.breaker, now, self._policy)
            case None:
                health.breaker = abandoned(health.breaker, now)
