"""What persons allow and operators suspend: each change stored, recorded, acknowledged.

INVARIANT (rule 5): when a withdrawal or a suspension has been acknowledged, no later
look-up rests on it: the call returns only when every use that was taken before has
been sent or cancelled.

INVARIANT (rules 1 and 2): what widens, a consent given, a mandate given
(`exchange.mandating`) or a suspension ended, is recorded before it holds; what narrows
holds at once and is recorded then, since a log that is down must not keep anybody from
withdrawing or suspending.

What was said is decided by the row of the consent or the suspension, locked, in one
transaction with the event that tells of it (`exchange.owed_records`). So of a consent
given and refused at once the log hears what came first, once, on both engines and from
any gateway. A consent that was given is `giving` until its record stands: nothing rests
on it, nobody can refuse it any more; a suspension that was ended holds until its record
stands. A gateway that is killed in between leaves the rest to any other. No lock is
held while the log is written.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

from audit.record import Event, Kind, Subject
from consent import mandate_store, store, uses
from consent.artefact import (
    Consent,
    ConsentFields,
    ConsentScope,
    ConsentState,
    Person,
)
from consent.in_flight import InFlight
from consent.mandates import ended_rule
from consent.rules import Suspendable, Target, target
from exchange import cases, due, idempotency
from exchange.case import CaseHead
from exchange.cases import StoredCase
from exchange.database import Connection, Database
from exchange.fleet import drained
from exchange.mandating import finish_giving
from exchange.opened import known_mandate, known_person
from exchange.owed_records import After, OwedRecords, Tell, change_of
from exchange.token_request import Caller
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.directory import LawfulBasisKind, SharingGrant
from schemas.errors import (
    Complaint,
    InvalidRequestError,
    NotFoundError,
    StateConflictError,
    VerificationError,
)
from schemas.ids import CaseId, ConsentId, DueId, EventId, NewId
from schemas.matter import FactType
from schemas.model import Slug, VersionedId
from schemas.validation import Pack

_PERSON = FactType.CITIZEN_ID.value
"""The kind of id by which persons are known (`OpenCase.namespace`)."""
_Ending: TypeAlias = Callable[[Connection, ConsentId, Person, datetime], Consent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What a portal asks a person to allow, beyond what cases ask by themselves."""

    case: CaseId
    role: Slug
    whole_matter: bool
    """Whether it is to hold in every case of the matter."""
    fields: ConsentFields
    expires_at: datetime
    uses: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Consents and suspensions, as they change."""

    pack: Pack
    database: Database
    vault: Vault
    owed: OwedRecords
    in_flight: InFlight
    clock: Clock
    new_id: NewId
    wake: Callable[[], None]
    """Called when a case may go on because of a consent."""

    # What portals and persons do.

    async def ask(
        self,
        caller: Caller,
        person_id: str,
        asking: Asking,
        repeat: idempotency.RepeatKey | None,
    ) -> Consent:
        """Ask a person's consent; what is being asked of them already is added to.

        Raises:
            NotFoundError: There is no such case of this requester.
            PurposeNotAllowedError: The token is for another purpose.
            StateConflictError: The case is closed, or its mandate has ended: no look-up
                of it would rest on the consent.
            InvalidRequestError: A part of it can't be consented to, or the case knows
                somebody else in the role.
        """
        stored = self._stored(asking.case, caller)
        made = repeat and self.database.read_now(lambda c: idempotency.find(c, repeat))
        if made:
            return await self._read(ConsentId(made))
        head = stored.head
        self._check_askable(head, asking)
        self._check_person(stored, asking.role, person_id)
        if not asking.whole_matter:
            self._check_mandate(stored)
        request = self._request(head, asking, person_id)
        now = self.clock.now()

        def work(connection: Connection) -> tuple[Consent, list[Event]]:
            made = repeat and idempotency.find(connection, repeat)
            if made:
                return store.get(connection, ConsentId(made)), []
            # A case that is being closed ends what it has asked, this as well.
            cases.keep_open(connection, asking.case)
            asked, changed = store.ask(connection, request, now, self.new_id)
            if repeat is not None:
                idempotency.claim(connection, repeat, asked.id, now)
            events = []
            for one in changed:
                if one.state is ConsentState.EXPIRED:
                    due.hasten(connection, one.asked_in, DueId(self.new_id()), now)
                word = one.state.value
                events.append(self._note(connection, one, word, now, person_id))
            return asked, events

        asked, events = await self.database.write(work)
        await self.owed.record(events, self.finish)
        return asked

    async def give(
        self, consent: ConsentId, person_id: str, version: int, terms: store.Terms
    ) -> Consent:
        """Take a person's word that they give a consent as it was shown, or less.

        (1) Decide that it is given, against whatever else is said at this instant; it
            does not hold yet. Giving it twice is once.
        (2) Record it.
        (3) Let it hold, and let the case go on.

        Raises:
            NotFoundError: There is no such request to this person.
            StateConflictError: It can't be given any more, or not as it was shown, or
                was given otherwise.
            InvalidRequestError: The terms widen it, or leave nothing of it.
            LogUnavailableError: It holds as soon as the log can be written again.
        """
        person, now = self._person(person_id), self.clock.now()

        # (1): from here on nobody can refuse what the log is about to say was given.
        def work(connection: Connection) -> None:
            before = store.lock(connection, consent, person)
            giving = store.give(connection, consent, person, version, now, terms)
            if giving.version != before.version:
                self._note(connection, giving, "given", now, person_id)

        await self.database.write(work)
        # (2): before any look-up can rest on it, also where it was said before and cut
        # off. (3): in one transaction with the call for the case's next attempt.
        await self.owed.settle(consent, self.finish)
        return await self._read(consent)

    async def refuse(self, consent: ConsentId, person_id: str) -> Consent:
        """Record that a person refuses; refusing twice is once.

        Raises:
            NotFoundError: There is no such request to this person.
            StateConflictError: It has been answered otherwise, or has run out.
        """
        said = await self._end(consent, person_id, store.refuse, "refused")
        self.wake()
        return said

    async def withdraw(self, consent: ConsentId, person_id: str) -> Consent:
        """Withdraw a consent; returns when nothing rests on it any more.

        Raises:
            NotFoundError: There is no such consent of this person.
            StateConflictError: It was never given, or has run out.
        """
        said = await self._end(consent, person_id, store.withdraw, "withdrawn")
        await drained(consent, self.in_flight, self.database, self.clock)
        self.wake()
        return said

    async def read(self, consent: ConsentId, requester: Slug | None) -> Consent:
        """Return a consent; with `requester`, only one that it asked for.

        Raises:
            NotFoundError: There is no such consent, or it is another's.
        """
        found = await self._read(consent)
        if requester is not None and found.scope.requester != requester:
            raise NotFoundError("there is no such consent")
        return found

    async def of_person(self, person_id: str) -> tuple[Consent, ...]:
        """Return a person's consents in any state, the newest first."""
        person = self._person(person_id)
        return await self.database.read(lambda c: store.find_by_person(c, person))

    async def expire(self) -> int:
        """Mark consents that have run out, and let their cases go on; say how many.

        No decision needs the mark: it is for the record. Who it was is known to the
        case that asked; where that is closed, the record names nobody.
        """
        now = self.clock.now()
        over = await self.database.read(lambda c: store.find_over(c, now))
        people = {one.id: await self._person_of(one) for one in over}

        def work(connection: Connection) -> list[Event]:
            expired = store.expire(connection, now)
            for one in expired:
                due.hasten(connection, one.asked_in, DueId(self.new_id()), now)
            return [
                self._note(connection, one, "expired", now, people.get(one.id))
                for one in expired
            ]

        events = await self.database.write(work)
        await self.owed.record(events, self.finish)
        if events:
            self.wake()
        return len(events)

    def finish(self, connection: Connection, event: Event) -> After | None:
        """Let hold what has been recorded: what was given, or a suspension ended."""
        change = event.kind, event.outcome
        if change == (Kind.CONSENT_CHANGED, "given"):
            return self._hold(connection, ConsentId(event.correlation), event.case)
        if change == (Kind.POLICY_CHANGED, "resumed"):
            name = event.correlation
            if uses.lift(connection, name, event.id):
                return partial(self.in_flight.resume, name)
        return finish_giving(connection, event)

    def _hold(
        self, connection: Connection, consent: ConsentId, case: CaseId | None
    ) -> After | None:
        if not store.confirm(connection, consent):
            return None
        if case is not None:
            now, due_id = self.clock.now(), DueId(self.new_id())
            due.hasten(connection, case, due_id, now)
        return self.wake

    async def record_owed(self) -> None:
        """Record now all that the log is owed, whoever did it.

        Raises:
            LogUnavailableError: The log can't be written.
            StoreUnavailableError: The tables can't be read or written.
        """
        await self.owed.catch_up(timedelta(), self.finish)

    async def keep_up(self, tell: Tell) -> None:
        """Record what was cut off, and let hold what waits for it, until cancelled.

        Args:
            tell: Is told every few seconds how many records are owed.
        """
        await self.owed.keep_up(self.finish, tell)

    # What operators do.

    async def suspend(
        self, kind: Suspendable, thing: Slug, reason: str, operator: Slug
    ) -> Target:
        """Suspend something; returns when no look-up rests on it any more.

        Raises:
            NotFoundError: There is no such thing.
        """
        name, now = self._target(kind, thing), self.clock.now()
        event = self._policy(name, "suspended", operator, {"reason": reason})

        def work(connection: Connection) -> bool:
            step = uses.suspend(connection, name, reason=reason, by=operator, now=now)
            if step is not None:
                self.owed.note(connection, event, step)
            return step is not None

        is_new = await self.database.write(work)
        self.in_flight.suspend(name)
        if is_new:
            await self.owed.record([event], self.finish)
        await drained(name, self.in_flight, self.database, self.clock)
        return name

    async def resume(self, kind: Suspendable, thing: Slug, operator: Slug) -> None:
        """End a suspension; ending it twice is once.

        (1) Decide that it ends, against whoever suspends it anew; it holds meanwhile.
        (2) Record it. (3) Let it end.

        Raises:
            NotFoundError: There is no such thing, or it is not suspended.
            LogUnavailableError: It ends as soon as the log can be written again.
        """
        name = self._target(kind, thing)
        event = self._policy(name, "resumed", operator, {})

        def work(connection: Connection) -> None:
            step = uses.resume(connection, name, event.id)
            if step is not None:
                self.owed.note(connection, event, step)

        # (1): from here on any gateway goes on. (2), (3): also of one that was killed.
        await self.database.write(work)
        await self.owed.settle(name, self.finish)

    # Below: how.

    def _person(self, person_id: str) -> Person:
        return self.vault.person_ref(_PERSON, person_id)

    async def _person_of(self, consent: Consent) -> str | None:
        """Return the id of whoever was asked, if the case knows it and is open."""
        scope, case = consent.scope, consent.asked_in
        stored = await self.database.read(lambda c: cases.find_case(c, case))
        if stored is None:
            return None
        # One that can't be opened names nobody, and is in no other's way.
        with suppress(StateConflictError, VerificationError):
            known = known_person(stored, self.vault, scope.role)
            if known is not None and self._person(known) == scope.person:
                return known
        return None

    def _stored(self, case: CaseId, caller: Caller) -> StoredCase:
        found = self.database.read_now(lambda c: cases.find_case(c, case))
        if found is None or found.head.requester != caller.requester:
            raise NotFoundError("there is no such case")
        caller.require_purpose(found.head.purpose)
        return found

    def _check_person(self, stored: StoredCase, role: Slug, person_id: str) -> None:
        """Refuse to ask a person for whom the case knows another one.

        Raises:
            StateConflictError: The case is closed.
            InvalidRequestError: It knows another one.
        """
        known = known_person(stored, self.vault, role)
        if known is not None and self._person(known) != self._person(person_id):
            message = "the case knows another person in this role"
            raise InvalidRequestError(Complaint("/person/id", message))

    def _check_mandate(self, stored: StoredCase) -> None:
        """Refuse to ask for a case that goes on for no agent any more.

        Raises:
            StateConflictError: Its mandate has ended, or the case is closed.
        """
        mandate = known_mandate(stored, self.vault)
        if mandate is not None:
            found = self.database.read_now(lambda c: mandate_store.find(c, mandate))
            if ended_rule(found, self.clock.now()) is not None:
                raise StateConflictError("the mandate of this case has ended")

    def _request(
        self, head: CaseHead, asking: Asking, person_id: str
    ) -> store.ConsentRequest:
        return store.ConsentRequest(
            scope=ConsentScope(
                person=self._person(person_id),
                role=asking.role,
                requester=head.requester,
                matter=self.pack.matters[head.matter].id,
                purpose=head.purpose,
                case=None if asking.whole_matter else asking.case,
            ),
            asked_in=asking.case,
            fields=asking.fields,
            expires_at=asking.expires_at,
            uses=asking.uses,
        )

    def _check_askable(self, head: CaseHead, asking: Asking) -> None:
        """Refuse to ask for what no grant lets a consent cover.

        Raises:
            InvalidRequestError: Names the evidence types or fields.
        """
        if asking.role not in self.pack.matters[head.matter].roles:
            raise InvalidRequestError(Complaint("/role", "the matter has no such role"))
        wrong = [
            complaint
            for evidence_type, fields in asking.fields.items()
            if (complaint := self._objection(head, asking.role, evidence_type, fields))
        ]
        if wrong:
            raise InvalidRequestError(*wrong)

    def _objection(
        self,
        head: CaseHead,
        role: Slug,
        evidence_type: VersionedId,
        fields: Collection[str] | None,
    ) -> Complaint | None:
        granted = {
            name
            for grant in self.pack.grants.values()
            if grant.requester == head.requester
            and grant.evidence_type == evidence_type
            and _takes_consent(grant, role)
            for name in grant.fields
        }
        path = f"/fields/{evidence_type}"
        if not granted:
            return Complaint(path, "no grant rests on this role's consent to it")
        if not granted.issuperset(fields or ()):
            return Complaint(path, "a field is not granted")
        return None

    async def _read(self, consent: ConsentId) -> Consent:
        return await self.database.read(lambda c: store.get(c, consent))

    async def _end(
        self, consent: ConsentId, person_id: str, end: _Ending, outcome: str
    ) -> Consent:
        """End a consent or a request, at once; what is ended already stays so."""
        person, now = self._person(person_id), self.clock.now()

        def work(connection: Connection) -> tuple[Consent, Event | None]:
            before = store.lock(connection, consent, person)
            said = end(connection, consent, person, now)
            if said.version == before.version:
                return said, None
            due.hasten(connection, said.asked_in, DueId(self.new_id()), now)
            return said, self._note(connection, said, outcome, now, person_id)

        said, event = await self.database.write(work)
        if event is not None:
            # What the log may not have heard yet, that it was given, comes first.
            await self.owed.record([event], self.finish)
        return said

    def _note(
        self,
        connection: Connection,
        consent: Consent,
        outcome: str,
        now: datetime,
        person_id: str | None,
    ) -> Event:
        role = consent.scope.role
        about = () if person_id is None else (Subject(role, _PERSON, person_id),)
        event_id = EventId(self.new_id())
        event = change_of(consent, outcome, now, event_id, self.pack.digest, about)
        return self.owed.note(connection, event, consent.version)

    def _policy(
        self, name: Target, outcome: str, operator: Slug, more: Mapping[str, str]
    ) -> Event:
        return Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=Kind.POLICY_CHANGED,
            outcome=outcome,
            requester=operator,
            policy=self.pack.digest,
            correlation=name,
            details={"target": name, **more},
        )

    def _target(self, kind: Suspendable, thing: Slug) -> Target:
        known: Mapping[Suspendable, Collection[Slug]] = {
            Suspendable.GRANT: self.pack.grants,
            Suspendable.SERVICE: self.pack.services,
            Suspendable.PROVIDER: self.pack.providers,
            Suspendable.REQUESTER: self.pack.requesters,
        }
        if thing not in known[kind]:
            raise NotFoundError(f"there is no such {kind.value}")
        return target(kind, thing)


def _takes_consent(grant: SharingGrant, role: Slug) -> bool:
    basis = grant.bases.get(role)
    return basis is not None and basis.kind is LawfulBasisKind.CONSENT
