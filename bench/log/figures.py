"""Small arithmetic of figures."""

from collections.abc import Mapping, Sequence
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("no value was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over some rounds."""
    return {name: median(row[name] for row in rows) for name in rows[0]}
