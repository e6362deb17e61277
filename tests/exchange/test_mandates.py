"""An agent acts for the applicant: under a mandate that holds, or not at all."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from audit.record import Event, Kind
from audit.store import Appended
from connectors.lookup import Deferred
from consent import mandate_store
from consent.artefact import ConsentState
from consent.mandates import Authentication, Mandate, MandateState, Power
from exchange import mandating, vault
from exchange.case import Agent
from exchange.giving import Giving, check_giving
from exchange.idempotency import RepeatKey, claim
from schemas.codes import citizen_check_digit
from schemas.errors import (
    ConnectorUnavailableError,
    InvalidRequestError,
    Layer,
    LogUnavailableError,
    MandateError,
    StateConflictError,
)
from schemas.ids import KeyId, MandateId
from schemas.matter import SupplyReason
from tests.exchange.newborn import (
    ANSWERS,
    FATHER,
    MOTHER,
    NOW,
    OFFICIAL,
    PORTAL_CALLER,
    Office,
    asking,
    deaf,
    deaf_to,
    outcomes,
    perform_steps,
    permissions,
    the_pack,
)

pytestmark = pytest.mark.anyio

_STEM = "99010119850704001"
AGENT = _STEM + citizen_check_digit(_STEM)
APP = "citizen_app"
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def a_giving(**changes: object) -> Giving:
    """Return the mother's mandate to the agent, for two days."""
    giving = Giving(
        principal=MOTHER,
        role="mother",
        agent=AGENT,
        requester=None,
        matters=frozenset({"newborn"}),
        powers=frozenset({Power.APPLY}),
        valid_from=NOW,
        valid_until=NOW + 2 * DAY,
        method=Authentication.FACE,
        authenticated_at=NOW,
    )
    return replace(giving, **changes)  # type: ignore[arg-type] # checked by the tests that use it


async def give(office: Office, **changes: object) -> Mandate:
    """Give a mandate in the app, as its principal."""
    return await office.resolver.mandates.give(APP, a_giving(**changes), None)


def acting(mandate: str, agent: str = AGENT) -> Agent:
    """Return the agent as the portal names them."""
    return Agent(kind="agent", id=agent, mandate=MandateId(mandate))


def cases_of(office: Office) -> int:
    """Return how many cases there are."""
    count = text("SELECT count(*) FROM case_file")
    return int(office.database.read_now(lambda c: c.execute(count).scalar_one()))


def key_of(office: Office, case: dict[str, Any]) -> str:
    """Return the id of a case's key."""
    query = text("SELECT key_id FROM case_file WHERE id = :id")
    found = office.database.read_now(
        lambda c: c.execute(query, {"id": case["id"]}).scalar_one()
    )
    return str(found)


async def test_an_agent_with_an_expired_mandate_is_refused_before_any_look_up(
    office: Office,
) -> None:
    """Scenario 18: nobody is asked, no case is opened, the refusal is recorded."""
    mandate = await give(office)
    office.clock.advance(2 * DAY)

    with pytest.raises(MandateError, match="period has ended") as refused:
        await office.open(actor=acting(mandate.id))

    assert [] == office.departments.asked
    assert 0 == cases_of(office)
    assert vault._BATCH == len(office.vault._ahead)  # its key is there for another
    assert ("request.denied", "mandate_expired", "", "") == office.records()[-1]
    assert {"consent.changed", "request.denied"} == {r[0] for r in office.records()}
    assert AGENT not in str(refused.value)


async def test_the_key_of_a_refused_case_is_the_next_cases(office: Office) -> None:
    """No key is used up by whoever is refused, and none is two cases' key."""
    before = await office.open(wait_s=0.0)
    ahead = [key for key, _ in office.vault._ahead]
    with pytest.raises(MandateError):
        await office.open(actor=acting("00000000-0000-7000-8000-000000000000"))
    after = [await office.open(wait_s=0.0) for _ in range(2)]

    assert ahead[:2] == [key_of(office, case) for case in after]
    assert key_of(office, before) not in ahead


async def test_an_agent_with_a_mandate_opens_the_applicants_case(
    office: Office,
) -> None:
    """Until its last instant the agent's case is resolved as her own would be."""
    mandate = await give(office)
    await office.consent_beforehand()
    perform_steps(office.departments)
    office.clock.advance(2 * DAY - timedelta(microseconds=1))

    case = await office.open(actor=acting(mandate.id))

    assert "settled" == case["status"]
    assert AGENT not in str(case)


