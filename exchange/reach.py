"""How far the look-ups of a matter could get in a situation.

INVARIANT: an ask is put only where a requirement that applies names it in a list that
counts; one that no requirement names only leads to others. So the register of a
situation that is not the person's is never asked, be it only for a key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeAlias

from exchange.candidates import Candidate, Carriers
from exchange.catalogue import Catalogue, competent
from exchange.situation import Situation, Verdict
from schemas.directory import DataService
from schemas.model import Concept, Expression, Slug

Verdicts: TypeAlias = Mapping[Expression, Verdict]


@dataclass(frozen=True, slots=True)
class Extent:
    """What some asks, put together, could tell."""

    offers: tuple[Candidate, ...]
    """Candidates that can all be carried out, as these asks read them."""
    told: frozenset[Concept]
    """What is known at the start, and all that could be known to look up by."""
    shown: frozenset[Concept]
    """The same, with what could only be compared."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What can be asked in a situation, and what that could tell."""

    known: frozenset[Concept]
    """Known at the start."""
    covered: tuple[Candidate, ...]
    """Candidates for which somebody competent is registered, ordered by id."""
    services: Mapping[str, tuple[Slug, ...]]
    """For each of them the services, best first, by its id."""
    opening: Mapping[Slug, frozenset[Expression]]
    """Asks that may be put or not, as open conditions turn out → these conditions."""
    sure: Extent
    """By the asks that may be put."""
    possible: Extent
    """By these and those of `opening`."""


def find_reach(
    catalogue: Catalogue, situation: Situation, verdicts: Verdicts, on: date
) -> Reach:
    """Find out how far the look-ups of a matter could get in a situation.

    INVARIANT: look-ups only ever add to what is known, so no look-up, and no list
    that is met by look-ups, can be in the way of another.
    """
    services = {
        candidate.id: tuple(service.id for service in found)
        for candidate in catalogue.candidates
        if situation.barred.isdisjoint(candidate.asks)
        and (found := _competent(catalogue, candidate, situation, on))
    }
    covered = tuple(c for c in catalogue.candidates if c.id in services)
    known = frozenset(situation.stated)
    counts = {ask: _counts(n, verdicts) for ask, n in catalogue.namings.items()}
    opening = {ask: held for ask, held in counts.items() if not isinstance(held, bool)}
    sure_asks = frozenset(ask for ask, held in counts.items() if held is True)
    sure = _extent(covered, sure_asks, known)
    return Reach(
        known=known,
        covered=covered,
        services=services,
        opening=opening,
        sure=sure,
        possible=_extent(covered, sure_asks.union(opening), known) if opening else sure,
    )


def _competent(
    catalogue: Catalogue, candidate: Candidate, situation: Situation, on: date
) -> tuple[DataService, ...]:
    """Return who may answer a candidate; every service while its region is open."""
    services = catalogue.services[candidate.evidence_type]
    if candidate.region is None:
        return competent(services, catalogue.matter.region, on)
    region = situation.value(candidate.region)
    return competent(services, region if isinstance(region, str) else None, on)


def _counts(
    namings: Iterable[tuple[Expression, ...]], verdicts: Verdicts
) -> bool | frozenset[Expression]:
    """Tell whether an ask may be put, or by which conditions that is open."""
    opening: set[Expression] = set()
    is_named = False
    for conditions in namings:
        is_named = True
        held = {condition: verdicts[condition] for condition in conditions}
        if all(verdict is True for verdict in held.values()):
            return True
        if not any(verdict is False for verdict in held.values()):
            opening.update(c for c, v in held.items() if not isinstance(v, bool))
    return frozenset(opening) or not is_named


def _extent(
    covered: Iterable[Candidate], asks: frozenset[Slug], known: frozenset[Concept]
) -> Extent:
    """Carry out whatever these asks allow, again and again, until nothing is new."""
    rest = tuple(read for one in covered if (read := _read_by(one, asks)) is not None)
    told = set(known)
    offers: list[Candidate] = []
    while more := [one for one in rest if one.inputs <= told]:
        offers += more
        told.update(concept for one in more for concept in one.tells)
        rest = tuple(one for one in rest if one not in more)
    shown = {concept for one in offers for concept in one.shows}
    return Extent(tuple(offers), frozenset(told), frozenset(shown | told))


def _read_by(candidate: Candidate, asks: frozenset[Slug]) -> Candidate | None:
    """Return a candidate as some asks read it, or None when it answers none of them."""
    left = tuple(ask for ask in candidate.asks if ask in asks)
    if len(left) == len(candidate.asks):
        return candidate
    if not left:
        return None
    return replace(
        candidate,
        asks=left,
        tells=_carried(candidate.tells, left),
        shows=_carried(candidate.shows, left),
    )


def _carried(carriers: Carriers, asks: tuple[Slug, ...]) -> Carriers:
    """Return the concepts that some of the asks read, each with its fields."""
    return {
        concept: left
        for concept, carried in carriers.items()
        if (left := tuple((ask, field) for ask, field in carried if ask in asks))
    }
