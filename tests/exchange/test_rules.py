"""Rules of the house that need a case to show: each fails when its rule is broken."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from audit.record import Event, Kind
from audit.store import Appended
from connectors.lookup import LookupRequest
from consent.rows import CONSENT
from consent.rules import Rule, Suspendable, target
from consent.store import Terms, withdraw
from consent.uses import Use, take_uses
from exchange.asking import Asker
from schemas.errors import (
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
    LogUnavailableError,
)
from schemas.ids import ConsentId, LookupId
from schemas.matter import SupplyReason
from schemas.validation import Pack
from tests.exchange.newborn import (
    ANSWERS,
    FATHER,
    HOUSEHOLD_FIELDS,
    MOTHER,
    Office,
    an_office,
    deaf,
    leave_the_father_blank,
    outcomes,
    perform_steps,
    settle_in,
    the_pack,
)

pytestmark = pytest.mark.anyio


def _intents(office: Office) -> set[str]:
    """Return the event ids of all accepted requests that are on the disk."""
    return {
        leaf["id"]
        for leaf in office.leaves()
        if leaf["kind"] == Kind.REQUEST_ACCEPTED.value
    }


async def test_no_department_is_asked_before_its_intent_is_durable(
    office: Office,
) -> None:
    """Rule 1: when a department hears a look-up, its record is on the disk already."""
    seen: list[bool] = []

    def looks(request: LookupRequest) -> None:
        seen.append(request.intent.event in _intents(office))

    office.departments.on_asked = looks

    await office.open()

    assert seen
    assert all(seen)


async def test_no_department_is_asked_when_the_log_cannot_be_written(
    office: Office,
) -> None:
    """Rule 1: without a log nothing is asked and nothing is released."""
    office.log.refuse("the disk is gone")

    with pytest.raises(LogUnavailableError):
        await office.open()

    assert [] == office.departments.asked


async def test_nothing_is_released_when_the_release_cannot_be_recorded(
    office: Office,
) -> None:
    """Rule 1: a case that holds evidence gives none of it away without its record."""
    case = await office.open()
    office.log.refuse("the disk is gone")

    with pytest.raises(LogUnavailableError):
        await office.read(case)


async def test_a_refusal_in_the_plan_is_decided_before_anybody_is_asked(
    office: Office,
) -> None:
    """Rule 3: a denial stands before any intent, in the last wave as in the first."""
    office.in_flight.suspend(target(Suspendable.SERVICE, "yb_maternity_claim"))
    office.in_flight.suspend(target(Suspendable.SERVICE, "sw_premium"))

    await office.open()

    records = office.records()
    accepted = [kind for kind, *_ in records].index(Kind.REQUEST_ACCEPTED.value)
    denied = {
        evidence_type
        for kind, _, _, evidence_type in records[:accepted]
        if kind == Kind.REQUEST_DENIED.value
    }
    assert {"maternity_claim@1", "premium@1"} == denied


async def test_a_person_whom_the_plan_reveals_is_decided_again(office: Office) -> None:
    """Rule 3: the father, known from the certificate, is decided before his wave."""
    given = await office.consent_beforehand()
    gate = office.departments.close_gate("birth_certificate@1")
    opening = asyncio.create_task(office.open())
    await gate.reached()

    person, now = given.scope.person, office.clock.now()
    await office.database.write(lambda c: withdraw(c, ConsentId(given.id), person, now))
    gate.opened.set()
    case = await opening

    assert [] == office.departments.asked_about("marriage@1")
    assert "supply_needed" == outcomes(case)["marriage"]


async def test_a_consent_withdrawn_after_the_decision_bars_the_look_up(
    office: Office,
) -> None:
    """Rule 5: between the decision and the sending a withdrawal still holds."""
    given = await office.consent_beforehand()
    person, now = given.scope.person, office.clock.now()
    append = office.log.append

    async def withdrawn_meanwhile(events: Sequence[Event]) -> list[Appended]:
        done = await append(events)
        if any(e.evidence_type == "marriage@1" for e in events):
            await office.database.write(
                lambda c: withdraw(c, ConsentId(given.id), person, now)
            )
        return done

    office.log.append = withdrawn_meanwhile  # type: ignore[method-assign] # the moment between

    case = await office.open()

    assert [] == office.departments.asked_about("marriage@1")
    assert ("request.ended", "denied.consent_withdrawn", "mz", "marriage@1") in (
        office.records()
    )
    assert "supply_needed" == outcomes(case)["marriage"]


async def test_a_consent_to_one_use_is_asked_for_anew_in_the_same_run(
    office: Office,
) -> None:
    """Rule 10: two look-ups of a wave, one use: the other waits for him, not for us.

    Decision 15: the use that could not be taken is recorded as denied.
    """
    case = await office.open()
    first = case["by_id"]["marriage"]["consent"]
    await office.give(first, Terms(uses=1))
    await office.attempt(case)

    then = await office.read(case)
    found = {n: then["by_id"][n] for n in ("father_identity", "marriage")}
    waiting = [r for r in found.values() if r["outcome"] == "consent_needed"]
    assert 1 == len(waiting)
    assert first != waiting[0]["consent"]
    assert f"/v1/consents/{waiting[0]['consent']}" == waiting[0]["next_step"]["link"]
    assert {"verified", "retrieved"} & {r["outcome"] for r in found.values()}
    ends = [leaf["outcome"] for leaf in office.leaves()]
    assert 1 == ends.count("denied.consent_used_up")

    await office.give(waiting[0]["consent"], Terms(uses=1))
    await office.attempt(case)
    after = outcomes(await office.read(case))
    assert ("verified", "retrieved") == (after["father_identity"], after["marriage"])


async def test_a_use_that_is_lost_time_and_again_ends_the_run(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No loop: after two losses the case's next attempt goes on, within seconds."""
    case = await office.open()
    given = await office.give(case["by_id"]["marriage"]["consent"], Terms(uses=9))
    left = update(CONSENT).where(CONSENT.c.id == given.id)

    def taken_and_given_back(
        connection: Connection, uses: Sequence[Use], now: datetime, lease: timedelta
    ) -> Mapping[LookupId, Rule]:
        connection.execute(left.values(uses_left=0))
        denied = take_uses(connection, uses, now, lease)
        connection.execute(left.values(uses_left=9))
        return denied

    with monkeypatch.context() as others:
        others.setattr("exchange.asking.take_uses", taken_and_given_back)
        await office.attempt(case)
    meanwhile, owed = await office.read(case), office.owed(case)

    marriage = meanwhile["by_id"]["marriage"]
    assert ("pending", "deadline") == (marriage["outcome"], marriage["reason"])
    assert "exchange" == marriage["next_step"]["owner"]
    assert owed is not None
    assert timedelta() < owed.due_at - office.clock.now() < timedelta(minutes=1)
    ends = [leaf["outcome"] for leaf in office.leaves()]
    assert 4 == ends.count("denied.consent_used_up")
    assert [] == office.departments.asked_about("marriage@1")

    office.clock.advance(timedelta(minutes=1))
    await office.attempt(case)
    assert "retrieved" == outcomes(await office.read(case))["marriage"]


