"""A data folder is put back from a backup, behind a witness that saw it further on."""

import shutil
from pathlib import Path

import httpx
import pytest

from audit.keys import make_keys, save_keys
from audit.store import LogReader, SignedHead
from audit.verify import verify_log
from tests.harness.application import AUDITOR, Site, a_site
from tests.harness.witnesses import a_witness_process

ORIGIN = "errand.example/990100/log"
ATTEMPTS = 3_000
"""How often something is looked at that another thread is about to do."""


def size_seen(site: Site) -> int:
    """Return how many records outsiders see."""
    answer = site.client(None).get("/log/checkpoint")
    return int(answer.text.split("\n")[1]) if answer.status_code == 200 else 0


def ask(site: Site, times: int) -> None:
    """Have some records made, and wait until they are published."""
    before = size_seen(site)
    for _ in range(times):
        assert site.client(AUDITOR).get("/v1/audit/records").status_code == 200
    assert any(size_seen(site) >= before + times for _ in range(ATTEMPTS))


def signed(folder: Path) -> SignedHead | None:
    """Return the head that the log in a data folder has signed last."""
    reader = LogReader.open(folder / "data" / "log.db")
    head = reader.head()
    reader.close()
    return head


def moved_on(old: Path, new: Path) -> Path:
    """Return a new place for the next run, with the data of another one."""
    new.mkdir()
    shutil.copytree(old / "data", new / "data")
    return new


def until_refused(site: Site) -> httpx.Response:
    """Ask until the gateway refuses; what it records before, nobody signs."""
    for _ in range(ATTEMPTS):
        answer = site.client(AUDITOR).get("/v1/audit/records")
        if answer.status_code != 200:
            return answer
    pytest.fail("a log that was rolled back goes on")


def test_a_data_folder_that_was_put_back_refuses_to_sign(tmp_path: Path) -> None:
    """The witness saw more: nothing is signed, all is refused, and the log is whole."""
    first = tmp_path / "first"
    keys = make_keys(ORIGIN)
    save_keys(keys, first / "data" / "keys" / "log")
    with a_witness_process(tmp_path, keys.log.verifier) as line:
        policy = tmp_path / "our.policy"
        policy.write_text(f"{line}\nquorum audit\n", encoding="utf-8")
        settings = f"witness_policy: {policy}"
        with a_site(first, settings=settings) as site:
            ask(site, 2)
        backup = moved_on(first, tmp_path / "backup")
        later = moved_on(first, tmp_path / "later")
        with a_site(later, settings=settings) as site:
            ask(site, 3)
        before = signed(backup)
        with a_site(backup, settings=settings) as site:
            refused = until_refused(site)
            seen = size_seen(site)
            ready = site.client(None).get("/health/ready").status_code
    found = verify_log(backup / "data", keys.log.verifier.vkey)

    assert before is not None
    assert before == signed(backup)
    assert (before.size, before.size) == (seen, found.published)
    assert (503, "log-unavailable") == (
        refused.status_code,
        refused.json()["type"].rpartition("/")[2],
    )
    assert 503 == ready
