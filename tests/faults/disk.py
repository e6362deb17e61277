"""A disk that loses power: from what a process has written and synced, what is left.

The model is as strict as POSIX allows. What was not synced may be there or not, write
by write, and torn at any sector; a sync covers what was written before it began; the
name of a new file is durable once its folder was synced with `fsync`. (SQLite syncs the
folder with `fdatasync` and swallows the error, so this counts as one that failed.)
"""

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink"
"""What strace has to record, with `-f -y -xx` and whole strings."""
_SECTOR = 512
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_CALL = re.compile(r"(\w+)\((?:(AT_FDCWD|\d+)<([^>]*)>(?:, )?)?(.*)\) += +(-?\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
"""Each string in a call, as strace prints it with `-xx`."""


class What(Enum):
    """What one step does."""

    CREATE = "create"
    REMOVE = "remove"
    WRITE = "write"
    CUT = "cut"
    SYNC = "sync"
    SYNC_FOLDER = "sync folder"
    TELL = "tell"
    """The process told somebody something: from here on it counts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a process did to its files, or told."""

    what: What
    name: str = ""
    """The file's name in the folder."""
    at: int = 0
    """Where it writes or cuts; of a sync, how many steps were done when it began."""
    data: bytes = b""


Keep = Callable[[Sequence[Step]], Sequence[Step]]
"""Says which of the writes that were not synced survive."""


def nothing(_pending: Sequence[Step]) -> Sequence[Step]:
    """Keep nothing that was not synced."""
    return ()


def a_beginning(noise: random.Random) -> Keep:
    """Keep what was written first, and drop the rest."""
    return lambda pending: pending[: noise.randint(0, len(pending))]


def torn(noise: random.Random) -> Keep:
    """Keep any sectors of any writes, in any mixture."""

    def keep(pending: Sequence[Step]) -> Sequence[Step]:
        pieces = [piece for step in pending for piece in _sectors(step)]
        return [piece for piece in pieces if noise.random() < 0.5]

    return keep


def _sectors(step: Step) -> Iterator[Step]:
    if step.what is not What.WRITE:
        yield step
        return
    start = 0
    while start < len(step.data):
        end = start + _SECTOR - (step.at + start) % _SECTOR
        yield Step(What.WRITE, step.name, step.at + start, step.data[start:end])
        start = end


def read_steps(trace: Path, folder: Path, before: Collection[str]) -> list[Step]:
    """Return what a traced process did in a folder, and what it told on its output.

    Args:
        trace: What strace has recorded.
        folder: Where the files are.
        before: The names of the files that were there.
    """
    known = set(before)
    steps: list[Step] = []
    done = [0]
    """How many steps there were when so many calls had returned."""
    for call, returned in read_calls(trace.read_text()):
        step = _step(call, str(folder), known)
        # What a process maps into memory is made anew when it starts.
        if step is not None and not step.name.endswith("-shm"):
            is_sync = step.what is What.SYNC
            steps.append(replace(step, at=done[returned]) if is_sync else step)
        done.append(len(steps))
    return steps


def read_calls(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Yield each call when it returned, also where two threads took turns.

    With it goes how many calls had returned when it began.
    """
    begun: dict[str, tuple[str, int]] = {}
    returned = 0
    for line in text.splitlines():
        found = _LINE.match(line)
        assert found is not None, line[:80]
        thread, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>").rstrip(), returned
            continue
        before = returned
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            start, before = begun.pop(thread)
            rest = start + rest[resumed.end() :]
        if rest.endswith("= ?"):  # the process ended in the middle of it
            continue
        call = _CALL.match(rest)
        assert call is not None or rest.startswith("+++"), rest[:80]
        if call is not None and int(call[5]) >= 0:
            yield call, before
            returned += 1


def _step(call: re.Match[str], folder: str, known: set[str]) -> Step | None:
    """Return what a call did; None when it is of no matter."""
    verb, number, hexed, rest, result = call.groups()
    on = as_text(hexed or "")
    strings = [from_hex(one) for one in STRING.findall(rest)]
    if verb in {"openat", "unlink"}:
        return _name_step(verb, strings[0].decode(), rest, folder, known)
    if verb == "write" and number == "1":
        return Step(What.TELL, data=strings[0])
    if on == folder and verb == "fsync":
        return Step(What.SYNC_FOLDER)
    if not on.startswith(folder + "/"):
        return None
    step = Step(What.SYNC, on.removeprefix(folder + "/"))
    if verb == "pwrite64":
        written, at = strings[0][: int(result)], int(rest.rpartition(", ")[2])
        step = replace(step, what=What.WRITE, at=at, data=written)
    elif verb == "ftruncate":
        step = replace(step, what=What.CUT, at=int(rest))
    return step


def _name_step(
    verb: str, path: str, rest: str, folder: str, known: set[str]
) -> Step | None:
    """Return what a call did to the names in the folder."""
    if not path.startswith(folder + "/"):
        return None
    name = path.removeprefix(folder + "/")
    if verb == "unlink":
        known.discard(name)
        return Step(What.REMOVE, name)
    if "O_CREAT" not in rest or name in known:
        return None
    known.add(name)
    return Step(What.CREATE, name)


def from_hex(hexed: str) -> bytes:
    """Return the bytes of a string as strace prints it with `-xx`."""
    return bytes.fromhex(hexed.replace("\\x", ""))


def as_text(hexed: str) -> str:
    """Return a path as strace prints it with `-y`."""
    return from_hex(hexed).decode() if hexed.startswith("\\x") else hexed


def after_power_loss(
    before: Mapping[str, bytes], steps: Sequence[Step], keep: Keep
) -> dict[str, bytes]:
    """Return the files that are left when the power goes after some steps.

    Args:
        before: The files at the start, all durable.
        steps: What was done since.
        keep: Which of the writes that were not synced survive.
    """
    content = {name: bytearray(data) for name, data in before.items()}
    durable = set(before)
    pending: list[tuple[int, Step]] = []
    names: list[Step] = []
    for number, step in enumerate(steps):
        if step.what is What.SYNC:
            synced = [
                (at, one)
                for at, one in pending
                if one.name == step.name and at < step.at
            ]
            _apply(content, [one for _, one in synced])
            pending = [one for one in pending if one not in synced]
        elif step.what is What.SYNC_FOLDER:
            _rename(durable, names)
            names = []
        elif step.what in {What.CREATE, What.REMOVE}:
            names.append(step)
        elif step.what in {What.WRITE, What.CUT}:
            pending.append((number, step))
    kept = keep([step for _, step in pending])
    _apply(content, kept)
    if kept:
        _rename(durable, names)
    return {name: bytes(content.get(name, b"")) for name in durable}


def _apply(content: dict[str, bytearray], steps: Sequence[Step]) -> None:
    for step in steps:
        data = content.setdefault(step.name, bytearray())
        end = step.at if step.what is What.CUT else step.at + len(step.data)
        data.extend(bytes(max(0, end - len(data))))
        if step.what is What.CUT:
            del data[end:]
        else:
            data[step.at : end] = step.data


def _rename(durable: set[str], names: Sequence[Step]) -> None:
    for step in names:
        if step.what is What.CREATE:
            durable.add(step.name)
        else:
            durable.discard(step.name)