async def test_who_acted_is_sealed_and_nowhere_in_clear(office: Office) -> None:
    """The id stands in no file, table or leaf; a keyed name finds the agent's acts."""
    mandate = await give(office)
    await office.open(actor=acting(mandate.id))
    with pytest.raises(MandateError):
        await office.open(actor=acting(mandate.id, agent=FATHER))
    await asyncio.to_thread(office.log.close)  # whatever it still had is on the disk

    directory = office.log._sealer.directory
    ref = directory.actor_ref("agent", AGENT)
    with closing(sqlite3.connect(office.folder / "log.db")) as log:
        query = "SELECT count(*) FROM entry WHERE actor_ref = ?"
        acts = log.execute(query, (ref,)).fetchone()[0]
    assert acts > 10
    for name, content in office.kept():
        assert AGENT.encode() not in content, name
        assert MOTHER.encode() not in content, name


@pytest.mark.parametrize(
    ("changes", "agent", "rule", "told"),
    [
        ({}, FATHER, "mandate_other_agent", "no such mandate"),
        ({"principal": FATHER}, AGENT, "mandate_other_principal", "no such mandate"),
        ({"role": "father"}, AGENT, "mandate_other_principal", "no such mandate"),
        ({"requester": "other"}, AGENT, "mandate_other_requester", "no such mandate"),
        ({"matters": frozenset({"x"})}, AGENT, "mandate_matter_outside", "matters"),
        ({"powers": frozenset({Power.COMMIT})}, AGENT, "mandate_power_outside", "pow"),
        ({"valid_from": NOW + DAY}, AGENT, "mandate_not_yet_valid", "not hold yet"),
    ],
)
async def test_a_mandate_that_does_not_reach_so_far_opens_nothing(
    office: Office, changes: dict[str, object], agent: str, rule: str, told: str
) -> None:
    """Each rule has its record; of another's mandate nobody learns more than none."""
    mandate = await stored(office, **changes)

    with pytest.raises(MandateError, match=told):
        await office.open(actor=acting(mandate.id, agent))

    assert [] == office.departments.asked
    assert 0 == cases_of(office)
    assert [("request.denied", rule, "", "")] == office.records()


async def stored(office: Office, **changes: object) -> Mandate:
    """Put a mandate into the store as it is, past all that giving checks."""
    mandates, giving = office.resolver.mandates, a_giving(**changes)
    mandate_id = MandateId(office.resolver.new_id())
    mandate = mandates._mandate(APP, giving, mandate_id, NOW)
    mandate = replace(mandate, is_giving=False)
    return await office.database.write(lambda c: mandate_store.give(c, mandate))


async def test_a_mandate_that_never_was_opens_nothing(office: Office) -> None:
    """An id that nobody gave is told in the words of another's mandate."""
    unknown = "00000000-0000-7000-8000-000000000000"

    with pytest.raises(MandateError, match="no such mandate"):
        await office.open(actor=acting(unknown))

    assert [("request.denied", "mandate_not_found", "", "")] == office.records()


async def test_an_agent_is_not_let_in_when_the_refusal_cannot_be_recorded(
    office: Office,
) -> None:
    """Rule 2: without its record there is no refusal, and still no look-up."""
    office.log.refuse("the disk is gone")

    with pytest.raises(LogUnavailableError):
        await office.open(actor=acting("00000000-0000-7000-8000-000000000000"))

    assert [] == office.departments.asked
    assert 0 == cases_of(office)
    assert vault._BATCH == len(office.vault._ahead)


