"""YAML as plain data, with the line of every part."""

import re
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from schemas.packtext import pointer, read_yaml

PRINTABLE = st.text(
    st.characters(
        min_codepoint=32, max_codepoint=0xFFFD, exclude_categories=["C", "Z"]
    ),
    max_size=8,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-1e6, 1e6)
    | PRINTABLE,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4)
    ),
    max_leaves=12,
)


def _places(value: JsonValue, where: str = "") -> Iterator[str]:
    """Yield the JSON Pointer of every part of a value, and of the whole."""
    yield where
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, where + pointer(key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _places(part, where + pointer(index))


@given(VALUES)
def test_json_is_read_as_json(value: JsonValue) -> None:
    """JSON is YAML, and means the same here; every part has a line."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    document, wrong = read_yaml("a.yaml", text)

    assert () == wrong
    assert value == document.value
    assert set(_places(value)) == document.lines.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("2026-01-08", "2026-01-08"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        (".5", ".5"),
        ("1_000", "1_000"),
        ('"990100"', "990100"),
        ("'true'", "true"),
        ("990100", 990100),
        ("-1.5e2", -150.0),
        ("true", True),
        ("~", None),
        ("", None),
    ],
)
def test_a_scalar_is_what_json_would_take_it_for(
    text: str, expected: JsonValue
) -> None:
    """Nothing becomes a date, an octal number or false by surprise."""
    document, wrong = read_yaml("a.yaml", f"key: {text}\n")

    assert () == wrong
    assert {"key": expected} == document.value


def test_a_place_without_a_line_of_its_own_takes_its_parents() -> None:
    """What is missing is reported where it should be."""
    document, _ = read_yaml("a.yaml", "one:\n  two:\n    three: 3\n")

    assert "a.yaml:3: /one/two/three: wrong" == document.place(
        "/one/two/three", "wrong"
    )
    assert "a.yaml:2: /one/two/four/5: gone" == document.place(
        "/one/two/four/5", "gone"
    )


@given(st.lists(st.text(max_size=5), max_size=4))
def test_pointers_of_different_paths_differ(parts: list[str]) -> None:
    """The parts come back out of a pointer (RFC 6901)."""
    back = [
        part.replace("~1", "/").replace("~0", "~")
        for part in pointer(*parts).split("/")[1:]
    ]

    assert parts == back


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("source_limit\uff1a P5D", "`\uff1a` is a full-width sign: write `:`"),
        ("source_limit P5D", "there is no `:` with a space after it"),
        ("'\uff1a' source_limit P5D", "there is no `:`"),
        ("source_limit P5D # a\uff1ab", "there is no `:`"),
    ],
)
def test_a_line_without_a_colon_is_named_itself(line: str, expected: str) -> None:
    """The loader notices it lines later, within another part."""
    text = f"kind: matter\npurposes:\n  a: 1\n{line}\n# more\n\nroles: 1\n"
    _, wrong = read_yaml("a.yaml", text)

    (place,) = wrong
    assert place.startswith("a.yaml:4: ")
    assert re.search(expected, place)
