"""A matter compiled for planning: who is asked what, by which keys, and what it tells.

An evidence type speaks of `self` and of roles of its own; a matter says who these are
in its asks. Here both are put together once, when a pack is loaded, so that planning
handles concepts of the matter only, and asks that come to the same question are one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from math import prod

from schemas.codes import region_contains
from schemas.directory import DataService
from schemas.errors import PackError
from schemas.evidence import EvidenceField, EvidenceType, FieldName, LookupKey, Mode
from schemas.expressions import Program
from schemas.matter import Ask, Matter
from schemas.model import Concept, Expression, RegionCode, Slug, VersionedId
from schemas.validation import Pack

MAX_CHOICES = 5_000
"""Most sets of look-ups that the exact search may have to compare for one matter, by
`count_choices`. A pack beyond it is refused when it is loaded: half a search would be a
bad plan that looks like a good one. At the limit one search takes about half a second,
once for each situation; the matter `newborn` has about two hundred."""

MAX_KEY_SETS = 9
"""Most sets of keys of an evidence type: one digit in a look-up's id."""

Carriers = Mapping[Concept, tuple[tuple[Slug, FieldName], ...]]
"""A concept → the fields that state it, each under the ask that reads it so."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A look-up that a plan may hold: one question, whichever asks it answers."""

    id: str
    """The asks joined by `+`; `#n` after it is the n-th alternative set of keys."""
    asks: tuple[Slug, ...]
    """Every ask of the matter that this question answers, ordered."""
    evidence_type: VersionedId
    mode: Mode
    about: Slug
    """The role whom the evidence is about."""
    keys: tuple[tuple[FieldName, Concept], ...]
    match: tuple[tuple[FieldName, Concept], ...]
    """Facts that the source compares; empty when the fields are retrieved."""
    region: Concept | None
    """The concept that tells the competent service; None for the matter's region."""
    inputs: frozenset[Concept]
    """Every concept that must be known before it can be asked."""
    tells: Carriers
    """Concepts that it yields for later look-ups."""
    shows: Carriers
    """Concepts that it yields for conditions: also those that are only compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """One matter, compiled."""

    matter: Matter
    pack: str
    """The digest of the pack that it comes from."""
    candidates: tuple[Candidate, ...]
    """Ordered by id."""
    by_ask: Mapping[Slug, tuple[Candidate, ...]]
    services: Mapping[VersionedId, tuple[DataService, ...]]
    programs: Mapping[Expression, Program]
    """Every condition of the matter."""
    concepts: frozenset[Concept]
    """Every concept that something is looked up by or that a condition reads."""
    regions: tuple[Concept, ...]
    """Every concept that tells a competent service, ordered."""
    chosen: tuple[Slug, ...]
    """Questions with few answers that conditions read, ordered."""
    few: frozenset[Slug]
    """The same questions."""
    declared: tuple[Slug, ...]
    """Questions whose answer settles a requirement, ordered."""
    namings: Mapping[Slug, tuple[tuple[Expression, ...], ...]]
    """For each ask the places that name it, each as the conditions under which it
    counts. An ask that no requirement names has none: it only leads to others."""
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
    facts = _facts_to_match(matter, evidence_types)
    candidates = _candidates(matter, evidence_types, facts)
    by_ask = {ask: tuple(c for c in candidates if ask in c.asks) for ask in matter.asks}
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
        by_ask=by_ask,
        services={
            ref: tuple(s for s in offered if s.evidence_type == ref) for ref in asked
        },
        programs=programs,
        concepts=taken | read,
        regions=tuple(sorted({c.region for c in candidates if c.region is not None})),
        chosen=tuple(sorted(few)),
        few=few,
        declared=tuple(
            sorted({r.declare for r in matter.requirements.values() if r.declare})
        ),
        namings={ask: _namings(matter, ask) for ask in sorted(matter.asks)},
        personal=tuple(
            one
            for text, one in programs.items()
            if _can_change_a_plan(matter, one) and _is_personal(one)
        ),
    )


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


def undominated(
    candidates: Iterable[Candidate], known: frozenset[Concept]
) -> tuple[Candidate, ...]:
    """Leave out every candidate that another one betters in any plan.

    One that answers the same asks, takes nothing more, and comes first by id, can
    stand in for it everywhere: a plan gets no longer, no deeper, and has smaller ids.
    """
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda candidate: candidate.id):
        takes = one.inputs - known
        if not any(b.asks == one.asks and b.inputs - known <= takes for b in kept):
            kept.append(one)
    return tuple(kept)


def _facts_to_match(
    matter: Matter, evidence_types: Mapping[VersionedId, EvidenceType]
) -> Mapping[Slug, tuple[FieldName, ...]]:
    """Return, for each ask that verifies, the fields whose values are compared.

    One answer, match or no match, speaks about all of them: so two requirements that
    want different facts compared have to use two asks.
    """
    wanted: dict[Slug, set[tuple[FieldName, ...]]] = {}
    for requirement in matter.requirements.values():
        for need in (need for listed in requirement.lists for need in listed.all):
            ask = matter.asks[need.ask]
            if ask.mode is Mode.VERIFY:
                fields = evidence_types[ask.evidence_type].fields
                named = sorted({*need.fields, *need.compare})
                stated = tuple(name for name in named if fields[name].concept)
                wanted.setdefault(need.ask, set()).add(stated)
    places = [
        f"{matter.ref}: /asks/{ask}: its needs compare different facts; "
        "declare one ask for each set of facts"
        for ask, sets in sorted(wanted.items())
        if len(sets) > 1
    ]
    if places:
        raise PackError(*places)
    return {ask: min(sets) for ask, sets in wanted.items()}


@dataclass(frozen=True, slots=True)
class _Identity:
    """What makes two asks the same question."""

    evidence_type: VersionedId
    mode: Mode
    about: Slug
    keys: tuple[tuple[FieldName, Concept], ...]
    match: tuple[tuple[FieldName, Concept], ...]
    region: Concept | None


def _candidates(
    matter: Matter,
    evidence_types: Mapping[VersionedId, EvidenceType],
    facts: Mapping[Slug, tuple[FieldName, ...]],
) -> tuple[Candidate, ...]:
    """Return every question that the matter's asks come to, each once."""
    groups: dict[_Identity, list[tuple[Slug, int]]] = {}
    for ask_id, ask in matter.asks.items():
        evidence_type = evidence_types[ask.evidence_type]
        if len(evidence_type.keys) > MAX_KEY_SETS:
            raise PackError(
                f"{evidence_type.ref}: /keys: at most {MAX_KEY_SETS} sets of keys"
            )
        for place, key_set in enumerate(evidence_type.keys):
            stated = facts.get(ask_id, ())
            identity = _identity(ask, evidence_type, key_set, stated)
            groups.setdefault(identity, []).append((ask_id, place))
    made = [
        _candidate(identity, members, matter, evidence_types)
        for identity, members in groups.items()
    ]
    return tuple(sorted(made, key=lambda candidate: candidate.id))


