"""Answers may be changed: what comes of a case turns on the present ones alone."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.migrations.schema import Part
from schemas.errors import ConnectorUnavailableError, Layer
from schemas.matter import SupplyReason
from tests.exchange.newborn import (
    ANSWERS,
    FATHER,
    HOUSEHOLD_FIELDS,
    MOTHER,
    Office,
    an_office,
    outcomes,
    perform_steps,
    settle_in,
)
from tests.harness.postgres import Files, migrated

ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
"""What is planned and judged is the same on each engine."""
JOINS = st.sampled_from(["mother", "father"])
"""Whose household: each leads to a look-up of its own, which tells the same facts."""


def _register_them(office: Office) -> None:
    """Let both parents have households, which say everything otherwise."""
    perform_steps(office.departments)
    his = {"household_no": "H0002", "relation_to_head": "42", "region": "990102"}
    held = office.departments._records["household@1"]
    office.departments.drop("household@1")
    for record in held:
        is_his = record.keys["id"] == FATHER
        values = {**HOUSEHOLD_FIELDS, **(his if is_his else {})}
        office.departments.hold("household@1", record.keys, values)


def _told(case: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return what an answer says that does not turn on when it was asked."""
    return {
        name: (
            one["outcome"],
            one["provider"],
            one["service"],
            one.get("reason"),
            (one["next_step"] or {}).get("action"),
            len(one["evidence"]),
        )
        for name, one in case["by_id"].items()
    }


async def _go_through(changes: Sequence[str], files: Files, *, consented: bool) -> None:
    """Change an answer of one case, and hold it against a fresh case each time."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        tables = files.copy_of("tables", partial(migrated, Part.TABLES), folder)
        vault = files.copy_of("vault", partial(migrated, Part.VAULT), folder)
        async with an_office(folder, tables, vault) as office:
            settle_in(office.departments)
            _register_them(office)
            if consented:
                await office.consent_beforehand()
            case = await office.open()
            for joins in changes:
                case = await office.add(case, answers={"joins": joins})
                fresh = await office.open(answers={**ANSWERS, "joins": joins})

                assert _told(fresh) == _told(case)


@settings(max_examples=4)
@given(changes=st.lists(JOINS, min_size=1, max_size=3), consented=st.booleans())
def test_a_changed_answer_leads_where_a_fresh_case_with_it_leads(
    files: Files, changes: list[str], *, consented: bool
) -> None:
    """Both households are right: neither is held against the other."""
    anyio.run(partial(_go_through, changes, files, consented=consented))


@ON_SQLITE
@pytest.mark.anyio
async def test_what_is_held_for_an_answer_is_not_asked_for_again(
    office: Office,
) -> None:
    """Forth and back: each household is asked for once, and what it leads to."""
    _register_them(office)
    await office.consent_beforehand()
    case = await office.open()
    for joins in ("father", "mother", "father", "mother"):
        case = await office.add(case, answers={"joins": joins})

    asked = [r.keys["id"] for r in office.departments.asked_about("household@1")]
    assert [MOTHER, FATHER] == asked
    chained = office.departments.asked_about("child_registration@1")
    assert ["ga_child_registration"] * 2 == [r.service.id for r in chained]
    assert "retrieved" == outcomes(case)["household"]
    assert "not_applicable" == outcomes(case)["head_agreement"]


@ON_SQLITE
@pytest.mark.anyio
async def test_what_was_learned_for_another_answer_decides_nothing(
    office: Office,
) -> None:
    """While the father has not consented, nothing is known of his household."""
    _register_them(office)
    case = await office.open()
    assert "not_applicable" == outcomes(case)["head_agreement"]

    case = await office.add(case, answers={"joins": "father"})

    waiting = ("consent_needed", "consent_needed")
    assert waiting == tuple(outcomes(case)[n] for n in ("household", "head_agreement"))


@ON_SQLITE
@pytest.mark.anyio
async def test_what_was_handed_in_counts_for_the_answers_it_was_handed_in_for(
    office: Office,
) -> None:
    """The mother's household is on paper, and says nothing of the father's."""
    await office.consent_beforehand()
    down = ConnectorUnavailableError("down", layer=Layer.SOURCE)
    office.departments.reply("household@1", down)
    case = await office.open()
    paper = {"household": SupplyReason.SOURCE_DOWN}
    came_of = [outcomes(await office.add(case, supplied=paper))["household"]]
    for answers in ({"joins": "father"}, {"phone": "13000000001"}, {"joins": "mother"}):
        case = await office.add(case, answers=answers)
        came_of.append(outcomes(case)["household"])

    assert ["supplied", "pending", "pending", "supplied"] == came_of
