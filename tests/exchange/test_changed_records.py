"""A register may change what it says: the case goes by what it says now."""

from datetime import timedelta

import pytest
from pydantic import JsonValue

from consent.rules import Suspendable, target
from schemas.errors import ConnectorUnavailableError, Layer
from tests.exchange.card_office import CARD_OFFICE, apply, hold
from tests.exchange.newborn import (
    FATHER,
    MOTHER,
    Office,
    certify,
    leave_the_father_blank,
    outcomes,
)

pytestmark = [
    pytest.mark.anyio,
    # What is learned and judged is the same on each engine.
    pytest.mark.parametrize("lend", ["sqlite"], indirect=True),
]

STALE = timedelta(hours=25)
"""After which all evidence of the cards is looked up again."""


@pytest.fixture
def cards(cards: Office) -> Office:
    """Fill the registers of an office of cards."""
    hold(cards)
    for card in ("urban_card@1", "rural_card@1"):
        cards.departments.hold(card, {"id": MOTHER}, {"card_no": card})
    for head in (MOTHER, FATHER):
        cards.departments.hold("head@1", {"id": head}, {"street": head[:6]})
    return cards


@pytest.mark.parametrize(
    "changed",
    [
        {"head": FATHER},
        {"head": None},
        {"hukou": "RURAL"},
        {"hukou": None},
        {"birth_year": 1970},
        {"region": "110101", "hukou": "RURAL", "head": FATHER},
        None,
    ],
    ids=["head", "no head", "kind", "no kind", "year", "several", "gone"],
)
async def test_what_a_register_says_now_leads_where_a_fresh_case_leads(
    cards: Office, changed: dict[str, JsonValue] | None
) -> None:
    """It is no conflict with what the same register said before."""
    case = await apply(cards)
    cards.clock.advance(STALE)
    if changed is None:
        cards.departments.drop("household@1")
    else:
        hold(cards, **changed)
    case = await cards.resolve(case, CARD_OFFICE)
    fresh = await apply(cards)

    assert outcomes(fresh) == outcomes(case)
    assert "conflict" not in outcomes(case).values()


async def test_who_is_somebody_else_now_is_looked_up_and_the_other_no_more(
    cards: Office,
) -> None:
    """The look-up that rests on a fact waits for the one that tells it anew."""
    case = await apply(cards)
    cards.clock.advance(STALE)
    hold(cards, head=FATHER)
    case = await cards.resolve(case, CARD_OFFICE)

    asked = [request.keys["id"] for request in cards.departments.asked_about("head@1")]
    assert [MOTHER, FATHER] == asked
    assert "retrieved" == outcomes(case)["head"]


async def test_what_is_fresh_is_looked_up_anew_where_it_rests_on_what_changed(
    cards: Office,
) -> None:
    """It is about somebody who is not the one any more."""
    cards.departments.drop("head@1")
    case = await apply(cards)
    cards.clock.advance(STALE / 2)
    for head in (MOTHER, FATHER):
        cards.departments.hold("head@1", {"id": head}, {"street": "Y"})
    await cards.resolve(case, CARD_OFFICE)
    cards.clock.advance(STALE / 2)
    hold(cards, head=FATHER)
    case = await cards.resolve(case, CARD_OFFICE)

    asked = [request.keys["id"] for request in cards.departments.asked_about("head@1")]
    assert [MOTHER, MOTHER, FATHER] == asked
    assert "retrieved" == outcomes(case)["head"]


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_blank_that_was_filled_in_is_found_also_in_what_never_ages(
    office: Office, *, by_itself: bool
) -> None:
    """A certificate holds for ever; that it names no father is no settled answer."""
    leave_the_father_blank(office.departments)
    await office.consent_beforehand()
    case = await office.open()
    certify(office.departments)
    await office.attempt(case)  # some step is waited for
    early = len(office.departments.asked_about("birth_certificate@1"))
    if by_itself:
        office.clock.advance(timedelta(days=1))
        await office.attempt(case)
        found = await office.read(case)
    else:
        found = await office.resolve(case)

    assert 1 == early
    assert ("answer_needed", "verified") == tuple(
        outcomes(one)["father_identity"] for one in (case, found)
    )
    await office.resolve(case)
    assert 2 == len(office.departments.asked_about("birth_certificate@1"))


@pytest.mark.parametrize(
    ("blank", "asked"), [("nation", 1), ("birth_year", 2), ("head", 2)]
)
async def test_a_blank_that_nothing_waits_for_is_an_answer(
    cards: Office, blank: str, asked: int
) -> None:
    """What is fresh is reused, unless a criterion or a look-up waits for the blank."""
    hold(cards, **{blank: None})
    case = await cards.resolve(await apply(cards), CARD_OFFICE)

    assert asked == len(cards.departments.asked_about("household@1"))
    assert (asked == 1) == ("reused" == outcomes(case)["household"])


async def test_what_is_held_stands_where_a_blank_can_not_be_asked_for(
    office: Office,
) -> None:
    """Its register is down, or suspended: the certificate is there all the same."""
    leave_the_father_blank(office.departments)
    case = await office.open()
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    office.departments.reply("birth_certificate@1", down)
    while_down = await office.resolve(case)
    office.in_flight.suspend(target(Suspendable.PROVIDER, "wj"))
    suspended = await office.resolve(case)

    assert ["retrieved", "reused", "reused"] == [
        outcomes(one)["birth_certificate"] for one in (case, while_down, suspended)
    ]
    asked = office.departments.asked_about("birth_certificate@1")
    assert 2 == len(asked)
