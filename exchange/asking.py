"""One wave of look-ups: recorded, taken, sent, checked, and learned from.

This is the part of the flow in which departments hear something, so its order is the
heart of the exchange's promise; `Asker.ask` numbers it as the house does.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

import structlog

from audit.record import Event, Kind
from audit.store import Appended
from audit.writer import AuditLog
from connectors.lookup import (
    Answer,
    Answered,
    Declined,
    Deferred,
    Evidence,
    IntentRef,
    LookupRequest,
    Matched,
    NotCovered,
    NothingHeld,
)
from connectors.port import Connector
from consent.in_flight import InFlight
from consent.rules import Rule
from consent.uses import Use, finish_uses, take_uses
from exchange.approval import Approved
from exchange.case import (
    Attempt,
    Barred,
    Disputed,
    Down,
    Held,
    Later,
    Nothing,
    Result,
    Unmatched,
    Wrong,
    earlier,
)
from exchange.database import Database
from exchange.due import next_try
from exchange.facts import Told, learn, says_otherwise
from exchange.opened import OpenCase
from exchange.plan import Lookup
from schemas.clock import Clock
from schemas.errors import ConnectorFaultError, ConnectorUnavailableError, Layer
from schemas.evidence import EvidenceType
from schemas.ids import EventId, LookupId, NewId
from schemas.outcome import RecordRef
from schemas.validation import Pack

_log = structlog.get_logger(__name__)

_SEND_WITHIN_S = 4.0
"""How long after its use was taken a look-up may still be sent; less than the lease of
the use exceeds the slowest look-up by."""
_LEAST_TIME_S = 0.005
"""With less than this left, a look-up is not begun."""
_TOO_LATE = ConnectorUnavailableError("it was too late to ask", layer=Layer.GATEWAY)
"""What came of a look-up that was not sent."""


@dataclass(slots=True)
class _Question:
    """A look-up on its way, and what came of it before the case has looked at it."""

    approved: Approved
    request: LookupRequest
    record: RecordRef
    """That of its intent."""
    made_by: dict[str, str]
    """What it was asked with, by concept: an answer of its wave may take that back."""
    answer: Answer | ConnectorUnavailableError | ConnectorFaultError | Rule
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Asks departments, on behalf of cases.

    INVARIANT (rule 1): no department is asked before the record of the intent is
    durable.
    INVARIANT (rule 2): every look-up that was recorded gets a record of its end.
    INVARIANT (rule 5): a use is taken after the intent is durable and immediately
    before sending; one that can't be taken is recorded as denied.
    INVARIANT (rule 9): no database transaction is open while a department is asked.
    """

    pack: Pack
    log: AuditLog
    connectors: Mapping[str, Connector]
    """By data service."""
    database: Database
    in_flight: InFlight
    clock: Clock
    new_id: NewId
    random_bytes: Callable[[int], bytes]
    waits: Sequence[float]
    """Seconds after each failed try; the last one repeats."""
    jitter: Callable[[], float]

    async def ask(
        self,
        case: OpenCase,
        approved: Sequence[Approved],
        wave: Sequence[Lookup],
        deadline: float,
    ) -> None:
        """Make the look-ups of one wave and note in the case what they brought.

        (1) Record every intent, durable, before anybody is asked.
        (2) Take the uses that the look-ups rest on.
        (3) Ask all at once, each within its time.
        (4) Note each result, and what the evidence tells.

        Args:
            case: Changed in place: attempts, facts, evidence, unrecorded ends.
            approved: Look-ups that were decided; none depends on another.
            wave: These in the order of the plan, and those between them that need not
                be made: what is held teaches again what the case has forgotten.
            deadline: Instant of the monotonic clock at which this run must end.

        Raises:
            LogUnavailableError: The intents can't be recorded: nobody was asked.
        """
        if not approved:
            _learn_again(case, wave)
            return
        # (1): one append for the wave, with the ends of the wave before.
        questions = await self._record_intents(case, approved, deadline)
        # (2) and (3): from here on each look-up gets an end, whatever happens.
        mandate = case.mandate_id
        uses = [Use(one.request.id, one.approved.claim, mandate) for one in questions]
        until = self.clock.monotonic() + _SEND_WITHIN_S
        denied = await self._take(uses)
        new_task = asyncio.get_running_loop().create_task
        asking = [
            new_task(self._fetch(one, denied.get(one.request.id), until))
            for one in questions
        ]
        try:
            # They run at once; waiting for each in turn is waiting for the slowest.
            for task in asking:
                await task
        except BaseException:
            # This run is cut off: none of its look-ups outlives it.
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            raise
        finally:
            await self._finish(uses, denied)
        # (4): in the order of the plan, so that the same answers teach the same.
        now = self.clock.now()
        asked = {one.approved.lookup.id: one for one in questions}
        for lookup in wave:
            if lookup.id in asked:
                self._note(case, asked[lookup.id], now)
            else:
                _learn_again(case, [lookup])

    async def _record_intents(
        self, case: OpenCase, wave: Sequence[Approved], deadline: float
    ) -> list[_Question]:
        now = self.clock.now()
        intents = [
            self._intent(case, approved, LookupId(self.new_id()), now)
            for approved in wave
        ]
        ends, case.unrecorded = case.unrecorded, []
        try:
            appended = await self.log.append([*ends, *intents])
        except BaseException:
            case.unrecorded = ends
            raise
        left = max(_LEAST_TIME_S, deadline - self.clock.monotonic())
        return [
            self._question(case, approved, intent, record, left)
            for approved, intent, record in zip(
                wave, intents, appended[len(ends) :], strict=True
            )
        ]

    def _intent(
        self, case: OpenCase, approved: Approved, lookup: LookupId, now: datetime
    ) -> Event:
        """Say who asks what about whom, for which case, on which basis."""
        planned = approved.lookup
        return Event(
            id=EventId(self.new_id()),
            at=now,
            kind=Kind.REQUEST_ACCEPTED,
            outcome="accepted",
            requester=case.head.requester,
            provider=approved.service.provider,
            evidence_type=planned.evidence_type,
            policy=self.pack.digest,
            correlation=lookup,
            subjects=case.concern(planned),
            actor=case.actor,
            case=case.head.id,
            matter=case.head.matter,
            details={**approved.details, **case.mandate},
        )

    def _question(
        self,
        case: OpenCase,
        approved: Approved,
        intent: Event,
        record: Appended,
        left_s: float,
    ) -> _Question:
        planned, head = approved.lookup, case.head
        request = LookupRequest(
            id=LookupId(intent.correlation),
            service=approved.service,
            evidence_type=self.pack.evidence_types[planned.evidence_type],
            mode=planned.mode,
            keys={name: case.text(c) for name, c in planned.keys.items()},
            fields=planned.fields,
            match={name: case.text(c) for name, c in planned.match.items()},
            requester=head.requester,
            purpose=head.purpose,
            matter=head.matter,
            basis=approved.permit.kinds,
            grant=approved.permit.grant,
            intent=IntentRef(
                event=record.event,
                index=record.index,
                leaf_hash=record.leaf_hash,
                log=self.log.origin,
            ),
            subject_salt=self.random_bytes(16),
            issued_at=intent.at,
            timeout_s=min(approved.service.timeout_ms / 1000, left_s),
        )
        ref = RecordRef(event=record.event, index=record.index)
        return _Question(approved, request, ref, case.inputs(planned), _TOO_LATE)

    async def _take(self, uses: Sequence[Use]) -> Mapping[LookupId, Rule]:
        """Take the uses of a wave; return the look-ups that may not be sent."""
        denied = self.in_flight.take(uses)
        written = [u for u in uses if u.is_written and u.lookup not in denied]
        if not written:
            return denied
        now, lease = self.clock.now(), self._lease()
        try:
            more = await self.database.write(
                lambda c: take_uses(c, written, now, lease)
            )
        except BaseException:
            self.in_flight.finish([use.lookup for use in uses])
            raise
        return {**denied, **more}

    def _lease(self) -> timedelta:
        """Return how long a use may wait: as long as the slowest look-up may take."""
        slowest = max(s.timeout_ms for s in self.pack.services.values())
        return timedelta(milliseconds=slowest) + timedelta(seconds=5)

    async def _finish(
        self, uses: Sequence[Use], denied: Mapping[LookupId, Rule]
    ) -> None:
        self.in_flight.finish([use.lookup for use in uses])
        sent = [u.lookup for u in uses if u.is_written and u.lookup not in denied]
        if sent:
            now = self.clock.now()
            await self.database.write(lambda c: finish_uses(c, sent, [], now))

    async def _fetch(self, asked: _Question, denied: Rule | None, until: float) -> None:
        """Ask one department; its failure is its own.

        INVARIANT (rule 5): what was held up until its use no longer counts, or until
        this gateway may have missed a suspension, is not sent.
        """
        if denied is not None:
            asked.answer = denied
            return
        since = self.clock.monotonic()
        if since >= min(until, self.in_flight.current_until):
            return
        try:
            connector = self.connectors[asked.approved.service.id]
            asked.answer = await connector.fetch(asked.request)
        except (ConnectorUnavailableError, ConnectorFaultError) as error:
            asked.answer = error
        asked.elapsed_s = self.clock.monotonic() - since

    def _note(self, case: OpenCase, asked: _Question, now: datetime) -> None:
        """Note in the case what one look-up brought, and how it ended."""
        planned, service = asked.approved.lookup, asked.approved.service
        before = case.attempt(planned)
        result, word = self._result(case, asked, before, now)
        case.unrecorded.append(self._end(case, asked, result, word, now))
        if (
            before is not None
            and isinstance(result, Later | Down | Wrong | Barred)
            and case.stands(planned, before, now)
        ):
            # It was asked for a blank alone: the rest of what is held stands.
            case.note(planned.id, replace(before, at=now))
            return
        attempt = Attempt(
            result=result,
            at=now,
            tries=_tries(before, asked.request.issued_at),
            lookup=asked.request.id,
            service=service.id,
            provider=service.provider,
            elapsed_ms=round(asked.elapsed_s * 1000, 3),
            record=asked.record,
            run=case.content.run,
            made_by=asked.made_by,
        )
        case.note(planned.id, attempt)

    def _result(  # noqa: C901, PLR0911, PLR0912 - a branch for each member of a union
        self, case: OpenCase, asked: _Question, before: Attempt | None, now: datetime
    ) -> tuple[Result, str]:
        """Return what a look-up came to, and the word for its record."""
        planned, kind = asked.approved.lookup, asked.request.evidence_type
        match asked.answer:
            case Answered(evidence=evidence):
                return self._learned(case, planned, kind, evidence)
            case Matched(evidence=evidence, match=True):
                return self._held(case, planned, kind, evidence), "matched"
            case Matched(evidence=evidence):
                self._held(case, planned, kind, evidence)
                return Unmatched(evidence=evidence.id), "mismatch"
            case Deferred(retry_at=retry_at):
                return Later(retry_at=retry_at), "deferred"
            case NothingHeld():
                case.take_back(planned.id)
                again = self._step_retry(case, asked, before, now)
                return Nothing(covered=True, retry_at=again), "not_held"
            case NotCovered():
                return Nothing(covered=False), "not_covered"
            case Declined(code=code):
                return Barred(rule=f"provider.{code}"), "declined"
            case ConnectorFaultError(fault=fault) as wrong:
                _say_why(asked, wrong)
                return Wrong(fault=fault), f"faulty.{fault.value}"
            case ConnectorUnavailableError() as error:
                down = self._down(case, asked, error, before, now)
                return down, f"unavailable.{error.layer.value}"
            case Rule() as rule:
                return Barred(rule=rule.value), f"denied.{rule.value}"
            case _:
                assert_never(asked.answer)

    def _learned(
        self, case: OpenCase, planned: Lookup, kind: EvidenceType, evidence: Evidence
    ) -> tuple[Result, str]:
        """Compare what evidence tells with what the case knows, and learn from it."""
        held = self._held(case, planned, kind, evidence)
        compared = _compared(case, planned, evidence, held)
        return compared, "retrieved" if compared is held else "conflict"

    def _held(
        self, case: OpenCase, planned: Lookup, kind: EvidenceType, evidence: Evidence
    ) -> Held:
        """Keep evidence in the case, until it is stale."""
        max_age = kind.max_age
        expires_at = None if max_age is None else evidence.as_of + max_age
        case.put(evidence, expires_at)
        return Held(evidence=evidence.id, fields=planned.fields, expires_at=expires_at)

    def _step_retry(
        self, case: OpenCase, asked: _Question, before: Attempt | None, now: datetime
    ) -> datetime | None:
        """Return when to ask again for the output of a step; None for anything else."""
        asks = case.matter.asks
        if not any(asks[ask].output_of for ask in asked.approved.lookup.asks):
            return None
        tries = _tries(before, asked.request.issued_at)
        again = next_try(tries, now, self.waits, None, jitter=self.jitter())
        return None if again is None else earlier(again, before, now)

    def _down(
        self,
        case: OpenCase,
        asked: _Question,
        error: ConnectorUnavailableError,
        before: Attempt | None,
        now: datetime,
    ) -> Down:
        """Return since when a source is down, and when it is asked again."""
        since, tries = now, 1
        if before is not None and isinstance(before.result, Down):
            since = before.result.since
            tries = _tries(before, asked.request.issued_at)
        limit = since + case.matter.source_limit
        retry_at = next_try(tries, now, self.waits, limit, jitter=self.jitter())
        if retry_at is not None:
            retry_at = earlier(retry_at, before, now)
            asked_for = now + timedelta(seconds=error.retry_after_s or 0)
            retry_at = min(max(retry_at, asked_for), limit)
        full = asked.approved.service.timeout_ms / 1000
        cut_short = asked.request.timeout_s < full
        return Down(
            layer=error.layer,
            since=since,
            retry_at=retry_at,
            deadline=cut_short and asked.elapsed_s >= asked.request.timeout_s,
        )

    def _end(
        self, case: OpenCase, asked: _Question, result: Result, word: str, now: datetime
    ) -> Event:
        """Say how a look-up ended."""
        planned = asked.approved.lookup
        evidence = getattr(result, "evidence", None)
        return Event(
            id=EventId(self.new_id()),
            at=now,
            kind=Kind.REQUEST_ENDED,
            outcome=word,
            requester=case.head.requester,
            provider=asked.approved.service.provider,
            evidence_type=planned.evidence_type,
            policy=self.pack.digest,
            correlation=asked.request.id,
            subjects=case.subjects(planned.roles),
            actor=case.actor,
            case=case.head.id,
            matter=case.head.matter,
            ends=asked.record.event,
            evidence={} if evidence is None else {"evidence": evidence},
        )


