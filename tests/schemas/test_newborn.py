"""The matter newborn of region 990100, as the law and the accounting want it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
from pydantic import JsonValue

from schemas.directory import LawfulBasisKind, SharingGrant
from schemas.errors import VerificationError
from schemas.evidence import Mode
from schemas.expressions import Truth
from schemas.matter import Ask, EvidenceList, Matter, Need, Requirement
from schemas.model import Model, Name
from schemas.validation import Pack
from tests.schemas.packs import shipped

PACK: Pack = shipped("schemas/packs/990100")
NEWBORN: Matter = PACK.matters["newborn@1"]
HEALTH = {"XSE_YZ", "XSE_TZ", "XSE_SC"}
HEALTH_DEPARTMENTS = {"wj", "jk"}

MARRIED: Mapping[str, object] = {"parents_married": True, "joins": "mother"}
UNMARRIED: Mapping[str, object] = {"parents_married": False, "joins": "mother"}


def holds(text: str | None, answers: Mapping[str, object]) -> Truth:
    """Return whether a condition of the matter holds."""
    return True if text is None else PACK.program("newborn@1", text).evaluate(answers)


def applying(answers: Mapping[str, object]) -> dict[str, Requirement]:
    """Return the requirements that apply, or may apply, in a situation."""
    return {
        name: one
        for name, one in NEWBORN.requirements.items()
        if holds(one.when, answers) is not False
    }


def lists(answers: Mapping[str, object]) -> Iterator[tuple[str, EvidenceList]]:
    """Yield every list that counts in a situation, with its requirement."""
    for name, one in applying(answers).items():
        for listed in one.lists:
            if holds(listed.when, answers) is not False:
                yield name, listed


def needs(answers: Mapping[str, object]) -> Iterator[tuple[str, Need, Ask]]:
    """Yield every need of a situation, with its requirement and ask."""
    for name, listed in lists(answers):
        for need in listed.all:
            yield name, need, NEWBORN.asks[need.ask]


def names_within(value: object) -> Iterator[Name]:
    """Yield every name inside a model."""
    if isinstance(value, Name):
        yield value
    elif isinstance(value, Model):
        for _, part in value:
            yield from names_within(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from names_within(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from names_within(part)


def test_every_requirement_rests_on_a_law() -> None:
    """Each names the rule, in both languages, and the article."""
    for requirement in NEWBORN.requirements.values():
        assert requirement.basis.law.zh
        assert requirement.basis.law.en
        assert requirement.basis.article


def test_every_name_is_in_both_languages() -> None:
    """People read Chinese characters and English letters, each in its place."""
    things = (
        *PACK.matters.values(),
        *PACK.evidence_types.values(),
        *PACK.providers.values(),
        *PACK.requesters.values(),
    )
    names = [name for thing in things for name in names_within(thing)]

    assert len(names) > 150
    for name in names:
        assert re.search(r"[\u4e00-\u9fff]", name.zh), name
        assert not re.search(r"[\u4e00-\u9fff]", name.en), name


def test_there_are_eight_steps_at_six_departments_in_their_order() -> None:
    """N2, N3, N7 and N8 follow N1; N4 and N6 follow N3; N5 follows N4."""
    after = {name: set(step.after) for name, step in NEWBORN.steps.items()}

    assert {
        "n1": set(),
        "n2": {"n1"},
        "n3": {"n1"},
        "n4": {"n3"},
        "n5": {"n4"},
        "n6": {"n3"},
        "n7": {"n1"},
        "n8": {"n1"},
    } == after
    assert ["wj", "jk", "ga", "yb", "sw", "rs", "yb", "wj"] == [
        step.provider for step in NEWBORN.steps.values()
    ]


def test_promised_limits_are_no_longer_than_statutory_ones() -> None:
    """A department may promise less time than the law gives, never more."""
    days = {"days": 1, "working_days": 7 / 5, "months": 30}
    limits = [
        (step.promised, step.statutory)
        for step in NEWBORN.steps.values()
        if step.promised is not None and step.statutory is not None
    ]

    assert 7 == len(limits)
    for promised, statutory in limits:
        given = statutory.count * days[statutory.calendar]
        assert promised.count * days[promised.calendar] <= given


def test_every_step_has_a_requirement() -> None:
    """No step is performed without anything being proved for it."""
    served = {step for one in NEWBORN.requirements.values() for step in one.steps}

    assert NEWBORN.steps.keys() == served


def test_before_there_were_25_hand_ins_of_10_papers_and_4_trips() -> None:
    """As in the worked accounting of the matter."""
    uses = Counter[str]()
    for requirement in NEWBORN.requirements.values():
        for use in requirement.replaces:
            uses[use.paper] += len(use.asked_by)

    assert 25 == uses.total()
    assert 10 == len(uses) == len(NEWBORN.papers)
    assert {
        "mother_id_card": 4,
        "father_id_card": 3,
        "marriage_certificate": 2,
        "household_book": 3,
        "birth_certificate": 4,
        "child_household_page": 2,
        "application_form": 3,
        "guardian_proof": 1,
        "discharge_summary": 2,
        "mandate": 1,
    } == uses
    assert 4 == len(NEWBORN.visits)


def test_no_paper_is_counted_twice_at_one_department() -> None:
    """Each department took each paper once."""
    taken = Counter(
        (use.paper, provider)
        for requirement in NEWBORN.requirements.values()
        for use in requirement.replaces
        for provider in use.asked_by
    )

    assert {1} == set(taken.values())


def test_after_there_are_five_answers() -> None:
    """On the full-coverage route the applicant answers five questions."""
    answers = {**MARRIED, "household": {"relation_to_head": "12"}}
    arising = {
        name
        for name, question in NEWBORN.questions.items()
        if holds(question.when, answers) is not False
    }

    assert {
        "parents_married",
        "joins",
        "child_name",
        "bank_account",
        "phone",
    } == arising


@pytest.mark.parametrize(
    ("relation", "expected"), [("02", False), ("11", False), ("30", True), ("99", True)]
)
def test_the_head_is_asked_only_when_no_parent_is_head(
    relation: str, *, expected: bool
) -> None:
    """The head's agreement is needed where the joining parent is not head or spouse."""
    answers = {**MARRIED, "household": {"relation_to_head": relation}}

    assert expected is ("head_agreement" in applying(answers))


