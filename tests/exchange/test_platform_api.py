"""The API around the case flow: directory, consents, suspensions, the log."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from joserfc.jwk import KeySet

from audit.note import parse_vkey
from audit.receipt import parse_proof, verify_proof, verify_receipt
from connectors.target import evidence_type_of, load_target
from consent.rules import Rule
from consent.uses import Claim, Use
from consent.verdict import Permit, RoleBasis
from exchange.app import build_app
from exchange.recording import data_folder
from exchange.settings import parse_settings
from schemas.directory import LawfulBasis, LawfulBasisKind, LegalReference
from schemas.errors import SettingsError
from schemas.ids import LookupId
from schemas.model import Name
from tests.connectors.test_conformance import a_target
from tests.consent.examples import open_receipt
from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    FATHER,
    MOTHER,
    OPENING,
    OPERATOR,
    OTHER_PORTAL,
    PORTAL,
    Site,
)
from tests.harness.patience import until

Json = dict[str, Any]


def asking(case: str, **more: object) -> Json:
    """Return a request for the father's consent."""
    return {
        "case": case,
        "person": {"id": FATHER},
        "role": "father",
        "fields": {"household@1": ["household_no"]},
        **more,
    }


def ask(site: Site, portal: httpx.Client, **more: object) -> Json:
    """Open a case, ask the father's consent in it, and return the consent."""
    case = site.open_case(portal)
    answer = portal.post("/v1/consents", json=asking(case["id"], **more))
    assert answer.status_code == 201, answer.text
    asked: Json = answer.json()
    return asked


def the_type(answer: httpx.Response) -> str:
    """Return the problem's name."""
    kind: str = answer.json()["type"].rpartition("/")[2]
    return kind


def by(person: str, **more: object) -> Json:
    """Return the body of a person's answer."""
    return {"person": {"id": person}, **more}


# The directory.


def test_the_directory_shows_what_the_packs_declare(site: Site) -> None:
    """Matters, evidence types and providers are public, in both languages."""
    anyone = site.client(None)
    matters = anyone.get("/v1/matters").json()["matters"]
    matter = anyone.get("/v1/matters/newborn@1").json()
    kinds = anyone.get("/v1/evidence-types").json()["evidence_types"]
    providers = anyone.get("/v1/providers").json()["providers"]
    schema = anyone.get("/v1/evidence-types/birth_certificate@1/schema").json()

    assert [one["ref"] for one in matters] == ["newborn@1"]
    assert matter["name"]["zh"]
    assert matter["name"]["en"]
    assert len(kinds) == len(site.gateway.pack.evidence_types)
    assert {one["id"] for one in providers} == set(site.gateway.pack.providers)
    assert "CSYXZMBH" in schema["properties"]


@pytest.mark.parametrize("path", ["", "/birth_certificate@1"])
def test_a_department_is_tried_by_what_the_directory_shows(
    site: Site, tmp_path: Path, path: str
) -> None:
    """The answer, saved as it came, is what the conformance kit reads."""
    published, ref = tmp_path / "published.json", "birth_certificate@1"
    published.write_bytes(site.client(None).get(f"/v1/evidence-types{path}").content)
    kind = site.gateway.pack.evidence_types[ref]
    keys = {key.name: "1" for key in kind.keys[0]}
    target = load_target(a_target(tmp_path, "http://127.0.0.1:9")).model_copy(
        update={"evidence_type": ref, "published": published, "fields": ("CSYXZMBH",)}
    )
    target = target.model_copy(update={"held": keys, "absent": keys, "facts": {}})

    assert kind == evidence_type_of(target)


def test_services_and_grants_take_a_token(site: Site, portal: httpx.Client) -> None:
    """Where departments are, and who may ask what, is not for everybody."""
    anyone = site.client(None)
    refused = [anyone.get(f"/v1/{what}") for what in ("services", "grants")]
    grants = portal.get("/v1/grants").json()["grants"]
    service = portal.get("/v1/services/mz_marriage").json()

    assert [answer.status_code for answer in refused] == [401, 401]
    assert refused[0].headers["www-authenticate"].startswith("Bearer")
    assert "newborn_marriage" in [grant["id"] for grant in grants]
    assert service["provider"] == "mz"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/matters/wedding@1",
        "/v1/evidence-types/nothing@1",
        "/v1/providers/nobody",
        "/v1/providers/nobody/jwks",
        "/v1/services/none",
        "/v1/grants/none",
    ],
)
def test_what_the_directory_does_not_have_is_not_found(
    portal: httpx.Client, path: str
) -> None:
    """Each list says so in the same way."""
    answer = portal.get(path)

    assert answer.status_code == 404
    assert the_type(answer) == "not-found"


