"""Acts that hold already, and whose records the log is owed.

What a person or a portal ends (a refusal, a withdrawal, a mandate, a case) holds at
once, also while the log can't be written; what a person gives may hold only once it is
recorded. So the record can be part of neither the act's transaction nor of what comes
before it. Its event is stored in that transaction instead, and struck out once the log
has it:

(1) the act and its event are stored, both or neither;
(2) the event is recorded;
(3) it is struck out, and what was waiting for the record (`Finish`) holds, in one
    transaction.

Whatever is cut off, by a kill or by a log that refuses, is made good by any gateway
(`OwedRecords.catch_up`). The log keeps one record for each event id, so that two who do
it at once record it once.

INVARIANT (rule 2): no act without its record, and no record without its act: which of
two acts comes first is decided by the tables, in a transaction, before the log hears.

INVARIANT (rule 8): an event names persons, so it is sealed while it lies here.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import orjson
import structlog
from sqlalchemy import BigInteger, Column, delete, insert, select
from sqlmodel import Field, SQLModel

from audit.record import Actor, Event, Kind, Subject
from audit.writer import AuditLog
from consent.artefact import Consent
from exchange.cases import to_ms
from exchange.database import Connection, Database
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.errors import (
    LogUnavailableError,
    StoreUnavailableError,
    VerificationError,
)
from schemas.ids import EventId

Finish: TypeAlias = Callable[[Connection, Event], None]
"""Lets hold what waited for its record; doing it twice is once."""

_POLL_S = 5.0
"""How often what was cut off is looked for, in seconds."""
_GRACE = timedelta(seconds=5)
"""How long whoever acted has, until another records it."""
_MOST = 500
"""How many are recorded in one round at most."""

_log = structlog.get_logger(__name__)


class OwedRecordRow(SQLModel, table=True):
    """One event that the log may not have yet."""

    __tablename__ = "owed_record"  # type: ignore[mutable-override] # SQLModel's own way

    id: str = Field(primary_key=True)
    """The event's."""
    happened_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    """Milliseconds since 1970."""
    step: int
    """Orders what happened to one thing within a millisecond."""
    sealed: bytes
    """The event, under a key that the vault derives from its master key."""


_OWED = OwedRecordRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table


def finish_nothing(_connection: Connection, _event: Event) -> None:
    """Finish an act that held before it was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedRecords:
    """Records that belong to changes of the tables."""

    database: Database
    vault: Vault
    log: AuditLog
    clock: Clock

    def note(self, connection: Connection, event: Event, step: int = 0) -> Event:
        """Owe an event, in the transaction of the act that it tells of; return it."""
        values = {
            "id": event.id,
            "happened_at": to_ms(event.at),
            "step": step,
            "sealed": self.vault.seal_owed(event.id, _written(event)),
        }
        connection.execute(insert(_OWED).values(values))
        return event

    async def record(
        self, events: Sequence[Event], finish: Finish = finish_nothing
    ) -> None:
        """Record events that were noted, and strike them out: (2) and (3).

        Raises:
            LogUnavailableError: They are not known to be recorded; they stay owed.
            StoreUnavailableError: They are recorded, and stay owed all the same.
        """
        if not events:
            return
        await self.log.append(events)

        def strike(connection: Connection) -> None:
            for event in events:
                finish(connection, event)
                connection.execute(delete(_OWED).where(_OWED.c.id == event.id))

        await self.database.write(strike)

    async def catch_up(self, grace: timedelta, finish: Finish) -> int:
        """Record what was owed for longer than `grace`, oldest first; say how many.

        Raises:
            LogUnavailableError: The log can't be written: what is left stays owed.
            StoreUnavailableError: The tables can't be read or written.
        """
        before = to_ms(self.clock.now() - grace)
        query = (
            select(_OWED.c.id, _OWED.c.sealed)
            .where(_OWED.c.happened_at <= before)
            .order_by(_OWED.c.happened_at, _OWED.c.step, _OWED.c.id)
            .limit(_MOST)
        )
        found = await self.database.read(lambda c: c.execute(query).all())
        for row in found:
            try:
                opened = self.vault.open_owed(EventId(row.id), row.sealed)
            except VerificationError:  # it must not be in the way of the others
                _log.error("owed_record_changed", record=row.id)
                continue
            await self.record([_read(opened)], finish)
        return len(found)

    async def keep_up(self, finish: Finish) -> None:
        """Record what was cut off, at once and every few seconds, until cancelled."""
        grace = timedelta()  # what this gateway left when it was killed is at hand
        while True:
            try:
                await self.catch_up(grace, finish)
                grace = _GRACE
            except (StoreUnavailableError, LogUnavailableError) as error:
                _log.warning("records_still_owed", error=type(error).__name__)
            await asyncio.sleep(_POLL_S)


def change_of(
    consent: Consent,
    outcome: str,
    now: datetime,
    event: EventId,
    policy: str,
    about: tuple[Subject, ...],
) -> Event:
    """Return the event of a consent that has changed; it names `about` and no more."""
    scope = consent.scope
    return Event(
        id=event,
        at=now,
        kind=Kind.CONSENT_CHANGED,
        outcome=outcome,
        requester=scope.requester,
        policy=policy,
        correlation=consent.id,
        subjects=about,
        case=consent.asked_in,
        details={
            "role": scope.role,
            "matter": scope.matter,
            "purpose": scope.purpose,
            "whole_matter": scope.case is None,
            "version": consent.version,
            "evidence_types": list(consent.evidence_types),
        },
    )


def _written(event: Event) -> bytes:
    return orjson.dumps(event._asdict(), default=dict)  # for read-only mappings


def _read(written: bytes) -> Event:
    parts = orjson.loads(written)
    actor = parts["actor"]
    changed = {
        "at": datetime.fromisoformat(parts["at"]),
        "kind": Kind(parts["kind"]),
        "subjects": tuple(Subject(**subject) for subject in parts["subjects"]),
        "actor": None if actor is None else Actor(**actor),
    }
    return Event(**{**parts, **changed})