def _tries(before: Attempt | None, asked_at: datetime) -> int:
    """Return how many tries of the schedule were made, the one of `asked_at` included.

    INVARIANT (rule 10): one that somebody asked for, before it was due, is none of
    them: whoever resolves a case again and again does not slow down what goes on by
    itself. What spares a source is its circuit breaker, whoever asks.
    """
    if before is None:
        return 1
    due = before.planned_for
    is_early = due is not None and asked_at < due
    return max(before.tries, 1) if is_early else before.tries + 1


def _learn_again(case: OpenCase, lookups: Iterable[Lookup]) -> None:
    """Compare evidence that is here with what the case knows now, and learn from it."""
    for lookup in lookups:
        attempt = case.attempt(lookup)
        if attempt is None or not isinstance(attempt.result, Held | Disputed):
            continue  # there was no time left to ask
        result = attempt.result
        evidence = case.evidence[result.evidence]
        held = Held(
            evidence=evidence.id,
            fields=tuple(evidence.disclosed.values),
            expires_at=result.expires_at,
        )
        compared = _compared(case, lookup, evidence, held)
        case.note(lookup.id, replace(attempt, result=compared))


def _say_why(asked: _Question, wrong: ConnectorFaultError) -> None:
    """Tell the operator what is to be reported to a department, without any value."""
    _log.warning(
        "answer_faulty",
        service=asked.approved.service.id,
        fault=wrong.fault.value,
        why=str(wrong),
        record=asked.record.event,
    )


def _compared(
    case: OpenCase, planned: Lookup, evidence: Evidence, held: Held
) -> Held | Disputed:
    """Return `held`, learned from, unless the case knows otherwise.

    What the same look-up said before is no other source: it is taken back.
    """
    if not planned.shows:
        return held
    told = [
        Told(concept, evidence.disclosed.values[name], concept in planned.tells)
        for concept, name in planned.shows.items()
        if name in evidence.disclosed.values
    ]
    if not case.is_first_run and says_otherwise(case.content.facts, told, planned.id):
        case.take_back(planned.id)
    new, dispute = learn(case.content.facts, told, planned.id)
    case.content.facts.update(new)
    if dispute is None:
        return held
    return Disputed(
        evidence=evidence.id,
        concept=dispute.concept,
        hint=dispute.hint,
        against=dispute.against,
        expires_at=held.expires_at,
    )
