"""A shard is sealed under a gateway and a publisher that run, in mid-case."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml
from pydantic import JsonValue

from audit.keys import load_keys
from audit.note import open_checkpoint
from audit.store import LogReader
from audit.verify import verify_log
from exchange.demo.children import Child, CommandProcess
from exchange.demo.lines import NO_TLS
from exchange.demo.portal import Answer, Json, PortalError
from exchange.keys import shard_keys
from exchange.rollover import seal_shard
from exchange.settings import Settings, read_settings
from schemas.clock import SystemClock
from schemas.ids import new_ids
from tests.end_to_end.test_kill import SETTLED, open_case
from tests.harness.gateway import Installation, an_installation
from tests.harness.patience import until
from tests.harness.postgres import Databases

NEXT = "2026h2"
POLICE = "ga"


@pytest.fixture
def place(tmp_path: Path, databases: Databases) -> Iterator[Installation]:
    """Run a gateway on PostgreSQL, and one department."""
    settings: dict[str, JsonValue] = {
        "retry_s": [0.25, 600],
        "database_url": databases.empty(),
        "executor_id": "gateway-7",
    }
    with an_installation(
        tmp_path, departments=(POLICE,), people=50, settings=settings
    ) as place:
        yield place


@pytest.fixture
def publisher(place: Installation) -> Iterator[Child]:
    """Run a publisher of the same log."""
    file, log = place.stage.folder / "publisher.yaml", place.stage.folder / "pub.log"
    settings = yaml.safe_load(place.stage.settings_file.read_text(encoding="utf-8"))
    own = {"data_dir": "publisher-data", "keys_folder": "data/keys"}
    file.write_text(yaml.safe_dump({**settings, **own}), encoding="utf-8")
    command = (sys.executable, "-m", "exchange", "publish", "--config", str(file))
    child = Child(
        name="publisher",
        log=log,
        is_ready=lambda: log.exists() and b'"publishing"' in log.read_bytes(),
        launch=partial(CommandProcess, command),
    )
    child.start()
    try:
        child.wait()
        yield child
    finally:
        child.stop()


def current_origin(place: Installation) -> str:
    """Return which log the gateway publishes; "" while it does not answer."""
    try:
        answer = httpx.get(f"{place.url}/log/checkpoint", verify=NO_TLS)
        return answer.text.partition("\n")[0]
    except httpx.TransportError:
        return ""


def sealed_in_mid_case(place: Installation) -> Settings:
    """Seal the log while police are being asked, and answer only when that is done."""
    birth = next(b for b in place.population.births if b.father is not None)
    police = place.department(POLICE).pid
    assert police is not None
    settings = read_settings(place.stage.settings_file, {})
    clock = SystemClock()
    os.kill(police, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_case, place.portal(), birth)
            reader = LogReader.open(settings.log_place())
            until(lambda: bool(reader.attempts()), "it is asked")
            reader.close()
            asyncio.run(seal_shard(settings, clock, new_ids(clock), NEXT))
            os.kill(police, signal.SIGCONT)
            assert isinstance(opening.exception(), PortalError | None)
    finally:
        os.kill(police, signal.SIGCONT)
    return settings


def fetched(place: Installation) -> Json:
    """Wait until what police hold is there for the case, and return the case."""
    portal = place.portal()
    birth = next(b for b in place.population.births if b.father is not None)
    case = Answer(open_case(portal, birth)).id
    seen: list[Json] = []

    def is_there() -> bool:
        seen.append(portal.get(f"/v1/cases/{case}"))
        return Answer(seen[-1]).outcome("mother_identity") in SETTLED

    until(is_there, "the case goes on")
    return seen[-1]


def test_gateway_and_publisher_go_on_with_the_next_shard_by_themselves(
    place: Installation, publisher: Child
) -> None:
    """The same processes; the case that was under way goes on, and both logs verify."""
    before = (place.stage.gateway.pid, publisher.pid)
    origin = current_origin(place)
    settings = sealed_in_mid_case(place)
    until(lambda: current_origin(place) == f"{origin}/{NEXT}", "the gateway goes on")
    case = fetched(place)
    until(
        lambda: publisher.log.read_bytes().count(b'"publishing"') == 2, "it publishes"
    )
    rows = place.auditor().get("/v1/audit/records?limit=500")["records"]
    last = httpx.get(f"{place.url}/log/shards/first/checkpoint", verify=NO_TLS).content
    after = (place.stage.gateway.pid, publisher.pid)
    place.stop_gateway()  # so that nothing is under way
    keys = [load_keys(shard_keys(settings.keys_dir, name)) for name in ("", NEXT)]
    found = [
        verify_log(settings.log_place(name), one.log.verifier.vkey, keys=one)
        for name, one in zip(("", NEXT), keys, strict=True)
    ]

    assert before == after
    assert set(case["evidence"]) == {r["evidence"] for r in case["receipts"]}
    assert "interrupted" in {row["outcome"] for row in rows if row["log"] == origin}
    assert Answer(case).id in {row["case"] for row in rows if row["log"] == origin}
    assert Answer(case).id in {row["case"] for row in rows if row["log"] != origin}
    assert found[0].records == open_checkpoint(last, keys[0].log.verifier).size
    assert [0, 0] == [one.open_attempts for one in found]
    assert '"status":500' not in place.written()["gateway"]
