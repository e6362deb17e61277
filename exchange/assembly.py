"""From the look-ups chosen to the plan: which fields each is asked for, and for whom.

INVARIANT: a field is asked for only because a requirement passes it on or compares
it, a condition of the plan reads it, or a later look-up of the plan is made by it
(rule 4); and of several look-ups that state one concept, one is asked for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from exchange.candidates import Candidate, Carriers
from exchange.catalogue import Catalogue
from exchange.plan import (
    AnswerNeeded,
    Declared,
    Derive,
    Lookup,
    NotApplicable,
    Part,
    Plan,
    Planned,
    Skipped,
    State,
    Uncovered,
    Undecided,
    Unreachable,
)
from exchange.search import Waves
from schemas.evidence import FieldName, Mode
from schemas.matter import Need
from schemas.model import Concept, Slug


@dataclass(frozen=True, slots=True)
class Chosen:
    """The list by which a requirement is met, before its look-ups are known."""

    list: int
    needs: tuple[Need, ...]
    read: tuple[Concept, ...]
    """Concepts that the requirement's criterion reads."""
    skipped: tuple[Skipped, ...]


def needs_of(state: State | Chosen) -> tuple[Need, ...]:
    """Return what a requirement wants from the matter's asks."""
    return state.needs if isinstance(state, Chosen) else ()


def goals_of(state: State | Chosen) -> tuple[Concept, ...]:
    """Return the concepts that conditions of a requirement read."""
    match state:
        case Chosen(read=concepts):
            return concepts
        case Derive(concepts=concepts) | Undecided(concepts=concepts):
            return concepts
        case _:
            return ()


def assemble(
    catalogue: Catalogue,
    states: Mapping[Slug, State | Chosen],
    waves: Waves,
    known: frozenset[Concept],
    services: Mapping[str, tuple[Slug, ...]],
) -> Plan:
    """Make the plan.

    (1) Ask each look-up for what requirements pass on and compare.
    (2) Ask for what conditions read.
    (3) Ask for what later look-ups are made by, from the last wave to the first, so
        that what a look-up serves is complete when its own sources are told.

    Args:
        catalogue: The matter, compiled.
        states: What stands before each requirement, in the matter's order.
        waves: The look-ups, in their waves.
        known: Concepts known at the start.
        services: Who may answer each candidate, by its id.
    """
    drafts = _Drafts(
        {
            candidate.id: _Draft(candidate, wave)
            for wave, candidates in enumerate(waves)
            for candidate in candidates
        },
        known,
    )
    # (1): first, so that (2) and (3) prefer fields that are asked for anyway.
    parts = {
        name: tuple(drafts.part(name, need) for need in needs_of(state))
        for name, state in states.items()
    }
    # (2): of the requirement's own look-ups, if they show it.
    shown = {
        name: drafts.shown(name, goals_of(state)) for name, state in states.items()
    }
    # (3): from the last wave to the first.
    for draft in reversed(drafts.all()):
        drafts.chain(draft)
    return Plan(
        matter=catalogue.matter.ref,
        pack=catalogue.pack,
        requirements={
            name: _finished(state, parts[name], shown[name])
            for name, state in states.items()
        },
        lookups={
            draft.candidate.id: _lookup(
                draft, catalogue, services[draft.candidate.id], tuple(states)
            )
            for draft in drafts.all()
        },
        waves=tuple(tuple(one.id for one in wave) for wave in waves),
    )


@dataclass(slots=True)
class _Draft:
    """A look-up whose fields are being gathered."""

    candidate: Candidate
    wave: int
    fields: set[FieldName] = field(default_factory=set)
    asks: set[Slug] = field(default_factory=set)
    serves: set[Slug] = field(default_factory=set)
    sources: dict[Concept, str] = field(default_factory=dict)

    def asked_carrier(self, carriers: Carriers, concept: Concept) -> bool:
        """Tell whether a field that states the concept is asked for already."""
        return any(name in self.fields for _, name in carriers[concept])


