"""Scenario 22: the logs of all the above contain no id number, name or secret.

Real processes, real registers, and everything that can go wrong with a case: what was
planted is then searched for in all that the processes wrote, in the gateway's metrics,
in the body of every error and in the headers of every answer (rule 8).
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from exchange.demo.lines import NO_TLS
from exchange.demo.people import Family, Population
from exchange.demo.portal import Answer, Client
from exchange.demo.story import MARRIED, opening
from tests.harness.gateway import Installation, an_installation, found
from tests.harness.patience import until

DEPARTMENTS = ("ga", "wj", "mz")
STRANGER = "110101199003074258"
"""A citizen id of nobody in the registers, with a right check digit."""
NAME = "欧阳慕容"
STATED = {"child_name": "欧阳念溪", "bank_account": "6222020200112233445"}
CERTIFICATE = "Q990123457"
SECRET = "s3cr3t-of-a-portal"  # noqa: S105 - nothing opens with it
CASES = ("married", "unmarried", "consent", "source_down", "near_match")
Json = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """Every answer that came from any process, and where it is looked at."""

    place: Installation
    answers: list[httpx.Response] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    """The access tokens that were sent along."""

    def send(
        self,
        client: Client | None,
        method: str,
        path: str,
        *,
        json: Any = None,  # noqa: ANN401 - any JSON, also what is no request at all
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request with whatever in it; `path` may be another server's URL."""
        sent = dict(headers or {})
        if client is not None:
            self.tokens.add(client.token())
            sent["authorization"] = f"Bearer {client.token()}"
        url = path if path.startswith("http") else self.place.url + path
        answer = httpx.request(
            method,
            url,
            json=json,
            content=content,
            headers=sent,
            timeout=30,
            verify=NO_TLS,
        )
        self.answers.append(answer)
        return answer

    def texts(self) -> dict[str, str]:
        """Return the bodies of all errors and the headers of all answers, by place."""
        texts: dict[str, str] = {}
        for number, one in enumerate(self.answers):
            name = f"answer {number}, {one.status_code}"
            texts[f"headers of {name}"] = str(one.headers.multi_items())
            if not one.is_success:
                texts[f"body of {name}"] = one.text
        return texts


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Run a gateway and the three departments that a case asks first."""
    folder = tmp_path_factory.mktemp("planted")
    with an_installation(folder, departments=DEPARTMENTS) as place:
        yield Seen(place)


def test_planted_identifiers_names_and_secrets_are_found_nowhere(seen: Seen) -> None:
    """Not in a log, an error, a header or a metric, whatever became of the cases."""
    outcomes = live_through_everything(seen)
    statuses = ask_wrongly(seen, next(iter(outcomes)))
    all_is_written(seen)
    texts = {**seen.place.told(), **seen.texts()}
    values = planted(seen.place.population) | seen.tokens

    # Each of these has been there, so that each had its chance to tell.
    assert {"conflict", "faulty", "mismatch", "pending", "supply_needed"} <= {
        kind for kinds in outcomes.values() for kind in kinds
    }
    assert {400, 401, 403, 404, 405, 409, 413, 422} <= statuses
    assert {"gateway", *DEPARTMENTS, "metrics"} <= set(texts)
    assert '"event":"request"' in texts["gateway"]
    assert "register_unavailable" in texts["ga"]
    assert [] == found(values, texts)


def test_what_a_process_writes_would_be_found(seen: Seen) -> None:
    """The search finds what the gateway does write: the ids of its own requests."""
    request = all_is_written(seen)

    assert [f"`{request}` in gateway"] == found([request], seen.place.written())


def all_is_written(seen: Seen) -> str:
    """Wait until the gateway wrote of all it answered; return its last request's id.

    A request's line is written after its answer has gone out.
    """
    request = seen.send(None, "GET", "/health/live").headers["x-request-id"]
    until(lambda: bool(found([request], seen.place.written())), "its line is written")
    return request


def planted(population: Population) -> set[str]:
    """Return every value that must turn up nowhere."""
    values = {STRANGER, NAME, CERTIFICATE, SECRET, *STATED.values()}
    people = set()
    for case in CASES:
        family = population.families[case]
        people |= {one for one in (family.mother, family.father) if one is not None}
    ids = {one.id for one in people}
    values |= ids | {one.name for one in people}
    values |= {m.recorded_man_id for m in population.marriages if m.man.id in ids}
    values |= {b.certificate for b in population.births if b.mother.id in ids}
    for home in population.households:
        if any(member.person.id in ids for member in home.members):
            values |= {home.number, home.address}
    return values


def live_through_everything(seen: Seen) -> dict[str, set[str]]:
    """Open a case for each thing that can become of one; return outcomes by case."""
    place, family = seen.place, seen.place.family
    # A register that holds what its field can't be: the source is faulty.
    change(
        place,
        "wj",
        "UPDATE t_cszm SET xse_xb = ? WHERE mq_zjhm = ?",
        NAME,
        family("consent").mother.id,
    )
    cases = {
        name: open_case(seen, family(name))
        for name in ("married", "near_match", "consent")
    }
    answer_as(seen, family("married"), "refuse")
    answer_as(seen, family("near_match"), "give")
    stranger = opening(family("unmarried"), {**MARRIED, **STATED})
    stranger["subjects"]["mother"]["name"] = NAME
    stranger["subjects"]["newborn"]["certificate_no"] = CERTIFICATE
    cases["unmarried"] = str(open_with(seen, stranger).json()["id"])
    # From here on the police's own service fails at every look-up.
    change(place, "ga", "DROP VIEW v_rk")
    cases["source_down"] = open_case(seen, family("source_down"))
    portal, outcomes = place.portal(), dict[str, set[str]]()

    def has_arrived() -> bool:
        for case in cases.values():
            answer = Answer(portal.get(f"/v1/cases/{case}"))
            kinds = {one["outcome"] for one in answer.outcomes.values()}
            outcomes[case] = kinds
        there = set().union(*outcomes.values())
        return {"conflict", "supply_needed"} <= there

    until(has_arrived, "the cases have come to what they must")
    return outcomes


def change(place: Installation, provider: str, statement: str, *values: str) -> None:
    """Change a department's register under its hands."""
    register = place.stage.places[provider].register
    with closing(sqlite3.connect(register, timeout=10)) as database, database:
        database.execute(statement, values)


