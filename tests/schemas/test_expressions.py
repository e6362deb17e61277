"""Conditions: what is taken, what they come to, and that unknown is never false."""

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.expressions import UNKNOWN, Truth, compile_expression
from schemas.grammar import BOOLEAN, INTEGER, TEXT, ExpressionError, Kind, ValueType

Name = str
Value = bool | int | str
Tree = tuple[str, ...] | tuple[str, "Tree"] | tuple[str, "Tree", "Tree"]

NAMES: Mapping[Name, ValueType] = {
    "married": BOOLEAN,
    "insured": BOOLEAN,
    "joins": ValueType(Kind.TEXT, ("mother", "father", "other")),
    "mother.name": TEXT,
    "father.name": TEXT,
    "child.order": INTEGER,
}
POSSIBLE: Mapping[Name, tuple[Value, ...]] = {
    "married": (True, False),
    "insured": (True, False),
    "joins": ("mother", "father", "other"),
    "mother.name": ("a", "b"),
    "father.name": ("a", "b"),
    "child.order": (1, 2),
}
"""The values that tests give; of open names only some of all."""

LEAVES = st.sampled_from(
    [
        "married",
        "insured == true",
        "joins == 'mother'",
        "joins != 'father'",
        "joins in ['father', 'other']",
        "mother.name == father.name",
        "mother.name < 'b'",
        "father.name.startsWith('b')",
        "child.order >= 2",
        "child.order in [1, 3]",
        "true",
        "false",
    ]
)


def conditions() -> st.SearchStrategy[str]:
    """Return conditions over all names, bracketed whole."""
    return st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.builds("({} && {})".format, inner, inner),
            st.builds("({} || {})".format, inner, inner),
            st.builds("!({})".format, inner),
        ),
        max_leaves=8,
    )


def situations() -> st.SearchStrategy[dict[Name, Value]]:
    """Return what is known in some situation: any names, with any of their values."""
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(POSSIBLE[name]) for name in POSSIBLE}
    )


def environment(known: Mapping[Name, Value]) -> dict[str, object]:
    """Return what is known as conditions take it: facts by role."""
    nested: dict[str, object] = {"mother": {}, "father": {}, "child": {}}
    for name, value in known.items():
        root, _, fact = name.partition(".")
        if fact:
            facts = nested[root]
            assert isinstance(facts, dict)
            facts[fact] = value
        else:
            nested[name] = value
    return nested


def in_python(text: str, known: Mapping[Name, Value]) -> bool:
    """Return what a condition comes to when all is known, by Python's own rules."""
    for cel, python in (("&&", " and "), ("||", " or "), ("!(", " not (")):
        text = text.replace(cel, python)
    for cel, python in (("true", "True"), ("false", "False")):
        text = text.replace(cel, python)
    names = {name.replace(".", "_"): value for name, value in known.items()}
    for name in known:
        text = text.replace(name, name.replace(".", "_"))
    text = text.replace("startsWith", "startswith")
    return bool(eval(text, {"__builtins__": {}}, names))  # noqa: S307 - texts of this file


@given(conditions(), situations())
def test_unknown_is_never_false_and_never_true(
    text: str, known: dict[Name, Value]
) -> None:
    """A result is given only when every way to fill in the rest leads to it."""
    result = compile_expression(text, NAMES).evaluate(environment(known))
    missing = [name for name in POSSIBLE if name not in known]
    all_ways = {
        in_python(text, {**known, **dict(zip(missing, values, strict=True))})
        for values in itertools.product(*(POSSIBLE[name] for name in missing))
    }

    if result is not UNKNOWN:
        assert {result} == all_ways
    if not missing:
        assert result is not UNKNOWN


