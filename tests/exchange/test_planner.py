"""What the planner does, case by case: small matters, and the matter `newborn`."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from exchange.candidates import count_choices
from exchange.catalogue import MAX_CHOICES, Catalogue, competent, compile_pack
from exchange.plan import (
    AnswerNeeded,
    Declared,
    Derive,
    Missing,
    NotApplicable,
    Plan,
    Planned,
    Skipped,
    SkipReason,
    Uncovered,
    Undecided,
    Unreachable,
    ready,
)
from exchange.planner import Planner, make_plan, plan_key
from exchange.situation import Situation
from schemas.errors import NotFoundError, PackError
from schemas.matter import Need, Question, QuestionType
from schemas.validation import Pack, load_pack
from tests.exchange.small_matters import (
    NAME,
    REGION,
    TODAY,
    Small,
    a_list,
    a_matter,
    a_requirement,
    a_service,
    alike_but_for_ids,
    an_ask,
    an_evidence_type,
    compiled,
    fewer_waves_by_later_ids,
    more_lookups_by_the_first_list,
    more_waves_by_fewer_lookups,
    one_requirement,
    told_for_comparison_alone,
)

PACK = Path(__file__).parents[2] / "schemas" / "packs" / "990100"
NEWBORN = "newborn@1"
STATED = {
    "mother.id": "990101199403120026",
    "mother.name": "测试甲",
    "newborn.birth_date": "2026-01-08",
}
MARRIED = {
    "parents_married": True,
    "joins": "mother",
    "child_name": "测试乙",
    "bank_account": "6200000000000000",
    "phone": "0000000",
}
UNMARRIED = {**MARRIED, "parents_married": False}


@pytest.fixture(scope="module")
def pack() -> Pack:
    """Return the pack of region 990100."""
    files = sorted(PACK.glob("*.yaml"))
    return load_pack({file.name: file.read_text("utf-8") for file in files})


@pytest.fixture(scope="module")
def newborn(pack: Pack) -> Catalogue:
    """Return the matter `newborn`, compiled."""
    (catalogue,) = (
        one
        for one in compile_pack(pack, pack.services.values())
        if one.matter.ref == NEWBORN
    )
    return catalogue


def _plan(small: Small) -> Plan:
    return make_plan(small.catalogue, small.situation, TODAY)


def held_back(plan: Plan, name: str) -> set[str]:
    """Return the fields that a look-up asks for and that no requirement passes on."""
    planned = [s for s in plan.requirements.values() if isinstance(s, Planned)]
    parts = [part for state in planned for part in state.parts if part.lookup == name]
    return set(plan.lookups[name].fields).difference(*(part.fields for part in parts))


def _newborn(
    catalogue: Catalogue,
    answers: Mapping[str, object],
    learned: Mapping[str, object] | None = None,
    barred: frozenset[str] = frozenset(),
) -> Plan:
    situation = Situation(answers, STATED, learned or {}, barred)
    return make_plan(catalogue, situation, TODAY)


# The order of plans.


def test_a_preferred_list_outweighs_fewer_look_ups() -> None:
    """The first list is chosen although the second takes one look-up less."""
    plan = _plan(more_lookups_by_the_first_list())

    assert (("one", "two"),) == plan.waves


def test_fewer_look_ups_outweigh_fewer_waves() -> None:
    """A look-up that would only save a wave is not made."""
    plan = _plan(more_waves_by_fewer_lookups())

    assert (("first",), ("second",), ("wanted",)) == plan.waves


def test_fewer_waves_outweigh_smaller_ids() -> None:
    """Of plans with as many look-ups the one that is done sooner is made."""
    plan = _plan(fewer_waves_by_later_ids())

    assert (("first", "z_short_way"), ("wanted",)) == plan.waves


def test_ids_decide_between_plans_that_are_alike() -> None:
    """Nothing is left to chance: the smallest ids win."""
    plan = _plan(alike_but_for_ids())

    assert (("a_source",), ("wanted",)) == plan.waves


def test_a_second_list_serves_when_the_first_can_not_be_met() -> None:
    """The list passed over is named, with the concept that it lacks."""
    tellers: dict[str, tuple[str, str | None]] = {
        "lost": ("f.a", None),
        "found": ("m.a", None),
    }
    plan = _plan(one_requirement(tellers, ["lost"], ["found"]))
    state = plan.requirements["only"]

    assert isinstance(state, Planned)
    assert state.list == 1
    assert (Skipped(0, SkipReason.UNREACHABLE, ("f.a",)),) == state.skipped


# What can't be planned, and why.


def test_a_key_that_nobody_can_know_is_named() -> None:
    """The requirement says which concept is missing, and that it may be stated."""
    plan = _plan(one_requirement({"lost": ("f.a", None)}, ["lost"]))
    state = plan.requirements["only"]

    assert isinstance(state, Unreachable)
    assert (Missing("f.a", is_statable=True, asks=()),) == state.missing
    assert plan.waves == ()


def test_a_field_that_may_only_be_compared_leads_to_nobody() -> None:
    """Decision 4: nobody is looked up by it, though a register would tell it."""
    plan = _plan(told_for_comparison_alone())
    state = plan.requirements["only"]

    assert isinstance(state, Unreachable)
    assert (Missing("m.c", is_statable=False, asks=("register",)),) == state.missing


def test_a_region_that_nobody_covers_is_told_before_anybody_is_asked() -> None:
    """A stated region outside all coverage is known to be uncovered at the start."""
    small = _regional(["990100"])
    elsewhere = Situation({}, {"m.a": "x", REGION: "990200"})
    state = make_plan(small.catalogue, elsewhere, TODAY).requirements["only"]

    assert isinstance(state, Uncovered)
    assert state.asks == ("wanted",)


def test_a_region_that_evidence_told_can_uncover_a_look_up() -> None:
    """Planned again with what was learned, the plan knows that nobody covers it."""
    small = _regional(["990100"])
    at_first = _plan(small)
    later = Situation({}, {"m.a": "x"}, learned={REGION: "990200"})
    state = make_plan(small.catalogue, later, TODAY).requirements["only"]

    assert at_first.waves == (("register",), ("wanted",))
    assert isinstance(state, Uncovered)


def test_what_was_learned_leaves_the_plan_as_it_is() -> None:
    """Facts that evidence told, with their regions, change neither ids nor waves."""
    small = _regional(["990100"])
    later = Situation({}, {"m.a": "x"}, learned={REGION: "990101", "m.c": "x"})
    replanned = make_plan(small.catalogue, later, TODAY)

    assert _plan(small).waves == replanned.waves
    assert _plan(small).lookups == replanned.lookups


def _regional(regions: list[str]) -> Small:
    """Return a matter whose look-up's region another look-up tells."""
    types = [
        an_evidence_type("register", [{"key": "m.a"}], {"region": REGION}),
        an_evidence_type("wanted", [{"key": "m.a"}], {"field": None}),
    ]
    asks = {"register": an_ask("register"), "wanted": an_ask("wanted", region=REGION)}
    requirement = a_requirement(a_list(Need(ask="wanted", fields=("field",))))
    services = [a_service("register"), a_service("wanted", regions=tuple(regions))]
    situation = Situation({}, {"m.a": "x"})
    return Small(a_matter(asks, {"only": requirement}), types, services, situation)