def open_case(seen: Seen, family: Family) -> str:
    """Open a family's case, and return its id."""
    answers = {**MARRIED, **STATED}
    return str(open_with(seen, opening(family, answers)).json()["id"])


def open_with(seen: Seen, body: Json) -> httpx.Response:
    """Open a case with everything that its portal may send along."""
    headers = {"prefer": "wait=10", "idempotency-key": body["subjects"]["mother"]["id"]}
    return seen.send(
        seen.place.portal(), "POST", "/v1/cases", json=body, headers=headers
    )


def answer_as(seen: Seen, family: Family, verb: str) -> None:
    """Give or refuse, as the father, what he is asked."""
    assert family.father is not None
    citizen, person = seen.place.citizen(), {"id": family.father.id}
    asked = seen.send(citizen, "POST", "/v1/consents/search", json={"person": person})
    for one in asked.json()["consents"]:
        body: Json = {"person": person}
        body |= {"version": one["version"]} if verb == "give" else {}
        path = f"/v1/consents/{one['id']}/{verb}"
        assert seen.send(citizen, "POST", path, json=body).is_success


def ask_wrongly(seen: Seen, case: str) -> set[int]:
    """Send every kind of request that is refused, with values wherever one fits."""
    before = len(seen.answers)
    portal, citizen = seen.place.portal(), seen.place.citizen()
    seen.send(portal, "POST", f"/v1/cases/{case}/close")
    for path, headers, body in wrong_openings(seen.place, case):
        seen.send(portal, "POST", path, json=body, headers=headers)
    right = opening(seen.place.family("married"), {**MARRIED, **STATED})
    person: Json = {"person": {"id": STRANGER}, "version": 1}
    seen.send(citizen, "POST", "/v1/cases", json=right)
    seen.send(citizen, "POST", f"/v1/consents/{case}/give", json=person)
    seen.send(None, "POST", "/v1/cases", headers={"authorization": SECRET})
    form = f"client_assertion={SECRET}&client_id={STRANGER}".encode()
    seen.send(None, "POST", "/v1/token", content=form)
    seen.send(portal, "POST", "/v1/cases", content=f'{{"{STRANGER}"'.encode())
    seen.send(portal, "POST", "/v1/cases", content=NAME.encode() * 400_000)
    seen.send(portal, "GET", f"/v1/cases/{STRANGER}")
    seen.send(portal, "GET", f"/v1/{NAME}/{CERTIFICATE}?of={STRANGER}")
    seen.send(portal, "DELETE", f"/v1/cases/{case}?of={STRANGER}")
    seen.send(portal, STRANGER, "/v1/cases")
    about, query = {"errand-subject": STRANGER}, f"?outcome={STRANGER}"
    seen.send(seen.place.auditor(), "GET", f"/v1/audit/records{query}", headers=about)
    for provider in DEPARTMENTS:
        url = f"{seen.place.stage.places[provider].url}/lookups"
        typed = {"content-type": "application/jose"}
        junk = f"{SECRET}.{STRANGER}".encode()
        seen.send(None, "POST", url, content=junk, headers=typed)
        seen.send(None, "GET", f"{url}/{STRANGER}")
    return {one.status_code for one in seen.answers[before:]}


def wrong_openings(
    place: Installation, case: str
) -> Iterator[tuple[str, Mapping[str, str], Json]]:
    """Yield the path, headers and body of requests that a portal gets refused."""
    path, none = "/v1/cases", dict[str, str]()
    mother = place.family("married").mother
    right = opening(place.family("married"), {**MARRIED, **STATED})
    wrong_digit = {"mother": {"id": STRANGER[:-1] + "0", "name": NAME}}
    yield f"{path}/{case}/resolve", none, {}  # it is closed
    yield f"{path}/{case}/answers", none, {"subjects": {"mother": {"name": NAME}}}
    yield path, none, {**right, "subjects": wrong_digit}
    yield path, none, {**right, "subjects": {STRANGER: {NAME: NAME}}}
    yield path, none, {**right, NAME: STRANGER}
    yield path, none, {**right, "matter": STRANGER}
    yield path, none, {**right, "actor": {"kind": NAME}}
    yield path, none, {**right, "purpose": "statistics"}
    yield path, {"idempotency-key": mother.id}, {**right, "answers": {}}
    yield path, {"idempotency-key": STRANGER * 20}, right
    yield path, {"prefer": f"wait={STRANGER}" * 20}, right
