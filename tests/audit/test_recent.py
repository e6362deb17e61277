"""What was used most recently: never more of it than the limit."""

from hypothesis import given
from hypothesis import strategies as st

from audit.recent import Recent


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from("gp"), st.integers(0, 6))))
def test_the_least_recently_used_goes_when_there_are_too_many(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    """As a list says it, in which whatever is used moves to the end."""
    recent: Recent[int, int] = Recent(limit)
    expected: list[int] = []
    for step, key in steps:
        is_kept = key in expected
        if step == "p":
            recent.put(key, key)
            # A value that is put again keeps its place: only reading counts as use.
            expected = (expected if is_kept else [*expected, key])[-limit:]
        else:
            assert (key if is_kept else None) == recent.get(key)
            if is_kept:
                expected = [*(one for one in expected if one != key), key]

        assert len(expected) == len(recent) <= limit
