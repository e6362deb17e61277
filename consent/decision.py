"""May this look-up be made, by them, for this, now: decided, and never performed.

`decide` is pure. It knows the grants, what the persons have said, what is suspended
and what time it is, and it answers with one of four values, each of which names the
rule that decided. Order of the arguments' contents never matters.

SOURCE: PIPL articles 6 (necessity), 13 (lawful bases), 14 to 16 (consent); Decree 809
articles 20 and 25 (a grant's range, purpose and mode). `schemas.directory.SharingGrant`
holds what was granted; `consent.artefact.Consent` what a person said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import assert_never

from consent.artefact import Consent, ConsentState, Person
from consent.rules import Rule, Suspendable, Target, suspension_rule, target
from consent.verdict import (
    ConsentNeeded,
    Decision,
    LookupTerms,
    MissingConsent,
    Moment,
    Permit,
    ProposedLookup,
    Provisional,
    Refuse,
    RoleBasis,
)
from schemas.directory import LawfulBasisKind, Quota, SharingGrant
from schemas.model import Slug


@dataclass(frozen=True, slots=True)
class Examined:
    """What grants say of a look-up at any time and whoever it is about.

    It holds no person, no consent, no suspension and no instant: these are looked at
    in `decide`, each time anew. So it may be kept and used for many cases.
    """

    terms: LookupTerms
    parties: frozenset[Target]
    """Who asks, who would be asked, and through which service."""
    grants: tuple["_Standing", ...]
    """One for each grant to this requester of this evidence type."""
    consenting: frozenset[Slug]
    """Roles whose person is heard under some grant: nobody else needs be known."""
    quotas: Mapping[Slug, Quota]
    """By grant, where it has one."""

    @property
    def permits(self) -> tuple[Permit, ...]:
        """What grants permit under a duty alone, while they are valid."""
        return tuple(one.permit for one in self.grants if one.permit is not None)

    def decide(self, moment: "Moment") -> Decision:
        """Decide one look-up; its steps are those of the function `decide`."""
        # (1): before any grant is read, since no grant outweighs it.
        if moment.suspended:
            stopped = suspension_rule(self.parties, moment.suspended)
            if stopped is not None:
                return Refuse(stopped, None)
        # (2): grants to others say nothing here.
        if not self.grants:
            return Refuse(Rule.NO_GRANT, None)
        # (3): alone, since the parts of two grants don't add up to a third.
        decisions = [_decide_under(one, self.terms, moment) for one in self.grants]
        # (4): ids break ties, so that the order of the grants never shows.
        return decisions[0] if len(decisions) == 1 else min(decisions, key=_preference)


@dataclass(frozen=True, slots=True)
class _Standing:
    """One grant, held against the terms of a look-up."""

    grant: SharingGrant
    name: Target
    """Under which it would be suspended."""
    beyond: Refuse | None
    """Why the look-up lies outside the grant at any time; None when it does not."""
    duties: Mapping[Slug, RoleBasis]
    """The roles that rest on a duty: no person is heard for them."""
    consenting: tuple[Slug, ...]
    """The roles that rest on consent, in order."""
    permit: Permit | None
    """What is permitted where every role rests on a duty: the same for everybody."""


def decide(
    lookup: ProposedLookup,
    grants: Iterable[SharingGrant],
    consents: Iterable[Consent],
    suspended: frozenset[Target],
    used: Mapping[Slug, int],
    now: datetime,
) -> Decision:
    """Decide one look-up.

    (1) What is suspended is asked nothing and asks nothing.
    (2) Take the grants to this requester of this evidence type.
    (3) Decide under each of them alone.
    (4) Answer the best: a permit before a provisional one, before a consent to be
        asked for, before a refusal. Among permits the one that spends fewest consents.

    Args:
        lookup: What is to be asked.
        grants: Any grants; only those to this requester of this type count.
        consents: Any consents, in any state; only those of the subjects count.
        suspended: Everything that is suspended.
        used: Look-ups made in the current period under each grant with a quota.
        now: The instant for which it is decided.
    """
    moment = Moment(
        case=lookup.case,
        persons=lookup.subjects,
        consents=tuple(consents),
        suspended=suspended,
        used=used,
        now=now,
    )
    return examine(lookup, lookup.subjects, grants).decide(moment)


def examine(
    terms: LookupTerms, roles: Iterable[Slug], grants: Iterable[SharingGrant]
) -> Examined:
    """Hold grants against what is asked: the part of `decide` that turns on no person.

    Args:
        terms: What is to be asked.
        roles: The role whom it is about and every role whom it concerns.
        grants: Any grants.
    """
    about = frozenset(roles)
    standings = tuple(
        _examined(grant, terms, about)
        for grant in grants
        if grant.requester == terms.requester
        and grant.evidence_type == terms.evidence_type
    )
    parties = (
        target(Suspendable.REQUESTER, terms.requester),
        target(Suspendable.PROVIDER, terms.provider),
        target(Suspendable.SERVICE, terms.service),
    )
    return Examined(
        terms,
        frozenset(parties),
        standings,
        frozenset(role for one in standings for role in one.consenting),
        {s.grant.id: s.grant.quota for s in standings if s.grant.quota is not None},
    )


def _examined(
    grant: SharingGrant, terms: LookupTerms, roles: frozenset[Slug]
) -> _Standing:
    """Hold one grant against what is asked."""
    name = target(Suspendable.GRANT, grant.id)
    beyond = _beyond(grant, terms, roles)
    if beyond is not None:
        return _Standing(grant, name, beyond, {}, (), None)
    consenting = tuple(
        role
        for role in sorted(roles)
        if grant.bases[role].kind is LawfulBasisKind.CONSENT
    )
    duties = {r: RoleBasis(grant.bases[r]) for r in roles.difference(consenting)}
    permit = None if consenting else _permitted(grant, duties)
    return _Standing(grant, name, None, duties, consenting, permit)


def _decide_under(standing: _Standing, terms: LookupTerms, moment: Moment) -> Decision:
    """Decide under one grant alone.

    (1) Whatever lies outside the grant is refused.
    (2) So is what the grant can't give any more: suspended, or its quota used up.
    (3) Then each role that rests on consent needs its person's.
    """
    grant, now = standing.grant, moment.now
    # (1): what was never granted is no question of quota or consent.
    if now >= grant.valid_until:
        return Refuse(Rule.GRANT_EXPIRED, grant.id)
    if now < grant.valid_from:
        return Refuse(Rule.GRANT_NOT_YET_VALID, grant.id)
    if standing.beyond is not None:
        return standing.beyond
    # (2): the same for every person, so no person is asked in vain.
    if standing.name in moment.suspended:
        return Refuse(Rule.GRANT_SUSPENDED, grant.id)
    if grant.quota is not None and moment.used.get(grant.id, 0) >= grant.quota.lookups:
        return Refuse(Rule.QUOTA_USED_UP, grant.id)
    # (3): last, since it may have to be asked for.
    return standing.permit or _decide_roles(standing, terms, moment)


def _beyond(
    grant: SharingGrant, terms: LookupTerms, roles: frozenset[Slug]
) -> Refuse | None:
    """Return the first rule by which the look-up lies outside the grant at any time."""
    if terms.matter not in grant.matters:
        return Refuse(Rule.MATTER_NOT_GRANTED, grant.id, (terms.matter,))
    if terms.purpose not in grant.purposes:
        return Refuse(Rule.PURPOSE_NOT_GRANTED, grant.id, (terms.purpose,))
    return _too_much(grant, terms, roles)


def _too_much(
    grant: SharingGrant, terms: LookupTerms, roles: frozenset[Slug]
) -> Refuse | None:
    """Return the first rule by which the look-up asks for more than was granted."""
    if terms.mode not in grant.modes:
        return Refuse(Rule.MODE_NOT_GRANTED, grant.id, (terms.mode.value,))
    if fields := terms.fields.difference(grant.fields):
        return Refuse(Rule.FIELD_NOT_GRANTED, grant.id, tuple(sorted(fields)))
    if unnamed := sorted(roles - grant.bases.keys()):
        return Refuse(Rule.ROLE_NOT_GRANTED, grant.id, tuple(unnamed))
    unsupported = sorted(r for r in roles if not grant.bases[r].kind.is_supported)
    if unsupported:
        return Refuse(Rule.BASIS_NOT_SUPPORTED, grant.id, tuple(unsupported))
    return None


def _decide_roles(standing: _Standing, terms: LookupTerms, moment: Moment) -> Decision:
    """Decide by what each role's person has said."""
    grant = standing.grant
    bases = dict(standing.duties)
    missing: list[MissingConsent] = []
    awaits: set[Slug] = set()
    for role in standing.consenting:
        person = moment.persons.get(role)
        if person is None:
            awaits.add(role)
            continue
        answer = _hear(terms, role, person, moment)
        if isinstance(answer, Consent):
            bases[role] = RoleBasis(grant.bases[role], answer.id)
        else:
            missing.append(answer)
    return _conclude(grant, bases, missing, awaits)