def test_the_narrowest_competent_service_comes_first() -> None:
    """A district's own service is preferred to the city's and the province's."""
    services = [
        a_service("any", "province", ("990000",)),
        a_service("any", "city", ("990100",)),
        a_service("any", "district", ("990101", "990102")),
        a_service("any", "elsewhere", ("990200",)),
        a_service("any", "later", ("990101",), date(2027, 1, 1)),
    ]

    found = competent(services, "990101", TODAY)

    assert ["district", "city", "province"] == [service.id for service in found]


def test_a_barred_ask_gives_way_to_the_next_list() -> None:
    """What came to nothing is not planned again; the alternative is."""
    small = more_lookups_by_the_first_list()
    situation = Situation({}, {"m.a": "x"}, barred=frozenset({"two"}))
    plan = make_plan(small.catalogue, situation, TODAY)

    assert plan.waves == (("three",),)


# Each fact once.


def test_two_asks_that_are_the_same_question_are_one_look_up() -> None:
    """Their fields are united, and each requirement gets its own."""
    types = [an_evidence_type("book", [{"key": "self.a"}], {"one": None, "two": None})]
    asks = {"here": an_ask("book"), "there": an_ask("book")}
    requirements = {
        "first": a_requirement(a_list(Need(ask="here", fields=("one",)))),
        "second": a_requirement(a_list(Need(ask="there", fields=("two",)))),
    }
    situation = Situation({}, {"m.a": "x"})
    plan = _plan(
        Small(a_matter(asks, requirements), types, [a_service("book")], situation)
    )
    (lookup,) = plan.lookups.values()
    states = [plan.requirements[name] for name in ("first", "second")]

    assert lookup.id == "here+there"
    assert lookup.fields == ("one", "two")
    assert lookup.serves == ("first", "second")
    assert [("one",), ("two",)] == [
        state.parts[0].fields for state in states if isinstance(state, Planned)
    ]