def test_the_schemas_of_packs_are_published(site: Site) -> None:
    """Whoever writes a pack gets the JSON Schemas from a gateway."""
    anyone = site.client(None)
    schema = anyone.get("/v1/schemas/matter")
    nothing = anyone.get("/v1/schemas/..%2Fmatter")

    assert schema.json()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert nothing.status_code in {404, 422}


# Consents.


def test_a_consent_is_asked_given_and_withdrawn(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """Each step is answered with how it stands, and a receipt that verifies."""
    asked = ask(site, portal)
    path = f"/v1/consents/{asked['id']}"
    given = citizen.post(f"{path}/give", json=by(FATHER, version=asked["version"]))
    again = citizen.post(f"{path}/give", json=by(FATHER, version=asked["version"]))
    withdrawn = citizen.post(f"{path}/withdraw", json=by(FATHER))
    keys = KeySet.import_key_set(portal.get("/.well-known/jwks.json").json())
    claims = open_receipt(withdrawn.json()["receipt"], keys)

    assert asked["state"] == "asked"
    assert asked["evidence_types"][0]["fields"] == {
        "household_no": {"zh": "户号", "en": "Household number"}
    }
    assert given.json()["consent"]["state"] == "given"
    assert given.json()["consent"] == again.json()["consent"]
    assert "given" == open_receipt(again.json()["receipt"], keys)["record"]["state"]
    assert withdrawn.json()["consent"]["state"] == "withdrawn"
    assert portal.get(path).json()["state"] == "withdrawn"
    assert claims["aud"] == PORTAL
    assert FATHER not in orjson.dumps(claims).decode()


def test_a_person_reads_what_a_consent_is_for(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """The purpose is named in Chinese and English, when asked and on the receipt."""
    asked = ask(site, portal)
    given = citizen.post(
        f"/v1/consents/{asked['id']}/give",
        json=by(FATHER, version=asked["version"]),
    )
    keys = KeySet.import_key_set(portal.get("/.well-known/jwks.json").json())
    record: Any = open_receipt(given.json()["receipt"], keys)["record"]
    named = {"zh": "办理新生儿出生一件事", "en": "To settle a newborn's papers"}

    assert named == asked["purpose_name"] == record["purposes"][0]["name"]
    assert asked["matter_name"] == record["purposes"][0]["service"] != named


def test_a_consent_can_be_given_narrower_and_no_wider(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """A person takes fields away; nobody can add any."""
    fields = {"household@1": ["household_no", "region"]}
    asked = ask(site, portal, fields=fields)
    path = f"/v1/consents/{asked['id']}/give"
    wider = {"household@1": ["household_no", "head_name"]}
    refused = citizen.post(path, json=by(FATHER, version=1, fields=wider))
    narrow = {"household@1": ["region"]}
    given = citizen.post(path, json=by(FATHER, version=1, fields=narrow))

    assert the_type(refused) == "invalid-request"
    assert refused.json()["errors"][0]["pointer"] == "/fields/household@1"
    assert list(given.json()["consent"]["evidence_types"][0]["fields"]) == ["region"]


def test_only_the_person_concerned_can_answer(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """For anybody else the consent is as if it were not there."""
    asked = ask(site, portal)
    path = f"/v1/consents/{asked['id']}"
    strange = [
        citizen.post(f"{path}/give", json=by(MOTHER, version=1)),
        citizen.post(f"{path}/refuse", json=by(MOTHER)),
        citizen.post(f"{path}/withdraw", json=by(MOTHER)),
    ]
    by_portal = portal.post(f"{path}/give", json=by(FATHER, version=1))

    assert [the_type(answer) for answer in strange] == ["not-found"] * 3
    assert the_type(by_portal) == "scope-missing"
    assert citizen.get(path).json()["state"] == "asked"


def test_a_person_finds_what_was_asked(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """The list holds the person's consents, and nobody else's."""
    asked = ask(site, portal)
    own = citizen.post("/v1/consents/search", json=by(FATHER)).json()["consents"]
    others = citizen.post("/v1/consents/search", json=by(MOTHER)).json()["consents"]

    assert own[0]["id"] == asked["id"]
    assert others == []


def test_another_portal_sees_neither_case_nor_consent(
    site: Site, portal: httpx.Client
) -> None:
    """What is not a portal's own is not found."""
    asked = ask(site, portal)
    other = site.client(OTHER_PORTAL)
    read = other.get(f"/v1/consents/{asked['id']}")
    asked_for = other.post("/v1/consents", json=asking(asked["case"]))

    assert the_type(read) == "not-found"
    assert the_type(asked_for) == "not-found"


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"fields": {"nothing@1": None}}, "/fields/nothing@1"),
        ({"fields": {"household@1": ["secret"]}}, "/fields/household@1"),
        ({"fields": {"birth_certificate@1": None}}, "/fields/birth_certificate@1"),
        ({"role": "uncle"}, "/role"),
        ({"person": {"id": FATHER[:-1] + "1"}}, "/person/id"),
        ({"fields": {}}, "/fields"),
        ({"uses": 0}, "/uses"),
    ],
)
def test_what_cannot_be_consented_to_is_named(
    site: Site, portal: httpx.Client, more: Json, pointer: str
) -> None:
    """A consent may cover what a grant rests on it, of a role that there is."""
    case = site.open_case(portal)
    answer = portal.post("/v1/consents", json=asking(case["id"], **more))

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert FATHER[:-1] not in answer.text


def test_asking_again_under_the_same_key_asks_once(
    site: Site, portal: httpx.Client
) -> None:
    """The key leads to the same consent; with another body it is refused."""
    case = site.open_case(portal)
    headers = {"idempotency-key": "ask-1"}
    first = portal.post("/v1/consents", json=asking(case["id"]), headers=headers)
    again = portal.post("/v1/consents", json=asking(case["id"]), headers=headers)
    other = portal.post(
        "/v1/consents", json=asking(case["id"], uses=3), headers=headers
    )

    assert first.json()["id"] == again.json()["id"]
    assert again.status_code == 201
    assert the_type(other) == "idempotency-key-reused"


def test_a_case_opened_twice_under_one_key_is_one_case(portal: httpx.Client) -> None:
    """A portal that did not hear the answer asks again, and gets the same case."""
    headers = {"idempotency-key": "open-1", "prefer": "wait=0"}
    first = portal.post("/v1/cases", json=OPENING, headers=headers)
    again = portal.post("/v1/cases", json=OPENING, headers=headers)

    assert [first.status_code, again.status_code] == [201, 201]
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == again.headers["location"]


def test_a_withdrawal_returns_only_when_nothing_rests_on_it(
    site: Site, portal: httpx.Client, citizen: httpx.Client
) -> None:
    """A look-up that is under way on the consent is waited for (rule 5)."""
    asked = ask(site, portal)
    path = f"/v1/consents/{asked['id']}"
    citizen.post(f"{path}/give", json=by(FATHER, version=1))

    with under_way(site, _use(asked["id"])) as finish:
        answered = started(lambda: citizen.post(f"{path}/withdraw", json=by(FATHER)))
        until(lambda: portal.get(path).json()["state"] == "withdrawn", "withdrawn")
        early = answered.wait(_WHILE_S)
        finish()
        late = answered.wait(_MOST_S)

    assert not early
    assert late


@pytest.mark.parametrize(
    "thing",
    [
        "service/ga_household",
        "provider/ga",
        "grant/newborn_household",
        f"requester/{PORTAL}",
    ],
)
def test_a_suspension_returns_only_when_nothing_rests_on_it(
    site: Site, operator: httpx.Client, thing: str
) -> None:
    """A look-up that is under way on whatever is suspended is waited for (rule 5)."""
    path, name = f"/v1/suspensions/{thing}", thing.replace("/", ":")
    in_flight = site.gateway.in_flight

    with under_way(site, _use("0190c000-0000-7000-8000-000000000001")) as finish:
        answered = started(lambda: operator.put(path, json={"reason": "an incident"}))
        until(lambda: name in in_flight.suspended, "suspended")
        early = answered.wait(_WHILE_S)
        finish()
        late = answered.wait(_MOST_S)
    operator.delete(path)

    assert not early
    assert late


_WHILE_S = 0.5
"""How long nothing may be answered: without waiting it would take a tenth of it."""
_MOST_S = 30.0


@contextmanager
def under_way(site: Site, use: Use) -> Iterator[Callable[[], None]]:
    """Have a look-up under way, and give what ends it; it has ended afterwards."""
    in_flight, loop = site.gateway.in_flight, site.gateway.waiting._loop
    assert loop is not None

    async def take() -> Mapping[LookupId, Rule]:
        return in_flight.take([use])

    def finish() -> None:
        loop.call_soon_threadsafe(in_flight.finish, [use.lookup])

    assert {} == asyncio.run_coroutine_threadsafe(take(), loop).result()
    try:
        yield finish
    finally:
        finish()


def started(request: Callable[[], httpx.Response]) -> threading.Event:
    """Make a request on the side; return what is set once it is answered."""
    answered = threading.Event()

    def make() -> None:
        request()
        answered.set()

    threading.Thread(target=make).start()
    return answered


def _use(consent: str) -> Use:
    """Return a look-up that rests on a consent."""
    law = LegalReference(law=Name(zh="法", en="law"), article="1")
    basis = LawfulBasis(kind=LawfulBasisKind.CONSENT, reference=law)
    held = {"father": RoleBasis(basis, consent)}  # type: ignore[arg-type] # an id
    claim = Claim(
        permit=Permit(Rule.CONSENT_GIVEN, "newborn_household", 1, held),
        service="ga_household",
        provider="ga",
        requester=PORTAL,
        quota=None,
    )
    return Use(LookupId("lookup-1"), claim)


# Suspensions.


def test_a_suspension_holds_and_ends(
    site: Site, portal: httpx.Client, operator: httpx.Client
) -> None:
    """What an operator suspends is shown to all and denied at once, until resumed."""
    path = "/v1/suspensions/service/mz_marriage"
    put = operator.put(path, json={"reason": "maintenance"})
    listed = portal.get("/v1/suspensions").json()["suspended"]
    held = site.gateway.in_flight.suspended
    deleted = operator.delete(path)
    again = operator.delete(path)

    assert put.json()["suspended"] == ["service:mz_marriage"] == listed
    assert held == {"service:mz_marriage"}
    assert deleted.json()["suspended"] == []
    assert the_type(again) == "not-found"


def test_a_suspended_requester_is_shut_out_at_once(
    site: Site, operator: httpx.Client
) -> None:
    """Tokens that were given before stop to work, and start again afterwards."""
    path = f"/v1/suspensions/requester/{OTHER_PORTAL}"
    other = site.client(OTHER_PORTAL)
    before = other.get("/v1/grants").status_code
    operator.put(path, json={"reason": "an incident"})
    during = other.get("/v1/grants").status_code
    operator.delete(path)
    after = other.get("/v1/grants").status_code

    assert [before, during, after] == [200, 401, 200]


@pytest.mark.parametrize("name", [PORTAL, CITIZEN, AUDITOR])
def test_only_operators_suspend(site: Site, name: str) -> None:
    """No other scope does."""
    client = site.client(name)
    answer = client.put("/v1/suspensions/provider/ga", json={"reason": "because"})

    assert the_type(answer) == "scope-missing"
    assert site.gateway.in_flight.suspended == frozenset()


def test_what_is_not_there_cannot_be_suspended(operator: httpx.Client) -> None:
    """A slip in a name is not a silent suspension of nothing."""
    unknown = operator.put("/v1/suspensions/grant/none", json={"reason": "x"})
    kind = operator.put("/v1/suspensions/person/none", json={"reason": "x"})

    assert the_type(unknown) == "not-found"
    assert the_type(kind) == "invalid-request"


# The log.


def test_every_change_is_a_record_that_can_be_proved(
    site: Site, portal: httpx.Client, citizen: httpx.Client, auditor: httpx.Client
) -> None:
    """Asked, given, withdrawn: each is found, has a receipt, and stands in the tree."""
    asked = ask(site, portal)
    path = f"/v1/consents/{asked['id']}"
    citizen.post(f"{path}/give", json=by(FATHER, version=1))
    citizen.post(f"{path}/withdraw", json=by(FATHER))
    found = auditor.get(
        "/v1/audit/records",
        params={"case": asked["case"], "kind": "consent.changed"},
        headers={"errand-subject": f"citizen_id:{FATHER}"},
    ).json()
    event = found["records"][0]["event"]
    opened = auditor.get(f"/v1/audit/records/{event}").json()
    receipt = _published(portal, event)
    log_key, receipt_key = portal.get("/log/keys").text.splitlines()

    assert [r["outcome"] for r in found["records"]] == ["withdrawn", "given", "asked"]
    assert FATHER in opened["sections"]["subject"]["section"]
    assert FATHER not in opened["leaf"]
    assert verify_receipt(
        receipt["receipt"].encode(), parse_vkey(receipt_key)
    ).event == (event)
    verify_proof(
        parse_proof(receipt["proof"]), opened["leaf"].encode(), parse_vkey(log_key)
    )


def _published(client: httpx.Client, event: str) -> Json:
    """Return a record's receipt once the record is under a checkpoint."""
    path = f"/v1/receipts/{event}"
    until(lambda: client.get(path).json()["proof"] is not None, "proved")
    receipt: Json = client.get(path).json()
    return receipt


def test_an_auditors_question_is_a_record(
    auditor: httpx.Client,
) -> None:
    """Whoever looks into who asked what is found in the same way (rule 2)."""
    auditor.get("/v1/audit/records", params={"outcome": "nothing_such"})
    answer = auditor.get(
        "/v1/audit/records", params={"kind": "audit.query", "requester": AUDITOR}
    ).json()
    opened = [
        auditor.get(f"/v1/audit/records/{row['event']}").json()
        for row in answer["records"]
    ]

    assert any("nothing_such" in one["sections"]["matter"]["section"] for one in opened)


def test_a_suspension_is_a_record(
    operator: httpx.Client, auditor: httpx.Client
) -> None:
    """Who suspended what, and that it ended."""
    path = "/v1/suspensions/grant/newborn_marriage"
    operator.put(path, json={"reason": "an audit"})
    operator.delete(path)
    found = auditor.get(
        "/v1/audit/records", params={"kind": "policy.changed", "limit": 2}
    ).json()

    assert [r["outcome"] for r in found["records"]] == ["resumed", "suspended"]
    assert {r["requester"] for r in found["records"]} == {OPERATOR}


def test_a_later_tree_continues_an_earlier_one(
    portal: httpx.Client, auditor: httpx.Client
) -> None:
    """The proof is for sizes that are published, in their order."""
    size = int(auditor.get("/log/checkpoint").text.split("\n")[1])
    proof = portal.get("/v1/audit/proofs", params={"size1": 1, "size2": size}).json()
    reversed_ = portal.get("/v1/audit/proofs", params={"size1": 2, "size2": 1})
    beyond = portal.get("/v1/audit/proofs", params={"size1": 1, "size2": 10**9})

    assert (proof["size1"], proof["size2"]) == (1, size)
    assert reversed_.json()["errors"][0]["parameter"] == "size1"
    assert the_type(beyond) == "not-found"


@pytest.mark.parametrize("name", [PORTAL, CITIZEN, OPERATOR])
def test_only_auditors_search_the_log(site: Site, name: str) -> None:
    """No other scope does."""
    client = site.client(name)
    answers = [
        client.get("/v1/audit/records"),
        client.get("/v1/audit/records/0190c000-0000-7000-8000-000000000001"),
    ]

    assert [the_type(answer) for answer in answers] == ["scope-missing"] * 2


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": "zzz"}, "after"),
        ({"kind": "murder"}, "kind"),
        ({"since": "yesterday"}, "since"),
        ({"since": "1797000000"}, "since"),
        ({"limit": "1.0"}, "limit"),
        ({"limit": "1_0"}, "limit"),
        ({"since": "0001-01-01T00:00:00+00:01"}, "since"),
        ({"until": "9999-12-31T23:59:59-14:00"}, "until"),
        ({"shoe_size": 4}, "shoe_size"),
    ],
)
def test_a_wrong_question_is_named(
    auditor: httpx.Client, params: dict[str, str | int], parameter: str
) -> None:
    """The part of the query that is wrong is pointed out."""
    answer = auditor.get("/v1/audit/records", params=params)

    assert answer.status_code == 422
    assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


