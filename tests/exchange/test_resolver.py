"""The flow of a case over in-memory departments: scenarios and rules of the house.

The scenarios are those of the reference on the domain, section 2.7, by their number.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import orjson
import pytest
from structlog.testing import capture_logs

from audit.record import Event, Kind
from audit.store import Appended
from connectors.lookup import Declined, Deferred, NotCovered
from consent.artefact import Consent
from consent.rules import Suspendable, target
from consent.store import withdraw
from exchange.vault import _find_wrapped
from schemas.canonical import b64url_decode
from schemas.errors import (
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
    NotFoundError,
    StateConflictError,
)
from schemas.ids import CaseId, ConsentId
from tests.exchange.newborn import (
    ANSWERS,
    CERTIFICATE,
    CERTIFICATE_FIELDS,
    FATHER,
    MOTHER,
    NOW,
    PORTAL_CALLER,
    Office,
    a_mother,
    outcomes,
    perform_steps,
)

pytestmark = pytest.mark.anyio

DOWN = ConnectorUnavailableError("down", layer=Layer.SOURCE)


async def test_married_parents_settle_everything_without_a_paper(
    office: Office,
) -> None:
    """Scenario 1: married parents, full coverage: all settled, nothing handed in."""
    await office.consent_beforehand()
    perform_steps(office.departments)

    case = await office.open()

    assert "settled" == case["status"]
    assert [] == case["next_steps"]
    assert set() == {
        o for o in outcomes(case).values() if o in {"supplied", "supply_needed"}
    }


async def test_nothing_about_a_father_is_fetched_before_he_consents(
    office: Office,
) -> None:
    """Scenario 2: without the father's consent no look-up has him as its subject."""
    case = await office.open()

    assert "consent_needed" == outcomes(case)["father_identity"]
    assert "consent_needed" == outcomes(case)["marriage"]
    assert [] == office.departments.asked_about("marriage@1")
    assert [MOTHER] == [
        r.keys["id"] for r in office.departments.asked_about("identity@1")
    ]
    assert FATHER not in str(case["evidence"])


async def test_a_consent_that_is_asked_for_says_until_when_it_can_be_given(
    office: Office,
) -> None:
    """The clock is the request's own: looking again does not move it."""
    case = await office.open()
    asked_until = NOW + office.resolver.flow.decider.consent_lifetime
    office.clock.advance(timedelta(days=3))
    await office.attempt(case)
    again = await office.read(case)

    for view in (case, again):
        step = view["by_id"]["marriage"]["next_step"]
        assert datetime.fromisoformat(step["due_at"]) == asked_until


async def test_a_case_goes_on_when_the_father_consents(office: Office) -> None:
    """Scenario 2, continued: his consent is asked once, and settles what waited."""
    case = await office.open()
    wanted = {
        case["by_id"][name]["consent"] for name in ("father_identity", "marriage")
    }

    await office.give(wanted.pop())
    await office.attempt(case)

    assert set() == wanted
    after = outcomes(await office.read(case))
    assert ("verified", "retrieved") == (after["father_identity"], after["marriage"])


async def test_an_unmarried_mothers_case_never_asks_the_marriage_register(
    office: Office,
) -> None:
    """Scenario 3: on the unmarried route the ledger holds no marriage look-up."""
    perform_steps(office.departments)

    case = await office.open(answers={**ANSWERS, "parents_married": False})

    assert "settled" == case["status"]
    assert "not_applicable" == outcomes(case)["marriage"]
    assert [] == [r for r in office.records() if r[3] == "marriage@1"]


@pytest.mark.parametrize(
    ("spouse", "hint"),
    [
        (FATHER[:-2] + "28", "one_character_differs"),
        (FATHER[:12] + FATHER[13] + FATHER[12] + FATHER[14:], "two_characters_swapped"),
    ],
)
async def test_a_marriage_record_nearly_right_is_a_conflict_with_a_hint(
    office: Office, spouse: str, hint: str
) -> None:
    """Scenario 4: one digit off is a conflict with a hint; the rest goes on."""
    office.departments.drop("marriage@1")
    office.departments.hold(
        "marriage@1", {"id": MOTHER}, {"status": "20", "spouse_id": spouse}
    )
    await office.consent_beforehand()
    perform_steps(office.departments)

    case = await office.open()

    marriage = case["by_id"]["marriage"]
    assert ("conflict", hint) == (marriage["outcome"], marriage["hint"])
    assert "contest" == marriage["next_step"]["action"]
    others = {k: v for k, v in outcomes(case).items() if k != "marriage"}
    assert set() == {"pending", "conflict", "consent_needed"} & set(others.values())
    assert spouse not in str(case)


