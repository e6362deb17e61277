"""The command line in this process, through the very entry of the program."""

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import typer
from typer.core import TyperCommand, TyperGroup

from exchange.__main__ import app, main


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the command prints
        """What it printed, as JSON."""
        return orjson.loads(self.stdout)


def errand(*arguments: str | Path, stdin: str = "") -> Done:
    """Run a command to its end.

    Raises:
        Exception: The program would have ended with a traceback.
    """
    before, out, err = (sys.argv, sys.stdin), io.StringIO(), io.StringIO()
    sys.argv, sys.stdin = ["errand", *map(str, arguments)], io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
        return Done(code, out.getvalue(), err.getvalue())
    finally:
        sys.argv, sys.stdin = before
    return Done(0, out.getvalue(), err.getvalue())


def every_command() -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Yield each command, with the words that name it."""
    whole = typer.main.get_command(app)
    assert isinstance(whole, TyperGroup)
    yield from _commands(whole, ())


def _commands(
    group: TyperGroup, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, one in group.commands.items():
        if isinstance(one, TyperGroup):
            yield from _commands(one, (*path, name))
        elif isinstance(one, TyperCommand):
            yield (*path, name), one