def test_a_fact_is_asked_of_the_look_up_that_is_asked_for_it_anyway() -> None:
    """Of two look-ups that tell a key only the one asked for the field tells it."""
    types = [
        an_evidence_type("a_book", [{"key": "m.a"}], {"told": "m.c", "other": None}),
        an_evidence_type("b_book", [{"key": "m.a"}], {"told": "m.c"}),
        an_evidence_type("wanted", [{"key": "m.c"}], {"field": None}),
    ]
    needs = (
        Need(ask="a_book", fields=("other",)),
        Need(ask="b_book", fields=("told",)),
        Need(ask="wanted", fields=("field",)),
    )
    asks = {one.id: an_ask(one.id) for one in types}
    matter = a_matter(asks, {"only": a_requirement(a_list(*needs))})
    plan = make_plan(compiled(matter, types), Situation({}, {"m.a": "x"}), TODAY)

    assert plan.lookups["a_book"].fields == ("other",)
    assert {"m.c": "b_book"} == plan.lookups["wanted"].sources


def test_a_criterion_reads_the_evidence_of_its_own_requirement() -> None:
    """Where two look-ups show a fact, the requirement's own is asked for it."""
    types = [
        an_evidence_type("a_book", [{"key": "m.a"}], {"shown": "m.c", "other": None}),
        an_evidence_type("b_book", [{"key": "m.a"}], {"shown": "m.c", "other": None}),
    ]
    requirements = {
        "first": a_requirement(a_list(Need(ask="a_book", fields=("other",)))),
        "second": a_requirement(
            a_list(Need(ask="b_book", fields=("other",))), criterion="m.c == 'x'"
        ),
    }
    asks = {one.id: an_ask(one.id) for one in types}
    catalogue = compiled(a_matter(asks, requirements), types)
    plan = make_plan(catalogue, Situation({}, {"m.a": "x"}), TODAY)

    assert plan.lookups["a_book"].fields == ("other",)
    assert plan.lookups["b_book"].fields == ("other", "shown")
    assert held_back(plan, "b_book") == {"shown"}


def test_a_look_up_serves_whatever_it_leads_to() -> None:
    """Two steps before the evidence it is known for which requirement it is made."""
    tellers: dict[str, tuple[str, str | None]] = {
        "first": ("m.a", "m.b"),
        "second": ("m.b", "m.c"),
        "wanted": ("m.c", None),
    }
    plan = _plan(one_requirement(tellers, ["wanted"]))

    assert [("only",)] * 3 == [lookup.serves for lookup in plan.lookups.values()]


