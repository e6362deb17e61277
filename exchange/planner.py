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
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

from exchange.assembly import Chosen, assemble, goals_of, needs_of
from exchange.catalogue import Candidate, Catalogue, competent
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
from exchange.search import best_waves
from exchange.situation import Situation, Verdict, questions_to_put, verdict
from schemas.directory import DataService
from schemas.errors import NotFoundError
from schemas.matter import EvidenceList, Requirement
from schemas.model import Concept, Expression, Slug, VersionedId

Verdicts: TypeAlias = Mapping[Expression, Verdict]

PLANS_KEPT = 1_024
"""Most plans that a planner keeps; the one used longest ago goes first."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What can be asked in a situation, and what that could tell."""

    known: frozenset[Concept]
    """Known at the start."""
    covered: tuple[Candidate, ...]
    """Candidates for which somebody competent is registered, ordered by id."""
    services: Mapping[str, tuple[Slug, ...]]
    """For each of them the services, best first, by its id."""
    offers: tuple[Candidate, ...]
    """Those of them that can be carried out, all together."""
    told: frozenset[Concept]
    """What is known at the start, and all that could be known to look up by."""
    shown: frozenset[Concept]
    """The same, with what could only be compared."""


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
    value = situation.value
    personal: tuple[Verdict, ...] = ()
    if catalogue.personal:
        environment = situation.environment()
        personal = tuple(verdict(one, environment) for one in catalogue.personal)
    return (
        catalogue.matter.ref,
        catalogue.pack,
        on,
        tuple(map(answers.get, catalogue.chosen)),
        tuple(question in answers for question in catalogue.declared),
        catalogue.concepts.intersection(situation.stated),
        tuple(map(value, catalogue.regions)),
        situation.barred,
        personal,
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
    reach = find_reach(catalogue, situation, on)
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
        reach.offers,
        reach.known,
    )
    # (5): the states that rest on look-ups learn on which.
    return assemble(catalogue, states, waves, reach.known, reach.services)


def find_reach(catalogue: Catalogue, situation: Situation, on: date) -> Reach:
    """Find out how far the look-ups of a matter could get in a situation.

    INVARIANT: look-ups only ever add to what is known, so no look-up, and no list
    that is met by look-ups, can be in the way of another.
    """
    services = {
        candidate.id: tuple(service.id for service in found)
        for candidate in catalogue.candidates
        if situation.barred.isdisjoint(candidate.asks)
        and (found := _competent(catalogue, candidate, situation, on))
    }
    covered = tuple(c for c in catalogue.candidates if c.id in services)
    known = frozenset(situation.stated)
    told, rest = set(known), covered
    offers: list[Candidate] = []
    while more := [candidate for candidate in rest if candidate.inputs <= told]:
        offers += more
        told.update(concept for candidate in more for concept in candidate.tells)
        rest = tuple(candidate for candidate in rest if candidate not in more)
    shown = {concept for candidate in offers for concept in candidate.shows}
    return Reach(
        known=known,
        covered=covered,
        services=services,
        offers=tuple(offers),
        told=frozenset(told),
        shown=frozenset(shown | told),
    )


def _competent(
    catalogue: Catalogue, candidate: Candidate, situation: Situation, on: date
) -> tuple[DataService, ...]:
    """Return who may answer a candidate; every service while its region is open."""
    services = catalogue.services[candidate.evidence_type]
    if candidate.region is None:
        return competent(services, catalogue.matter.region, on)
    region = situation.value(candidate.region)
    return competent(services, region if isinstance(region, str) else None, on)


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
        untold = self._untold(concepts)
        if untold:
            return Unreachable(tuple(map(self._missing, untold)))
        return Undecided(condition, concepts)

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
        if untold := self._untold(concepts):
            return Unreachable(tuple(map(self._missing, untold)))
        return Derive(expression, concepts)

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
            else:
                return Chosen(place, listed.all, read, tuple(skipped))
        return self._unmet(tuple(skipped))

    def _obstacle(
        self, place: int, listed: EvidenceList, read: tuple[Concept, ...]
    ) -> Skipped | None:
        """Tell why a list is passed over; None when it can be met."""
        if listed.when is not None and self.verdicts[listed.when] is False:
            return Skipped(place, SkipReason.SITUATION, (listed.when,))
        answered = {ask for one in self.reach.covered for ask in one.asks}
        uncovered = {need.ask for need in listed.all} - answered
        if uncovered:
            return Skipped(place, SkipReason.UNCOVERED, tuple(sorted(uncovered)))
        lacking = {c for need in listed.all for c in self._lacking(need.ask)}
        lacking.update(self._untold(read))
        if lacking:
            return Skipped(place, SkipReason.UNREACHABLE, tuple(sorted(lacking)))
        return None

    def _unmet(self, skipped: tuple[Skipped, ...]) -> State:
        """Say why no list can be met: by the most preferred list that counts."""
        counting = [s for s in skipped if s.reason is not SkipReason.SITUATION]
        if not counting:
            return Uncovered((), skipped)
        first = counting[0]
        if first.reason is SkipReason.UNCOVERED:
            return Uncovered(first.names, skipped)
        return Unreachable(tuple(map(self._missing, first.names)), skipped)

    def _lacking(self, ask: Slug) -> frozenset[Concept]:
        """Return the concepts that keep an ask from being made.

        Of several sets of keys it is the one that lacks fewest.
        """
        gaps = [
            (one.inputs - self.reach.told, one.id)
            for one in self.reach.covered
            if ask in one.asks
        ]
        return min(gaps, key=lambda gap: (len(gap[0]), gap[1]))[0]

    def _untold(self, concepts: Iterable[Concept]) -> tuple[Concept, ...]:
        """Return the concepts that no look-up can show."""
        return tuple(c for c in concepts if c not in self.reach.shown)

    def _missing(self, concept: Concept) -> Missing:
        """Say where a concept that can't be found out would come from."""
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
