"""The power goes while pieces are copied to a folder: whoever serves it stays right.

The model is as strict as POSIX allows: what a file holds is durable once it was synced,
and a name once its folder was; of the rest any part is lost.
"""

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit.fetching import fetch_from_folder
from audit.fsck import check_log
from audit.keys import LogKeys, make_keys, save_keys
from audit.mirror import mirror
from audit.note import open_checkpoint
from audit.objects import FolderObjects
from audit.served import CHECKPOINT
from schemas.errors import VerificationError
from tests.audit.examples import ORIGIN, an_event, open_room
from tests.audit.test_fsck import nothing
from tests.faults.disk import STRING, as_text, from_hex, read_calls
from tests.faults.tracing import a_worker

CALLS = "openat,write,fsync,mkdir,link,linkat,rename,unlink"
MOMENTS = 28
Call = tuple[str, str, Sequence[str], bytes]
"""Its name, the path of its open file, the paths that it names, and what it writes."""
Lost = Callable[[], bool]
"""Says of each thing that was not synced whether it is lost."""


@dataclass(slots=True)
class File:
    """What a file holds, and what of that is on the disk."""

    content: bytes = b""
    synced: bytes = b""


@dataclass(slots=True)
class Disk:
    """A tree of files that loses power."""

    names: dict[str, File | None] = field(default_factory=dict)
    """Files and folders (None), by path, as processes see them."""
    kept: dict[str, File | None] = field(default_factory=dict)
    """As they are on the disk."""
    pending: list[tuple[str, File | None, bool]] = field(default_factory=list)
    """Names that were made, or removed (False), and not synced."""

    def do(self, call: Call) -> None:
        """Take over what a process did."""
        verb, on, paths, data = call
        if verb == "openat" and paths[0] not in self.names:
            self._name(paths[0], File())
        elif verb == "mkdir":
            self._name(paths[0], None)
        elif verb in {"link", "linkat", "rename"}:
            self._name(paths[1], self.names[paths[0]])
        if verb in {"rename", "unlink"}:
            self._name(paths[0], self.names.pop(paths[0]), is_made=False)
        file = self.names.get(on)
        if verb == "write" and file is not None:
            file.content += data
        elif verb == "fsync" and file is not None:
            file.synced = file.content
        elif verb == "fsync":
            self._sync_folder(on)

    def _name(self, path: str, file: File | None, *, is_made: bool = True) -> None:
        if is_made:
            self.names[path] = file
        self.pending.append((path, file, is_made))

    def _sync_folder(self, folder: str) -> None:
        mine = [one for one in self.pending if one[0].rpartition("/")[0] == folder]
        self.pending = [one for one in self.pending if one not in mine]
        _rename(self.kept, mine)

    def left(self, is_lost: Lost) -> dict[str, bytes]:
        """Return the files that are left when the power goes."""
        kept = dict(self.kept)
        _rename(kept, [one for one in self.pending if not is_lost()])
        return {
            path: file.synced if is_lost() else file.content
            for path, file in kept.items()
            if file is not None
            and all(parent in kept for parent in _parents(path) if parent in self.names)
        }


def _rename(
    names: dict[str, File | None], changes: Sequence[tuple[str, File | None, bool]]
) -> None:
    for path, file, is_made in changes:
        if is_made:
            names[path] = file
        else:
            names.pop(path, None)


def _parents(path: str) -> list[str]:
    return [path[:at] for at in range(1, len(path)) if path[at] == "/"]


@dataclass(frozen=True, slots=True)
class Life:
    """What a process did with a folder, and where the log is that it copied."""

    calls: Sequence[Call]
    folder: Path
    keys: LogKeys


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Let a process append, publish and copy, and record all that it does."""
    root = tmp_path_factory.mktemp("served")
    folder, keys = root / "life", make_keys(ORIGIN)
    folder.mkdir()
    save_keys(keys, folder / "keys")
    room = open_room(folder, keys)
    # So that the copies go from a partial piece to the full one and the next.
    asyncio.run(room.log.append([an_event(subjects=()) for _ in range(253)]))
    room.close()
    with a_worker(root) as worker:
        trace = worker.record(folder, "serving", CALLS)
        yield Life(list(_read(trace, str(folder / "served"))), folder, keys)


def _read(trace: Path, served: str) -> Iterator[Call]:
    """Yield what was done below a folder, in its order."""
    for call, _ in read_calls(trace.read_text()):
        verb, _, hexed, rest, _ = call.groups()
        on, strings = (
            as_text(hexed or ""),
            [from_hex(one) for one in STRING.findall(rest)],
        )
        if verb == "write":
            if on.startswith(f"{served}/"):
                yield verb, on, (), strings[0]
            continue
        paths = [one.decode() for one in strings]
        is_made = verb != "openat" or "O_CREAT" in rest
        if paths and is_made and paths[0].startswith(served):
            yield verb, "", paths, b""
        elif verb == "fsync" and on.startswith(served.rpartition("/")[0]):
            yield verb, on, (), b""


def everything() -> bool:
    """Lose all that was not synced."""
    return True


def some(seed: int) -> Lost:
    """Lose any part of it."""
    noise = random.Random(seed)  # noqa: S311 - what a test loses
    return lambda: noise.random() < 0.5


def check(life: Life, moment: int, lost: Lost, target: Path) -> int:
    """Look at what is left at a moment, and bring it up again.

    (1) What the checkpoint implies is there, and verifies.
    (2) After a restart, the copy goes on, and all of it verifies.

    Returns:
        The size of the checkpoint that was left; 0 for none.
    """
    disk, served = Disk(), str(life.folder / "served")
    for call in life.calls[:moment]:
        disk.do(call)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path, content in disk.left(lost).items():
        file = target / path.removeprefix(f"{served}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    verifier, fetch = life.keys.log.verifier, fetch_from_folder(target)
    note, size = fetch(CHECKPOINT), 0
    if note is not None:  # (1)
        size = open_checkpoint(note, verifier).size
        check_log(fetch, verifier.vkey, nothing)
    room = open_room(life.folder, life.keys)  # (2)
    try:
        with room.reader() as reader:
            mirror(reader, FolderObjects(target))
    finally:
        room.close()
    check_log(fetch, verifier.vkey, nothing)
    return size


@pytest.mark.parametrize("seed", [None, 1])
def test_a_folder_that_lost_power_serves_nothing_wrong(
    life: Life, tmp_path: Path, seed: int | None
) -> None:
    """A checkpoint that is there has all its pieces, whatever else was lost."""
    lost = everything if seed is None else some(seed)
    step = len(life.calls) / MOMENTS
    moments = [round(step * (number + 1)) for number in range(MOMENTS)]
    sizes = []
    for moment in moments:
        try:
            sizes.append(check(life, moment, lost, tmp_path / "left"))
        except VerificationError as error:
            pytest.fail(f"at {moment} of {len(life.calls)}: {error}")

    assert {0, 255, 257, 259} == set(sizes)
    assert sorted(sizes) == sizes
    assert 259 == sizes[-1]
