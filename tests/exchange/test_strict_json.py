"""JSON that can be read in one way only; no server beside it, which uses `random`."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.api.strict import read_json
from schemas.errors import RequestError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def _text(value: object, *, escaped: bool = True) -> str:
    """Return JSON as its sender likes: with escapes, and spaces where they may be."""
    return json.dumps(value, ensure_ascii=escaped)  # noqa: TID251 - not in one form: that is what is tested


@given(_JSON)
def test_all_json_is_read(value: object) -> None:
    """Whatever a parser could read in one way only."""
    assert value == read_json(_text(value).encode())


@given(st.dictionaries(st.text(max_size=3), _JSON, min_size=1), st.data())
def test_no_member_comes_twice(value: dict[str, Any], data: st.DataObject) -> None:
    """At any depth, and however its name is written."""
    name = data.draw(st.sampled_from(sorted(value)))
    twice = f"{_text(value)[:-1]}, {_text(name, escaped=False)}: 1}}"
    depth = data.draw(st.integers(0, 5))
    with pytest.raises(RequestError, match="twice"):
        read_json(("[" * depth + twice + "]" * depth).encode())
