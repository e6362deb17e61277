"""Erasure over HTTP and from the command line: who may, when not, and what is left."""

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from audit.record import Event, Kind, Subject
from exchange.__main__ import main
from schemas.canonical import b64url_decode
from schemas.ids import EventId
from tests.harness.application import (
    AUDITOR,
    MOTHER,
    OPERATOR,
    PORTAL,
    Site,
)

SOMEBODY = {"namespace": "citizen_id", "id": MOTHER}
BECAUSE = "file-2026-118"


@pytest.fixture
def site(either_site: Site) -> Site:
    """Return the application after a case of the mother's was opened and closed."""
    portal = either_site.client(PORTAL)
    case = either_site.open_case(portal)
    assert portal.post(f"/v1/cases/{case['id']}/close").is_success
    return either_site


def records(site: Site, **about: str) -> list[dict[str, Any]]:
    """Return an auditor's rows."""
    headers = {"errand-subject": f"citizen_id:{MOTHER}"} if about.pop("who", "") else {}
    answer = site.client(AUDITOR).get(
        "/v1/audit/records", params=about, headers=headers
    )
    rows: list[dict[str, Any]] = answer.json()["records"]
    return rows


def erase(site: Site, **body: object) -> httpx.Response:
    """Ask for an erasure as the operator."""
    wanted = {"subject": SOMEBODY, "reason": BECAUSE, **body}
    return site.client(OPERATOR).post("/v1/audit/erasures", json=wanted)


def test_an_erased_person_is_found_and_read_no_more(site: Site) -> None:
    """Records stay, their sections do not open, and an auditor is told why."""
    auditor = site.client(AUDITOR)
    opened, *_ = records(site, kind="case.opened", who="1")
    before = auditor.get(f"/v1/audit/records/{opened['event']}").json()
    done = erase(site)
    again = erase(site)
    after = auditor.get(f"/v1/audit/records/{opened['event']}").json()

    event = done.json()["event"]
    found = site.client(OPERATOR).get(f"/v1/audit/erasures/{event}")
    unknown = site.client(OPERATOR).get(f"/v1/audit/erasures/{opened['event']}")

    assert (201, "subject") == (done.status_code, done.json()["what"])
    assert [] == done.json()["waits_for"]
    assert (200, done.json()) == (found.status_code, found.json())
    assert 404 == unknown.status_code
    assert "no-store" == done.headers["cache-control"]
    assert before["sections"].keys() >= {"subject", "matter"}
    assert None is before["erased"]
    assert {**before, "sections": {}, "erased": done.json()["event"]} == after
    assert [] == records(site, kind="case.opened", who="1")
    assert done.json()["event"] == records(site, kind="key.shredded")[0]["event"]
    assert 404 == again.status_code


def test_of_a_kind_of_id_that_there_is_not_it_is_not_said_that_nobody_is_known(
    either_site: Site,
) -> None:
    """A slip in the kind is told apart from somebody about whom nobody asked."""
    slipped = erase(either_site, subject={**SOMEBODY, "namespace": "citizen"})
    nobody = erase(either_site, subject={"namespace": "text", "id": "nobody"})

    assert (404, 404) == (slipped.status_code, nobody.status_code)
    assert "take one of `citizen_id`, `credit_code`, `text`" in slipped.text
    assert "knows nobody of this id" in nobody.text


def test_what_a_person_did_before_is_recorded_before_they_are_erased(
    site: Site,
) -> None:
    """Recorded later, it would make them known again, and could be read."""
    gateway = site.gateway
    told = Event(
        id=EventId(gateway.new_id()),
        at=gateway.clock.now(),
        kind=Kind.CONSENT_CHANGED,
        outcome="refused",
        subjects=(Subject("mother", "citizen_id", MOTHER),),
    )
    owed = gateway.permissions.owed
    asyncio.run(gateway.database.write(lambda c: owed.note(c, told)))
    done = erase(site)
    count = text("SELECT count(*) FROM owed_record")
    left = gateway.database.read_now(lambda c: c.execute(count).scalar())
    auditor = site.client(AUDITOR)
    record = auditor.get(f"/v1/audit/records/{told.id}").json()

    assert (201, 0) == (done.status_code, left)
    assert {} == record["sections"]
    assert done.json()["event"] == record["erased"]
    assert [] == records(site, who="1")


