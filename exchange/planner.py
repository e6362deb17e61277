"""Which look-ups, in which waves, meet the requirements of a matter in a situation.

Pure: nothing here asks, waits, stores or reads a clock, and no plan holds a value of
a person. A plan is made by concepts (`mother.id`), so it stays as it is while a case
learns what the concepts stand for; only a region or a condition that becomes known
can change it.

The order of plans (decision 7): each requirement by the first of its lists that can
be met; then the fewest look-ups; then the fewest waves; then the ids. The search
(`exchange.search`) is exact; a matter for which it could take too long is refused
when its pack is loaded (`exchange.catalogue`).
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import date

from exchange.assembly import Chosen, assemble, goals_of, needs_of
from exchange.catalogue import Catalogue
from exchange.plan import (
    AnswerNeeded,
    Declared,
    Derive,
    Missing,
    NotApplicable,
    Plan,
    Skipped,
    SkipReason,
    State,
    Uncovered,
    Undecided,
    Unreachable,
)
from exchange.reach import Extent, Reach, Verdicts, find_reach
from exchange.search import best_waves
from exchange.situation import Situation, Verdict, questions_to_put, verdict
from schemas.errors import NotFoundError
from schemas.matter import EvidenceList, Requirement
from schemas.model import Concept, Expression, Slug, VersionedId

PLANS_KEPT = 1_024
"""Most plans that a planner keeps; the one used longest ago goes first."""


class Planner:
    """Plans the matters of one pack, and keeps the plans it made."""

    def __init__(
        self, catalogues: Iterable[Catalogue], capacity: int = PLANS_KEPT
    ) -> None:
        self._catalogues = {one.matter.ref: one for one in catalogues}
        self._capacity = capacity
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def catalogue(self, matter: VersionedId) -> Catalogue:
        """Return a matter, compiled.

        Raises:
            NotFoundError: The pack has no such matter.
        """
        try:
            return self._catalogues[matter]
        except KeyError:
            raise NotFoundError(f"there is no matter `{matter}`") from None

    def plan(self, matter: VersionedId, situation: Situation, on: date) -> Plan:
        """Return the plan of a matter in a situation, made now or kept.

        Args:
            matter: The matter as `id@version`.
            situation: What the case knows.
            on: The day as of which services must cover.

        Raises:
            NotFoundError: The pack has no such matter.
        """
        catalogue = self.catalogue(matter)
        key = plan_key(catalogue, situation, on)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = make_plan(catalogue, situation, on)
            if len(self._plans) > self._capacity:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan


def plan_key(catalogue: Catalogue, situation: Situation, on: date) -> Hashable:
    """Return all that a plan depends on.

    INVARIANT: no identifier, name, date or text of a person is in it: of answers only
    yes, no and choices; of facts only which are known, and regions; of a condition
    that reads anything else only what it comes to.
    """
    answers = situation.answers
    return (
        catalogue.matter.ref,
        catalogue.pack,
        on,
        tuple(map(answers.get, catalogue.chosen)),
        tuple(question in answers for question in catalogue.declared),
        catalogue.concepts.intersection(situation.stated),
        tuple(map(situation.value, catalogue.regions)),
        situation.barred,
        _personal_verdicts(catalogue, situation),
    )


def _personal_verdicts(
    catalogue: Catalogue, situation: Situation
) -> tuple[Verdict | None, ...]:
    """Return what the conditions come to that read personal values.

    None for one of whose personal values none is known: then it comes to the same for
    everybody who gave the same answers.
    """
    if not catalogue.personal:
        return ()
    environment = situation.environment()
    return tuple(
        verdict(one, environment)
        if any(c in situation.stated or c in situation.learned for c in one.concepts)
        or not catalogue.few.issuperset(one.questions & situation.answers.keys())
        else None
        for one in catalogue.personal
    )


def make_plan(catalogue: Catalogue, situation: Situation, on: date) -> Plan:
    """Plan a matter in a situation.

    (1) Tell which conditions hold, and what the open ones turn on.
    (2) Find out how far look-ups could get.
    (3) For each requirement, tell what stands before it, and which list meets it.
    (4) Search the best look-ups for all of them together.
    (5) Say which fields each look-up is asked for, and for whom.

    Args:
        catalogue: The matter, compiled.
        situation: What the case knows.
        on: The day as of which services must cover.
    """
    # (1): all of them, since several requirements may share one.
    environment = situation.environment()
    verdicts = {
        text: verdict(program, environment)
        for text, program in catalogue.programs.items()
    }
    # (2): once for all requirements.
    reach = find_reach(catalogue, situation, verdicts, on)
    # (3): each alone: see the invariant of `find_reach`.
    scope = _Scope(catalogue, situation, verdicts, reach)
    states = {
        name: scope.before_asking(requirement)
        for name, requirement in catalogue.matter.requirements.items()
    }
    # (4): only what some requirement needs, and what that takes.
    waves = best_waves(
        {need.ask for state in states.values() for need in needs_of(state)},
        {c for state in states.values() for c in goals_of(state)} - reach.known,
        reach.sure.offers,
        reach.known,
    )
    # (5): the states that rest on look-ups learn on which.
    return assemble(catalogue, states, waves, reach.known, reach.services)


@dataclass(frozen=True, slots=True)
class _Scope:
    """What every requirement of one plan is judged by."""

    catalogue: Catalogue
    situation: Situation
    verdicts: Verdicts
    reach: Reach

    def before_asking(self, requirement: Requirement) -> State | Chosen:
        """Tell what stands before a requirement, or which list meets it."""
        when = requirement.when
        if when is not None and self.verdicts[when] is not True:
            return self._unless(when)
        if requirement.declare is not None:
            return self._declared(requirement.declare)
        read = requirement.derive or requirement.criterion
        if read is not None and (questions := self._questions(read)):
            return AnswerNeeded(questions)
        if requirement.derive is not None:
            return self._derived(requirement.derive)
        return self._listed(requirement)

    def _unless(self, condition: Expression) -> State:
        """Tell what a condition leads to that does not hold, or not yet."""
        held = self.verdicts[condition]
        if isinstance(held, bool):
            return NotApplicable(condition)
        if questions := self._questions(condition):
            return AnswerNeeded(questions)
        concepts = tuple(sorted(held))
        return self._unshown(concepts) or Undecided(condition, concepts)

    def _questions(self, condition: Expression) -> tuple[Slug, ...]:
        """Return the questions that a condition turns on, as they can be put now."""
        held = self.verdicts[condition]
        if isinstance(held, bool):
            return ()
        return questions_to_put(self.catalogue.matter, self.verdicts, held)

    def _declared(self, question: Slug) -> State:
        """Tell whether a fact has been stated that only the applicant can state."""
        if question in self.situation.answers:
            return Declared(question)
        when = self.catalogue.matter.questions[question].when
        if when is not None and self.verdicts[when] is not True:
            return self._unless(when)
        return AnswerNeeded((question,))

    def _derived(self, expression: Expression) -> State:
        """Tell whether all that an expression reads can be known."""
        concepts = tuple(sorted(self.catalogue.programs[expression].concepts))
        return self._unshown(concepts) or Derive(expression, concepts)

    def _unshown(self, concepts: Iterable[Concept]) -> State | None:
        """Tell what stands before reading concepts; None when look-ups show them."""
        wanted = frozenset(concepts)
        if never := wanted - self.reach.possible.shown:
            return Unreachable(self._missing(never))
        if not_yet := wanted - self.reach.sure.shown:
            return self._opening(not_yet)
        return None

    def _listed(self, requirement: Requirement) -> State | Chosen:
        """Choose the first list that counts and can be met."""
        read: tuple[Concept, ...] = ()
        if requirement.criterion is not None:
            program = self.catalogue.programs[requirement.criterion]
            read = tuple(sorted(program.concepts))
        skipped: list[Skipped] = []
        for place, listed in enumerate(requirement.lists):
            obstacle = self._obstacle(place, listed, read)
            if obstacle is not None:
                skipped.append(obstacle)
            elif listed.when is not None and self.verdicts[listed.when] is not True:
                # Only a list that can be met is worth a question.
                return self._unless(listed.when)
            elif not_yet := self._lacking(listed, read, self.reach.sure):
                return self._opening(not_yet)
            else:
                return Chosen(place, listed.all, read, tuple(skipped))
        return self._unmet(tuple(skipped))

    def _obstacle(
        self, place: int, listed: EvidenceList, read: tuple[Concept, ...]
    ) -> Skipped | None:
        """Tell why a list is passed over, whatever is answered; None when it is not."""
        if listed.when is not None and self.verdicts[listed.when] is False:
            return Skipped(place, SkipReason.SITUATION, (listed.when,))
        answered = {ask for one in self.reach.covered for ask in one.asks}
        if uncovered := {need.ask for need in listed.all} - answered:
            return Skipped(place, SkipReason.UNCOVERED, tuple(sorted(uncovered)))
        if never := self._lacking(listed, read, self.reach.possible):
            return Skipped(place, SkipReason.UNREACHABLE, tuple(sorted(never)))
        return None

    def _unmet(self, skipped: tuple[Skipped, ...]) -> State:
        """Say why no list can be met: by the most preferred list that counts."""
        counting = [s for s in skipped if s.reason is not SkipReason.SITUATION]
        if not counting:
            return Uncovered((), skipped)
        first = counting[0]
        if first.reason is SkipReason.UNCOVERED:
            return Uncovered(first.names, skipped)
        return Unreachable(self._missing(first.names), skipped)

    def _lacking(
        self, listed: EvidenceList, read: tuple[Concept, ...], extent: Extent
    ) -> frozenset[Concept]:
        """Return the concepts that keep a list from being met within an extent.

        Of several sets of keys it is the one that lacks fewest.
        """
        lacking = set(read) - extent.shown
        for need in listed.all:
            gaps = [
                (one.inputs - extent.told, one.id)
                for one in self.reach.covered
                if need.ask in one.asks
            ]
            lacking |= min(gaps, key=lambda gap: (len(gap[0]), gap[1]))[0]
        return frozenset(lacking)

    def _opening(self, lacking: frozenset[Concept]) -> State:
        """Tell what would open the way to concepts that open asks alone could tell."""
        sure, verdicts = self.reach.sure, self.verdicts
        conditions: set[Expression] = set()
        names: set[str] = set()
        seen: set[Concept] = set()
        waiting = set(lacking)
        while waiting := waiting - seen:
            seen |= waiting
            tellers = [
                o for o in self.reach.possible.offers if waiting & o.shows.keys()
            ]
            asks = {ask for one in tellers for ask in one.asks}
            found = {c for ask in asks for c in self.reach.opening.get(ask, ())}
            conditions |= found
            names.update(*(v for c in found if not isinstance(v := verdicts[c], bool)))
            needed = {concept for one in tellers for concept in one.inputs - sure.told}
            waiting = needed | (names - self.catalogue.matter.questions.keys())
            waiting -= sure.shown
        if questions := questions_to_put(
            self.catalogue.matter, verdicts, frozenset(names)
        ):
            return AnswerNeeded(questions)
        if concepts := names & sure.shown:
            return Undecided(min(conditions), tuple(sorted(concepts)))
        return Unreachable(self._missing(lacking))

    def _missing(self, concepts: Iterable[Concept]) -> tuple[Missing, ...]:
        """Say of concepts that can't be found out where they would come from."""
        return tuple(self._missing_one(concept) for concept in sorted(concepts))

    def _missing_one(self, concept: Concept) -> Missing:
        role, _, fact = concept.partition(".")
        declared = self.catalogue.matter.roles.get(role)
        tellers = {
            ask
            for one in self.catalogue.candidates
            for ask, _ in one.shows.get(concept, ())
        }
        return Missing(
            concept=concept,
            is_statable=declared is not None and fact in declared.facts,
            asks=tuple(sorted(tellers)),
        )
