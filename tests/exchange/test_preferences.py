"""How long a `Prefer` header asks to wait (RFC 7240); no server beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.api.forms import wait_asked

_SPACE = st.text(" \t", max_size=2)
_OTHERS = st.lists(
    st.sampled_from(["respond-async", 'x="a, wait=9"', "y; wait=9", "waits=9", ""])
)


@given(
    st.integers(0, 10**9),
    st.sampled_from(["wait", "WAIT", "Wait"]),
    st.sampled_from(["{}", '"{}"', "00{}", "{};", "{} ;a=b; c"]),
    st.tuples(_SPACE, _SPACE, _SPACE, _SPACE),
    _OTHERS,
    _OTHERS,
)
def test_the_first_wait_counts_however_it_is_written(
    seconds: int,
    name: str,
    form: str,
    space: tuple[str, str, str, str],
    before: list[str],
    after: list[str],
) -> None:
    """In any case, quoted or not, with white space, parameters and others beside it."""
    before_name, after_name, before_value, end = space
    value = form.format(seconds)
    written = f"{before_name}{name}{after_name}={before_value}{value}{end}"
    header = ",".join([*before, written, *after, "wait=1"])

    assert seconds == wait_asked(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "wait",
        "wait=",
        "wait=-1",
        "wait=1.5",
        "wait=1e3",
        "wait=\u0663",
        "wait=1 2",
        "wait=soon, wait=3",
        'x="wait=3"',
        "x; wait=3",
        "no-wait=3",
    ],
)
def test_what_asks_for_no_wait_is_passed_over(header: str | None) -> None:
    """A preference that can't be read is none: it is never an error."""
    assert wait_asked(header) is None
