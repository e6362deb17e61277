"""Two gateways on one PostgreSQL: what one erases, the other one forgets as well."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from audit.record import Subject
from audit.sql import Postgres
from audit.store import LOG_SCHEMA
from audit.verify import verify_log
from exchange.demo.building import free_ports
from exchange.demo.children import Child, CommandProcess, answers
from exchange.demo.lines import NO_TLS
from tests.harness.application import MOTHER, OPERATOR, PACK, PORTAL, Site, a_site
from tests.harness.commands import errand
from tests.harness.patience import until
from tests.harness.postgres import Databases

HER = Subject("", "citizen_id", MOTHER)
BODY = {"subject": {"namespace": "citizen_id", "id": MOTHER}, "reason": "file-2026-118"}
SERVE = (sys.executable, "-m", "exchange", "serve", "--config")
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """A gateway in this process, and one in a process of its own."""

    here: Site
    there: str
    """The other one's address."""
    child: Child
    database_url: str

    def other(self, client: str) -> httpx.Client:
        """Return a client of the other gateway; a token is good at both."""
        headers = self.here.client(client).headers
        authorization = {"authorization": headers["authorization"]}
        return httpx.Client(
            base_url=self.there, headers=authorization, timeout=30, verify=NO_TLS
        )

    def meet(self) -> str:
        """Have the mother in the memory of both; return her reference."""
        with self.other(PORTAL) as other:
            for client in (self.here.client(PORTAL), other):
                case = self.here.open_case(client)
                assert client.post(f"/v1/cases/{case['id']}/close").is_success
        return self.here.gateway.erasing.known(HER).ref

    @property
    def at_hand(self) -> set[str]:
        """The references of all whose keys are in the memory of the one here."""
        sealer = self.here.gateway.erasing._sealer
        recent = list(sealer.directory._recent._values.values())
        return {one.ref for one in recent}.union(*list(sealer._keys._values))


@contextmanager
def frozen(child: Child) -> Iterator[Callable[[], None]]:
    """Hold a process still until the block ends, or until what it yields is called."""
    assert child.pid is not None
    wake = partial(os.kill, child.pid, signal.SIGCONT)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        yield wake
    finally:
        wake()


def beside(folder: Path, site: Site, database_url: str, name: str) -> tuple[Path, str]:
    """Write the settings of a gateway with the same keys, pack and database.

    Returns:
        The file, and the gateway's address.
    """
    [port] = free_ports(1)
    settings = {
        "data_dir": f"data-beside-{name}",
        "keys_folder": "data/keys",
        "packs": [str(PACK), "deployment"],
        "listen_port": port,
        "public_url": site.url,
        "database_url": database_url,
        "executor_id": name,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file, f"http://127.0.0.1:{port}"


@contextmanager
def another(folder: Path, site: Site, database_url: str) -> Iterator[Fleet]:
    """Run a second gateway beside one; its folder was a copy of the first one's."""
    file, url = beside(folder, site, database_url, "gateway-2")
    copied = folder / "data-beside-gateway-2"
    copied.mkdir()
    shutil.copy(site.gateway.settings.data_dir / "place", copied)
    command = (*SERVE, str(file))
    child = Child(
        name="gateway-2",
        log=folder / "other.log",
        is_ready=partial(answers, f"{url}/health/ready"),
        launch=partial(CommandProcess, command),
    )
    child.start()
    try:
        child.wait()
        yield Fleet(site, url, child, database_url)
    finally:
        child.stop()


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, databases: Databases
) -> Iterator[Fleet]:
    """Run two gateways."""
    folder, url = tmp_path_factory.mktemp("fleet"), databases.empty()
    settings = f"database_url: {url}\nexecutor_id: gateway-1\n"
    with (
        a_site(folder, settings=settings) as site,
        another(folder, site, url) as fleet,
    ):
        yield fleet