def test_one_ask_may_verify_only_one_set_of_facts() -> None:
    """Match or no match speaks of all facts at once: a pack must use two asks."""
    types = [
        an_evidence_type("id", [{"key": "m.a"}], {"name": "self.b", "sex": "self.c"})
    ]
    asks = {"who": an_ask("id", mode="verify")}
    requirements = {
        "first": a_requirement(a_list(Need(ask="who", compare=("name",)))),
        "second": a_requirement(a_list(Need(ask="who", compare=("name", "sex")))),
    }

    with pytest.raises(PackError, match="/asks/who"):
        compiled(a_matter(asks, requirements), types)


def test_a_fact_to_verify_must_be_known_first() -> None:
    """A look-up that compares a fact waits for the look-up that tells it."""
    types = [
        an_evidence_type("register", [{"key": "m.a"}], {"name": "m.b"}),
        an_evidence_type("id", [{"key": "self.a"}], {"name": "self.b"}),
    ]
    asks = {"register": an_ask("register"), "who": an_ask("id", mode="verify")}
    requirement = a_requirement(a_list(Need(ask="who", compare=("name",))))
    matter = a_matter(asks, {"only": requirement})
    plan = make_plan(compiled(matter, types), Situation({}, {"m.a": "x"}), TODAY)

    assert plan.waves == (("register",), ("who",))
    assert {"name": "m.b"} == plan.lookups["who"].match
    assert {"m.b": "register"} == plan.lookups["who"].sources


# Unknown is not false.


def test_only_the_questions_that_matter_are_put() -> None:
    """An answer that settles a condition leaves no question, or the other one."""
    requirement = a_requirement(
        a_list(Need(ask="wanted")), when="(q_one && q_two) || (!q_one && q_three)"
    )
    types = [an_evidence_type("wanted", [{"key": "m.a"}], {"field": None})]
    catalogue = compiled(
        a_matter({"wanted": an_ask("wanted")}, {"only": requirement}), types
    )

    def asked(**answers: bool) -> object:
        situation = Situation(answers, {"m.a": "x"})
        return make_plan(catalogue, situation, TODAY).requirements["only"]

    assert AnswerNeeded(("q_one", "q_three", "q_two")) == asked()
    assert AnswerNeeded(("q_two",)) == asked(q_one=True)
    assert AnswerNeeded(("q_three",)) == asked(q_one=False, q_two=True)
    assert isinstance(asked(q_two=True, q_three=True), Planned)
    assert isinstance(asked(q_two=False, q_three=False), NotApplicable)


def test_no_question_is_put_for_a_list_that_can_not_be_met() -> None:
    """Whatever the answer, the first list is lost: the second is taken at once."""
    tellers: dict[str, tuple[str, str | None]] = {
        "lost": ("f.a", None),
        "found": ("m.a", None),
    }
    small = one_requirement(tellers, ["found"])
    lists = (a_list(Need(ask="lost"), when="q_one"), a_list(Need(ask="found")))
    matter = a_matter(small.matter.asks, {"only": a_requirement(*lists)})
    plan = make_plan(compiled(matter, small.evidence_types), small.situation, TODAY)

    assert plan.waves == (("found",),)


def test_a_question_that_may_not_arise_gives_way_to_the_one_that_tells() -> None:
    """Whose household is asked only when it is clear that the question arises."""
    yes_or_no = Question(name=NAME, type=QuestionType.BOOLEAN)
    questions = {
        "q_one": yes_or_no,
        "q_two": yes_or_no.model_copy(update={"when": "q_one"}),
    }
    requirement = a_requirement(a_list(Need(ask="wanted")), when="q_one && q_two")
    types = [an_evidence_type("wanted", [{"key": "m.a"}], {"field": None})]
    asks = {"wanted": an_ask("wanted")}
    catalogue = compiled(a_matter(asks, {"only": requirement}, questions), types)
    nothing = make_plan(catalogue, Situation({}, {"m.a": "x"}), TODAY)
    something = make_plan(catalogue, Situation({"q_one": True}, {"m.a": "x"}), TODAY)

    assert AnswerNeeded(("q_one",)) == nothing.requirements["only"]
    assert AnswerNeeded(("q_two",)) == something.requirements["only"]


