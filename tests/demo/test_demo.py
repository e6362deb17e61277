"""The demo itself, run as anybody runs it."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.engine_sqlite import copy_log
from audit.keys import load_keys
from exchange.demo.departments import Place
from exchange.demo.logs import compare, verify_offline
from exchange.demo.population import generate
from exchange.demo.registers import REGISTERS
from exchange.demo.run import SEED
from exchange.demo.scenarios import SCENARIOS

pytestmark = pytest.mark.demo

_LIMIT_S = 480
CASE = {
    *("name", "requirements", "papers", "trips", "final"),
    *("wall_ms", "departments_ms", "together_ms", "tally", "first_answer"),
}
"""Members of a case; none is ever left out."""
REQUIREMENT = {
    *("id", "outcome", "provider", "ms", "fields", "reason", "hint", "waits_for"),
}
"""Members of a requirement, likewise."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the demo: what it reports, and what it left behind."""

    report: dict[str, Any]
    folder: Path

    @property
    def log(self) -> Path:
        """The copy of the log that was verified."""
        return self.folder / "log-copy.db"

    @property
    def places(self) -> dict[str, Place]:
        """The departments' folders."""
        return {p: Place(p, self.folder / p, 0) for p in REGISTERS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the demo once, with departments that hardly delay."""
    folder: Path = tmp_path_factory.mktemp("demo")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "exchange", "demo"),
            *("--delay-ms", "1", "--people", "20000"),
            *("--json", str(folder / "report.json"), "--folder", str(folder / "kept")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # it stops what it started
        output, _ = process.communicate()
    assert 0 == process.returncode, output[-8000:]
    return Run(orjson.loads((folder / "report.json").read_bytes()), folder / "kept")


@pytest.fixture
def report(run: Run) -> dict[str, Any]:
    """Return what the run reports."""
    return run.report


def case(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one case of the report."""
    found: dict[str, Any] = next(c for c in report["cases"] if c["name"] == name)
    return found


def outcomes(report: dict[str, Any], name: str) -> dict[str, str]:
    """Return the outcome of each requirement of a case, by id."""
    return {one["id"]: one["outcome"] for one in case(report, name)["requirements"]}


def test_the_report_has_every_case_in_the_form_that_is_promised(
    report: dict[str, Any],
) -> None:
    """Names and types are those of the documentation; tools read them."""
    assert {"cases", "log", "claims", "proof"} == set(report)
    assert {"records", "verified"} == set(report["log"])
    assert list(SCENARIOS) == [one["name"] for one in report["cases"]]
    for one in report["cases"]:
        assert CASE == set(one)
        assert {"before", "after"} == set(one["papers"]) == set(one["trips"])
        assert {"tally", "waiting"} == set(one["first_answer"])
        assert one["wall_ms"] > 0
        assert one["departments_ms"] > 0
        for tally in (one["tally"], one["first_answer"]["tally"]):
            assert {"settled", "not_applicable", "open", "failed"} == set(tally)
        for line in (*one["requirements"], *one["first_answer"]["waiting"]):
            assert REQUIREMENT == set(line)


def test_the_gateway_says_which_source_fails_and_when_it_works_again(run: Run) -> None:
    """The police are down for a while: operators read it once for each service."""
    written = (run.folder / "gateway.log").read_bytes().splitlines()
    lines = [orjson.loads(line) for line in written if b'"service_' in line]
    told = [(one["event"], one["service"], one.get("why")) for one in lines]
    failing = [service for event, service, _ in told if event == "service_failing"]

    assert {"ga_identity"} <= set(failing)
    assert len(failing) == len(set(failing))
    assert all(why for event, _, why in told if event == "service_failing")
    assert ("service_works_again", "ga_identity", None) in told


def test_the_report_says_what_the_screen_shows(report: dict[str, Any]) -> None:
    """Claims, the proof under the witness's head, whom a case waits for, and why."""
    married, disputed = case(report, "married"), case(report, "near_match")
    (marriage,) = [r for r in disputed["requirements"] if r["id"] == "marriage"]
    first = married["first_answer"]["waiting"]

    assert len(report["claims"]) > 30
    assert all(claim["held"] and claim["text"] for claim in report["claims"])
    assert report["proof"]["holds"]
    assert report["proof"]["cosigned"]
    assert {"person", "provider"} <= {one["waits_for"]["owner"] for one in first}
    assert {"step", "chained"} <= {one["reason"] for one in first}
    assert "one_character_differs" == marriage["hint"]
    assert (True, False) == (married["final"], disputed["final"])
    for one in report["cases"]:
        parts = one["tally"]["settled"] + one["tally"]["open"] + one["tally"]["failed"]
        assert len(one["requirements"]) == parts


def test_married_parents_hand_in_nothing(report: dict[str, Any]) -> None:
    """25 hand-ins and 4 trips become none."""
    papers, trips = case(report, "married")["papers"], case(report, "married")["trips"]

    assert {"before": 25, "after": 0} == papers
    assert {"before": 4, "after": 0} == trips


def test_an_unmarried_mother_has_no_marriage_to_prove(report: dict[str, Any]) -> None:
    """The requirement does not apply, and neither does the father's identity."""
    found = outcomes(report, "unmarried")

    assert "not_applicable" == found["marriage"] == found["father_identity"]


def test_a_record_one_digit_off_stays_a_conflict(report: dict[str, Any]) -> None:
    """What depends on it waits, and what does not is settled."""
    found = outcomes(report, "near_match")

    assert "conflict" == found["marriage"]
    assert "pending" == found["child_registration"]
    assert found["vaccination_record"] in {"retrieved", "reused"}


def test_the_log_was_verified_offline(report: dict[str, Any]) -> None:
    """Another process verified the copy, and there is something in it."""
    assert report["log"]["verified"] is True
    assert report["log"]["records"] > 100


def test_a_department_that_was_asked_without_a_record_would_show(
    run: Run, tmp_path: Path
) -> None:
    """The logs agree; with the exchange's last records gone, they no longer do."""
    cut = shorter(run.log, tmp_path / "cut.db")

    assert 0 == compare(run.places, run.log).unproved
    assert compare(run.places, cut).unproved > 0


def test_a_log_that_was_cut_does_not_verify(run: Run, tmp_path: Path) -> None:
    """The verification in another process fails, and says so."""
    keys = load_keys(run.folder / "data" / "keys" / "log")

    assert verify_offline(str(run.log), keys, {}, tmp_path / "whole").verified
    cut = shorter(run.log, tmp_path / "cut.db")
    assert not verify_offline(str(cut), keys, {}, tmp_path / "cut").verified


def test_a_changed_department_log_shows(run: Run, tmp_path: Path) -> None:
    """Each department's log is a hash chain of its own."""
    shutil.copytree(run.folder / "mz", tmp_path / "mz")
    place = Place("mz", tmp_path / "mz", 0)
    with closing(sqlite3.connect(place.log)) as log, log:
        log.execute("UPDATE entries SET outcome = 'not-held' WHERE seq = 1")

    assert compare(run.places, run.log).chains_hold
    assert not compare({"mz": place}, run.log).chains_hold


def test_the_gateways_own_log_names_nobody(run: Run) -> None:
    """Neither an id nor a name of the cases' families is in what the gateway wrote."""
    written = (run.folder / "gateway.log").read_text(encoding="utf-8")
    families = generate(SEED, 100).families.values()
    people = [p for f in families for p in (f.mother, f.father) if p is not None]

    assert "attempt_ended" in written
    assert [] == [p.id for p in people if p.id in written]
    assert [] == [p.name for p in people if p.name in written]


def shorter(log: Path, target: Path) -> Path:
    """Return a copy of a log without its second half."""
    copy_log(log, target)
    with closing(sqlite3.connect(target)) as copied, copied:
        copied.execute("DROP TRIGGER entry_is_never_removed")
        copied.execute("DELETE FROM entry WHERE seq > (SELECT max(seq) FROM entry) / 2")
    return target
