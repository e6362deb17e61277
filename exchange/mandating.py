"""Mandates: given and ended, each recorded, and checked whenever an agent acts.

INVARIANT: what an agent opens or adds, and every look-up of an agent's case, is
checked against the mandate as it stands at that moment; nothing is cached. A wrong or
ended mandate asks nobody, opens no case, and leaves a record that names the rule.

INVARIANT (rule 5): when a mandate's end has been acknowledged, no later look-up rests
on it, as on a consent that was withdrawn: each takes a use of it (`consent.uses`).

INVARIANT (rule 8): an agent is a person. The id is in the sealed content of the case
and in the sealed section `actor` of records; tables hold person refs alone.

A mandate that is given is stored with the event that tells of it, and is `giving`
until that is recorded: nobody acts under it. One that is ended stops to hold at once
and is recorded then, since a log that is down must not keep anybody from ending it.
A gateway that is killed in between leaves the record to any (`exchange.owed_records`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from audit.record import Event, Kind, Subject
from audit.writer import AuditLog
from consent import mandate_store
from consent.artefact import Person
from consent.in_flight import InFlight
from consent.mandates import (
    Act,
    Mandate,
    Power,
    Signature,
    check_mandate,
    ended_rule,
)
from consent.rules import Rule
from exchange import cases, due, idempotency
from exchange.case import Agent
from exchange.cases import StoredCase
from exchange.database import Connection, Database
from exchange.fleet import drained
from exchange.giving import Giving, check_giving
from exchange.opened import OpenCase, known_mandate
from exchange.owed_records import After, OwedRecords
from exchange.vault import Vault
from schemas.canonical import Json
from schemas.clock import Clock, to_rfc3339_ms
from schemas.errors import (
    MandateError,
    StateConflictError,
    VerificationError,
)
from schemas.ids import CaseId, DueId, EventId, MandateId, NewId
from schemas.matter import FactType
from schemas.model import Slug
from schemas.validation import Pack

AGENT_ROLE = "agent"
"""The role under which an agent stands in the records of a mandate."""

_PERSON = FactType.CITIZEN_ID.value
_GIVEN = "mandate_given"
_REVOKING = 1
"""The step of a mandate's end: giving it comes before."""
_CHUNK = 20
"""How many cases are looked into in one turn of the loop: some milliseconds."""


