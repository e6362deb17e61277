"""`errand demo`: build the stage, live through five cases, check every claim.

`run_demo` returns whether all of it held; `serve_all` keeps everything running and
says how to talk to it.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson
from rich.console import Console

from audit.keys import load_keys
from exchange.demo.logs import accepted, compare, copy_published, verify_offline
from exchange.demo.population import Population, generate
from exchange.demo.report import Report
from exchange.demo.scenarios import CASES, MARRIED, SCENARIOS, World, opening
from exchange.demo.show import Show
from exchange.demo.stage import (
    CITIZEN,
    PORTAL,
    SCOPES,
    Stage,
    build,
    empty,
    running,
    write_registers,
)
from schemas.clock import Clock

SEED = 990_100
PEOPLE = 24_000
DELAY_MS = 40.0


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


def run_demo(
    choices: Choices, console: Console, json_file: Path | None, clock: Clock
) -> bool:
    """Run the demo; return whether every claim held.

    (1) Write the registers of a synthetic town, and start everything.
    (2) Live through the cases, each with its own claims.
    (3) Hold the departments' logs against the exchange's.
    (4) Verify a copy of the log in another process.
    (5) Print every claim, and write the report.
    """
    show, report = Show(console), Report()
    with _folder(choices) as folder:
        stage, population = _prepared(choices, folder, show, clock)  # (1)
        with running(stage), _world(stage, population, show, report) as world:
            show.say(f"seven departments and the gateway run; {stage.gateway_url}")
            for name, scenario in SCENARIOS.items():  # (2)
                show.heading(CASES[name])
                scenario(world)
            show.heading("the log")
            copy = copy_published(stage, folder / "log-copy.db")
        _compare_logs(world, copy)  # (3)
        _verify_log(world, copy)  # (4)
    show.heading("what was claimed, and whether it held")  # (5)
    show.checks(report.checks)
    if json_file is not None:
        text = orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2)
        json_file.write_bytes(text + b"\n")
    return report.held


@contextmanager
def serve_all(choices: Choices, console: Console, clock: Clock) -> Iterator[Stage]:
    """Run the gateway and the departments as long as the context is open."""
    show = Show(console)
    with _folder(choices) as folder:
        stage, population = _prepared(choices, folder, show, clock)
        with running(stage):
            _tell(stage, population, console)
            yield stage


@contextmanager
def _folder(choices: Choices) -> Iterator[Path]:
    """Return the folder of a run: one that was chosen, or one that is thrown away."""
    if choices.folder is not None:
        yield empty(choices.folder)
        return
    with tempfile.TemporaryDirectory(prefix="errand-demo-") as folder:
        yield Path(folder)


def _prepared(
    choices: Choices, folder: Path, show: Show, clock: Clock
) -> tuple[Stage, Population]:
    """Write everything down that the processes start from."""
    show.heading("a town that does not exist")
    population = generate(choices.seed, choices.people)
    now = clock.now()
    stage = build(
        folder,
        now,
        delay_ms=choices.delay_ms,
        seed=choices.seed,
        port=choices.port,
    )
    with show.seeding(len(stage.places)) as progress:
        rows = write_registers(
            stage, population, lambda _provider: progress.advance(progress.task_ids[0])
        )
    show.say(
        f"{len(population.people):,} people in {len(population.households):,}"
        f" households, {rows:,} rows in seven registers"
    )
    return stage, population


@contextmanager
def _world(
    stage: Stage, population: Population, show: Show, report: Report
) -> Iterator[World]:
    with ExitStack() as stack:
        portal = stack.enter_context(closing(stage.client(PORTAL)))
        citizen = stack.enter_context(closing(stage.client(CITIZEN)))
        yield World(stage, population, portal, citizen, show, report)


def _compare_logs(world: World, copy: Path) -> None:
    report = world.report
    compared = compare(world.stage, copy)
    report.check(
        "every department's own log is an unbroken chain", compared.chains_hold
    )
    report.check(
        "every look-up that a department got is in the exchange's log, as it says",
        compared.unproved == 0 < compared.asked,
        f"{compared.asked} look-ups",
    )
    providers = {p for p, _ in accepted(copy, world.cases["unmarried"])}
    report.check(
        "unmarried: the exchange's log: the marriage register was not asked",
        "ga" in providers and "mz" not in providers,
        f"asked: {', '.join(sorted(providers))}",
    )


def _verify_log(world: World, copy: Path) -> None:
    report = world.report
    keys = load_keys(world.stage.data_dir / "keys" / "log")
    report.log = verify_offline(copy, keys.log.verifier.vkey)
    report.check(
        "a copy of the log verifies offline, in another process", report.log.verified
    )
    world.show.log(report.log)


def _tell(stage: Stage, population: Population, console: Console) -> None:
    """Say where everything is, and how to open a case with curl."""
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    say(f"\ngateway       {stage.gateway_url}")
    for provider, place in stage.places.items():
        say(f"{provider:13} {place.url}")
    key, scope = stage.client_key_file(PORTAL), SCOPES[PORTAL]
    say(f"portal's key  {key}\n\nOpen a case as the portal does:\n")
    say(
        f"TOKEN=$({sys.executable} -m exchange.demo.portal {stage.gateway_url}"
        f" {PORTAL} {key} {scope})"
    )
    body = orjson.dumps(opening(population.families["married"], MARRIED)).decode()
    say(
        f'curl {stage.gateway_url}/v1/cases -H "authorization: Bearer $TOKEN"'
        f" -H 'content-type: application/json' -d '{body}'\n"
    )
