"""The planner against brute force, and what holds of every plan."""

from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings

from exchange.plan import (
    AnswerNeeded,
    Derive,
    NotApplicable,
    Plan,
    Planned,
    State,
    Uncovered,
    Unreachable,
    ready,
)
from exchange.planner import make_plan
from schemas.declared import Catalogue, Declared, complain_of
from schemas.evidence import Mode
from schemas.mattercheck import MatterCheck
from schemas.packtext import Document
from tests.exchange.oracle import OPENED, best_plan
from tests.exchange.small_matters import (
    QUESTIONS,
    TODAY,
    Small,
    alike_but_for_ids,
    fewer_waves_by_later_ids,
    in_a_circle,
    more_lookups_by_the_first_list,
    more_waves_by_fewer_lookups,
    opened_by_an_answer,
    small_matters,
    tangled_matters,
    told_for_comparison_alone,
)

slowly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _plan(small: Small) -> Plan:
    return make_plan(small.catalogue, small.situation, TODAY)


def _is_open(outcome: object, small: Small) -> bool:
    """Tell whether an outcome is that questions not answered yet are to be put."""
    unanswered = set(QUESTIONS) - small.situation.answers.keys()
    return isinstance(outcome, tuple) and bool(outcome) and set(outcome) <= unanswered


def _outcome(state: State) -> object:
    """Say what a state comes to, in the oracle's words."""
    match state:
        case NotApplicable():
            return "not applicable"
        case AnswerNeeded(questions=questions):
            return questions
        case Derive():
            return "derived"
        case Planned(list=place):
            return place
        case Uncovered() | Unreachable():
            return "unmet"
        case _:
            raise AssertionError(state)


@settings(slowly, max_examples=350)
@example(more_lookups_by_the_first_list())
@example(more_waves_by_fewer_lookups())
@example(fewer_waves_by_later_ids())
@example(alike_but_for_ids())
@example(in_a_circle())
@example(opened_by_an_answer())
@example(told_for_comparison_alone())
@given(small_matters() | tangled_matters())
def test_the_plan_is_the_one_that_brute_force_finds(small: Small) -> None:
    """Lists, number of look-ups, waves and ids are the best of all there are.

    The examples are those in which each rule of the order decides against the next.
    """
    plan = _plan(small)
    best = best_plan(small)
    outcomes = {name: _outcome(state) for name, state in plan.requirements.items()}

    assert best.outcome == {
        name: OPENED if best.outcome[name] == OPENED and questions else outcome
        for name, outcome in outcomes.items()
        for questions in [_is_open(outcome, small)]
    }
    assert len(best.ids) == len(plan.lookups)
    assert len(best.waves) == len(plan.waves)
    assert best.ids == frozenset(plan.lookups)
    assert best.waves == tuple(frozenset(wave) for wave in plan.waves)


@settings(slowly, max_examples=60)
@given(small_matters())
def test_look_ups_get_ready_wave_by_wave(small: Small) -> None:
    """When a wave has told what it was asked for, the next one is ready, whole."""
    plan = _plan(small)
    known = set(small.situation.stated)
    settled: set[str] = set()
    for wave in plan.waves:
        assert list(wave) == [lookup.id for lookup in ready(plan, known, settled)]
        settled.update(wave)
        known.update(c for name in wave for c in plan.lookups[name].tells)

    assert ready(plan, known, settled) == ()
    assert list(plan.lookups) == [name for wave in plan.waves for name in wave]


@settings(slowly, max_examples=60)
@given(small_matters())
def test_every_field_asked_for_has_a_reason(small: Small) -> None:
    """It is passed on, compared, read by a condition, or leads to a later look-up."""
    plan = _plan(small)
    read = {
        concept
        for name, state in plan.requirements.items()
        if isinstance(state, Planned | Derive)
        for text in [small.matter.requirements[name].criterion or "", _derive(state)]
        for concept in ("m.a", "m.b", "m.c", "f.a", "f.b")
        if concept in text
    }
    for lookup in plan.lookups.values():
        passed_on = {
            field
            for state in plan.requirements.values()
            if isinstance(state, Planned)
            for part in state.parts
            if part.lookup == lookup.id
            for field in (*part.fields, *part.compare)
        }
        chained = {
            source.tells[concept]
            for later in plan.lookups.values()
            for concept, source_id in later.sources.items()
            if (source := plan.lookups[source_id]).id == lookup.id
        }
        shown = {lookup.shows[c] for c in read if c in lookup.shows}

        assert set(lookup.fields) <= passed_on | chained | shown


def _derive(state: State) -> str:
    return state.expression if isinstance(state, Derive) else ""


@settings(slowly, max_examples=60)
@given(small_matters())
def test_every_look_up_is_there_for_somebody_and_is_the_only_one(small: Small) -> None:
    """It serves a requirement; what it takes is stated or told in an earlier wave."""
    plan = _plan(small)
    wave_of = {name: n for n, wave in enumerate(plan.waves) for name in wave}
    asks = [ask for lookup in plan.lookups.values() for ask in lookup.asks]

    assert sorted(set(asks)) == sorted(asks)
    for lookup in plan.lookups.values():
        taken = lookup.inputs - small.situation.stated.keys()

        assert lookup.serves
        assert lookup.services
        assert taken == lookup.sources.keys()
        for concept, source in lookup.sources.items():
            assert wave_of[source] < wave_of[lookup.id]
            assert concept in plan.lookups[source].tells
        if lookup.mode is Mode.VERIFY:
            assert lookup.fields == ()


def _checked(small: Small) -> MatterCheck:
    """Return what checks the matter when its pack is loaded, before it has."""
    document = Document("", None, {})
    types = {o.ref: Declared(o, document, "") for o in small.evidence_types}
    catalogue = Catalogue(evidence_types=types)
    matter = Declared(small.matter, document, "")
    checker = MatterCheck(small.matter, catalogue, complain_of([], matter))
    checker.programs = dict(small.catalogue.programs)
    return checker


@settings(slowly, max_examples=250)
@given(small_matters() | tangled_matters())
def test_every_look_up_takes_what_a_pack_s_check_says(small: Small) -> None:
    """So a grant that the check refuses for what it lacks would permit no look-up."""
    takes = _checked(small).takes()
    for lookup in _plan(small).lookups.values():
        least = [fields for ask in lookup.asks for fields in takes[ask]]

        assert lookup.mode is Mode.VERIFY or any(
            fields <= lookup.all_fields for fields in least
        )


@settings(slowly, max_examples=250)
@given(small_matters() | tangled_matters())
def test_what_a_pack_s_check_calls_out_of_reach_is_never_asked(small: Small) -> None:
    """Whatever of a role's facts is stated, and whichever conditions hold."""
    chaining = _checked(small).chaining
    never = {name for name, _ in chaining.unreachable()}
    facts = dict.fromkeys(chaining.stated(), "x")
    plan = _plan(replace(small, situation=replace(small.situation, stated=facts)))

    assert never.isdisjoint(ask for one in plan.lookups.values() for ask in one.asks)


@settings(slowly, max_examples=60)
@given(small_matters())
def test_the_order_of_what_was_declared_never_shows(small: Small) -> None:
    """A pack that declares asks, services and types in another order plans alike."""
    turned = Small(
        small.matter.model_copy(
            update={"asks": dict(reversed(list(small.matter.asks.items())))}
        ),
        small.evidence_types[::-1],
        small.services[::-1],
        small.situation,
    )

    assert _plan(small) == _plan(turned)
