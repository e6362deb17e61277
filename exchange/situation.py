"""What a case knows when it is planned, and what its conditions make of that.

A condition that can't be told yet is open: it names what would settle it. Unknown is
not false (decision 6), and no question is put that would change nothing.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from schemas.expressions import UNKNOWN, Program, Truth
from schemas.matter import Matter
from schemas.model import Concept, Expression, Slug

MAX_TRIED = 64
"""Most combinations of open answers that are tried to see which of them matter."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a case knows. Its values are personal: they are never printed."""

    answers: Mapping[Slug, object] = field(default_factory=dict, repr=False)
    """By question; a question that is not here has not been answered."""
    stated: Mapping[Concept, object] = field(default_factory=dict, repr=False)
    """Facts that the portal stated: the keys that are at hand from the start."""
    learned: Mapping[Concept, object] = field(default_factory=dict, repr=False)
    """Facts that evidence of the case told. They settle conditions and competence;
    the plan still holds the look-ups that told them, and so does not change shape."""
    barred: frozenset[Slug] = frozenset()
    """Asks that must not be planned: their answer is known to be of no use."""

    def value(self, concept: Concept) -> object:
        """Return a fact's value, or None; what was stated comes first."""
        return self.stated.get(concept, self.learned.get(concept))

    def environment(self) -> Mapping[str, object]:
        """Return what conditions are evaluated in: answers, and facts by role."""
        roles: dict[str, dict[str, object]] = {}
        for concept, value in {**self.learned, **self.stated}.items():
            role, _, fact = concept.partition(".")
            roles.setdefault(role, {})[fact] = value
        return {**roles, **self.answers}


Verdict: TypeAlias = bool | frozenset[str]
"""Whether a condition holds, or the names of the questions and concepts that still
matter: at least one."""


def verdict(program: Program, environment: Mapping[str, object]) -> Verdict:
    """Return whether a condition holds, or what would settle it."""
    truth = program.evaluate(environment)
    return truth if isinstance(truth, bool) else _mattering(program, environment)


def _mattering(program: Program, environment: Mapping[str, object]) -> frozenset[str]:
    """Return the open names that an undecided condition turns on.

    A name with few values matters when some change of it alone, whatever the others
    are, changes the result. One with any value matters when the others can leave the
    result unknown. With too many combinations, every open name is taken to matter.
    """
    missing = sorted(program.missing(environment))
    few = {n: values for n in missing if (values := program.names[n].values)}
    if prod(len(values) for values in few.values()) > MAX_TRIED:
        return frozenset(missing)
    results: dict[tuple[object, ...], Truth] = {
        chosen: program.evaluate(
            _with(environment, dict(zip(few, chosen, strict=True)))
        )
        for chosen in itertools.product(*few.values())
    }
    turning = {name for place, name in enumerate(few) if _turns(results, place)}
    if UNKNOWN in results.values():
        turning.update(name for name in missing if name not in few)
    return frozenset(turning)


def _turns(results: Mapping[tuple[object, ...], Truth], place: int) -> bool:
    """Tell whether changing the value at `place` alone ever changes the result."""
    seen: dict[tuple[object, ...], Truth] = {}
    for chosen, result in results.items():
        others = chosen[:place] + chosen[place + 1 :]
        if seen.setdefault(others, result) is not result:
            return True
    return False


def _with(
    environment: Mapping[str, object], values: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the environment with these names known as well."""
    wider: dict[str, object] = dict(environment)
    for name, value in values.items():
        root, _, fact = name.partition(".")
        if not fact:
            wider[root] = value
            continue
        facts = wider.get(root)
        known = facts if isinstance(facts, Mapping) else {}
        wider[root] = {**known, fact: value}
    return wider


def questions_to_put(
    matter: Matter,
    verdicts: Mapping[Expression, Verdict],
    names: frozenset[str],
) -> tuple[Slug, ...]:
    """Return the questions among `names` that can be put to the applicant now.

    A question that arises only in some situation gives way to the questions which
    tell whether it does. One that does not arise, and yet is all that is left, is
    put: the condition can't be told without it.
    """
    wanted = frozenset(name for name in names if name in matter.questions)
    found: set[Slug] = set()
    seen: set[Slug] = set()
    waiting = sorted(wanted)
    while waiting:
        question = waiting.pop()
        if question in seen:
            continue
        seen.add(question)
        when = matter.questions[question].when
        arises = True if when is None else verdicts[when]
        if isinstance(arises, bool):
            found.update({question} if arises else ())
            continue
        earlier = [name for name in arises if name in matter.questions]
        found.update(() if earlier else {question})
        waiting.extend(earlier)
    return tuple(sorted(found or wanted))
