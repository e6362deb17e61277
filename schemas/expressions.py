"""Conditions in CEL: compiled once when a pack is loaded, and true, false or UNKNOWN.

What may stand in one is checked whole before (`schemas.grammar`), so that none fails
later. A name without a value makes what depends on it UNKNOWN, never false: CEL lets
`unknown || true` be true and `unknown && false` be false, whichever side comes first,
and all else is unknown. When the values of an unanswered question are few, all are
tried: if they agree, the result is known.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NoReturn, TypeAlias

import cel
from typing_extensions import override

from schemas.grammar import ExpressionError, Scalar, ValueType, names_in
from schemas.model import Concept

_MAX_TRIED = 64  # combinations of answers


class Unknown(Enum):
    """The third result of a condition."""

    UNKNOWN = "unknown"

    @override
    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> NoReturn:
        """Refuse to be taken for true or false.

        INVARIANT: unknown is never false (and never true).
        """
        raise TypeError("an unknown condition is neither true nor false")


UNKNOWN: Final = Unknown.UNKNOWN

Truth: TypeAlias = bool | Literal[Unknown.UNKNOWN]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A condition that is compiled and can't fail."""

    text: str
    names: Mapping[str, ValueType]
    """Every question and every concept that it mentions, with its type."""
    _compiled: cel.Program = field(repr=False)

    @property
    def questions(self) -> frozenset[str]:
        """The questions that it mentions."""
        return frozenset(name for name in self.names if "." not in name)

    @property
    def concepts(self) -> frozenset[Concept]:
        """The concepts that it mentions."""
        return frozenset(name for name in self.names if "." in name)

    def evaluate(self, environment: Mapping[str, object]) -> Truth:
        """Return whether the condition holds, or UNKNOWN.

        Args:
            environment: Answers by question id, and for each role a mapping of its
                known facts: `{"parents_married": True, "mother": {"id": "..."}}`.
                More than is mentioned may be there. A value that is not of the
                declared type counts as not known.
        """
        known = dict(self._known(environment))
        result = self._run(known)
        if result is not UNKNOWN:
            return result
        return self._try_all(known)

    def missing(self, environment: Mapping[str, object]) -> frozenset[str]:
        """Return the names it mentions for which `environment` has no value."""
        return frozenset(self.names) - dict(self._known(environment)).keys()

    def _known(self, environment: Mapping[str, object]) -> Iterator[tuple[str, Scalar]]:
        """Yield each name that has a value of its type."""
        for name, value_type in self.names.items():
            root, _, fact = name.partition(".")
            value = environment.get(root)
            if fact:
                value = value.get(fact) if isinstance(value, Mapping) else None
            if isinstance(value, bool | int | str) and value_type.admits(value):
                yield name, value

    def _run(self, known: Mapping[str, Scalar]) -> Truth:
        """Run the compiled condition; a missing name makes it fail, so unknown."""
        context: dict[str, Scalar | dict[str, Scalar]] = {}
        for name, value in known.items():
            root, _, fact = name.partition(".")
            if not fact:
                context[root] = value
                continue
            facts = context.setdefault(root, {})
            if isinstance(facts, dict):  # a question never has a role's name
                facts[fact] = value
        try:
            result = self._compiled.execute(context)
        except (KeyError, RuntimeError):
            # A missing fact is a KeyError, a missing root a RuntimeError. The check at
            # load leaves no other cause, and with nothing missing there is none.
            if len(known) == len(self.names):
                raise
            return UNKNOWN
        return bool(result)

    def _try_all(self, known: Mapping[str, Scalar]) -> Truth:
        """Return the result that all possible answers agree on, or UNKNOWN."""
        open_names = [
            (name, value_type.values)
            for name, value_type in self.names.items()
            if name not in known and value_type.values is not None
        ]
        combinations = 1
        for _, values in open_names:
            combinations *= len(values)
        if not open_names or combinations > _MAX_TRIED:
            return UNKNOWN
        results = {
            self._run({**known, **dict(zip(dict(open_names), chosen, strict=True))})
            for chosen in itertools.product(*(values for _, values in open_names))
        }
        return results.pop() if len(results) == 1 else UNKNOWN


def compile_expression(text: str, names: Mapping[str, ValueType]) -> Program:
    """Return the condition `text`, checked against all names that may appear in it.

    Args:
        text: The condition, in the part of CEL of `schemas.grammar`.
        names: The type of each question, by id, and of each concept, as `role.fact`.

    Raises:
        ExpressionError: It is not in that part of CEL, mentions another name,
            compares values of two types, or is not a condition.
    """
    mentioned = names_in(text, names)
    try:
        compiled = cel.compile(text)
    except ValueError as error:
        raise ExpressionError("not CEL") from error
    roots = {name.partition(".")[0] for name in mentioned}
    for root in roots:
        if _means_something(root):
            raise ExpressionError(f"`{root}` is a word of CEL: choose another name")
    if set(compiled.references()["variables"]) != roots:
        raise ExpressionError("CEL reads other names in it than this check does")
    return Program(text, mentioned, compiled)


def _means_something(root: str) -> bool:
    """Tell whether CEL gives a name a meaning of its own, as it does to `type`.

    Without a value such a name would be compared as CEL's, and not be unknown.
    """
    try:
        cel.compile(root).execute({})
    except (RuntimeError, ValueError):
        return False
    return True
