"""Matters: what has to be proved for one errand, and who holds the proof."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from schemas.directory import LegalReference
from schemas.evidence import FieldName, Mode
from schemas.model import (
    MOST_DAYS,
    Concept,
    Expression,
    Model,
    Name,
    Once,
    OneOrMore,
    RegionCode,
    Slug,
    Span,
    Version,
    VersionedId,
    Wording,
)


class SubjectKind(StrEnum):
    """What kind of subject takes a role."""

    PERSON = "person"
    ORGANISATION = "organisation"
    GROUP = "group"
    """People together, such as a household."""


class FactType(StrEnum):
    """What a stated fact is checked as."""

    CITIZEN_ID = "citizen_id"
    """公民身份号码, GB 11643, with its check digit."""
    CREDIT_CODE = "credit_code"
    """统一社会信用代码, GB 32100, with its check character."""
    TEXT = "text"
    DATE = "date"
    REGION = "region"


class Latest(StrEnum):
    """The last day that a stated date may be."""

    TODAY = "today"
    """The day of the request, in Beijing: the time of every region."""


class Fact(Model):
    """One thing that the portal may state about a subject."""

    name: Name
    type: FactType
    required: bool = False
    not_after: Latest | None = None
    """The last day that a `date` may be, such as a date of birth; None for any."""


class Role(Model):
    """Who takes part in a matter."""

    name: Name
    kind: SubjectKind
    required: bool
    """Whether a case can't be opened without this subject."""
    applicant: bool = False
    """Whether this is the person who starts the case; exactly one role is."""
    facts: Mapping[Slug, Fact]
    """What may be stated about the subject: fact `id` of role `mother` is the
    concept `mother.id`."""


class QuestionType(StrEnum):
    """What an answer looks like."""

    BOOLEAN = "boolean"
    CHOICE = "choice"
    TEXT = "text"
    DATE = "date"
    REGION = "region"


class Question(Model):
    """Something that only the applicant can tell."""

    name: Name
    """The question as it is put to the applicant."""
    type: QuestionType
    choices: Mapping[Slug, Name] = {}
    """The possible answers of a `choice`."""
    when: Expression | None = None
    """When the question arises; None for always."""
    max_length: Annotated[int, Field(gt=0, le=1_000)] = 200
    """Longest answer of a `text`, in characters."""
    not_after: Latest | None = None
    """The last day that a `date` may be; None for any."""


class Ask(Model):
    """How this matter asks for one evidence type: who it is about, and how."""

    evidence_type: VersionedId
    about: Slug
    """The role whom the evidence is about: `self` in the evidence type's concepts."""
    mode: Mode
    roles: Mapping[Slug, Slug] = {}
    """A role of the evidence type's concepts → the role of this matter, where the
    two differ: `spouse: father`."""
    concerns: Once[Slug] = ()
    """Further roles whom the answer reveals something about: their basis is needed."""
    region: Concept | None = None
    """The concept that tells which region's service is competent; None for the
    matter's own region."""
    output_of: Slug | None = None
    """The step of this matter that makes the evidence: until then nothing held means
    `pending`, not `not_held`."""

    def concept(self, concept: Concept) -> Concept:
        """Return a concept of the evidence type as a concept of this matter."""
        role, _, fact = concept.partition(".")
        ours = self.about if role == "self" else self.roles.get(role, role)
        return f"{ours}.{fact}"


class Need(Model):
    """What a requirement wants from one ask."""

    ask: Slug
    fields: Once[FieldName] = ()
    """Fields that are passed on to the requester."""
    compare: Once[FieldName] = ()
    """Fields that are compared with what the case knows, and not passed on."""


class EvidenceList(Model):
    """AND over evidence: all of it together meets the requirement (CCCEV)."""

    when: Expression | None = None
    """The situations in which the list counts; None for all."""
    all: OneOrMore[Need]


class Commitment(Model):
    """告知承诺: a written promise in place of evidence, where the law allows it."""

    text: Wording
    basis: LegalReference


class SupplyReason(StrEnum):
    """Why a person has to hand something in after all: a closed list."""

    OUT_OF_COVERAGE = "out_of_coverage"
    NOT_HELD = "not_held"
    DISPUTED = "disputed"
    NO_CONSENT = "no_consent"
    SOURCE_DOWN = "source_down"
    SOURCE_FAULTY = "source_faulty"


class PaperUse(Model):
    """A paper that the requirement once took, and who wanted to see it."""

    paper: Slug
    asked_by: OneOrMore[Slug]
    """Providers who each took the paper once."""


class Requirement(Model):
    """Something a matter needs proved (CCCEV Requirement).

    Exactly one of `lists`, `derive` and `declare` says how.
    """

    name: Name
    steps: OneOrMore[Slug]
    """The steps that need it."""
    basis: LegalReference
    """The rule that lets the department demand it (by_law)."""
    when: Expression | None = None
    """The situations in which it applies; None for all."""
    lists: Once[EvidenceList] = ()
    """OR over lists, in order of preference."""
    criterion: Expression | None = None
    """What the evidence must show; None when having it is enough."""
    derive: Expression | None = None
    """A condition over concepts the case holds, in place of evidence."""
    declare: Slug | None = None
    """The question whose answer settles it: a fact that no register holds."""
    commitment: Commitment | None = None
    supply: Once[SupplyReason] = ()
    """The reasons for which the applicant may be asked to hand it in."""
    replaces: Once[PaperUse] = ()


class Calendar(StrEnum):
    """Which days a limit counts."""

    DAYS = "days"
    WORKING_DAYS = "working_days"
    MONTHS = "months"


class Limit(Model):
    """A time limit."""

    count: Annotated[int, Field(ge=0, le=MOST_DAYS)]
    """0 is on the spot."""
    calendar: Calendar
    basis: LegalReference | None = None


class Step(Model):
    """What one department does; Errand performs no step, it looks up the output."""

    name: Name
    provider: Slug
    after: Once[Slug] = ()
    """Steps that come before."""
    statutory: Limit | None = None
    """How long the law lets the step take; shown, and no time of a case comes of it."""
    promised: Limit | None = None
    """How long the department says it takes; shown likewise."""


class Visit(Model):
    """One trip to an office that the matter once took."""

    name: Name
    steps: OneOrMore[Slug]
    """Steps for which the person went there; the trip falls away when no requirement
    of theirs has to be handed in."""


class Matter(Model):
    """一件事: one errand, from the person's point of view; versioned."""

    id: Slug
    version: Version
    region: RegionCode
    name: Name
    purposes: Annotated[Mapping[Slug, Name], Field(min_length=1)]
    """What a case of this matter may be opened for, as a citizen reads it when asked
    for consent."""
    roles: Mapping[Slug, Role]
    questions: Mapping[Slug, Question]
    asks: Mapping[Slug, Ask]
    requirements: Mapping[Slug, Requirement]
    steps: Mapping[Slug, Step]
    papers: Mapping[Slug, Name]
    """The papers that people once carried, for the accounting of before and after."""
    visits: tuple[Visit, ...]
    source_limit: Span
    """How long a source may be down before the applicant is asked instead; at most a
    hundred years."""

    @property
    def ref(self) -> VersionedId:
        """The matter as `id@version`."""
        return f"{self.id}@{self.version}"
