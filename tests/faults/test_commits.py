"""Each commit of the log fails, stored or not, at a tile's edge: what stands then.

Mirrors the table of Sunlight's `TestSequenceErrors`.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest
from typing_extensions import override

from audit.cosigning import Cosigned, Cosigning, Ours, Prove
from audit.keys import LogKeys, make_keys, save_keys
from audit.note import Checkpoint, open_checkpoint
from audit.publisher import Publisher
from audit.receipt import prove_consistency
from audit.record import Event
from schemas.errors import LogUnavailableError
from tests.audit.examples import ORIGIN, Room, an_event, open_room
from tests.faults.commits import FailingConnection, Failure, fail_commits
from tests.faults.promises import check_as_it_is, check_goes_on

ADDED = 3
"""Records by which the log is to grow when the commit fails."""
COMMITS = {"append": 0, "integration": 0, "checkpoint": 1, "publication": 2}
"""Which commit it is: of the append, or of the round that publishes."""
GAINS: Mapping[tuple[str, bool], tuple[int, int, int, int]] = {
    ("append", False): (0, 0, 0, 0),
    ("append", True): (3, 0, 0, 0),
    ("integration", False): (3, 0, 0, 0),
    ("integration", True): (3, 3, 0, 0),
    ("checkpoint", False): (3, 3, 0, 0),
    ("checkpoint", True): (3, 3, 3, 0),
    ("publication", False): (3, 3, 3, 0),
    ("publication", True): (3, 3, 3, 3),
}
"""By how much the log is longer afterwards: recorded, integrated, signed, published."""
SITUATIONS = [(254, 0), (255, 2), (256, 0)]
"""Records that are published before, and records that come before it goes on."""
every_failure = pytest.mark.parametrize(
    ("commit", "is_persisted", "code"),
    [
        (commit, is_persisted, code)
        for commit, is_persisted in GAINS
        for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC)
    ],
)


class Nobody(Cosigning):
    """A quorum of no witnesses: what is signed is published in a commit of its own."""

    def __init__(self) -> None:
        """Ask nobody."""
        self.timeout_s = 0.0

    @override
    def close(self) -> None:
        """Let go of nothing."""

    @override
    def compare(self, look: Callable[[], Ours]) -> bool:
        """Return that nobody saw anything else."""
        return True

    @override
    def collect(self, checkpoint: Checkpoint, note: str, prove: Prove) -> Cosigned:
        """Return that it is enough."""
        return Cosigned(note, frozenset(), is_enough=True)


Models: TypeAlias = Mapping[int, tuple[Path, LogKeys]]
"""A closed log of each size, with its keys."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Logs on both sides of a tile's edge, all published."""
    made = {}
    for size in sorted({size for size, _ in SITUATIONS}):
        folder, keys = tmp_path_factory.mktemp("model"), make_keys(ORIGIN)
        save_keys(keys, folder / "keys")
        room = open_room(folder, keys)
        asyncio.run(room.log.append([an_event(subjects=()) for _ in range(size)]))
        room.publisher.publish()
        room.close()
        made[size] = folder, keys
    return made


@dataclass(slots=True)
class Trial:
    """A log under a disk that fails, and what it handed out."""

    room: Room
    disk: FailingConnection
    publisher: Publisher
    receipts: list[bytes] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, keys: LogKeys) -> "Trial":
        """Open a log; its head is published in a commit of its own."""
        room = open_room(folder, keys)
        publisher = Publisher(room.log, keys.log, room.clock, None, Nobody())
        publisher._compare()
        return cls(room, fail_commits(room.log), publisher)

    def append(self, events: Sequence[Event]) -> None:
        """Append, and keep the receipts."""
        for place in asyncio.run(self.room.log.append(events)):
            self.receipts.append(self.room.log.sign(place).encode())

    def publish(self) -> None:
        """Publish, and keep the head that outsiders see."""
        try:
            self.publisher.publish()
        finally:
            with self.room.reader() as reader:
                self.heads += [one.note for one in (reader.published(),) if one]

    def sizes(self) -> tuple[int, int, int, int]:
        """Return how much is recorded, integrated, signed and published."""
        with self.room.reader() as reader:
            tree, head, published = reader.tree(), reader.head(), reader.published()
            return (
                reader.size(),
                tree[0] if tree else 0,
                head.size if head else 0,
                published.size if published else 0,
            )

    def again(self) -> "Trial":
        """Close the log and open it anew, on a disk that is sound."""
        self.close()
        trial = Trial.begin(self.room.folder, self.room.keys)
        trial.receipts, trial.heads = self.receipts, self.heads
        return trial

    def close(self) -> None:
        """Close everything."""
        self.publisher.stop()
        self.room.close()


