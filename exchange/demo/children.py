"""The demo's processes: how each is started, waited for, stopped and killed.

A process is only ever stopped by its own id, through the handle that started it.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from typing_extensions import override

from exchange.demo import departments
from exchange.demo.lines import NO_TLS
from schemas.errors import ErrandError

_STOP_S = 15.0
_HEALTH_S = 180.0
"""Enough for a machine that has much else to do."""
_POLL_S = 0.05
_LOOK_S = 0.5
"""How often it is looked whether all processes still run."""


class StageError(ErrandError):
    """A process of the demo did not start, or ended by itself; holds its last words."""


@dataclass(slots=True)
class Child:
    """A process that the demo started."""

    name: str
    log: Path
    """What it writes to its standard output and error."""
    is_ready: Callable[[], bool]
    """Tells whether it does its work."""
    launch: Callable[[Path], "Handle"]
    """Starts it, with that file for its output."""
    _handle: "Handle | None" = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return None if self._handle is None else self._handle.pid

    def start(self) -> None:
        """Start it, and return at once."""
        self._handle = self.launch(self.log)

    def wait(self) -> None:
        """Return once it is healthy.

        Raises:
            StageError: It ended, or is not healthy in time.
        """
        until = time.monotonic() + _HEALTH_S
        while time.monotonic() < until:
            if self._handle is None or self._handle.status() is not None:
                break
            if self.is_ready():
                return
            time.sleep(_POLL_S)
        raise StageError(f"`{self.name}` did not start:\n{self._end_of_log()}")

    def check(self) -> None:
        """Collect it if it has ended by itself.

        Raises:
            StageError: It has; says how.
        """
        status = None if self._handle is None else self._handle.status()
        if status is None:
            return
        how = f"ended with status {status}"
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        raise StageError(
            f"`{self.name}` {how}, and the others were stopped; `{self.log}` ends:\n"
            f"{self._end_of_log()}"
        )

    def _end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def stop(self) -> None:
        """Ask it to end, by its process id; kill it when it does not."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.stop()

    def kill(self) -> None:
        """Kill it as `kill -9` does, by its process id."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.kill()


class Handle(ABC):
    """A process that runs, whichever way it was started."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process id."""

    @abstractmethod
    def status(self) -> int | None:
        """Return how it ended: its exit status, or a signal below 0; None: it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to end, by its process id; kill it when it does not."""

    @abstractmethod
    def kill(self) -> None:
        """Kill it, by its process id."""


class CommandProcess(Handle):
    """A command's process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a command of our own
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    @override
    def pid(self) -> int | None:
        return self._process.pid

    @override
    def status(self) -> int | None:
        return self._process.poll()

    @override
    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    @override
    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class ForkedDepartment(Handle):
    """A department's process: forked from one that has imported all of it.

    Seven interpreters that each import the same would take most of the demo's time.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["__main__", __name__])
        self._process = forks.Process(
            target=_run_department, args=(list(arguments), str(log)), daemon=True
        )
        self._process.start()

    @property
    @override
    def pid(self) -> int | None:
        return self._process.pid

    @override
    def status(self) -> int | None:
        return self._process.exitcode

    @override
    def stop(self) -> None:
        self._process.terminate()
        self._process.join(_STOP_S)
        self.kill()

    @override
    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()


def _run_department(arguments: list[str], log: str) -> None:
    """Be a department's process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    departments.main(arguments)


def _end_with_parent() -> None:
    """End this process when the demo ends without having stopped it: by `kill -9`."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def watch(children: Iterable[Child], stop: threading.Event) -> None:
    """Return when it is time to stop; meanwhile look after the processes.

    Raises:
        StageError: One of them has ended by itself.
    """
    watched = tuple(children)
    while not stop.wait(_LOOK_S):
        for child in watched:
            try:
                child.check()
            except StageError:
                if stop.is_set():  # Ctrl-C reaches all of them at once
                    return
                raise


def answers(address: str) -> bool:
    """Tell whether a process answers 200 at an address."""
    try:
        return httpx.get(address, timeout=2, verify=NO_TLS).is_success
    except httpx.TransportError:
        return False


def listens(port: int) -> bool:
    """Tell whether a process takes connections on a port of the loopback address."""
    try:
        socket.create_connection((departments.LOOPBACK, port), timeout=2).close()
    except OSError:
        return False
    return True