async def test_a_gateway_that_may_have_missed_a_suspension_asks_nobody(
    office: Office,
) -> None:
    """Rule 5: once its lease among the others is over, all waits, and is recorded."""
    office.in_flight.current_until = office.clock.monotonic()

    case = await office.open()

    assert [] == office.departments.asked
    assert "pending" in set(outcomes(case).values())
    assert "unavailable.gateway" in {leaf["outcome"] for leaf in office.leaves()}


async def test_every_open_requirement_has_an_owner_an_action_and_a_clock(
    office: Office,
) -> None:
    """Rule 10: nobody is sent home, and the case is tried again by itself."""
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    for evidence_type in ("household@1", "identity@1", "maternity_claim@1"):
        office.departments.reply(evidence_type, down)

    case = await office.open(answers={k: v for k, v in ANSWERS.items() if k != "phone"})

    open_ones = [r for r in case["requirements"] if r["next_step"] is not None]
    settled = {"retrieved", "verified", "derived", "declared", "not_applicable"}
    assert {r["id"] for r in open_ones} == {
        r["id"] for r in case["requirements"] if r["outcome"] not in settled
    }
    clocks = {r["id"]: r["next_step"]["due_at"] for r in open_ones}
    assert [] == [name for name, due_at in clocks.items() if due_at is None]
    assert all(clock > office.clock.now().isoformat() for clock in clocks.values())
    owners = {r["next_step"]["owner"] for r in open_ones}
    assert "nobody" not in owners
    assert {"exchange", "person", "applicant", "provider"} <= owners
    owed = office.owed(case)
    assert owed is not None
    assert owed.due_at <= office.clock.now() + timedelta(seconds=6)


