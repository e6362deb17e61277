"""The exact search for the fewest look-ups, then the fewest waves, then the ids.

Which list meets each requirement is settled before: more look-ups never make a list
impossible, so the first list that can be met by everything together can be met beside
the first lists of all other requirements. What is left is a choice of a set of keys
for each ask, and of a source for each concept that is not known at the start. The
search tries all of them, short of those that can't beat the best found so far.

Why all: take any best set of look-ups. For each ask it holds a look-up, and for each
concept it lacks at the start a look-up that tells it first. These are among the
choices tried; what they gather is a part of that set, and can be carried out; so it is
that set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from exchange.catalogue import Candidate, undominated
from schemas.model import Concept, Slug

Waves: TypeAlias = tuple[tuple[Candidate, ...], ...]

_Order: TypeAlias = tuple[int, int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ask:
    """An ask that a requirement needs."""

    id: Slug


@dataclass(frozen=True, slots=True)
class Key:
    """A concept that a look-up is made by."""

    concept: Concept


@dataclass(frozen=True, slots=True)
class Shown:
    """A concept that a condition reads, of whatever field."""

    concept: Concept


Want: TypeAlias = Ask | Key | Shown


def waves_of(chosen: Iterable[Candidate], known: frozenset[Concept]) -> Waves | None:
    """Return each look-up in the earliest wave its keys allow; None if some never go.

    Look-ups of one wave are ordered by id.
    """
    waves: list[tuple[Candidate, ...]] = []
    rest = sorted(chosen, key=lambda candidate: candidate.id)
    have = set(known)
    while rest:
        wave = tuple(candidate for candidate in rest if candidate.inputs <= have)
        if not wave:
            return None
        waves.append(wave)
        have.update(concept for candidate in wave for concept in candidate.tells)
        rest = [candidate for candidate in rest if candidate not in wave]
    return tuple(waves)


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
    search = _Search(undominated(offers, known), known)
    wants: tuple[Want, ...] = (
        *map(Ask, sorted(set(asks))),
        *map(Shown, sorted(set(shown))),
    )
    search.explore(frozenset(), wants, frozenset())
    if search.waves is None:
        raise ValueError("the offers can't answer what is asked")
    return search.waves


@dataclass(slots=True)
class _Search:
    """A depth-first search that remembers the best, and what it has tried."""

    offers: tuple[Candidate, ...]
    known: frozenset[Concept]
    waves: Waves | None = None
    order: _Order | None = None
    tried: set[tuple[frozenset[Candidate], tuple[Want, ...]]] = field(
        default_factory=set
    )

    def explore(
        self,
        chosen: frozenset[Candidate],
        wants: tuple[Want, ...],
        sought: frozenset[Concept],
    ) -> None:
        """Try every way to meet the wants, in addition to what is chosen.

        Args:
            chosen: The look-ups chosen so far.
            wants: What is still to be met.
            sought: Key concepts that are met or among the wants.
        """
        if (chosen, wants) in self.tried or self._is_beaten(chosen):
            return
        self.tried.add((chosen, wants))
        if not wants:
            self._settle(chosen)
            return
        want, rest = wants[0], wants[1:]
        if any(_meets(candidate, want) for candidate in chosen):
            self.explore(chosen, rest, sought)
            if not isinstance(want, Key):
                return
        for candidate in self._newcomers(want, chosen):
            keys = candidate.inputs - self.known - sought
            more = tuple(Key(concept) for concept in sorted(keys))
            self.explore(chosen | {candidate}, rest + more, sought | keys)

    def _newcomers(
        self, want: Want, chosen: frozenset[Candidate]
    ) -> Iterator[Candidate]:
        """Yield each candidate not chosen yet that meets a want."""
        for candidate in self.offers:
            if candidate not in chosen and _meets(candidate, want):
                yield candidate

    def _is_beaten(self, chosen: frozenset[Candidate]) -> bool:
        return self.order is not None and len(chosen) > self.order[0]

    def _settle(self, chosen: frozenset[Candidate]) -> None:
        """Keep a set of look-ups if it can be carried out and is the best so far."""
        waves = waves_of(chosen, self.known)
        if waves is None:
            return
        ids = tuple(sorted(candidate.id for candidate in chosen))
        order = (len(chosen), len(waves), ids)
        if self.order is None or order < self.order:
            self.order, self.waves = order, waves


def _meets(candidate: Candidate, want: Want) -> bool:
    match want:
        case Ask(id=ask):
            return ask in candidate.asks
        case Key(concept=concept):
            return concept in candidate.tells and concept not in candidate.inputs
        case Shown(concept=concept):
            return concept in candidate.shows
