"""What is not known settles nothing, and says nothing of a register not asked."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from connectors.lookup import NothingHeld
from schemas.errors import ConnectorUnavailableError, Layer
from schemas.matter import SupplyReason
from tests.exchange.card_office import CARD_OFFICE, OpenCards, apply, hold
from tests.exchange.newborn import MOTHER, Office, outcomes

pytestmark = [
    pytest.mark.anyio,
    # What is judged is the same on each engine.
    pytest.mark.parametrize("lend", ["sqlite"], indirect=True),
]

CONDITIONAL = ("rural", "urban", "card")
DOWN = ConnectorUnavailableError("down", layer=Layer.SOURCE)


def _waits(requirement: Mapping[str, Any]) -> tuple[str | None, ...]:
    step = requirement["next_step"]
    return (
        requirement["outcome"],
        requirement.get("reason"),
        step["owner"],
        step["owner_id"],
        step["action"],
    )


def _asked(office: Office) -> set[str]:
    return {request.evidence_type.ref for request in office.departments.asked}


async def test_an_unknown_condition_settles_nothing_and_names_whose_record_it_is(
    cards: Office,
) -> None:
    """Rule 10: the household came, its kind is blank: its register has to move."""
    hold(cards, hukou=None)
    case = await apply(cards)

    waits = ("pending", "chained", "provider", "ga", "contest")
    assert {waits} == {_waits(case["by_id"][name]) for name in CONDITIONAL}
    assert [()] * 3 == [tuple(case["by_id"][n]["evidence"]) for n in CONDITIONAL]
    assert "retrieved" == outcomes(case)["household"]
    assert {"urban_card@1", "rural_card@1"}.isdisjoint(_asked(cards))
    assert "open" == case["status"]


async def test_a_register_that_was_not_asked_is_said_nothing_of(cards: Office) -> None:
    """Nobody holds the household: that is no outcome of the cards' register."""
    case = await apply(cards)

    waits = ("pending", "chained", "provider", "ga", "contest")
    assert {waits} == {_waits(case["by_id"][name]) for name in CONDITIONAL}
    assert None not in {case["by_id"][n]["next_step"]["due_at"] for n in CONDITIONAL}
    assert "not_held" == outcomes(case)["household"]


async def test_a_condition_waits_as_long_as_its_source_is_down(cards: Office) -> None:
    """It goes on by itself, as soon as the source that tells it is back."""
    cards.departments.reply("household@1", DOWN)
    case = await apply(cards)

    waits = ("pending", "source_down", "exchange", None, "wait")
    assert {waits} == {_waits(case["by_id"][name]) for name in CONDITIONAL}


@pytest.mark.parametrize(
    ("requirement", "blank"),
    [("age", "birth_year"), ("local", "region"), ("card", "hukou"), ("head", "head")],
)
@pytest.mark.parametrize("may_supply", [False, True])
async def test_a_field_left_blank_is_its_registers_to_mend_or_handed_in(
    open_cards: OpenCards,
    requirement: str,
    blank: str,
    *,
    may_supply: bool,
) -> None:
    """Rule 10: a criterion, a derivation, a list, a key: none waits for nobody."""
    supply = [(requirement, "not_held")] if may_supply else []
    async with open_cards(*supply) as office:
        hold(office, **{blank: None})
        case = await apply(office)

    waits = _waits(case["by_id"][requirement])
    contest = ("pending", "chained", "provider", "ga", "contest")
    hand_in = ("supply_needed", "not_held", "applicant", None, "supply")
    assert (hand_in if may_supply else contest) == waits
    assert case["by_id"][requirement]["next_step"]["due_at"] is not None


async def test_a_condition_that_is_known_is_followed(cards: Office) -> None:
    """The control: with the field filled, exactly what it leads to is asked for."""
    hold(cards)
    cards.departments.hold("urban_card@1", {"id": MOTHER}, {"card_no": "U1"})
    case = await apply(cards)

    assert ("not_applicable", "retrieved", "retrieved") == tuple(
        outcomes(case)[name] for name in CONDITIONAL
    )


