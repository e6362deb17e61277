"""A matter compiled for planning: its questions, who answers them, its conditions.

Made once, when a pack is loaded. A matter that can't be planned exactly, within the
limits here, is refused then.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

import orjson

from exchange.candidates import (
    Candidate,
    count_choices,
    find_candidates,
    undominated,
)
from schemas.codes import region_contains
from schemas.directory import DataService
from schemas.errors import PackError
from schemas.evidence import EvidenceType
from schemas.expressions import Program
from schemas.matter import Matter, Requirement
from schemas.model import Concept, Expression, RegionCode, Slug, VersionedId
from schemas.validation import Pack

MAX_CHOICES = 5_000
"""Most sets of look-ups that the exact search may have to compare for one matter, by
`count_choices`. A pack beyond it is refused when it is loaded: half a search would be a
bad plan that looks like a good one. At the limit one search takes about half a second,
once for each situation; the matter `newborn` has about two hundred."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """One matter, compiled."""

    matter: Matter
    pack: str
    """The digest of the pack that it comes from."""
    candidates: tuple[Candidate, ...]
    """Ordered by id."""
    services: Mapping[VersionedId, tuple[DataService, ...]]
    programs: Mapping[Expression, Program]
    """Every condition of the matter."""
    concepts: frozenset[Concept]
    """Every concept that something is looked up by or that a condition reads."""
    regions: tuple[Concept, ...]
    """Every concept that tells a competent service, ordered."""
    mentioned: frozenset[Slug]
    """Every question that a condition reads."""
    chosen: tuple[Slug, ...]
    """Questions with few answers that conditions read, ordered."""
    few: frozenset[Slug]
    """The same questions."""
    declared: tuple[Slug, ...]
    """Questions whose answer settles a requirement, ordered."""
    namings: Mapping[Slug, tuple[tuple[Expression, ...], ...]]
    """For each ask the places that name it, each as the conditions under which it
    counts. An ask that no requirement names has none: it only leads to others."""
    heads: Mapping[Slug, bytes]
    """By requirement, the members with which its part of an answer begins: JSON without
    the closing brace."""
    personal: tuple[Program, ...]
    """Conditions that can change a plan and read anything but questions with few
    answers, ordered."""


def compile_pack(pack: Pack, services: Iterable[DataService]) -> tuple[Catalogue, ...]:
    """Compile every matter of a pack for planning, ordered by reference.

    Args:
        pack: The pack.
        services: Those of its services that can be asked.

    Raises:
        PackError: Some matter can't be planned exactly, or means two things by one
            ask; names every such place.
    """
    offered = tuple(services)
    catalogues: list[Catalogue] = []
    places: list[str] = []
    for ref, matter in sorted(pack.matters.items()):
        try:
            catalogues.append(
                compile_matter(
                    matter,
                    pack.evidence_types,
                    offered,
                    partial(pack.program, ref),
                    pack.digest,
                )
            )
        except PackError as error:
            places += error.places
    if places:
        raise PackError(*places)
    return tuple(catalogues)


def compile_matter(
    matter: Matter,
    evidence_types: Mapping[VersionedId, EvidenceType],
    services: Iterable[DataService],
    program: Callable[[Expression], Program],
    pack: str = "",
) -> Catalogue:
    """Compile a matter for planning.

    Raises:
        PackError: The matter can't be planned exactly, or means two things by one
            ask.
    """
    candidates = find_candidates(matter, evidence_types)
    offered = sorted(services, key=lambda service: service.id)
    asked = {ask.evidence_type for ask in matter.asks.values()}
    programs = {text: program(text) for text in sorted(expressions(matter))}
    taken = frozenset(concept for one in candidates for concept in one.inputs)
    read = frozenset(c for one in programs.values() for c in one.concepts)
    _refuse_too_many_choices(matter, candidates, read)
    few = frozenset(
        q for one in programs.values() for q in one.questions if _few(one, q)
    )
    return Catalogue(
        matter=matter,
        pack=pack,
        candidates=candidates,
        services={
            ref: tuple(s for s in offered if s.evidence_type == ref) for ref in asked
        },
        programs=programs,
        concepts=taken | read,
        regions=tuple(sorted({c.region for c in candidates if c.region is not None})),
        mentioned=frozenset(q for one in programs.values() for q in one.questions),
        chosen=tuple(sorted(few)),
        few=few,
        declared=tuple(
            sorted({r.declare for r in matter.requirements.values() if r.declare})
        ),
        namings={ask: _namings(matter, ask) for ask in sorted(matter.asks)},
        heads={name: _head(name, one) for name, one in matter.requirements.items()},
        personal=tuple(
            one
            for text, one in programs.items()
            if _can_change_a_plan(matter, one) and _is_personal(one)
        ),
    )


def _head(name: Slug, requirement: Requirement) -> bytes:
    """Return how a requirement is shown, whatever comes of it."""
    shown = {
        "id": name,
        "name": {"zh": requirement.name.zh, "en": requirement.name.en},
        "steps": requirement.steps,
    }
    return orjson.dumps(shown)[:-1]


def _can_change_a_plan(matter: Matter, program: Program) -> bool:
    """Tell whether a plan depends on what a condition comes to.

    A criterion or a derivation is judged when the evidence is there; before, it only
    matters whether it waits for an answer.
    """
    requirements = matter.requirements.values()
    judged_later = {text for r in requirements for text in (r.criterion, r.derive)}
    earlier = {
        *(question.when for question in matter.questions.values()),
        *(requirement.when for requirement in requirements),
        *(listed.when for needed in requirements for listed in needed.lists),
    }
    is_later = program.text in judged_later - earlier
    return not is_later or bool(program.questions)


def _is_personal(program: Program) -> bool:
    """Tell whether a condition reads anything but questions with few answers."""
    return bool(program.concepts) or not all(
        _few(program, question) for question in program.questions
    )


def _namings(matter: Matter, ask: Slug) -> tuple[tuple[Expression, ...], ...]:
    """Return the conditions of each list that names an ask, the requirement's first."""
    found = (
        tuple(when for when in (requirement.when, listed.when) if when is not None)
        for requirement in matter.requirements.values()
        for listed in requirement.lists
        if any(need.ask == ask for need in listed.all)
    )
    return tuple(sorted(set(found)))


