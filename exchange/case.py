"""What a case knows: the people in it, what was asked, and what came of it.

All of this is sealed under the key of the case before it is stored
(`exchange.cases`); only what `CaseHead` holds can be read without the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Literal, TypeAlias

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from schemas.codes import CitizenId
from schemas.errors import Fault, Layer, VerificationError
from schemas.ids import CaseId, ConsentId, EventId, EvidenceId, LookupId, MandateId
from schemas.matter import SupplyReason
from schemas.model import Model, Slug, value
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


@value
class CaseHead:
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


@value
class Held:
    """The evidence came, was checked, and agrees with what the case knows."""

    kind: Literal["held"] = "held"
    evidence: EvidenceId
    fields: tuple[str, ...]
    expires_at: datetime | None
    """First instant at which it is no longer fresh; None when it does not age."""


@value
class Disputed:
    """The evidence came and disagrees: it is kept, and passed to nobody."""

    kind: Literal["disputed"] = "disputed"
    evidence: EvidenceId
    concept: str
    hint: ConflictHint
    against: Literal["stated", "evidence"]
    """Whether it differs from what the portal stated or from another source."""
    expires_at: datetime | None = None
    """As of `Held`."""


@value
class Unmatched:
    """The register says that the stated facts do not match."""

    kind: Literal["unmatched"] = "unmatched"
    evidence: EvidenceId


@value
class Nothing:
    """The source holds nothing, or says it does not cover this."""

    kind: Literal["nothing"] = "nothing"
    covered: bool
    retry_at: datetime | None = None
    """When it is asked again by itself: only the output of a step is waited for."""


@value
class Later:
    """The source will answer later."""

    kind: Literal["later"] = "later"
    retry_at: datetime


@value
class Down:
    """The source could not be asked."""

    kind: Literal["down"] = "down"
    layer: Layer
    since: datetime
    """When it first failed."""
    retry_at: datetime | None
    """When it is asked again; None once the matter's limit for the source is past."""
    deadline: bool = False
    """Whether only the time of this answer was up."""


@value
class Wrong:
    """The source answered wrongly."""

    kind: Literal["wrong"] = "wrong"
    fault: Fault


@value
class Barred:
    """A rule forbids the look-up."""

    kind: Literal["barred"] = "barred"
    rule: str


@value
class Unconsented:
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
Repeated: TypeAlias = Later | Down | Nothing
"""After these a look-up may be made again by itself."""
Result: TypeAlias = Annotated[Held | Unmet, Field(discriminator="kind")]


@value
class Attempt:
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
    made_by: dict[str, str] = field(default_factory=dict)
    """What was known of the concepts that the look-up takes: with another value it is
    another question. Empty where it was made before this was noted."""

    @property
    def planned_for(self) -> datetime | None:
        """When the look-up is made again by itself; None when it is not."""
        return self.result.retry_at if isinstance(self.result, Repeated) else None


def earlier(retry_at: datetime, before: Attempt | None, now: datetime) -> datetime:
    """Return the earlier of a new time and the one that was planned, if it is ahead."""
    due = None if before is None else before.planned_for
    return retry_at if due is None or due <= now else min(retry_at, due)


STATED = "stated"
"""The source of a fact that the portal stated."""


@value
class KnownFact:
    """One concept's value, and who said so first."""

    value: str | int | float | bool
    source: str
    """`STATED`, or the look-up whose evidence carries it."""
    is_kept: bool = True
    """Whether look-ups may be made by it; what may only be compared settles no key."""


@value
class Shown:
    """What one evidence contributes to one requirement."""

    evidence: EvidenceId
    lookup: PlannedId
    fields: tuple[str, ...]
    """The fields that are passed on for this requirement, and no others."""


@value
class HandedIn:
    """What was handed in for a requirement, as the portal says."""

    reason: SupplyReason
    lists: tuple[int, ...]
    """The places of the requirement's lists that counted by the answers of then."""


@dataclass(kw_only=True)
class CaseContent:
    """Everything about people that a case knows: only ever stored sealed."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    actor: AnyActor
    subjects: dict[Slug, dict[Slug, str]]
    answers: dict[Slug, bool | str]
    committed: set[RequirementId] = field(default_factory=set)
    supplied: dict[RequirementId, HandedIn] = field(default_factory=dict)
    """What was handed in last."""
    accepted: dict[RequirementId, HandedIn] = field(default_factory=dict)
    """What was handed in for the reason that was found then: it stays."""
    attempts: dict[PlannedId, Attempt] = field(default_factory=dict)
    """The last try of each look-up, by its id in the plan."""
    former: dict[PlannedId, list[Attempt]] = field(default_factory=dict)
    """Tries with other values whose evidence is held, the last one first: where the
    answers are again as they were, nobody is asked again."""
    concerned: dict[PlannedId, tuple[Slug, ...]] = field(default_factory=dict)
    """The roles that each look-up was about, concerned, or was made by."""
    facts: dict[str, KnownFact] = field(default_factory=dict)
    """What is known by concept; a later source that differs never overwrites."""
    outcomes: dict[RequirementId, Outcome] = field(default_factory=dict)
    shown: dict[RequirementId, tuple[Shown, ...]] = field(default_factory=dict)
    """The evidence that each settled requirement rests on."""
    run: int = 0
    """How often the case was resolved."""
    opening: EventId | None = None
    """The record that the case was opened; None once it is known to stand."""


def to_json(known: object) -> bytes:
    """Return what a case knows, or a part of it, as JSON."""
    return orjson.dumps(known, default=_plain, option=orjson.OPT_UTC_Z)


def read_content(stored: bytes) -> CaseContent:
    """Return what a case knows, of JSON that was stored.

    Raises:
        VerificationError: It is not what `to_json` writes.
    """
    try:
        return _content().validate_json(stored)
    except ValidationError:
        # Not chained: what pydantic raises repeats values of persons.
        raise VerificationError("a stored case has not its form") from None


@cache
def _content() -> TypeAdapter[CaseContent]:
    return TypeAdapter(CaseContent)


def _plain(part: object) -> object:
    """Return a part that JSON has no form for: names, who acts, and sets of ids."""
    if isinstance(part, BaseModel):
        return vars(part)  # texts alone
    if isinstance(part, set):
        return sorted(part)
    raise TypeError


def stated_facts(subjects: Mapping[Slug, Mapping[Slug, str]]) -> dict[str, KnownFact]:
    """Return the concepts that the portal states, by name.

    >>> stated_facts({"newborn": {"birth_date": "2026-01-08"}})
    {'newborn.birth_date': KnownFact(value='2026-01-08', source='stated', is_kept=True)}
    """
    return {
        f"{role}.{fact}": KnownFact(value=value, source=STATED)
        for role, facts in subjects.items()
        for fact, value in facts.items()
    }
