"""A data folder is put back from a backup, behind a witness that saw it further on."""

import shutil
import threading
from contextlib import closing
from pathlib import Path

import httpx

from audit.keys import make_keys, save_keys
from audit.note import Cosigner
from audit.store import LogReader, SignedHead
from audit.verify import verify_log
from audit.witness import Reply
from tests.harness.application import AUDITOR, OPENING, PORTAL, Site, a_site
from tests.harness.patience import until
from tests.harness.witnesses import a_witness_process, an_answerer

ORIGIN = "errand.example/990100/log"


def size_seen(site: Site) -> int:
    """Return how many records outsiders see."""
    answer = site.client(None).get("/log/checkpoint")
    return int(answer.text.split("\n")[1]) if answer.status_code == 200 else 0


def ask(site: Site, times: int) -> None:
    """Have some records made, and wait until they are published."""
    before = size_seen(site)
    for _ in range(times):
        assert site.client(AUDITOR).get("/v1/audit/records").status_code == 200
    until(lambda: size_seen(site) >= before + times, "they are published")


def ready_of(site: Site) -> httpx.Response:
    """Ask how the gateway is."""
    return site.client(None).get("/health/ready")


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


def recorded(folder: Path) -> int:
    """Return how many records the log in a data folder has."""
    with closing(LogReader.open(folder / "data" / "log.db")) as reader:
        return reader.size()


def refused(site: Site) -> httpx.Response:
    """Ask as an auditor, which would be recorded, and open a case: return the latter's.

    Neither may leave a record, and so a receipt.
    """
    asked = site.client(AUDITOR).get("/v1/audit/records")
    opened = site.client(PORTAL).post("/v1/cases", json=OPENING)

    assert 503 == asked.status_code
    return opened


def test_a_data_folder_that_was_put_back_refuses_to_sign(tmp_path: Path) -> None:
    """The witness saw more: all is refused from the first request on, and it is whole.

    What was registered anew is not recorded either.
    """
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
        before, size = signed(backup), recorded(backup)
        with a_site(backup, settings=settings) as site:
            answer = refused(site)
            seen = size_seen(site)
            ready = ready_of(site).status_code
    found = verify_log(backup / "data", keys.log.verifier.vkey)

    assert before is not None
    assert before == signed(backup)
    assert (before.size, before.size) == (seen, found.published)
    assert size == recorded(backup)
    assert (503, "log-unavailable") == (
        answer.status_code,
        answer.json()["type"].rpartition("/")[2],
    )
    assert 503 == ready


def test_nothing_is_recorded_before_the_witnesses_have_told_what_they_saw(
    tmp_path: Path,
) -> None:
    """One hangs: the gateway answers so, names it, and goes on when it is back."""
    backup, there = tmp_path / "first", threading.Event()
    save_keys(make_keys(ORIGIN), backup / "data" / "keys" / "log")
    with a_site(backup) as site:
        ask(site, 2)
    size, later = recorded(backup), moved_on(backup, tmp_path / "later")

    def hanging(_path: str, _body: bytes) -> Reply:
        there.wait()
        return Reply(404)

    with an_answerer(hanging) as url:
        vkey = Cosigner("audit.example/w", bytes(32)).verifier.vkey
        policy = f"witness audit {vkey} {url}\nquorum audit\n"
        (later / "our.policy").write_text(policy, encoding="utf-8")
        with a_site(later, settings="witness_policy: our.policy") as site:
            answer = refused(site)
            ready = ready_of(site)
            size_before = recorded(later)
            there.set()
            until(lambda: ready_of(site).status_code == 200, "it goes on")
            health = ready_of(site)
            opened = site.open_case(site.client(PORTAL))

    assert 503 == answer.status_code
    assert 503 == ready.status_code
    assert ["log", "witnesses"] == ready.json()["failing"]
    assert size == size_before
    assert "ok" == health.json()["status"]
    assert opened["id"]
