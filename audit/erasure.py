"""Erasing a person or a shard, and holds against it.

A subject's key takes part in the key of every section that speaks of the subject, and
the shard's key in that of every section of the shard (`sealing`). Destroying one of
them makes those sections unreadable for good; leaves, proofs and roots stay as they
are. A restored copy of the directory or the log is brought up to the ledger at the
next start.

SOURCE: audit-log design, 5.3.
"""

import asyncio
from dataclasses import dataclass

from audit.ledger import Act, Ledger, Line, What
from audit.record import milliseconds
from audit.sealing import Sealer
from audit.shelf import Shelf
from audit.store import Appended
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import NotFoundError, StateConflictError
from schemas.ids import EventId, NewId


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants something erased, held or released, and why."""

    by: str
    """The client."""
    reason: str
    """Where the reason is kept, as a file number."""


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

    def close(self) -> None:
        """Let go of the ledger."""
        self._ledger.close()

    async def erase(self, what: What, name: str, request: Request) -> Appended:
        """Destroy the key of a subject or a shard, for good.

        (1) Write it into the ledger, durably; refuse it where a hold stands.
        (2) Record it.
        (3) Destroy the key, on the disk and in memory.

        From (1) on it happens, if not now then at the next start.

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
            earlier = self._ledger.erased(what, [name])
            if earlier is None:
                self._ledger.add(line)
            # (2), (3): the same as after a restore.
            return await self._carry_out(earlier or line)

    async def hold(self, what: What, name: str, request: Request) -> Appended:
        """Forbid the erasure of a subject or a shard until the hold is released.

        Raises:
            NotFoundError: There is no such shard.
            StateConflictError: It is erased already.
            LogUnavailableError: It is not known to hold.
        """
        if what is What.SHARD and name != self._log.origin:
            self._shelf.named(name)
        async with self._one_at_a_time:
            if self._ledger.erased(what, [name]) is not None:
                raise StateConflictError(f"the {what} is erased already")
            line = self._new_line(Act.HOLD, what, name, request)
            self._ledger.add(line)
            return await self._record(line)

    async def release(self, hold: EventId, request: Request) -> Appended:
        """End a hold.

        Raises:
            NotFoundError: There is no such hold.
            LogUnavailableError: It is not known to be released.
        """
        async with self._one_at_a_time:
            for held in self._ledger.holds():
                if held.event == hold:
                    line = self._new_line(
                        Act.RELEASE, held.what, held.name, request, hold
                    )
                    self._ledger.add(line)
                    return await self._record(line)
        raise NotFoundError("there is no such hold, or it was released")

    def holds(self) -> list[Line]:
        """Return the holds that stand."""
        return self._ledger.holds()

    def erased(self, origin: str, subject_refs: str) -> Line | None:
        """Return what erased the sections of a record; None while nothing did.

        Args:
            origin: The record's shard.
            subject_refs: References of its subjects, separated by spaces.
        """
        by_shard = self._ledger.erased(What.SHARD, [origin])
        return by_shard or self._ledger.erased(What.SUBJECT, subject_refs.split())

    async def reapply(self) -> int:
        """Bring directory, keys and log up to the ledger; return what was missing.

        INVARIANT: a restored copy gives nothing back. Keys are destroyed first, so
        that nothing is read with them even when the log takes no record.

        Raises:
            LogUnavailableError: A record could not be made again.
        """
        erasures = self._ledger.erasures()
        missing = sum([await self._destroy(line) for line in erasures])
        for line in self._ledger.lines():
            recorded = await self._log.find(line.event)
            if recorded is None and self._shelf.find(line.event) is None:
                await self._record(line)
                missing += 1
        return missing

    async def _carry_out(self, line: Line) -> Appended:
        recorded = await self._record(line)
        await self._destroy(line)
        return recorded

    async def _record(self, line: Line) -> Appended:
        """Record a line; where it is recorded already, return that."""
        [appended] = await self._log.append([line.as_event()])
        return appended

    async def _destroy(self, line: Line) -> bool:
        """Destroy a key, on the disk and in memory; return whether it was there."""
        if line.what is What.SHARD:
            return self._shelf.shred(line.name)
        self._sealer.forget(line.name)
        destroy = self._sealer.directory.destroy
        found = await asyncio.to_thread(destroy, line.name)
        # Once more: somebody may have looked it up meanwhile.
        self._sealer.forget(line.name)
        return found

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
