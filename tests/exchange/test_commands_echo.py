"""No command repeats what could be a person's value, wherever it slipped in."""

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml
from typer.core import TyperArgument, TyperCommand, TyperOption

from exchange.__main__ import main
from exchange.cli.demo import demo
from tests.harness.application import AUDITOR, OPERATOR, PORTAL, Site
from tests.harness.commands import every_command

PLANTED = ("990101199310050022", "mother.name=张三丰", "李四")
"""An id, a name behind an `=` where an option takes none, and the shortest name."""
VALUES = tuple(one.rpartition("=")[2] for one in PLANTED)

RUN_ON = ("serve", "publish", "department serve", "witness serve")
"""Never end by themselves: they are given a file that is not there."""
MADE_PUBLIC = {("witness keygen", "name")}
"""Told to print a key with this very name in it."""


class Slip(NamedTuple):
    """One option or argument of one command."""

    command: tuple[str, ...]
    of: TyperCommand
    option: TyperArgument | TyperOption

    @property
    def name(self) -> str:
        """As it is read in a list of tests."""
        return " ".join([*self.command, str(self.option.name)])


def _all_commands() -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    inner = typer.Typer(add_completion=False)
    inner.command()(demo)
    its_demo = typer.main.get_command(inner)
    assert isinstance(its_demo, TyperCommand)
    for path, one in every_command():
        yield path, its_demo if path == ("demo",) else one


SLIPS = [
    Slip(path, command, option)
    for path, command in _all_commands()
    for option in command.params
    if isinstance(option, TyperArgument | TyperOption)
    and not getattr(option, "is_flag", False)
]


class Stage(NamedTuple):
    """Where commands are typed: files, and a gateway that runs."""

    site: Site
    folder: Path


@pytest.fixture
def stage(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Return a folder with the clients' keys, in which commands run."""
    for client in (PORTAL, AUDITOR, OPERATOR):
        (tmp_path / f"{client}.pem").write_bytes(site.keys[client].to_pem())
    (tmp_path / "errand.yaml").write_text(yaml.safe_dump({"data_dir": "data"}))
    monkeypatch.chdir(tmp_path)
    return Stage(site, tmp_path)


def _line(stage: Stage, slip: Slip, plant: str) -> list[str]:
    """Return a command with a plant in one place, and what it takes in the others."""
    client = OPERATOR if slip.command[-1] == "erase" else AUDITOR
    usual = {
        "client": client,
        "key_file": str(stage.folder / f"{client}.pem"),
        "url": stage.site.url,
        "config": "none.yaml" if " ".join(slip.command) in RUN_ON else "errand.yaml",
        "scope": "auditor",
        "matter": "newborn@1",
        "log": str(stage.site.gateway.settings.log_file),
        "vkey": stage.site.gateway.keys.log.log.verifier.vkey,
        "key": stage.site.gateway.keys.log.log.verifier.vkey,
        "receipt_key": stage.site.gateway.keys.log.receipt.verifier.vkey,
        "source": f"{stage.site.url}/log",
        "reason": "file 7",
        "event": "0190a1b2-0000-7000-8000-000000000000",
        "target": "target",
        "name": "audit.example/witness",
    }
    options, arguments = [], []
    for one in slip.of.params:
        given = plant if one is slip.option else usual.get(str(one.name), "nothing")
        if isinstance(one, TyperArgument):
            arguments.append(given)
        elif one is slip.option or one.required:
            options += [one.opts[0], given, *[given] * (one.nargs - 1)]
        elif one.name in ("url", "config"):
            options += [one.opts[0], given]
    if slip.command == ("demo",):
        options.append("--people=none")  # so that it does not run
    return [*slip.command, *options, *arguments]


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command; return all that it prints."""
    monkeypatch.setattr(sys, "argv", ["errand", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO("990101199403120026\n"))
    printed = io.StringIO()
    with (
        redirect_stdout(printed),
        redirect_stderr(printed),
        pytest.raises(SystemExit),
    ):
        main()
    return printed.getvalue()


def _but_for_files(text: str, plant: str) -> str:
    """Return what is printed, without the name of a file that the system misses."""
    return text if plant.isascii() else text.removeprefix(f"errand: `{plant}`: ")


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.name)
def test_no_command_repeats_what_slipped_into_an_option(
    stage: Stage, slip: Slip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a message nor in a traceback, nor in what it answers with."""
    printed = {plant: _run(_line(stage, slip, plant), monkeypatch) for plant in PLANTED}
    found = {
        plant: text
        for plant, text in printed.items()
        if any(value in _but_for_files(text, plant) for value in VALUES)
    }

    assert {} == found or (" ".join(slip.command), slip.option.name) in MADE_PUBLIC


def test_a_file_that_is_not_there_is_one_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback, wherever it was to be read."""
    key = str(stage.folder / "none.pem")
    line = ["audit", "holds", "--client", AUDITOR, "--key-file", key]
    told = _run([*line, "--url", stage.site.url], monkeypatch)

    assert told.startswith("errand: ")
    assert "none.pem" in told
    assert 1 == told.count("\n")
