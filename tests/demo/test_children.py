"""The demo's processes are looked after while they serve: none ends unseen."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typing_extensions import override

from exchange.demo.children import Child, CommandProcess, StageError, watch
from tests.harness.patience import until

WAIT = "import signal; signal.pause()"
FAIL = "print('no more'); raise SystemExit(7)"


def a_child(folder: Path, name: str, program: str) -> Child:
    """Start a process that runs a Python program."""
    command = [sys.executable, "-c", program]
    launch = partial(CommandProcess, command)
    child = Child(name, folder / f"{name}.log", lambda: True, launch)
    child.start()
    return child


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Child]:
    """Run a process that ends when it is told to."""
    child = a_child(tmp_path, "waiting", WAIT)
    yield child
    child.stop()


def test_a_process_that_was_killed_is_named(tmp_path: Path, waiting: Child) -> None:
    """By which signal, as after `kill -9` of a gateway; no zombie is left of it."""
    killed = a_child(tmp_path, "gateway", WAIT)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(StageError, match="`gateway` was ended by SIGKILL"):
        watch([waiting, killed], threading.Event())

    assert not Path(f"/proc/{killed.pid}").exists()
    assert Path(f"/proc/{waiting.pid}").exists()


def test_a_process_that_ends_by_itself_is_told_with_its_words(
    tmp_path: Path, waiting: Child
) -> None:
    """Its status, and how its log ends."""
    failed = a_child(tmp_path, "department", FAIL)
    with pytest.raises(StageError, match=r"`department` ended with status 7[^$]*no m"):
        watch([waiting, failed], threading.Event())


class SetJustAfter(threading.Event):
    """Set in the instant after somebody looked, as by a signal."""

    @override
    def wait(self, timeout: float | None = None) -> bool:
        was_set = self.is_set()
        self.set()
        return was_set


def test_a_process_that_ends_with_all_others_is_no_failure(tmp_path: Path) -> None:
    """Ctrl-C reaches all of them at once, and some end before it is looked."""
    ended = a_child(tmp_path, "ended", FAIL)
    until(lambda: has_ended(ended), "it has ended")
    watch([ended], stop := SetJustAfter())

    assert stop.is_set()


def has_ended(child: Child) -> bool:
    """Tell whether a process has ended by itself."""
    try:
        child.check()
    except StageError:
        return True
    return False