def test_nobody_in_an_open_case_is_erased(site: Site) -> None:
    """The case has to be closed first; until then nothing is destroyed."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)
    before = records(site, kind="key.shredded")
    refused = erase(site)
    portal.post(f"/v1/cases/{case['id']}/close")

    assert 409 == refused.status_code
    assert case["id"] in refused.json()["detail"]
    assert before == records(site, kind="key.shredded")
    assert 201 == erase(site).status_code


def test_a_hold_of_the_auditor_stops_the_operator(site: Site) -> None:
    """Until it is released; both sides see the hold by its record."""
    auditor = site.client(AUDITOR)
    body = {"subject": SOMEBODY, "reason": BECAUSE}
    hold = auditor.post("/v1/audit/holds", json=body).json()
    refused = erase(site)
    [listed] = auditor.get("/v1/audit/holds").json()["holds"]
    path = f"/v1/audit/holds/{hold['event']}/release"
    released = auditor.post(path, json={"reason": "file-2026-119"})
    again = auditor.post(path, json={"reason": "file-2026-119"})

    assert 409 == refused.status_code
    assert hold["event"] in refused.json()["detail"]
    assert (hold["event"], hold["name"], AUDITOR) == (
        listed["hold"],
        listed["name"],
        listed["by"],
    )
    assert (201, 404) == (released.status_code, again.status_code)
    assert 201 == erase(site, subject=None, ref=hold["name"]).status_code


def test_a_key_is_given_out_to_oversight_and_recorded(site: Site) -> None:
    """The person whose key it is finds the record of it among their own."""
    wanted = {"subject": SOMEBODY, "reason": BECAUSE}
    issued = site.client(AUDITOR).post("/v1/audit/subject-keys", json=wanted)
    refused = site.client(OPERATOR).post("/v1/audit/subject-keys", json=wanted)

    assert (201, 403) == (issued.status_code, refused.status_code)
    assert "no-store" == issued.headers["cache-control"]
    assert 32 == len(b64url_decode(issued.json()["key"]))
    found, *_ = records(site, kind="key.issued", who="1")
    assert issued.json()["event"] == found["event"]


@pytest.mark.parametrize(
    ("path", "client"),
    [("erasures", AUDITOR), ("holds", OPERATOR), ("erasures", PORTAL)],
)
def test_each_act_takes_its_own_scope(site: Site, path: str, client: str) -> None:
    """Who holds does not erase, and who erases does not hold."""
    body = {"subject": SOMEBODY, "reason": BECAUSE}

    assert 403 == site.client(client).post(f"/v1/audit/{path}", json=body).status_code


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ref": "x" * 22},
        {"subject": None},
        {"reason": "because of 林云"},
        {"reason": f"about-{MOTHER}"},
        {"subject": {"id": "with space"}},
    ],
)
def test_what_is_erased_has_one_name_and_a_reason(
    site: Site, body: dict[str, object]
) -> None:
    """None or two of them is wrong, and so is a reason that tells a story."""
    wanted = {"subject": SOMEBODY, "reason": BECAUSE, **body}
    if not body:
        wanted.pop("reason")
    answer = site.client(OPERATOR).post("/v1/audit/erasures", json=wanted)

    assert 422 == answer.status_code
    assert MOTHER not in answer.text


def test_a_person_is_held_and_erased_from_the_command_line(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The id comes from standard input, so that no shell keeps it."""

    def errand(client: str, *args: str) -> tuple[object, str]:
        key = tmp_path / f"{client}.pem"
        if not key.exists():
            key.write_bytes(site.keys[client].to_pem())
            key.chmod(0o600)
        who = ("--client", client, "--key-file", str(key), "--url", site.url)
        monkeypatch.setattr(sys, "argv", ["errand", "audit", *args, *who])
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{MOTHER}\n"))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert MOTHER not in printed.out + printed.err
        return ended.value.code, printed.out + printed.err

    key_file = tmp_path / "subject.key"
    issued = errand(AUDITOR, "subject-key", str(key_file), "--reason", BECAUSE)
    held = errand(AUDITOR, "hold", "--reason", BECAUSE)
    event = held[1].split()[-1]
    refused = errand(OPERATOR, "erase", "--reason", BECAUSE)
    listed = errand(AUDITOR, "holds", "--json")
    released = errand(AUDITOR, "release", event, "--reason", BECAUSE)
    erased = errand(OPERATOR, "erase", "--reason", BECAUSE)

    assert "erased everywhere: subject" in erased[1]
    assert [0] * 5 == [one[0] for one in (issued, held, listed, released, erased)]
    assert 0o600 == key_file.stat().st_mode & 0o777
    assert 2 == refused[0]
    assert "forbids it" in refused[1]
    assert event in listed[1]
