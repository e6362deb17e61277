"""What a case knows: the people in it, what was asked, and what came of it.

All of this is sealed under the key of the case before it is stored
(`exchange.cases`); only what `CaseHead` holds can be read without the key.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from schemas.codes import CitizenId
from schemas.errors import Fault, Layer
from schemas.ids import CaseId, ConsentId, EvidenceId, LookupId, MandateId
from schemas.matter import SupplyReason
from schemas.model import Model, Slug
from schemas.outcome import ConflictHint, Outcome, RecordRef

PlannedId: TypeAlias = str
RequirementId: TypeAlias = str


class CaseStatus(StrEnum):
    """Where a case stands."""

    OPEN = "open"
    """Some requirement still needs somebody to do something."""
    SETTLED = "settled"
    """Every requirement is settled."""
    CLOSED = "closed"
    """Its key is destroyed; only outcomes remain."""


class Actor(Model):
    """Who acts at the requester: an official in person, or a system."""

    kind: Literal["official", "system"]
    id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.@:-]+$")]
    """The requester's own id for the official or system."""


class Agent(Model):
    """A person who acts for the applicant, under a mandate (委托)."""

    kind: Literal["agent"]
    id: CitizenId = Field(repr=False)
    """The agent's citizen id: the portal has authenticated them."""
    mandate: Annotated[
        MandateId, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    ]


AnyActor: TypeAlias = Annotated[Actor | Agent, Field(discriminator="kind")]


class CaseHead(Model):
    """What can be known of a case without its key."""

    id: CaseId
    requester: Slug
    matter: str
    """`id@version`."""
    purpose: Slug
    status: CaseStatus
    opened_at: datetime
    closed_at: datetime | None = None
    version: int = 1
    """Grows with every change; followers compare it."""


class Held(Model):
    """The evidence came, was checked, and agrees with what the case knows."""

    kind: Literal["held"] = "held"
    evidence: EvidenceId
    fields: tuple[str, ...]
    expires_at: datetime | None
    """First instant at which it is no longer fresh; None when it does not age."""


class Disputed(Model):
    """The evidence came and disagrees: it is kept, and passed to nobody."""

    kind: Literal["disputed"] = "disputed"
    evidence: EvidenceId
    concept: str
    hint: ConflictHint
    against: Literal["stated", "evidence"]
    """Whether it differs from what the portal stated or from another source."""


class Unmatched(Model):
    """The register says that the stated facts do not match."""

    kind: Literal["unmatched"] = "unmatched"
    evidence: EvidenceId


class Nothing(Model):
    """The source holds nothing, or says it does not cover this."""

    kind: Literal["nothing"] = "nothing"
    covered: bool
    retry_at: datetime | None = None
    """When it is asked again by itself: only the output of a step is waited for."""


class Later(Model):
    """The source will answer later."""

    kind: Literal["later"] = "later"
    retry_at: datetime


class Down(Model):
    """The source could not be asked."""

    kind: Literal["down"] = "down"
    layer: Layer
    since: datetime
    """When it first failed."""
    retry_at: datetime | None
    """When it is asked again; None once the matter's limit for the source is past."""
    deadline: bool = False
    """Whether only the time of this answer was up."""


class Wrong(Model):
    """The source answered wrongly."""

    kind: Literal["wrong"] = "wrong"
    fault: Fault


class Barred(Model):
    """A rule forbids the look-up."""

    kind: Literal["barred"] = "barred"
    rule: str


class Unconsented(Model):
    """A person has to allow the look-up first."""

    kind: Literal["unconsented"] = "unconsented"
    role: Slug
    consent: ConsentId | None = None
    """The consent asked for; None while the person is not known."""
    expires_at: datetime | None = None
    """When that request lapses; None while there is none."""


Unmet: TypeAlias = (
    Disputed | Unmatched | Nothing | Later | Down | Wrong | Barred | Unconsented
)
Result: TypeAlias = Annotated[Held | Unmet, Field(discriminator="kind")]


class Attempt(Model):
    """The last try of one look-up, and what came of it."""

    result: Result
    at: datetime
    tries: int = 1
    lookup: LookupId | None = None
    """None when nobody was asked."""
    service: Slug | None = None
    provider: Slug | None = None
    elapsed_ms: float | None = None
    record: RecordRef | None = None
    run: int = 0
    """The run of the case in which it was made: an older one was reused."""


class KnownFact(Model):
    """One concept's value, and who said so first."""

    value: str | int | float | bool
    source: str
    """`stated` for the portal's word, or the look-up whose evidence carries it."""
    is_kept: bool = True
    """Whether look-ups may be made by it; what may only be compared settles no key."""


class Shown(Model):
    """What one evidence contributes to one requirement."""

    evidence: EvidenceId
    lookup: PlannedId
    fields: tuple[str, ...]
    """The fields that are passed on for this requirement, and no others."""


class CaseContent(BaseModel):
    """Everything about people that a case knows: only ever stored sealed."""

    actor: AnyActor
    subjects: dict[Slug, dict[Slug, str]]
    answers: dict[Slug, bool | str]
    committed: set[RequirementId] = Field(default_factory=set)
    supplied: dict[RequirementId, SupplyReason] = Field(default_factory=dict)
    attempts: dict[PlannedId, Attempt] = Field(default_factory=dict)
    """The last try of each look-up, by its id in the plan."""
    concerned: dict[PlannedId, tuple[Slug, ...]] = Field(default_factory=dict)
    """The roles that each look-up was about, concerned, or was made by."""
    facts: dict[str, KnownFact] = Field(default_factory=dict)
    """What is known by concept; a later source that differs never overwrites."""
    outcomes: dict[RequirementId, Outcome] = Field(default_factory=dict)
    shown: dict[RequirementId, tuple[Shown, ...]] = Field(default_factory=dict)
    """The evidence that each settled requirement rests on."""
    run: int = 0
    """How often the case was resolved."""


def stated_facts(subjects: Mapping[Slug, Mapping[Slug, str]]) -> dict[str, KnownFact]:
    """Return the concepts that the portal states, by name.

    >>> stated_facts({"newborn": {"birth_date": "2026-01-08"}})
    {'newborn.birth_date': KnownFact(value='2026-01-08', source='stated', is_kept=True)}
    """
    return {
        f"{role}.{fact}": KnownFact(value=value, source="stated")
        for role, facts in subjects.items()
        for fact, value in facts.items()
    }
