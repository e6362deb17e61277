"""What persons allow and operators suspend: each change stored, recorded, acknowledged.

INVARIANT (rule 5): when a withdrawal or a suspension has been acknowledged, no later
look-up rests on it: the call returns only when every use that was taken before has
been sent or cancelled.

INVARIANT (rules 1 and 2): what widens, a consent given or a suspension ended, is
recorded before it holds; what narrows holds at once and is recorded then, since a
log that is down must not keep anybody from withdrawing. Each of these may be repeated
until its record stands.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from audit.record import Event, Kind, Subject
from audit.writer import AuditLog
from consent import replicas, store, uses
from consent.artefact import Consent, ConsentFields, ConsentScope, Person
from consent.in_flight import InFlight
from consent.rules import Suspendable, Target, target
from exchange import cases, due, idempotency
from exchange.case import CaseHead
from exchange.database import Connection, Database
from exchange.token_request import Caller
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.directory import LawfulBasisKind, SharingGrant
from schemas.errors import Complaint, InvalidRequestError, NotFoundError
from schemas.ids import CaseId, ConsentId, DueId, EventId, NewId
from schemas.matter import FactType
from schemas.model import Slug, VersionedId
from schemas.validation import Pack

_PERSON = FactType.CITIZEN_ID.value
"""The kind of id by which persons are known (`OpenCase.namespace`)."""
_POLL_S = 0.02
"""How often uses that another process took are looked at, in seconds."""


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
    log: AuditLog
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
            InvalidRequestError: A part of it can't be consented to.
        """
        head = self._head(asking.case, caller)
        self._check_askable(head, asking)
        matter = self.pack.matters[head.matter]
        request = store.ConsentRequest(
            scope=ConsentScope(
                person=self._person(person_id),
                role=asking.role,
                requester=head.requester,
                matter=matter.id,
                purpose=head.purpose,
                case=None if asking.whole_matter else asking.case,
            ),
            asked_in=asking.case,
            fields=asking.fields,
            expires_at=asking.expires_at,
            uses=asking.uses,
        )
        now = self.clock.now()

        def work(connection: Connection) -> Consent:
            made = repeat and idempotency.find(connection, repeat)
            if made:
                return store.get(connection, ConsentId(made))
            asked = store.ask(connection, request, now, self.new_id)
            if repeat is not None:
                idempotency.claim(connection, repeat, asked.id, now)
            return asked

        asked = await self.database.write(work)
        await self._record(asked, "asked", person_id)
        return asked

    async def give(
        self, consent: ConsentId, person_id: str, version: int, terms: store.Terms
    ) -> Consent:
        """Record that a person gives a consent as it was shown, or less.

        (1) See that it can be given, and undo that.
        (2) Record it.
        (3) Give it, and let the case go on.

        Raises:
            NotFoundError: There is no such request to this person.
            StateConflictError: It can't be given, or not so.
        """
        person, now = self._person(person_id), self.clock.now()
        give = partial(
            store.give,
            consent=consent,
            person=person,
            version=version,
            now=now,
            terms=terms,
        )
        # (1): the log must not say that something was given that could not be.
        await self._rehearse(give)
        # (2): before any look-up can rest on it.
        before = await self._read(consent)
        await self._record(before, "given", person_id)
        # (3): in one transaction with the call for the case's next attempt.
        given = await self.database.write(lambda c: self._go_on(c, give(c), now))
        self.wake()
        return given

    async def refuse(self, consent: ConsentId, person_id: str) -> Consent:
        """Record that a person refuses; refusing twice is once.

        Raises:
            NotFoundError: There is no such request to this person.
            StateConflictError: It has been answered otherwise, or has run out.
        """
        person, now = self._person(person_id), self.clock.now()
        refused = await self.database.write(
            lambda c: self._go_on(c, store.refuse(c, consent, person, now), now)
        )
        await self._record(refused, "refused", person_id)
        self.wake()
        return refused

    async def withdraw(self, consent: ConsentId, person_id: str) -> Consent:
        """Withdraw a consent; returns when nothing rests on it any more.

        Raises:
            NotFoundError: There is no such consent of this person.
            StateConflictError: It was never given, or has run out.
        """
        person, now = self._person(person_id), self.clock.now()
        withdrawn = await self.database.write(
            lambda c: self._go_on(c, store.withdraw(c, consent, person, now), now)
        )
        await self._record(withdrawn, "withdrawn", person_id)
        await self._drained(consent)
        self.wake()
        return withdrawn

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

        No decision needs the mark: it is for the record. Who it was is not known
        here, so the record names the consent and the case alone.
        """
        now = self.clock.now()

        def work(connection: Connection) -> tuple[Consent, ...]:
            expired = store.expire(connection, now)
            for one in expired:
                self._go_on(connection, one, now)
            return expired

        expired = await self.database.write(work)
        for one in expired:
            await self._record(one, "expired", None)
        if expired:
            self.wake()
        return len(expired)

    # What operators do.

    async def suspend(
        self, kind: Suspendable, thing: Slug, reason: str, operator: Slug
    ) -> Target:
        """Suspend something; returns when no look-up rests on it any more.

        Raises:
            NotFoundError: There is no such thing.
        """
        name, now = self._target(kind, thing), self.clock.now()
        await self.database.write(
            lambda c: uses.suspend(c, name, reason=reason, by=operator, now=now)
        )
        self.in_flight.suspend(name)
        await self._record_policy(name, "suspended", operator, {"reason": reason})
        await self._drained(name)
        return name

    async def resume(self, kind: Suspendable, thing: Slug, operator: Slug) -> None:
        """End a suspension.

        Raises:
            NotFoundError: There is no such thing, or it is not suspended.
        """
        name = self._target(kind, thing)
        if name not in self.in_flight.suspended:
            raise NotFoundError("this is not suspended")
        await self._record_policy(name, "resumed", operator, {})
        await self.database.write(lambda c: uses.resume(c, name))
        self.in_flight.resume(name)

    # Below: how.

    def _person(self, person_id: str) -> Person:
        return self.vault.person_ref(_PERSON, person_id)

    def _head(self, case: CaseId, caller: Caller) -> CaseHead:
        found = self.database.read_now(lambda c: cases.find_case(c, case))
        if found is None or found.head.requester != caller.requester:
            raise NotFoundError("there is no such case")
        caller.require_purpose(found.head.purpose)
        return found.head

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

    async def _rehearse(self, work: Callable[[Connection], Consent]) -> None:
        """Do it and undo it, so that all it could raise is raised before its record."""

        def undone(connection: Connection) -> None:
            work(connection)
            raise _UndoneError

        try:
            await self.database.write(undone)
        except _UndoneError:
            return

    def _go_on(self, connection: Connection, said: Consent, now: datetime) -> Consent:
        """Call for an attempt at the case that asked."""
        due.hasten(connection, said.asked_in, DueId(self.new_id()), now)
        return said

    async def _drained(self, thing: ConsentId | Target) -> None:
        """Wait until no look-up that is under way, in any gateway, rests on it."""
        await self.in_flight.drained(thing)
        while await self._is_open(thing):  # noqa: ASYNC110 - rows of any process
            await asyncio.sleep(_POLL_S)

    async def _is_open(self, thing: ConsentId | Target) -> bool:
        """Tell whether a gateway may still send what rests on the thing.

        Uses of consents stand in rows. For look-ups under a duty each gateway has a
        register of its own, and says when it has heard of a suspension.
        """
        now = self.clock.now()
        return await self.database.read(
            lambda c: bool(uses.open_uses(c, thing, now)) or replicas.behind(c)
        )

    async def _record(
        self, consent: Consent, outcome: str, person_id: str | None
    ) -> None:
        scope = consent.scope
        about = () if person_id is None else (_subject(scope.role, person_id),)
        event = Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=Kind.CONSENT_CHANGED,
            outcome=outcome,
            requester=scope.requester,
            policy=self.pack.digest,
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
        await self.log.append([event])

    async def _record_policy(
        self, name: Target, outcome: str, operator: Slug, more: Mapping[str, str]
    ) -> None:
        event = Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=Kind.POLICY_CHANGED,
            outcome=outcome,
            requester=operator,
            policy=self.pack.digest,
            correlation=name,
            details={"target": name, **more},
        )
        await self.log.append([event])

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


class _UndoneError(Exception):
    """A rehearsal is over."""


def _subject(role: Slug, person_id: str) -> Subject:
    return Subject(role, _PERSON, person_id)


def _takes_consent(grant: SharingGrant, role: Slug) -> bool:
    basis = grant.bases.get(role)
    return basis is not None and basis.kind is LawfulBasisKind.CONSENT