@given(conditions(), situations())
def test_whatever_is_taken_never_fails(text: str, known: dict[Name, Value]) -> None:
    """Values of the wrong type count as not known; nothing raises."""
    program = compile_expression(text, NAMES)
    odd = environment(known) | {"married": "yes", "joins": 3, "child": None}

    assert program.evaluate(odd) in (True, False) or program.missing(odd)


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("married", {}, UNKNOWN),
        ("!married", {}, UNKNOWN),
        ("married || insured", {"insured": True}, True),
        ("mother.name == 'a' || insured", {"insured": True}, True),
        ("mother.name == 'a' && insured", {"insured": False}, False),
        ("insured && mother.name == 'a'", {"insured": False}, False),
        ("mother.name == 'a' && insured", {"insured": True}, UNKNOWN),
        ("mother.name == father.name", {"mother": {"name": "a"}}, UNKNOWN),
        # Few answers are all tried.
        ("married || !married", {}, True),
        ("joins == 'mother' || joins != 'mother'", {}, True),
        ("joins in ['mother', 'father', 'other']", {}, True),
        ("(joins == 'mother') == (joins == 'father')", {}, UNKNOWN),
        # Of open names not all values can be tried.
        ("mother.name == 'a' || mother.name != 'a'", {}, UNKNOWN),
        # A value that is not one of the choices is not known.
        ("joins == 'mother'", {"joins": "aunt"}, UNKNOWN),
        ("child.order == 1", {"child": {"order": True}}, UNKNOWN),
        ("child.order > 0", {"child": {"order": 2**70}}, UNKNOWN),
        ("child.order > -1", {"child": {"order": 0}}, True),
        ('mother.name == "王"', {"mother": {"name": "王"}}, True),
    ],
)
def test_a_condition_holds_does_not_or_is_unknown(
    text: str, known: dict[str, object], expected: Truth
) -> None:
    """What is not answered stays unknown, unless it makes no difference."""
    assert compile_expression(text, NAMES).evaluate(known) is expected


def test_unknown_can_not_be_taken_for_false() -> None:
    """To branch on it without looking is an error."""
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(UNKNOWN)


def test_a_program_tells_what_it_is_about() -> None:
    """Questions and concepts apart, and those without a value."""
    program = compile_expression("married && mother.name == father.name", NAMES)

    assert {"married"} == program.questions
    assert {"mother.name", "father.name"} == program.concepts
    assert {"father.name"} == program.missing(
        {"married": True, "mother": {"name": "a"}}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a value expected"),
        ("marred", "at character 1: `marred` is no question and no concept"),
        ("married && mother.nam == 'a'", "at character 12: `mother.nam` is no"),
        ("mother == 'a'", "`mother` is no question and no concept"),
        ("mother.name.first == 'a'", "`first` can't be used"),
        ("mother.name", "a condition expected, not text"),
        ("married && child.order", "at character 12: a condition expected, not int"),
        ("!child.order", "a condition expected, not integer"),
        ("mother.name == 1", "text compared with integer"),
        ("married == 'true'", "boolean compared with text"),
        ("married < insured", "have no order"),
        ("joins == 'mum'", "never equal: the value is one of `mother`, `father`"),
        ("joins in ['mother', 'mum']", "never equal"),
        ("'mum' != joins", "never equal"),
        ("child.order == 1 == true", "one comparison at a time"),
        ("size(mother.name) > 2", "`size` counts bytes"),
        ("mother.name.size() > 2", "`size` counts bytes"),
        ("has(mother.name)", "`has` can't be used"),
        ("mother.name.matches('^(a+)+$')", "`matches` can't be used"),
        ("married.startsWith('a')", "`startsWith` is for text"),
        ("mother.name.startsWith(father.name)", "takes a text literal"),
        ("child.order in [child.order]", "a list holds literals only"),
        ("child.order in []", "a list holds literals only"),
        ("child.order + 1 == 2", "at character 13: not part of a condition"),
        ("married ? insured : insured", "not part of a condition"),
        (
            "child.order \uff1d\uff1d 2",
            "at character 13: `\uff1d` is a full",
        ),
        (
            "mother.name == \u2018a\u2019",
            "is a curly quotation mark: write `'`",
        ),
        ("mother['name'] == 'a'", "`mother` is no question"),
        ("mother.name == 'a\\'", "not part of a condition"),
        ("married && ", "a value expected"),
        ("(married", r"`\)` expected"),
        ("married insured", "more follows"),
        ("null == null", "a value expected"),
        ("child.order == 99999999999999999999", "a number too large"),
        ("(" * 17 + "married" + ")" * 17, "nested deeper"),
        ("!" * 17 + "married", "nested deeper"),
        ("married" + " && married" * 100, "longer than 1000"),
    ],
)
def test_what_could_fail_or_mislead_is_refused_when_loaded(
    text: str, message: str
) -> None:
    """Every unknown name, second type, function and never-true part is named."""
    with pytest.raises(ExpressionError, match=message):
        compile_expression(text, NAMES)


@pytest.mark.parametrize("name", ["type", "string", "int", "bool"])
def test_a_question_must_not_have_a_name_of_cel(name: str) -> None:
    """CEL would read its own type where the answer is missing, and not unknown."""
    with pytest.raises(ExpressionError, match="is a word of CEL"):
        compile_expression(f"{name} == 'a'", {name: TEXT})


def test_a_long_condition_is_still_evaluated() -> None:
    """The longest conditions that are taken do not overflow anything."""
    text = " || ".join(["child.order == 3"] * 49)

    assert compile_expression(text, NAMES).evaluate({"child": {"order": 1}}) is False
