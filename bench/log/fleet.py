"""(2) and (5): replicas, each a process, append to one log; publishing goes on."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

import orjson

from bench.log.figures import percentile
from bench.log.replica import PACES
from bench.processes import BenchError, cpu_seconds

_STOP_S = 60.0
_Process = subprocess.Popen[str]


@dataclass(frozen=True, slots=True)
class Orders:
    """What each replica does."""

    where: str
    """URL of the database, or a folder."""
    keys: Path
    requesters: int
    """In each replica, in a closed loop."""
    cases_per_s: float
    """In each replica, at a steady pace."""
    cases: int
    """Most cases of each replica, at each pace."""
    persons: int
    seconds: float
    """How long they append at each pace."""

    def line(self) -> str:
        """Return the line that a replica reads."""
        told = {**asdict(self), "keys": str(self.keys)}
        return orjson.dumps(told).decode() + "\n"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the replicas came to, together."""

    figures: Mapping[str, float]
    lags: Sequence[float]
    """Seconds from an append to the published head that holds it."""


def measure(orders: Orders, replicas: int, server: int | None) -> dict[str, Fleet]:
    """Have replicas append at the same time; return what they came to, by pace.

    Args:
        orders: What each does.
        replicas: How many.
        server: Process id of the database's server; None where there is none.

    Raises:
        BenchError: One of them failed.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_replica(orders)) for _ in range(replicas)]
        for one in started:
            if _line(one) != "ready\n":
                raise BenchError(f"a replica did not start: {_said(one)}")
        return {pace: _run(started, pace, server) for pace in PACES}


def _run(started: Sequence[_Process], pace: str, server: int | None) -> Fleet:
    """Have all of them append at a pace."""
    before = 0.0 if server is None else cpu_seconds(server)
    for one in started:
        _tell(one, f"{pace}\n")
    lines = [_line(one) for one in started]
    after = 0.0 if server is None else cpu_seconds(server)
    if not all(lines):
        raise BenchError("a replica failed: " + " ".join(map(_said, started)))
    return _together([orjson.loads(line) for line in lines], after - before)


def _together(told: Sequence[Mapping[str, object]], server_s: float) -> Fleet:
    """Return the figures of all replicas."""
    rows = cast("Sequence[Mapping[str, float]]", told)
    latencies = [x for one in told for x in cast("list[float]", one["latencies"])]
    lags = [x for one in told for x in cast("list[float]", one["lags"])]
    records = sum(one["records"] for one in rows)
    seconds = max(one["ended"] for one in rows) - min(one["began"] for one in rows)
    figures = {
        "records": records,
        "per_second": records / seconds,
        "cpu_us": 1e6 * (sum(one["cpu_s"] for one in rows) + server_s) / records,
        "server_cpu_us": 1e6 * server_s / records,
        "p50_ms": 1_000 * percentile(latencies, 0.5),
        "p99_ms": 1_000 * percentile(latencies, 0.99),
    }
    return Fleet(figures, lags)


@contextmanager
def _replica(orders: Orders) -> Iterator[_Process]:
    """Run a replica while the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.log.replica"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _tell(process, orders.line())
        yield process
    finally:
        try:
            process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _tell(process: _Process, line: str) -> None:
    pipe = cast("IO[str]", process.stdin)
    pipe.write(line)
    pipe.flush()


def _line(process: _Process) -> str:
    return cast("IO[str]", process.stdout).readline()


def _said(process: _Process) -> str:
    """Return what a replica that has ended said of it."""
    if process.poll() is None:
        return ""
    return cast("IO[str]", process.stderr).read()[-2_000:]