def test_the_unmarried_route_never_asks_the_marriage_register() -> None:
    """Children of unmarried parents have equal rights (Civil Code 1071)."""
    married = {ask.evidence_type for _, _, ask in needs(MARRIED)}
    unmarried = {ask.evidence_type for _, _, ask in needs(UNMARRIED)}

    assert "marriage@1" in married
    assert "marriage@1" not in unmarried


def test_the_unmarried_mother_alone_asks_nothing_about_the_father() -> None:
    """With the child in her household, no look-up is about him or concerns him."""
    roles = {
        role for _, _, ask in needs(UNMARRIED) for role in (ask.about, *ask.concerns)
    }

    assert {"mother", "newborn"} == roles


def test_until_it_is_answered_nothing_counts_as_unmarried() -> None:
    """Unknown is not false: the marriage may apply before the question is answered."""
    assert "marriage" in applying({})
    assert "marriage" in applying({"joins": "mother"})


def test_each_household_is_asked_only_when_the_child_joins_it() -> None:
    """The other parent's household is nothing to this case."""
    for joins in ("mother", "father"):
        asked = {
            need.ask
            for _, need, _ in needs({"parents_married": True, "joins": joins})
            if need.ask.startswith("household")
        }
        assert {f"household_of_{joins}"} == asked


def test_what_is_health_data_reaches_health_departments_only() -> None:
    """Weeks and weight are nothing to police, insurance or tax."""
    asked = False
    for name, need, _ in needs(MARRIED):
        if HEALTH & {*need.fields, *need.compare}:
            asked = True
            steps = NEWBORN.requirements[name].steps
            recipients = {NEWBORN.steps[step].provider for step in steps}
            assert recipients <= HEALTH_DEPARTMENTS

    assert asked


def test_the_fathers_particulars_are_never_passed_on() -> None:
    """No requirement shows the portal his id or his name."""
    for _, need, ask in needs({"parents_married": True, "joins": "father"}):
        fields = PACK.evidence_types[ask.evidence_type].fields
        for name in need.fields:
            concept = fields[name].concept
            told = None if concept is None else ask.concept(concept)
            assert told not in ("father.id", "father.name")


def test_the_marriage_is_looked_up_by_the_applicant_and_the_spouse_compared() -> None:
    """`spouse_id` is compared with the father, and never passed on."""
    ask = NEWBORN.asks["marriage"]
    spouse = PACK.evidence_types["marriage@1"].fields["spouse_id"]

    assert ("mother", ("father",)) == (ask.about, ask.concerns)
    assert spouse.comparison_only
    assert "father.id" == ask.concept(spouse.concept or "")


def test_the_father_is_looked_up_with_his_consent_only() -> None:
    """Statutory duty covers mother and newborn; the rest is the father's to allow."""
    for grant in PACK.grants.values():
        for role, basis in grant.bases.items():
            by_consent = basis.kind is LawfulBasisKind.CONSENT
            assert by_consent == (role == "father")


@pytest.mark.parametrize(
    "answers",
    [MARRIED, UNMARRIED, {"parents_married": True, "joins": "father"}],
)
def test_every_need_is_covered_by_a_grant(answers: Mapping[str, object]) -> None:
    """Fields, mode and every role concerned: nothing is refused for want of a grant."""
    for _, need, ask in needs(answers):
        grant = _grant_for(ask)
        assert {*need.fields, *need.compare} <= set(grant.fields)
        assert ask.mode in grant.modes
        assert {ask.about, *ask.concerns} <= grant.bases.keys()