def test_what_another_gateway_erased_is_forgotten_here(fleet: Fleet) -> None:
    """When it is told to hold everywhere, the key is in no memory, and in no record."""
    mother = fleet.meet()
    before = fleet.at_hand
    with fleet.other(OPERATOR) as operator:
        done = operator.post("/v1/audit/erasures", json=BODY).json()
        path = f"/v1/audit/erasures/{done['event']}"
        until(lambda: operator.get(path).json()["waits_for"] == [], "forgotten")
    again = fleet.meet()
    keys = fleet.here.gateway.keys.log
    log = Postgres(fleet.database_url, LOG_SCHEMA)
    verified = verify_log(log, keys.log.verifier.vkey, keys=keys)

    assert mother == done["name"]
    assert mother in before
    assert mother not in fleet.at_hand
    assert mother != again
    assert verified.sections_erased > 0


def test_an_erasure_says_which_gateway_it_waits_for(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The command ends when that one has forgotten too."""
    mother, site = fleet.meet(), fleet.here
    key = tmp_path / "operator.pem"
    key.write_bytes(site.keys[OPERATOR].to_pem())
    key.chmod(0o600)
    erase = (
        *("audit", "erase", "--ref", mother, "--reason", "file-2026-119"),
        *("--client", OPERATOR, "--key-file", key, "--url", site.url),
    )
    site.output.truncate(0)
    with ThreadPoolExecutor(1) as pool, frozen(fleet.child) as wake:
        erasing = pool.submit(errand, *erase)
        until(lambda: b"/v1/audit/erasures" in site.output.getvalue(), "asked")
        is_over = erasing.done()
        wake()
        done = erasing.result(PATIENCE_S)

    assert not is_over
    assert (0, "waiting for gateway-2 to forget\n") == (done.status, done.stderr)
    assert done.stdout.startswith(f"erased everywhere: subject {mother}")


def keys_in_memory(fleet: Fleet) -> set[str]:
    """Return the ids of the keys of cases that the gateway here has in memory."""
    vault = fleet.here.gateway.vault
    return {*vault._open, *vault._resting}


def test_a_case_that_another_gateway_closed_leaves_no_key_here(fleet: Fleet) -> None:
    """At once when the case is looked at, and soon when it is not."""
    portal, vault = fleet.here.client(PORTAL), fleet.here.gateway.vault
    before = keys_in_memory(fleet)
    read, unread = (fleet.here.open_case(portal)["id"] for _ in range(2))
    opened = keys_in_memory(fleet) - before
    with fleet.other(PORTAL) as other:
        for case in (read, unread):
            assert other.post(f"/v1/cases/{case}/close").is_success
    kept = keys_in_memory(fleet) & opened
    answer = portal.get(f"/v1/cases/{read}").json()
    left = keys_in_memory(fleet) & opened
    vault.rest()
    vault.rest()

    assert [2, 2, 1] == [len(opened), len(kept), len(left)]
    assert "closed" == answer["status"]
    assert not keys_in_memory(fleet) & opened


def readable(fleet: Fleet) -> bool:
    """Open a case here, and return whether it can be read without the memory."""
    portal, vault = fleet.here.client(PORTAL), fleet.here.gateway.vault
    case = fleet.here.open_case(portal)["id"]
    vault.rest()
    vault.rest()
    answer = portal.get(f"/v1/cases/{case}")
    closed = portal.post(f"/v1/cases/{case}/close")  # an open one forbids to erase
    return answer.is_success and closed.is_success


def test_a_gateway_in_a_copied_folder_takes_no_key_from_the_other(fleet: Fleet) -> None:
    """Cases that are opened after it can be read once their keys left the memory."""
    here = fleet.here.gateway.settings.data_dir
    there = here.parent / "data-beside-gateway-2"

    assert (here / "place").read_bytes() == (there / "place").read_bytes()
    assert readable(fleet)


def test_a_gateway_that_is_refused_takes_no_key_from_its_namesake(fleet: Fleet) -> None:
    """Cases that are opened after it can be read once their keys left the memory."""
    settings = fleet.here.gateway.settings
    folder = settings.data_dir.parent
    file, _ = beside(folder, fleet.here, fleet.database_url, settings.executor_id)
    command = [*SERVE, str(file)]
    refused = subprocess.run(
        command, check=False, capture_output=True, timeout=PATIENCE_S
    )

    assert refused.returncode != 0
    assert b"another gateway is named `gateway-1`" in refused.stderr
    assert readable(fleet)
