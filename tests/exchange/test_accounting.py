"""Papers and trips before and after: counted, never stated."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.accounting import Accounting, Accounts, BeforeAfter, account, asked_now
from schemas.matter import FactType, Matter, QuestionType, SupplyReason
from schemas.model import Name
from schemas.outcome import (
    AnswerNeeded,
    Committed,
    Declared,
    Derived,
    NotApplicable,
    NotHeld,
    OpenFact,
    OpenQuestion,
    Outcome,
    Pending,
    Retrieved,
    Supplied,
    SupplyNeeded,
)
from schemas.validation import load_pack
from tests.exchange.newborn import ANSWERS as OPENING_ANSWERS
from tests.exchange.newborn import an_office, settle_in
from tests.exchange.newborn import outcomes as told

PACK = Path(__file__).parents[2] / "schemas" / "packs" / "990100"
ANSWERS = ("parents_married", "joins", "child_name", "bank_account", "phone")
OUT_OF_PROVINCE = SupplyReason.OUT_OF_COVERAGE


def _newborn() -> Matter:
    files = sorted(PACK.glob("*.yaml"))
    pack = load_pack({file.name: file.read_text("utf-8") for file in files})
    return pack.matters["newborn@1"]


MATTER = _newborn()


def _married() -> dict[str, Outcome]:
    """Return the outcomes of the married route when everything went well."""
    settled: dict[str, Outcome] = {}
    for name, requirement in MATTER.requirements.items():
        settled[name] = Declared() if requirement.declare else Retrieved()
        if requirement.derive:
            settled[name] = Derived(expression=requirement.derive)
    settled["head_agreement"] = NotApplicable(condition="she is the head herself")
    return settled


def test_the_married_route_takes_no_paper_and_five_answers() -> None:
    """25 hand-ins of 10 papers and 4 trips before; no paper and no trip after."""
    counted = account(MATTER, _married(), ANSWERS)

    assert counted == Accounting(
        papers=BeforeAfter(before=25, after=0),
        kinds=BeforeAfter(before=10, after=0),
        trips=BeforeAfter(before=4, after=0),
        answers=5,
        open=0,
    )


@pytest.mark.parametrize(
    "outcome",
    [Supplied(reason=OUT_OF_PROVINCE), SupplyNeeded(reason=OUT_OF_PROVINCE)],
)
def test_the_out_of_province_route_takes_one_paper(outcome: Outcome) -> None:
    """The household book is handed in once, at the first office that needs it."""
    counted = account(MATTER, {**_married(), "household": outcome}, ANSWERS)

    assert counted.papers == BeforeAfter(before=25, after=1)
    assert counted.kinds == BeforeAfter(before=10, after=1)
    assert counted.trips == BeforeAfter(before=4, after=1)


def test_what_an_unmarried_mother_was_never_asked_is_no_saving() -> None:
    """Neither the marriage certificate nor the father's card counts before."""
    none = NotApplicable(condition="parents_married")
    outcomes = {**_married(), "marriage": none, "father_identity": none}
    counted = account(MATTER, outcomes, ANSWERS)

    assert counted.papers == BeforeAfter(before=20, after=0)
    assert counted.kinds == BeforeAfter(before=8, after=0)


def test_a_hand_in_that_replaces_no_paper_counts_as_one() -> None:
    """What has to be handed in is a paper, also if nobody wanted it before."""
    needed = SupplyNeeded(reason=OUT_OF_PROVINCE)
    counted = account(MATTER, {**_married(), "enrolment": needed}, ANSWERS)

    assert counted.papers.after == 1
    assert counted.kinds.after == 1
    assert counted.open == 1


def test_answers_and_facts_still_to_be_given_count_as_well() -> None:
    """An open question is an answer that the applicant has to give."""
    question = OpenQuestion(
        id="bank_account", name=Name(zh="账户", en="Account"), type=QuestionType.TEXT
    )
    father = Name(zh="父亲", en="Father")
    fact = OpenFact(id="father.name", role=father, name=father, type=FactType.TEXT)
    missing = AnswerNeeded(questions=(question,), facts=(fact,))
    outcomes = {**_married(), "payment_account": missing}
    counted = account(MATTER, outcomes, ANSWERS[:3])

    assert counted.answers == 5
    assert counted.open == 1