def fail(trial: Trial, commit: str, failure: Failure) -> list[Event]:
    """Have a commit fail; return the events that were to be appended."""
    events = [an_event() for _ in range(ADDED)]
    if commit != "append":
        trial.append(events)
    trial.disk.planned.extend([None] * COMMITS[commit] + [failure])
    act = partial(trial.append, events) if commit == "append" else trial.publish
    with pytest.raises(LogUnavailableError):
        act()
    return events


def check_one_history(trial: Trial) -> None:
    """Verify that each head which outsiders saw continues the one before."""
    key = trial.room.keys.log.verifier
    seen = [open_checkpoint(note.encode(), key) for note in trial.heads]
    with trial.room.reader() as reader:
        for one, two in pairwise(seen):
            proof = prove_consistency(reader, one.size, two.size)

            assert (one.root, two.root) == (proof.root1, proof.root2)


@every_failure
def test_after_a_failed_commit_the_log_is_as_the_table_says(
    tmp_path: Path, models: Models, commit: str, code: int, *, is_persisted: bool
) -> None:
    """Progress, refusal, and recovery with the same records or with more of them."""
    for size, more in SITUATIONS:
        folder = tmp_path / f"{size}-{more}"
        source, keys = models[size]
        shutil.copytree(source, folder)
        trial = Trial.begin(folder, keys)
        events = fail(trial, commit, Failure(code, is_persisted))
        gains = tuple(now - size for now in trial.sizes())
        check_as_it_is(folder, keys, trial.receipts)

        assert GAINS[commit, is_persisted] == gains
        trial = go_on(trial, code, stale=commit == "append" and is_persisted)
        trial.append([an_event(subjects=()) for _ in range(more)])
        trial.append(events)
        trial.publish()
        check_one_history(trial)
        total = size + ADDED + more

        assert (total, total, total, total) == trial.sizes()
        trial.close()
        assert total + 1 == check_goes_on(folder, keys, trial.receipts).published


def go_on(trial: Trial, code: int, *, stale: bool) -> Trial:
    """Show whether the log refuses now; return one that doesn't.

    Args:
        trial: The log.
        code: The error that it met.
        stale: Whether there is more in the file than the writer knows of.
    """
    is_final = code == sqlite3.SQLITE_IOERR_FSYNC
    if not is_final and not stale:
        assert trial.room.log.fault is None
        return trial
    for _ in range(2):
        with pytest.raises(LogUnavailableError):
            trial.append([an_event(subjects=())])
    with pytest.raises(LogUnavailableError):
        trial.room.log.write(lambda _changes: None).result()

    assert trial.room.log.fault is not None
    return trial.again()


@every_failure
def test_a_commit_that_fails_again_and_again_costs_nothing(
    tmp_path: Path, models: Models, commit: str, code: int, *, is_persisted: bool
) -> None:
    """Three times at one size, opened again where it must be; then all is as it was."""
    source, keys = models[255]
    folder = tmp_path / "log"
    shutil.copytree(source, folder)
    trial = Trial.begin(folder, keys)
    events: list[Event] = []
    for _ in range(3):
        events += fail(trial, commit, Failure(code, is_persisted))
        trial = go_on(trial, code, stale=commit == "append" and is_persisted)
    trial.append(events)
    trial.publish()
    check_one_history(trial)
    trial.close()
    found = check_goes_on(folder, keys, trial.receipts)

    assert 255 + 3 * ADDED + 1 == found.published == found.records