def _conclude(
    grant: SharingGrant,
    bases: Mapping[Slug, RoleBasis],
    missing: list[MissingConsent],
    awaits: set[Slug],
) -> Decision:
    """Put the roles together: a refusal outweighs a gap, a gap what is not known."""
    for gap in missing:
        if gap.rule in (Rule.CONSENT_REFUSED, Rule.CONSENT_WITHDRAWN):
            return Refuse(gap.rule, grant.id, (gap.role,))
    if missing:
        first = missing[0].rule
        return ConsentNeeded(first, grant.id, grant.version, tuple(missing))
    if awaits:
        rule = Rule.SUBJECT_NOT_YET_KNOWN
        return Provisional(rule, grant.id, grant.version, frozenset(awaits))
    return _permitted(grant, bases)


def _permitted(grant: SharingGrant, bases: Mapping[Slug, RoleBasis]) -> Permit:
    """Permit it on these bases, one for each role, ordered by role."""
    rests_on_consent = any(held.consent for held in bases.values())
    rule = Rule.CONSENT_GIVEN if rests_on_consent else Rule.STATUTORY_DUTY
    by_role = MappingProxyType(dict(sorted(bases.items())))
    return Permit(rule, grant.id, grant.version, by_role)


def _about(
    terms: LookupTerms, role: Slug, person: Person, moment: Moment
) -> list[Consent]:
    """Return what this person said about this requester, matter, case and purpose."""
    return [
        consent
        for consent in moment.consents
        if consent.scope.person == person
        and consent.scope.role == role
        and consent.scope.requester == terms.requester
        and consent.scope.matter == terms.matter
        and consent.scope.purpose == terms.purpose
        and consent.scope.case in (None, moment.case)
        and consent.touches(terms.evidence_type, terms.fields)
    ]


