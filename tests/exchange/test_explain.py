"""What would be asked and why: the newborn explained, with nobody asked."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from consent.artefact import Consent, ConsentScope, ConsentState
from consent.rules import Rule, Suspendable, target
from exchange.catalogue import Catalogue, compile_pack
from exchange.explain import explain
from exchange.explanation import (
    Explanation,
    LookupExplained,
    Move,
    Reason,
    RequirementExplained,
)
from exchange.planner import make_plan
from exchange.proposal import Circumstances, judge
from exchange.rehearsal import explain_offline, show_explanation
from exchange.situation import Situation
from schemas.directory import LawfulBasisKind
from schemas.ids import CaseId, ConsentId
from schemas.validation import Pack, load_pack

FOLDER = Path(__file__).parents[2] / "schemas" / "packs" / "990100"
NOW = datetime(2026, 1, 20, 9, tzinfo=UTC)
STATED = {
    "mother.id": "planted-mother-id",
    "mother.name": "planted-mother-name",
    "newborn.birth_date": "planted-birth-date",
}
MARRIED: Mapping[str, object] = {
    "parents_married": True,
    "joins": "mother",
    "child_name": "planted-child-name",
    "bank_account": "planted-account",
    "phone": "planted-phone",
}
CIRCUMSTANCES = Circumstances(
    requester="portal_990100",
    purpose="newborn_registration",
    case=CaseId("planted-case"),
    persons={"mother": "planted-mother-ref", "newborn": "planted-newborn-ref"},
)


def _pack() -> Pack:
    files = sorted(FOLDER.glob("*.yaml"))
    return load_pack({file.name: file.read_text("utf-8") for file in files})


PACK = _pack()
(NEWBORN,) = (
    one
    for one in compile_pack(PACK, PACK.services.values())
    if one.matter.ref == "newborn@1"
)


def _explained(
    answers: Mapping[str, object] = MARRIED,
    circumstances: Circumstances = CIRCUMSTANCES,
    catalogue: Catalogue = NEWBORN,
) -> Explanation:
    plan = make_plan(catalogue, Situation(answers, STATED), NOW.date())
    return explain(catalogue, PACK, plan, judge(PACK, plan, circumstances, NOW))


def _lookup(explanation: Explanation, name: str) -> LookupExplained:
    (found,) = (one for wave in explanation.waves for one in wave if one.id == name)
    return found


def _requirement(explanation: Explanation, name: str) -> RequirementExplained:
    (found,) = (one for one in explanation.requirements if one.id == name)
    return found


def _with(**changes: object) -> Circumstances:
    return Circumstances(**{**_plain(CIRCUMSTANCES), **changes})  # type: ignore[arg-type]  # test values of many types


def _plain(circumstances: Circumstances) -> dict[str, object]:
    return {
        name: getattr(circumstances, name)
        for name in ("requester", "purpose", "case", "persons")
    }


def test_every_requirement_and_every_look_up_is_there_in_order() -> None:
    """The explanation has the matter's requirements and the plan's waves."""
    explanation = _explained()
    plan = make_plan(NEWBORN, Situation(MARRIED, STATED), NOW.date())

    assert list(NEWBORN.matter.requirements) == [r.id for r in explanation.requirements]
    assert plan.waves == tuple(tuple(o.id for o in wave) for wave in explanation.waves)


def test_a_permitted_look_up_names_grant_rule_and_basis() -> None:
    """The mother's identity rests on a statutory duty, under a named grant."""
    lookup = _lookup(_explained(), "mother_identity")
    basis = lookup.decision.bases["mother"]

    assert lookup.decision.decision == "permit"
    assert lookup.decision.rule is Rule.STATUTORY_DUTY
    assert lookup.decision.grant == "newborn_identity"
    assert basis is not None
    assert basis.kind is LawfulBasisKind.STATUTORY_DUTY
    assert lookup.next is Move.ASK
    assert [service.id for service in lookup.services] == ["ga_identity"]
    assert [service.provider_name.zh for service in lookup.services] == ["云溪市公安局"]


