"""The demo's folder and ports: looked at before anything is touched."""

import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange.demo.folder import MARK, held_folder
from schemas.errors import SettingsError
from tests.harness.commands import errand
from tests.harness.ports import free_ports_in_a_row


def nothing() -> None:
    """Find nothing that stands against a run."""


@pytest.fixture
def taken() -> Iterator[int]:
    """Listen on the third port of a row; return the first."""
    first = free_ports_in_a_row(9)
    with socket.create_server(("127.0.0.1", first + 2)):
        yield first


def an_old_run(folder: Path) -> Path:
    """Return a folder as an earlier run left it, with a register in it."""
    with held_folder(folder, "ports from 8800 on", nothing):
        (folder / "ga").mkdir()
        (folder / "ga" / "register.db").write_text("kept")
    return folder


def test_a_folder_in_which_a_demo_runs_is_not_emptied(tmp_path: Path) -> None:
    """A second run says what runs there and what to do; the first keeps its files."""
    folder = tmp_path / "town"
    with held_folder(folder, "ports from 8800 on", nothing):
        (folder / "log.db").write_text("kept")
        done = errand("demo", "--serve", "--folder", folder)

    assert (2, "") == (done.status, done.stdout)
    assert f"a demo runs in `{folder}` (process " in done.stderr
    assert "ports from 8800 on): stop it first" in done.stderr
    assert "choose another with `--folder`\n" in done.stderr
    assert (folder / "log.db").read_text() == "kept"


def test_a_gateway_that_outlived_its_demo_keeps_its_folder(tmp_path: Path) -> None:
    """It holds its data folder, though the demo that started it was killed."""
    folder = tmp_path / "town"
    with held_folder(folder, "", nothing):
        (folder / "data").mkdir()
    with (folder / "data" / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(SettingsError, match="gateway of an earlier demo still runs"),
            held_folder(folder, "", nothing),
        ):
            pass

    assert (folder / "data" / "serve.lock").exists()


def test_a_taken_port_is_named_before_the_folder_is_emptied(
    tmp_path: Path, taken: int
) -> None:
    """Any of the ports in a row: the old run's files stay."""
    folder = an_old_run(tmp_path / "town")
    done = errand("demo", "--serve", "--folder", folder, "--port", str(taken))

    assert (2, "") == (done.status, done.stdout)
    assert f"`127.0.0.1:{taken + 2}` is taken" in done.stderr
    assert "with `--port` (`make serve ARGS=" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (folder / "ga" / "register.db").exists()


def test_a_folder_of_ours_is_emptied_when_nothing_runs_there(tmp_path: Path) -> None:
    """Files, folders and links go; what a link leads to stays."""
    folder = an_old_run(tmp_path / "town")
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with held_folder(folder, "", nothing) as found:
        left = [one.name for one in found.iterdir()]

    assert [MARK] == left
    assert (tmp_path / "elsewhere").is_dir()


def test_a_folder_of_others_and_a_file_are_refused(tmp_path: Path) -> None:
    """One line says so, and nothing is written."""
    (tmp_path / "mine").write_text("kept")
    others = errand("demo", "--folder", tmp_path)
    file = errand("demo", "--folder", tmp_path / "mine")
    below = errand("demo", "--folder", tmp_path / "mine" / "town")

    assert [2, 2, 2] == [others.status, file.status, below.status]
    assert "is not empty: choose another with `--folder`" in others.stderr
    assert "`" + str(tmp_path / "mine") + "` is no folder" in file.stderr
    assert "can't be used (Not a directory)" in below.stderr
    assert [tmp_path / "mine"] == list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    tmp_path: Path,
) -> None:
    """Not after it; and what can be written is not touched yet."""
    done = errand("demo", "--json", tmp_path / "nowhere" / "x.json")

    assert (2, "") == (done.status, done.stdout)
    assert "can't be written (No such file or directory)" in done.stderr
    assert "name another with `--json`" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--families", "3"), "--families: takes `--fleet` as well"),
        (("--serve", "--fleet"), "--fleet: does not go together with `--serve`"),
        (("--serve", "--json", "x"), "--json: does not go together with `--serve`"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    options: tuple[str, ...], named: str
) -> None:
    """Silence would let people believe that it had been heeded."""
    done = errand("demo", *options)

    assert (2, "") == (done.status, done.stdout)
    assert named in " ".join(done.stderr.replace("│", " ").split())
