"""The demo's departments answer from their registers, and perform their own steps."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from connectors.department.config import load_config
from connectors.department.log import read_log, verify_log
from connectors.jose import SigningKey
from connectors.protocol import (
    IntentClaims,
    LookupClaims,
    OpenedEvidence,
    open_evidence,
    sign_lookup,
)
from exchange.demo.building import build
from exchange.demo.departments import CONFIG
from exchange.demo.lines import NO_TLS
from exchange.demo.people import Population
from exchange.demo.population import generate
from exchange.demo.portal import add_up, delays_since
from exchange.demo.sources import SOURCES
from exchange.demo.stage import GATEWAY, PORTAL, Stage, write_registers
from exchange.demo.steps import COUNTERS
from schemas.clock import SystemClock
from schemas.codes import check_citizen_id
from schemas.directory import PublicKey
from schemas.evidence import Mode
from schemas.model import Slug

CERTIFICATE_FIELDS = ("CSYXZMBH", "XSE_XM", "XSE_XBDM", "XSE_CSSJ", "QF_RQ")
HOUSEHOLD_FIELDS = ("household_no", "relation_to_head", "region")


@dataclass(frozen=True, slots=True)
class Town:
    """The departments that run, and a gateway's key that they trust."""

    stage: Stage
    population: Population
    gateway_key: SigningKey

    def pinned(self) -> list[PublicKey]:
        """Return the keys of all departments, as each has them pinned."""
        deployment = (self.stage.folder / "packs" / "deployment.yaml").read_text()
        providers = yaml.safe_load(deployment)["providers"].values()
        return [PublicKey.model_validate(p["keys"][0]) for p in providers]

    def ask(
        self,
        evidence_type: str,
        keys: dict[str, str],
        fields: tuple[str, ...] = (),
        match: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Look something up at the department that holds it, as a gateway does."""
        provider = next(p for p, held in SOURCES.items() if evidence_type in held)
        now = int(time.time())
        claims = LookupClaims(
            iss=GATEWAY,
            aud=provider,
            jti=os.urandom(16).hex(),
            iat=now,
            exp=now + 60,
            service="some_service",
            evidence_type=evidence_type,
            mode=Mode.VERIFY if match else Mode.RETRIEVE,
            keys=keys,
            fields=fields,
            match=match or {},
            subject_salt="A" * 22,
            requester=PORTAL,
            purpose="newborn_registration",
            matter="newborn@1",
            basis={"mother": "statutory_duty"},
            grant="some_grant",
            intent=IntentClaims(
                event="0" * 16, index=0, leaf_hash="A" * 43, log="errand.example/log"
            ),
        )
        return httpx.post(
            f"{self.stage.places[provider].url}/lookups",
            content=sign_lookup(claims, self.gateway_key),
            headers={"content-type": "application/jwt"},
            verify=NO_TLS,
        )

    def opened(self, answer: httpx.Response) -> OpenedEvidence:
        """Return the evidence in an answer, verified."""
        assert 200 == answer.status_code, answer.text
        return open_evidence(answer.text, self.pinned())

    def file(self, step: str, *presentations: str) -> httpx.Response:
        """File a step at the first of its counters, as the portal does."""
        provider = COUNTERS[step][0]
        filing = {"step": step, "requester": PORTAL, "presentations": presentations}
        return httpx.post(
            f"{self.stage.places[provider].url}/demo/steps", json=filing, verify=NO_TLS
        )

    def certificate(self, case: str) -> httpx.Response:
        """Look up the birth certificate of the child of a demo's case."""
        family = self.population.families[case]
        keys = {"mother_id": family.mother.id, "birth_date": f"{family.born_on}"}
        return self.ask("birth_certificate@1", keys, CERTIFICATE_FIELDS)

    def household(self, case: str) -> httpx.Response:
        """Look up the household of the mother of a demo's case."""
        mother = self.population.families[case].mother
        return self.ask("household@1", {"id": mother.id}, HOUSEHOLD_FIELDS)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Run four departments, each as a process, on a small population."""
    folder: Path = tmp_path_factory.mktemp("town")
    stage = build(folder, SystemClock().now(), delay_ms=1, seed=7)
    population = generate(seed=7, at_least=300)
    write_registers(stage, population, lambda _provider: None)
    key = SigningKey.from_file(stage.data_dir / "keys" / "lookup.pem")
    with ExitStack() as stack:
        children = [stage.departments[name] for name in ("ga", "wj", "mz", "jk")]
        for child in children:
            child.start()
            stack.callback(child.stop)
        for child in children:
            child.wait()
        yield Town(stage, population, key)


def test_the_configuration_offers_every_evidence_type_that_the_pack_assigns(
    town: Town,
) -> None:
    """What the pack says a department holds, with all fields, its service offers."""
    for service in town.stage.pack.services.values():
        config = load_config(town.stage.places[service.provider].folder / CONFIG)
        declared = town.stage.pack.evidence_types[service.evidence_type]

        assert set(declared.fields) == set(
            config.evidence_types[service.evidence_type].fields
        )
        assert {frozenset(k.name for k in keys) for keys in declared.keys} == {
            frozenset(keys)
            for keys in config.evidence_types[service.evidence_type].keys
        }


def test_what_a_department_says_of_anybody_fits_the_published_schema(
    town: Town,
) -> None:
    """Each field of each record is as the evidence type's JSON Schema wants it."""
    one = town.population.births[0]
    asked: dict[Slug, dict[str, str]] = {
        "identity@1": {"id": one.mother.id},
        "household@1": {"id": one.mother.id},
        "marriage@1": {"id": one.mother.id},
        "birth_certificate@1": {"CSYXZMBH": one.certificate},
    }
    for ref, keys in asked.items():
        fields = tuple(town.stage.pack.evidence_types[ref].fields)
        values = town.opened(town.ask(ref, keys, fields)).disclosed.values

        town.stage.pack.validator(ref)(values)
        assert set(fields) == set(values)


def test_a_name_is_compared_and_nothing_is_told(town: Town) -> None:
    """In verify mode the police say yes or no."""
    mother = town.population.families["married"].mother
    right = town.ask("identity@1", {"id": mother.id}, match={"name": mother.name})
    wrong = town.ask("identity@1", {"id": mother.id}, match={"name": "某某"})

    assert town.opened(right).claims.match is True
    assert town.opened(wrong).claims.match is False
    assert {} == town.opened(right).disclosed.values


def test_one_marriage_record_names_a_husband_who_is_one_digit_off(town: Town) -> None:
    """The register of the near match differs from the certificate."""
    family = town.population.families["near_match"]
    answer = town.ask("marriage@1", {"id": family.mother.id}, ("spouse_id",))
    spouse = town.opened(answer).disclosed.values["spouse_id"]

    assert family.father is not None
    assert spouse != family.father.id
    assert str(spouse)[:15] == family.father.id[:15]


def test_the_police_enter_a_newborn_and_give_it_a_valid_id(town: Town) -> None:
    """The published test vector is what they give: first girl of that day."""
    filed = town.file(
        "n3", town.certificate("married").text, town.household("married").text
    )
    certificate = town.population.births[0].certificate
    fields = ("id", "name", "relation_to_head", "police_station", "registered_on")
    answer = town.ask("child_registration@1", {"CSYXZMBH": certificate}, fields)
    child = town.opened(answer).disclosed.values

    assert {"performed": True, "verified": 2} == filed.json()
    check_citizen_id(str(child["id"]))
    assert "99010120260108004X" == child["id"]
    assert town.population.births[0].child_name == child["name"]
    assert "30" == child["relation_to_head"]


def test_a_step_that_is_filed_twice_is_performed_once(town: Town) -> None:
    """The second filing finds the work done, and the child keeps its id."""
    papers = (town.certificate("consent").text, town.household("consent").text)
    certificate = town.population.births[2].certificate
    keys = {"CSYXZMBH": certificate}
    ids = []
    for _ in range(2):
        assert 200 == town.file("n3", *papers).status_code
        answer = town.ask("child_registration@1", keys, ("id",))
        ids.append(town.opened(answer).disclosed.values["id"])

    assert ids[0] == ids[1]


def test_a_child_joins_its_grandmothers_household_as_grandchild(town: Town) -> None:
    """The unmarried mother is a daughter there, so her son is a grandson."""
    papers = (town.certificate("unmarried").text, town.household("unmarried").text)
    town.file("n3", *papers)
    keys = {"CSYXZMBH": town.population.births[1].certificate}
    answer = town.ask("child_registration@1", keys, ("relation_to_head",))

    assert "43" == town.opened(answer).disclosed.values["relation_to_head"]


def test_a_step_without_the_evidence_it_rests_on_is_not_performed(town: Town) -> None:
    """Without the household the police don't know where the child belongs."""
    filed = town.file("n3", town.certificate("near_match").text)

    assert 422 == filed.status_code
    assert (
        "field `household_no` of `household` was not proved" == (filed.json()["detail"])
    )


def test_a_step_on_evidence_that_was_changed_is_not_performed(town: Town) -> None:
    """A disclosure with another value breaks the department's signature."""
    sd_jwt = town.certificate("near_match").text
    jwt, *disclosures, _ = sd_jwt.split("~")
    changed = "~".join([jwt, disclosures[0][:-2] + "AA", *disclosures[1:], ""])
    filed = town.file("n2", changed)

    assert 422 == filed.status_code
    assert filed.json()["detail"].startswith("a presentation does not hold")


def test_the_vaccination_card_comes_with_the_doses_given_so_far(town: Town) -> None:
    """After step n2 the card is in the register, with its doses in order."""
    filed = town.file("n2", town.certificate("source_down").text)
    keys = {"CSYXZMBH": town.population.births[3].certificate}
    answer = town.ask("vaccination@1", keys, ("card_no", "doses"))
    doses: Any = town.opened(answer).disclosed.values["doses"]
    dates = [date.fromisoformat(dose["date"]) for dose in doses]

    assert 200 == filed.status_code
    assert dates == sorted(dates)
    assert town.population.births[3].born_on <= dates[0]


def test_departments_delay_look_ups_and_tell_by_how_much(town: Town) -> None:
    """Each delay is told with its begin, half more or less than chosen."""
    url = town.stage.places["mz"].url
    mother = town.population.families["married"].mother
    since_ms = time.monotonic() * 1000
    town.ask("marriage@1", {"id": mother.id}, ("status",))
    took = delays_since([url], since_ms)

    assert 0.5 <= took.sum_ms <= 1.5
    assert pytest.approx(took.sum_ms, abs=1e-3) == took.together_ms


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_what_runs_at_the_same_time_counts_once(spans: list[tuple[int, int]]) -> None:
    """Together is the number of milliseconds in which anybody was at work."""
    took = add_up(spans)
    busy = {ms for begin, length in spans for ms in range(begin, begin + length)}

    assert sum(length for _, length in spans) == took.sum_ms
    assert len(busy) == took.together_ms


def test_departments_keep_a_log_of_their_own(town: Town) -> None:
    """Every look-up is in the hash chain of the department that answered it."""
    town.certificate("married")
    log = town.stage.places["wj"].log

    assert verify_log(log).count == len(list(read_log(log))) > 0
