"""What is proposed, and what may come of it: the words that decisions are made in.

Each of the four decisions is a type of its own and names the rule that decided;
`consent.decision` reaches them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from consent.artefact import Consent, Person
from consent.rules import Rule, Target
from schemas.directory import LawfulBasis
from schemas.evidence import FieldName, Mode
from schemas.ids import CaseId, ConsentId
from schemas.model import Slug, VersionedId, value


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTerms:
    """What is asked, by whom, of whom and what for: a look-up without its persons."""

    evidence_type: VersionedId
    mode: Mode
    fields: frozenset[FieldName]
    """Fields that are passed on, and fields that are only compared."""
    requester: Slug
    matter: Slug
    """The matter's id, without its version."""
    purpose: Slug
    service: Slug
    provider: Slug


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedLookup(LookupTerms):
    """One question to one data service, before anybody is asked.

    Raises:
        ValueError: There is no subject: every look-up is about somebody.
    """

    subjects: Mapping[Slug, Person | None]
    """The role whom it is about and every role whom it concerns → the person, or None
    while only an earlier wave of look-ups can tell."""
    case: CaseId

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ValueError("a look-up is about at least one role")


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
    consents: tuple[ConsentId, ...] = field(init=False)
    """The consents that it rests on, each once."""
    kinds: Mapping[Slug, str] = field(init=False)
    """Every role → the kind of its basis, as a look-up and a record state it."""

    def __post_init__(self) -> None:
        # Worked out here, since a permit is made once and read by many look-ups.
        given = {role.consent for role in self.bases.values() if role.consent}
        kinds = {role: held.basis.kind.value for role, held in self.bases.items()}
        object.__setattr__(self, "consents", tuple(sorted(given)))
        object.__setattr__(self, "kinds", kinds)


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


@value
class Moment:
    """What is looked at each time: who, what they said, what is stopped, and when.

    INVARIANT (rule 5): it is read for each decision, and never kept.
    """

    case: CaseId
    persons: Mapping[Slug, Person | None]
    """By role; None while a person is not known."""
    consents: tuple[Consent, ...]
    """Any consents, in any state; only those of the persons count."""
    suspended: frozenset[Target]
    """Everything that is suspended."""
    used: Mapping[Slug, int]
    """Look-ups made in the current period under each grant with a quota."""
    now: datetime
