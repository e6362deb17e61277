"""Runs the shell blocks of a document, in order, in one shell.

A block that is fenced as `sh` is run. A comment in the line before the fence says what
else to do with it:

    <!-- not run: why -->            shown and not run
    <!-- background: URL -->         run beside the others, once URL answers 200

All blocks share one bash: a variable that one sets, the next can use. Whatever still
runs in the end is stopped, by the id of the group that was started here.
"""

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from exchange.demo.lines import NO_TLS

_BLOCK = re.compile(
    r"(?:<!-- (?P<word>not run|background): (?P<rest>[^>]+?) -->\n)?"
    r"```sh\n(?P<text>.*?)```",
    re.DOTALL,
)
_POLL_S = 0.1
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class ShellBlock:
    """One block of a document."""

    line: int
    text: str
    reason: str | None = None
    """Why it is not run; None when it is."""
    ready: str | None = None
    """The address that answers once what runs in the background is ready."""


class BlockFailedError(AssertionError):
    """A block did not end well; the message holds its line and what it printed."""


def shell_blocks(document: str) -> list[ShellBlock]:
    """Return the shell blocks of a Markdown document, in order."""
    return [
        ShellBlock(
            line=document.count("\n", 0, found.start("text")) + 1,
            text=found["text"],
            reason=found["rest"] if found["word"] == "not run" else None,
            ready=found["rest"] if found["word"] == "background" else None,
        )
        for found in _BLOCK.finditer(document)
    ]


def run_blocks(
    document: str, folder: Path, environment: Mapping[str, str], *, patience_s: float
) -> list[str]:
    """Run the blocks of a document in a folder; return what each printed.

    Raises:
        BlockFailedError: One of them failed, or took too long.
    """
    with tempfile.TemporaryDirectory() as scratch:
        shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _tell(shell, "set -euo pipefail\n")
            return [
                _run(shell, block, time.monotonic() + patience_s, Path(scratch))
                for block in shell_blocks(document)
                if block.reason is None
            ]
        finally:
            _stop(shell)


def _run(
    shell: "subprocess.Popen[bytes]", block: ShellBlock, until: float, scratch: Path
) -> str:
    """Run one block and return what it printed."""
    mark = f"--- block of line {block.line} done ---"
    if block.ready is None:
        _tell(shell, f"{block.text}\necho '{mark}'\n")
        return _read_to(shell, mark, block, until)
    if _answers(block.ready):
        raise BlockFailedError(f"line {block.line}: {block.ready} is taken already")
    log, ended = scratch / f"{block.line}.log", scratch / f"{block.line}.ended"
    aside = f"{{ ( {block.text}) >{log} 2>&1 || true; touch {ended}; }} &"
    _tell(shell, f"{aside}\necho '{mark}'\n")
    printed = _read_to(shell, mark, block, until)
    while not _answers(block.ready):
        if ended.exists() or time.monotonic() > until:
            text = log.read_text(encoding="utf-8", errors="replace")
            raise BlockFailedError(f"the block of line {block.line} failed:\n{text}")
        time.sleep(_POLL_S)
    return printed


def _read_to(
    shell: "subprocess.Popen[bytes]", mark: str, block: ShellBlock, until: float
) -> str:
    """Return what the shell prints up to a mark."""
    assert shell.stdout is not None
    printed = b""
    while mark.encode() not in printed:
        left = max(0.0, until - time.monotonic())
        ready, _, _ = select.select([shell.stdout], [], [], left)
        piece = os.read(shell.stdout.fileno(), 65_536) if ready else b""
        if not piece:
            text = printed.decode(errors="replace")
            what = "failed" if ready else "took too long"
            raise BlockFailedError(f"the block of line {block.line} {what}:\n{text}")
        printed += piece
    return printed.decode(errors="replace").partition(mark)[0]


def _tell(shell: "subprocess.Popen[bytes]", text: str) -> None:
    assert shell.stdin is not None
    shell.stdin.write(text.encode())
    shell.stdin.flush()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, verify=NO_TLS).is_success
    except httpx.TransportError:
        return False


def _stop(shell: "subprocess.Popen[bytes]") -> None:
    """Stop the shell and all that it started: a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(shell.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + _STOP_S
        while _is_there(shell) and time.monotonic() < until:
            time.sleep(_POLL_S)
    shell.wait()
    for stream in (shell.stdin, shell.stdout):
        if stream is not None:
            stream.close()


def _is_there(shell: "subprocess.Popen[bytes]") -> bool:
    """Tell whether anything of the shell's group is left."""
    shell.poll()
    try:
        os.killpg(shell.pid, 0)
    except ProcessLookupError:
        return False
    return True
