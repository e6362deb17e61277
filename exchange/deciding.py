"""Every look-up of a plan, decided before any is made.

INVARIANT (rule 3): the whole plan is decided before the first look-up, so that a
partial refusal tells nobody anything. A look-up about a person whom only an earlier
wave reveals is decided by role and fields first, and again with that person known.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial

from audit.record import Event, Kind, Subject
from consent import store
from consent.artefact import Consent, ConsentScope
from consent.decision import (
    ConsentNeeded,
    Decision,
    MissingConsent,
    ProposedLookup,
    Refuse,
    decide,
)
from consent.in_flight import InFlight
from consent.uses import grant_uses
from exchange.asking import choose_service
from exchange.database import Database
from exchange.mandating import Mandates
from exchange.opened import OpenCase
from exchange.plan import Lookup, Plan
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.directory import DataService, LawfulBasisKind, SharingGrant
from schemas.ids import ConsentId, EventId, NewId
from schemas.validation import Pack


@dataclass(frozen=True, slots=True)
class Decided:
    """One look-up with its service and the decision about it."""

    lookup: Lookup
    service: DataService
    decision: Decision


@dataclass(frozen=True, slots=True)
class AskedConsent:
    """A consent that a person was asked for and has not answered."""

    id: ConsentId
    expires_at: datetime | None
    """When the request lapses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Decides look-ups by grants, consents, suspensions and quotas."""

    pack: Pack
    database: Database
    vault: Vault
    in_flight: InFlight
    mandates: Mandates
    clock: Clock
    new_id: NewId
    consent_lifetime: timedelta
    grants: Mapping[tuple[str, str], tuple[SharingGrant, ...]]
    """Requester and evidence type → the grants between them."""

    def decide(
        self, case: OpenCase, lookups: Iterable[Lookup]
    ) -> dict[str, Decided | None]:
        """Decide look-ups; None stands for one whose region nobody covers.

        (1) Choose the competent service of each.
        (2) Read what the persons concerned have said, and what quotas are used.
        (3) Decide each alone.
        """
        now = self.clock.now()
        # (1): a service whose region is not known yet is decided for the first.
        services = {lookup.id: self._service(case, lookup, now) for lookup in lookups}
        # A person's reference costs a keyed hash: one for each role is enough.
        person = cache(partial(self._person, case))
        proposed = {
            lookup.id: self._proposed(case, lookup, service, person)
            for lookup in lookups
            if (service := services[lookup.id]) is not None
        }
        # (2): one read for all of them, and none where nothing turns on it.
        consents = self._consents(case, proposed.values())
        used = self._used(proposed.values(), now)
        # (3): one refusal changes nothing for the others; a mandate that has ended
        # carries none of them.
        ended = self.mandates.rule(case)
        decided: dict[str, Decided | None] = {}
        for lookup in lookups:
            service = services[lookup.id]
            if service is None:
                decided[lookup.id] = None
                continue
            decision: Decision = decide(
                proposed[lookup.id],
                self._grants(case, lookup),
                consents,
                self.in_flight.suspended,
                used,
                now,
            )
            if ended is not None:
                decision = Refuse(ended, None)
            decided[lookup.id] = Decided(lookup, service, decision)
        return decided

    async def ask_consents(
        self, case: OpenCase, decided: Iterable[Decided]
    ) -> dict[str, dict[str, AskedConsent]]:
        """Ask every person whose consent is missing, once for all that is missing.

        Returns:
            Look-up → role → the consent that was asked for.
        """
        wanted: dict[str, dict[str, AskedConsent]] = {}
        requests: dict[tuple[str, str], list[tuple[Decided, MissingConsent]]] = {}
        for one in decided:
            if not isinstance(one.decision, ConsentNeeded):
                continue
            for missing in one.decision.missing:
                if missing.consent is not None:
                    known = AskedConsent(missing.consent, missing.expires_at)
                    wanted.setdefault(one.lookup.id, {})[missing.role] = known
                else:
                    key = (missing.role, missing.person)
                    requests.setdefault(key, []).append((one, missing))
        for waiting in requests.values():
            consent = await self._ask_consent(case, waiting)
            for one, missing in waiting:
                new = AskedConsent(consent.id, consent.expires_at)
                wanted.setdefault(one.lookup.id, {})[missing.role] = new
        return wanted

    async def _ask_consent(
        self, case: OpenCase, waiting: list[tuple[Decided, MissingConsent]]
    ) -> Consent:
        now, missing = self.clock.now(), waiting[0][1]
        request = store.ConsentRequest(
            scope=ConsentScope(
                person=missing.person,
                role=missing.role,
                requester=case.head.requester,
                matter=case.matter.id,
                purpose=case.head.purpose,
                case=case.head.id,
            ),
            asked_in=case.head.id,
            fields=_united_fields(one.lookup for one, _ in waiting),
            expires_at=now + self.consent_lifetime,
            uses=None,
        )
        consent = await self.database.write(
            lambda c: store.ask(c, request, now, self.new_id)
        )
        case.unrecorded.append(self._asked(case, consent, now))
        return consent

    def _asked(self, case: OpenCase, consent: Consent, now: datetime) -> Event:
        role = consent.scope.role
        person = case.person(role)
        subjects = (
            () if person is None else (Subject(role, case.namespace(role), person),)
        )
        return Event(
            id=EventId(self.new_id()),
            at=now,
            kind=Kind.CONSENT_CHANGED,
            outcome="asked",
            requester=case.head.requester,
            policy=self.pack.digest,
            correlation=consent.id,
            subjects=subjects,
            actor=case.actor(),
            case=case.head.id,
            matter=case.head.matter,
            details={
                "role": role,
                "purpose": consent.scope.purpose,
                "evidence_types": list(consent.evidence_types),
            },
        )

    def _service(
        self, case: OpenCase, lookup: Lookup, now: datetime
    ) -> DataService | None:
        region = lookup.region
        if region is not None and region not in case.content.facts:
            return self.pack.services[lookup.services[0]]
        return choose_service(case, lookup, self.pack.services, now.date())

    def _grants(self, case: OpenCase, lookup: Lookup) -> tuple[SharingGrant, ...]:
        return self.grants.get((case.head.requester, lookup.evidence_type), ())

    def _proposed(
        self,
        case: OpenCase,
        lookup: Lookup,
        service: DataService,
        person: Callable[[str], str | None],
    ) -> ProposedLookup:
        return ProposedLookup(
            evidence_type=lookup.evidence_type,
            mode=lookup.mode,
            fields=frozenset(_fields(lookup)),
            subjects={role: person(role) for role in (lookup.about, *lookup.concerns)},
            requester=case.head.requester,
            matter=case.matter.id,
            purpose=case.head.purpose,
            case=case.head.id,
            service=service.id,
            provider=service.provider,
        )

    def _person(self, case: OpenCase, role: str) -> str | None:
        person = case.person(role)
        if person is None:
            return None
        return self.vault.person_ref(case.namespace(role), person)

    def _consents(
        self, case: OpenCase, proposed: Iterable[ProposedLookup]
    ) -> tuple[Consent, ...]:
        persons = {
            person
            for lookup in proposed
            for grant in self.grants.get((lookup.requester, lookup.evidence_type), ())
            for role, basis in grant.bases.items()
            if basis.kind is LawfulBasisKind.CONSENT
            and (person := lookup.subjects.get(role)) is not None
        }
        if not persons:
            return ()
        requester, matter = case.head.requester, case.matter.id
        return self.database.read_now(
            lambda c: store.find_for_decision(c, persons, requester, matter)
        )

    def _used(
        self, proposed: Iterable[ProposedLookup], now: datetime
    ) -> Mapping[str, int]:
        quotas = {
            grant.id: grant.quota
            for lookup in proposed
            for grant in self.grants.get((lookup.requester, lookup.evidence_type), ())
            if grant.quota is not None
        }
        if not quotas:
            return {}
        return self.database.read_now(lambda c: grant_uses(c, quotas, now))


def by_parties(
    grants: Collection[SharingGrant],
) -> dict[tuple[str, str], tuple[SharingGrant, ...]]:
    """Return grants by requester and evidence type: made once, at start-up."""
    found: dict[tuple[str, str], list[SharingGrant]] = {}
    for grant in grants:
        found.setdefault((grant.requester, grant.evidence_type), []).append(grant)
    return {parties: tuple(some) for parties, some in found.items()}


def undecided(plan: Plan, settled: Collection[str]) -> tuple[Lookup, ...]:
    """Return the look-ups of a plan that nothing is known about yet."""
    return tuple(one for one in plan.lookups.values() if one.id not in settled)


def _united_fields(lookups: Iterable[Lookup]) -> dict[str, frozenset[str]]:
    """Return all that look-ups ask for, by evidence type."""
    united: dict[str, frozenset[str]] = {}
    for lookup in lookups:
        before = united.get(lookup.evidence_type, frozenset())
        united[lookup.evidence_type] = before.union(_fields(lookup))
    return united


def _fields(lookup: Lookup) -> tuple[str, ...]:
    return (*lookup.fields, *lookup.match)