async def test_a_marriage_to_a_stranger_is_never_refused_by_a_machine(
    office: Office,
) -> None:
    """Scenario 5: the register names another spouse: a person looks at it, by name."""
    office.departments.drop("marriage@1")
    office.departments.hold(
        "marriage@1",
        {"id": MOTHER},
        {"status": "20", "spouse_id": "990101198001010010"},
    )
    await office.consent_beforehand()

    stated = {**a_mother(), "father": {"id": FATHER, "name": "陈溪"}}
    case = await office.open(subjects=stated)

    marriage = case["by_id"]["marriage"]
    assert ("mismatch", "father.id") == (marriage["outcome"], marriage["concept"])
    assert ("provider", "mz") == (
        marriage["next_step"]["owner"],
        marriage["next_step"]["owner_id"],
    )


async def test_a_grant_that_ran_out_since_the_last_case_permits_nothing(
    office: Office,
) -> None:
    """What is kept of a decision holds no instant: each case is decided at its own."""
    before = await office.open()
    asked = len(office.departments.asked)
    office.clock.advance(timedelta(days=6 * 366))
    after = await office.open()

    assert "verified" == outcomes(before)["mother_identity"]
    assert "grant_expired" == after["by_id"]["mother_identity"]["rule"]
    assert asked == len(office.departments.asked)


