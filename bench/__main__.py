"""`make bench`: one case of five look-ups, governed, ungoverned, and its floor.

The gateway under test has a core of its own; departments and load share the other.
The variants take turns within each round, so that a slow phase of the machine meets
all of them; what counts is the ratio of medians within one run.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import uvloop
from rich.console import Console

from bench.load import run
from bench.processes import BenchError, Cores, cores, cpu_seconds, on_core
from bench.report import Result, Row, Signatures, show
from bench.stage import VARIANTS, Running, running
from schemas.errors import ErrandError

RESULTS = Path(__file__).parent / "results" / "case.json"
_QUIET = 1.5
"""A load average above this spoils the figures."""
_SETTLE_S = 1.2
"""How long after a run its CPU time is read: what was put off counts as well."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    rounds: int
    seconds: float
    """How long each variant runs, at each number in flight, in each round."""
    most: int
    """Cases after which a run ends earlier."""
    persons: int
    """How many persons the cases are about, in turn."""
    settle_s: float = _SETTLE_S
    idle_s: float = 5.0
    in_flight: tuple[int, ...] = (1, 8, 32)


QUICK = Options(rounds=1, seconds=0.5, most=40, persons=8, settle_s=0.1, idle_s=0.1)
"""Enough to see that everything works; its figures mean nothing."""


def measure(options: Options, console: Console) -> Result:
    """Run everything and return what was measured.

    (1) Start departments and gateways on their cores, and check a first answer.
    (2) Warm each up, so that every person is known.
    (3) See what each takes while nobody asks it anything.
    (4) In each round, take the variants in turn, in another order each time.

    Raises:
        BenchError: Something did not start, or answered wrongly.
    """
    load, where = os.getloadavg()[0], cores()
    rows: list[Row] = []
    signatures: list[Signatures] = []
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="errand-bench-")
        folder = Path(stack.enter_context(temporary))
        stage = stack.enter_context(running(folder, where, options.persons))  # (1)
        os.sched_setaffinity(0, {where.others})
        for variant in VARIANTS:  # (2)
            warm = Options(1, 60.0, options.persons + 32, options.persons)
            _measure(stage, variant, 8, warm, 0.0)
        idle = _idle(stage, options)  # (3)
        for turn in range(options.rounds):  # (4)
            console.print(f"round {turn + 1} of {options.rounds}")
            rows += [
                _measure(stage, variant, n, options, idle[variant])
                for variant in _in_turn(turn)
                for n in options.in_flight
            ]
            signatures.append(_signatures(where, options))
    told = {k: v for k, v in asdict(options).items() if k != "in_flight"}
    return Result(rows, signatures, idle, load, told)


def _in_turn(turn: int) -> list[str]:
    names = list(VARIANTS)
    place = turn % len(names)
    return names[place:] + names[:place]


def _idle(stage: Running, options: Options) -> dict[str, float]:
    """Return the CPU seconds a second that each gateway takes while it is idle."""
    before = {name: cpu_seconds(pid) for name, pid in stage.gateways.items()}
    time.sleep(options.idle_s)
    return {
        name: (cpu_seconds(pid) - before[name]) / options.idle_s
        for name, pid in stage.gateways.items()
    }


def _measure(
    stage: Running, variant: str, in_flight: int, options: Options, idle: float
) -> Row:
    """Run one variant, and wait until what it put off is done.

    What it takes while idle is taken off for the waiting alone: while it runs, that
    is a part of what its cases cost.
    """
    gateway, departments = stage.gateways[variant], stage.departments
    before, asked = cpu_seconds(gateway), cpu_seconds(departments)
    load = run(stage.targets[variant], in_flight, options.seconds, options.most)
    measured = uvloop.run(load)
    asked = cpu_seconds(departments) - asked
    time.sleep(options.settle_s)
    spent = cpu_seconds(gateway) - before - idle * options.settle_s
    if measured.count == 0 or spent <= 0:
        raise BenchError(f"{variant} took no CPU time: another server answers")
    return Row(
        variant=variant,
        in_flight=in_flight,
        cases=measured.count,
        cpu_ms=1_000 * spent / measured.count,
        wall_ms=1_000 * measured.seconds / measured.count,
        p50_ms=1_000 * measured.percentile(0.5),
        p99_ms=1_000 * measured.percentile(0.99),
        departments_load=asked / measured.seconds,
    )


def _signatures(where: Cores, options: Options) -> Signatures:
    """Return the CPU milliseconds of signatures alone."""
    seconds = min(1.0, options.seconds)
    arguments = ("-m", "bench.signatures", str(seconds))
    floor, whole = on_core(where.gateway, arguments, seconds + 60).split()
    return Signatures(1_000 * float(floor), 1_000 * float(whole))


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write `bench/results/case.json`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--persons", type=int, default=512)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write")
    given = parser.parse_args(arguments)
    options = (
        QUICK
        if given.quick
        else Options(given.rounds, given.seconds, 100_000, given.persons)
    )
    console = Console()
    if os.getloadavg()[0] > _QUIET:
        console.print("the machine is busy: trust the ratios little, the times less")
    try:
        result = measure(options, console)
    except ErrandError as error:
        sys.exit(f"bench: {error}")
    show(result, console)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    document = orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2)
    given.json.write_bytes(document + b"\n")


if __name__ == "__main__":
    main()