@dataclass(slots=True)
class _Drafts:
    """The look-ups of one plan whose fields are being gathered."""

    by_id: Mapping[str, _Draft]
    known: frozenset[Concept]

    def all(self) -> list[_Draft]:
        """Return every draft, in the order of the waves."""
        return list(self.by_id.values())

    def part(self, requirement: Slug, need: Need) -> Part:
        """Ask for what one need passes on and compares."""
        draft = next(d for d in self.all() if need.ask in d.candidate.asks)
        draft.asks.add(need.ask)
        draft.serves.add(requirement)
        if draft.candidate.mode is Mode.VERIFY:
            compared = tuple(name for name, _ in draft.candidate.match)
            return Part(draft.candidate.id, need.ask, (), compared)
        draft.fields.update(need.fields, need.compare)
        return Part(draft.candidate.id, need.ask, need.fields, need.compare)

    def shown(self, requirement: Slug, concepts: Iterable[Concept]) -> tuple[str, ...]:
        """Ask for what a condition of a requirement reads; return who is asked."""
        asked: set[str] = set()
        for concept in concepts:
            if concept in self.known:
                continue
            source = min(
                (d for d in self.all() if concept in d.candidate.shows),
                key=lambda d: (
                    requirement not in d.serves,
                    not d.asked_carrier(d.candidate.shows, concept),
                    d.wave,
                    d.candidate.id,
                ),
            )
            _ask_for(source, source.candidate.shows, concept)
            source.serves.add(requirement)
            asked.add(source.candidate.id)
        return tuple(sorted(asked))

    def chain(self, draft: _Draft) -> None:
        """Ask earlier look-ups for the concepts that a look-up takes."""
        for concept in sorted(draft.candidate.inputs - self.known):
            source = min(
                (
                    d
                    for d in self.all()
                    if d.wave < draft.wave and concept in d.candidate.tells
                ),
                key=lambda d: (
                    not d.asked_carrier(d.candidate.tells, concept),
                    d.wave,
                    d.candidate.id,
                ),
            )
            _ask_for(source, source.candidate.tells, concept)
            source.serves.update(draft.serves)
            draft.sources[concept] = source.candidate.id


def _ask_for(draft: _Draft, carriers: Carriers, concept: Concept) -> None:
    """Ask for one field that states a concept, by preference one asked for anyway."""
    ask, name = min(
        carriers[concept],
        key=lambda carrier: (
            carrier[1] not in draft.fields,
            carrier[0] not in draft.asks,
            carrier,
        ),
    )
    draft.fields.add(name)
    draft.asks.add(ask)


def _finished(
    state: State | Chosen, parts: tuple[Part, ...], shown: tuple[str, ...]
) -> State:
    """Return a requirement's state, with the look-ups that it rests on."""
    match state:
        case Chosen(list=place, skipped=skipped):
            used = {*shown, *(part.lookup for part in parts)}
            return Planned(place, parts, skipped, tuple(sorted(used)))
        case Derive() | Undecided():
            return replace(state, lookups=shown)
        case (
            NotApplicable()
            | AnswerNeeded()
            | Declared()
            | Planned()
            | Uncovered()
            | Unreachable()
        ):
            return state


def _lookup(
    draft: _Draft,
    catalogue: Catalogue,
    services: tuple[Slug, ...],
    order: tuple[Slug, ...],
) -> Lookup:
    """Return the look-up that a draft came to."""
    candidate = draft.candidate
    asks = tuple(sorted(draft.asks))
    concerned = {role for ask in asks for role in catalogue.matter.asks[ask].concerns}
    return Lookup(
        id=candidate.id,
        asks=asks,
        evidence_type=candidate.evidence_type,
        mode=candidate.mode,
        about=candidate.about,
        concerns=tuple(sorted(concerned - {candidate.about})),
        keys=dict(candidate.keys),
        match=dict(candidate.match),
        region=candidate.region,
        services=services,
        fields=tuple(sorted(draft.fields)),
        tells=_stated(draft, candidate.tells),
        shows=_stated(draft, candidate.shows),
        sources=dict(sorted(draft.sources.items())),
        serves=tuple(name for name in order if name in draft.serves),
    )


def _stated(draft: _Draft, carriers: Carriers) -> Mapping[Concept, FieldName]:
    """Return the concepts that the fields asked for state, as the asks used read it."""
    return {
        concept: name
        for concept, carried in sorted(carriers.items())
        for ask, name in reversed(carried)
        if name in draft.fields and ask in draft.asks
    }