@pytest.mark.parametrize(
    "expires_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-00:01"]
)
def test_a_consent_ends_at_an_instant_that_can_be_written_down(
    site: Site, portal: httpx.Client, citizen: httpx.Client, expires_at: str
) -> None:
    """By whoever asks and by whoever gives: one that UTC has not is named."""
    asked = ask(site, portal)
    again = asking(asked["case"], expires_at=expires_at)
    body = by(FATHER, version=asked["version"], expires_at=expires_at)
    answers = [
        portal.post("/v1/consents", json=again),
        citizen.post(f"/v1/consents/{asked['id']}/give", json=body),
    ]

    for answer in answers:
        assert answer.status_code == 422
        assert ["/expires_at"] == [e["pointer"] for e in answer.json()["errors"]]


@pytest.mark.parametrize("key", ["", "k" * 256, "k\tk"])
def test_a_bad_idempotency_key_is_named_by_its_header(
    portal: httpx.Client, key: str
) -> None:
    """Whichever part of the gateway refuses it."""
    headers = {"idempotency-key": key, "prefer": "wait=0"}
    answer = portal.post("/v1/cases", json=OPENING, headers=headers)

    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert "Idempotency-Key" == error["header"]


# The process.


def test_a_second_gateway_on_the_same_data_is_refused(site: Site) -> None:
    """It is told who holds the folder and what to do, and touches nothing."""
    with (
        pytest.raises(SettingsError, match="another gateway holds the data folder"),
        data_folder(site.gateway.settings),
    ):
        pytest.fail("it was let in")


