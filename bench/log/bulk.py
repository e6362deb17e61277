"""A log that grows quickly: rows made and written by the log's own code.

Each record has an event, tags, a salt and a leaf of its own, and all check values are
right: `verify` takes it. Only the sealed sections, which neither tree nor index reads,
are those of one case that was sealed in full; what sealing costs is measured elsewhere.

Half of the cases are about a few persons who are asked about all the time, half about
persons with one case each.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from audit.keyed import SubjectKey
from audit.keys import LogKeys
from audit.merkle import leaf_hash
from audit.publisher import Publisher
from audit.record import SALT_SIZE, Event, build_leaf, milliseconds, read_leaf
from audit.sealing import SealedRecord, Sealer
from audit.sections import guard, private_guard
from audit.sql import Place
from audit.writer import Limits, open_engine
from bench.asks import people
from bench.log.events import PER_CASE, case_events
from bench.log.room import logging_to
from schemas.canonical import b64url
from schemas.clock import SystemClock
from schemas.entropy import random_bytes
from schemas.ids import CaseId, EventId, uuid7

FREQUENT: Final = 150
"""Persons who share half of all cases."""
OFFICIALS: Final = 200
PORTALS: Final = 7
_SINCE: Final = datetime(2026, 7, 1, tzinfo=UTC)
_BETWEEN: Final = timedelta(seconds=250)
"""Between two cases: a million records fill half a year."""
_CHUNK: Final = 2_048


@dataclass(frozen=True, slots=True)
class _Form:
    """A record that was sealed in full."""

    event: Event
    commitments: Mapping[str, bytes]
    sealed: bytes
    ends: int | None
    """Which record of the same case it ends."""


@dataclass(frozen=True, slots=True)
class About:
    """Whom and what a log of some size is about: what can be asked of it."""

    size: int
    frequent: Sequence[str]
    """References of persons who are asked about again and again."""
    once: Sequence[str]
    """References of persons with one case each."""
    actors: Sequence[str]
    """References of officials."""
    case: CaseId
    """The last case."""


class Bulk:
    """Grows a log, on either engine.

    Args:
        place: Where the log is kept.
        sealer: Seals the case that lends its sections.
        keys: The log's.
    """

    def __init__(self, place: Place, sealer: Sealer, keys: LogKeys) -> None:
        self._place, self._sealer, self._keys = place, sealer, keys
        self._forms = _forms(sealer)
        self.size = 0
        self._frequent = [_somebody() for _ in range(FREQUENT)]
        self._actors = [b64url(os.urandom(16)) for _ in range(OFFICIALS)]
        self._once: list[str] = []
        self._last = CaseId("")

    def grow(self, size: int) -> None:
        """Append records up to a size, and publish them.

        A size in the middle of a case is rounded up.
        """
        engine = open_engine(self._place, self._sealer.origin, Limits())
        with closing(engine):
            waiting: list[SealedRecord] = []
            while self.size < size:
                waiting += self._case(self.size // PER_CASE)
                self.size += PER_CASE
                if len(waiting) >= _CHUNK or self.size >= size:
                    engine.append(waiting)
                    engine.tidy()
                    waiting.clear()
        with logging_to(self._place, self._sealer, self._keys) as log:
            publisher = Publisher(log, self._keys.log, SystemClock())
            publisher.publish()
            publisher.stop()

    def about(self) -> About:
        """Return whom and what the records so far are about."""
        cases = self.size // PER_CASE
        return About(
            size=self.size,
            frequent=[who.ref for who in self._frequent[: cases // 2]],
            once=list(self._once),
            actors=self._actors[:cases],
            case=self._last,
        )

    def _case(self, number: int) -> Iterator[SealedRecord]:
        """Yield the records of one case."""
        at = when(number)
        is_frequent = number % 2 == 0
        who = self._frequent[number // 2 % FREQUENT] if is_frequent else _somebody()
        if not is_frequent:
            self._once.append(who.ref)
        ids = [EventId(str(uuid7(at, random_bytes(10)))) for _ in self._forms]
        self._last = CaseId(str(uuid7(at, random_bytes(10))))
        for form, event_id in zip(self._forms, ids, strict=True):
            event = form.event._replace(
                id=event_id,
                at=at,
                case=self._last,
                requester=f"portal_{number % PORTALS}",
                ends=None if form.ends is None else ids[form.ends],
            )
            yield self._record(event, form, who, self._actors[number % OFFICIALS])

    def _record(
        self, event: Event, form: _Form, who: SubjectKey, actor: str
    ) -> SealedRecord:
        salt = random_bytes(SALT_SIZE)
        tags = [who.tag(self._sealer.origin.encode(), salt)]
        leaf = build_leaf(event, self._sealer.origin, salt, tags, form.commitments)
        digest = leaf_hash(leaf)
        check = private_guard(
            digest, event.case, event.matter, who.ref, actor, event.ends
        )
        return SealedRecord(
            event,
            leaf,
            digest,
            milliseconds(event.at),
            who.ref,
            actor,
            check,
            form.sealed,
            guard(digest, form.sealed),
        )


def when(case: int) -> datetime:
    """Return when a case was, by its number."""
    return _SINCE + _BETWEEN * case


def _somebody() -> SubjectKey:
    return SubjectKey(b64url(random_bytes(16)), random_bytes(32))


def _forms(sealer: Sealer) -> Sequence[_Form]:
    """Seal one case in full, and return what is reused of it."""

    def new_id() -> str:
        return str(uuid7(_SINCE, random_bytes(10)))

    case = case_events(people(1)[0], _SINCE, new_id)
    events = [*case.before, *case.after]
    known = sealer.directory.meet(events[0].subjects)
    places = {event.id: place for place, event in enumerate(events)}
    return [
        _Form(
            record.event,
            read_leaf(record.leaf).commitments,
            record.sealed,
            None if record.event.ends is None else places[record.event.ends],
        )
        for record in sealer.seal_all(events, [known] * len(events))
    ]
