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
from typing import TypeAlias, assert_never

from consent.artefact import Consent, ConsentState, Person
from consent.rules import Rule, Suspendable, Target, suspension_rule, target
from schemas.directory import LawfulBasis, LawfulBasisKind, SharingGrant
from schemas.evidence import FieldName, Mode
from schemas.ids import CaseId, ConsentId
from schemas.model import Slug, VersionedId


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedLookup:
    """One question to one data service, before anybody is asked.

    Raises:
        ValueError: There is no subject: every look-up is about somebody.
    """

    evidence_type: VersionedId
    mode: Mode
    fields: frozenset[FieldName]
    """Fields that are passed on, and fields that are only compared."""
    subjects: Mapping[Slug, Person | None]
    """The role whom it is about and every role whom it concerns → the person, or None
    while only an earlier wave of look-ups can tell."""
    requester: Slug
    matter: Slug
    """The matter's id, without its version."""
    purpose: Slug
    case: CaseId
    service: Slug
    provider: Slug

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ValueError("a look-up is about at least one role")

    @property
    def parties(self) -> frozenset[Target]:
        """Who asks, who would be asked, and through which service."""
        return frozenset(
            (
                target(Suspendable.REQUESTER, self.requester),
                target(Suspendable.PROVIDER, self.provider),
                target(Suspendable.SERVICE, self.service),
            )
        )


@dataclass(frozen=True, slots=True)
class RoleBasis:
    """What one role of a look-up rests on."""

    basis: LawfulBasis
    consent: ConsentId | None = None
    """The consent that covers it, exactly when the basis is consent."""


@dataclass(frozen=True, slots=True)
class Permit:
    """It may be made, once its uses have been taken (`consent.store.take_uses`)."""

    rule: Rule
    grant: Slug
    grant_version: int
    bases: Mapping[Slug, RoleBasis]
    """Every role of the look-up → what it rests on."""

    @property
    def consents(self) -> tuple[ConsentId, ...]:
        """The consents that it rests on, each once."""
        given = {role.consent for role in self.bases.values() if role.consent}
        return tuple(sorted(given))

    @property
    def kinds(self) -> Mapping[Slug, str]:
        """Every role → the kind of its basis, as a look-up and a record state it."""
        return {role: held.basis.kind.value for role, held in self.bases.items()}


@dataclass(frozen=True, slots=True)
class Provisional:
    """Nothing forbids it by role and fields; it may not be made yet.

    A type of its own, so that nobody can send a look-up on a decision that is still
    to be made for a person.
    """

    rule: Rule
    grant: Slug
    grant_version: int
    awaits: frozenset[Slug]
    """Roles whose person must be known before it is decided again; at least one."""


@dataclass(frozen=True, slots=True)
class MissingConsent:
    """One person's consent that a look-up waits for."""

    role: Slug
    person: Person
    rule: Rule
    consent: ConsentId | None
    """The open request that asks for all of this already; None: it must be asked."""
    expires_at: datetime | None
    """When that request lapses; None when there is none."""


@dataclass(frozen=True, slots=True)
class ConsentNeeded:
    """Persons must allow it first."""

    rule: Rule
    grant: Slug
    grant_version: int
    missing: tuple[MissingConsent, ...]
    """Whose consent, ordered by role; at least one, and `rule` is that of the first."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It may not be made."""

    rule: Rule
    grant: Slug | None
    """The grant that came furthest; None when no grant was examined."""
    names: tuple[str, ...] = ()
    """What the rule fell on where that is not the grant itself: the matter, purpose,
    mode, fields or roles, in order. Never a person."""


Decision: TypeAlias = Permit | Provisional | ConsentNeeded | Refuse


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
    # (1): before any grant is read, since no grant outweighs it.
    stopped = suspension_rule(lookup.parties, suspended) if suspended else None
    if stopped is not None:
        return Refuse(stopped, None)
    # (2): grants to others say nothing here.
    candidates = [
        grant
        for grant in grants
        if grant.requester == lookup.requester
        and grant.evidence_type == lookup.evidence_type
    ]
    if not candidates:
        return Refuse(Rule.NO_GRANT, None)
    # (3): alone, since the parts of two grants don't add up to a third.
    heard = tuple(consents)
    decisions = [
        _decide_under(grant, lookup, heard, suspended, used, now)
        for grant in candidates
    ]
    # (4): ids break ties, so that the order of the grants never shows.
    return decisions[0] if len(decisions) == 1 else min(decisions, key=_preference)


def _decide_under(
    grant: SharingGrant,
    lookup: ProposedLookup,
    consents: tuple[Consent, ...],
    suspended: frozenset[Target],
    used: Mapping[Slug, int],
    now: datetime,
) -> Decision:
    """Decide under one grant alone.

    (1) Whatever lies outside the grant is refused.
    (2) So is what the grant can't give any more: suspended, or its quota used up.
    (3) Then each role that rests on consent needs its person's.
    """
    # (1): what was never granted is no question of quota or consent.
    outside = _outside(grant, lookup, now)
    if outside is not None:
        return outside
    # (2): the same for every person, so no person is asked in vain.
    if suspended and target(Suspendable.GRANT, grant.id) in suspended:
        return Refuse(Rule.GRANT_SUSPENDED, grant.id)
    if grant.quota is not None and used.get(grant.id, 0) >= grant.quota.lookups:
        return Refuse(Rule.QUOTA_USED_UP, grant.id)
    # (3): last, since it may have to be asked for.
    return _decide_roles(grant, lookup, consents, now)