async def test_a_crash_in_mid_case_is_made_good_from_the_log(office: Office) -> None:
    """Rules 1, 2 and 10: intents without an end get one, and the case goes on."""
    case = await office.open_and_be_killed("household@1")
    perform_steps(office.departments)

    office.clock.advance(timedelta(minutes=2))
    await office.attempt(case)

    kinds = [(kind, outcome) for kind, outcome, *_ in office.records()]
    accepted = sum(1 for kind, _ in kinds if kind == Kind.REQUEST_ACCEPTED.value)
    ended = sum(1 for kind, _ in kinds if kind == Kind.REQUEST_ENDED.value)
    assert accepted == ended
    assert ("request.ended", "interrupted") in kinds
    assert "retrieved" == outcomes(await office.read(case))["household"]


async def test_the_father_is_not_shown_before_he_consents(office: Office) -> None:
    """Decision 3: his id serves to address the request, and reaches no portal."""
    case = await office.open()

    assert FATHER not in str(case)
    assert "陈溪" not in str(case)


def test_the_flow_names_its_steps_in_order() -> None:
    """A reader finds the steps of a wave numbered where they are done."""
    text = Path(Asker.ask.__code__.co_filename).read_text(encoding="utf-8")

    body = text[text.index("async def ask(") : text.index("async def _record_intents")]
    places = [body.rindex(f"({step})") for step in range(1, 5)]
    assert places == sorted(places)


async def test_a_case_that_is_being_opened_already_names_its_requirements(
    office: Office,
) -> None:
    """A read while departments are asked shows every requirement, as pending."""
    gate = office.departments.close_gate("household@1")
    opening = asyncio.create_task(office.open())
    await gate.reached()

    half = await office.read(await office.only_case())
    gate.opened.set()
    whole = await opening

    assert [r["id"] for r in whole["requirements"]] == [
        r["id"] for r in half["requirements"]
    ]
    assert "pending" == outcomes(half)["household"]


async def test_a_run_that_fails_leaves_the_case_to_others_at_once(
    office: Office,
) -> None:
    """Whoever could not finish gives the lease back: the next attempt need not wait."""
    case = await office.open(wait_s=0.0)
    with deaf(office), pytest.raises(LogUnavailableError):
        await office.resolve(case)
    office.clock.advance(timedelta(seconds=6))

    assert "settled" != await office.attempt(case)
    assert "verified" == outcomes(await office.read(case))["mother_identity"]


async def test_a_time_that_has_passed_does_not_make_a_case_spin(
    office: Office,
) -> None:
    """What is owed after a run lies in the future, whatever an old try had planned."""
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    office.departments.reply("household@1", down)
    case = await office.open()
    office.clock.advance(timedelta(minutes=1))

    await office.add(case, answers={"joins": "father"})

    owed = office.owed(case)
    assert owed is not None
    assert owed.due_at > office.clock.now()


@pytest.mark.parametrize("requirement", ["father_identity", "marriage"])
async def test_a_father_whom_the_certificate_leaves_blank_is_asked_of_the_portal(
    office: Office, requirement: str
) -> None:
    """Rule 10: nobody waits for a fact that no register will tell; it can be stated.

    The marriage is looked up by the mother, and waits for him nevertheless: his
    consent is needed, and nobody knows of whom to ask it.
    """
    leave_the_father_blank(office.departments)

    case = await office.open()

    father = case["by_id"][requirement]
    assert "answer_needed" == father["outcome"]
    assert [
        {
            "id": "father.id",
            "role": {"zh": "父亲", "en": "Father"},
            "name": {"zh": "公民身份号码", "en": "Citizen id"},
            "type": "citizen_id",
        }
    ] == father["facts"]
    assert "applicant" == father["next_step"]["owner"]


async def test_a_father_whom_nobody_knows_ends_with_papers(office: Office) -> None:
    """Rule 10: what can't be stated can be handed in, one requirement after another."""
    leave_the_father_blank(office.departments)
    perform_steps(office.departments)
    case = await office.open()
    open_ones: list[dict[str, str]] = []

    for requirement in ("father_identity", "marriage"):
        case = await office.add(case, supplied={requirement: SupplyReason.NOT_HELD})
        open_ones.append({s["requirement"]: s["owner"] for s in case["next_steps"]})

    assert [{"marriage": "applicant"}, {}] == open_ones
    assert "settled" == case["status"]


async def test_a_father_who_is_stated_at_last_is_asked_for_his_consent(
    office: Office,
) -> None:
    """What waited for somebody unknown waits for him as soon as he is named."""
    leave_the_father_blank(office.departments)
    case = await office.open()
    stated = {"father": {"id": FATHER, "name": "陈溪"}}

    found = outcomes(await office.add(case, subjects=stated))

    assert {"consent_needed"} == {found["father_identity"], found["marriage"]}


