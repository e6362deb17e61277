"""A log in PostgreSQL that gateways share: what one recorded, the next answers for."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.receipt import parse_proof, verify_proof
from audit.sql import Postgres
from audit.verify import verify_log
from tests.harness.application import AUDITOR, MOTHER, PORTAL, Site, a_site
from tests.harness.commands import errand
from tests.harness.postgres import Databases

ABOUT_HER = {"errand-subject": f"citizen_id:{MOTHER}"}


@dataclass(frozen=True, slots=True)
class Shared:
    """A gateway on a log that another one has written to."""

    site: Site
    log_url: str
    case: str
    """The case that the other one opened."""
    receipt: dict[str, Any]
    """The receipt that the other one gave for its first question about a person."""


def ask(site: Site, path: str, **more: Any) -> httpx.Response:  # noqa: ANN401 - of httpx
    """Ask as an auditor."""
    answer = site.client(AUDITOR).get(path, **more)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, databases: Databases
) -> Iterator[Shared]:
    """Run two gateways after each other, with the same keys and the same log.

    Each has tables of its own. (Two at once are processes: see the fleet's demo.)
    """
    url = databases.empty()
    settings = f"log_url: {url}\n"
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    with a_site(first, settings=settings) as site:
        case = site.open_case(site.client(PORTAL))["id"]
        ask(site, "/v1/audit/records", headers=ABOUT_HER)
        found = ask(site, "/v1/audit/records", headers=ABOUT_HER).json()["records"]
        [event] = [one["event"] for one in found if one["kind"] == "audit.query"][1:]
        receipt = ask(site, f"/v1/receipts/{event}").json()
    (second / "data").mkdir(mode=0o700)
    shutil.copytree(first / "data" / "keys", second / "data" / "keys")
    with a_site(second, settings=settings) as site:
        yield Shared(site, url, case, receipt)


def test_what_one_gateway_recorded_the_next_finds_and_proves(shared: Shared) -> None:
    """Also about a person whom it has never met itself."""
    site, event = shared.site, shared.receipt["event"]
    found = ask(site, "/v1/audit/records", headers=ABOUT_HER).json()["records"]
    receipt = ask(site, f"/v1/receipts/{event}").json()
    path = f"/v1/receipts/{event}.tlog-proof"
    proof = ask(site, path, headers={"prefer": "wait=10"}).text
    leaf = ask(site, f"/v1/audit/records/{event}").json()["leaf"]
    verifier = site.gateway.keys.log.log.verifier
    head = verify_proof(parse_proof(proof), leaf.encode(), verifier)
    [index] = [record["index"] for record in found if record["event"] == event]

    assert shared.receipt["receipt"] == receipt["receipt"]
    assert head.size > index


def test_cases_of_both_gateways_stand_in_the_one_log(shared: Shared) -> None:
    """Every record verifies with its sections; nothing of it is in the data folder."""
    site = shared.site
    cases = [shared.case, site.open_case(site.client(PORTAL))["id"]]
    pages = [
        ask(site, "/v1/audit/records", params={"case": case}).json() for case in cases
    ]
    keys = site.gateway.keys.log
    place = Postgres(shared.log_url, "errand_log")
    verified = verify_log(place, keys.log.verifier.vkey, keys=keys)

    assert all(page["records"] for page in pages)
    assert verified.sections_opened == verified.sections > 0
    for name in ("log.db", "log-index.db", "subjects.db"):
        assert not (site.gateway.settings.data_dir / name).exists()


def test_commands_read_a_log_in_its_database(shared: Shared, tmp_path: Path) -> None:
    """`verify` whole, and `export` as static files that `verify` takes again."""
    key = shared.site.gateway.keys.log.log.verifier.vkey
    keys = shared.site.gateway.settings.keys_dir / "log"
    log = ("audit", "verify", shared.log_url, "--key", key)
    verified = errand(*log, "--keys", keys, "--json")
    exported = errand("audit", "export", shared.log_url, tmp_path)
    again = errand("audit", "verify", tmp_path, "--key", key)
    strange = errand("audit", "verify", shared.log_url, "--key", "other" + key)

    assert 0 == verified.status, verified.stderr
    assert verified.json["verified"] is True
    assert verified.json["sections_opened"] > 0
    assert (0, 0, 2) == (exported.status, again.status, strange.status)