async def test_of_look_ups_held_against_grants_the_last_are_kept(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for five, each case is decided as it was with room for all."""
    before = outcomes(await office.open())
    decider = office.resolver.flow.decider
    all_kept = list(decider._prepared)
    decider._prepared.clear()
    monkeypatch.setattr("exchange.deciding.PREPARED_KEPT", 5)
    after = [outcomes(await office.open()) for _ in range(2)]

    assert len(all_kept) > 5
    assert [before] * 2 == after
    assert all_kept[-5:] == list(decider._prepared)


async def test_a_run_that_is_cut_off_leaves_no_look_up_under_way(
    office: Office,
) -> None:
    """Whoever stops the gateway waits for nobody, and nothing is asked any more."""
    case = await office.open(wait_s=0.0)
    office.clock.advance(timedelta(seconds=6))
    gates = [
        office.departments.close_gate(one)
        for one in ("identity@1", "birth_certificate@1")
    ]
    before = asyncio.all_tasks()
    attempt = asyncio.ensure_future(office.attempt(case))
    for gate in gates:
        await gate.reached()
    under_way = office.in_flight.count
    attempt.cancel()
    await asyncio.wait([attempt])

    assert under_way >= len(gates)
    assert office.in_flight.count == 0
    assert asyncio.all_tasks() <= before


async def test_a_portal_that_goes_away_stops_nothing(office: Office) -> None:
    """Its case is resolved to the end: what was asked is kept, and not asked again."""
    gate = office.departments.close_gate("birth_certificate@1")
    before = asyncio.all_tasks()
    opening = asyncio.ensure_future(office.open())
    await gate.reached()
    opening.cancel()
    await asyncio.wait([opening])
    gate.opened.set()
    while others := asyncio.all_tasks() - before:
        await asyncio.wait(others)
    case = await office.read(await office.only_case())
    asked = len(office.departments.asked)
    whole = outcomes(await office.open())

    assert whole == outcomes(case)
    assert asked == len(office.departments.asked) - asked


async def test_a_source_that_is_down_is_pending_and_settles_by_itself(
    office: Office,
) -> None:
    """Scenario 6: police down: accepted, pending, and settled without a visit."""
    office.departments.reply("household@1", DOWN)

    case = await office.open()
    household = case["by_id"]["household"]
    office.departments.reply("household@1", None)
    office.clock.advance(timedelta(seconds=6))
    await office.attempt(case)

    assert ("pending", "source_down", "source") == (
        household["outcome"],
        household["reason"],
        household["layer"],
    )
    assert household["retry_at"] is not None
    assert "retrieved" == outcomes(await office.read(case))["household"]


async def test_a_source_down_beyond_the_matters_limit_asks_the_applicant(
    office: Office,
) -> None:
    """Scenario 6, at its end: after the limit the applicant may hand it in."""
    office.departments.reply("household@1", DOWN)
    case = await office.open()

    office.clock.advance(timedelta(days=10))
    await office.attempt(case)
    office.clock.advance(timedelta(days=1))
    await office.attempt(case)

    household = (await office.read(case))["by_id"]["household"]
    assert ("supply_needed", "source_down") == (
        household["outcome"],
        household["reason"],
    )
    assert "applicant" == household["next_step"]["owner"]


async def test_a_stale_record_is_faulty_and_goes_to_a_person(office: Office) -> None:
    """Scenario 7: a record older than allowed is not used."""
    office.departments.drop("household@1")
    office.departments.hold(
        "household@1",
        {"id": MOTHER},
        {
            "household_no": "H1",
            "household_type": "FAMILY",
            "head_name": "林云",
            "relation_to_head": "01",
            "region": "990101",
        },
        as_of=NOW - timedelta(days=3),
    )

    with capture_logs() as logs:
        case = await office.open()

    household = case["by_id"]["household"]
    [told] = [one for one in logs if one["event"] == "answer_faulty"]
    assert {
        "event": "answer_faulty",
        "log_level": "warning",
        "service": "ga_household",
        "fault": "stale",
        "why": "`as_of` is older than allowed",
        "record": household["record"]["event"],
    } == told
    assert ("faulty", "stale") == (household["outcome"], household["fault"])
    assert "assist" == household["next_step"]["action"]
    # The matter says how long a source may be out of order: ten days.
    due_at = datetime.fromisoformat(household["next_step"]["due_at"])
    assert due_at == NOW + timedelta(days=10)


async def test_nothing_found_outside_the_coverage_is_not_nothing_held(
    office: Office,
) -> None:
    """Scenario 8: outside its coverage a register's silence means nothing."""
    office.departments.reply("household@1", NotCovered())

    case = await office.open()

    household = case["by_id"]["household"]
    assert ("supply_needed", "out_of_coverage") == (
        household["outcome"],
        household["reason"],
    )


async def test_a_withdrawn_consent_stops_later_look_ups_and_the_case_goes_on(
    office: Office,
) -> None:
    """Scenario 11: withdrawn in mid-case: nothing more is asked; upload is offered."""
    given = await office.consent_beforehand()
    office.departments.reply("marriage@1", DOWN)
    case = await office.open()
    await _withdraw(office, given)
    office.departments.reply("marriage@1", None)
    asked_before = len(office.departments.asked_about("marriage@1"))

    office.clock.advance(timedelta(seconds=6))
    await office.attempt(case)

    marriage = (await office.read(case))["by_id"]["marriage"]
    assert ("supply_needed", "no_consent") == (marriage["outcome"], marriage["reason"])
    assert asked_before == len(office.departments.asked_about("marriage@1"))


async def _withdraw(office: Office, consent: Consent) -> None:
    person, now = consent.scope.person, office.clock.now()
    await office.database.write(
        lambda c: withdraw(c, ConsentId(consent.id), person, now)
    )


async def test_of_twins_the_portal_says_which(office: Office) -> None:
    """Rule 6: two certificates of one mother and day: nobody picks, and one tells.

    Each of the twins has a case of its own; the number on the paper tells whose it is.
    """
    twin = "A000000002"
    keys = {"mother_id": MOTHER, "birth_date": "2026-01-08", "CSYXZMBH": twin}
    fields = {**CERTIFICATE_FIELDS, "CSYXZMBH": twin, "XSE_XM": "林小河"}
    office.departments.hold("birth_certificate@1", keys, fields)

    cases = [await office.open() for _ in range(2)]
    for case, number in zip(cases, (CERTIFICATE, twin), strict=True):
        asked = case["by_id"]["birth_certificate"]
        assert "answer_needed" == asked["outcome"]
        assert ["newborn.certificate_no"] == [fact["id"] for fact in asked["facts"]]
        assert ("applicant", f"/v1/cases/{case['id']}/answers") == (
            asked["next_step"]["owner"],
            asked["next_step"]["link"],
        )
        behind = case["by_id"]["vaccination_record"]["next_step"]
        assert ("applicant", "answer") == (behind["owner"], behind["action"])
        assert CERTIFICATE not in str(case)

        stated = {"newborn": {"certificate_no": number}}
        told = await office.add(case, subjects=stated)
        assert "retrieved" == outcomes(told)["birth_certificate"]
        assert number in str(told["evidence"])
    assert ("request.ended", "declined", "wj", "birth_certificate@1") in (
        office.records()
    )


async def test_every_adverse_outcome_reaches_a_person(office: Office) -> None:
    """Scenario 19: no failed requirement stands without an owner and an action."""
    office.departments.reply("household@1", ConnectorFaultError(Fault.FORMAT, "bad"))
    office.departments.reply("maternity_claim@1", Declined("ambiguous"))
    office.departments.drop("medical_insurance@1")
    office.departments.drop("identity@1")
    office.departments.hold("identity@1", {"id": MOTHER}, {"name": "another name"})

    case = await office.open()

    adverse = {
        name: r
        for name, r in case["by_id"].items()
        if r["outcome"] in {"faulty", "refused", "mismatch", "not_held", "conflict"}
    }
    assert {
        "household": "faulty",
        "maternity_claim": "refused",
        "mother_identity": "mismatch",
    } == {name: r["outcome"] for name, r in adverse.items()}
    assert all(r["next_step"]["owner"] != "nobody" for r in adverse.values())


async def test_a_closed_case_holds_nothing_but_outcomes(office: Office) -> None:
    """Scenario 21: after closing the evidence is gone and the ledger still stands."""
    case = await office.open()
    records = len(office.records())

    await office.close(case)
    closed = await office.read(case)

    assert "closed" == closed["status"]
    assert ({}, []) == (closed["evidence"], closed["receipts"])
    assert outcomes(case) == outcomes(closed)
    outcomes_since = [outcome for _, outcome, _, _ in office.records()[records:]]
    assert ["expired", "closed"] == outcomes_since
    stored = office.stored(case)
    assert stored.content is None
    with pytest.raises(NotFoundError):
        office.vault.key(stored.key, stored.head.id)
    with pytest.raises(StateConflictError):
        await office.resolve(case)


async def test_closing_leaves_neither_key_nor_value_anywhere(
    office: Office,
) -> None:
    """Rule 7: no file and no table holds the case's key or a person's value."""
    case = await office.open()
    stored = office.stored(case)
    raw = office.vault.key(stored.key, stored.head.id).raw
    wrapped = office.vault._database.read_now(
        lambda connection: _find_wrapped(connection, stored.key)
    )
    assert wrapped is not None
    assert _places_that_hold(office, wrapped)
    await office.close(case)

    planted = [raw, wrapped, *map(str.encode, (MOTHER, FATHER, "林云", "H0001"))]
    assert [] == [one for value in planted for one in _places_that_hold(office, value)]


def _places_that_hold(office: Office, value: bytes) -> list[str]:
    return [name for name, content in office.kept() if value in content]


async def test_a_run_that_takes_longer_than_the_wait_is_followed_by_another_at_once(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log takes a minute, the wait was five seconds: the case is not forgotten."""
    office.departments.reply("household@1", DOWN)
    append = office.log.append

    async def slow(events: Sequence[Event]) -> list[Appended]:
        appended = await append(events)
        if any(event.kind is Kind.REQUEST_ENDED for event in events):
            office.clock.advance(timedelta(minutes=1))
        return appended

    monkeypatch.setattr(office.log, "append", slow)
    case = await office.open()
    owed = office.owed(case)

    assert owed is not None
    assert office.clock.now() == owed.due_at


async def test_a_slow_answer_is_cut_off_at_the_deadline_and_goes_on(
    office: Office,
) -> None:
    """An answer that has no time left says so, and the case is owed another attempt."""
    case = await office.open(wait_s=0.0)

    assert {"deadline"} == {
        r["reason"] for r in case["by_id"].values() if r["outcome"] == "pending"
    } - {"chained"}
    office.clock.advance(timedelta(seconds=6))
    await office.attempt(case)
    assert "verified" == outcomes(await office.read(case))["mother_identity"]


async def test_a_deferred_answer_is_asked_for_when_it_is_ready(office: Office) -> None:
    """A source that answers later is asked again at the time it named."""
    later = NOW + timedelta(hours=2)
    office.departments.reply("maternity_claim@1", Deferred(retry_at=later))

    case = await office.open()
    office.departments.reply("maternity_claim@1", None)
    claim = case["by_id"]["maternity_claim"]

    assert ("pending", "deferred") == (claim["outcome"], claim["reason"])
    office.clock.advance(timedelta(hours=2))
    await office.attempt(case)
    assert "retrieved" == outcomes(await office.read(case))["maternity_claim"]


async def test_an_unanswered_question_is_put_and_not_taken_for_no(
    office: Office,
) -> None:
    """Unknown is not false: what turns on a missing answer waits for it."""
    answers = {k: v for k, v in ANSWERS.items() if k != "parents_married"}

    case = await office.open(answers=answers)

    marriage = case["by_id"]["marriage"]
    assert "answer_needed" == marriage["outcome"]
    assert [
        {
            "id": "parents_married",
            "name": {
                "zh": "孩子的父母是否已登记结婚？",  # noqa: RUF001 - Chinese
                "en": "Are the child's parents married?",
            },
            "type": "boolean",
            "choices": {},
            "max_length": None,
        }
    ] == marriage["questions"]
    assert [] == office.departments.asked_about("marriage@1")


async def test_identical_look_ups_are_made_once(office: Office) -> None:
    """One certificate serves all that name it; a second run asks none."""
    case = await office.open()
    await office.resolve(case)

    assert 1 == len(office.departments.asked_about("birth_certificate@1"))
    after = outcomes(await office.resolve(case))
    assert ("reused", "reused") == (after["birth_certificate"], after["birth_health"])


async def test_each_requirement_gets_its_own_fields_of_one_evidence(
    office: Office,
) -> None:
    """Rule 4: the birth weight never reaches whoever only needs the certificate."""
    case = await office.open()

    evidence_id = case["by_id"]["birth_certificate"]["evidence"][0]
    presentations = case["evidence"][evidence_id]["presentations"]
    assert {"XSE_YZ", "XSE_TZ"} == set(presentations["birth_health"]["fields"])
    assert "XSE_TZ" not in presentations["birth_certificate"]["fields"]
    asked = office.departments.asked_about("birth_certificate@1")[0].fields
    assert "XSE_SC" not in asked
    passed_on = {f for p in presentations.values() for f in p["fields"]}
    assert {"FQ_SFZJHM", "FQ_XM", "MQ_SFZJHM"} <= set(asked) - passed_on


async def test_every_accepted_look_up_ends_and_every_release_is_recorded(
    office: Office,
) -> None:
    """Rules 1 and 2: each intent has its end, and each evidence its release."""
    case = await office.open()

    records = office.records()
    kinds = [kind for kind, *_ in records]
    accepted = kinds.count(Kind.REQUEST_ACCEPTED.value)
    assert accepted == len(office.departments.asked)
    assert accepted == kinds.count(Kind.REQUEST_ENDED.value)
    assert len(case["evidence"]) == kinds.count(Kind.EVIDENCE_RELEASED.value)
    assert len(case["receipts"]) == len(case["evidence"])


async def test_reading_a_case_records_each_release_anew(office: Office) -> None:
    """Each answer that carries evidence leaves a record for each evidence."""
    case = await office.open()
    before = len(office.records())

    await office.read(case)

    assert before + len(case["evidence"]) == len(office.records())


async def test_no_transaction_is_open_while_a_department_is_asked(
    office: Office,
) -> None:
    """Rule 9: with a department at work, no database transaction is open."""
    gate = office.departments.close_gate("household@1")
    opening = asyncio.create_task(office.open())
    await gate.reached()

    assert 0 == office.database.open_transactions
    gate.opened.set()
    await opening


async def test_a_suspended_service_is_not_asked_and_the_refusal_recorded(
    office: Office,
) -> None:
    """Rules 2 and 5: a suspension bars at once, and leaves a record."""
    office.in_flight.suspend(target(Suspendable.SERVICE, "ga_household"))

    case = await office.open()

    household = case["by_id"]["household"]
    assert ("refused", "service_suspended") == (household["outcome"], household["rule"])
    assert [] == office.departments.asked_about("household@1")
    assert ("request.denied", "service_suspended", "ga", "household@1") in (
        office.records()
    )


async def test_another_requesters_case_is_as_if_it_were_not_there(
    office: Office,
) -> None:
    """A case is found by its own requester and by nobody else."""
    case = await office.open()
    elsewhere = replace(PORTAL_CALLER, requester="portal_elsewhere")

    with pytest.raises(NotFoundError):
        await office.resolver.read(CaseId(case["id"]), elsewhere)


async def test_each_presentation_discloses_its_own_fields_and_no_others(
    office: Office,
) -> None:
    """Rule 4: the signed form carries what `fields` says, not all that was asked."""
    await office.consent_beforehand()
    perform_steps(office.departments)

    case = await office.open()

    shown = [
        presentation
        for evidence in case["evidence"].values()
        for presentation in evidence["presentations"].values()
    ]
    assert len(shown) > len(case["evidence"])
    for presentation in shown:
        _, *disclosures, end = presentation["sd_jwt"].split("~")
        disclosed = [orjson.loads(b64url_decode(one)) for one in disclosures]
        assert "" == end
        assert presentation["fields"] == {name: value for _, name, value in disclosed}
        assert len(presentation["fields"]) == len(disclosed)
