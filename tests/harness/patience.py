"""Waiting for what no event tells of: with an end, and without taking a core."""

import time
from collections.abc import Callable

PATIENCE_S = 60.0
"""Enough for a machine that has much else to do."""
_POLL_S = 0.02


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: It doesn't, in good time; says what.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not in {PATIENCE_S:.0f} s"
        time.sleep(_POLL_S)