def _few(program: Program, question: Slug) -> bool:
    """Tell whether a question that a condition reads has only a few answers."""
    return program.names[question].values is not None


def expressions(matter: Matter) -> frozenset[Expression]:
    """Return every condition that a matter states."""
    requirements = matter.requirements.values()
    texts = [
        *(question.when for question in matter.questions.values()),
        *(requirement.when for requirement in requirements),
        *(requirement.criterion for requirement in requirements),
        *(requirement.derive for requirement in requirements),
        *(listed.when for needed in requirements for listed in needed.lists),
    ]
    return frozenset(text for text in texts if text is not None)


def competent(
    services: Iterable[DataService], region: RegionCode | None, on: date
) -> tuple[DataService, ...]:
    """Return the data services that can speak about a region on a day, best first.

    The narrowest coverage that contains the region comes first, then the id: a
    district's own service before the city's.

    Args:
        services: Offers of one evidence type.
        region: The region; None while it is not known, and then any may be it.
        on: The day; a service whose records begin later can't speak about it.
    """
    begun = [
        service
        for service in services
        if service.coverage.from_date is None or service.coverage.from_date <= on
    ]
    if region is None:
        return tuple(sorted(begun, key=lambda service: service.id))
    ranked = [
        (-max(len(outer.rstrip("0")) for outer in covering), service.id, service)
        for service in begun
        if (covering := _covering(service, region))
    ]
    return tuple(service for *_, service in sorted(ranked, key=lambda r: r[:2]))


def _covering(service: DataService, region: RegionCode) -> list[RegionCode]:
    return [r for r in service.coverage.regions if region_contains(r, region)]


def _refuse_too_many_choices(
    matter: Matter, candidates: tuple[Candidate, ...], read: frozenset[Concept]
) -> None:
    """Refuse a matter whose exact search could take too long in some situation.

    INVARIANT: a situation only ever takes choices away, so what is within the limit
    here is within it whenever a case is planned.
    """
    stated = frozenset(
        f"{role_id}.{fact_id}"
        for role_id, role in matter.roles.items()
        for fact_id, fact in role.facts.items()
        if role.required and fact.required
    )
    left = undominated(candidates, stated)
    choices = count_choices(matter.asks, left, stated, read)
    if choices > MAX_CHOICES:
        raise PackError(
            f"{matter.ref}: /asks: up to {choices} combinations of keys and sources; "
            f"at most {MAX_CHOICES} can be compared: name fewer alternative keys, or "
            "fewer evidence types that tell the same concept"
        )
