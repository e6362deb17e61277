"""The best plan by brute force: every set of look-ups, and every choice of lists.

It shares no code with the planner. It goes by decision 7 word for word: by list
preference, then fewest look-ups, then fewest waves, then ids.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from exchange.situation import Situation
from schemas.directory import DataService
from schemas.evidence import EvidenceType, Mode
from schemas.matter import Ask, EvidenceList, Matter, Requirement
from tests.exchange.small_matters import HERE, QUESTIONS, Small


@dataclass(frozen=True)
class Question:
    """One question that can be put."""

    id: str
    asks: frozenset[str]
    takes: frozenset[str]
    tells: frozenset[str]
    shows: frozenset[str]


OPENED = "opened by some answer"

Sets: TypeAlias = list[tuple[frozenset[Question], list[frozenset[str]]]]
"""Sets of questions that can be carried out whole, each with its waves."""


@dataclass(frozen=True)
class Best:
    """The best plan, and what it comes to for each requirement."""

    outcome: Mapping[str, object]
    """`not applicable`, the questions to be put, OPENED, `unmet`, `derived`, or the
    place of the list."""
    ids: frozenset[str]
    waves: tuple[frozenset[str], ...]


def best_plan(small: Small) -> Best:
    """Return the best plan, by trying all."""
    known = frozenset(small.situation.stated)
    status = {ask: _status(small, ask) for ask in small.matter.asks}
    sure = _carried_out(small, {a for a, s in status.items() if s is True}, known)
    possible = _carried_out(
        small, {a for a, s in status.items() if s is not False}, known
    )
    outcome: dict[str, object] = {}
    ways: dict[str, list[int]] = {}
    for name, requirement in small.matter.requirements.items():
        early = _early(requirement, sure, possible, small.situation)
        outcome[name] = early
        if early is None:
            ways[name] = _counting(requirement, small.situation.answers)
    places, waves = _best_choice(small, sure, ways, known)
    for name, place in places.items():
        is_derived = small.matter.requirements[name].derive and place is not None
        outcome[name] = "derived" if is_derived else "unmet" if place is None else place
    return Best(outcome, frozenset[str]().union(*waves), tuple(waves))


def _best_choice(
    small: Small, sets: Sets, ways: Mapping[str, list[int]], known: frozenset[str]
) -> tuple[Mapping[str, int | None], list[frozenset[str]]]:
    """Return, of every choice of lists with every set, the best by decision 7."""
    found = []
    for chosen in itertools.product(*(range(len(w) + 1) for w in ways.values())):
        places = {
            name: (ways[name][place] if place < len(ways[name]) else None)
            for name, place in zip(ways, chosen, strict=True)
        }
        for asked, waves in sets:
            if all(
                place is None
                or _meets(small.matter.requirements[name], place, asked, known)
                for name, place in places.items()
            ):
                ids = tuple(sorted(one.id for one in asked))
                found.append(((chosen, len(ids), len(waves), ids), places, waves))
    _, places, waves = min(found, key=lambda one: one[0])
    return places, waves


def _early(
    requirement: Requirement, sure: Sets, possible: Sets, situation: Situation
) -> object:
    """Return what is told before any choice; None when a choice is to be made."""
    known = frozenset(situation.stated)
    told = _tried(requirement.when, situation.answers)
    if told is not True:
        return "not applicable" if told is False else told
    conditions = [None] if requirement.derive else [x.when for x in requirement.lists]
    for place, condition in enumerate(conditions):
        told = _tried(condition, situation.answers)
        can_be = any(_meets(requirement, place, asked, known) for asked, _ in possible)
        if told is False or not can_be:
            continue
        if told is not True:
            return told
        is_sure = any(_meets(requirement, place, asked, known) for asked, _ in sure)
        return None if is_sure else OPENED
    return None


def _status(small: Small, ask: str) -> object:
    """Return whether an ask may be put: True, False, or None while that is open."""
    answers = small.situation.answers
    places = [
        (_tried(requirement.when, answers), _tried(listed.when, answers))
        for requirement in small.matter.requirements.values()
        for listed in requirement.lists
        if any(need.ask == ask for need in listed.all)
    ]
    if not places or (True, True) in places:
        return True
    return False if all(False in place for place in places) else None


def _counting(requirement: Requirement, answers: Mapping[str, object]) -> list[int]:
    """Return the places of the lists that certainly count; 0 for what is derived."""
    if requirement.derive:
        return [0]
    return [
        place
        for place, listed in enumerate(requirement.lists)
        if _tried(listed.when, answers) is True
    ]


def _meets(
    requirement: Requirement,
    place: int,
    asked: frozenset[Question],
    known: frozenset[str],
) -> bool:
    """Tell whether a set of look-ups meets a requirement by one of its ways."""
    answered = {ask for one in asked for ask in one.asks}
    seen = known.union(*(one.shows for one in asked))
    listed: EvidenceList | None = (
        None if requirement.derive else requirement.lists[place]
    )
    needed = {need.ask for need in listed.all} if listed else set()
    read = requirement.derive or requirement.criterion or ""
    concepts = {c for c in ("m.a", "m.b", "m.c", "f.a", "f.b") if c in read}
    return needed <= answered and concepts <= seen


def _tried(condition: str | None, answers: Mapping[str, object]) -> object:
    """Return whether a condition holds, or the questions that it turns on."""
    if condition is None:
        return True
    python = (
        condition.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    )
    open_ones = [q for q in QUESTIONS if q not in answers]
    results = {}
    for values in itertools.product([False, True], repeat=len(open_ones)):
        names = {**answers, **dict(zip(open_ones, values, strict=True))}
        results[values] = bool(eval(python, {}, names))  # noqa: S307 - the test's own text
    if len(set(results.values())) == 1:
        return next(iter(results.values()))
    return tuple(
        sorted(
            question
            for place, question in enumerate(open_ones)
            if any(
                results[values]
                != results[(*values[:place], not values[place], *values[place + 1 :])]
                for values in results
            )
        )
    )


def _carried_out(small: Small, asks: set[str], known: frozenset[str]) -> Sets:
    """Return every set of the asks' questions that can be carried out whole."""
    questions = _questions(small, asks)
    return [
        (frozenset(chosen), waves)
        for size in range(len(questions) + 1)
        for chosen in itertools.combinations(questions, size)
        if (waves := _waves(frozenset(chosen), known)) is not None
    ]