# Resuming.


def test_a_case_taken_up_again_goes_on_where_it_stopped() -> None:
    """With half of the look-ups answered, exactly the others can go, when they can."""
    plan = _plan(more_waves_by_fewer_lookups())
    at_first = ready(plan, {"m.a"}, ())
    resumed = ready(plan, {"m.a", "m.b"}, {"first"})
    silent = ready(plan, {"m.a"}, {"first"})

    assert ["first"] == [lookup.id for lookup in at_first]
    assert ["second"] == [lookup.id for lookup in resumed]
    assert () == silent


# Limits.


def test_a_pack_that_can_not_be_searched_exactly_is_refused() -> None:
    """It is refused when it is loaded, with the number that is too large."""
    concepts = ("m.b", "m.c", "f.a", "f.b")
    types = [
        an_evidence_type(f"type_{n}_{c[0]}{c[2]}", [{"key": "m.a"}], {"field": c})
        for n in range(4)
        for c in concepts
    ]
    types.append(
        an_evidence_type(
            "wanted", [{c.replace(".", "_"): c for c in concepts}], {"field": "w.w"}
        )
    )
    asks = {one.id: an_ask(one.id) for one in types}
    requirement = a_requirement(a_list(Need(ask="wanted")))
    matter = a_matter(asks, {"only": requirement})

    with pytest.raises(PackError, match=f"at most {MAX_CHOICES}"):
        compiled(matter, types)


def test_the_matter_newborn_is_far_below_the_limit(newborn: Catalogue) -> None:
    """There is room for matters many times as tangled."""
    stated = frozenset(STATED)
    read = frozenset(c for one in newborn.programs.values() for c in one.concepts)
    choices = count_choices(newborn.matter.asks, newborn.candidates, stated, read)

    assert choices < MAX_CHOICES / 10


# The plans that are kept.


def test_a_plan_is_made_once_for_a_situation() -> None:
    """The same plan comes back, also when the people are others."""
    small = more_waves_by_fewer_lookups()
    planner = Planner([small.catalogue])
    one = planner.plan("small@1", Situation({}, {"m.a": "one"}), TODAY)
    other = planner.plan("small@1", Situation({}, {"m.a": "other"}), TODAY)

    assert one is other


def test_plans_kept_are_bounded_and_the_one_used_longest_ago_goes() -> None:
    """With room for two, the third pushes out the one that was not used since."""
    planner = Planner([more_waves_by_fewer_lookups().catalogue], capacity=2)
    days = [date(2026, 1, day) for day in (1, 2, 3)]
    situation = Situation({}, {"m.a": "x"})
    first, second = (planner.plan("small@1", situation, day) for day in days[:2])
    again = planner.plan("small@1", situation, days[0])
    planner.plan("small@1", situation, days[2])

    assert first is again
    assert first is planner.plan("small@1", situation, days[0])
    assert second is not planner.plan("small@1", situation, days[1])


def test_no_value_of_a_person_is_in_the_key_of_a_plan(newborn: Catalogue) -> None:
    """Names, ids, dates, texts, accounts: none of them is kept with a plan."""
    learned = {
        "household.relation_to_head": "planted-relation",
        "household.region": "990101",
        "father.id": "planted-father",
    }
    planted = {name: f"planted-{name}" for name in STATED}
    answers = {**MARRIED, "child_name": "planted-child", "phone": "planted-phone"}
    key = plan_key(newborn, Situation(answers, planted, learned), TODAY)
    plan = make_plan(newborn, Situation(answers, planted, learned), TODAY)

    assert "planted" not in repr(key)
    assert "planted" not in repr(plan)
    assert "planted" not in repr(Situation(answers, planted, learned))


