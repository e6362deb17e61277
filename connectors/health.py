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

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

_QUIET_S = 60.0
"""How long after one failure of a service the next one is told at the earliest."""
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


class Ended(NamedTuple):
    """How an admitted look-up ended."""

    word: str
    """Of a closed list, for the counters: `answered`, `not_held`, `fault:stale`..."""
    reached: bool | None
    """Whether the department was there, or None when nobody knows."""
    why: str = ""
    """Why nothing came of it, in our own words; "" where something did."""


Tell: TypeAlias = Callable[[str, str | None], None]
"""Is told of a service that it fails, and why; None: it works again."""


def tell_nobody(_service: str, _why: str | None) -> None:
    """Pass over how services are."""


@dataclass(slots=True)
class ServiceHealth:
    """One data service: its breaker, and what came of its look-ups."""

    breaker: Breaker = field(default_factory=Closed)
    outcomes: Counter[str] = field(default_factory=Counter)
    """How many look-ups ended how: `answered`, `not_held`, `fault:stale`..."""
    seconds: float = 0.0
    """Time spent in all look-ups together."""
    told: str = ""
    """The word of the failure that was told; "" while it works, as far as was told."""
    told_at: float = -math.inf
    """When a failure was told last."""


class Health:
    """The health of every data service that was asked, by its id.

    Args:
        policy: When breakers open.
        tell: Is told when a service begins to fail, or fails otherwise than before, at
            most once a minute; and when it works again.
    """

    def __init__(
        self, policy: BreakerPolicy | None = None, tell: Tell = tell_nobody
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._tell = tell
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

    def report(self, service: str, ended: Ended, *, since: float, now: float) -> None:
        """Take down how an admitted look-up ended.

        Args:
            service: The data service.
            ended: What came of it.
            since: When it was admitted.
            now: When it ended.
        """
        health = self._services[service]
        health.outcomes[ended.word] += 1
        health.seconds += now - since
        self._say(service, health, ended, now)
        match ended.reached:
            case True:
                health.breaker = succeeded(health.breaker)
            case False:
                health.breaker = failed(health.breaker, now, self._policy)
            case None:
                health.breaker = abandoned(health.breaker, now)

    def _say(
        self, service: str, health: ServiceHealth, ended: Ended, now: float
    ) -> None:
        """Tell what has changed: a service that comes and goes is told now and then."""
        if ended.why:
            is_due = now - health.told_at >= _QUIET_S
            if ended.word != health.told and is_due:
                health.told, health.told_at = ended.word, now
                self._tell(service, ended.why)
        elif ended.reached and health.told:
            health.told = ""
            self._tell(service, None)