def test_more_than_one_worker_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variable that makes servers start several is named."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(SettingsError, match="WEB_CONCURRENCY"):
        build_app(parse_settings("", {}, tmp_path))


def test_a_gateway_that_is_well_says_so(site: Site) -> None:
    """Alive and ready, with its metrics, for anybody who asks."""
    anyone = site.client(None)
    live, ready = anyone.get("/health/live"), anyone.get("/health/ready")
    metrics = anyone.get("/metrics").text

    assert (
        live.json()
        == ready.json()
        == {
            "status": "ok",
            "failing": [],
            "alarms": [],
            "reasons": {},
        }
    )
    assert "errand_log_size" in metrics
    assert "\nerrand_records_owed " in metrics
    assert 'errand_requests_total{method="GET",route="/health/ready"' in metrics


def test_nothing_that_is_written_or_counted_tells_of_a_person(
    site: Site, portal: httpx.Client, citizen: httpx.Client, auditor: httpx.Client
) -> None:
    """Ids and names that passed through stand in no log line and no metric (rule 8)."""
    asked = ask(site, portal)
    citizen.post(f"/v1/consents/{asked['id']}/give", json=by(FATHER, version=1))
    citizen.post("/v1/consents/search", json=by(MOTHER))
    auditor.get("/v1/audit/records", headers={"errand-subject": f"citizen_id:{MOTHER}"})
    portal.post("/v1/cases", json={**OPENING, MOTHER: MOTHER})
    told = site.output.getvalue() + site.gateway.metrics.text()

    assert b"/v1/consents/{consent}/give" in told
    assert [v for v in (MOTHER, FATHER, "林云") if v.encode() in told] == []


def test_a_token_is_given_to_those_who_sign(site: Site) -> None:
    """A registered client gets a token; a scope it does not have is refused."""
    good, bad = site.token(PORTAL), site.token(PORTAL, scope="auditor")

    assert good.json()["scope"] == "portal:newborn_registration"
    assert good.headers["cache-control"] == "no-store"
    assert bad.status_code == 400
    assert bad.json()["error"] == "invalid_scope"


def test_a_wait_is_at_most_thirty_seconds(site: Site, portal: httpx.Client) -> None:
    """Who prefers to wait longer is told how long the gateway would have waited."""
    case = site.open_case(portal)["id"]
    headers = {"prefer": "wait=99"}
    answer = portal.post(f"/v1/cases/{case}/resolve", headers=headers)

    assert "wait=30" == answer.headers["preference-applied"]
