"""The part of CEL that a pack's conditions are written in, checked without running it.

* names of questions (`parents_married`) and concepts (`mother.id`), literals
  (`true`, `'20'`, `3`), parentheses;
* `!`, `&&`, `||`; `==` and `!=` between two values of one type; `<`, `<=`, `>`,
  `>=` between texts or between whole numbers (ISO dates are texts, and sort);
* `in` with a list of literals, and `.startsWith('...')` on a text.

Nothing else of CEL can appear: arithmetic overflows, `size` counts bytes, `has`
would take unknown for absent, and a regular expression can run for ever. The check
knows every name's type, and for a choice its values, so a condition that could
never hold because of a misspelt value is refused as well.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, TypeAlias

from schemas.packtext import full_width

_MAX_LENGTH = 1_000  # characters
_MAX_DEPTH = 16  # parentheses and negations inside each other
_INT_LIMIT = 1 << 63


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


def names_in(text: str, names: Mapping[str, ValueType]) -> Mapping[str, ValueType]:
    """Return the names that a condition mentions, once it is checked whole.

    Args:
        text: The condition.
        names: The type of each question, by id, and of each concept, as `role.fact`.

    Raises:
        ExpressionError: It is not in this part of CEL, mentions another name,
            compares values of two types, or is not a condition.
    """
    if len(text) > _MAX_LENGTH:
        raise ExpressionError(f"longer than {_MAX_LENGTH} characters")
    checker = _Checker(text, names)
    checker.check()
    return checker.mentioned


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
            because = full_width(text[start]) or "not part of a condition"
            raise ExpressionError(f"at character {start + 1}: {because}")
        kind = found.lastgroup
        tokens.append(_Token(kind, found[kind], found.start(kind) + 1))
        place = found.end()
    return (*tokens, _Token("end", "", end + 1))


def _no_function(name: str) -> str:
    """Return why a function can't be used."""
    if name == "size":
        return "`size` counts bytes, not characters: it can't be used"
    return f"`{name}` can't be used: of functions only `startsWith` can"
