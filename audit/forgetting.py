"""How soon each process forgets what another one erased, and how that is known.

Processes that share a subject directory keep keys of subjects in memory. Each of them
looks into the shred ledger once a second, carries out what it finds there, and says in
a row beside the ledger how far it has come. An erasure holds everywhere when each row
whose lease runs has come to it.

INVARIANT: no process that runs keeps an erased key in memory for longer than its lease.
One that can't read the ledger, or can't say how far it has come, drops all keys before
its lease is over, and again in each round until it hears: who erases need not wait for
it any longer. It counts its lease from before it asked for it, by its own clock, and
the row is counted by the database's.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from audit.erasure import Erasures
from schemas.clock import Clock
from schemas.errors import ErrandError, LogUnavailableError
from schemas.ids import EventId

LEASE: Final = timedelta(seconds=10)
"""How long a process is waited for that has fallen silent."""
LOOK_S: Final = 1.0
"""How often the ledger is looked into, in seconds."""
_RENEWALS = 4
"""How often a lease is renewed before it would end."""
_ROUNDS = 3
"""Rounds before the end of its lease in which a process begins to let go of keys."""
_POLL_S = 0.1
"""How often an erasure looks whether it holds everywhere, in seconds."""

_log = structlog.get_logger(__name__)


class Forgetting:
    """Keeps one process's memory in step with the ledger, from `start` to `stop`.

    Args:
        erasures: Carries out what the ledger says.
        process: An id of this start, nobody else's.
        name: What operators call this process.
        clock: Its monotonic time counts the lease.
        lease: How long silence is taken for life.
        look_s: How often the ledger is looked into, in seconds.
    """

    def __init__(
        self,
        erasures: Erasures,
        process: str,
        name: str,
        clock: Clock,
        *,
        lease: timedelta = LEASE,
        look_s: float = LOOK_S,
    ) -> None:
        self._erasures = erasures
        self._process = process
        self._name = name
        self._clock = clock
        self._lease = lease
        self._look_s = look_s
        self._said_at = 0.0
        self._said = -1
        self._living: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Be counted in, before the first key is read.

        Raises:
            LogUnavailableError: The ledger can't be reached.
        """
        await self.look()
        self._living = asyncio.create_task(self._live(), name="forgetting")

    async def stop(self) -> None:
        """Be counted out, after the last key was read."""
        if self._living is not None:
            self._living.cancel()
            with suppress(asyncio.CancelledError):
                await self._living
        with suppress(ErrandError):  # the lease ends by itself
            await self._erasures.leave(self._process)

    async def look(self) -> None:
        """Carry out what the ledger says, and say so.

        Raises:
            LogUnavailableError: It can't be reached, or it can't be carried out.
        """
        try:
            await self._erasures.hear()
        finally:
            # Also when a record is missing: what was heard until then is forgotten.
            await self._say()

    async def awaited(self, event: EventId, wait_s: float) -> list[str]:
        """Return who may still have a key in memory, after waiting for them a while.

        Args:
            event: The record of the key's erasure.
            wait_s: How long to wait, in seconds. They are behind for no longer than
                their lease.

        Raises:
            LogUnavailableError: The ledger can't be reached.
        """
        deadline = self._clock.monotonic() + wait_s
        with suppress(LogUnavailableError):  # then this process is one of them
            await self.look()
        while True:
            behind = await self._erasures.behind(event)
            if not behind or self._clock.monotonic() >= deadline:
                return behind
            await asyncio.sleep(_POLL_S)

    async def _say(self) -> None:
        """Renew the lease when it is time, or when there is something to say."""
        begun = self._clock.monotonic()
        is_time = begun - self._said_at > self._lease.total_seconds() / _RENEWALS
        if not is_time and self._said == self._erasures.heard:
            return
        self._said = await self._erasures.say(self._process, self._name, self._lease)
        self._said_at = begun

    async def _live(self) -> None:
        """Look again and again until cancelled; a failure costs a round, no more."""
        while True:
            await asyncio.sleep(self._look_s)
            looking = asyncio.ensure_future(self.look())
            looking.add_done_callback(_take_notice)
            try:
                while not looking.done():
                    await asyncio.wait({looking}, timeout=self._look_s)
                    self._let_go()
                looking.result()
            except Exception as error:  # noqa: BLE001 - the next round tries again
                _log.warning("forgetting_failed", error=type(error).__name__)
            finally:
                looking.cancel()  # nothing once it is done

    def _let_go(self) -> None:
        """Keep no key any longer when the lease is about to end."""
        silent = self._clock.monotonic() - self._said_at
        if silent > self._lease.total_seconds() - _ROUNDS * self._look_s:
            self._erasures.forget_all()


def _take_notice(looking: asyncio.Task[None]) -> None:
    """See how a look ended: nobody else does when all stops at that moment."""
    if not looking.cancelled():
        looking.exception()
