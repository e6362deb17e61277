"""Threads that follow what is published: one job each, round after round.

Each keeps since when it fails, so that an operator is told, and so that nothing more
is recorded once it has failed for too long. It never holds up the publisher.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from audit.store import LogReader
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import (
    NotFoundError,
    RolledBackError,
    StoreUnavailableError,
    VerificationError,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a job is done, and for how long it may fail."""

    interval_s: float
    """Seconds between two rounds."""
    alarm_s: float
    """Seconds of failing from which an operator has to look."""
    stop_s: float
    """Seconds of failing from which nothing more is recorded."""


class Follower:
    """Does one job after what is published, in a thread of its own."""

    def __init__(
        self,
        name: str,
        log: AuditLog,
        job: Callable[[LogReader], None],
        patience: Patience,
        clock: Clock,
    ) -> None:
        """Make ready.

        Args:
            name: What it is called in reasons and threads, such as `tiles`.
            log: The log.
            job: One round. NotFoundError means that there is nothing to do yet.
            patience: How often, and for how long it may fail.
            clock: Tells for how long it has failed.
        """
        self.name = name
        self._log = log
        self._job = job
        self._patience = patience
        self._clock = clock
        self._reader = LogReader.open(log.place)
        self._since: float | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        """Why the last round failed; None when it did not."""

    def start(self) -> None:
        """Follow from now on, until `stop`."""
        self._thread = threading.Thread(
            target=self._run, name=f"audit-{self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Do one more round, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        self.tick()
        while not self._stopping.wait(self._patience.interval_s):
            self.tick()
        self.tick()

    def tick(self) -> None:
        """Do one round."""
        try:
            self._job(self._reader)
        except NotFoundError:
            self._settle(None)
        except VerificationError as error:
            # INVARIANT: a log that contradicts itself signs and records nothing more.
            self._settle(str(error))
            is_behind = isinstance(error, RolledBackError)
            self._log.refuse(f"{self.name}: {error}", is_behind=is_behind)
        except StoreUnavailableError as error:
            self._settle(str(error))
        except Exception as error:  # noqa: BLE001 - tried again in the next round
            self._settle(type(error).__name__)
        else:
            self._settle(None)

    def _settle(self, failure: str | None) -> None:
        self.failure = failure
        if failure is None:
            self._since = None
        elif self._since is None:
            self._since = self._clock.monotonic()

    def failing_for(self) -> float:
        """Return for how many seconds it has failed; 0 when it does not."""
        since = self._since
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def is_alarming(self) -> bool:
        """Whether an operator has to look, before it stops the log."""
        return self.failing_for() > self._patience.alarm_s

    def lag(self) -> str | None:
        """Return why nothing more may be recorded for now, or None."""
        if self.failing_for() > self._patience.stop_s:
            return f"{self.name} have failed for too long"
        return None
