"""What a failing command hides of its arguments; no server beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.cli.failing import without_values


@given(
    st.one_of(
        st.from_regex(r"[0-9]{6}[0-9X]{0,12}", fullmatch=True),
        st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=3),
    ),
    st.sampled_from(("{}", "mother.id={}", "--stated={}", "--stated=mother.id={}")),
)
def test_what_could_be_a_value_is_hidden_in_any_message(value: str, form: str) -> None:
    """Wherever the message has it, and in whatever argument it came."""
    argument = form.format(value)
    told = without_values(f"`{argument}` is wrong: `{value}`", [argument])

    assert value not in told


@pytest.mark.parametrize(
    "argument", ["http://127.0.0.1:8800", "/srv/20260108/a.yaml", "newborn@1", "--x"]
)
def test_addresses_files_and_names_stay_in_messages(argument: str) -> None:
    """Whoever reads them has to know which one is meant."""
    assert f"no {argument}" == without_values(f"no {argument}", [argument])
