"""What stands in for the resolver and the clock where waiting work is tested."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection, text
from typing_extensions import override

from exchange import due as dues
from exchange.database import Database
from exchange.due import Due, Lease
from exchange.engine import APPLICATION_VERSION, Engine
from exchange.waiting import Terms, Waiting
from schemas.clock import SystemClock
from schemas.ids import CaseId, DueId, new_ids

T = TypeVar("T")
TERMS = Terms(waits=(0.05, 0.1), poll_s=0.05, attempt_s=20, drain_s=5)
LEASE = timedelta(hours=1)


def owed_to(connection: Connection, case: CaseId) -> Due | None:
    """Return what a case is owed; None when nothing is."""
    query = text("SELECT id FROM due WHERE case_id = :case")
    found = connection.execute(query, {"case": case}).scalar()
    return None if found is None else dues.find(connection, found)


class LateClock(SystemClock):
    """The machine's clock, set on by as much as a test wants."""

    def __init__(self) -> None:
        self.later = timedelta()

    @override
    def now(self) -> datetime:
        """Return the machine's instant in whole milliseconds, and more."""
        now = super().now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000) + self.later


class WatchedEngine(Engine):
    """The real engine, which tells how often its closing has looked for what runs."""

    def __init__(self, url: str, executor_id: str) -> None:
        super().__init__(url, executor_id, most_at_once=1, poll_s=0.02)
        self.looks = threading.Semaphore(0)
        """Released after each look."""

    @override
    def _busy(self) -> bool:
        is_busy = super()._busy()
        self.looks.release()
        return is_busy


class Desk:
    """Makes attempts as the resolver does: finds the row, takes the lease, works.

    Args:
        database: Holds the due rows.
        gateway: The name under which it takes leases.
        work: What an attempt does between lease and settling; it settles when
            this returns, and leaves everything as it is when it raises.
    """

    def __init__(
        self,
        database: Database,
        gateway: str = "gateway-1",
        work: Callable[[CaseId], Awaitable[None]] | None = None,
    ) -> None:
        self.database = database
        self.gateway = gateway
        self.clock = LateClock()
        self.new_id = new_ids(self.clock)
        self.work = work
        self.asked: Counter[DueId] = Counter()
        """How often an attempt was asked for, by row."""
        self.worked: Counter[CaseId] = Counter()
        """How often a case was worked on."""
        self.settled: set[CaseId] = set()
        self.at_once = 0
        self.most_at_once = 0
        self._changed = asyncio.Condition()

    async def attempt(self, due_id: DueId) -> str:
        """Make one attempt."""
        self.asked[due_id] += 1
        await self._tell()
        lease = await self.database.write(lambda c: self._claim(c, due_id))
        if isinstance(lease, str):
            return lease
        self.worked[lease.case] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self._tell()
        try:
            if self.work is not None:
                await self.work(lease.case)
        finally:
            self.at_once -= 1
            await self.database.write(lambda c: dues.release(c, lease))
        await self.database.write(lambda c: dues.settle(c, lease.case))
        self.settled.add(lease.case)
        await self._tell()
        return "settled"

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that attempts changed holds; give up after 20 s."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    async def owe(self, name: str, *, in_s: float = 0) -> Due:
        """Owe a case an attempt, and return its row."""
        now = self.clock.now()
        due = Due(
            id=DueId(self.new_id()),
            case=CaseId(name),
            due_at=now + timedelta(seconds=in_s),
            attempt=0,
            made_at=now,
        )
        await self.database.write(lambda c: dues.owe(c, due))
        return due

    async def owed(self, case: CaseId) -> Due | None:
        """Return what a case is owed."""
        return await self.database.read(lambda c: owed_to(c, case))

    def lease(self, case: CaseId) -> Lease:
        """Return a lease in this gateway's name, for long."""
        return Lease(self.new_id(), case, self.gateway, self.clock.now() + LEASE)

    def _claim(self, connection: Connection, due_id: DueId) -> Lease | str:
        row = dues.find(connection, due_id)
        if row is None:
            return "gone"
        until = self.clock.now() + LEASE
        lease = dues.for_attempt(row, self.gateway, until)
        return lease if dues.claim(connection, lease, self.clock.now()) else "owed"

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def a_waiting(
    desk: Desk,
    engine_url: str,
    *,
    version: str = APPLICATION_VERSION,
    terms: Terms = TERMS,
    most_at_once: int = 8,
    refusal: Callable[[], str | None] = lambda: None,
) -> Waiting:
    """Return waiting work for a desk, not started yet."""
    engine = Engine(
        engine_url,
        desk.gateway,
        version=version,
        most_at_once=most_at_once,
        poll_s=0.05,
    )
    return Waiting(
        engine,
        desk.database,
        desk.attempt,
        clock=desk.clock,
        new_id=desk.new_id,
        executor_id=desk.gateway,
        terms=terms,
        jitter=lambda: 0.0,
        refusal=refusal,
    )
