"""`errand department try`: whether a department speaks the protocol."""

import subprocess
import sys
from pathlib import Path

import orjson

from connectors.conformance import CHECKS
from connectors.department.app import build_app
from schemas.clock import SystemClock
from tests.connectors.examples import MARRIAGE, a_config, a_source
from tests.connectors.servers import serving
from tests.connectors.test_conformance import a_gullible_department, a_target


def _try(target: Path, *options: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "exchange", "department", "try", target, *options],
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_a_department_that_speaks_the_protocol_passes(tmp_path: Path) -> None:
    """Every check is named, and the status is 0."""
    config = a_config(tmp_path, evidence_types={MARRIAGE.ref: a_source(as_of="now")})
    with serving(build_app(config, clock=SystemClock())) as url:
        done = _try(a_target(tmp_path, url), "--json")

    results = orjson.loads(done.stdout)
    assert (0, []) == (done.returncode, [r for r in results if not r["passed"]])
    assert list(CHECKS) == [r["check"] for r in results]
    assert b"" == done.stderr


def test_whoever_names_no_published_type_is_told_what_is_not_judged(
    tmp_path: Path,
) -> None:
    """Nobody takes the signs for more than they say."""
    target = a_target(tmp_path, "http://127.0.0.1:9")
    lines = target.read_text("utf-8").splitlines(keepends=True)
    target.write_text("".join(x for x in lines if "published" not in x), "utf-8")

    assert b"values and their age are not judged" in _try(target).stderr


def test_a_department_that_checks_nothing_is_told_what_it_lacks(tmp_path: Path) -> None:
    """The status says so, and the table names what failed."""
    with serving(a_gullible_department()) as url:
        done = _try(a_target(tmp_path, url))

    assert 1 == done.returncode
    assert "✗" in done.stdout.decode()
