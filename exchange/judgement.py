"""Every requirement of a case, judged by its plan: pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import assert_never

from consent.rules import Rule
from exchange import plan as planned
from exchange.case import Held, Shown
from exchange.opened import OpenCase
from exchange.outcomes import AMBIGUOUS, Attempts, Judge, Supply, reason_found
from exchange.plan import Lookup, Part, Plan, State
from schemas.outcome import (
    Committed,
    Conflict,
    Declared,
    Failed,
    Mismatch,
    NotApplicable,
    Outcome,
    Refused,
)


def judge_case(
    case: OpenCase,
    plans: Sequence[Plan],
    now: datetime,
    ended: Rule | None,
    *,
    renewed: bool,
) -> None:
    """Note the outcome of every requirement, and the evidence it rests on.

    Args:
        case: What the case knows now.
        plans: The plan, and before it those whose lists came to nothing. Where the
            last plan has no list left for a requirement, the one before speaks.
        now: The instant.
        ended: The rule by which the mandate of an agent's case holds no more; None
            when it holds, or none is needed.
        renewed: Whether evidence of earlier runs reads as `reused`.
    """
    attempts = _answering(case, plans)
    run = case.content.run if renewed else 0
    judge = Judge(case.head.id, case.matter, attempts, now, reused_before=run)
    scope = _Scope(case, judge, attempts)
    case.content.outcomes, case.content.shown = {}, {}
    for requirement in case.matter.requirements:
        plan = plans[0] if len(plans) == 1 else _speaking(plans, requirement)
        state = plan.requirements[requirement]
        outcome = scope.judge(requirement, plan, state)
        if not outcome.is_settled:
            outcome = scope.accepted(requirement, outcome)
            # What was accepted before it ended stays.
            outcome = outcome if ended is None else judge.ended(outcome, ended)
        case.content.outcomes[requirement] = outcome
        if outcome.evidence and isinstance(state, planned.Planned):
            case.content.shown[requirement] = _shown(attempts, state)


def _answering(case: OpenCase, plans: Sequence[Plan]) -> Attempts:
    """Return the tries that answer the questions as they are now, by look-up."""
    attempts = case.content.attempts
    if case.is_first_run:
        return attempts
    lookups = {one.id: one for plan in plans for one in plan.lookups.values()}
    found = {name: case.answered(lookup) for name, lookup in lookups.items()}
    return {name: attempt for name, attempt in found.items() if attempt is not None}


def _shown(results: Attempts, state: planned.Planned) -> tuple[Shown, ...]:
    """Return what each part of a list that is met contributes."""
    return tuple(
        [
            Shown(evidence=result.evidence, lookup=part.lookup, fields=part.fields)
            for part in state.parts
            if isinstance(result := results[part.lookup].result, Held)
        ]
    )


def _speaking(plans: Sequence[Plan], requirement: str) -> Plan:
    """Return the last plan that still had a list for a requirement."""
    for plan in reversed(plans):
        match plan.requirements[requirement]:
            case planned.Uncovered() | planned.Unreachable():
                continue
            case _:
                return plan
    return plans[0]


class _Scope:
    """What every requirement of one case is judged by."""

    def __init__(self, case: OpenCase, judge: Judge, attempts: Attempts) -> None:
        self._case = case
        self._judge = judge
        self._attempts = attempts

    def judge(  # noqa: C901, PLR0911, PLR0912 - a branch for each member of a union
        self, requirement: str, plan: Plan, state: State
    ) -> Outcome:
        """Return the outcome of a requirement, by what stands before it."""
        match state:
            case planned.Planned():
                return self._planned(requirement, plan, state)
            case planned.NotApplicable(condition=condition):
                return NotApplicable(condition=condition)
            case planned.AnswerNeeded(questions=questions):
                return self._judge.missing(questions)
            case planned.Undecided():
                return self._undecided(requirement, plan, state)
            case planned.Declared():
                return Declared()
            case planned.Derive():
                return self._derived(requirement, plan, state)
            case planned.Uncovered():
                return self._judge.uncovered(self._supply(requirement))
            case planned.Unreachable():
                supply = self._supply(requirement)
                return self._unreachable(plan, state, supply, frozenset((requirement,)))
            case _:
                assert_never(state)

    def accepted(self, requirement: str, found: Outcome) -> Outcome:
        """Let a commitment, or what was handed in, settle what is still open.

        INVARIANT: neither settles what evidence speaks against, which a person decides;
        and a reason for handing in counts only where it is the one that was found, now
        or before.
        """
        content = self._case.content
        may_commit = self._case.matter.requirements[requirement].commitment is not None
        is_against = isinstance(found, Mismatch | Conflict)
        if may_commit and requirement in content.committed and not is_against:
            return Committed()
        last = content.supplied.get(requirement)
        if last is None or isinstance(found, Mismatch):
            return found
        # A paper shows what the answers of then asked for, and nothing else.
        counting = set(self._case.counting(requirement))
        if last.reason is reason_found(found) and counting.issubset(last.lists):
            content.accepted[requirement] = last
        accepted = content.accepted.get(requirement)
        if accepted is None or not counting.issubset(accepted.lists):
            return found
        return self._judge.supplied(accepted.reason)

    def _supply(self, requirement: str) -> Supply:
        return self._case.matter.requirements[requirement].supply

    def _planned(self, requirement: str, plan: Plan, state: planned.Planned) -> Outcome:
        supply = self._supply(requirement)
        found = self._evidence(supply, plan, state.parts)
        criterion = self._case.matter.requirements[requirement].criterion
        if criterion is None or not found.is_settled:
            return found
        truth = self._evaluate(criterion)
        if truth is False:
            return self._judge.criterion_failed(found)
        if truth is True:
            return found
        told = self._resting_on(supply, plan, state.lookups)
        read = self._case.catalogue.programs[criterion].concepts
        return self._unsaid(supply, plan, state.lookups, read, told)

    def _undecided(
        self, requirement: str, plan: Plan, state: planned.Undecided
    ) -> Outcome:
        """Say what a requirement waits for that turns on an unknown condition.

        INVARIANT: nothing is said of a register that was not asked. What another one
        failed by is no outcome of this requirement: it waits for whoever mends that.
        """
        supply = self._supply(requirement)
        when = self._case.matter.requirements[requirement].when
        if when is not None and self._evaluate(when) is not True:
            supply = ()  # nobody is to hand in what perhaps does not apply
        told = self._resting_on(supply, plan, state.lookups)
        if isinstance(told, Failed):
            return self._judge.chained(told)
        return self._unsaid(supply, plan, state.lookups, state.concepts, told)

    def _unsaid(
        self,
        supply: Supply,
        plan: Plan,
        lookups: Iterable[str],
        read: Iterable[str],
        told: Outcome,
    ) -> Outcome:
        """Say what a requirement waits for while a condition's concepts are unknown.

        INVARIANT (rule 10): where all look-ups came, one kept silent. What the portal
        may state it is asked for; else what the matter lets the applicant hand in is
        handed in; else the record is its provider's to mend.

        Args:
            supply: The reasons for which the applicant may hand it in.
            plan: Its plan.
            lookups: Those that could tell the concepts.
            read: The concepts.
            told: How these look-ups stand.
        """
        if not told.is_settled:
            return told
        blank = sorted(set(read) - self._case.content.facts.keys())
        if statable := [concept for concept in blank if self._is_statable(concept)]:
            return self._judge.missing((), statable[:1])
        for lookup in lookups:
            provider = self._attempts[lookup].provider
            is_silent = not plan.lookups[lookup].shows.keys().isdisjoint(blank)
            if is_silent and provider is not None:
                return self._judge.untold(provider, supply)
        return self._judge.chained()

    def _unreachable(
        self,
        plan: Plan,
        state: planned.Unreachable,
        supply: Supply,
        behind: frozenset[str],
    ) -> Outcome:
        """Say what a requirement waits for that no look-up can be made for.

        What the portal may state, it is asked for, also where a register would have
        told it that nobody can ask now. Else whoever has to move for a requirement
        that such a register serves has to move for this one.

        Args:
            plan: The plan.
            state: What the requirement lacks.
            supply: The reasons for which the applicant may hand it in.
            behind: The requirements that wait for it, itself among them.
        """
        facts = [m.concept for m in state.missing if m.is_statable]
        if facts:
            return self._judge.missing((), facts)
        tellers = {ask for one in state.missing for ask in one.asks}
        for name, upstream in plan.requirements.items():
            lists = self._case.matter.requirements[name].lists
            asks = {need.ask for one in lists for need in one.all}
            if name in behind or tellers.isdisjoint(asks):
                continue
            match upstream:
                case planned.Unreachable():
                    told = self._unreachable(plan, upstream, supply, behind | {name})
                    return self._judge.chained(told)
                case planned.Uncovered():
                    return self._judge.chained(self._judge.uncovered(supply))
                case _:
                    continue
        return self._judge.chained()

    def _derived(self, requirement: str, plan: Plan, state: planned.Derive) -> Outcome:
        supply = self._supply(requirement)
        told = self._resting_on(supply, plan, state.lookups)
        truth = self._evaluate(state.expression)
        if truth is True:
            return self._judge.derived(state.expression, told.elapsed_ms)
        if truth is False:
            return self._judge.criterion_failed(told)
        return self._unsaid(supply, plan, state.lookups, state.concepts, told)

    def _resting_on(
        self, supply: Supply, plan: Plan, lookups: Iterable[str]
    ) -> Outcome:
        """Return how the look-ups stand that tell what a condition reads."""
        parts = [
            Part(lookup=lookup, ask=plan.lookups[lookup].asks[0], fields=(), compare=())
            for lookup in lookups
        ]
        if not parts:
            return self._judge.chained()
        return self._evidence(supply, plan, parts)

    def _evidence(self, supply: Supply, plan: Plan, parts: Sequence[Part]) -> Outcome:
        """Judge a requirement by what its look-ups brought.

        INVARIANT (rule 6): where several records fit, such as those of twins, nobody
        picks one. What would tell them apart is asked of the portal, if it may state
        it: the facts by which the same evidence can be looked up otherwise.
        """
        found = self._judge.evidence(
            supply, parts, partial(self._unasked, supply, plan)
        )
        if not isinstance(found, Refused) or found.rule != AMBIGUOUS:
            return found
        lookups = {part.lookup for part in parts}
        asks, known = {part.ask for part in parts}, self._case.known()
        telling = [
            sorted(one.inputs - known)
            for one in self._case.catalogue.candidates
            if one.id not in lookups and not asks.isdisjoint(one.asks)
        ]
        statable = [s for s in telling if s and all(map(self._is_statable, s))]
        if not statable:
            return found
        fewest: list[str] = min(statable, key=lambda facts: (len(facts), facts))
        return self._judge.missing((), fewest, found)

    def _unasked(
        self,
        supply: Supply,
        plan: Plan,
        lookup: str,
        behind: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Say what a look-up waits for that could not be made yet.

        INVARIANT (rule 10): the first fact it lacks tells who has to move: the look-up
        that could tell that fact has its own owner and next step; where it came and
        kept silent, the portal may state the fact, or the applicant hand the evidence
        in, if the matter lets them; else the record is its provider's to mend.

        Args:
            supply: The reasons for which the applicant may hand it in.
            plan: Its plan.
            lookup: The look-up.
            behind: The look-ups that wait for it, so that none waits for itself.
        """
        behind |= {lookup}
        for concept, sources in self._lacking(plan, plan.lookups[lookup]):
            silent = None
            for source in [one for one in sources if one not in behind]:
                attempt = self._attempts.get(source)
                if attempt is None:
                    return self._unasked(supply, plan, source, behind)
                if not isinstance(attempt.result, Held):
                    told = self._resting_on(supply, plan, (source,))
                    return self._judge.chained(told)
                silent = attempt.provider
            if self._is_statable(concept):
                return self._judge.missing((), (concept,))
            if silent is not None:
                return self._judge.untold(silent, supply)
        return self._judge.chained()

    def _lacking(
        self, plan: Plan, lookup: Lookup
    ) -> Iterable[tuple[str, tuple[str, ...]]]:
        """Yield each fact that a look-up lacks, and the look-ups that could tell it.

        Those that it is made by come first; then, since a consent is theirs to give,
        the ids of those whom it is about or concerns.
        """
        for concept in sorted(lookup.inputs - self._case.known()):
            if concept in lookup.sources:
                yield concept, (lookup.sources[concept],)
        if not self._case.content.run:
            return  # a case that never ran has decided nothing yet
        for role in (lookup.about, *lookup.concerns):
            concept = f"{role}.id"
            if self._case.person(role) is None:
                tellers = [o.id for o in plan.lookups.values() if concept in o.shows]
                yield concept, tuple(tellers)

    def _is_statable(self, concept: str) -> bool:
        role, _, fact = concept.partition(".")
        declared = self._case.matter.roles.get(role)
        return declared is not None and fact in declared.facts

    def _evaluate(self, expression: str) -> object:
        program = self._case.catalogue.programs[expression]
        return program.evaluate(self._environment)

    @cached_property
    def _environment(self) -> Mapping[str, object]:
        """What conditions are evaluated in: most requirements have none."""
        return self._case.situation().environment()
