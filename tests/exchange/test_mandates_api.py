"""Mandates at the API, and what the sweep forgets."""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import CancelledError
from dataclasses import fields, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import httpx
import orjson
import pytest
from sqlalchemy import Connection, text
from typing_extensions import override

from consent import store as consents
from exchange import cases, idempotency, sweeping
from exchange.cases import SealedEvidence
from exchange.mandating import Mandates
from exchange.permission import Permissions
from exchange.waiting import Terms
from schemas.clock import SystemClock
from schemas.codes import citizen_check_digit
from schemas.errors import LogUnavailableError
from schemas.ids import CaseId, EvidenceId
from tests.exchange.test_following import followed
from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    FATHER,
    MOTHER,
    OPENING,
    OTHER_PORTAL,
    PORTAL,
    Site,
)
from tests.harness.patience import until

Json = dict[str, Any]
T = TypeVar("T")

_STEM = "99010119850704001"
AGENT = _STEM + citizen_check_digit(_STEM)


@pytest.fixture(scope="module", autouse=True)
def unhurried() -> Iterator[None]:
    """Let gateways look at what is due only when somebody wakes them."""
    hourly = partial(Terms, poll_s=3600.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exchange.opening.WaitingTerms", hourly)
        yield


@pytest.fixture(scope="module")
def site(either_site: Site) -> Site:
    """Return the application, on one engine after the other."""
    return either_site


def in_days(days: float) -> str:
    """Return an instant so many days from now."""
    return (SystemClock().now() + timedelta(days=days)).isoformat()


def giving(**more: object) -> Json:
    """Return the body of the mother's mandate to the agent."""
    return {
        "principal": {"id": MOTHER},
        "role": "mother",
        "agent": {"id": AGENT},
        "matters": ["newborn"],
        "powers": ["apply"],
        "valid_until": in_days(30),
        "authentication": {"method": "face", "at": in_days(0)},
        **more,
    }


def give(citizen: httpx.Client, **more: object) -> Json:
    """Give a mandate, and return it."""
    answer = citizen.post("/v1/mandates", json=giving(**more))
    assert answer.status_code == 201, answer.text
    given: Json = answer.json()
    return given


def apply(portal: httpx.Client, mandate: str, agent: str = AGENT) -> httpx.Response:
    """Open the mother's case as the agent."""
    actor = {"kind": "agent", "id": agent, "mandate": mandate}
    headers = {"prefer": "wait=0"}
    return portal.post("/v1/cases", json={**OPENING, "actor": actor}, headers=headers)


def the_type(answer: httpx.Response) -> str:
    """Return the problem's name."""
    kind: str = answer.json()["type"].rpartition("/")[2]
    return kind


def test_a_mandate_is_given_used_and_revoked(
    portal: httpx.Client, citizen: httpx.Client
) -> None:
    """While it stands the agent opens a case; afterwards the portal gets a problem."""
    given = give(citizen)
    path = f"/v1/mandates/{given['id']}"
    opened = apply(portal, given["id"])
    revoked = citizen.post(f"{path}/revoke", json={"person": {"id": MOTHER}})
    refused = apply(portal, given["id"])
    added = portal.post(
        f"{opened.headers['location']}/answers", json={"answers": {"joins": "mother"}}
    )

    assert given["state"] == "valid"
    assert given["signature"]["client"] == CITIZEN
    assert opened.status_code == 201
    assert revoked.json()["state"] == "revoked"
    assert portal.get(path).json() == revoked.json()
    for answer in (refused, added):
        assert answer.status_code == 403
        assert the_type(answer) == "mandate-not-valid"
    for shown in (given, opened.text, revoked.text, refused.text, added.text):
        assert AGENT not in str(shown)


def test_whoever_follows_a_case_is_told_at_once_that_its_mandate_has_ended(
    portal: httpx.Client, citizen: httpx.Client
) -> None:
    """The case goes on by itself to what has become of it; nobody need ask."""
    given = give(citizen)
    case = apply(portal, given["id"]).json()["id"]
    with followed(portal, case) as told:
        first = next(told)
        path = f"/v1/mandates/{given['id']}/revoke"
        citizen.post(path, json={"person": {"id": AGENT}}).raise_for_status()
        last = next(one for one in told if rules(one))

    assert not rules(first)
    assert {"mandate_revoked"} == rules(last)


def rules(case: Json) -> set[str]:
    """Return the rules by which requirements of a case are refused."""
    refused = (one.get("rule") for one in case["requirements"])
    return {rule for rule in refused if rule and rule.startswith("mandate")}


@pytest.mark.parametrize(
    "instant",
    [
        "0001-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-00:01",
    ],
)
@pytest.mark.parametrize("place", ["valid_from", "valid_until", "authentication"])
def test_a_mandate_names_instants_that_can_be_written_down(
    citizen: httpx.Client, instant: str, place: str
) -> None:
    """At either end of the calendar an offset leads out of it: named, and no 500."""
    is_proof = place == "authentication"
    value = {"method": "face", "at": instant} if is_proof else instant

    refused = citizen.post("/v1/mandates", json=giving(**{place: value}))

    assert refused.status_code == 422
    pointer = "/authentication/at" if is_proof else f"/{place}"
    [error] = refused.json()["errors"]
    assert pointer == error["pointer"]
    assert "years 1 to 9999" in error["detail"]


def test_an_auditor_sees_who_acted_under_which_mandate(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """Given, used, refused, ended: each a record; the agent only where it is sealed."""
    given = give(citizen)
    opened = apply(portal, given["id"]).json()
    apply(portal, given["id"], FATHER)
    citizen.post(f"/v1/mandates/{given['id']}/revoke", json={"person": {"id": AGENT}})
    auditor = site.client(AUDITOR)
    listed = auditor.get(
        "/v1/audit/records", params={"case": opened["id"], "kind": "case.opened"}
    ).json()["records"]
    denied = auditor.get(
        "/v1/audit/records",
        params={"kind": "request.denied"},
        headers={"errand-official": f"agent:{FATHER}"},
    ).json()["records"]
    changed = auditor.get(
        "/v1/audit/records",
        params={"kind": "consent.changed"},
        headers={"errand-subject": f"citizen_id:{AGENT}"},
    ).json()["records"]
    record = auditor.get(f"/v1/audit/records/{listed[0]['event']}").json()
    sections = {
        name: orjson.loads(one["section"]) for name, one in record["sections"].items()
    }

    assert sections["actor"] == {"kind": "agent", "id": AGENT}
    assert sections["matter"]["mandate"] == given["id"]
    assert AGENT not in record["leaf"]
    assert [r["outcome"] for r in denied] == ["mandate_other_agent"]
    assert ["mandate_revoked", "mandate_given"] == [
        r["outcome"] for r in changed if r["correlation"] == given["id"]
    ]


def test_a_mandate_given_again_under_the_same_key_is_one(
    site: Site, citizen: httpx.Client
) -> None:
    """The key leads to the same mandate, and to one record; another body is refused."""
    body, headers = giving(), {"idempotency-key": "mandate-1"}
    answers = [
        citizen.post("/v1/mandates", json=body, headers=headers) for _ in range(2)
    ]
    other = citizen.post(
        "/v1/mandates", json=giving(powers=["commit"]), headers=headers
    )
    first, again = (answer.json() for answer in answers)
    found = site.client(AUDITOR).get(
        "/v1/audit/records", params={"outcome": "mandate_given"}
    )
    mine = [r for r in found.json()["records"] if r["correlation"] == first["id"]]

    assert first == again
    assert [201, 201] == [answer.status_code for answer in answers]
    assert the_type(other) == "idempotency-key-reused"
    assert len(mine) == 1


def test_both_parties_find_a_mandate(citizen: httpx.Client) -> None:
    """Principal and agent, and nobody else."""
    given = give(citizen)
    found = {
        person: [
            one["id"]
            for one in citizen.post(
                "/v1/mandates/search", json={"person": {"id": person}}
            ).json()["mandates"]
        ]
        for person in (MOTHER, AGENT, FATHER)
    }

    assert given["id"] in found[MOTHER]
    assert given["id"] in found[AGENT]
    assert given["id"] not in found[FATHER]


def test_a_mandate_for_one_portal_is_not_there_for_another(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """The other can neither read nor use it."""
    given = give(citizen, requester=PORTAL)
    path, other = f"/v1/mandates/{given['id']}", site.client(OTHER_PORTAL)

    assert portal.get(path).status_code == 200
    assert the_type(other.get(path)) == "not-found"
    assert the_type(apply(other, given["id"])) == "mandate-not-valid"
    assert apply(portal, given["id"]).status_code == 201


def test_only_the_parties_end_a_mandate(citizen: httpx.Client) -> None:
    """Another person is told that there is none."""
    given = give(citizen)
    path = f"/v1/mandates/{given['id']}/revoke"
    answer = citizen.post(path, json={"person": {"id": FATHER}})

    assert the_type(answer) == "not-found"
    assert FATHER not in answer.text


@pytest.mark.parametrize("name", [PORTAL, AUDITOR])
def test_only_an_app_that_authenticates_people_gives_mandates(
    site: Site, name: str
) -> None:
    """A portal can't write itself the mandates that it wants."""
    answer = site.client(name).post("/v1/mandates", json=giving())

    assert the_type(answer) == "scope-missing"


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"agent": {"id": MOTHER}}, "/agent/id"),
        ({"agent": {"id": AGENT[:-1] + "X"}}, "/agent/id"),
        ({"matters": []}, "/matters"),
        ({"matters": ["wedding"]}, "/matters/0"),
        ({"powers": []}, "/powers"),
        ({"powers": ["everything"]}, "/powers/0"),
        ({"role": "father"}, "/role"),
        ({"requester": AUDITOR}, "/requester"),
        ({"valid_until": in_days(-1)}, "/valid_until"),
        (
            {"authentication": {"method": "face", "at": in_days(-2)}},
            "/authentication/at",
        ),
        (
            {"authentication": {"method": "guess", "at": in_days(0)}},
            "/authentication/method",
        ),
    ],
)
def test_what_cannot_be_given_is_named(
    citizen: httpx.Client, more: Json, pointer: str
) -> None:
    """By its place and the rule, without the value."""
    answer = citizen.post("/v1/mandates", json=giving(**more))

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert MOTHER not in answer.text
    assert AGENT[:-1] not in answer.text


