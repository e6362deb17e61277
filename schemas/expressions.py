"""Conditions in CEL: checked whole when a pack is loaded, so that none fails later.

A pack's expressions are the part of CEL that can be checked without running it:

* names of questions (`parents_married`) and concepts (`mother.id`), literals
  (`true`, `'20'`, `3`), parentheses;
* `!`, `&&`, `||`; `==` and `!=` between two values of one type; `<`, `<=`, `>`,
  `>=` between texts or between whole numbers (ISO dates are texts, and sort);
* `in` with a list of literals, and `.startsWith('...')` on a text.

Nothing else of CEL can appear: arithmetic overflows, `size` counts bytes, `has`
would take unknown for absent, and a regular expression can run for ever. The check
knows every name's type, and for a choice its values, so a condition that could
never hold because of a misspelt value is refused as well.

`Program.evaluate` has three results. A name without a value makes what depends on
it UNKNOWN, never false: CEL lets `unknown || true` be true and `unknown && false`
be false, whichever side comes first, and all else is unknown. When the values of
an unanswered question are few, all are tried: if they agree, the result is known.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Literal, NoReturn, TypeAlias

import cel
from typing_extensions import override

from schemas.model import Concept

_MAX_LENGTH = 1_000  # characters
_MAX_DEPTH = 16  # parentheses and negations inside each other
_MAX_TRIED = 64  # combinations of answers
_INT_LIMIT = 1 << 63


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


class Kind(StrEnum):
    """What a value is, as far as conditions care."""

    BOOLEAN = "boolean"
    TEXT = "text"
    INTEGER = "integer"


Scalar: TypeAlias = bool | int | str


@dataclass(frozen=True, slots=True)
class ValueType:
    """The type of a question's answer or of a concept."""

    kind: Kind
    values: tuple[Scalar, ...] | None = None
    """All that it can be, where that is a short list; None when it is open."""

    def admits(self, value: object) -> bool:
        """Tell whether `value` is of this type."""
        if self.values is not None and value not in self.values:
            return False
        match self.kind:
            case Kind.BOOLEAN:
                return isinstance(value, bool)
            case Kind.TEXT:
                return isinstance(value, str)
            case Kind.INTEGER:
                if not isinstance(value, int) or isinstance(value, bool):
                    return False
                return -_INT_LIMIT <= value < _INT_LIMIT


BOOLEAN: Final = ValueType(Kind.BOOLEAN, (False, True))
TEXT: Final = ValueType(Kind.TEXT)
INTEGER: Final = ValueType(Kind.INTEGER)


class ExpressionError(ValueError):
    """An expression is wrong: says what and where; packs alone cause it."""


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
        text: The condition, in the part of CEL described above.
        names: The type of each question, by id, and of each concept, as `role.fact`.

    Raises:
        ExpressionError: It is not in that part of CEL, mentions another name,
            compares values of two types, or is not a condition.
    """
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"longer than {_MAX_LENGTH} characters")
    checker = _Checker(text, names)
    checker.check()
    try:
        compiled = cel.compile(text)
    except ValueError as error:
        raise ExpressionError("not CEL") from error
    roots = {name.partition(".")[0] for name in checker.mentioned}
    for root in roots:
        if _means_something(root):
            raise ExpressionError(f"`{root}` is a word of CEL: choose another name")
    if set(compiled.references()["variables"]) != roots:
        raise ExpressionError("CEL reads other names in it than this check does")
    return Program(text, dict(checker.mentioned), compiled)


def _means_something(root: str) -> bool:
    """Tell whether CEL gives a name a meaning of its own, as it does to `type`.

    Without a value such a name would be compared as CEL's, and not be unknown.
    """
    try:
        cel.compile(root).execute({})
    except (RuntimeError, ValueError):
        return False
    return True


# --- the check -----------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'[^'\\\n]*'|"[^"\\\n]*")
    | (?P<number>-?[0-9]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||==|!=|<=|>=|<|>|!|\(|\)|\[|\]|,|\.)
    )""",
    re.VERBOSE | re.ASCII,
)
_EQUALITY = ("==", "!=")
_ORDER = ("<", "<=", ">", ">=")
_RESERVED = re.compile(
    "as|break|const|continue|else|false|for|function|if|import|in|let|loop|namespace|"
    "null|package|return|true|var|void|while"
)


@dataclass(frozen=True, slots=True)
class _Token:
    """One word of an expression."""

    type: str
    text: str
    place: int
    """The place of its first character, counted from 1."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A part of an expression, as far as its type goes."""

    type: ValueType
    literal: Scalar | None = None