def test_a_look_up_about_somebody_not_known_yet_is_decided_again() -> None:
    """The father becomes known from the certificate, and only then is he decided."""
    explanation = _explained()
    lookup = _lookup(explanation, "father_identity")

    assert lookup.decision.decision == "provisional"
    assert lookup.decision.roles == ("father",)
    assert lookup.next is Move.DECIDE_AGAIN
    assert _requirement(explanation, "father_identity").next is Move.DECIDE_AGAIN


def test_what_is_decided_again_says_who_tells_and_from_which_wave() -> None:
    """The marriage could be asked in wave 1 by its keys, and is not."""
    explanation = _explained()
    marriage = _lookup(explanation, "marriage")
    again = marriage.decided_again

    assert marriage in explanation.waves[0]
    assert again is not None
    assert (("father",), ("birth_certificate#1",), 2) == (
        again.roles,
        again.told_by,
        again.first_wave,
    )
    stands = _lookup(explanation, "mother_identity")
    assert stands.decided_again is None


def test_every_provisional_decision_is_marked_and_no_other() -> None:
    """Whatever the situation, the mark and the decision agree."""
    for answers in (MARRIED, {**MARRIED, "parents_married": False}):
        for known in (CIRCUMSTANCES, _with(persons={})):
            for wave in _explained(answers, known).waves:
                for one in wave:
                    is_provisional = one.decision.decision == "provisional"
                    assert (one.decided_again is not None) is is_provisional


def test_a_person_who_is_known_is_asked_for_consent() -> None:
    """With the father known and silent the next move is to ask him."""
    known = {**CIRCUMSTANCES.persons, "father": "planted-father-ref"}
    explanation = _explained(circumstances=_with(persons=known))
    lookup = _lookup(explanation, "marriage")

    assert lookup.decision.decision == "consent_needed"
    assert lookup.decision.rule is Rule.CONSENT_MISSING
    assert lookup.decision.roles == ("father",)
    assert lookup.next is Move.ASK_CONSENT
    assert _requirement(explanation, "marriage").next is Move.ASK_CONSENT


def test_a_rehearsal_decides_about_whom_the_portal_states() -> None:
    """As the case does: nobody has to tell who the father is, and he is asked."""
    answers = ["parents_married=true", "joins=mother"]
    stated = [*STATED, "father.id"]
    found, named = (
        explain_offline(PACK, "newborn@1", answers=answers, stated=one)
        for one in (None, stated)
    )
    lookup = _lookup(named, "marriage")

    assert ("consent_needed", ("father",)) == (
        lookup.decision.decision,
        lookup.decision.roles,
    )
    assert [None] == list({o.decided_again for wave in named.waves for o in wave})
    assert "provisional" == _lookup(found, "marriage").decision.decision
    titles = [str(next(iter(show_explanation(one))).title) for one in (named, found)]
    assert [
        "Wave 1: 5 at once, 1 when consent is given",
        "Wave 1: 5 at once, 1 decided again before they are asked",
    ] == titles


def test_a_consent_that_was_given_is_seen() -> None:
    """The decision is the one that a case would get at this moment."""
    known = {**CIRCUMSTANCES.persons, "father": "planted-father-ref"}
    consent = Consent(
        id=ConsentId("planted-consent"),
        scope=ConsentScope(
            person="planted-father-ref",
            role="father",
            requester="portal_990100",
            matter="newborn",
            purpose="newborn_registration",
            case=None,
        ),
        fields={"identity@1": None},
        state=ConsentState.GIVEN,
        asked_in=CIRCUMSTANCES.case,
        asked_at=NOW,
        given_at=NOW,
        ended_at=None,
        expires_at=NOW.replace(year=2027),
        uses_left=None,
        version=2,
    )
    circumstances = _with(persons=known, consents=(consent,))
    lookup = _lookup(_explained(circumstances=circumstances), "father_identity")

    assert lookup.decision.rule is Rule.CONSENT_GIVEN
    assert lookup.next is Move.WAIT_FOR_SOURCES


