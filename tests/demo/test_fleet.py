"""The fleet's demo, run as anybody runs it: three gateways on PostgreSQL, two kills."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from exchange.demo.report import OPEN

pytestmark = pytest.mark.demo

_LIMIT_S = 480


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run it once, with few families and departments that hardly delay."""
    file: Path = tmp_path_factory.mktemp("fleet") / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "exchange", "demo", "--fleet"),
            *("--delay-ms", "1", "--people", "200", "--families", "3"),
            *("--json", str(file)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert 0 == done.returncode, done.stdout[-4000:] + done.stderr[-2000:]
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    return found


def test_every_case_settles_though_a_gateway_and_the_publisher_are_killed(
    report: dict[str, Any],
) -> None:
    """Three families, and the one whose gateway was killed while it asked for them."""
    unsettled = {
        case["name"]: [r["id"] for r in case["requirements"] if r["outcome"] in OPEN]
        for case in report["cases"]
    }

    assert ["gateway-2", "publisher"] == report["killed"]
    assert {"waiting-1", "waiting-2", "waiting-3", "source_down"} == set(unsettled)
    assert [[], [], [], []] == list(unsettled.values())


def test_the_fleets_log_verifies_in_another_process(report: dict[str, Any]) -> None:
    """Three gateways wrote one log, without a gap."""
    assert report["log"]["verified"]
    assert report["log"]["records"] > 100


def test_the_fleets_report_says_what_was_claimed(report: dict[str, Any]) -> None:
    """As without a fleet; no witness is there, so there is no proof under its head."""
    assert all(claim["held"] for claim in report["claims"])
    assert any("gateway was killed" in claim["text"] for claim in report["claims"])
    assert report["proof"] is None
    assert all(one["first_answer"]["tally"] for one in report["cases"])
