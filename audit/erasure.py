"""Erasing a person or a shard, and holds against it.

A subject's key takes part in the key of every section that speaks of the subject, and
the shard's key in that of every section of the shard (`sealing`). Destroying one of
them makes those sections unreadable for good; leaves, proofs and roots stay as they
are. A restored copy of the directory or the log is brought up to the ledger at the
next start. While it runs, each process carries out what others write to the ledger
(`hear`; see `forgetting` for how soon).

SOURCE: audit-log design, 5.3.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from audit.ledger import Act, Ledger, Line, What
from audit.record import milliseconds
from audit.sealing import Sealer
from audit.shelf import Shelf
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import NotFoundError, StateConflictError
from schemas.ids import EventId, NewId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants something erased, held or released, and why."""

    by: str
    """The client."""
    reason: str
    """Where the reason is kept, as a file number."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the record of an act stands."""

    log: str
    """The shard."""
    event: EventId
    index: int


class Erasures:
    """Erases, holds and releases; belongs to the event loop's thread.

    Args:
        log: Where each act is recorded.
        sealer: Has the directory, and keys in memory that must go as well.
        ledger: What outlives a restored backup.
        shelf: Has the sealed shards, and their keys.
        clock: Tells when.
        new_id: Makes ids of records.
    """

    def __init__(
        self,
        log: AuditLog,
        sealer: Sealer,
        ledger: Ledger,
        shelf: Shelf,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._log = log
        self._sealer = sealer
        self._ledger = ledger
        self._shelf = shelf
        self._clock = clock
        self._new_id = new_id
        self._one_at_a_time = asyncio.Lock()
        # A server may be slow to answer: no event loop waits for one.
        self._asking = (
            ThreadPoolExecutor(1, thread_name_prefix="audit-ledger")
            if ledger.is_shared
            else None
        )
        self.heard = 0
        """The number of the last line that was carried out here."""
        self._unrecorded: list[Line] = []
        """Erasures of others of which it is not known that they are recorded."""

    def close(self) -> None:
        """Let go of the ledger."""
        if self._asking is not None:
            self._asking.shutdown()
        self._ledger.close()

    async def _ask(self, work: Callable[[], T]) -> T:
        """Ask the ledger: a file at once, a server beside the event loop."""
        if self._asking is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._asking, work)

    async def erase(self, what: What, name: str, request: Request) -> Recorded:
        """Destroy the key of a subject or a shard, for good.

        (1) Write it into the ledger, durably; refuse it where a hold stands.
        (2) Record it.
        (3) Destroy the key, on the disk and in memory.

        From (1) on it happens: if not now, then as soon as anybody hears of it, or at
        the next start. `behind` tells whose memory it may still be in.

        Raises:
            NotFoundError: There is no such shard.
            StateConflictError: A hold forbids it, or the shard is still written to.
            LogUnavailableError: It is not known to be done; asking again, or the next
                start, brings it to its end.
        """
        if what is What.SHARD and name == self._log.origin:
            raise StateConflictError("the shard is still written to: seal it first")
        if what is What.SHARD:
            self._shelf.named(name)
        line = self._new_line(Act.ERASE, what, name, request)
        async with self._one_at_a_time:
            # (1): a crash from here on can't leave it half done.
            earlier = await self._ask(lambda: self._ledger.erased(what, [name]))
            if earlier is None:
                await self._ask(partial(self._ledger.add, line))
            # (2), (3): the same as after a restore.
            return await self._carry_out(earlier or line)

    async def hold(self, what: What, name: str, request: Request) -> Recorded:
        """Forbid the erasure of a subject or a shard until the hold is released.

        Raises:
            NotFoundError: There is no such shard.
            StateConflictError: It is erased already.
            LogUnavailableError: It is not known to hold.
        """
        if what is What.SHARD and name != self._log.origin:
            self._shelf.named(name)
        async with self._one_at_a_time:
            if await self._ask(lambda: self._ledger.erased(what, [name])) is not None:
                raise StateConflictError(f"the {what} is erased already")
            line = self._new_line(Act.HOLD, what, name, request)
            await self._ask(partial(self._ledger.add, line))
            return await self._append(line)

    async def release(self, hold: EventId, request: Request) -> Recorded:
        """End a hold.

        Raises:
            NotFoundError: There is no such hold.
            LogUnavailableError: It is not known to be released.
        """
        async with self._one_at_a_time:
            for held in await self._ask(self._ledger.holds):
                if held.event == hold:
                    line = self._new_line(
                        Act.RELEASE, held.what, held.name, request, hold
                    )
                    await self._ask(partial(self._ledger.add, line))
                    return await self._append(line)
        raise NotFoundError("there is no such hold, or it was released")

    async def holds(self) -> list[Line]:
        """Return the holds that stand."""
        return await self._ask(self._ledger.holds)

    async def erased(self, origin: str, subject_refs: str) -> Line | None:
        """Return what erased the sections of a record; None while nothing did.

        Args:
            origin: The record's shard.
            subject_refs: References of its subjects, separated by spaces.
        """
        return await self._ask(
            lambda: (
                self._ledger.erased(What.SHARD, [origin])
                or self._ledger.erased(What.SUBJECT, subject_refs.split())
            )
        )

    async def found(self, event: EventId) -> tuple[Line, Recorded]:
        """Return what a record says was erased, and where that stands.

        Raises:
            NotFoundError: No erasure has this record, or it is not recorded yet.
        """
        line = await self._ask(lambda: self._ledger.found(event))
        if line.act is not Act.ERASE:
            raise NotFoundError("there is no such erasure")
        recorded = await self.recorded(event)
        if recorded is None:
            raise NotFoundError("the log has no record of this erasure yet")
        return line, recorded

    async def recorded(self, event: EventId) -> Recorded | None:
        """Return where the record of an act stands; None while no shard has it.

        A shard may have been sealed since: then it is there, and in no other.
        """
        appended = await self._log.find(event)
        if appended is not None:
            return Recorded(self._log.origin, event, appended.index)
        # A server may be slow to answer, as above.
        found = await asyncio.to_thread(self._shelf.find, event)
        if found is None:
            return None
        shard, entry = found
        return Recorded(shard.origin, event, entry.seq)

    async def behind(self, event: EventId) -> list[str]:
        """Return the names of the processes in whose memory a key may still be.

        Args:
            event: The record of its erasure.
        """
        return await self._ask(lambda: self._ledger.behind(event))

    async def destroy_again(self) -> int:
        """Bring directory and keys up to the ledger; return what was there.

        INVARIANT: a restored copy gives nothing back, also when its log takes no
        record.

        Raises:
            LogUnavailableError: The ledger or the directory can't be reached.
        """
        lines = await self._ask(lambda: self._ledger.after(0))
        erasures = [line for _, line in lines if line.act is Act.ERASE]
        found = sum([await self._destroy(line) for line in erasures])
        self.heard = max([number for number, _ in lines], default=0)
        return found

    async def record_again(self) -> int:
        """Bring the log up to the ledger; return how many records were missing.

        Raises:
            LogUnavailableError: A record could not be made again.
        """
        async with self._one_at_a_time:
            lines = await self._ask(lambda: self._ledger.after(0))
            return sum([await self._record_again(line) for _, line in lines])

    async def hear(self) -> None:
        """Carry out what was written to the ledger since this was last asked.

        (1) Destroy each key that another process erases, on the disk and in memory.
        (2) Record it where that process did not come so far.

        INVARIANT: when (1) is done, the key is in no directory any more, so that it
        can't come back to memory; only then the line counts as heard.

        Raises:
            LogUnavailableError: The ledger, the directory or the log can't be reached;
                asked again, it goes on from there.
        """
        async with self._one_at_a_time:
            # (1):
            for number, line in await self._ask(lambda: self._ledger.after(self.heard)):
                if line.act is Act.ERASE:
                    await self._destroy(line)
                    self._unrecorded.append(line)
                self.heard = number
            # (2):
            while self._unrecorded:
                await self._record_again(self._unrecorded[0])
                del self._unrecorded[0]

    async def say(self, process: str, name: str, lease: timedelta) -> int:
        """Tell those who erase how far this process has heard; return how far.

        Args:
            process: Its id, of this start alone.
            name: What operators call it.
            lease: How long it is waited for when it falls silent.

        Raises:
            LogUnavailableError: It is not known to be told.
        """
        heard = self.heard
        await self._ask(lambda: self._ledger.say(process, name, heard, lease))
        return heard

    async def leave(self, process: str) -> None:
        """Be waited for no longer: the process ends."""
        await self._ask(lambda: self._ledger.leave(process))

    def forget_all(self) -> None:
        """Drop the keys of all subjects from memory: what is needed is read again."""
        self._sealer.forget_all()
        self._shelf.forget_all()

    async def _carry_out(self, line: Line) -> Recorded:
        recorded = await self._record(line)
        await self._destroy(line)
        return recorded

    async def _record(self, line: Line) -> Recorded:
        """Record a line; where a shard has its record already, return that."""
        return await self.recorded(line.event) or await self._append(line)

    async def _record_again(self, line: Line) -> bool:
        """Record a line where no shard has its record; return whether it lacked."""
        is_missing = await self.recorded(line.event) is None
        if is_missing:
            await self._append(line)
        return is_missing

    async def _append(self, line: Line) -> Recorded:
        """Record a line of which no sealed shard has the record."""
        [appended] = await self._log.append([line.as_event()])
        return Recorded(self._log.origin, appended.event, appended.index)

    async def _destroy(self, line: Line) -> bool:
        """Destroy a key, on the disk and in memory; return whether it was there."""
        if line.what is What.SHARD:
            # Whoever does not have a shard has no key of it.
            with suppress(NotFoundError):
                return self._shelf.shred(line.name)
            return False
        # From here on it is not kept in memory, though it may be looked up meanwhile.
        self._sealer.forget(line.name)
        self._shelf.forget(line.name)
        destroy = self._sealer.directory.destroy
        return await asyncio.to_thread(destroy, line.name)

    def _new_line(
        self,
        act: Act,
        what: What,
        name: str,
        request: Request,
        hold: EventId | None = None,
    ) -> Line:
        at_ms = milliseconds(self._clock.now())
        event = EventId(self._new_id())
        return Line(at_ms, act, what, name, event, request.by, request.reason, hold)
