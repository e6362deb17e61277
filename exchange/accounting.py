"""Papers and trips before and after, counted from a matter and a case's outcomes.

The counting rule: every hand-in counts, one for each paper and each office that took
it before, one for each paper that has to be handed in after; and every answer that the
applicant gives instead is counted too, apart, so that no saving is cosmetic. What does
not apply in a situation was never asked of this person: it counts on neither side.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Annotated

from pydantic import Field

from schemas.matter import Matter, Requirement
from schemas.model import Model, Slug
from schemas.outcome import (
    AnswerNeeded,
    Committed,
    NotApplicable,
    Outcome,
    Supplied,
    SupplyNeeded,
)

ACCOUNTS_KEPT = 1_024
"""Most accountings that are kept; the oldest goes first."""
_Number = Annotated[int, Field(ge=0)]


class BeforeAfter(Model):
    """One count, as the matter once was and as this case is."""

    before: _Number
    after: _Number


class Accounting(Model):
    """What a matter once took of this person, and what this case takes."""

    papers: BeforeAfter
    """Hand-ins: a paper that four offices wanted is four before."""
    kinds: BeforeAfter
    """Different papers among them."""
    trips: BeforeAfter
    """Visits to an office."""
    answers: _Number
    """Answers, facts and promises that are asked for now, those still open too."""
    open: _Number
    """Requirements not settled yet: until this is 0, what is after may still grow."""


class Accounts:
    """Accountings of cases as JSON, those of the same kind counted once.

    What a case takes turns on the kinds of its outcomes and on which questions were
    answered, never on a value.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, bytes] = {}

    def json(
        self, matter: Matter, outcomes: Mapping[Slug, Outcome], answers: Iterable[Slug]
    ) -> bytes:
        """Return what `account` counts, counted now or kept."""
        kinds, answered = tuple(map(type, outcomes.values())), tuple(answers)
        if AnswerNeeded in kinds:  # which answers it needs counts as well
            return account(matter, outcomes, answered).model_dump_json().encode()
        key = (matter.id, matter.version, tuple(outcomes), kinds, answered)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) == ACCOUNTS_KEPT:
                del self._kept[next(iter(self._kept))]
            found = account(matter, outcomes, answered).model_dump_json().encode()
            self._kept[key] = found
        return found


def account(
    matter: Matter,
    outcomes: Mapping[Slug, Outcome],
    answers: Iterable[Slug],
) -> Accounting:
    """Count papers, trips and answers of a case.

    Args:
        matter: The matter of the case.
        outcomes: What came of its requirements; one that is not there counts as open.
        answers: The questions that were answered.
    """
    applying = {
        name: requirement
        for name, requirement in matter.requirements.items()
        if not isinstance(outcomes.get(name), NotApplicable)
    }
    handed_in = {
        name: requirement
        for name, requirement in applying.items()
        if isinstance(outcomes.get(name), Supplied | SupplyNeeded)
    }
    uses = [use for one in applying.values() for use in one.replaces]
    left = [use for one in handed_in.values() for use in one.replaces]
    unnamed = sum(not requirement.replaces for requirement in handed_in.values())
    return Accounting(
        papers=BeforeAfter(
            before=sum(len(use.asked_by) for use in uses), after=len(left) + unnamed
        ),
        kinds=BeforeAfter(
            before=len({use.paper for use in uses}),
            after=len({use.paper for use in left}) + unnamed,
        ),
        trips=BeforeAfter(
            before=_trips_once(matter, applying.values()),
            after=_trips_now(matter, handed_in.values()),
        ),
        answers=_answers(matter, outcomes, frozenset(answers)),
        open=sum(
            name not in outcomes or not outcomes[name].is_settled
            for name in matter.requirements
        ),
    )


def asked_now(
    matter: Matter,
    outcomes: Mapping[Slug, Outcome],
    answers: Iterable[Slug],
    read: frozenset[Slug],
) -> tuple[Slug, ...]:
    """Return the answers that are asked for now, in their order.

    Args:
        matter: The matter of the case.
        outcomes: What came of its requirements.
        answers: The questions that were answered.
        read: The questions that the matter's conditions mention: they are always asked.
            Another one is asked while a requirement that it settles applies.
    """
    given = tuple(answers)
    if read.issuperset(given):
        return given
    wanted = {
        requirement.declare
        for name, requirement in matter.requirements.items()
        if not isinstance(outcomes.get(name), NotApplicable)
    }
    return tuple([one for one in given if one in read or one in wanted])


def _trips_once(matter: Matter, applying: Iterable[Requirement]) -> int:
    """Count the offices that the person went to: those with a step that applies."""
    steps = {step for requirement in applying for step in requirement.steps}
    return sum(not steps.isdisjoint(visit.steps) for visit in matter.visits)


def _trips_now(matter: Matter, handed_in: Iterable[Requirement]) -> int:
    """Count the offices at which something has to be handed in.

    What is handed in once serves every step, so it is at the first office on the way
    that needs it. Where no visit has the step, the hand-in is a trip of its own.
    """
    offices: set[int] = set()
    elsewhere = 0
    for requirement in handed_in:
        steps = frozenset(requirement.steps)
        first = (
            place
            for place, visit in enumerate(matter.visits)
            if not steps.isdisjoint(visit.steps)
        )
        place = next(first, None)
        if place is None:
            elsewhere += 1
        else:
            offices.add(place)
    return len(offices) + elsewhere


def _answers(
    matter: Matter, outcomes: Mapping[Slug, Outcome], answered: frozenset[Slug]
) -> int:
    """Count the answers given and still to be given, and the promises."""
    open_ones = [o for o in outcomes.values() if isinstance(o, AnswerNeeded)]
    asked = {question.id for one in open_ones for question in one.questions}
    facts = {fact.id for one in open_ones for fact in one.facts}
    promises = sum(isinstance(outcome, Committed) for outcome in outcomes.values())
    return len((answered | asked) & matter.questions.keys()) + len(facts) + promises
