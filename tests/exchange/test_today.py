"""Which day it is to those who plan a case: that of people and offices, in Beijing."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from exchange.office import make_planner
from exchange.rehearsal import explain_offline
from schemas.validation import Pack
from tests.exchange.newborn import an_office, outcomes, settle_in, the_pack
from tests.fakes.clock import FakeClock
from tests.fakes.connectors import InMemoryConnector
from tests.harness.application import OPENING, PORTAL, Site

FIRST = date(2026, 1, 10)
"""The first day whose records the registers hold."""
EVE = datetime(2026, 1, 9, 15, 59, 59, tzinfo=UTC)
"""The last second before that day in Beijing, when it is a day off in UTC."""
INSTANTS = [(EVE, False), (EVE + timedelta(seconds=1), True)]


def _beginning() -> Pack:
    """Return the region's pack, of registers that hold nothing older than a day."""
    pack = the_pack()
    services = {
        name: one.model_copy(
            update={"coverage": one.coverage.model_copy(update={"from_date": FIRST})}
        )
        for name, one in pack.services.items()
    }
    return replace(pack, services=services)


@pytest.mark.anyio
@pytest.mark.parametrize(("now", "has_begun"), INSTANTS)
async def test_a_case_asks_who_holds_records_from_today_on(
    tmp_path: Path, tables_url: str, vault_url: str, now: datetime, *, has_begun: bool
) -> None:
    """By region as well, which a look-up tells before the competent one is chosen."""
    async with an_office(tmp_path, tables_url, vault_url, pack=_beginning()) as office:
        settle_in(office.departments)
        office.clock.instant = now
        found = outcomes(await office.open())

    assert has_begun == ("verified" == found["mother_identity"])
    assert has_begun == ("pending" == found["child_registration"])


@pytest.mark.parametrize(("now", "has_begun"), INSTANTS)
def test_a_rehearsal_asks_who_holds_records_from_today_on(
    now: datetime, *, has_begun: bool
) -> None:
    """As a case would."""
    explained = explain_offline(_beginning(), "newborn@1", clock=FakeClock(now))

    assert has_begun == bool(explained.waves)


@pytest.mark.parametrize(("now", "has_begun"), INSTANTS)
def test_an_explanation_asks_who_holds_records_from_today_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, now: datetime, *, has_begun: bool
) -> None:
    """As a case would."""
    pack, gateway = _beginning(), site.gateway
    departments = InMemoryConnector(FakeClock(now))
    planner = make_planner(pack, dict.fromkeys(pack.services, departments))
    then = replace(gateway, clock=FakeClock(now), pack=pack, planner=planner)
    monkeypatch.setitem(site.app.state._state, "gateway", then)
    stated = {name: one for name, one in OPENING.items() if name != "actor"}
    told = site.client(PORTAL).post("/v1/explanations", json=stated).json()

    assert has_begun == bool(told["waves"])
