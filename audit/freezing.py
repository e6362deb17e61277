"""Sealing a log: its last records, and nothing after them.

Look-ups that are under way are ended first, as interrupted: nobody waits for them any
more, and their cases ask anew, in the next shard. A log in a file is sealed while no
gateway runs. One on PostgreSQL may be sealed while gateways record: all is done under
the lock that numbers records, and from then on the server refuses every other.

SOURCE: audit-log design, 5.6; ADR 9 and 12.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from audit.engine_sqlite import leave_file
from audit.note import Signer
from audit.publisher import Publisher
from audit.record import Event, Kind, Leaf
from audit.sealing import SealedRecord, Sealer
from audit.shards import final_event
from audit.sql import Place, Postgres
from audit.store import LogReader, Look, SignedHead
from audit.writer import AuditLog, interrupted
from schemas.clock import Clock
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import EventId, NewId

PATIENCE_S = 60.0
"""How long the gateway that leads, and witnesses, may take for the last checkpoint."""
_LOOK_S = 0.5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Seal:
    """What a log is sealed with."""

    sealer: Sealer
    following: Signer
    """The key of the next shard's checkpoints."""
    new_id: NewId
    now: datetime

    def last_events(self, reader: LogReader) -> list[Event]:
        """Return the last events of a log, given what is there; none if it is sealed.

        Raises:
            SettingsError: It is sealed already, for another shard than this one; or it
                has lost records and was left.
        """
        if reader.left() is not None:
            raise SettingsError(
                "the log has lost records and was left: give `errand audit recover` "
                "again"
            )
        last = reader.last_leaf()
        if last is not None and last.kind is Kind.SHARD_FINAL:
            self._check_sealed_for(last)
            return []
        final = final_event(EventId(self.new_id()), self.now, self.following)
        directory = self.sealer.directory
        return [*interrupted(reader, directory, self.new_id, self.now), final]

    def _check_sealed_for(self, last: Leaf) -> None:
        # INVARIANT: the record that says which shard goes on is kept, or is a lie.
        named = (last.correlation, last.policy)
        if named != (self.following.name, self.following.verifier.vkey):
            raise SettingsError(
                f"the log is sealed for the shard `{last.correlation}`: give its name, "
                "and have its keys in place"
            )


async def record_last(log: AuditLog, seal: Seal) -> None:
    """Record what a log ends with; if an earlier run did, that stands.

    Raises:
        SettingsError: It is sealed already, for another shard.
        LogUnavailableError: It is not known to be recorded; it may be tried again.
    """
    if not isinstance(log.place, Path):
        await asyncio.to_thread(_freeze, log.place, seal)
        return
    with closing(LogReader.open(log.place)) as reader:
        events = seal.last_events(reader)
    if events:
        await log.append(events)


def _freeze(place: Postgres, seal: Seal) -> None:
    """Freeze a log on PostgreSQL in one transaction, whichever gateways are running."""
    from audit.engine_postgres import freeze  # noqa: PLC0415 - on PostgreSQL alone

    def last(reader: LogReader) -> Sequence[SealedRecord]:
        events = seal.last_events(reader)
        directory = seal.sealer.directory
        people = [directory.meet(event.subjects) for event in events]
        return seal.sealer.seal_all(events, people)

    freeze(place, last)


def leave(place: Place, look: Look[_T]) -> _T:
    """Look at a log that has lost records, of which nothing changes any more.

    On PostgreSQL its server refuses all records and heads from then on, whichever
    gateways are running. A file has no writer now. Either is marked, so that whoever
    opens it from then on records nothing.

    Args:
        place: Where it is kept.
        look: Reads it; returns the mark, and whatever else was wanted. Where that
            raises, nothing is refused or marked.

    Raises:
        SettingsError: There is no such file.
        LogUnavailableError: It is not known to be done; it may be done again.
    """
    if not isinstance(place, Path):
        from audit.engine_postgres import (  # noqa: PLC0415 - on PostgreSQL alone
            freeze_as_it_is,
        )

        return freeze_as_it_is(place, look)
    if not place.is_file():
        raise SettingsError(f"there is no log `{place.name}`: restore a copy of it")
    return leave_file(place, look)


async def await_witnesses(
    publisher: Publisher, clock: Clock, patience_s: float
) -> None:
    """Wait until enough witnesses have told that the log has lost nothing.

    Raises:
        LogUnavailableError: They have not, in time. It may be tried again.
        VerificationError: The log contradicts itself, or what a witness holds.
    """
    async for _ in _rounds(publisher, clock, patience_s):
        if publisher.is_known:
            return
    raise LogUnavailableError(
        f"{publisher.unsure}: nothing is sealed; give the command again"
    )


async def publish_whole(
    publisher: Publisher, reader: LogReader, clock: Clock, patience_s: float
) -> SignedHead:
    """Return the published head over all that a sealed log holds.

    A gateway may lead and publish it, or too few witnesses have cosigned yet: it is
    waited for.

    Raises:
        LogUnavailableError: It is not published in time. It may be tried again.
        VerificationError: The log contradicts itself, or what a witness holds.
    """
    size = reader.size()
    async for head in _rounds(publisher, clock, patience_s):
        if head is not None and head.size == size:
            return head
    raise LogUnavailableError(
        "the shard's last checkpoint is not published: have enough witnesses cosigned? "
        "Then give the command again"
    )


async def _rounds(
    publisher: Publisher, clock: Clock, patience_s: float
) -> AsyncIterator[SignedHead | None]:
    """Publish until patience is over, at least once; yield what is published."""
    until = clock.monotonic() + patience_s
    while True:
        yield await asyncio.to_thread(publisher.publish)
        if clock.monotonic() >= until:
            return
        await asyncio.sleep(_LOOK_S)
