"""Every look-up of a plan, decided before any is made.

INVARIANT (rule 3): the whole plan is decided before the first look-up, so that a
partial refusal tells nobody anything. A look-up about a person whom only an earlier
wave reveals is decided by role and fields first, and again with that person known.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, TypeAlias

from audit.record import Event, Kind, Subject
from consent import store
from consent.artefact import Consent, ConsentScope, Person
from consent.decision import Examined, examine
from consent.in_flight import InFlight
from consent.uses import grant_uses
from consent.verdict import (
    ConsentNeeded,
    Decision,
    LookupTerms,
    MissingConsent,
    Moment,
    Permit,
    Refuse,
)
from exchange import cases
from exchange.approval import Approved, approve, choose_service
from exchange.database import Connection, Database
from exchange.mandating import Mandates
from exchange.opened import OpenCase
from exchange.owed_records import OwedRecords
from exchange.plan import Lookup
from exchange.vault import Vault
from schemas.clock import Clock, day_in_beijing
from schemas.directory import DataService, Quota, SharingGrant
from schemas.ids import ConsentId, EventId, NewId
from schemas.model import Slug
from schemas.validation import Pack

PREPARED_KEPT = 4_096
"""Most look-ups that are kept held against the grants; the oldest goes first."""

_PreparedFor: TypeAlias = tuple[Lookup, Slug, Slug, Slug, Slug]
"""A look-up with its service, requester, matter and purpose."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A look-up of a plan, held against the grants: the same for every case."""

    lookup: Lookup
    service: DataService
    examined: Examined
    duties: Mapping[Slug, Approved]
    """By grant, what is approved where it permits the look-up under a duty alone."""


class Decided(NamedTuple):
    """One look-up with its service and the decision about it."""

    prepared: Prepared
    decision: Decision

    @property
    def lookup(self) -> Lookup:
        """The look-up."""
        return self.prepared.lookup

    @property
    def service(self) -> DataService:
        """The service that would be asked."""
        return self.prepared.service


@dataclass(frozen=True, slots=True)
class AskedConsent:
    """A consent that a person was asked for and has not answered."""

    id: ConsentId
    expires_at: datetime | None
    """When the request lapses."""