def _hear(
    terms: LookupTerms, role: Slug, person: Person, moment: Moment
) -> Consent | MissingConsent:
    """Return the consent that a role rests on, or why there is none.

    (1) A consent that holds and covers every field; of several the one without a
        count, then the one that lasts longest, so that counted uses are spared.
    (2) An open request for all of it: a person who is asked anew has not refused. So
        with one that they have given, until that is recorded.
    (3) Else the last thing that the person said about any of it.
    """
    now, said = moment.now, _about(terms, role, person, moment)
    whole = [c for c in said if c.covers(terms.evidence_type, terms.fields)]
    # (1): holds now, for all of it.
    holding = [c for c in whole if c.holds_at(now)]
    if holding:
        return max(holding, key=lambda c: (c.uses_left is None, c.expires_at, c.id))
    # (2): asked anew, whatever was said before.
    asked = [c for c in whole if c.state_at(now) in _OPEN]
    if asked:
        first, rule = min(asked, key=lambda c: c.id), Rule.CONSENT_ASKED
        return MissingConsent(role, person, rule, first.id, first.expires_at)
    # (3): a later yes outlives an earlier no, and the other way round.
    return MissingConsent(role, person, _shortfall(terms, said, now), None, None)


_OPEN = (ConsentState.ASKED, ConsentState.GIVING)


def _shortfall(terms: LookupTerms, said: list[Consent], now: datetime) -> Rule:
    """Return what the last answer lacks; a request never answered says nothing."""
    answers = {(at, c.id): c for c in said if (at := _answered_at(c)) is not None}
    if not answers:
        return Rule.CONSENT_MISSING
    last = answers[max(answers)]
    match last.state_at(now):
        case ConsentState.REFUSED:
            return Rule.CONSENT_REFUSED
        case ConsentState.WITHDRAWN:
            return Rule.CONSENT_WITHDRAWN
        case ConsentState.EXPIRED:
            return Rule.CONSENT_EXPIRED
        case ConsentState.GIVEN | ConsentState.GIVING | ConsentState.ASKED:
            is_whole = last.covers(terms.evidence_type, terms.fields)
            return Rule.CONSENT_USED_UP if is_whole else Rule.CONSENT_TOO_NARROW


def _answered_at(consent: Consent) -> datetime | None:
    """Return when the person last answered; None when never."""
    if consent.state in (ConsentState.REFUSED, ConsentState.WITHDRAWN):
        return consent.ended_at
    return consent.given_at


_ORDER = {rule: place for place, rule in enumerate(Rule)}


def _preference(decision: Decision) -> tuple[int, int, str]:
    """Order decisions under several grants, the best first."""
    match decision:
        case Permit():
            return (0, len(decision.consents), decision.grant)
        case Provisional():
            return (1, len(decision.awaits), decision.grant)
        case ConsentNeeded():
            return (2, len(decision.missing), decision.grant)
        case Refuse():
            return (3, -_ORDER[decision.rule], decision.grant or "")
        case _:
            assert_never(decision)