@pytest.mark.parametrize(
    ("ends", "rule"), [("revoked", "mandate_revoked"), ("expired", "mandate_expired")]
)
async def test_a_case_whose_mandate_has_ended_asks_nobody_any_more(
    office: Office, ends: str, rule: str
) -> None:
    """What came stays; all that waited, chained or not, is refused with the rule."""
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    office.departments.reply("household@1", down)
    office.departments.reply("maternity_claim@1", Deferred(NOW + DAY))
    mandate = await give(office, valid_until=NOW + HOUR)
    case = await office.open(actor=acting(mandate.id))
    settled = {n for n, o in outcomes(case).items() if o in {"retrieved", "verified"}}
    asked = len(office.departments.asked)

    if ends == "revoked":
        await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)
    else:
        office.clock.advance(HOUR)
    office.departments.reply("household@1", None)
    await office.attempt(case)
    by_itself = await office.read(case)
    by_request = await office.resolve(case)

    assert asked == len(office.departments.asked)
    for after in (by_itself, by_request):
        kept = {n for n, o in outcomes(after).items() if o in KEPT}
        assert settled <= kept
        waiting = {"pending", "consent_needed", "unavailable"}
        assert set() == waiting & set(outcomes(after).values())
        refused = [r for r in after["requirements"] if r["outcome"] == "refused"]
        assert {rule} == {r["rule"] for r in refused}
        assert {"apply"} == {r["next_step"]["action"] for r in refused}
        assert {"household", "maternity_claim"} <= {r["id"] for r in refused}
    assert ("request.denied", rule, "ga", "household@1") in office.records()


@pytest.mark.parametrize(
    ("ends", "rule"), [("revoked", "mandate_revoked"), ("expired", "mandate_expired")]
)
async def test_what_an_applicant_was_asked_for_waits_for_no_ended_mandate(
    office: Office, ends: str, rule: str
) -> None:
    """Rule 10: nobody is sent to answer or to hand in where it can't be taken.

    What was handed in while the mandate held stays.
    """
    office.departments.drop("medical_insurance@1")
    office.departments.drop("maternity_claim@1")
    mandate = await give(office, valid_until=NOW + HOUR)
    before = await office.open(actor=acting(mandate.id), answers={})
    assert "supply_needed" == outcomes(before)["maternity_claim"]
    paper = {"mother_insurance": SupplyReason.NOT_HELD}
    await office.add(before, supplied=paper)

    if ends == "revoked":
        await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)
    else:
        office.clock.advance(HOUR)
    after = await office.resolve(before)

    asked = {n for n, o in outcomes(before).items() if o.endswith("_needed")}
    asked.discard("mother_insurance")
    assert {"phone", "joins"} <= {
        q["id"] for r in before["requirements"] for q in r.get("questions") or ()
    }
    assert {"refused"} == {outcomes(after)[name] for name in asked}
    assert {rule} == {after["by_id"][name]["rule"] for name in asked}
    steps = [after["by_id"][name]["next_step"] for name in asked]
    assert {("apply", "/v1/cases")} == {(s["action"], s["link"]) for s in steps}
    assert "supplied" == outcomes(after)["mother_insurance"]
    assert "reused" == outcomes(after)["mother_identity"]


@pytest.mark.parametrize("ends", ["revoked", "expired"])
async def test_nobody_is_asked_any_more_for_a_case_whose_mandate_has_ended(
    office: Office, ends: str
) -> None:
    """What nothing can rest on is not given: its request ends, and that is recorded."""
    mandate = await give(office, valid_until=NOW + HOUR)
    case = await office.open(actor=acting(mandate.id))
    (request,) = await permissions(office).of_person(FATHER)

    if ends == "revoked":
        await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)
    else:
        office.clock.advance(HOUR)
    people = permissions(office)
    with pytest.raises(StateConflictError, match="mandate of this case has ended"):
        await people.ask(PORTAL_CALLER, FATHER, asking(case), None)
    await office.attempt(case)
    await office.resolve(case)
    (after,) = await people.of_person(FATHER)
    with pytest.raises(StateConflictError):
        await office.give(request.id)
    whole = asking(case, whole_matter=True)
    later = await people.ask(PORTAL_CALLER, FATHER, whole, None)
    said = [x for x in office.leaves() if x["corr"] == request.id]

    assert ConsentState.ASKED is request.state
    assert (ConsentState.EXPIRED, office.clock.now()) == (after.state, after.ended_at)
    assert ["asked", "expired"] == [x["outcome"] for x in said]
    assert ConsentState.ASKED is later.state


KEPT = {"retrieved", "verified", "reused", "declared", "derived", "not_applicable"}


async def until_recorded(office: Office, outcome: str) -> None:
    """Wait until an act is recorded, and until whoever acted has done what follows."""
    left = text("SELECT count(*) FROM owed_record")

    def is_over() -> bool:
        owed = office.database.read_now(lambda c: c.scalar(left))
        return not owed and outcome in [one[1] for one in office.records()]

    async with asyncio.timeout(10):
        while not is_over():  # noqa: ASYNC110 - rows and files tell
            await asyncio.sleep(0)
    for _ in range(3):
        await office.database.read(lambda c: c.execute(left).close())


