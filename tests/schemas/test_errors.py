"""The tree of errors is the one that is drawn."""

import re

from schemas import errors


def _drawn() -> dict[str, str | None]:
    """Return each class of the drawing with its base, by indentation."""
    found: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if not (drawn := re.match(r"( *)[*+.-] (\w+Error)\b", line)):
            continue
        depth = len(drawn[1])
        path = [(d, name) for d, name in path if d < depth]
        found[drawn[2]] = path[-1][1] if path else None
        path.append((depth, drawn[2]))
    return found


def test_the_drawn_tree_is_the_real_one() -> None:
    """Every class is drawn under its base, and nothing else is."""
    real = {
        name: None if one is errors.ErrandError else one.__bases__[0].__name__
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, Exception)
    }

    assert len(real) > 10
    assert real == _drawn()