def _identity(
    ask: Ask,
    evidence_type: EvidenceType,
    key_set: tuple[LookupKey, ...],
    stated: tuple[FieldName, ...],
) -> _Identity:
    """Return what an ask comes to when it is put by one set of keys."""
    facts = ((name, evidence_type.fields[name].concept) for name in stated)
    return _Identity(
        evidence_type=evidence_type.ref,
        mode=ask.mode,
        about=ask.about,
        keys=tuple(sorted((key.name, ask.concept(key.concept)) for key in key_set)),
        match=tuple((name, ask.concept(c)) for name, c in facts if c is not None),
        region=ask.region,
    )


def _candidate(
    identity: _Identity,
    members: list[tuple[Slug, int]],
    matter: Matter,
    evidence_types: Mapping[VersionedId, EvidenceType],
) -> Candidate:
    """Return the candidate of a group of asks that are the same question."""
    asks = tuple(sorted({ask for ask, _ in members}))
    place = min(place for _, place in members)
    fields = evidence_types[identity.evidence_type].fields
    shown = _carriers(matter, asks, fields) if identity.mode is Mode.RETRIEVE else {}
    told = {
        concept: tuple((a, f) for a, f in carried if not fields[f].comparison_only)
        for concept, carried in shown.items()
    }
    region = () if identity.region is None else (identity.region,)
    inputs = [*(c for _, c in identity.keys), *(c for _, c in identity.match), *region]
    return Candidate(
        id="+".join(asks) + (f"#{place}" if place else ""),
        asks=asks,
        evidence_type=identity.evidence_type,
        mode=identity.mode,
        about=identity.about,
        keys=identity.keys,
        match=identity.match,
        region=identity.region,
        inputs=frozenset(inputs),
        tells={concept: carried for concept, carried in told.items() if carried},
        shows=shown,
    )


def _carriers(
    matter: Matter, asks: tuple[Slug, ...], fields: Mapping[FieldName, EvidenceField]
) -> dict[Concept, tuple[tuple[Slug, FieldName], ...]]:
    """Return which field states which concept, read as each of the asks reads it."""
    found: dict[Concept, list[tuple[Slug, FieldName]]] = {}
    for ask in asks:
        for name, field in sorted(fields.items()):
            if field.concept is not None:
                concept = matter.asks[ask].concept(field.concept)
                found.setdefault(concept, []).append((ask, name))
    return {concept: tuple(carried) for concept, carried in found.items()}


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


def count_choices(
    asks: Iterable[Slug],
    candidates: Iterable[Candidate],
    stated: frozenset[Concept],
    read: frozenset[Concept],
) -> int:
    """Return how many sets of look-ups the search may have to compare, at most.

    It takes one set of keys for each ask, one candidate that shows it for each concept
    that a condition reads, and some of those who tell it for each that is looked up
    by; and there are no more sets than subsets of the candidates.

    Args:
        asks: The asks of a matter.
        candidates: What they come to.
        stated: Concepts that are always known at the start.
        read: Concepts that conditions read.
    """
    offered = tuple(candidates)
    sought = {c for one in offered for c in one.inputs} - stated
    tellers = (
        sum(c in one.tells and c not in one.inputs for one in offered) for c in sought
    )
    ways: list[int] = [
        *(sum(ask in one.asks for one in offered) for ask in asks),
        *(sum(c in one.shows for one in offered) for c in read - stated),
        *((1 << number) - 1 for number in tellers),
    ]
    return min(prod(max(1, n) for n in ways), 1 << len(offered))
