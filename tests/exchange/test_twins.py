"""Twins: two certificates of one mother and one day, at a department's own service."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from connectors.client import ClientPolicy, ServiceClient
from connectors.department.app import build_app
from connectors.department.log import verify_log
from connectors.kinds.http import HttpConnector
from tests.connectors.examples import GATEWAY, GATEWAY_KEY, a_config, pinned
from tests.connectors.servers import serving
from tests.exchange.newborn import (
    CERTIFICATE,
    CERTIFICATE_FIELDS,
    Office,
    outcomes,
)

TWIN = "A000000002"
SOURCE = {
    "table": "certificate",
    "keys": [
        {"CSYXZMBH": "CSYXZMBH"},
        {"mother_id": "MQ_SFZJHM", "birth_date": "born_on"},
    ],
    "fields": {name: name for name in CERTIFICATE_FIELDS},
    "as_of": "now",
}


def a_register(folder: Path, *numbers: str) -> str:
    """Return the URL of a register that holds certificates of one mother and day."""
    path = folder / "births.db"
    fields = {**CERTIFICATE_FIELDS, "born_on": "2026-01-08"}
    marks = ", ".join(f":{name}" for name in fields)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE certificate ({', '.join(fields)})")
        database.executemany(
            f"INSERT INTO certificate VALUES ({marks})",  # noqa: S608 - our own names
            [{**fields, "CSYXZMBH": number} for number in numbers],
        )
    return f"sqlite:///{path}"


@asynccontextmanager
async def births(office: Office, folder: Path, *numbers: str) -> AsyncIterator[Path]:
    """Let a real service answer for the register of births; yield its log."""
    config = a_config(
        folder,
        provider="wj",
        database=a_register(folder, *numbers),
        evidence_types={"birth_certificate@1": SOURCE},
    )
    clock, policy = office.clock, ClientPolicy.of("127.0.0.0/8")
    with serving(build_app(config, clock=clock)) as url:
        client = ServiceClient(f"{url}/lookups", policy, clock)
        service = HttpConnector(GATEWAY, GATEWAY_KEY, client, lambda _: pinned(), clock)
        connectors = office.resolver.flow.asker.connectors
        assert isinstance(connectors, dict)
        connectors["wj_birth_certificate"] = service
        yield folder / "log.db"
        await service.aclose()


@pytest.mark.anyio
async def test_a_department_picks_none_of_two_twins_and_the_number_tells(
    office: Office, tmp_path: Path
) -> None:
    """Rule 6: it declines, the case asks which, and the number finds that one alone."""
    folder = tmp_path / "wj"
    folder.mkdir()
    async with births(office, folder, CERTIFICATE, TWIN) as log:
        case = await office.open()
        told = await office.add(case, subjects={"newborn": {"certificate_no": TWIN}})

    asked = case["by_id"]["birth_certificate"]
    assert "answer_needed" == asked["outcome"]
    assert ["newborn.certificate_no"] == [fact["id"] for fact in asked["facts"]]
    assert "retrieved" == outcomes(told)["birth_certificate"]
    assert TWIN not in str(case)
    ends = [r[1] for r in office.records() if r[0] == "request.ended" and r[2] == "wj"]
    assert ["declined", "retrieved"] == [e for e in ends if e != "not_held"][:2]
    assert 2 == verify_log(log).count
