"""What came of one requirement: a closed union, and an outcome never lies.

Settled: retrieved, verified, reused, derived, committed, declared, supplied,
not_applicable. Open, somebody must do something: consent_needed, answer_needed,
pending, assist, supply_needed. Failed honestly: not_held, mismatch, conflict,
out_of_coverage, refused, unavailable, faulty.

No outcome holds a person's value; a hint tells the kind of a difference, not the
values that differ.
"""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field

from schemas.errors import Fault, Layer
from schemas.ids import ConsentId, EventId, EvidenceId
from schemas.matter import FactType, QuestionType, SupplyReason
from schemas.model import Concept, Name, Slug, value


class StepOwner(StrEnum):
    """Who has to move next."""

    NOBODY = "nobody"
    APPLICANT = "applicant"
    PERSON = "person"
    """Another person, such as one whose consent is needed."""
    PORTAL = "portal"
    PROVIDER = "provider"
    EXCHANGE = "exchange"
    OPERATOR = "operator"


@value
class NextStep:
    """Who must do what next, and by when."""

    owner: StepOwner
    owner_id: Slug | None = None
    """The role, provider or requester meant, where there is one."""
    action: Slug
    """What to do: `give_consent`, `answer`, `wait`, `perform_step`, `supply`,
    `contest`, `assist`, `report`, `apply` (anew, in one's own name or under another
    mandate)."""
    link: str | None = None
    """Where to do it, as a path of this API."""
    due_at: datetime | None = None
    """By when. Of who waits: when the source is asked again; of a consent: when the
    request lapses; of a faulty source: when the matter's `source_limit` ends; of the
    applicant: when the case is next looked at by itself, and nothing lapses. None where
    a person decides and nothing sets a limit."""


@value
class RecordRef:
    """The log record that an outcome rests on."""

    event: EventId
    index: int


@value
class _Outcome:
    """What every outcome carries."""

    is_settled: ClassVar[bool]
    """Whether nobody has to do anything more for a requirement."""
    service: Slug | None = None
    """The data service asked last, or None when none was."""
    provider: Slug | None = None
    evidence: tuple[EvidenceId, ...] = ()
    layer: Layer | None = None
    """Where a fault lies; None when there is none."""
    can_retry: bool = False
    """Whether asking again can help."""
    next_step: NextStep | None = None
    """None when the requirement is settled."""
    record: RecordRef | None = None
    elapsed_ms: float | None = None
    """How long the slowest look-up took, in milliseconds; None when none was made."""


@value
class _Settled(_Outcome):
    is_settled = True


@value
class _Unsettled(_Outcome):
    is_settled = False


@value
class Retrieved(_Settled):
    """The fields came."""

    outcome: Literal["retrieved"] = "retrieved"


@value
class Verified(_Settled):
    """A stated fact was matched; no payload is kept."""

    outcome: Literal["verified"] = "verified"


@value
class Reused(_Settled):
    """This case already holds it, fresh."""

    outcome: Literal["reused"] = "reused"


@value
class Derived(_Settled):
    """Computed from evidence held, by a stated expression."""

    outcome: Literal["derived"] = "derived"
    expression: str


@value
class Committed(_Settled):
    """A written promise (告知承诺) was given where the matter allows it."""

    outcome: Literal["committed"] = "committed"


@value
class Declared(_Settled):
    """A fact that no register holds was stated by the applicant."""

    outcome: Literal["declared"] = "declared"


@value
class Supplied(_Settled):
    """The applicant handed it in."""

    outcome: Literal["supplied"] = "supplied"
    reason: SupplyReason


@value
class NotApplicable(_Settled):
    """It does not apply in this situation."""

    outcome: Literal["not_applicable"] = "not_applicable"
    condition: str
    """The condition, in CEL, that does not hold."""


@value
class ConsentNeeded(_Unsettled):
    """A person must allow it first."""

    outcome: Literal["consent_needed"] = "consent_needed"
    role: Slug
    """Whose consent."""
    consent: ConsentId | None = None