@pytest.mark.parametrize(
    ("actor", "pointer"),
    [
        ({"kind": "agent", "id": "window-3", "mandate": "x"}, "/actor/id"),
        ({"kind": "agent", "id": AGENT}, "/actor/mandate"),
        ({"kind": "official", "id": "a", "mandate": "x"}, "/actor/mandate"),
    ],
)
def test_an_actor_is_staff_or_an_agent_with_a_mandate(
    portal: httpx.Client, actor: Json, pointer: str
) -> None:
    """What makes neither of them is named, and no id repeated."""
    answer = portal.post("/v1/cases", json={**OPENING, "actor": actor})

    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert AGENT not in answer.text


# The sweep.


def on_the_loop(site: Site, work: Awaitable[T]) -> T:
    """Run something on the gateway's own loop."""
    loop = site.gateway.waiting._loop
    assert loop is not None

    async def run() -> T:
        return await work

    return asyncio.run_coroutine_threadsafe(run(), loop).result(30)


def test_a_giving_that_was_cut_off_is_recorded_and_holds_by_itself(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """As a gateway leaves it that was killed before the log had heard."""
    asking = {
        "case": site.open_case(portal)["id"],
        "role": "father",
        "person": {"id": FATHER},
        "fields": {"household@1": ["region"]},
    }
    asked = portal.post("/v1/consents", json=asking).json()
    people = site.gateway.permissions
    ago = site.gateway.clock.now() - timedelta(minutes=1)

    def cut_off(connection: Connection) -> None:
        person, version = people._person(FATHER), asked["version"]
        given = consents.give(connection, asked["id"], person, version, ago)
        people._note(connection, given, "given", ago, FATHER)

    def state() -> str:
        found: str = citizen.get(f"/v1/consents/{asked['id']}").json()["state"]
        return found

    on_the_loop(site, site.gateway.database.write(cut_off))
    before = state()
    until(lambda: state() != before, "the consent holds")

    assert ("giving", "given") == (before, state())


def test_the_sweep_deletes_what_has_run_out_and_nothing_else(
    site: Site, portal: httpx.Client
) -> None:
    """Evidence that is stale, keys that are old, counts of long ago."""
    case = CaseId(site.open_case(portal)["id"])
    database, now = site.gateway.database, site.gateway.clock.now()
    long_ago = now - timedelta(days=500)

    def plant(connection: Connection) -> None:
        for name, at in (("stale", now), ("fresh", now + timedelta(days=1))):
            one = SealedEvidence(EvidenceId(name), b"sealed", at)
            cases.put_evidence(connection, case, [one])
        for name, at in (("old", long_ago), ("new", now)):
            repeat = site.gateway.repeat_keys.of(name, name, "POST /v1/x", b"")
            idempotency.claim(connection, repeat, name, at)
            _count_use(connection, name, at)

    on_the_loop(site, database.write(plant))
    on_the_loop(site, sweeping.delete_expired(site.gateway))

    def left(query: str) -> list[str]:
        return database.read_now(lambda c: list(c.execute(text(query)).scalars()))

    assert ["fresh"] == left("SELECT id FROM evidence")
    assert "old" not in left("SELECT resource FROM idempotency")
    assert "new" in left("SELECT resource FROM idempotency")
    assert ["new"] == left("SELECT grant_id FROM grant_use")


def _count_use(connection: Connection, grant: str, at: datetime) -> None:
    """Count one look-up under a grant in a period that began at an instant."""
    values = {"grant": grant, "period": int(at.timestamp() * 1_000_000)}
    connection.execute(
        text("INSERT INTO grant_use VALUES (:grant, :period, 1)"), values
    )


def test_the_sweep_goes_on_whatever_happens_and_waits_for_no_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of ends one round; what needs no log comes first."""
    rounds: list[str] = []

    class FailingMandates(Mandates):
        @override
        async def note_earlier(self) -> int:
            rounds.append("noted")
            if rounds == ["noted"]:
                raise LookupError
            return 0

    class FailingPermissions(Permissions):
        @override
        async def expire(self) -> int:
            rounds.append("expired")
            if rounds.count("expired") == 1:
                raise LogUnavailableError("the disk is full")
            raise asyncio.CancelledError

    gateway = replace(
        site.gateway,
        mandates=FailingMandates(**parts_of(site.gateway.mandates)),
        permissions=FailingPermissions(**parts_of(site.gateway.permissions)),
    )
    monkeypatch.setattr(sweeping, "_SWEEP_S", 0.0)
    with pytest.raises(CancelledError):
        on_the_loop(site, sweeping.sweep(gateway))

    assert ["noted", *["noted", "expired"] * 2] == rounds


def parts_of(one: Mandates | Permissions) -> dict[str, Any]:
    """Return what it was made with."""
    return {field.name: getattr(one, field.name) for field in fields(one)}


def test_the_sweep_marks_and_records_consents_that_ran_out(
    site: Site, portal: httpx.Client
) -> None:
    """Each expiry is a record; asked or given, its case looks at it again."""
    case = site.open_case(portal)
    body = {
        "case": case["id"],
        "person": {"id": FATHER},
        "role": "father",
        "fields": {"household@1": ["household_no"]},
    }
    asked = portal.post("/v1/consents", json=body).json()["id"]

    def age(connection: Connection) -> None:
        connection.execute(
            text("UPDATE consent SET expires_at = 1 WHERE id = :id"), {"id": asked}
        )

    on_the_loop(site, site.gateway.database.write(age))
    swept = on_the_loop(site, site.gateway.permissions.expire())
    found = site.client(AUDITOR).get(
        "/v1/audit/records", params={"case": case["id"], "outcome": "expired"}
    )

    assert swept == 1
    assert [r["correlation"] for r in found.json()["records"]] == [asked]
    assert portal.get(f"/v1/consents/{asked}").json()["state"] == "expired"
