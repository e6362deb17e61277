"""Breaking one call of a process: strace counts what it does, and makes the n-th fail.

A tracer sits on one thread of a fork of `worker`, from when its log is open.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from schemas.canonical import Json, canonical

ROOT = Path(__file__).parents[2]
CALLS = (
    "openat,mkdir,read,pread64,write,pwrite64,fsync,fdatasync,"
    "rename,link,linkat,ftruncate,close,unlink"
)
"""Every call on files that a log makes."""
_CALL = re.compile(r"(\w+)\((?:\d+<([^>]*)>)?")
_WAIT_S = 30


@dataclass(frozen=True, slots=True)
class Break:
    """What is to happen at one call."""

    call: str
    nth: int
    """Which call of this name, from 1."""
    on: str
    """The path of the open file that it is about; "" for none."""
    fault: str = ""
    """`error=EIO`, `error=ENOSPC` or `signal=KILL`."""

    @property
    def option(self) -> str:
        """What strace is told."""
        return f"inject={self.call}:{self.fault}:when={self.nth}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a fork said, up to its end."""

    receipts: Sequence[bytes]
    words: Sequence[str]
    """The first word of each other line."""
    injected: bool = False
    """Whether strace made a call fail; of a kill it does not tell."""


class Worker:
    """A process of `worker`, and what strace does to its forks."""

    def __init__(self, process: subprocess.Popen[str], trace: Path) -> None:
        self._process = process
        self._trace = trace

    def count(self, folder: Path, action: str, thread: str) -> list[Break]:
        """Do something undisturbed; return each call that was made, in order."""
        options = ("-y", "-e", f"trace={CALLS}")
        told = self._run(folder, action, thread, options, again=False)
        assert "done" in told.words, told.words
        seen: dict[str, int] = {}
        calls = []
        for line in self._trace.read_text(errors="replace").splitlines():
            found = _CALL.match(line)
            if found is not None:
                seen[found[1]] = seen.get(found[1], 0) + 1
                calls.append(Break(found[1], seen[found[1]], found[2] or ""))
        return calls

    def broken(self, folder: Path, action: str, thread: str, at: Break) -> Told:
        """Do something of which one call fails, and append once more."""
        options = ("-e", f"trace={CALLS}", "-e", at.option)
        told = self._run(folder, action, thread, options, again=True)
        trace = self._trace.read_text(errors="replace")
        return replace(told, injected="(INJECTED)" in trace)

    def record(self, folder: Path, action: str, calls: str) -> Path:
        """Do something undisturbed; return each call with all that is in it."""
        options = ("-f", "-y", "-xx", "-s", "1048576", "-e", f"trace={calls}")
        told = self._run(folder, action, "main", options, again=False)
        assert "done" in told.words, told.words
        return self._trace

    def _run(
        self,
        folder: Path,
        action: str,
        thread: str,
        options: Sequence[str],
        *,
        again: bool,
    ) -> Told:
        """Have something done with a tracer on one thread."""
        threads = self.begin(folder, action, again=again)
        tracer = attach(threads[thread], (*options, "-o", str(self._trace)))
        os.kill(threads["main"], signal.SIGUSR1)
        told = self.end()
        detached(tracer)
        return told

    def begin(self, folder: Path, action: str, *, again: bool) -> Mapping[str, int]:
        """Have a fork open a log; return its threads `main`, `writer` and `mover`.

        `main` is its process as well.

        It waits for SIGUSR1, and does then what it was told to do.
        """
        task: Json = {"folder": str(folder), "action": action, "again": again}
        self._tell(canonical(task).decode())
        numbers = map(int, self._hear().split()[1:])
        return dict(zip(("main", "writer", "mover"), numbers, strict=True))

    def end(self) -> Told:
        """Return what the fork says, up to its end."""
        receipts, words = [], []
        while (line := self._hear()) != "end\n":
            word, _, rest = line.partition(" ")
            if word == "receipt":
                receipts.append(bytes.fromhex(rest))
            else:
                words.append(word.strip())
        return Told(receipts, words)

    def _tell(self, line: str) -> None:
        stdin = _wanted(self._process.stdin)
        stdin.write(line + "\n")
        stdin.flush()

    def _hear(self) -> str:
        line = _wanted(self._process.stdout).readline()
        assert line, "the worker has ended"
        return line


def _wanted(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def attach(thread: int, options: Sequence[str]) -> subprocess.Popen[str]:
    """Put strace on a thread; return when it is there."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(
        ["strace", "-p", str(thread), *options], stderr=subprocess.PIPE, text=True
    )
    line = _wanted(tracer.stderr).readline()
    if "attached" not in line:
        detached(tracer)
        pytest.skip(f"this process may not trace another one: {line.strip()}")
    return tracer


def detached(tracer: subprocess.Popen[str]) -> None:
    """Wait until strace has written all; it ends with what it traces."""
    # Not closed before: it tells there of each new thread, or dies of a broken pipe.
    tracer.communicate(timeout=_WAIT_S)


@contextmanager
def a_worker(folder: Path) -> Iterator[Worker]:
    """Run a worker while the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Worker(process, folder / "trace")
    finally:
        _wanted(process.stdin).close()
        process.wait(_WAIT_S)
        _wanted(process.stdout).close()