def test_a_promise_counts_as_an_answer() -> None:
    """A written promise is no paper, and no free gift either."""
    counted = account(MATTER, {**_married(), "marriage": Committed()}, ANSWERS)

    assert counted.answers == 6
    assert counted.papers.after == 0


def test_an_answer_counts_while_its_question_is_asked() -> None:
    """One that no requirement wants now is none; what a condition reads was asked."""
    given = (*ANSWERS, "head_agrees")
    read = frozenset({"parents_married", "joins"})
    outcomes = _married()
    agreed = {**outcomes, "head_agreement": Declared()}
    unasked = {**outcomes, "child_name": NotApplicable(condition="x")}

    assert ANSWERS == asked_now(MATTER, outcomes, given, read)
    assert given == asked_now(MATTER, agreed, given, read)
    assert "child_name" not in asked_now(MATTER, unasked, given, read)
    assert {"joins"} == set(asked_now(MATTER, {}, ("joins",), read))


def test_two_hand_ins_at_one_office_are_one_trip() -> None:
    """Both are needed first at the hospital's window."""
    needed = SupplyNeeded(reason=SupplyReason.NOT_HELD)
    outcomes = {**_married(), "birth_certificate": needed, "mother_identity": needed}
    counted = account(MATTER, outcomes, ANSWERS)

    assert counted.trips.after == 1
    assert counted.papers.after == 4


def test_a_case_that_is_not_settled_says_so() -> None:
    """What waits or failed is open: its figures may still grow."""
    outcomes = {
        **_married(),
        "social_card": Pending(reason="step"),
        "mother_insurance": NotHeld(),
    }
    del outcomes["premium"]

    assert account(MATTER, outcomes, ANSWERS).open == 3


@pytest.mark.anyio
async def test_a_case_counts_the_answers_that_it_asks_for(
    tmp_path: Path, tables_url: str, vault_url: str
) -> None:
    """Whether the head agrees is not asked where the mother is the head herself."""
    given = {**OPENING_ANSWERS, "head_agrees": True}
    async with an_office(tmp_path, tables_url, vault_url) as office:
        settle_in(office.departments)
        case = await office.open(answers=given)

    assert "not_applicable" == told(case)["head_agreement"]
    assert len(OPENING_ANSWERS) == case["accounting"]["answers"]


@given(st.sets(st.sampled_from(sorted(MATTER.requirements))))
def test_each_hand_in_more_never_lowers_a_count(names: set[str]) -> None:
    """Nothing before changes with what is handed in; nothing after falls with it."""
    needed = SupplyNeeded(reason=OUT_OF_PROVINCE)
    fewer = account(MATTER, _married() | dict.fromkeys(sorted(names)[1:], needed), ())
    more = account(MATTER, _married() | dict.fromkeys(sorted(names), needed), ())

    assert fewer.papers.after <= more.papers.after
    assert fewer.trips.after <= more.trips.after <= more.trips.before
    assert fewer.kinds.after <= more.kinds.after


@given(st.lists(st.sampled_from(range(6))))
def test_of_accountings_the_last_ones_are_kept(cases: list[int]) -> None:
    """However many kinds of cases there are, and what is counted anew is the same."""
    routes = [_married(), *({**_married(), n: NotHeld()} for n in _married())]
    accounts, made = Accounts(), list[int]()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("exchange.accounting.ACCOUNTS_KEPT", 3)
        for case in cases:
            told = accounts.json(MATTER, routes[case], ANSWERS)
            if case not in made[-3:]:
                made.append(case)

            assert account(MATTER, routes[case], ANSWERS).model_dump_json() == (
                told.decode()
            )
            kinds = [tuple(map(type, routes[one].values())) for one in made[-3:]]
            assert kinds == [key[3] for key in accounts._kept]  # type: ignore[index] # its kinds