def test_a_suspended_service_is_not_asked() -> None:
    """What rests on it is to be reported; everything else goes on."""
    suspended = frozenset({target(Suspendable.SERVICE, "mz_marriage")})
    explanation = _explained(circumstances=_with(suspended=suspended))
    lookup = _lookup(explanation, "marriage")

    assert lookup.decision.decision == "refuse"
    assert lookup.decision.rule is Rule.SERVICE_SUSPENDED
    assert _requirement(explanation, "marriage").next is Move.REPORT
    assert _requirement(explanation, "mother_identity").next is Move.ASK


def test_a_refusal_says_on_what_it_fell() -> None:
    """For another purpose nothing is granted, and the purpose is named."""
    lookup = _lookup(_explained(circumstances=_with(purpose="census")), "marriage")

    assert lookup.decision.rule is Rule.PURPOSE_NOT_GRANTED
    assert lookup.decision.grant == "newborn_marriage"
    assert ("census",) == lookup.decision.names


def test_each_field_has_its_reasons() -> None:
    """Passed on, compared, read, or leading to another look-up: each by name."""
    certificate = _lookup(_explained(), "birth_certificate#1")
    marriage = _lookup(_explained(), "marriage")
    why = {(one.field, one.why, one.whom) for one in certificate.fields}

    assert ("XSE_TZ", Reason.PASSED_ON, "birth_health") in why
    assert ("MQ_SFZJHM", Reason.COMPARED, "birth_certificate") in why
    assert ("FQ_SFZJHM", Reason.LEADS_TO, "father_identity") in why
    assert ("MQ_XM", Reason.READ, "guardian_relation") in why
    assert ("spouse_id", Reason.COMPARED, "marriage") in {
        (one.field, one.why, one.whom) for one in marriage.fields
    }


def test_every_field_that_is_asked_for_is_explained() -> None:
    """No field without a reason, in any situation."""
    for joins in ("mother", "father"):
        answers = {**MARRIED, "joins": joins}
        plan = make_plan(NEWBORN, Situation(answers, STATED), NOW.date())
        for wave in _explained(answers).waves:
            for one in wave:
                wanted = {*plan.lookups[one.id].fields, *one.match}

                assert wanted == {reason.field for reason in one.fields}


def test_what_does_not_apply_names_its_condition() -> None:
    """On the unmarried route the marriage is not applicable, and it says why."""
    explanation = _explained({**MARRIED, "parents_married": False})
    requirement = _requirement(explanation, "marriage")

    assert requirement.state == "not_applicable"
    assert requirement.decided_by == "parents_married"
    assert requirement.next is Move.NOTHING


def test_the_lists_passed_over_are_named_with_the_reason() -> None:
    """Joining the father, the list of the mother's household does not count."""
    explanation = _explained({**MARRIED, "joins": "father"})
    requirement = _requirement(explanation, "household")

    assert requirement.list == 1
    assert ("joins == 'mother'",) == requirement.passed_over[0].names


def test_an_open_question_is_what_comes_next() -> None:
    """Without an answer the requirement names the question."""
    requirement = _requirement(_explained({}), "household")

    assert requirement.questions == ("joins",)
    assert requirement.next is Move.ANSWER


def test_a_look_up_whose_region_nobody_covers_is_explained_too() -> None:
    """A case that has found nobody competent says so."""
    plan = make_plan(NEWBORN, Situation(MARRIED, STATED), NOW.date())
    decided = dict.fromkeys(plan.lookups)
    lookup = _lookup(explain(NEWBORN, PACK, plan, decided), "child_registration")

    assert lookup.decision.decision == "uncovered"
    assert lookup.next is Move.REPORT


def test_no_value_of_a_person_is_in_an_explanation() -> None:
    """It is made of names alone; values, person refs and consents stay out."""
    known = {**CIRCUMSTANCES.persons, "father": "planted-father-ref"}
    text = _explained(circumstances=_with(persons=known)).model_dump_json()

    assert "planted" not in text
    assert Explanation.model_validate(orjson.loads(text)) is not None
