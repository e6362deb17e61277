"""Acts that hold already, and whose records the log is owed.

What a person or a portal ends (a refusal, a withdrawal, a mandate, a case) holds at
once, also while the log can't be written; what a person gives, a consent or a mandate,
may hold only once it is recorded. So the record can be part of neither the act's
transaction nor of what comes before it. Its event is stored in that transaction
instead, and struck out once the log has it:

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import orjson
import structlog
from sqlalchemy import (
    BigInteger,
    Column,
    Row,
    Select,
    delete,
    func,
    insert,
    select,
    tuple_,
)
from sqlmodel import Field, SQLModel

from audit.record import Actor, Event, Kind, Subject
from audit.writer import AuditLog
from consent.artefact import Consent
from exchange.cases import to_ms
from exchange.database import Connection, Database
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.errors import VerificationError
from schemas.ids import EventId

After: TypeAlias = Callable[[], None]
"""Done on the loop as soon as a transaction has committed."""
Finish: TypeAlias = Callable[[Connection, Event], After | None]
"""Lets hold what waited for its record; doing it twice is once."""
Tell: TypeAlias = Callable[[int], None]

_POLL_S = 5.0
"""How often what was cut off is looked for, in seconds."""
_GRACE = timedelta(seconds=5)
"""How long whoever acted has, until another records it."""
_MOST = 500
"""How many are looked for at once at most."""

_log = structlog.get_logger(__name__)


class OwedRecordRow(SQLModel, table=True):
    """One event that the log may not have yet."""

    __tablename__ = "owed_record"  # type: ignore[mutable-override] # SQLModel's own way

    id: str = Field(primary_key=True)
    """The event's."""
    happened_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    """Milliseconds since 1970."""
    thing: str = Field(index=True)
    """What it happened to: the consent, the mandate or the case."""
    step: int
    """Orders what happened to one thing: clocks may differ, and go back."""
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
            "thing": _thing(event),
            "step": step,
            "sealed": self.vault.seal_owed(event.id, _written(event)),
        }
        connection.execute(insert(_OWED).values(values))
        return event

    def strike_out(self, connection: Connection, recorded: Iterable[EventId]) -> None:
        """Owe events no more, which the log has and nothing else waits for."""
        if struck := list(recorded):
            connection.execute(delete(_OWED).where(_OWED.c.id.in_(struck)))

    async def record(self, events: Sequence[Event], finish: Finish) -> None:
        """Record events that were noted, and strike them out: (2) and (3).

        What is owed of the same things from before comes first, so that the log hears
        of each thing in its order.

        Raises:
            LogUnavailableError: They are not known to be recorded; they stay owed.
            StoreUnavailableError: They are recorded, and stay owed all the same.
        """
        if not events:
            return
        earlier = await self._append_owed(await self._owed_before(events))
        await self.log.append(events)
        await self._strike([*earlier, *events], finish)

    async def catch_up(self, grace: timedelta, finish: Finish) -> int:
        """Record what was owed for longer than `grace`, oldest first; say how many.

        Raises:
            LogUnavailableError: The log can't be written: what is left stays owed.
            StoreUnavailableError: The tables can't be read or written.
        """
        now = self.clock.now()
        before, latest = to_ms(now - grace), to_ms(now)
        # Of what lies ahead, by a clock that went back, nobody knows how old it is.
        is_due = (_OWED.c.happened_at <= before) | (_OWED.c.happened_at > latest)
        order = tuple_(_OWED.c.happened_at, _OWED.c.id)
        query = select(_OWED.c.happened_at, _OWED.c.id, _OWED.c.thing).where(is_due)
        query = query.order_by(_OWED.c.happened_at, _OWED.c.id).limit(_MOST)
        done, after = 0, (-1, "")
        while rows := await self._all(query.where(order > after)):
            for thing in dict.fromkeys(row.thing for row in rows):
                done += await self.settle(thing, finish)
            after = (rows[-1].happened_at, rows[-1].id)
        return done

    async def settle(self, thing: str, finish: Finish) -> int:
        """Record all that is owed of a thing, in its order; say how many.

        Raises:
            LogUnavailableError: The log can't be written: what is left stays owed.
            StoreUnavailableError: The tables can't be read or written.
        """
        owed = [self._opened(row) for row in await self._of([thing])]
        recorded = await self._append_owed([one for one in owed if one is not None])
        await self._strike(recorded, finish)
        return len(recorded)

    async def count(self) -> int:
        """Return how many records are owed, also those that are about to be made.

        Raises:
            StoreUnavailableError: The tables can't be read.
        """
        query = select(func.count()).select_from(_OWED)
        return int(await self.database.read(lambda c: c.execute(query).scalar_one()))

    async def keep_up(self, finish: Finish, tell: Tell) -> None:
        """Record what was cut off, at once and every few seconds, until cancelled.

        Args:
            finish: Lets hold what waited for its record.
            tell: Is told before each round how many records are owed.
        """
        grace = timedelta()  # what this gateway left when it was killed is at hand
        while True:
            try:
                tell(await self.count())
                await self.catch_up(grace, finish)
                grace = _GRACE
            except Exception as error:  # noqa: BLE001 - the next round tries again
                _log.warning("records_still_owed", error=type(error).__name__)
            await asyncio.sleep(_POLL_S)

    # Below: how.

    async def _owed_before(self, events: Sequence[Event]) -> list[Event]:
        """Return what is owed from before the events of the same things."""
        mine = {event.id for event in events}
        things = dict.fromkeys(_thing(event) for event in events)
        before: dict[str, list[Event]] = {}
        found: list[Event] = []
        for row in await self._of(things):
            if row.id in mine:
                found += before.pop(row.thing, [])
            elif (event := self._opened(row)) is not None:
                before.setdefault(row.thing, []).append(event)
        return found

    async def _append_owed(self, events: Sequence[Event]) -> list[Event]:
        """Record what others have owed; return what the log does not refuse for good.

        INVARIANT: what nobody can record is in nobody's way: it stays where it lies,
        and is named to the operators.
        """
        recorded: list[Event] = []
        for event in events:
            try:
                await self.log.append([event])
            except ValueError as error:
                _say_unrecordable(event.id, error)
            else:
                recorded.append(event)
        return recorded

    async def _strike(self, events: Sequence[Event], finish: Finish) -> None:
        """Strike recorded events out, and let hold what waited for them."""

        def strike(connection: Connection) -> list[After]:
            done = [finish(connection, event) for event in events]
            self.strike_out(connection, [event.id for event in events])
            return [one for one in done if one is not None]

        if events:
            # Nothing is awaited in between: what is done here is in commits' order.
            for after in await self.database.write(strike):
                after()

    def _opened(self, row: Row[Any]) -> Event | None:
        """Return an event as it was owed; None where it can't be read."""
        try:
            return _read(self.vault.open_owed(EventId(row.id), row.sealed))
        except (VerificationError, ValueError, LookupError, TypeError) as error:
            # It was changed, or a gateway of another version has written it.
            _say_unrecordable(row.id, error)
            return None

    async def _of(self, things: Iterable[str]) -> Sequence[Row[Any]]:
        """Return all that is owed of some things, that of each in its order."""
        # A limit would cut off what is to come first: what is named is bounded.
        query = select(_OWED).where(_OWED.c.thing.in_(list(things)))
        order = (_OWED.c.thing, _OWED.c.step, _OWED.c.happened_at, _OWED.c.id)
        return await self._all(query.order_by(*order))

    async def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await self.database.read(lambda c: c.execute(query).all())


def _thing(event: Event) -> str:
    return event.correlation or event.case or event.id


def _say_unrecordable(record: str, error: Exception) -> None:
    _log.error("owed_record_unusable", record=record, error=type(error).__name__)


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