class _Checker:
    """Reads one expression from left to right and types every part of it."""

    def __init__(self, text: str, names: Mapping[str, ValueType]) -> None:
        self.names = names
        self.mentioned: dict[str, ValueType] = {}
        self.tokens = _tokens(text)
        self.at = 0
        self.depth = 0

    def check(self) -> None:
        """Check the whole expression, which must be a condition."""
        start = self.here
        self.condition(self.either(), start)
        if self.here.type != "end":
            self.fail(self.here, "more follows where the condition should end")

    @property
    def here(self) -> _Token:
        """The token that is read next."""
        return self.tokens[self.at]

    def take(self, *signs: str) -> str | None:
        """Read the next token if it is one of `signs`, and return it."""
        token = self.here
        if token.type not in ("sign", "name") or token.text not in signs:
            return None
        self.at += 1
        return token.text

    def demand(self, sign: str) -> None:
        """Read `sign`, which must come next."""
        if self.take(sign) is None:
            self.fail(self.here, f"`{sign}` expected")

    def fail(self, token: _Token, message: str) -> NoReturn:
        """Raise, naming the place."""
        raise ExpressionError(f"at character {token.place}: {message}")

    def condition(self, operand: _Operand, token: _Token) -> _Operand:
        """Return `operand` if it is true or false, and fail otherwise."""
        if operand.type.kind is not Kind.BOOLEAN:
            self.fail(token, f"a condition expected, not {operand.type.kind}")
        return _Operand(BOOLEAN)

    def either(self) -> _Operand:
        """Read `a || b || c`."""
        start = self.here
        left = self.both()
        while self.take("||"):
            self.condition(left, start)
            start = self.here
            left = self.condition(self.both(), start)
        return left

    def both(self) -> _Operand:
        """Read `a && b && c`."""
        start = self.here
        left = self.relation()
        while self.take("&&"):
            self.condition(left, start)
            start = self.here
            left = self.condition(self.relation(), start)
        return left

    def relation(self) -> _Operand:
        """Read a value, or one comparison of two."""
        left = self.value()
        sign_token = self.here
        if sign := self.take(*_EQUALITY, *_ORDER):
            self.compare(left, sign, self.value(), sign_token)
        elif self.take("in"):
            for member in self.literals():
                self.compare(left, "==", member, sign_token)
        else:
            return left
        if self.here.text in (*_EQUALITY, *_ORDER, "in"):
            self.fail(self.here, "one comparison at a time")
        return _Operand(BOOLEAN)

    def compare(
        self, left: _Operand, sign: str, right: _Operand, token: _Token
    ) -> None:
        """Check that two values can be compared and that it can make a difference."""
        if left.type.kind is not right.type.kind:
            self.fail(
                token, f"{left.type.kind} compared with {right.type.kind}: one type"
            )
        if sign in _ORDER and left.type.kind is Kind.BOOLEAN:
            self.fail(token, "true and false have no order")
        for name, other in ((left, right), (right, left)):
            values = name.type.values
            if other.literal is None or values is None or other.literal in values:
                continue
            listed = ", ".join(f"`{value}`" for value in values)
            self.fail(token, f"never equal: the value is one of {listed}")

    def value(self) -> _Operand:
        """Read a negation, a parenthesis, a literal or a name."""
        token = self.here
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(token, f"nested deeper than {_MAX_DEPTH}")
        if self.take("!"):
            operand = self.condition(self.value(), token)
        elif self.take("("):
            operand = self.either()
            self.demand(")")
        else:
            operand = self.literal() or self.name()
        self.depth -= 1
        return operand

    def literals(self) -> Iterator[_Operand]:
        """Read `[literal, literal]`, with at least one."""
        self.demand("[")
        while True:
            token = self.here
            literal = self.literal()
            if literal is None:
                self.fail(token, "a list holds literals only")
            yield literal
            if self.take("]"):
                return
            self.demand(",")

    def literal(self) -> _Operand | None:
        """Read a literal if one comes next."""
        token = self.here
        operand = None
        if token.type == "text":
            operand = _Operand(TEXT, token.text[1:-1])
        elif token.type == "number":
            operand = _Operand(INTEGER, int(token.text))
            if not INTEGER.admits(operand.literal):
                self.fail(token, "a number too large")
        elif token.text in ("true", "false"):
            operand = _Operand(BOOLEAN, token.text == "true")
        if operand is not None:
            self.at += 1
        return operand

    def name(self) -> _Operand:
        """Read a question's id, or `role.fact`, and what may follow it."""
        token = self.here
        name = self.identifier()
        if self.take("("):
            self.fail(token, _no_function(name))
        value_type = self.names.get(name)
        if value_type is None and self.take("."):
            name = f"{name}.{self.identifier()}"
            if self.here.text == "(":
                self.fail(token, _no_function(name.partition(".")[2]))
            value_type = self.names.get(name)
        if value_type is None:
            self.fail(token, f"`{name}` is no question and no concept of the matter")
        self.mentioned[name] = value_type
        operand = _Operand(value_type)
        return self.method(operand) if self.take(".") else operand

    def method(self, operand: _Operand) -> _Operand:
        """Read `startsWith('...')`, the one method there is."""
        token = self.here
        name = self.identifier()
        if name != "startsWith":
            self.fail(token, _no_function(name))
        if operand.type.kind is not Kind.TEXT:
            self.fail(token, f"`startsWith` is for text, not {operand.type.kind}")
        self.demand("(")
        prefix = self.literal()
        if prefix is None or prefix.type.kind is not Kind.TEXT:
            self.fail(token, "`startsWith` takes a text literal")
        self.demand(")")
        return _Operand(BOOLEAN)

    def identifier(self) -> str:
        """Read one identifier."""
        token = self.here
        if token.type != "name" or _RESERVED.fullmatch(token.text):
            self.fail(token, "a value expected")
        self.at += 1
        return token.text


def _tokens(text: str) -> tuple[_Token, ...]:
    """Cut an expression into tokens, with one of type `end` behind the last."""
    tokens = []
    place = 0
    end = len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise ExpressionError(f"at character {start + 1}: not part of a condition")
        kind = found.lastgroup
        tokens.append(_Token(kind, found[kind], found.start(kind) + 1))
        place = found.end()
    return (*tokens, _Token("end", "", end + 1))


def _no_function(name: str) -> str:
    """Return why a function can't be used."""
    if name == "size":
        return "`size` counts bytes, not characters: it can't be used"
    return f"`{name}` can't be used: of functions only `startsWith` can"
