"""Plans: what stands before each requirement, and the look-ups in their waves.

A plan names roles, concepts, fields and services, and holds no value of a person.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from typing_extensions import override

from schemas.evidence import FieldName, Mode
from schemas.model import Concept, Expression, Slug, VersionedId


class SkipReason(StrEnum):
    """Why a list of a requirement is passed over."""

    SITUATION = "situation"
    """It does not count in this situation."""
    UNCOVERED = "uncovered"
    """Nobody registered covers the region or day for one of its asks."""
    UNREACHABLE = "unreachable"
    """A concept it takes is not known and can't be found out."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One list that comes before the one chosen, or that can't be met."""

    list: int
    """Its place among the requirement's lists, counted from 0."""
    reason: SkipReason
    names: tuple[str, ...]
    """The condition, the asks or the concepts that it fails by."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A concept that is not known and can't be found out."""

    concept: Concept
    is_statable: bool
    """Whether the portal may state it: `concept` is then `<role>.<fact>` of the
    matter's facts."""
    asks: tuple[Slug, ...]
    """Asks that would tell it and can't be made either."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one look-up does for one requirement."""

    lookup: str
    ask: Slug
    fields: tuple[FieldName, ...]
    """Fields that are passed on; empty when facts are verified."""
    compare: tuple[FieldName, ...]
    """Fields that are compared and not passed on."""


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """It does not apply in this situation."""

    condition: Expression


@dataclass(frozen=True, slots=True)
class AnswerNeeded:
    """Whether it applies, or how, turns on questions not answered yet."""

    questions: tuple[Slug, ...]
    """Exactly those that matter now; at least one."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """Whether it applies, or how, turns on facts that look-ups of the plan tell.

    It is planned again when they have told them.
    """

    condition: Expression
    concepts: tuple[Concept, ...]
    lookups: tuple[str, ...] = ()
    """The look-ups that tell the concepts."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The applicant has stated it: a fact that no register holds."""

    question: Slug


@dataclass(frozen=True, slots=True)
class Derive:
    """It is computed from concepts, in place of evidence."""

    expression: Expression
    concepts: tuple[Concept, ...]
    """Every concept that the expression reads."""
    lookups: tuple[str, ...] = ()
    """The look-ups that tell those the portal did not state."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Look-ups of the plan meet it by one of its lists."""

    list: int
    """The place of the list among the requirement's lists, counted from 0."""
    parts: tuple[Part, ...]
    """One for each need of the list, in its order."""
    skipped: tuple[Skipped, ...] = ()
    """The lists preferred to it, and why they are passed over."""
    lookups: tuple[str, ...] = ()
    """Every look-up it rests on directly: those of the parts, and those that tell
    what its criterion reads."""


@dataclass(frozen=True, slots=True)
class Uncovered:
    """Nobody registered covers this region or day."""

    asks: tuple[Slug, ...]
    """The asks nobody can answer; empty when none of its lists counts at all."""
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreachable:
    """What it would be looked up by is not known and can't be found out."""

    missing: tuple[Missing, ...]
    skipped: tuple[Skipped, ...] = ()


State: TypeAlias = (
    NotApplicable
    | AnswerNeeded
    | Undecided
    | Declared
    | Derive
    | Planned
    | Uncovered
    | Unreachable
)
"""What stands before a requirement, before anybody is asked."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """One question of a plan, put once however many requirements need the answer."""

    id: str
    """The ids of the asks that come to this question, joined by `+`; `#n` after it is
    the n-th alternative set of keys. The same question has the same id in every plan
    of the matter."""
    asks: tuple[Slug, ...]
    """The asks that the plan uses; every ask is in one look-up at most."""
    evidence_type: VersionedId
    mode: Mode
    about: Slug
    """The role whom it is about."""
    concerns: tuple[Slug, ...]
    """Further roles whom the answer reveals something about."""
    keys: Mapping[FieldName, Concept]
    """The chosen set of keys, whole."""
    match: Mapping[FieldName, Concept]
    """Facts that the source compares; empty when fields are retrieved."""
    region: Concept | None
    """The concept that tells the competent service; None: the matter's region."""
    services: tuple[Slug, ...]
    """The services that may be competent, best first; at least one. While the region
    is not known that is every one, and `exchange.catalogue.competent` tells later."""
    fields: tuple[FieldName, ...]
    """Every field that is asked for, ordered; empty when facts are verified. What no
    requirement passes on is compared, read by conditions, or leads to others."""
    tells: Mapping[Concept, FieldName]
    """Concepts that later look-ups may be made by → the field asked for that states
    it."""
    shows: Mapping[Concept, FieldName]
    """The same for all concepts, also those that may only be compared."""
    sources: Mapping[Concept, str]
    """Concepts that it takes and that are not known at the start → the earlier
    look-up that is asked for it."""
    serves: tuple[Slug, ...]
    """The requirements that need it, directly or by way of later look-ups."""

    inputs: frozenset[Concept] = field(init=False)
    """Every concept that must be known before it can be made."""
    roles: tuple[Slug, ...] = field(init=False)
    """The roles that it is about, concerns, or is made by, ordered."""
    all_fields: frozenset[FieldName] = field(init=False)
    """Fields that are asked for, and fields that the source compares."""

    def __post_init__(self) -> None:
        # Worked out here, since a plan is kept and read by many cases.
        region = () if self.region is None else (self.region,)
        inputs = frozenset([*self.keys.values(), *self.match.values(), *region])
        roles = {self.about, *self.concerns, *(c.partition(".")[0] for c in inputs)}
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "roles", tuple(sorted(roles)))
        object.__setattr__(self, "all_fields", frozenset([*self.fields, *self.match]))

    @override
    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be asked in a situation."""

    matter: VersionedId
    pack: str
    """The digest of the pack that it was made from."""
    requirements: Mapping[Slug, State]
    """In the matter's order."""
    lookups: Mapping[str, Lookup]
    """By id, in the order of the waves."""
    waves: tuple[tuple[str, ...], ...]
    """Look-up ids; each in the earliest wave that its keys allow."""


def ready(
    plan: Plan, known: Iterable[Concept], settled: Iterable[str]
) -> tuple[Lookup, ...]:
    """Return the look-ups that can be made now, in the order of the plan.

    At the start these are the first wave; when they have told what they could, the
    second; in a case that is taken up again, whatever is left to do.

    Args:
        plan: The plan.
        known: Concepts that have a value: stated, or told by evidence (`Lookup.tells`;
            not those of `Lookup.shows` alone, which may only be compared).
        settled: Ids of look-ups that are not to be made: answered, or given up.
    """
    have, done = frozenset(known), frozenset(settled)
    return tuple(
        lookup
        for lookup in plan.lookups.values()
        if lookup.id not in done and lookup.inputs <= have
    )