_Waiting: TypeAlias = list[tuple[Decided, MissingConsent]]
"""Look-ups that wait for one person, and what each lacks of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Decides look-ups by grants, consents, suspensions and quotas."""

    pack: Pack
    database: Database
    vault: Vault
    in_flight: InFlight
    mandates: Mandates
    owed: OwedRecords
    clock: Clock
    new_id: NewId
    consent_lifetime: timedelta
    grants: Mapping[tuple[str, str], tuple[SharingGrant, ...]]
    """Requester and evidence type → the grants between them."""
    _prepared: dict[_PreparedFor, Prepared] = field(default_factory=dict, init=False)

    def decide(
        self, case: OpenCase, lookups: Iterable[Lookup], now: datetime
    ) -> dict[str, Decided | None]:
        """Decide look-ups; None stands for one whose region nobody covers.

        (1) Choose the competent service of each.
        (2) Read what the persons concerned have said, and what quotas are used.
        (3) Decide each alone.
        """
        # (1): a service whose region is not known yet is decided for the first.
        prepared: dict[str, Prepared | None] = {}
        for lookup in lookups:
            service = self._service(case, lookup, now)
            prepared[lookup.id] = (
                None if service is None else self._prepare(case, lookup, service)
            )
        # (2): one read for all of them, and none where nothing turns on it.
        moment = self._moment(case, [p for p in prepared.values() if p], now)
        # (3): one refusal changes nothing for the others; a mandate that has ended
        # carries none of them.
        ended = self.mandates.rule(case)
        decided: dict[str, Decided | None] = dict.fromkeys(prepared)
        for name, one in prepared.items():
            if one is not None:
                decision = one.examined.decide(moment)
                decided[name] = Decided(one, Refuse(ended, None) if ended else decision)
        return decided

    def approve(self, decided: Decided, permit: Permit) -> Approved:
        """Return a permitted look-up, ready to be made."""
        one = decided.prepared
        kept = one.duties.get(permit.grant)
        if kept is not None and kept.permit is permit:
            return kept
        return approve(self.pack, one.lookup, one.service, permit, one.examined.terms)

    async def ask_consents(
        self, case: OpenCase, decided: Iterable[Decided]
    ) -> dict[str, dict[str, AskedConsent]]:
        """Ask every person whose consent is missing, once for all that is missing.

        Returns:
            Look-up → role → the consent that was asked for.
        """
        wanted: dict[str, dict[str, AskedConsent]] = {}
        requests: dict[tuple[str, str], _Waiting] = {}
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
        if requests:
            consents = await self._ask(case, list(requests.values()))
            for consent, waiting in zip(consents, requests.values(), strict=True):
                new = AskedConsent(consent.id, consent.expires_at)
                for one, missing in waiting:
                    wanted.setdefault(one.lookup.id, {})[missing.role] = new
        return wanted

    async def _ask(self, case: OpenCase, persons: Sequence[_Waiting]) -> list[Consent]:
        """Ask persons in one transaction, with the events that tell of it.

        The log hears of them with what it hears next of the case, before anybody is
        asked for anything; where that is cut off, any gateway records what is owed.
        """
        now = self.clock.now()
        requests = [self._request(case, waiting, now) for waiting in persons]

        def ask(connection: Connection) -> tuple[list[Consent], list[Event]]:
            # A case that is being closed ends what it has asked, this as well.
            cases.keep_open(connection, case.head.id)
            consents: list[Consent] = []
            events: list[Event] = []
            for request in requests:
                consent, changed = store.ask(connection, request, now, self.new_id)
                consents.append(consent)
                for one in changed:
                    event = self._changed(case, one, now)
                    events.append(self.owed.note(connection, event, one.version))
            return consents, events

        # From here on the persons can be shown it, whatever becomes of this run.
        consents, events = await self.database.write(ask)
        case.unrecorded += events
        case.owed += [event.id for event in events]
        return consents

    def _request(
        self, case: OpenCase, waiting: _Waiting, now: datetime
    ) -> store.ConsentRequest:
        """Return what one person is asked, for all that waits for it."""
        missing = waiting[0][1]
        return store.ConsentRequest(
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

    def _changed(self, case: OpenCase, consent: Consent, now: datetime) -> Event:
        """Return the event of a request: made or widened, or run out."""
        role = consent.scope.role
        person = case.person(role)
        subjects = (
            () if person is None else (Subject(role, case.namespace(role), person),)
        )
        return Event(
            id=EventId(self.new_id()),
            at=now,
            kind=Kind.CONSENT_CHANGED,
            outcome=consent.state.value,
            requester=case.head.requester,
            policy=self.pack.digest,
            correlation=consent.id,
            subjects=subjects,
            actor=case.actor,
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
        if region is None or region not in case.content.facts:
            return self.pack.services[lookup.services[0]]
        return choose_service(case, lookup, self.pack.services, day_in_beijing(now))

    def _prepare(
        self, case: OpenCase, lookup: Lookup, service: DataService
    ) -> Prepared:
        """Return a look-up held against the grants, made now or kept.

        INVARIANT (rule 5): nothing that can change while the gateway runs is kept: no
        instant, person, consent, suspension or count.
        """
        head, matter = case.head, case.matter.id
        key = (lookup, service.id, head.requester, matter, head.purpose)
        kept = self._prepared.get(key)
        if kept is None:
            if len(self._prepared) == PREPARED_KEPT:
                del self._prepared[next(iter(self._prepared))]
            terms = LookupTerms(
                evidence_type=lookup.evidence_type,
                mode=lookup.mode,
                fields=lookup.all_fields,
                requester=head.requester,
                matter=matter,
                purpose=head.purpose,
                service=service.id,
                provider=service.provider,
            )
            kept = self._prepared[key] = self._held_against(lookup, service, terms)
        return kept

    def _held_against(
        self, lookup: Lookup, service: DataService, terms: LookupTerms
    ) -> Prepared:
        grants = self.grants.get((terms.requester, terms.evidence_type), ())
        examined = examine(terms, (lookup.about, *lookup.concerns), grants)
        duties = {
            permit.grant: approve(self.pack, lookup, service, permit, terms)
            for permit in examined.permits
        }
        return Prepared(lookup, service, examined, duties)

    def _moment(
        self, case: OpenCase, prepared: Collection[Prepared], now: datetime
    ) -> Moment:
        """Read what is decided by anew each time."""
        roles = {role for one in prepared for role in one.examined.consenting}
        quotas = {g: q for one in prepared for g, q in one.examined.quotas.items()}
        persons = {role: self._person(case, role) for role in roles}
        return Moment(
            case=case.head.id,
            persons=persons,
            consents=self._consents(case, persons.values()),
            suspended=self.in_flight.suspended,
            used=self._used(quotas, now),
            now=now,
        )

    def _person(self, case: OpenCase, role: str) -> str | None:
        person = case.person(role)
        if person is None:
            return None
        return self.vault.person_ref(case.namespace(role), person)

    def _consents(
        self, case: OpenCase, persons: Iterable[Person | None]
    ) -> tuple[Consent, ...]:
        known = {person for person in persons if person is not None}
        if not known:
            return ()
        requester, matter = case.head.requester, case.matter.id
        return self.database.read_now(
            lambda c: store.find_for_decision(c, known, requester, matter)
        )

    def _used(self, quotas: Mapping[Slug, Quota], now: datetime) -> Mapping[Slug, int]:
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


def _united_fields(lookups: Iterable[Lookup]) -> dict[str, frozenset[str]]:
    """Return all that look-ups ask for, by evidence type."""
    united: dict[str, frozenset[str]] = {}
    for lookup in lookups:
        before = united.get(lookup.evidence_type, frozenset())
        united[lookup.evidence_type] = before | lookup.all_fields
    return united
