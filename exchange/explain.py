"""What would be asked, of whom, on which basis, and why: without asking anybody.

The same planner and the same decision as a case goes through, laid open step by step.
Pure: who explains a case brings its decisions; `judge` makes those of a mere situation.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, assert_never

from consent.verdict import ConsentNeeded, Decision, Permit, Provisional, Refuse
from exchange.catalogue import Catalogue
from exchange.explanation import (
    DecidedAgain,
    DecisionExplained,
    Explanation,
    FieldExplained,
    LookupExplained,
    Move,
    Reason,
    RequirementExplained,
    ServiceExplained,
)
from exchange.plan import (
    AnswerNeeded,
    Declared,
    Derive,
    Lookup,
    NotApplicable,
    Plan,
    Planned,
    State,
    Uncovered,
    Undecided,
    Unreachable,
)
from exchange.proposal import Judged
from schemas.model import Concept, Slug
from schemas.validation import Pack

_Facts: TypeAlias = dict[str, object]

_URGENCY = (
    Move.ASK,
    Move.WAIT_FOR_SOURCES,
    Move.DECIDE_AGAIN,
    Move.ASK_CONSENT,
    Move.REPORT,
)
"""Where a requirement rests on several look-ups, the last of these moves is its own."""


def explain(
    catalogue: Catalogue,
    pack: Pack,
    plan: Plan,
    decided: Mapping[str, Judged | None],
) -> Explanation:
    """Lay a plan and its decisions open.

    Args:
        catalogue: The plan's matter.
        pack: Where providers, evidence types and grants are named.
        plan: The plan.
        decided: What was decided of each of its look-ups, by id; None for one whose
            region nobody covers.
    """
    moves = {name: _next(one, decided[name]) for name, one in plan.lookups.items()}
    explained = {
        name: _lookup(
            pack,
            one,
            _reasons(catalogue, plan, one),
            decided[name],
            _decided_again(plan, name, decided),
        )
        for name, one in plan.lookups.items()
    }
    return Explanation(
        matter=plan.matter,
        name=catalogue.matter.name,
        pack=plan.pack,
        requirements=tuple(
            _requirement(catalogue, name, state, moves)
            for name, state in plan.requirements.items()
        ),
        waves=tuple(tuple(explained[name] for name in wave) for wave in plan.waves),
    )


def _requirement(
    catalogue: Catalogue, name: Slug, state: State, moves: Mapping[str, Move]
) -> RequirementExplained:
    requirement = catalogue.matter.requirements[name]
    facts: _Facts = {
        "id": name,
        "name": requirement.name,
        "steps": requirement.steps,
        "basis": requirement.basis,
        "applies_when": requirement.when,
        "criterion": requirement.criterion,
    }
    return RequirementExplained.model_validate(facts | _state(state, moves))


def _state(  # noqa: C901, PLR0912 - a branch for each member of a union
    state: State, moves: Mapping[str, Move]
) -> _Facts:
    """Return what a state says of its requirement."""
    match state:
        case NotApplicable(condition=condition):
            facts: _Facts = {"state": "not_applicable", "next": Move.NOTHING}
            facts["decided_by"] = condition
        case AnswerNeeded(questions=questions):
            facts = {"state": "answer_needed", "next": Move.ANSWER}
            facts["questions"] = questions
        case Undecided(condition=condition, lookups=lookups):
            facts = {"state": "undecided", "next": Move.PLAN_AGAIN}
            facts |= {"decided_by": condition, "lookups": lookups}
        case Declared(question=question):
            facts = {"state": "declared", "next": Move.NOTHING}
            facts["questions"] = (question,)
        case Derive(expression=expression, lookups=lookups):
            facts = {"state": "derive", "next": Move.JUDGE}
            facts |= {"decided_by": expression, "lookups": lookups}
        case Planned():
            return _planned(state, moves)
        case Uncovered(asks=asks):
            facts = {"state": "uncovered", "next": Move.REPORT}
            facts |= {"uncovered": asks, "passed_over": _passed_over(state)}
        case Unreachable():
            return _unreachable(state)
        case _:
            assert_never(state)
    return facts


def _planned(state: Planned, moves: Mapping[str, Move]) -> _Facts:
    parts = [
        {"lookup": part.lookup, "fields": part.fields, "compare": part.compare}
        for part in state.parts
    ]
    return {
        "state": "planned",
        "list": state.list,
        "passed_over": _passed_over(state),
        "lookups": state.lookups,
        "contributions": parts,
        "next": max((moves[name] for name in state.lookups), key=_URGENCY.index),
    }


def _unreachable(state: Unreachable) -> _Facts:
    can_state = any(one.is_statable for one in state.missing)
    missing = [
        {"concept": one.concept, "is_statable": one.is_statable, "asks": one.asks}
        for one in state.missing
    ]
    return {
        "state": "unreachable",
        "missing": missing,
        "passed_over": _passed_over(state),
        "next": Move.STATE_FACT if can_state else Move.REPORT,
    }


def _passed_over(state: Planned | Uncovered | Unreachable) -> list[_Facts]:
    return [
        {"list": one.list, "reason": one.reason, "names": one.names}
        for one in state.skipped
    ]


def _lookup(
    pack: Pack,
    lookup: Lookup,
    reasons: Iterable[FieldExplained],
    judged: Judged | None,
    again: DecidedAgain | None,
) -> LookupExplained:
    return LookupExplained(
        id=lookup.id,
        asks=lookup.asks,
        evidence_type=lookup.evidence_type,
        evidence_name=pack.evidence_types[lookup.evidence_type].name,
        mode=lookup.mode,
        about=lookup.about,
        concerns=lookup.concerns,
        keys=lookup.keys,
        match=lookup.match,
        region=lookup.region,
        services=tuple(_service(pack, service) for service in lookup.services),
        fields=tuple(sorted(reasons, key=lambda one: (one.field, one.why, one.whom))),
        sources=lookup.sources,
        serves=lookup.serves,
        decision=_decision(pack, lookup, judged),
        decided_again=again,
        next=_next(lookup, judged),
    )


def _decided_again(
    plan: Plan, name: str, decided: Mapping[str, Judged | None]
) -> DecidedAgain | None:
    """Say when a look-up is decided again; None when the decision stands."""
    roles = _awaited(decided[name])
    if not roles:
        return None
    wave_of = {one: n for n, wave in enumerate(plan.waves, 1) for one in wave}
    tellers = {
        role: [
            one.id
            for one in plan.lookups.values()
            # A look-up that waits for the same person can't be the one that tells.
            if f"{role}.id" in one.shows and role not in _awaited(decided[one.id])
        ]
        for role in roles
    }
    first = None
    if all(tellers.values()):
        told = [min(wave_of[one] for one in found) for found in tellers.values()]
        first = max([wave_of[name], *(wave + 1 for wave in told)])
    return DecidedAgain(
        roles=tuple(sorted(roles)),
        told_by=tuple(sorted({one for found in tellers.values() for one in found})),
        first_wave=first,
    )


def _awaited(judged: Judged | None) -> frozenset[Slug]:
    """Return the roles whose persons a decision waits for."""
    if judged is None or not isinstance(judged.decision, Provisional):
        return frozenset()
    return judged.decision.awaits


def _service(pack: Pack, service: Slug) -> ServiceExplained:
    provider = pack.services[service].provider
    name = pack.providers[provider].name
    return ServiceExplained(id=service, provider=provider, provider_name=name)


def _reasons(
    catalogue: Catalogue, plan: Plan, lookup: Lookup
) -> Iterator[FieldExplained]:
    """Yield every reason for which a field of a look-up is asked for."""
    for name, state in plan.requirements.items():
        if isinstance(state, Planned):
            yield from _wanted(name, state, lookup)
        for concept in _read(catalogue, name, state, lookup):
            yield FieldExplained(
                field=lookup.shows[concept], why=Reason.READ, whom=name
            )
    for later in plan.lookups.values():
        for concept in later.sources:
            if later.sources[concept] == lookup.id:
                yield FieldExplained(
                    field=lookup.tells[concept], why=Reason.LEADS_TO, whom=later.id
                )


def _wanted(
    requirement: Slug, state: Planned, lookup: Lookup
) -> Iterator[FieldExplained]:
    """Yield the fields that a requirement passes on, and those that it compares."""
    for part in state.parts:
        if part.lookup == lookup.id:
            for why, fields in (
                (Reason.PASSED_ON, part.fields),
                (Reason.COMPARED, part.compare),
            ):
                for name in fields:
                    yield FieldExplained(field=name, why=why, whom=requirement)


def _read(
    catalogue: Catalogue, requirement: Slug, state: State, lookup: Lookup
) -> tuple[Concept, ...]:
    """Return the concepts that a requirement's conditions read from a look-up."""
    criterion = catalogue.matter.requirements[requirement].criterion
    concepts: Iterable[Concept] = ()
    match state:
        case Derive() | Undecided() if lookup.id in state.lookups:
            concepts = state.concepts
        case Planned() if lookup.id in state.lookups and criterion is not None:
            concepts = sorted(catalogue.programs[criterion].concepts)
        case _:
            pass
    return tuple(concept for concept in concepts if concept in lookup.shows)


