"""The bench runs: not how fast, but that it measures what it says it does."""

import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from bench.asks import ASKS, people
from bench.processes import BenchError, serving
from schemas.codes import check_citizen_id
from schemas.validation import load_pack

_PACK = Path(__file__).parents[2] / "bench" / "pack"


def test_a_quick_run_measures_every_variant(tmp_path: Path) -> None:
    """A tiny run of the real processes ends well and writes every figure."""
    file = tmp_path / "case.json"
    command = (sys.executable, "-m", "bench", "--quick", "--json", str(file))
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)

    assert (0, b"") == (done.returncode, done.stderr[-2000:])
    told = orjson.loads(file.read_bytes())
    counts = {"1", "8", "32"}
    assert counts == told["b_over_a"].keys() == told["b_over_limit"].keys()
    assert {"A", "B", "D"} == told["variants"].keys()
    for variant in told["variants"].values():
        for n in counts:
            figures = variant[n]
            assert figures["cases"] >= 1
            assert figures["cpu_ms"] > 0
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    for ratios in (told["b_over_a"], told["b_over_limit"]):
        # What is shown is what is written, and not rounded again.
        assert all(f"{ratio:.3f}" in done.stdout.decode() for ratio in ratios.values())
    assert 0 < told["signatures_cpu_ms"] < told["all_signatures_cpu_ms"]
    assert told["b_over_limit"]["1"] > told["b_over_limit_with_all_signatures"]["1"]
    assert {"processor", "cores", "python", "libraries"} <= told["machine"].keys()


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """A server of an earlier run is never measured in the place of another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with (
            pytest.raises(BenchError, match="is taken"),
            serving("A", 0, port, ("-c", "raise SystemExit"), tmp_path),
        ):
            pass


def test_the_questions_are_those_of_the_pack() -> None:
    """All variants ask for the same fields of the same evidence types."""
    files = sorted(_PACK.glob("*.yaml"))
    pack = load_pack({f.name: f.read_text(encoding="utf-8") for f in files})
    asked = {
        (ask.service, ask.provider, ask.evidence_type, tuple(ask.values))
        for ask in ASKS
    }
    offered = {
        (
            s.id,
            s.provider,
            s.evidence_type,
            tuple(pack.evidence_types[s.evidence_type].fields),
        )
        for s in pack.services.values()
    }

    assert offered == asked


def test_persons_have_right_and_different_ids() -> None:
    """The cases are about different people whom the gateway accepts."""
    ids = people(2_000)

    assert 2_000 == len(set(ids))
    for one in ids:
        check_citizen_id(one)