@pytest.mark.parametrize("reason", ["not_held", "disputed"])
async def test_what_was_handed_in_settles_nothing_that_a_register_speaks_against(
    open_cards: OpenCards, reason: str
) -> None:
    """A person decides on a mismatch, whatever reason or promise the portal sends."""
    supply = ("age", reason)
    async with open_cards(supply) as office:
        hold(office, birth_year=1970)
        case = await apply(office)
        handed_in = await office.add(
            case, CARD_OFFICE, supplied={"age": SupplyReason(reason)}
        )
        promised = await office.add(case, CARD_OFFICE, commitments=("age",))

    assert ["mismatch"] * 3 == [outcomes(c)["age"] for c in (case, handed_in, promised)]


async def test_what_was_handed_in_counts_for_the_reason_that_was_found(
    open_cards: OpenCards,
) -> None:
    """The source is down, so nobody has said that it holds nothing."""
    supply = [("age", "not_held"), ("age", "source_down")]
    async with open_cards(*supply) as office:
        office.departments.reply("household@1", DOWN)
        case = await apply(office)
        untrue, true, untrue_again = [
            await office.add(case, CARD_OFFICE, supplied={"age": reason})
            for reason in (
                SupplyReason.NOT_HELD,
                SupplyReason.SOURCE_DOWN,
                SupplyReason.NOT_HELD,
            )
        ]

    assert ("pending", "supplied") == (outcomes(untrue)["age"], outcomes(true)["age"])
    still = untrue_again["by_id"]["age"]
    assert ("supplied", "source_down") == (still["outcome"], still["reason"])


@pytest.mark.parametrize("answers", [{}, {"village": "云溪村"}])
async def test_what_was_handed_in_and_accepted_stays(
    open_cards: OpenCards, answers: dict[str, str]
) -> None:
    """Whatever the source says when it is back, and what else is said meanwhile."""
    supply = [("age", "not_held"), ("age", "source_down")]
    async with open_cards(*supply) as office:
        office.departments.reply("household@1", DOWN)
        case = await apply(office)
        handed_in = {"age": SupplyReason.SOURCE_DOWN}
        await office.add(case, CARD_OFFICE, supplied=handed_in)
        office.departments.reply("household@1", NothingHeld())
        office.clock.advance(timedelta(hours=2))
        await office.attempt(case)
        holder = {"holder": {"id": MOTHER}}
        case = await office.add(case, CARD_OFFICE, subjects=holder, answers=answers)

    assert ("not_held", "supplied") == tuple(
        outcomes(case)[name] for name in ("household", "age")
    )


async def test_what_is_said_again_changes_nothing(cards: Office) -> None:
    """What was learned stays learned, also when its register can't be asked again."""
    hold(cards)
    cards.departments.reply("head@1", DOWN)
    case = await apply(cards)
    cards.departments.reply("head@1", None)
    cards.departments.hold("head@1", {"id": MOTHER}, {"street": "Y"})
    cards.clock.advance(timedelta(hours=20))
    await cards.attempt(case)
    cards.departments.reply("household@1", DOWN)
    cards.clock.advance(timedelta(hours=5))
    case = await cards.add(case, CARD_OFFICE, subjects={"holder": {"id": MOTHER}})

    assert ("pending", "retrieved") == tuple(
        outcomes(case)[name] for name in ("household", "head")
    )


async def test_a_promise_stands_in_place_of_evidence_that_is_not_there(
    cards: Office,
) -> None:
    """Nobody holds the household: where the matter allows it, a promise settles."""
    applied = await apply(cards)
    case = await cards.add(applied, CARD_OFFICE, commitments=("age",))

    assert "committed" == outcomes(case)["age"]