def powers_for(*, promises: bool = False) -> frozenset[Power]:
    """Return the powers that opening a case, or adding to it, takes."""
    return frozenset((Power.APPLY, Power.COMMIT) if promises else (Power.APPLY,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandates:
    """Mandates, as they are given, ended and used."""

    pack: Pack
    database: Database
    vault: Vault
    log: AuditLog
    owed: OwedRecords
    in_flight: InFlight
    clock: Clock
    new_id: NewId
    wake: Callable[[], None]
    """Called when cases may go on because a mandate has ended."""

    # What persons do, through the app that has authenticated them.

    async def give(
        self, client: Slug, giving: Giving, repeat: idempotency.RepeatKey | None
    ) -> Mandate:
        """Give a mandate; a request that is repeated gives it once.

        (1) Check it against the packs and the clock.
        (2) Store it, with the event that tells of it; it does not hold yet.
        (3) Record it.
        (4) Let it hold.

        Raises:
            InvalidRequestError: Names every part that can't be given.
            KeyReusedError: The idempotency key came with another request.
            LogUnavailableError: It holds as soon as the log can be written again.
        """
        now = self.clock.now()
        # (1): what comes again may be too old by now, and stands nevertheless.
        made = await self.database.read(lambda c: _made_before(c, repeat))
        if made is not None:
            return await self._recorded(made)
        check_giving(giving, self.pack, now)

        def store(connection: Connection) -> tuple[Mandate, Event | None]:
            # Claimed first, so that two at once choose the same.
            chosen = self._choose_id(connection, repeat, now)
            same = mandate_store.find(connection, chosen)
            if same is not None:
                return same, None
            new = self._mandate(client, giving, chosen, now)
            mandate_store.give(connection, new)
            return new, self.owed.note(connection, self._given(new, giving))

        # (2): from here on any gateway goes on. (3), (4): in one transaction.
        given, event = await self.database.write(store)
        if event is not None:
            await self.owed.record([event], finish_giving)
        return await self._recorded(given)

    async def revoke(self, client: Slug, mandate: MandateId, person_id: str) -> Mandate:
        """End a mandate, as its principal or its agent; ending it twice is once.

        (1) End it, and call for the next attempt of each case that goes on under it.
        (2) Record it.
        (3) Wait until no look-up rests on it any more.

        Raises:
            NotFoundError: There is no such mandate of or to this person.
        """
        person, now = self._person(person_id), self.clock.now()

        def work(connection: Connection) -> tuple[Mandate, Event | None]:
            ended, is_new = mandate_store.revoke(connection, mandate, person, now)
            if not is_new:
                return ended, None
            due.hasten_under(connection, mandate, DueId(self.new_id()), now)
            event = self._revoked(client, ended, person_id)
            return ended, self.owed.note(connection, event, _REVOKING)

        # (1): from here on no use is taken under it, in any gateway.
        ended, event = await self.database.write(work)
        # (2), (3): rule 5, as for a consent that is withdrawn.
        if event is not None:
            # What the log may not have heard yet, that it was given, comes first.
            await self.owed.record([event], finish_giving)
        await drained(mandate, self.in_flight, self.database, self.clock)
        self.wake()
        return ended

    async def read(self, mandate: MandateId) -> Mandate:
        """Return a mandate.

        Raises:
            NotFoundError: There is none of that id.
        """
        return await self.database.read(lambda c: mandate_store.get(c, mandate))

    async def of_person(self, person_id: str) -> tuple[Mandate, ...]:
        """Return the mandates that a person gave or holds, the newest first."""
        person = self._person(person_id)
        return await self.database.read(
            lambda c: mandate_store.find_by_person(c, person)
        )

    async def note_earlier(self) -> int:
        """Note the mandates of cases that an earlier version opened; say of how many.

        Of those whose mandate has ended meanwhile the next attempt is called for.

        Raises:
            StoreUnavailableError: The tables can't be read or written.
        """
        noted, after = 0, CaseId("")
        while found := await self.database.read(
            partial(cases.find_unnoted, after=after, limit=_CHUNK)
        ):
            known = dict(self._known(found))
            await self.database.write(partial(self._note_all, known))
            noted, after = noted + len(known), found[-1].head.id
        return noted

    # What agents do.

    def rule(
        self, case: OpenCase, powers: frozenset[Power] | None = None
    ) -> Rule | None:
        """Return the rule by which nobody may act in a case now; None: go on.

        Args:
            case: Opened by anybody; only an agent's is checked.
            powers: What it takes; None for looking up what was applied for.
        """
        agent = case.content.actor
        if not isinstance(agent, Agent):
            return None
        matter = case.matter
        role = next(name for name, role in matter.roles.items() if role.applicant)
        principal = case.person(role)
        act = Act(
            agent=self._person(agent.id),
            principal=None
            if principal is None
            else self.vault.person_ref(case.namespace(role), principal),
            role=role,
            requester=case.head.requester,
            matter=matter.id,
            powers=powers_for() if powers is None else powers,
        )
        found = self.database.read_now(lambda c: mandate_store.find(c, agent.mandate))
        return check_mandate(found, act, self.clock.now())

    async def admit(
        self, case: OpenCase, powers: frozenset[Power], *, is_stored: bool = True
    ) -> None:
        """Let an agent open a case or add to one, under a mandate that holds.

        Args:
            case: As it would be opened, or as it stands.
            powers: What it takes.
            is_stored: Whether there is such a case already.

        Raises:
            MandateError: The mandate does not let the agent; recorded (rule 2).
        """
        rule = self.rule(case, powers)
        if rule is None:
            return
        event = Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=Kind.REQUEST_DENIED,
            outcome=rule.value,
            requester=case.head.requester,
            policy=self.pack.digest,
            subjects=case.subjects(tuple(case.content.subjects)),
            actor=case.actor,
            case=case.head.id if is_stored else None,
            matter=case.head.matter,
            details={
                "purpose": case.head.purpose,
                "powers": sorted(power.value for power in powers),
                **case.mandate,
            },
        )
        await self.log.append([event])
        raise MandateError(_TOLD.get(rule, _UNKNOWN))

    # Below: how.

    def _known(
        self, found: Iterable[StoredCase]
    ) -> Iterator[tuple[CaseId, MandateId | None]]:
        for stored in found:
            # One that can't be opened has no attempt to call for.
            with suppress(StateConflictError, VerificationError):
                yield stored.head.id, known_mandate(stored, self.vault)

    def _note_all(
        self, known: Mapping[CaseId, MandateId | None], connection: Connection
    ) -> None:
        # Held first: who revokes one at this instant comes before, or finds the case.
        mandates = {mandate for mandate in known.values() if mandate is not None}
        held = mandate_store.hold(connection, mandates)
        for case, mandate in known.items():
            cases.note_mandate(connection, case, mandate)
        now = self.clock.now()
        for mandate in sorted(mandates):
            if ended_rule(held.get(mandate), now) is not None:
                due.hasten_under(connection, mandate, DueId(self.new_id()), now)

    def _person(self, person_id: str) -> Person:
        return self.vault.person_ref(_PERSON, person_id)

    async def _recorded(self, made: Mandate) -> Mandate:
        """Return a mandate once its giving is recorded, also where that was cut off."""
        now = await self.read(made.id)
        if not now.is_giving:
            return now
        await self.owed.settle(made.id, finish_giving)
        return await self.read(made.id)

    def _choose_id(
        self,
        connection: Connection,
        repeat: idempotency.RepeatKey | None,
        now: datetime,
    ) -> MandateId:
        fresh = self.new_id()
        if repeat is None:
            return MandateId(fresh)
        return MandateId(idempotency.claim(connection, repeat, fresh, now))

    def _mandate(
        self, client: Slug, giving: Giving, mandate: MandateId, now: datetime
    ) -> Mandate:
        return Mandate(
            id=mandate,
            principal=self._person(giving.principal),
            role=giving.role,
            agent=self._person(giving.agent),
            requester=giving.requester,
            matters=giving.matters,
            powers=giving.powers,
            valid_from=giving.valid_from,
            valid_until=giving.valid_until,
            given_at=now,
            revoked_at=None,
            is_giving=True,
            signature=Signature(
                client=client, method=giving.method, at=giving.authenticated_at
            ),
        )

    def _given(self, mandate: Mandate, giving: Giving) -> Event:
        return self._changed(
            EventId(mandate.id),
            _GIVEN,
            mandate.signature.client,
            mandate,
            (
                Subject(mandate.role, _PERSON, giving.principal),
                Subject(AGENT_ROLE, _PERSON, giving.agent),
            ),
            {
                "authentication": mandate.signature.method.value,
                "authenticated_at": to_rfc3339_ms(mandate.signature.at),
            },
        )

    def _revoked(self, client: Slug, ended: Mandate, person_id: str) -> Event:
        is_agent = self._person(person_id) == ended.agent
        role = AGENT_ROLE if is_agent else ended.role
        return self._changed(
            EventId(self.new_id()),
            "mandate_revoked",
            client,
            ended,
            (Subject(role, _PERSON, person_id),),
            {"by": "agent" if is_agent else "principal"},
        )

    def _changed(
        self,
        event: EventId,
        outcome: str,
        client: Slug,
        mandate: Mandate,
        subjects: tuple[Subject, ...],
        more: Mapping[str, Json],
    ) -> Event:
        return Event(
            id=event,
            at=self.clock.now(),
            kind=Kind.CONSENT_CHANGED,
            outcome=outcome,
            requester=client,
            policy=self.pack.digest,
            correlation=mandate.id,
            subjects=subjects,
            details={
                "mandate": mandate.id,
                "role": mandate.role,
                "requester": mandate.requester,
                "matters": sorted(mandate.matters),
                "powers": sorted(power.value for power in mandate.powers),
                "valid_from": to_rfc3339_ms(mandate.valid_from),
                "valid_until": to_rfc3339_ms(mandate.valid_until),
                **more,
            },
        )


def finish_giving(connection: Connection, event: Event) -> After | None:
    """Let a mandate hold that was given, once that is recorded."""
    if (event.kind, event.outcome) == (Kind.CONSENT_CHANGED, _GIVEN):
        mandate_store.confirm(connection, MandateId(event.correlation))
    return None


def _made_before(
    connection: Connection, repeat: idempotency.RepeatKey | None
) -> Mandate | None:
    """Return the mandate that the same request has given before."""
    made = None if repeat is None else idempotency.find(connection, repeat)
    return None if made is None else mandate_store.find(connection, MandateId(made))


_UNKNOWN = "there is no such mandate of this applicant to this agent here"
"""One message for all of another's mandates, so that nobody learns of them."""
_TOLD: Mapping[Rule, str] = {
    Rule.MANDATE_MATTER_OUTSIDE: "the mandate is for other matters",
    Rule.MANDATE_POWER_OUTSIDE: "the mandate does not give the power that this takes",
    Rule.MANDATE_NOT_YET_VALID: "the mandate does not hold yet",
    Rule.MANDATE_EXPIRED: "the mandate's period has ended",
    Rule.MANDATE_REVOKED: "the mandate was revoked",
}