def _regions_may_be_blank() -> Pack:
    """Return the region's pack, in which a household may come without its region."""
    pack = the_pack()
    household = pack.evidence_types["household@1"]
    region = household.fields["region"].model_copy(
        update={"json_schema": {"type": ["string", "null"]}}
    )
    blank = household.model_copy(
        update={"fields": {**household.fields, "region": region}}
    )
    return replace(pack, evidence_types={**pack.evidence_types, "household@1": blank})


async def test_a_fact_that_only_its_register_can_mend_waits_for_its_provider(
    tmp_path: Path, tables_url: str, vault_url: str
) -> None:
    """Rule 10: the household came without its region, which nobody may state."""
    pack = _regions_may_be_blank()
    async with an_office(tmp_path, tables_url, vault_url, pack=pack) as office:
        settle_in(office.departments)
        office.departments.drop("household@1")
        blank = {**HOUSEHOLD_FIELDS, "region": None}
        office.departments.hold("household@1", {"id": MOTHER}, blank)
        case = await office.open()

    waiting = case["by_id"]["child_registration"]
    step = waiting["next_step"]
    assert ("pending", "chained") == (waiting["outcome"], waiting["reason"])
    assert ("provider", "ga", "contest") == (
        step["owner"],
        step["owner_id"],
        step["action"],
    )
    assert step["due_at"] is not None


async def test_what_a_register_that_covers_nothing_would_tell_is_asked_of_the_portal(
    tmp_path: Path, tables_url: str, vault_url: str
) -> None:
    """Rule 10: without the register of births, nothing waits for nobody."""
    pack = the_pack()
    births = pack.services["wj_birth_certificate"]
    coverage = births.coverage.model_copy(update={"from_date": date(2027, 1, 1)})
    later = births.model_copy(update={"coverage": coverage})
    pack = replace(pack, services={**pack.services, births.id: later})
    async with an_office(tmp_path, tables_url, vault_url, pack=pack) as office:
        settle_in(office.departments)
        case = await office.open()

    father, vaccination = (
        case["by_id"][name] for name in ("father_identity", "vaccination_record")
    )
    chained = [r for r in case["requirements"] if r["outcome"] == "pending"]
    assert ["father.id", "father.name"] == [fact["id"] for fact in father["facts"]]
    assert ["newborn.certificate_no"] == [fact["id"] for fact in vaccination["facts"]]
    assert {"enrolment", "premium", "social_card"} <= {r["id"] for r in chained}
    assert {"exchange"}.isdisjoint(r["next_step"]["owner"] for r in chained)


async def test_what_waits_behind_a_failed_look_up_names_who_mends_it(
    office: Office,
) -> None:
    """Rule 10: behind a certificate that came wrongly, its provider has to move."""
    fault = ConnectorFaultError(Fault.FORMAT, "not the protocol")
    office.departments.reply("birth_certificate@1", fault)

    case = await office.open()

    vaccination = case["by_id"]["vaccination_record"]
    assert ("pending", "chained") == (vaccination["outcome"], vaccination["reason"])
    assert ("provider", "wj", "report") == (
        vaccination["next_step"]["owner"],
        vaccination["next_step"]["owner_id"],
        vaccination["next_step"]["action"],
    )


@pytest.mark.parametrize("wait_s", [0.0, 5.0])
async def test_whoever_resolves_again_and_again_puts_no_automatic_try_off(
    office: Office, wait_s: float
) -> None:
    """Rule 10: a try that is asked for is none of the schedule's, nor in its way."""
    for evidence_type in {s.evidence_type for s in office.pack.services.values()}:
        down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
        office.departments.reply(evidence_type, down)
    case = await office.open()
    for left in (4.0, 3.0, 2.0):
        office.clock.advance(timedelta(seconds=1))
        await office.resolve(case, wait_s=wait_s)

        assert left == office.owed_in(case)

    waits = []
    for _ in range(3):
        office.clock.advance(timedelta(seconds=office.owed_in(case)))
        await office.attempt(case)
        waits.append(office.owed_in(case))
    assert [15.0, 60.0, 60.0] == waits


async def test_the_limit_of_a_source_is_put_off_by_nobody(office: Office) -> None:
    """However often a case is resolved, a source is down since it first failed."""
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    office.departments.reply("maternity_claim@1", down)
    case = await office.open()
    limit = the_pack().matters["newborn@1"].source_limit
    for wait_s in (0.0, 5.0, 0.0):
        office.clock.advance(limit / 2)
        await office.resolve(case, wait_s=wait_s)
    case = await office.resolve(case)

    assert "supply_needed" == outcomes(case)["maternity_claim"]
