"""The questions that a matter's asks come to: what a plan can be made of.

An evidence type speaks of `self` and of roles of its own; a matter says who these are
in its asks. Here both are put together, so that planning handles concepts of the matter
only, and asks that come to the same question are one candidate.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from schemas.errors import PackError
from schemas.evidence import EvidenceField, EvidenceType, FieldName, LookupKey, Mode
from schemas.matter import Ask, Matter
from schemas.model import Concept, Slug, VersionedId

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


@dataclass(frozen=True, slots=True)
class _Identity:
    """What makes two asks the same question."""

    evidence_type: VersionedId
    mode: Mode
    about: Slug
    keys: tuple[tuple[FieldName, Concept], ...]
    match: tuple[tuple[FieldName, Concept], ...]
    region: Concept | None


def find_candidates(
    matter: Matter, evidence_types: Mapping[VersionedId, EvidenceType]
) -> tuple[Candidate, ...]:
    """Return every question that the matter's asks come to, each once, by id.

    Raises:
        PackError: An ask means two things, or has too many sets of keys.
    """
    facts = _facts_to_match(matter, evidence_types)
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