def _decision(pack: Pack, lookup: Lookup, judged: Judged | None) -> DecisionExplained:
    if judged is None:
        return DecisionExplained(decision="uncovered")
    decision = judged.decision
    grant = None if decision.grant is None else pack.grants[decision.grant]
    facts: _Facts = {"rule": decision.rule, "grant": decision.grant}
    if grant is not None:
        roles = (lookup.about, *lookup.concerns)
        facts["grant_version"] = grant.version
        facts["bases"] = {role: grant.bases.get(role) for role in roles}
    return DecisionExplained.model_validate(facts | _decided(decision))


def _decided(decision: Decision) -> _Facts:
    """Return what a decision is called, and what it waits for or fell on."""
    match decision:
        case Permit():
            return {"decision": "permit"}
        case Provisional(awaits=awaits):
            return {"decision": "provisional", "roles": tuple(sorted(awaits))}
        case ConsentNeeded(missing=missing):
            roles = tuple(one.role for one in missing)
            return {"decision": "consent_needed", "roles": roles}
        case Refuse(names=names):
            return {"decision": "refuse", "names": names}
        case _:
            assert_never(decision)


def _next(lookup: Lookup, judged: Judged | None) -> Move:
    """Tell what would happen next with a look-up."""
    if judged is None:
        return Move.REPORT
    match judged.decision:
        case Permit():
            return Move.WAIT_FOR_SOURCES if lookup.sources else Move.ASK
        case Provisional():
            return Move.DECIDE_AGAIN
        case ConsentNeeded():
            return Move.ASK_CONSENT
        case Refuse():
            return Move.REPORT
        case _:
            assert_never(judged.decision)
