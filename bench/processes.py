"""Servers as processes on cores of their own, and the CPU time that they take."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import uvicorn

from schemas.errors import ErrandError

_READY_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.05


class BenchError(ErrandError):
    """The bench can't measure, or what it measures answers wrongly."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what; the same one where the machine has but one."""

    gateway: int
    others: int


def cores() -> Cores:
    """Return the cores to use, of those that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1 % len(allowed)])


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def serve(
    app: Callable[..., Awaitable[None]],
    port: int,
    *,
    lifespan: Literal["on", "off"] = "off",
) -> None:
    """Serve an application, as the gateway is served, until told to stop."""
    uvicorn.run(
        app,
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan=lifespan,
        access_log=False,
        log_level="warning",
    )


@contextmanager
def serving(
    name: str, core: int, port: int, arguments: Sequence[str], folder: Path
) -> Iterator[int]:
    """Run a server on a core while the block lasts; give its process id.

    A port that is taken is refused: a server of an earlier run would be measured in
    the place of this one.

    Raises:
        BenchError: The port is taken, or the server did not start.
    """
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        raise BenchError(f"port {port} is taken: `{name}` would not be what answers")
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "bench.pinned", str(core), sys.executable]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_for(name, process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(
    name: str, process: subprocess.Popen[bytes], port: int, log: Path
) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(_POLL_S)
    end = log.read_text(encoding="utf-8", errors="replace")[-2_000:]
    raise BenchError(f"`{name}` did not start:\n{end}")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all that it started.

    Of what it started, whatever has ended meanwhile does not count any more.
    """
    return _clock(pid) + cpu_seconds_of(descendants(pid))


def cpu_seconds_of(pids: Iterable[int]) -> float:
    """Return the user and system time of processes, those that have ended left out."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            total += _clock(pid)
    return total


def _clock(pid: int) -> float:
    """Read a process's CPU clock: to the nanosecond, its threads' time included.

    SOURCE: clock_getcpuclockid(3); the id is made as the C library makes it.
    """
    return time.clock_gettime((~pid << 3) | 2)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in tasks.read_text(encoding="ascii").split():
                found += [int(child), *descendants(int(child))]
    return found


def on_core(core: int, arguments: Sequence[str], timeout_s: float) -> str:
    """Run a command on a core to its end; return what it printed.

    Raises:
        BenchError: It failed.
    """
    command = [sys.executable, "-m", "bench.pinned", str(core), sys.executable]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise BenchError(done.stderr.decode(errors="replace")[-2_000:])
    return done.stdout.decode()
