"""The command `errand demo`."""

import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exchange.cli.console import Exit
from exchange.demo.children import watch
from exchange.demo.fleet import run_fleet
from exchange.demo.run import (
    DELAY_MS,
    FAMILIES,
    PEOPLE,
    Choices,
    run_demo,
    serve_all,
)
from exchange.files import check_writable
from schemas.clock import Clock, SystemClock
from schemas.errors import ErrandError

_FOLDER = Path("var/demo")
_SERVE_PORT = 8800
_WIDTH = 120


def demo(  # noqa: PLR0913 - the options of the command
    *,
    json: Annotated[
        Path | None, typer.Option(help="Write what was found to this file, as JSON.")
    ] = None,
    delay_ms: Annotated[
        float, typer.Option(min=0, help="How long a department takes, ±50 %.")
    ] = DELAY_MS,
    people: Annotated[
        int, typer.Option(min=100, help="How many people the town has at least.")
    ] = PEOPLE,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep everything that the run wrote.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where to keep it; it is emptied first.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep everything running until Ctrl-C.")
    ] = False,
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="Three gateways on PostgreSQL, and kill one."),
    ] = False,
    families: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"With --fleet: how many families open a case ({FAMILIES})."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_500, help="The gateway's port; the departments' follow it."
        ),
    ] = None,
) -> None:
    """Run a newborn's case through seven departments, and check all of it."""
    # So that what was started is stopped, whichever way the demo is ended.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    _refuse_together("--serve", serve, {"--fleet": fleet, "--json": json is not None})
    _refuse_without("--fleet", fleet, {"--families": families is not None})
    choices = Choices(
        people=people,
        delay_ms=delay_ms,
        folder=folder or (_FOLDER if keep or serve else None),
        port=port or (_SERVE_PORT if serve else None),
        families=families or FAMILIES,
    )
    try:
        if json is not None:
            check_writable(json, "--json")
        held = _run(choices, json, serve=serve, fleet=fleet)
    except ErrandError as error:
        sys.stderr.write(f"errand demo: {error}\n")
        raise typer.Exit(Exit.UNUSABLE) from None
    raise typer.Exit(0 if held else Exit.WRONG)


def _run(choices: Choices, json: Path | None, *, serve: bool, fleet: bool) -> bool:
    """Do what was chosen; return whether all of it held."""
    # Where nothing says how wide the output is, the tables decide.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    clock = SystemClock()
    if serve:
        return _serve(choices, console, clock)
    if fleet:
        return run_fleet(choices, console, json, clock)
    return run_demo(choices, console, json, clock)


def _refuse_together(option: str, given: bool, others: Mapping[str, bool]) -> None:  # noqa: FBT001 - reads as a sentence
    """Refuse options that mean nothing beside another.

    Raises:
        BadParameter: One was given.
    """
    for other, also in others.items():
        if given and also:
            raise typer.BadParameter(
                f"does not go together with `{option}`", param_hint=other
            )


def _refuse_without(option: str, given: bool, others: Mapping[str, bool]) -> None:  # noqa: FBT001 - as above
    """Refuse options that mean nothing without another.

    Raises:
        BadParameter: One was given.
    """
    for other, also in others.items():
        if also and not given:
            raise typer.BadParameter(f"takes `{option}` as well", param_hint=other)


def _serve(choices: Choices, console: Console, clock: Clock) -> bool:
    """Keep everything running until it is told to stop (SIGINT, SIGTERM).

    Raises:
        StageError: A process did not start, or ended by itself: the others are stopped.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with serve_all(choices, console, clock) as stage:
        watch(stage.children, stop)
    return True
