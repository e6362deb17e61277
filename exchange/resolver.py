"""Cases in the store: opened, taken up again, added to, read, released, closed.

What is resolved in between is `exchange.flow`, steps (1) to (6) of the house; here are
(7), the record of the release, and (8), the answer (`exchange.answer`).

One works on a case at a time, under the lease of its due row (`exchange.due`). The
log commits before the case does; what was cut off in between is reconciled from the
log when the case is next taken up.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from audit.record import Event, Kind
from audit.writer import AuditLog
from consent import store as consents
from consent.artefact import Consent
from exchange import cases, due, idempotency
from exchange.answer import Answerer, compose_closed, summary_of
from exchange.case import (
    AnyActor,
    CaseContent,
    CaseHead,
    CaseStatus,
    HandedIn,
    stated_facts,
)
from exchange.cases import StoredCase
from exchange.catalogue import Catalogue
from exchange.database import Connection, Database
from exchange.due import Due, Lease
from exchange.flow import Flow
from exchange.mandating import Mandates, powers_for
from exchange.opened import OpenCase, reopen
from exchange.outcomes import LOOK_AGAIN
from exchange.owed_records import OwedRecords, change_of, finish_nothing
from exchange.planner import Planner
from exchange.token_request import Caller
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.errors import NotFoundError, StateConflictError, StoreUnavailableError
from schemas.ids import CaseId, DueId, EventId, KeyId, NewId
from schemas.matter import Matter, SupplyReason

_RELEASE_S = 0.5
"""How long a request waits for its lease to be given back, and how often that is tried
again where the tables can't be written."""
_ATTEMPT_S = 30.0
"""How long an attempt without a request may take, in seconds."""
_CLOSED = "the case is closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opens a case, checked (`exchange.intake`)."""

    caller: Caller
    matter: str
    purpose: str
    actor: AnyActor
    subjects: Mapping[str, Mapping[str, str]] = field(repr=False)
    answers: Mapping[str, bool | str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What is added to an open case, checked (`exchange.intake`)."""

    subjects: Mapping[str, Mapping[str, str]] = field(repr=False)
    answers: Mapping[str, bool | str] = field(repr=False)
    commitments: tuple[str, ...] = ()
    supplied: Mapping[str, SupplyReason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Runs cases."""

    flow: Flow
    planner: Planner
    mandates: Mandates
    answerer: Answerer
    database: Database
    vault: Vault
    log: AuditLog
    owed: OwedRecords
    clock: Clock
    new_id: NewId
    executor_id: str
    lease_margin: timedelta
    """How much longer a lease lasts than the run that it covers."""
    releasing: set[asyncio.Future[None]] = field(default_factory=set, init=False)
    """Leases on their way back, while the tables can't be written."""

    # What requests do.

    async def open(
        self, opening: Opening, wait_s: float, repeat: idempotency.RepeatKey | None
    ) -> tuple[CaseId, bytes]:
        """Open a case, resolve it as far as `wait_s` seconds allow, and answer.

        A request that is repeated under its idempotency key opens nothing: it is
        answered with the case that it opened before.

        Raises:
            NotFoundError: There is no such matter.
            MandateError: An agent opens it whom no mandate lets do so: nobody is asked.
            LogUnavailableError: The log can't be written: nothing was released.
        """
        case = await self._new_case(opening)
        # INVARIANT: a mandate is checked before anything is asked, kept or planned.
        try:
            await self.mandates.admit(case, powers_for(), is_stored=False)
        except BaseException:
            self.vault.give_back(case.key)
            raise
        lease = self._lease(case.head.id, case.head.opened_at, wait_s)
        made = await self._store_new(case, lease, repeat)
        if made != case.head.id:
            return made, await self.read(made, opening.caller)
        run = self._run_and_answer(case, lease, wait_s, renew=False)
        return made, await _to_the_end(run)

    async def resolve(self, case_id: CaseId, caller: Caller, wait_s: float) -> bytes:
        """Resolve a case again, now: what failed is asked anew, what is fresh reused.

        A case that somebody works on at this moment is answered as it stands.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            StateConflictError: It is closed.
        """
        return await self._take_up(case_id, caller, wait_s, None)

    async def add(
        self, case_id: CaseId, caller: Caller, wait_s: float, additions: Additions
    ) -> bytes:
        """Add answers, facts, commitments or supplies to a case, and resolve it.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            MandateError: An agent opened it, and has no power (any more) to add this.
            StateConflictError: It is closed, or somebody works on it just now.
        """
        return await self._take_up(case_id, caller, wait_s, additions)

    async def read(self, case_id: CaseId, caller: Caller) -> bytes:
        """Answer a case as it stands.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            LogUnavailableError: The log can't be written: nothing was released.
        """
        stored = await self._stored(case_id, caller)
        if stored.content is not None:
            with suppress(StateConflictError):  # closed since: answered as such
                return await self._answer(await self._reopened(stored))
            stored = await self._stored(case_id, caller)
        matter = self.planner.catalogue(stored.head.matter).matter
        return compose_closed(stored, matter)

    async def head(self, case_id: CaseId, caller: Caller) -> CaseHead:
        """Return what can be told of a case without its evidence: none is released.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
        """
        return (await self._stored(case_id, caller)).head

    async def stated(
        self, case_id: CaseId, caller: Caller
    ) -> tuple[Matter, Mapping[str, Mapping[str, str]]]:
        """Return a case's matter and what was stated about its subjects.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            StateConflictError: It is closed.
        """
        case = await self._reopened(await self._stored(case_id, caller))
        return case.matter, case.content.subjects

    async def close(self, case_id: CaseId, caller: Caller) -> bytes:
        """Close a case: its key is destroyed, and only outcomes remain.

        INVARIANT (rule 7): evidence is kept only while its case is open. A due row
        stands until the key is gone, so that a kill in between is made good.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            StateConflictError: It is closed already.
        """
        stored = await self._stored(case_id, caller)
        case = await self._reopened(stored)
        now = self.clock.now()
        opened = self._opened(case)
        closed = _with_people(self._event(case.head, Kind.CASE_CLOSED, "closed"), case)
        owed = self._owed_when_over(case_id)
        summary = summary_of(case)

        def store(connection: Connection) -> list[Event]:
            cases.close_case(connection, case_id, summary, now)
            due.owe(connection, owed)
            return [
                *[self.owed.note(connection, one) for one in opened],
                # Nobody is asked any more for a case that is over.
                *self._end_requests(connection, case),
                self.owed.note(connection, closed, 1),
            ]

        # The tables decide which of two closes it: the log hears of that one.
        events = await self.database.write(store)
        try:
            await self.owed.record(events, finish_nothing)
        finally:
            await self._forget(case_id, stored.key)
        return await self.read(case_id, caller)

    # What happens by itself.

    async def attempt(self, due_id: DueId) -> str:
        """Make one attempt at what a case is owed.

        Returns:
            `settled` when nothing is owed any more, `owed` when something still is,
            `gone` when there is no such row.
        """
        found = self.database.read_now(lambda c: due.find(c, due_id))
        if found is None:
            return "gone"
        now = self.clock.now()
        until = now + timedelta(seconds=_ATTEMPT_S) + self.lease_margin
        lease = due.for_attempt(found, self.executor_id, until)
        if not await self.database.write(lambda c: due.claim(c, lease, now)):
            return "owed"
        stored = await self.database.read(lambda c: cases.find_case(c, found.case))
        if stored is None or stored.content is None:
            if stored is not None:
                await self.vault.destroy_key(stored.key)
                await self._end_look_ups(stored.head)
            await self.database.write(lambda c: due.settle(c, found.case))
            return "settled"
        case = await self._reopened(stored)
        await self._reconcile(case)
        await self.flow.run(case, self.clock.monotonic() + _ATTEMPT_S, renew=False)
        await self._record_ends(case)
        await self._save(case, found.attempt + 1)
        return "settled" if case.head.status is CaseStatus.SETTLED else "owed"

    # Opening, saving, answering.

    async def _new_case(self, opening: Opening) -> OpenCase:
        now, case_id = self.clock.now(), CaseId(self.new_id())
        catalogue: Catalogue = self.planner.catalogue(opening.matter)
        case = OpenCase(
            head=CaseHead(
                id=case_id,
                requester=opening.caller.requester,
                matter=opening.matter,
                purpose=opening.purpose,
                status=CaseStatus.OPEN,
                opened_at=now,
            ),
            key=await self.vault.new_key(case_id),
            catalogue=catalogue,
            content=CaseContent(
                actor=opening.actor,
                subjects={r: dict(facts) for r, facts in opening.subjects.items()},
                answers=dict(opening.answers),
                facts=stated_facts(opening.subjects),
                opening=EventId(self.new_id()),
            ),
        )
        case.unrecorded += self._opened(case)
        return case

    async def _store_new(
        self, case: OpenCase, lease: Lease, repeat: idempotency.RepeatKey | None
    ) -> CaseId:
        """Store a new case and its due row, durable before anything; so is its key."""
        now, head = case.head.opened_at, case.head
        content = case.sealed_content()
        owed = Due(DueId(self.new_id()), head.id, now, 0, now)

        def store(connection: Connection) -> CaseId:
            if repeat is not None:
                made = idempotency.claim(connection, repeat, head.id, now)
                if made != head.id:
                    return CaseId(made)
            mandate = case.mandate_id
            cases.insert_case(connection, head, case.key.id, content, mandate)
            due.begin_new(connection, owed, lease)
            return head.id

        made = await self.database.write(store)
        if made != head.id:
            self.vault.give_back(case.key)
        return made

    async def _take_up(
        self,
        case_id: CaseId,
        caller: Caller,
        wait_s: float,
        additions: Additions | None,
    ) -> bytes:
        """Take the lease of a case, add to it, and resolve it again."""
        stored = await self._stored(case_id, caller)
        if stored.content is None:
            raise StateConflictError(_CLOSED)
        if additions is not None:
            powers = powers_for(promises=bool(additions.commitments))
            await self.mandates.admit(await self._reopened(stored), powers)
        now = self.clock.now()
        lease = self._lease(case_id, now, wait_s)
        owed = Due(DueId(self.new_id()), case_id, now, 0, now)
        if not await self.database.write(lambda c: due.begin(c, owed, lease, now)):
            if additions is not None:
                raise StateConflictError("the case is being resolved; ask again")
            return await self._answer(await self._reopened(stored))
        # Read again under the lease: nobody else changes it from here on, except that
        # closing waits for no lease.
        stored = await self._stored(case_id, caller)
        if stored.content is None:
            await self._forget(case_id, stored.key)  # nothing is owed to it after all
            raise StateConflictError(_CLOSED)
        case = await self._reopened(stored)
        await self._reconcile(case)
        if additions is not None:
            _add(case, additions)
        run = self._run_and_answer(case, lease, wait_s, renew=additions is None)
        return await _to_the_end(run)

    async def _run_and_answer(
        self, case: OpenCase, lease: Lease, wait_s: float, *, renew: bool
    ) -> bytes:
        """Run a case and answer; a run that fails leaves it to others at once."""
        try:
            return await self._run_and_release(case, wait_s, renew=renew)
        except BaseException:
            releasing = asyncio.ensure_future(self._release(lease))
            self.releasing.add(releasing)
            releasing.add_done_callback(self.releasing.discard)
            await asyncio.wait({releasing}, timeout=_RELEASE_S)
            raise

    async def _release(self, lease: Lease) -> None:
        """Give a lease back, as soon as the tables can be written, or let it end."""
        while self.clock.now() < lease.until:
            with suppress(StoreUnavailableError):
                await self.database.write(lambda c: due.release(c, lease))
                return
            await asyncio.sleep(_RELEASE_S)

    async def _run_and_release(
        self, case: OpenCase, wait_s: float, *, renew: bool
    ) -> bytes:
        """Run a case; (7) record the release, durable; (8) answer."""
        await self.flow.run(case, self.clock.monotonic() + wait_s, renew=renew)
        draft = self.answerer.draft(case)
        ends, case.unrecorded = case.unrecorded, []
        appended = await self.log.append([*ends, *draft.releases])
        # The log commits before the case.
        await self._save(case, 0)
        return self.answerer.compose(draft, appended[len(ends) :])

    async def _answer(self, case: OpenCase) -> bytes:
        if not case.content.outcomes:  # opened, and not resolved yet
            self.flow.judge(case)
        draft = self.answerer.draft(case)
        appended = await self.log.append(draft.releases) if draft.releases else []
        return self.answerer.compose(draft, appended)

    async def _record_ends(self, case: OpenCase) -> None:
        ends, case.unrecorded = case.unrecorded, []
        if ends:
            await self.log.append(ends)

    async def _save(self, case: OpenCase, attempt: int) -> None:
        """Store a case after a run, and what it is owed from now on."""
        settled = all(one.is_settled for one in case.content.outcomes.values())
        case.step_on(CaseStatus.SETTLED if settled else CaseStatus.OPEN)
        case.content.opening = None  # the log commits before the case
        head, content, fresh = case.head, case.sealed_content(), case.sealed_fresh()
        owed = None if settled else self._owed(case, attempt)
        recorded, case.owed = case.owed, []
        has_ended = self.mandates.rule(case) is not None

        def store(connection: Connection) -> list[Event]:
            cases.save_case(connection, head, content)
            cases.put_evidence(connection, head.id, fresh)
            if recorded:
                self.owed.strike_out(connection, recorded)
            if owed is None:
                due.settle(connection, head.id)
            else:
                due.owe(connection, owed)
            # Nobody gives what no look-up can rest on.
            return self._end_requests(connection, case) if has_ended else []

        events = await self.database.write(store)
        case.fresh.clear()
        await self.owed.record(events, finish_nothing)

    def _owed(self, case: OpenCase, attempt: int) -> Due:
        now, due_id = self.clock.now(), DueId(self.new_id())
        return Due(due_id, case.head.id, _next_due(case, now), attempt, now)

    async def _stored(self, case_id: CaseId, caller: Caller) -> StoredCase:
        found = self.database.read_now(lambda c: cases.find_case(c, case_id))
        # Another requester's case is as if it were not there.
        if found is None or found.head.requester != caller.requester:
            raise NotFoundError("there is no such case")
        if found.content is None:  # perhaps another gateway closed it
            self.vault.forget(found.key)
        caller.require_purpose(found.head.purpose)
        return found

    async def _reopened(self, stored: StoredCase) -> OpenCase:
        """Return a case with all it holds.

        Raises:
            StateConflictError: It is closed, or was closed since it was read.
        """
        case_id = stored.head.id
        sealed = await self.database.read(lambda c: cases.find_evidence(c, case_id))
        catalogue = self.planner.catalogue(stored.head.matter)
        return reopen(stored, sealed, self.vault, catalogue)

    async def _reconcile(self, case: OpenCase) -> None:
        """Record what a crash cut off: the opening, and the end of look-ups.

        INVARIANT (rule 2): every look-up that was recorded gets a record of its end.
        Whoever calls this holds the lease, so nobody is still waiting for an answer.
        """
        case.unrecorded += self._opened(case)
        for end in await self._interrupted(case.head):
            case.unrecorded.append(end._replace(actor=case.actor))

    async def _end_look_ups(self, closed: CaseHead) -> None:
        """Record the end of look-ups that a crash cut off before their case was closed.

        The key of the case is gone: who they were about is known to the log.
        """
        await self.log.append(await self._interrupted(closed))

    async def _forget(self, case_id: CaseId, key: KeyId) -> None:
        """Destroy a closed case's key, and strike out what it is owed.

        While look-ups have not ended, an attempt is owed: a run that goes on ends its
        own, and those of one that was cut off are ended then.
        """
        await self.vault.destroy_key(key)
        if await self.log.open_attempts(case_id):
            owed = self._owed_when_over(case_id)
            await self.database.write(lambda c: due.owe(c, owed))
        else:
            await self.database.write(lambda c: due.settle(c, case_id))

    def _owed_when_over(self, case_id: CaseId) -> Due:
        """Return what a case is owed when no run of it can be under way any more."""
        now = self.clock.now()
        over = now + timedelta(seconds=_ATTEMPT_S) + self.lease_margin
        return Due(DueId(self.new_id()), case_id, over, 0, now)

    def _lease(self, case_id: CaseId, now: datetime, wait_s: float) -> Lease:
        until = now + timedelta(seconds=wait_s) + self.lease_margin
        return Lease(self.new_id(), case_id, self.executor_id, until)

    def _event(self, head: CaseHead, kind: Kind, outcome: str) -> Event:
        """Return an event of a case that names nobody."""
        return Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=kind,
            outcome=outcome,
            requester=head.requester,
            policy=self.answerer.policy,
            case=head.id,
            matter=head.matter,
            details={"purpose": head.purpose},
        )

    async def _interrupted(self, head: CaseHead) -> list[Event]:
        return await self.log.interrupted(head.id, self.new_id, self.clock.now())

    def _opened(self, case: OpenCase) -> list[Event]:
        """Return the event of a case's opening, unless its record is known to stand.

        It always has the same id, under which the log records it once.
        """
        opening, head = case.content.opening, case.head
        if opening is None:
            return []
        event = self._event(head, Kind.CASE_OPENED, "opened")
        return [_with_people(event._replace(id=opening, at=head.opened_at), case)]

    def _end_requests(self, connection: Connection, case: OpenCase) -> list[Event]:
        """End what a case has asked and nobody has answered; owe the records of it."""
        now = self.clock.now()
        return [
            self.owed.note(connection, self._ended(case, one, now), one.version)
            for one in consents.end_requests(connection, case.head.id, now)
        ]

    def _ended(self, case: OpenCase, consent: Consent, now: datetime) -> Event:
        """Return the event of a request that ends with its case."""
        about = tuple(
            one
            for one in case.subjects((consent.scope.role,))
            if self.vault.person_ref(one.namespace, one.id) == consent.scope.person
        )
        event_id, policy = EventId(self.new_id()), self.answerer.policy
        return change_of(consent, "expired", now, event_id, policy, about)


