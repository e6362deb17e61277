"""The look-ups that are under way in this process: what a suspension waits for.

A look-up under a statutory duty pays no write, so no row tells that it is under way.
This register does, in memory, and that is enough where one process holds the data
folder (decision 16): a look-up lives no longer than the process that makes it. Where
several gateways share the tables, each has a register, and `consent.replicas` tells
that each has heard of a suspension.

Why no look-up can slip through. Whoever sends does (1) register, then (2) read what is
suspended. Whoever suspends does (3) write the suspension, then (4) wait for all that is
registered. If the sender's read (2) missed the suspension, it came before the write
(3); then its registering (1) came before the waiting (4), so it is waited for. If the
waiting (4) missed the sender, its registering (1) came after; then its read (2) came
after the write (3), and it is denied. Either way nothing is sent after the wait ends.
The other order, read and then register, has a gap between the two.

The register belongs to one event loop and is used on that loop's thread only.
"""

import asyncio
import math
from collections.abc import Collection, Iterable

from consent.rules import Rule, Target, suspension_rule
from consent.uses import Use
from schemas.ids import ConsentId, LookupId, MandateId


class InFlight:
    """Look-ups under way, and what they may not rest on.

    Args:
        suspended: What the store says is suspended, read before the first look-up.
    """

    def __init__(self, suspended: Iterable[Target] = ()) -> None:
        self._suspended = frozenset(suspended)
        self._under_way: dict[LookupId, frozenset[str]] = {}
        # Made by the first who waits for a look-up: hardly any is waited for.
        self._over: dict[LookupId, asyncio.Event] = {}
        self.current_until = math.inf
        """Instant of the monotonic clock from which nothing may be sent, since a
        suspension could have been missed. For ever where one process has the tables.
        """

    @property
    def suspended(self) -> frozenset[Target]:
        """Everything that is suspended."""
        return self._suspended

    @property
    def count(self) -> int:
        """How many look-ups are under way."""
        return len(self._under_way)

    def take(self, uses: Collection[Use]) -> dict[LookupId, Rule]:
        """Register look-ups that are about to be sent; return why some may not be.

        Take them before `consent.uses.take_uses` where that is needed too. One that is
        denied is not registered; every other must be finished, sent or not.
        """
        # INVARIANT: register, then read (see above): rule 5.
        for use in uses:
            self._under_way[use.lookup] = use.rests_on
        if not self._suspended:
            return {}
        denied = {
            use.lookup: rule
            for use in uses
            if (rule := suspension_rule(use.claim.targets, self._suspended))
        }
        self.finish(denied)
        return denied

    def finish(self, lookups: Iterable[LookupId]) -> None:
        """Record that look-ups were sent or never will be; finishing twice is once."""
        for lookup in lookups:
            self._under_way.pop(lookup, None)
            if self._over and (over := self._over.pop(lookup, None)) is not None:
                over.set()

    def suspend(self, thing: Target) -> None:
        """Deny whatever is taken from now on; call it when the row has been committed.

        Acknowledge the suspension after `drained`.
        """
        self._suspended |= {thing}

    def resume(self, thing: Target) -> None:
        """Allow it again; call it when the row is gone."""
        self._suspended -= {thing}

    async def hear(self, suspended: frozenset[Target]) -> None:
        """Take over what the store says is suspended; return once that holds.

        It holds when every look-up is over that was taken before it was heard of.
        """
        self._suspended = suspended
        # All of them, not the new ones: an earlier hearing may have been cut off.
        for thing in sorted(suspended):
            await self.drained(thing)

    async def drained(self, thing: Target | ConsentId | MandateId) -> None:
        """Wait until every look-up taken before that rests on the thing is over.

        Those taken meanwhile are not waited for: they have read the suspension, or
        have failed to take their use.
        """
        before = [
            self._over.setdefault(lookup, asyncio.Event())
            for lookup, rests_on in self._under_way.items()
            if thing in rests_on
        ]
        for over in before:
            await over.wait()