def _outside(
    grant: SharingGrant, lookup: ProposedLookup, now: datetime
) -> Refuse | None:
    """Return the first rule by which the look-up lies outside the grant."""
    if now >= grant.valid_until:
        return Refuse(Rule.GRANT_EXPIRED, grant.id)
    if now < grant.valid_from:
        return Refuse(Rule.GRANT_NOT_YET_VALID, grant.id)
    if lookup.matter not in grant.matters:
        return Refuse(Rule.MATTER_NOT_GRANTED, grant.id, (lookup.matter,))
    if lookup.purpose not in grant.purposes:
        return Refuse(Rule.PURPOSE_NOT_GRANTED, grant.id, (lookup.purpose,))
    return _beyond(grant, lookup)


def _beyond(grant: SharingGrant, lookup: ProposedLookup) -> Refuse | None:
    """Return the first rule by which the look-up asks for more than was granted."""
    if lookup.mode not in grant.modes:
        return Refuse(Rule.MODE_NOT_GRANTED, grant.id, (lookup.mode.value,))
    if fields := lookup.fields.difference(grant.fields):
        return Refuse(Rule.FIELD_NOT_GRANTED, grant.id, tuple(sorted(fields)))
    if roles := sorted(lookup.subjects.keys() - grant.bases.keys()):
        return Refuse(Rule.ROLE_NOT_GRANTED, grant.id, tuple(roles))
    unsupported = sorted(
        role for role in lookup.subjects if not _is_supported(grant.bases[role].kind)
    )
    if unsupported:
        return Refuse(Rule.BASIS_NOT_SUPPORTED, grant.id, tuple(unsupported))
    return None


def _is_supported(kind: LawfulBasisKind) -> bool:
    """Return whether anything can be permitted on this basis today."""
    match kind:
        case LawfulBasisKind.STATUTORY_DUTY | LawfulBasisKind.CONSENT:
            return True
        case LawfulBasisKind.MANDATE | LawfulBasisKind.EMERGENCY:
            # Fails closed: a mandate needs a checked artefact, an emergency a review
            # afterwards, and neither exists yet.
            return False
        case _:
            assert_never(kind)


def _decide_roles(
    grant: SharingGrant,
    lookup: ProposedLookup,
    consents: tuple[Consent, ...],
    now: datetime,
) -> Decision:
    """Decide by what each role's person has said."""
    bases: dict[Slug, RoleBasis] = {}
    missing: list[MissingConsent] = []
    awaits: set[Slug] = set()
    for role, person in sorted(lookup.subjects.items()):
        basis = grant.bases[role]
        if basis.kind is not LawfulBasisKind.CONSENT:
            bases[role] = RoleBasis(basis)
        elif person is None:
            awaits.add(role)
        else:
            said = _about(lookup, role, person, consents)
            answer = _hear(lookup, role, person, said, now)
            if isinstance(answer, Consent):
                bases[role] = RoleBasis(basis, answer.id)
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
    rests_on_consent = any(held.consent for held in bases.values())
    rule = Rule.CONSENT_GIVEN if rests_on_consent else Rule.STATUTORY_DUTY
    return Permit(rule, grant.id, grant.version, MappingProxyType(dict(bases)))


def _about(
    lookup: ProposedLookup, role: Slug, person: Person, consents: tuple[Consent, ...]
) -> list[Consent]:
    """Return what this person said about this requester, matter, case and purpose."""
    return [
        consent
        for consent in consents
        if consent.scope.person == person
        and consent.scope.role == role
        and consent.scope.requester == lookup.requester
        and consent.scope.matter == lookup.matter
        and consent.scope.purpose == lookup.purpose
        and consent.scope.case in (None, lookup.case)
        and consent.touches(lookup.evidence_type, lookup.fields)
    ]


def _hear(
    lookup: ProposedLookup,
    role: Slug,
    person: Person,
    said: list[Consent],
    now: datetime,
) -> Consent | MissingConsent:
    """Return the consent that a role rests on, or why there is none.

    (1) A consent that holds and covers every field; of several the one without a
        count, then the one that lasts longest, so that counted uses are spared.
    (2) An open request for all of it: a person who is asked anew has not refused.
    (3) Else the last thing that the person said about any of it.
    """
    whole = [c for c in said if c.covers(lookup.evidence_type, lookup.fields)]
    # (1): holds now, for all of it.
    holding = [c for c in whole if c.holds_at(now)]
    if holding:
        return max(holding, key=lambda c: (c.uses_left is None, c.expires_at, c.id))
    # (2): asked anew, whatever was said before.
    asked = [c for c in whole if c.state_at(now) is ConsentState.ASKED]
    if asked:
        first, rule = min(asked, key=lambda c: c.id), Rule.CONSENT_ASKED
        return MissingConsent(role, person, rule, first.id, first.expires_at)
    # (3): a later yes outlives an earlier no, and the other way round.
    return MissingConsent(role, person, _shortfall(lookup, said, now), None, None)


def _shortfall(lookup: ProposedLookup, said: list[Consent], now: datetime) -> Rule:
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
        case ConsentState.GIVEN | ConsentState.ASKED:
            is_whole = last.covers(lookup.evidence_type, lookup.fields)
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