async def _to_the_end(work: Awaitable[bytes]) -> bytes:
    """Do work to its end even when whoever waits for it goes away."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _with_people(event: Event, case: OpenCase) -> Event:
    """Return an event of a case, with those whom it is about and who acts."""
    return event._replace(
        subjects=case.subjects(tuple(case.content.subjects)),
        actor=case.actor,
        details={**event.details, **case.mandate},
    )


def _add(case: OpenCase, additions: Additions) -> None:
    """Add to what a case knows; what is said again changes nothing."""
    content = case.content
    for role, stated in additions.subjects.items():
        content.subjects.setdefault(role, {}).update(stated)
    facts = {**content.facts, **stated_facts(additions.subjects)}
    answers = {**content.answers, **additions.answers}
    if (facts, answers) != (content.facts, content.answers):
        content.facts, content.answers = facts, answers
        case.forget_learned()
    content.committed.update(additions.commitments)
    for requirement, reason in additions.supplied.items():
        lists = case.counting(requirement)
        content.supplied[requirement] = HandedIn(reason=reason, lists=lists)


def _next_due(case: OpenCase, now: datetime) -> datetime:
    """Return when something of a case is tried again by itself.

    A time that has passed is heeded when this run has set it: the run itself may take
    longer than the wait. That of an earlier run belongs to a look-up that is not
    wanted any more.
    """
    times = [
        max(at, now)
        for attempt in case.content.attempts.values()
        if (at := attempt.planned_for) is not None
        and (at > now or attempt.run == case.content.run)
    ]
    return min([*times, now + LOOK_AGAIN])
