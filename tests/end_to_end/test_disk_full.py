"""Disk full on the log or the tables: nothing out, 503; it goes on with space again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.engine_sqlite import copy_log
from audit.keys import load_keys
from audit.verify import verify_log
from exchange.demo.lines import NO_TLS
from exchange.demo.portal import Answer, Client
from exchange.demo.stage import Stage
from exchange.demo.story import MARRIED, opening
from tests.harness.application import OPENING, PORTAL, Site, a_site
from tests.harness.gateway import Installation, an_installation
from tests.harness.patience import until

Json = dict[str, Any]
_DISK = "48m"
"""Three times what the writer wants to be free when it starts."""
_MOST_CASES = 50
"""Cases after which a disk without a free byte must have refused one."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk of its own for the log."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def place(disk: Path, tmp_path: Path) -> Iterator[Installation]:
    """Run an installation whose log, and nothing else, lies on the small disk."""

    def move_log(stage: Stage) -> None:
        (stage.data_dir / "log.db").symlink_to(disk / "log.db")

    with an_installation(tmp_path, departments=("ga", "wj"), prepare=move_log) as place:
        yield place


def test_full_disk_of_the_log_stops_every_release_until_there_is_space(
    place: Installation, disk: Path, tmp_path: Path
) -> None:
    """A full disk: 503, nobody asked, nothing out; with space again, all goes on."""
    portal = place.portal()
    before = Answer(open_case(place, portal, "before").json())
    refused, answered = fill(place, portal, disk / "ballast")
    asked = place.asked("ga") + place.asked("wj")
    again = open_case(place, portal, "at once")
    read = send(place, portal, "GET", f"/v1/cases/{before.id}")
    still = place.asked("ga") + place.asked("wj")
    (disk / "ballast").unlink()
    # Both a case of its own, and the one that was refused: its portal asks again.
    after, same = (settled(place, portal, key) for key in ("after", "at once"))
    receipts = [
        one["note"].encode()
        for document in (before.document, *answered, after, same)
        for one in document["receipts"]
    ]
    verified = verified_log(place, tmp_path, receipts)

    problem = "https://errand.example/problems/log-unavailable"
    for one in (refused, again, read):
        assert (503, problem) == (one.status_code, one.json()["type"])
        assert "sd_jwt" not in one.text
        assert int(one.headers["retry-after"]) > 0
    # INVARIANT (rule 1): who can't be recorded is not asked either.
    assert asked == still
    assert len(receipts) == verified > 0


@pytest.fixture
def site(disk: Path, tmp_path: Path) -> Iterator[Site]:
    """Run a gateway whose tables, and nothing else, lie on the small disk."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "errand.db").symlink_to(disk / "errand.db")
    with a_site(tmp_path) as site:
        yield site


def test_full_disk_of_the_tables_is_told_by_health_until_there_is_space(
    site: Site, disk: Path
) -> None:
    """Not ready while requests are 503; ready again without anybody's request."""
    portal, anyone = site.client(PORTAL), site.client(None)
    before = anyone.get("/health/ready")
    fill_up(disk / "ballast")
    answers = (portal.post("/v1/cases", json=OPENING) for _ in range(_MOST_CASES))
    refused = next(answer for answer in answers if answer.status_code != 201)
    full, alive = anyone.get("/health/ready"), anyone.get("/health/live")
    (disk / "ballast").unlink()
    until(lambda: anyone.get("/health/ready").status_code == 200, "it is ready")

    assert [200, 503, 503, 200] == [
        answer.status_code for answer in (before, refused, full, alive)
    ]
    assert refused.json()["type"].endswith("/store-unavailable")
    assert ["database"] == full.json()["failing"]
    assert full.json()["reasons"]["database"].endswith(" now: SQLITE_FULL")
    assert 201 == portal.post("/v1/cases", json=OPENING).status_code
    assert b'"error":"SQLITE_FULL","event":"writes_failing"' in site.output.getvalue()


def test_keys_that_cannot_be_written_are_told_by_health(tmp_path: Path) -> None:
    """The keys of cases are a database of their own: without it no case is opened."""
    with a_site(tmp_path) as site:
        site.gateway.vault._database.close()
        ready = site.client(None).get("/health/ready")

    assert (503, ["database"]) == (ready.status_code, ready.json()["failing"])


def fill_up(ballast: Path) -> None:
    """Take every byte of a disk."""
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
        os.fsync(file.fileno())


def fill(
    place: Installation, portal: Client, ballast: Path
) -> tuple[httpx.Response, list[Json]]:
    """Fill the disk, then open cases until one is refused; return it, and the others.

    What the log's file has taken already may still hold a few records.
    """
    fill_up(ballast)
    answered: list[Json] = []
    for number in range(_MOST_CASES):
        answer = open_case(place, portal, f"filling {number}")
        if answer.status_code != 201:
            return answer, answered
        answered.append(answer.json())
    raise AssertionError("a full disk refused nothing")


def settled(place: Installation, portal: Client, key: str) -> Json:
    """Open a case, again and again, until its evidence is there; return it."""
    seen: list[Json] = []

    def has_evidence() -> bool:
        answer = open_case(place, portal, key)
        if answer.status_code == 201:
            seen.append(answer.json())
        return bool(seen) and "mother_identity" in Answer(seen[-1]).evidence_fields()

    until(has_evidence, "the gateway goes on")
    return seen[-1]


def open_case(place: Installation, portal: Client, key: str) -> httpx.Response:
    """Open the case of a family under an idempotency key."""
    body = opening(place.family("married"), MARRIED)
    headers = {"prefer": "wait=10", "idempotency-key": key}
    return send(place, portal, "POST", "/v1/cases", json=body, headers=headers)


def send(
    place: Installation,
    portal: Client,
    method: str,
    path: str,
    *,
    json: Json | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Send a request as the portal; return whatever comes."""
    sent = {"authorization": f"Bearer {portal.token()}", **(headers or {})}
    return httpx.request(
        method, place.url + path, json=json, headers=sent, timeout=30, verify=NO_TLS
    )


def verified_log(place: Installation, folder: Path, receipts: list[bytes]) -> int:
    """Verify the whole log and these receipts; return how many of them held."""
    place.stop_gateway()
    copy_log(place.stage.data_dir / "log.db", folder / "log.db")
    keys = load_keys(place.stage.data_dir / "keys" / "log")
    verified = verify_log(
        folder / "log.db",
        keys.log.verifier.vkey,
        receipts=receipts,
        receipt_vkey=keys.receipt.verifier.vkey,
    )
    return verified.receipts
