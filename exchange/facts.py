"""What a case learns from evidence, and where two sources disagree.

INVARIANT (rule 6): what evidence says about a person is compared with what the case
knows already. A near match is a dispute with a hint, never a silent pick, and no fact
is overwritten by another source. Who told it may tell it otherwise later: then what was
told before is taken back, and all that rests on it is learned anew.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from exchange.case import STATED, KnownFact
from schemas.codes import near
from schemas.outcome import ConflictHint


@dataclass(frozen=True, slots=True)
class Told:
    """One concept's value, as evidence tells it."""

    concept: str
    value: JsonValue
    is_kept: bool
    """Whether later look-ups may be made by it, or it may only be compared."""


@dataclass(frozen=True, slots=True)
class Dispute:
    """A concept on which evidence disagrees with what the case knows."""

    concept: str
    hint: ConflictHint
    against: Literal["stated", "evidence"]


def learn(
    facts: Mapping[str, KnownFact], told: Iterable[Told], source: str
) -> tuple[dict[str, KnownFact], Dispute | None]:
    """Return the facts that are new, and the gravest disagreement with known ones.

    A near match counts as graver than a plain difference: it is most likely one
    person and one mistake. Nothing is learned from evidence that disagrees.

    Args:
        facts: What the case knows, by concept.
        told: What the evidence tells; values that are no scalars tell nothing.
        source: The look-up whose evidence it is.
    """
    new: dict[str, KnownFact] = {}
    disputes: list[Dispute] = []
    for item in told:
        if not isinstance(item.value, str | int | float | bool) or item.value == "":
            continue
        known = facts.get(item.concept) or new.get(item.concept)
        told_now = KnownFact(value=item.value, source=source, is_kept=item.is_kept)
        if known is None:
            new[item.concept] = told_now
        elif (hint := difference(known.value, item.value)) is not None:
            against: Literal["stated", "evidence"] = (
                "stated" if known.source == STATED else "evidence"
            )
            disputes.append(Dispute(item.concept, hint, against))
        elif item.is_kept and not known.is_kept:
            new[item.concept] = told_now
    if not disputes:
        return new, None
    return {}, min(disputes, key=lambda d: (d.hint is ConflictHint.NONE, d.concept))


def says_otherwise(
    facts: Mapping[str, KnownFact], told: Iterable[Told], source: str
) -> bool:
    """Tell whether a look-up says something else than it said before, or no more.

    Args:
        facts: What the case knows, by concept.
        told: What the evidence tells now.
        source: The look-up whose evidence it is.
    """
    return any(
        known.source == source and difference(known.value, item.value) is not None
        for item in told
        if (known := facts.get(item.concept)) is not None
    )


def difference(one: JsonValue, other: JsonValue) -> ConflictHint | None:
    """Return how two values differ, or None when they say the same.

    Width, letter case and white space do not count: registers differ in them.

    >>> difference("99010119940312002x", "99010119940312002X") is None
    True
    >>> difference("990101199403120026", "990101199403120028").value
    'one_character_differs'
    """
    a, b = _comparable(one), _comparable(other)
    if a == b:
        return None
    return near(a, b) or ConflictHint.NONE


def _comparable(value: JsonValue) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "".join(unicodedata.normalize("NFKC", text).upper().split())
