"""Each call on a file fails once, or ends the process: every promise is kept.

`ERRAND_FAULTS=all` breaks every call; by default some of each kind, spread evenly.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from audit.fetching import fetch_from_folder
from audit.fsck import check_log
from audit.keys import LogKeys, make_keys, save_keys
from audit.mirror import mirror
from audit.objects import FolderObjects
from audit.served import CHECKPOINT
from audit.store import LogReader
from schemas.errors import VerificationError
from tests.audit.examples import ORIGIN, an_event, open_room
from tests.faults.promises import check_as_it_is, check_goes_on
from tests.faults.tracing import Break, Told, Worker, a_worker

ALL = os.environ.get("ERRAND_FAULTS") == "all"
SAMPLE = 3
"""Calls that are broken for each action, thread and fault."""
READING = frozenset({"read", "pread64", "close", "unlink"})
"""Calls that no full disk refuses."""
WRITING = frozenset({"pwrite64", "fdatasync", "fsync", "ftruncate"})
"""Calls after whose failure nobody knows what is on the disk."""
WHAT = [
    ("append", "writer"),
    ("moving", "writer"),
    ("moving", "mover"),
    ("integration", "writer"),
    ("integration", "main"),
    ("publication", "writer"),
    ("publication", "main"),
    ("mirror", "main"),
    ("birth", "main"),
]


@dataclass(frozen=True, slots=True)
class Place:
    """A worker, and a log in a folder that each attempt gets a copy of."""

    worker: Worker
    model: Path
    keys: LogKeys
    scratch: Path

    def copy(self, action: str) -> Path:
        """Return a fresh folder for an action."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if action == "birth":
            shutil.copytree(self.model / "keys", self.scratch / "keys")
        else:
            shutil.copytree(self.model, self.scratch)
        return self.scratch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A log of 257 records of which 254 are published: a tile's edge is in between."""
    root = tmp_path_factory.mktemp("calls")
    model, keys = root / "model", make_keys(ORIGIN)
    model.mkdir()
    save_keys(keys, model / "keys")
    room = open_room(model, keys)
    asyncio.run(room.log.append([an_event() for _ in range(254)]))
    room.publisher.publish()
    asyncio.run(room.log.append([an_event() for _ in range(3)]))
    # Closing the log alone moves its write-ahead file; the publisher publishes nothing.
    room.close()
    with a_worker(root) as worker:
        yield Place(worker, model, keys, root / "copy")


def chosen(calls: Sequence[Break], fault: str, offset: int) -> list[Break]:
    """Return where a fault strikes: everywhere, or evenly spread."""
    possible = [
        replace(one, fault=fault)
        for one in calls
        if fault != "error=ENOSPC" or one.call not in READING
    ]
    if ALL or len(possible) <= SAMPLE:
        return possible
    step = len(possible) / SAMPLE
    return [possible[int(step * at + offset * step / 3)] for at in range(SAMPLE)]


@pytest.mark.parametrize(("action", "thread"), WHAT)
def test_whatever_call_fails_every_receipt_proves(
    place: Place, action: str, thread: str
) -> None:
    """An error, a full disk or a kill at a call: the log is whole, and goes on."""
    calls = place.worker.count(place.copy(action), action, thread)
    for offset, fault in enumerate(("error=EIO", "error=ENOSPC", "signal=KILL")):
        for planned in chosen(calls, fault, offset):
            at, told = struck(place, action, thread, up_to(planned, calls))

            if thread != "main" and leaves_doubt(at, place.scratch):
                assert "refused" == told.words[-1], at


def up_to(planned: Break, calls: Sequence[Break]) -> list[Break]:
    """Return a call that is to be broken and those of its name before it, from it."""
    return [
        replace(one, fault=planned.fault)
        for one in reversed(calls)
        if one.call == planned.call and one.nth <= planned.nth
    ]


def struck(
    place: Place, action: str, thread: str, breaks: Sequence[Break]
) -> tuple[Break, Told]:
    """Break the first of these calls that is made; return it, and what was said.

    Beside the main thread, how many calls there are may differ from those counted.
    Whatever is struck or not, every promise is kept.
    """
    for at in breaks:
        folder = place.copy(action)
        told = place.worker.broken(folder, action, thread, at)
        try:
            check(place, folder, action, told)
        except VerificationError as error:
            pytest.fail(f"{at} of {action}: {error}")
        # Who was killed says no more.
        killed = at.fault == "signal=KILL" and "again" not in told.words
        if killed or told.injected:
            return at, told
        assert thread != "main", at
    pytest.fail(f"{breaks[0]} of {action}: nothing was struck")


def leaves_doubt(at: Break, folder: Path) -> bool:
    """Return whether nobody knows what is on the disk after this.

    That SQLite could not make the name of a write-ahead file durable it tells nobody,
    so the log has made it durable by itself when it was opened.
    """
    return at.fault == "error=EIO" and at.call in WRITING and at.on != str(folder)


def check(place: Place, folder: Path, action: str, told: Told) -> None:
    """Verify what was left behind, and what comes after it."""
    if (folder / "served" / CHECKPOINT).is_file():
        check_served(folder, place.keys)
    if action != "birth":
        check_as_it_is(folder, place.keys, told.receipts)
    check_goes_on(folder, place.keys, told.receipts)
    if action == "mirror":
        reader = LogReader.open(folder / "log.db")
        mirror(reader, FolderObjects(folder / "served"))
        reader.close()
        check_served(folder, place.keys)


def check_served(folder: Path, keys: LogKeys) -> None:
    """Verify the copy of the log, as an outsider does."""
    fetch = fetch_from_folder(folder / "served")
    check_log(fetch, keys.log.verifier.vkey, lambda _done, _of: None)