def test_the_key_of_a_plan_tells_situations_apart(newborn: Catalogue) -> None:
    """Whatever can change the plan changes the key."""
    situations = [
        Situation(MARRIED, STATED),
        Situation(UNMARRIED, STATED),
        Situation({**MARRIED, "joins": "father"}, STATED),
        Situation({**MARRIED}, {**STATED, "father.id": "x"}),
        Situation({k: v for k, v in MARRIED.items() if k != "phone"}, STATED),
        Situation(MARRIED, STATED, {"household.region": "990200"}),
        Situation(MARRIED, STATED, {"household.relation_to_head": "02"}),
        Situation(MARRIED, STATED, {"household.relation_to_head": "30"}),
        Situation(MARRIED, STATED, barred=frozenset({"marriage"})),
    ]
    keys = {plan_key(newborn, situation, TODAY) for situation in situations}

    assert len(situations) == len(keys)


def test_an_unknown_matter_is_not_found() -> None:
    """A reference that the pack does not know is the caller's mistake."""
    with pytest.raises(NotFoundError, match="nothing@1"):
        Planner([]).plan("nothing@1", Situation(), TODAY)


# The matter newborn.


def test_a_married_mother_s_look_ups_go_in_the_widest_waves(newborn: Catalogue) -> None:
    """The certificate leads to father and child, her household to the police."""
    plan = _newborn(newborn, MARRIED)

    assert plan.waves == (
        (
            "birth_certificate#1",
            "household_of_mother",
            "marriage",
            "maternity_claim",
            "mother_identity",
            "mother_insurance",
        ),
        ("child_registration", "father_identity", "parenting_file", "vaccination"),
        ("enrolment", "premium", "social_card"),
    )


def test_joining_the_father_adds_his_household_to_the_chain(newborn: Catalogue) -> None:
    """Certificate, father, his household, the police competent for it, the agency."""
    plan = _newborn(newborn, {**MARRIED, "joins": "father"})
    sources = {name: lookup.sources for name, lookup in plan.lookups.items()}

    assert {"father.id": "birth_certificate#1"} == sources["household_of_father"]
    assert sources["child_registration"]["household.region"] == "household_of_father"
    assert {"newborn.id": "child_registration"} == sources["social_card"]
    assert "household_of_mother" not in plan.lookups
    assert len(plan.waves) == 4


def test_an_unmarried_mother_s_plan_asks_no_marriage_register(
    newborn: Catalogue,
) -> None:
    """Nor anybody about the father, whose fields are not asked for either."""
    plan = _newborn(newborn, UNMARRIED)
    fields = {field for lookup in plan.lookups.values() for field in lookup.fields}

    assert "marriage" not in plan.lookups
    assert "father_identity" not in plan.lookups
    assert not [field for field in fields if field.startswith("FQ_")]
    assert NotApplicable("parents_married") == plan.requirements["marriage"]


def test_each_fact_is_fetched_once(newborn: Catalogue) -> None:
    """No two look-ups put the same question, and no concept has two sources."""
    plan = _newborn(newborn, MARRIED)
    questions = [
        (one.evidence_type, one.mode, one.about, tuple(one.keys.items()))
        for one in plan.lookups.values()
    ]
    sources: dict[str, set[str]] = {}
    for lookup in plan.lookups.values():
        for concept, source in lookup.sources.items():
            sources.setdefault(concept, set()).add(source)

    assert len(questions) == len(set(questions))
    assert [1] == sorted({len(told_by) for told_by in sources.values()})