async def test_a_mandate_revoked_in_mid_run_stops_the_next_wave(
    office: Office,
) -> None:
    """Every wave is decided anew: the second finds the mandate gone.

    It is acknowledged when what is under way has come to its end, and not before.
    """
    mandate = await give(office)
    perform_steps(office.departments)
    gate = office.departments.close_gate("birth_certificate@1")
    opening = asyncio.create_task(office.open(actor=acting(mandate.id)))
    await gate.reached()

    revoking = asyncio.create_task(
        office.resolver.mandates.revoke(APP, mandate.id, AGENT)
    )
    await until_recorded(office, "mandate_revoked")
    is_acknowledged = revoking.done()
    gate.opened.set()
    case = await opening
    await revoking

    assert not is_acknowledged
    assert [] == office.departments.asked_about("vaccination@1")
    assert "refused" == outcomes(case)["vaccination_record"]
    assert "retrieved" == outcomes(case)["birth_certificate"]


async def test_no_look_up_is_sent_under_a_mandate_whose_end_was_acknowledged(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 5, at the last instant: what was decided and recorded is denied its use."""
    mandate = await give(office)
    append, asked = office.log.append, list(office.departments.asked)

    async def and_revoke(events: Sequence[Event]) -> list[Appended]:
        places = await append(events)
        if any(event.kind is Kind.REQUEST_ACCEPTED for event in events):
            monkeypatch.undo()
            await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)
        return places

    monkeypatch.setattr(office.log, "append", and_revoke)
    case = await office.open(actor=acting(mandate.id))
    kinds = [kind for kind, *_ in office.records()]
    ends = {
        outcome for kind, outcome, *_ in office.records() if kind == "request.ended"
    }

    assert asked == office.departments.asked
    assert {"denied.mandate_revoked"} == ends
    assert kinds.count("request.accepted") == kinds.count("request.ended") > 0
    assert {"refused"} == set(outcomes(case).values()) - KEPT


def noted(office: Office) -> dict[str, str | None]:
    """Return the mandate that is noted of each case."""
    query = text("SELECT id, mandate FROM case_file")
    rows = office.database.read_now(lambda c: c.execute(query).all())
    return {row.id: row.mandate for row in rows}


def is_called(office: Office, case: dict[str, Any]) -> bool:
    """Tell whether the next attempt of a case is due now."""
    owed = office.owed(case)
    assert owed is not None
    return owed.due_at <= office.clock.now()


async def test_a_mandate_that_ends_calls_for_the_cases_that_go_on_under_it(
    office: Office,
) -> None:
    """At once, each by a row of its own, and no other's; a closed one forgets it."""
    mandate, other = await give(office), await give(office)
    mine = [await office.open(actor=acting(mandate.id)) for _ in range(2)]
    others = [await office.open(actor=acting(other.id)), await office.open()]
    closed = await office.open(actor=acting(mandate.id))
    await office.close(closed)
    before = [is_called(office, case) for case in [*mine, *others]]
    woken: list[bool] = []
    mandates = replace(office.resolver.mandates, wake=lambda: woken.append(True))
    for _ in range(2):
        await mandates.revoke(APP, mandate.id, AGENT)
    after = [is_called(office, case) for case in [*mine, *others]]
    due = {office.owed(case) for case in mine}
    ended = [await office.attempt(case) for case in mine]
    told = [outcomes(await office.read(case)) for case in mine]

    assert [False] * 4 == before
    assert [True, True, False, False] == after
    assert 2 == len({one.id for one in due if one is not None})
    assert woken
    assert ["owed", "owed"] == ended
    for each in told:
        assert {"refused"} == set(each.values()) - KEPT
    ids = [mandate.id, mandate.id, other.id, "", ""]
    assert ids == [noted(office)[case["id"]] for case in [*mine, *others, closed]]


async def test_cases_that_an_earlier_version_opened_get_their_mandates_noted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose mandate has ended meanwhile are called for; twice is once."""
    standing, ended = await give(office), await give(office)
    actors = (acting(standing.id), acting(ended.id), OFFICIAL)
    opened = [await office.open(actor=one) for one in actors]
    forget = text("UPDATE case_file SET mandate = NULL")
    await office.database.write(lambda c: c.execute(forget).close())
    mandates = office.resolver.mandates
    monkeypatch.setattr(mandating, "_CHUNK", 2)
    await mandates.revoke(APP, ended.id, MOTHER)
    unheard = [is_called(office, case) for case in opened]
    numbers = [await mandates.note_earlier() for _ in range(2)]

    assert [False] * 3 == unheard
    assert [3, 0] == numbers
    assert [standing.id, ended.id, ""] == [noted(office)[case["id"]] for case in opened]
    assert [False, True, False] == [is_called(office, case) for case in opened]


async def test_one_case_that_can_not_be_opened_is_in_no_others_way(
    office: Office,
) -> None:
    """What is stored of its key was damaged; the mandate of the next one is noted."""
    mandate = await give(office)
    opened = [await office.open(actor=acting(mandate.id)) for _ in range(2)]
    forget = text("UPDATE case_file SET mandate = NULL")
    await office.database.write(lambda c: c.execute(forget).close())
    damage = text("UPDATE case_key SET wrapped = :wrapped WHERE id = :id")
    damaged = KeyId(key_of(office, opened[0]))
    values = {"wrapped": bytes(60), "id": damaged}
    await office.vault._database.write(lambda c: c.execute(damage, values).close())
    office.vault.forget(damaged)
    count = await office.resolver.mandates.note_earlier()

    assert 1 == count
    assert [None, mandate.id] == [noted(office)[case["id"]] for case in opened]


ANSWER = {"phone": "13100000000"}
"""What an agent answers in mid-case."""


async def test_an_agent_answers_only_while_the_mandate_holds(office: Office) -> None:
    """After it has ended nothing is added, and the case knows no more than before."""
    answers = {k: v for k, v in ANSWERS.items() if k != "phone"}
    mandate = await give(office)
    case = await office.open(actor=acting(mandate.id), answers=answers)
    await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)

    with pytest.raises(MandateError, match="revoked"):
        await office.add(case, answers=ANSWER)

    assert "answer_needed" in outcomes(await office.read(case)).values()
    denied = [r for r in office.leaves() if r["kind"] == "request.denied"]
    assert ["mandate_revoked"] == [r["outcome"] for r in denied]


async def test_promising_takes_a_power_of_its_own(office: Office) -> None:
    """A commitment binds the principal, so that applying does not include it."""
    plain = await give(office)
    both = await give(office, powers=frozenset(Power))
    first, second = [await office.open(actor=acting(m.id)) for m in (plain, both)]
    promises = ("household",)

    with pytest.raises(MandateError, match="power"):
        await office.add(first, answers=ANSWER, commitments=promises)

    await office.add(first, answers=ANSWER)
    await office.add(second, answers=ANSWER, commitments=promises)


async def test_an_official_needs_no_mandate(office: Office) -> None:
    """The check bears on agents alone: staff act for the requester."""
    case = await office.open()

    assert 1 == cases_of(office)
    assert set() == {r for r in outcomes(case).values() if r == "refused"}


# Giving.


async def test_a_mandate_is_recorded_before_it_holds(office: Office) -> None:
    """Rule 1: what widens is in the log first; until then nobody acts under it."""
    with deaf_to(office, lambda event: event.kind is Kind.CONSENT_CHANGED):
        with pytest.raises(LogUnavailableError):
            await give(office)
        [mandate] = await office.resolver.mandates.of_person(MOTHER)
        with pytest.raises(MandateError, match="does not hold yet"):
            await office.open(actor=acting(mandate.id))
    unrecorded = office.records()
    people = permissions(office)
    await people.record_owed()
    opened = await office.open(actor=acting(mandate.id), wait_s=0.0)

    assert MandateState.GIVING is mandate.state_at(NOW)
    assert [("request.denied", "mandate_not_yet_valid", "", "")] == unrecorded
    assert ("consent.changed", "mandate_given", "", "") == office.records()[1]
    assert "case.opened" == office.records()[2][0]
    assert opened["id"]


async def test_a_request_that_was_cut_off_gives_its_mandate_when_it_comes_again(
    office: Office,
) -> None:
    """The same one, recorded once, however long ago it was signed."""
    mandates, repeat = office.resolver.mandates, RepeatKey(APP, "key", "request")
    with deaf(office):
        for _ in range(2):
            with pytest.raises(LogUnavailableError):
                await mandates.give(APP, a_giving(), repeat)
    [left] = await mandates.of_person(MOTHER)
    office.clock.advance(DAY + HOUR)
    given = [await mandates.give(APP, a_giving(), repeat) for _ in range(2)]
    await permissions(office).record_owed()

    assert [replace(left, is_giving=False)] * 2 == given
    assert ["mandate_given"] == [outcome for _, outcome, _, _ in office.records()]


async def test_a_request_that_an_earlier_version_left_half_done_gives_one_mandate(
    office: Office,
) -> None:
    """It had claimed the id and recorded it: it is stored, and recorded no more."""
    mandates, repeat = office.resolver.mandates, RepeatKey(APP, "key", "request")
    claimed = MandateId(office.resolver.new_id())
    await office.database.write(lambda c: claim(c, repeat, claimed, NOW))
    before = mandates._given(
        mandates._mandate(APP, a_giving(), claimed, NOW), a_giving()
    )
    await office.log.append([before])
    given = await mandates.give(APP, a_giving(), repeat)

    assert (claimed, MandateState.VALID) == (given.id, given.state_at(NOW))
    assert ["mandate_given"] == [outcome for _, outcome, _, _ in office.records()]


async def test_a_mandate_that_is_ended_while_it_is_given_never_holds(
    office: Office,
) -> None:
    """The log hears of both, in their order, also when a clock went back."""
    mandates = office.resolver.mandates
    with deaf(office):
        with pytest.raises(LogUnavailableError):
            await give(office)
        [mandate] = await mandates.of_person(MOTHER)
        office.clock.instant -= HOUR
        with pytest.raises(LogUnavailableError):
            await mandates.revoke(APP, mandate.id, MOTHER)
    await permissions(office).record_owed()
    left = await mandates.read(mandate.id)

    assert MandateState.REVOKED is left.state_at(NOW)
    assert ["mandate_given", "mandate_revoked"] == [
        outcome for _, outcome, _, _ in office.records()
    ]


async def test_one_request_at_two_places_at_once_gives_one_mandate(
    office: Office,
) -> None:
    """Six times the same key: one mandate, one record, one answer."""
    mandates, repeat = office.resolver.mandates, RepeatKey(APP, "key", "request")
    given = await asyncio.gather(
        *(mandates.give(APP, a_giving(), repeat) for _ in range(6))
    )

    assert 1 == len(await mandates.of_person(MOTHER))
    assert {MandateState.VALID} == {one.state_at(NOW) for one in given}
    assert ["mandate_given"] == [outcome for _, outcome, _, _ in office.records()]


async def test_a_mandate_ends_even_when_the_log_is_down(office: Office) -> None:
    """A log that can't be written must not keep anybody from ending it."""
    mandate = await give(office)
    office.log.refuse("the disk is gone")

    with pytest.raises(LogUnavailableError):
        await office.resolver.mandates.revoke(APP, mandate.id, MOTHER)

    found = await office.resolver.mandates.read(mandate.id)
    assert NOW == found.revoked_at


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"agent": MOTHER}, "/agent/id"),
        ({"requester": "nobody"}, "/requester"),
        ({"matters": frozenset({"wedding"})}, "/matters/0"),
        ({"role": "father"}, "/role"),
        ({"role": "nobody"}, "/role"),
        ({"valid_until": NOW}, "/valid_until"),
        ({"valid_from": NOW + 3 * DAY}, "/valid_until"),
        ({"valid_until": NOW + timedelta(days=367)}, "/valid_until"),
        ({"authenticated_at": NOW - 2 * DAY}, "/authentication/at"),
        ({"authenticated_at": NOW + timedelta(minutes=1)}, "/authentication/at"),
    ],
)
async def test_what_cannot_be_given_is_named(
    changes: dict[str, object], path: str
) -> None:
    """Each part that is wrong, by its path, and no value of it."""
    with pytest.raises(InvalidRequestError) as refused:
        check_giving(a_giving(**changes), the_pack(), NOW)

    assert [path] == [complaint.path for complaint in refused.value.complaints]
    assert MOTHER not in str(refused.value)
