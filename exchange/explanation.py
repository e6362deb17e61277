"""An explanation: what would be asked, of whom, on which basis, and why.

INVARIANT: it names roles, concepts, fields, services, grants and rules; no value of a
person, no person ref and no consent id is in it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from consent.rules import Rule
from exchange.plan import SkipReason
from schemas.directory import LawfulBasis, LegalReference
from schemas.evidence import FieldName, Mode
from schemas.model import Concept, Expression, Model, Name, Slug, VersionedId


class Move(StrEnum):
    """What would happen next with a requirement or a look-up."""

    NOTHING = "nothing"
    """It is settled, or does not apply."""
    ASK = "ask"
    """The intent is recorded, then the service is asked."""
    WAIT_FOR_SOURCES = "wait_for_sources"
    """Earlier look-ups tell what it is made by; then it is asked."""
    DECIDE_AGAIN = "decide_again"
    """Earlier look-ups tell whom it is about; then it is decided again."""
    ASK_CONSENT = "ask_consent"
    """The person is asked for consent; nothing is asked about them before."""
    ANSWER = "answer"
    """The applicant answers questions."""
    STATE_FACT = "state_fact"
    """The portal states a fact that it may state and no look-up tells."""
    JUDGE = "judge"
    """It is computed from what is known, when that has come."""
    PLAN_AGAIN = "plan_again"
    """A look-up tells what its condition reads; then it is planned again."""
    REPORT = "report"
    """Nobody covers it, or a rule forbids it: the operator is told, and the matter's
    reasons for handing it in apply."""


class PassedOver(Model):
    """A list that is preferred to the one chosen, or that can't be met."""

    list: int
    reason: SkipReason
    names: tuple[str, ...]
    """The condition, the asks or the concepts that it fails by."""


class Lack(Model):
    """A concept that is not known and can't be found out."""

    concept: Concept
    is_statable: bool
    """Whether the portal may state it."""
    asks: tuple[Slug, ...]
    """Asks that would tell it and can't be made either."""


class Contribution(Model):
    """What one look-up does for one requirement."""

    lookup: str
    fields: tuple[FieldName, ...]
    """Fields passed on."""
    compare: tuple[FieldName, ...]
    """Fields compared and not passed on."""


class RequirementExplained(Model):
    """One requirement, and what stands before it."""

    id: Slug
    name: Name
    steps: tuple[Slug, ...]
    basis: LegalReference
    """The rule that lets the department demand it."""
    applies_when: Expression | None
    """The condition under which it applies; None for always."""
    state: Literal[
        "planned",
        "derive",
        "declared",
        "not_applicable",
        "answer_needed",
        "undecided",
        "uncovered",
        "unreachable",
    ]
    decided_by: Expression | None = None
    """The condition or derivation that put it into this state."""
    list: int | None = None
    """The list chosen, counted from 0."""
    passed_over: tuple[PassedOver, ...] = ()
    lookups: tuple[str, ...] = ()
    """The look-ups that it rests on directly."""
    contributions: tuple[Contribution, ...] = ()
    criterion: Expression | None = None
    questions: tuple[Slug, ...] = ()
    uncovered: tuple[Slug, ...] = ()
    """Asks that nobody registered can answer."""
    missing: tuple[Lack, ...] = ()
    next: Move


class Reason(StrEnum):
    """Why a field is asked for."""

    PASSED_ON = "passed_on"
    COMPARED = "compared"
    READ = "read"
    """A condition or criterion reads it."""
    LEADS_TO = "leads_to"
    """A later look-up is made by it."""


class FieldExplained(Model):
    """One field that is asked for, and one reason."""

    field: FieldName
    why: Reason
    whom: str
    """The requirement that wants it, or the look-up that it leads to."""


class ServiceExplained(Model):
    """A data service that may be competent."""

    id: Slug
    provider: Slug
    provider_name: Name


class DecisionExplained(Model):
    """What was decided of a look-up."""

    decision: Literal["permit", "provisional", "consent_needed", "refuse", "uncovered"]
    rule: Rule | None = None
    """The rule that decided; None when there is nobody to ask."""
    grant: Slug | None = None
    grant_version: int | None = None
    bases: Mapping[Slug, LawfulBasis | None] = {}
    """Each role of the look-up → the basis under the grant, if it states one."""
    roles: tuple[Slug, ...] = ()
    """Roles that it waits for: to be known, or to consent."""
    names: tuple[str, ...] = ()
    """What a refusing rule fell on: fields, roles, or what is suspended."""


class DecidedAgain(Model):
    """Why a look-up is not asked in its own wave: whom it touches is not known yet."""

    roles: tuple[Slug, ...]
    """Whose persons have to be known first."""
    told_by: tuple[str, ...]
    """The look-ups that tell who they are; none where only the portal can."""
    first_wave: int | None
    """The first wave in which it can be asked, counted from 1; a consent may put it
    off further. None where no look-up of the plan tells who they are."""


class LookupExplained(Model):
    """One look-up of the plan."""

    id: str
    asks: tuple[Slug, ...]
    evidence_type: VersionedId
    evidence_name: Name
    mode: Mode
    about: Slug
    concerns: tuple[Slug, ...]
    keys: Mapping[FieldName, Concept]
    match: Mapping[FieldName, Concept]
    region: Concept | None
    """The concept that tells the competent service; None: the matter's region."""
    services: tuple[ServiceExplained, ...]
    """Who may be competent, best first."""
    fields: tuple[FieldExplained, ...]
    sources: Mapping[Concept, str]
    """What it takes that is not known at the start → the look-up that tells it."""
    serves: tuple[Slug, ...]
    decision: DecisionExplained
    decided_again: DecidedAgain | None = None
    """Set where the decision is provisional: it is made again with the person known,
    and only then is anybody asked."""
    next: Move


class Explanation(Model):
    """What would be asked in a situation, and why."""

    matter: VersionedId
    name: Name
    pack: str
    """The digest of the pack."""
    requirements: tuple[RequirementExplained, ...]
    waves: tuple[tuple[LookupExplained, ...], ...]
    """Each look-up in the earliest wave that its keys allow; one that is decided again
    stands there too, and is asked later."""
