"""The command `errand demo`."""

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from exchange.demo.fleet import run_fleet
from exchange.demo.run import (
    DELAY_MS,
    FAMILIES,
    PEOPLE,
    Choices,
    run_demo,
    serve_all,
)
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
        int, typer.Option(min=2, help="With --fleet: how many families open a case.")
    ] = FAMILIES,
    port: Annotated[
        int | None,
        typer.Option(help="The gateway's port; the departments' follow it."),
    ] = None,
) -> None:
    """Run a newborn's case through seven departments, and check all of it."""
    # So that what was started is stopped, whichever way the demo is ended.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    kept = folder or (_FOLDER if keep or serve else None)
    choices = Choices(
        people=people, delay_ms=delay_ms, folder=kept, port=port, families=families
    )
    # Where nothing says how wide the output is, the tables decide.
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    clock = SystemClock()
    try:
        if serve:
            held = _serve(choices, console, clock)
        elif fleet:
            held = run_fleet(choices, console, json, clock)
        else:
            held = run_demo(choices, console, json, clock)
    except ErrandError as error:
        Console(stderr=True).print(f"errand demo: {error}", markup=False)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if held else 1)


def _serve(choices: Choices, console: Console, clock: Clock) -> bool:
    """Keep everything running until it is told to stop (SIGINT, SIGTERM)."""
    choices = replace(choices, port=choices.port or _SERVE_PORT)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    with serve_all(choices, console, clock):
        stop.wait()
    return True
