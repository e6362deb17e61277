"""A file that will be written is tried before the work, and stays as it is."""

import os
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from exchange.files import check_writable
from schemas.errors import SettingsError

BOTH = pytest.mark.parametrize("is_replaced", [False, True], ids=["in it", "beside"])


@BOTH
def test_what_is_there_is_not_touched(tmp_path: Path, *, is_replaced: bool) -> None:
    """Neither emptied nor made longer, and nothing is left beside it."""
    file = tmp_path / "report.json"
    file.write_text("an earlier one")
    check_writable(file, is_replaced=is_replaced)

    assert "an earlier one" == file.read_text()
    assert [file] == list(tmp_path.iterdir())


@BOTH
def test_nothing_is_left_where_nothing_was(
    tmp_path: Path, *, is_replaced: bool
) -> None:
    """Not an empty file either, nor one at the end of a link."""
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "report.json")
    check_writable(tmp_path / "report.json", is_replaced=is_replaced)
    check_writable(link, is_replaced=is_replaced)

    assert [link] == list(tmp_path.iterdir())


@BOTH
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/report.json", "No such file or directory"),
        ("file/report.json", "Not a directory"),
        ("folder", "Is a directory"),
        ("/proc/report.json", "No such file or directory"),
    ],
)
def test_what_can_t_be_written_is_named(
    tmp_path: Path, name: str, why: str, *, is_replaced: bool
) -> None:
    """As the system has it, also where only trying shows it; and the option."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError) as caught:
        check_writable(tmp_path / name, "--json", is_replaced=is_replaced)

    assert str(caught.value) == (
        f"`{tmp_path / name}` can't be written ({why}): name another with `--json`"
    )


def test_a_file_that_can_be_replaced_alone_is_not_written_in(tmp_path: Path) -> None:
    """A program that runs: the system tells only who opens it."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    file = tmp_path / "sleep"
    shutil.copy(sleep, file)
    with subprocess.Popen([file, "60"]) as running:
        with pytest.raises(SettingsError, match="Text file busy"):
            check_writable(file)
        check_writable(file, is_replaced=True)
        running.kill()


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """Its reader would take the closing for the end; without one, opening waits."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader)
    check_writable(pipe)
    untouched = poll.poll(0)
    os.close(os.open(pipe, os.O_WRONLY))
    touched = poll.poll(0)
    os.close(reader)

    assert ([], [(reader, select.POLLHUP)]) == (untouched, touched)