def test_health_fields_go_only_to_the_requirement_that_names_them(
    newborn: Catalogue,
) -> None:
    """Weeks and weight are asked for once, and passed on for the vaccination alone."""
    plan = _newborn(newborn, MARRIED)
    passed_on = {
        name: field
        for name, state in plan.requirements.items()
        if isinstance(state, Planned)
        for part in state.parts
        for field in part.fields
        if field in ("XSE_YZ", "XSE_TZ")
    }

    assert ["birth_health"] == list(passed_on)


def test_the_father_s_fields_are_asked_for_and_held_back(newborn: Catalogue) -> None:
    """They lead to his look-up, and no requirement passes them on (decision 3)."""
    held = held_back(_newborn(newborn, MARRIED), "birth_certificate#1")

    assert {"FQ_SFZJHM", "FQ_XM", "MQ_SFZJHM"} == held


def test_facts_no_register_holds_are_declared(newborn: Catalogue) -> None:
    """Answered they are declared, unanswered they are asked for."""
    answered = _newborn(newborn, MARRIED).requirements
    silent = _newborn(newborn, {}).requirements

    assert Declared("child_name") == answered["child_name"]
    assert AnswerNeeded(("child_name",)) == silent["child_name"]


def test_nobody_s_household_is_asked_before_it_is_clear_whose(
    newborn: Catalogue,
) -> None:
    """What hangs on the household asks for that answer, and for no other."""
    answers = {name: said for name, said in MARRIED.items() if name != "joins"}
    plan = _newborn(newborn, answers)
    waiting = {
        name: state.questions
        for name, state in plan.requirements.items()
        if isinstance(state, AnswerNeeded)
    }

    assert {("joins",)} == set(waiting.values())
    assert {"household", "child_registration", "enrolment"} <= waiting.keys()
    assert not {"household_of_mother", "household_of_father"} & plan.lookups.keys()


def test_a_mother_s_household_never_stands_in_for_the_father_s(
    newborn: Catalogue,
) -> None:
    """When his can't be had, hers is not asked for the region in its place."""
    plan = _newborn(
        newborn,
        {**MARRIED, "joins": "father"},
        barred=frozenset({"household_of_father"}),
    )

    assert isinstance(plan.requirements["household"], Uncovered)
    assert isinstance(plan.requirements["child_registration"], Unreachable)
    assert "household_of_mother" not in plan.lookups


def test_a_condition_on_evidence_is_settled_when_the_evidence_is_there(
    newborn: Catalogue,
) -> None:
    """The head's agreement is undecided, then not applicable or asked for."""
    undecided = _newborn(newborn, MARRIED).requirements["head_agreement"]
    herself = _newborn(newborn, MARRIED, learned={"household.relation_to_head": "02"})
    child = _newborn(newborn, MARRIED, learned={"household.relation_to_head": "30"})

    assert isinstance(undecided, Undecided)
    assert undecided.lookups == ("household_of_mother",)
    assert isinstance(herself.requirements["head_agreement"], NotApplicable)
    assert AnswerNeeded(("head_agrees",)) == child.requirements["head_agreement"]


def test_guardianship_is_derived_from_the_certificate(newborn: Catalogue) -> None:
    """No look-up is made for it: the certificate that is asked for anyway shows it."""
    state = _newborn(newborn, MARRIED).requirements["guardian_relation"]

    assert isinstance(state, Derive)
    assert state.lookups == ("birth_certificate#1",)


def test_a_stated_certificate_number_is_the_preferred_key(newborn: Catalogue) -> None:
    """Of two sets of keys that are both at hand the evidence type's first is used."""
    stated = {**STATED, "newborn.certificate_no": "V990000001"}
    plan = make_plan(newborn, Situation(MARRIED, stated), TODAY)

    assert {"CSYXZMBH": "newborn.certificate_no"} == (
        plan.lookups["birth_certificate"].keys
    )
    assert {"vaccination", "parenting_file"} <= set(plan.waves[0])
