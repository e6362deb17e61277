"""The demo itself, run as anybody runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from exchange.demo.scenarios import SCENARIOS

pytestmark = pytest.mark.demo

_LIMIT_S = 240


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the demo once, with departments that hardly delay, and read its report."""
    file: Path = tmp_path_factory.mktemp("demo") / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "exchange", "demo"),
            *("--delay-ms", "1", "--people", "20000", "--json", str(file)),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=_LIMIT_S,
    )
    assert 0 == done.returncode, done.stdout[-6000:] + done.stderr[-2000:]
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    return found


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
    assert list(SCENARIOS) == [one["name"] for one in report["cases"]]
    for one in report["cases"]:
        assert {"before", "after"} == set(one["papers"]) == set(one["trips"])
        assert one["wall_ms"] > 0
        assert one["departments_ms"] > 0
        for line in one["requirements"]:
            assert {"id", "outcome", "provider", "ms", "fields"} == set(line)


def test_every_claim_held(report: dict[str, Any]) -> None:
    """Each claim is named, so that one that fails can be told."""
    assert [] == [one["claim"] for one in report["checks"] if not one["held"]]
    assert len(report["checks"]) > 20


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