def _grant_for(ask: Ask) -> SharingGrant:
    found = [
        grant
        for grant in PACK.grants.values()
        if grant.evidence_type == ask.evidence_type and "newborn" in grant.matters
    ]
    assert 1 == len(found)
    return found[0]


def test_no_grant_is_wider_than_the_matter() -> None:
    """A field that no need names and no look-up follows from is not granted."""
    for grant in PACK.grants.values():
        asks = {
            n for n, a in NEWBORN.asks.items() if a.evidence_type == grant.evidence_type
        }
        named = {
            name
            for requirement in NEWBORN.requirements.values()
            for listed in requirement.lists
            for need in listed.all
            if need.ask in asks
            for name in (*need.fields, *need.compare)
        }
        # The father's id and name lead to him, as the chain of look-ups needs.
        assert set(grant.fields) - named <= {"FQ_SFZJHM", "FQ_XM"}


def test_each_evidence_type_is_offered_once_and_used() -> None:
    """One source for each kind of evidence (一数一源)."""
    offered = [service.evidence_type for service in PACK.services.values()]

    assert sorted(PACK.evidence_types) == sorted(offered)
    assert PACK.evidence_types.keys() == {
        ask.evidence_type for ask in NEWBORN.asks.values()
    }


def test_a_requirement_of_evidence_says_when_it_may_be_handed_in() -> None:
    """Nobody is sent home: a source down leads to a hand-in with its reason."""
    for requirement in NEWBORN.requirements.values():
        if requirement.lists:
            assert {"source_down", "source_faulty"} <= set(requirement.supply)


def test_identity_is_verified_and_not_fetched() -> None:
    """Match or no match is enough to know that somebody is who she says."""
    for name in ("mother_identity", "father_identity"):
        assert Mode.VERIFY is NEWBORN.asks[name].mode


def test_a_source_may_be_down_for_ten_days() -> None:
    """Then the applicant is asked instead."""
    assert timedelta(days=10) == NEWBORN.source_limit


CERTIFICATE: Mapping[str, JsonValue] = {
    "CSYXZMBH": "Z990000001",
    "XSE_XM": "李安",
    "XSE_XBDM": "2",
    "XSE_CSSJ": "2026-01-08T06:30:00+08:00",
    "XSE_YZ": 39,
    "XSE_TZ": 3200,
    "CSD_QHDM": "990101001",
    "MQ_SFZJHM": "990101199403120026",
    "FQ_SFZJHM": "990101199207250018",
    "FQ_XM": "李强",
    "QF_RQ": "2026-01-10",
    "QF_LX": "1",
}


def test_a_certificate_of_the_register_fits() -> None:
    """Fields as hospitals upload them pass, with the father blank as well."""
    validate = PACK.validator("birth_certificate@1")

    validate(CERTIFICATE)
    validate({**CERTIFICATE, "FQ_SFZJHM": None, "FQ_XM": None})


@pytest.mark.parametrize(
    "wrong",
    [
        {"XSE_XBDM": "3"},
        {"QF_LX": "4"},
        {"XSE_CSSJ": "2026-13-08T06:30:00+08:00"},
        {"QF_RQ": "10.01.2026"},
        {"MQ_SFZJHM": "99010119940312002"},
        {"XSE_TZ": 3},
        {"BLOOD": "A"},
    ],
)
def test_a_value_that_is_none_of_the_code_lists_is_refused(
    wrong: dict[str, JsonValue],
) -> None:
    """Sex GB/T 2261.1, kinds of issue, dates, ids by pattern: nothing else passes."""
    with pytest.raises(VerificationError):
        PACK.validator("birth_certificate@1")({**CERTIFICATE, **wrong})


def test_a_register_with_a_wrong_digit_is_not_a_fault() -> None:
    """Ids in evidence are taken by pattern: the wrong digit is a conflict to show."""
    PACK.validator("birth_certificate@1")({"FQ_SFZJHM": "990101199207250028"})


def test_the_bench_case_is_five_independent_look_ups_of_six_fields() -> None:
    """Each from its own provider, on statutory duty, about one subject."""
    pack = shipped("bench/pack")
    five = pack.matters["five@1"]

    assert 5 == len(five.asks) == len(five.requirements) == len(pack.services)
    assert 5 == len({service.provider for service in pack.services.values()})
    assert {6} == {len(kind.fields) for kind in pack.evidence_types.values()}
    assert {"person"} == {ask.about for ask in five.asks.values()}
    assert {LawfulBasisKind.STATUTORY_DUTY} == {
        basis.kind for grant in pack.grants.values() for basis in grant.bases.values()
    }
