"""The exact search for the fewest look-ups, then the fewest waves, then the ids.

Which list meets each requirement is settled before: more look-ups never make a list
impossible, so the first list that can be met by everything together can be met beside
the first lists of all other requirements. What is left is a choice of a set of keys
for each ask, and of a source for each concept that is not known at the start.

The search grows a set of look-ups by one at a time, and only by look-ups of which any
complete set around it must hold one. So every best set is reached; each set is looked
at once, and none that is larger than the best found so far.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from exchange.candidates import Candidate, undominated
from schemas.model import Concept, Slug

Waves: TypeAlias = tuple[tuple[Candidate, ...], ...]

_Order: TypeAlias = tuple[int, int, tuple[str, ...]]
_Chosen: TypeAlias = frozenset[Candidate]


def best_waves(
    asks: Iterable[Slug],
    shown: Iterable[Concept],
    offers: Iterable[Candidate],
    known: frozenset[Concept],
) -> Waves:
    """Return the best look-ups that answer all asks and show all concepts.

    Args:
        asks: What must be asked.
        shown: Concepts that conditions read and that are not known.
        offers: The candidates, all of which can be carried out together.
        known: Concepts known at the start.

    Raises:
        ValueError: The offers can't answer it all.
    """
    search = _Search(
        asks=tuple(sorted(set(asks))),
        shown=tuple(sorted(set(shown))),
        offers=undominated(offers, known),
        known=known,
    )
    search.explore(frozenset())
    if search.waves is None:
        raise ValueError("the offers can't answer what is asked")
    return search.waves


def _carry_out(
    chosen: Iterable[Candidate], known: frozenset[Concept]
) -> tuple[Waves, tuple[Candidate, ...]]:
    """Return the waves of the look-ups that can be made, and the look-ups left over.

    Each stands in the earliest wave its keys allow; those of one wave are in the
    order of their ids.
    """
    waves: list[tuple[Candidate, ...]] = []
    left = tuple(sorted(chosen, key=lambda candidate: candidate.id))
    have = set(known)
    while wave := tuple(one for one in left if one.inputs <= have):
        waves.append(wave)
        have.update(concept for one in wave for concept in one.tells)
        left = tuple(one for one in left if one not in wave)
    return tuple(waves), left


@dataclass(slots=True)
class _Search:
    """A depth-first search that remembers the best set, and all it has looked at."""

    asks: tuple[Slug, ...]
    shown: tuple[Concept, ...]
    offers: tuple[Candidate, ...]
    known: frozenset[Concept]
    waves: Waves | None = None
    order: _Order | None = None
    tried: set[_Chosen] = field(default_factory=set)

    def explore(self, chosen: _Chosen) -> None:
        """Look at every set around `chosen` that may be best.

        (1) An ask that is not answered: one of its candidates is missing.
        (2) A concept that is not shown: one of those that show it is missing.
        (3) A look-up that can't be made: one of those that tell what it takes.
        (4) Nothing is missing: keep the set if it is the best.
        """
        if chosen in self.tried or self._is_beaten(chosen):
            return
        self.tried.add(chosen)
        waves, blocked = _carry_out(chosen, self.known)
        # (1):
        if asks := [a for a in self.asks if not any(a in one.asks for one in chosen)]:
            self._add(chosen, [one for one in self.offers if asks[0] in one.asks])
        # (2):
        elif dark := [c for c in self.shown if not any(c in o.shows for o in chosen)]:
            self._add(chosen, [one for one in self.offers if dark[0] in one.shows])
        # (3):
        elif blocked:
            self._unblock(chosen, waves, blocked)
        # (4):
        else:
            self._settle(chosen, waves)

    def _add(self, chosen: _Chosen, missing: Iterable[Candidate]) -> None:
        """Look at every set with one more look-up, of those that may be missing."""
        for one in missing:
            if one not in chosen:
                self.explore(chosen | {one})

    def _unblock(
        self, chosen: _Chosen, waves: Waves, blocked: tuple[Candidate, ...]
    ) -> None:
        """Look at every set in which one more look-up can be made.

        A concept that nobody chosen tells must be told by one who is missing. If there
        is none such, the blocked look-ups wait for each other in a circle; whichever
        of them is made first gets from those who are missing all that it lacks.
        """
        told = self.known.union(*(one.tells for wave in waves for one in wave))
        lacking = [min(one.inputs - told) for one in blocked]
        for concept in sorted({c for one in blocked for c in one.inputs - told}):
            if not any(_tells(one, concept) for one in chosen):
                lacking = [concept]
                break
        for concept in lacking:
            self._add(chosen, [one for one in self.offers if _tells(one, concept)])

    def _is_beaten(self, chosen: _Chosen) -> bool:
        return self.order is not None and len(chosen) > self.order[0]

    def _settle(self, chosen: _Chosen, waves: Waves) -> None:
        """Keep a set of look-ups if it is the best so far (decision 7)."""
        ids = tuple(sorted(one.id for one in chosen))
        order = (len(chosen), len(waves), ids)
        if self.order is None or order < self.order:
            self.order, self.waves = order, waves


def _tells(candidate: Candidate, concept: Concept) -> bool:
    """Tell whether a look-up can be the first to tell a concept."""
    return concept in candidate.tells and concept not in candidate.inputs
