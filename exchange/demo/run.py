"""`errand demo`: build the stage, live through five cases, check every claim.

`run_demo` returns whether all of it held; `serve_all` keeps everything running and
says how to talk to it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
from rich.console import Console

from audit.engine_sqlite import copy_log
from audit.keys import LogKeys, load_keys
from exchange.demo.building import build, check_ports, port_count
from exchange.demo.directions import tell
from exchange.demo.folder import held_folder
from exchange.demo.logs import compare, verify_offline
from exchange.demo.people import Population
from exchange.demo.population import generate
from exchange.demo.proofs import check_list, prove_release, take_list
from exchange.demo.report import Report
from exchange.demo.scenarios import CASES, SCENARIOS
from exchange.demo.show import Show
from exchange.demo.stage import (
    AUDITOR,
    CITIZEN,
    PORTAL,
    Stage,
    running,
    write_registers,
)
from exchange.demo.story import World
from schemas.clock import Clock

SEED = 990_100
PEOPLE = 24_000
DELAY_MS = 40.0
FAMILIES = 12
_TELLING_MS = 20.0
"""From which delay on departments' delays tell anything about parallelism."""
_OVERLAP = 0.9
_PORTS = port_count(1, witnessed=True)


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be chosen about a run."""

    people: int = PEOPLE
    """How many people at least."""
    delay_ms: float = DELAY_MS
    """How long a department takes on average, half more or less."""
    folder: Path | None = None
    """Where everything is kept afterwards; None for a folder that is thrown away."""
    port: int | None = None
    """The gateway's port, the departments' follow it; None takes free ones."""
    seed: int = SEED
    families: int = FAMILIES
    """How many families open a case with a fleet, besides the one that is cut off."""


def run_demo(
    choices: Choices, console: Console, json_file: Path | None, clock: Clock
) -> bool:
    """Run the demo; return whether every claim held.

    (1) Write the registers of a synthetic town, and start everything.
    (2) Live through the cases, each with its own claims; prove a release from its
        receipt, and take the list of who asked about a mother.
    (3) Hold the departments' logs against the exchange's.
    (4) Verify a copy of the log in another process, and that the list is complete.
    (5) Print every claim, and write the report.
    """
    show, report = Show(console), Report()
    with folder_of(choices, _PORTS) as folder:
        with _town(choices, folder, show, clock) as (stage, population):  # (1)
            _introduce(stage, show)
            with _world(stage, population, show, report) as world:
                for name, scenario in SCENARIOS.items():  # (2)
                    show.heading(CASES[name])
                    scenario(world)
                keys = load_keys(stage.data_dir / "keys" / "log")
                prove_release(world, keys)
                take_list(world, folder)
        # (3), (4): when all is stopped, as a case that waits goes on by itself.
        show.heading("the log")
        copy_log(stage.data_dir / "log.db", copy := folder / "log-copy.db")
        _compare_times(report, choices)
        _compare_logs(world, copy)  # (3)
        _verify_log(world, keys, copy)  # (4)
        check_list(world, keys, copy, folder)
    return conclude(report, show, json_file)  # (5)


def conclude(report: Report, show: Show, json_file: Path | None) -> bool:
    """Print every claim, write the report, and return whether all of it held."""
    show.heading("what was claimed, and whether it held")
    show.checks(report.checks)
    if json_file is not None:
        text = orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2)
        json_file.write_bytes(text + b"\n")
    return report.held


@contextmanager
def serve_all(choices: Choices, console: Console, clock: Clock) -> Iterator[Stage]:
    """Run the gateway and the departments as long as the context is open."""
    show = Show(console)
    with (
        folder_of(choices, _PORTS) as folder,
        _town(choices, folder, show, clock, watched=False) as (stage, population),
    ):
        tell(stage, population, console)
        yield stage


@contextmanager
def folder_of(choices: Choices, ports: int) -> Iterator[Path]:
    """Hold the folder of a run: one that was chosen, or one that is thrown away.

    Args:
        choices: Among them the folder, and the first port.
        ports: How many the run takes, in a row.

    Raises:
        SettingsError: Something runs in it, something else is in it, or a port that
            was chosen is taken.
    """
    place = "free ports" if choices.port is None else f"ports from {choices.port} on"
    check = partial(check_ports, choices.port, ports)
    with held_folder(choices.folder, place, check) as folder:
        yield folder


@contextmanager
def _town(
    choices: Choices, folder: Path, show: Show, clock: Clock, *, watched: bool = True
) -> Iterator[tuple[Stage, Population]]:
    """Run a town: its registers, seven departments, and the gateway."""
    show.heading("a town that does not exist")
    population = generate(choices.seed, choices.people)
    stage = build(
        folder,
        clock.now(),
        delay_ms=choices.delay_ms,
        seed=choices.seed,
        port=choices.port,
        witnessed=True,
        watched=watched,
    )

    def prepare() -> None:
        with show.seeding(len(stage.places)) as advance:
            rows = write_registers(stage, population, advance)
        show.say(
            f"{len(population.people):,} people in {len(population.households):,}"
            f" households, {rows:,} rows in seven registers"
        )

    with running(stage, prepare):
        yield stage, population


@contextmanager
def _world(
    stage: Stage, population: Population, show: Show, report: Report
) -> Iterator[World]:
    with ExitStack() as stack:
        portal = stack.enter_context(closing(stage.client(PORTAL)))
        citizen = stack.enter_context(closing(stage.client(CITIZEN)))
        auditor = stack.enter_context(closing(stage.client(AUDITOR)))
        yield World(stage, population, portal, citizen, auditor, show, report)


def _introduce(stage: Stage, show: Show) -> None:
    """Say who runs, each as a process of its own."""
    for provider, place in stage.places.items():
        name, child = stage.pack.providers[provider].name, stage.departments[provider]
        show.say(f"{provider} {name.zh} {name.en}: {place.url}, process {child.pid}")
    show.say(f"the gateway: {stage.gateway_url}, process {stage.gateway.pid}")


def _compare_times(report: Report, choices: Choices) -> None:
    """Hold the departments' delays as they were against their sum.

    Delays that are shorter than the work around them need not meet.
    """
    if choices.delay_ms >= _TELLING_MS:
        summed = sum(case.departments_ms for case in report.cases)
        together = sum(case.together_ms for case in report.cases)
        report.check(
            "departments are asked at the same time, not one after the other",
            together < _OVERLAP * summed,
            f"{together:.0f} ms instead of {summed:.0f} ms",
        )


def _compare_logs(world: World, copy: Path) -> None:
    report = world.report
    compared = compare(world.stage.places, copy)
    report.check(
        "every department's own log is an unbroken chain", compared.chains_hold
    )
    report.check(
        "every look-up that a department got is in the exchange's log, as it says",
        compared.unproved == 0 < compared.asked,
        f"{compared.asked} look-ups",
    )


def _verify_log(world: World, keys: LogKeys, copy: Path) -> None:
    report = world.report
    report.log = verify_offline(
        str(copy), keys, report.receipts, copy.with_name("receipts")
    )
    report.check(
        "a copy of the log verifies offline, in another process", report.log.verified
    )
    report.check(
        "every receipt that the portal was given is kept",
        report.log.receipts == len(report.receipts) > 0,
        f"{report.log.receipts} receipts",
    )
    world.show.log(report.log)