@value
class OpenQuestion:
    """A question that waits for the applicant, with all that is needed to put it."""

    id: Slug
    """Its name in `answers`."""
    name: Name
    """The question as it is put."""
    type: QuestionType
    choices: Mapping[Slug, Name] = field(default_factory=dict)
    """The answers of a `choice`."""
    max_length: int | None = None
    """Longest answer of a `text`, in characters."""


@value
class OpenFact:
    """A fact about a subject that waits to be stated."""

    id: Concept
    """Its place in `subjects`: role and fact, such as `father.name`."""
    role: Name
    name: Name
    type: FactType


@value
class AnswerNeeded(_Unsettled):
    """The applicant must answer questions first."""

    outcome: Literal["answer_needed"] = "answer_needed"
    questions: tuple[OpenQuestion, ...]
    facts: tuple[OpenFact, ...] = ()
    """Facts about subjects that the portal must state."""


@value
class Pending(_Unsettled):
    """The source will answer, or is asked again by itself."""

    outcome: Literal["pending"] = "pending"
    reason: Literal["step", "deferred", "source_down", "deadline", "chained"]
    """`step`: a department has yet to perform the step that makes it; `deferred`: the
    source answers later; `source_down`: it is asked again; `deadline`: the answer's
    time was up; `chained`: a fact it is looked up by is still open."""
    step: Slug | None = None
    retry_at: datetime | None = None
    """When it is asked again by itself; None when it waits for another requirement."""


@value
class Assist(_Unsettled):
    """A department looks it up by hand."""

    outcome: Literal["assist"] = "assist"


@value
class SupplyNeeded(_Unsettled):
    """The applicant must hand it in."""

    outcome: Literal["supply_needed"] = "supply_needed"
    reason: SupplyReason


@value
class NotHeld(_Unsettled):
    """The provider says it has nothing, and was competent to say so."""

    outcome: Literal["not_held"] = "not_held"


@value
class Mismatch(_Unsettled):
    """The register says otherwise; a person decides, and it can be contested."""

    outcome: Literal["mismatch"] = "mismatch"
    concept: str | None = None
    """The fact that differs, by name; None when only a criterion fails."""


class ConflictHint(StrEnum):
    """The kind of a near match."""

    ONE_CHARACTER = "one_character_differs"
    TRANSPOSED = "two_characters_swapped"
    NONE = "different"


@value
class Conflict(_Unsettled):
    """Two sources disagree, or nearly agree: a person decides."""

    outcome: Literal["conflict"] = "conflict"
    concept: str
    """The fact on which they disagree, by name."""
    hint: ConflictHint


@value
class OutOfCoverage(_Unsettled):
    """Nobody registered covers this region or date."""

    outcome: Literal["out_of_coverage"] = "out_of_coverage"


@value
class Refused(_Unsettled):
    """There is no grant, or a rule forbids it."""

    outcome: Literal["refused"] = "refused"
    rule: str


@value
class Unavailable(_Unsettled):
    """The source is down or too slow, and no automatic try is left."""

    outcome: Literal["unavailable"] = "unavailable"


@value
class Faulty(_Unsettled):
    """The source answered wrongly."""

    outcome: Literal["faulty"] = "faulty"
    fault: Fault


Settled: TypeAlias = (
    Retrieved
    | Verified
    | Reused
    | Derived
    | Committed
    | Declared
    | Supplied
    | NotApplicable
)
Open: TypeAlias = ConsentNeeded | AnswerNeeded | Pending | Assist | SupplyNeeded
Failed: TypeAlias = (
    NotHeld | Mismatch | Conflict | OutOfCoverage | Refused | Unavailable | Faulty
)
Outcome: TypeAlias = Annotated[Settled | Open | Failed, Field(discriminator="outcome")]
OUTCOMES = (
    *get_args(Settled),
    *get_args(Open),
    *get_args(Failed),
)
"""Every kind of outcome, for what is made for each of them."""