def _waves(
    chosen: frozenset[Question], known: frozenset[str]
) -> list[frozenset[str]] | None:
    """Return the waves, by the shortest way to each; None if some question has none."""
    depth: dict[Question, int] = {}
    for round_ in range(len(chosen)):
        have = known.union(*(one.tells for one in depth))
        for one in chosen - depth.keys():
            if one.takes <= have:
                depth[one] = round_
    if len(depth) < len(chosen):
        return None
    last = max(depth.values(), default=-1)
    return [
        frozenset(one.id for one, at in depth.items() if at == wave)
        for wave in range(last + 1)
    ]


def _questions(small: Small, allowed: set[str]) -> list[Question]:
    """Return every question of these asks that somebody is registered for, once."""
    types = {one.ref: one for one in small.evidence_types}
    groups: dict[object, list[tuple[str, int]]] = {}
    for name, ask in small.matter.asks.items():
        evidence_type = types[ask.evidence_type]
        for place, keys in enumerate(evidence_type.keys):
            same = (
                ask.evidence_type,
                ask.mode,
                ask.about,
                frozenset((key.name, _read(ask, key.concept)) for key in keys),
                frozenset(_facts(small.matter, name, evidence_type)),
                ask.region,
            )
            groups.setdefault(same, []).append((name, place))
    return [
        _question(members, allowed, small.matter, types)
        for members in groups.values()
        if _is_covered(small, small.matter.asks[members[0][0]])
        and small.situation.barred.isdisjoint(ask for ask, _ in members)
        and not allowed.isdisjoint(ask for ask, _ in members)
    ]


def _is_covered(small: Small, ask: Ask) -> bool:
    """Tell whether a service of the ask's evidence type covers the ask's region."""
    region = HERE
    if ask.region is not None:
        stated = small.situation.stated.get(ask.region)
        region = stated if isinstance(stated, str) else "any"
    offered: list[DataService] = [
        one for one in small.services if one.evidence_type == ask.evidence_type
    ]
    if region == "any":
        return bool(offered)
    within = {region, "990000" if region == HERE else region}
    return any(within & set(one.coverage.regions) for one in offered)


def _question(
    members: list[tuple[str, int]],
    allowed: set[str],
    matter: Matter,
    types: Mapping[str, EvidenceType],
) -> Question:
    """Return one question with all that it takes, and tells to these asks."""
    asks = sorted({name for name, _ in members} & allowed)
    name, place = members[0]
    ask = matter.asks[name]
    evidence_type = types[ask.evidence_type]
    takes = {_read(ask, key.concept) for key in evidence_type.keys[place]}
    takes |= {concept for _, concept in _facts(matter, name, evidence_type)}
    takes |= {ask.region} if ask.region else set()
    stated = [
        (field, _read(matter.asks[one], declared.concept))
        for one in asks
        for field, declared in evidence_type.fields.items()
        if declared.concept and ask.mode is Mode.RETRIEVE
    ]
    least = min(place for _, place in members)
    return Question(
        id="+".join(sorted({n for n, _ in members})) + (f"#{least}" if least else ""),
        asks=frozenset(asks),
        takes=frozenset(takes),
        tells=frozenset(
            c for f, c in stated if not evidence_type.fields[f].comparison_only
        ),
        shows=frozenset(c for _, c in stated),
    )


def _facts(
    matter: Matter, name: str, evidence_type: EvidenceType
) -> set[tuple[str, str]]:
    """Return the facts that an ask has compared at the source."""
    ask = matter.asks[name]
    if ask.mode is Mode.RETRIEVE:
        return set()
    return {
        (field, _read(ask, concept))
        for requirement in matter.requirements.values()
        for listed in requirement.lists
        for need in listed.all
        if need.ask == name
        for field in (*need.fields, *need.compare)
        if (concept := evidence_type.fields[field].concept)
    }


def _read(ask: Ask, concept: str) -> str:
    """Return an evidence type's concept as the ask reads it."""
    role, fact = concept.split(".")
    return f"{ask.about if role == 'self' else ask.roles.get(role, role)}.{fact}"
