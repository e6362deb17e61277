"""PostgreSQL killed under a gateway in mid-case: nothing is lost, and all goes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from exchange.demo.lines import NO_TLS
from exchange.demo.portal import Answer, PortalError
from exchange.demo.postgres import PostgresServer, a_server
from tests.end_to_end.test_kill import DEPARTMENTS, follow, open_case
from tests.harness.gateway import Installation, an_installation
from tests.harness.patience import until


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL that the test may kill."""
    with a_server() as server:
        server.create_database("errand")
        yield server


@pytest.fixture
def place(server: PostgresServer, tmp_path: Path) -> Iterator[Installation]:
    """Run a gateway on it, and three departments that take their time."""
    with an_installation(
        tmp_path,
        departments=DEPARTMENTS,
        delay_ms=300,
        settings={
            "retry_s": [0.25, 600],
            "database_url": server.url("errand"),
            "executor_id": "gateway-7",
        },
    ) as place:
        yield place


def test_a_case_survives_its_database(
    place: Installation, server: PostgresServer
) -> None:
    """While it is down every answer is a 503 that says so; then the case goes on."""
    birth = next(b for b in place.population.births if b.father is not None)
    portal = place.portal()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_case, portal, birth)
        until(lambda: sum(map(place.asked, DEPARTMENTS)) > 0, "it is asked")
        server.kill()
        cut_off = opening.exception()
    with pytest.raises(PortalError) as down:
        open_case(portal, birth)
    ready = httpx.get(f"{place.url}/health/ready", timeout=30, verify=NO_TLS)
    alive = httpx.get(f"{place.url}/health/live", timeout=30, verify=NO_TLS)
    server.start()
    case = follow(place, birth)
    records = place.auditor().get("/v1/audit/records?limit=200")

    assert cut_off is None or isinstance(cut_off, PortalError)
    assert "503" in str(down.value)
    assert 503 == ready.status_code
    assert 200 == alive.status_code
    assert set(case["evidence"]) == {r["evidence"] for r in case["receipts"]}
    assert Answer(case).id in str(records)
    # Nobody was told of an error of ours: the tables are down, and come back.
    assert '"status":500' not in place.written()["gateway"]
    # What was answered before and after is one case.
    assert Answer(open_case(portal, birth)).id == case["id"]
