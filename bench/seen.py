"""What callers and readers see of a log that is hammered, and whether it holds.

Readers go on while writers are killed: random ones prove records of which there is a
receipt, a full one checks all of the log. At the end every receipt is held against it.
"""

import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from audit.beside import SUBJECTS_FILE
from audit.fetching import LOG_FILE, fetch_from_file
from audit.fsck import check_log
from audit.keys import LogKeys
from audit.note import Checkpoint, open_checkpoint
from audit.publisher import Publisher
from audit.receipt import (
    Receipt,
    prove_consistency,
    prove_event,
    verify_receipt,
)
from audit.record import read_leaf
from audit.store import LogReader
from audit.verify import verify_log
from bench.log.room import logging_to, sealing
from schemas.clock import SystemClock
from schemas.errors import NotFoundError, VerificationError
from schemas.ids import EventId

_PROVED_AT_THE_END = 2_000
"""Receipts for which an outsider's proof is made at the end; all are verified."""
_READ_AT_ONCE = 4_096


@dataclass(slots=True)
class Seen:
    """What callers and readers saw; each list is appended to by one thread."""

    receipts: dict[EventId, tuple[Receipt, bytes]] = field(default_factory=dict)
    in_order: list[EventId] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    unpublished: deque[tuple[int, float]] = field(default_factory=deque)
    """Index and time of each receipt that no head that was seen covers yet."""
    lags_ms: list[float] = field(default_factory=list)
    cases: dict[int, int] = field(default_factory=dict)
    """The last case that each caller knows to be recorded whole."""
    repeated: int = 0
    """Receipts of events that had one already: the same, or the log is broken."""
    wrong: list[str] = field(default_factory=list)


Work = Callable[[LogReader], None]
"""Reads something once, and raises when it does not hold."""


@dataclass(slots=True)
class Reads:
    """What one reader does, and how often it did."""

    work: Work
    done: int = 0
    again: int = 0
    """How often it had to open the log anew, as somebody was just repairing it."""


def hear(line: bytes, seen: Seen) -> None:
    """Keep what a writer told; a line that a kill cut off was not told."""
    if not line.endswith(b"\n"):
        return
    word, first, second = line.decode().split()
    if word == "case":
        seen.cases[int(first)] = int(second)
        return
    now, note = time.monotonic(), bytes.fromhex(second)
    receipt = _unverified(note)
    known = seen.receipts.get(receipt.event)
    if known is not None:
        seen.repeated += 1
        if known[0] != receipt:
            seen.wrong.append(f"event {receipt.event} has two receipts")
        return
    seen.receipts[receipt.event] = receipt, note
    seen.in_order.append(receipt.event)
    seen.waits_ms.append(int(first) / 1_000)
    seen.unpublished.append((receipt.index, now))


def _unverified(note: bytes) -> Receipt:
    """Return what a receipt says; its signature is verified at the end."""
    lines = note.decode().split("\n")
    return Receipt(EventId(lines[1]), int(lines[2]), lines[3].encode(), int(lines[4]))


def read(folder: Path, reads: Reads, seen: Seen, stop: threading.Event) -> None:
    """Read again and again, from a log that somebody kills the writer of."""
    while not stop.is_set():
        try:
            with closing(LogReader.open(folder / LOG_FILE)) as reader:
                while not stop.wait(0.01):
                    reads.work(reader)
                    reads.done += 1
        except sqlite3.Error:
            # Not there yet, or the next writer is just repairing what a kill left.
            reads.again += 1
            stop.wait(0.05)
        except (VerificationError, NotFoundError) as error:
            seen.wrong.append(str(error))
            return


class RandomReader:
    """Proves records of which there is a receipt, and that each head continues."""

    def __init__(self, keys: LogKeys, seen: Seen, number: int) -> None:
        self._keys = keys
        self._seen = seen
        self._is_first = number == 0
        self._noise = random.Random(number)  # noqa: S311 - what a test reads
        self._last: Checkpoint | None = None

    def __call__(self, reader: LogReader) -> None:
        """Read the head and one record."""
        published = reader.published()
        if published is None:
            return
        head = open_checkpoint(published.note.encode(), self._keys.log.verifier)
        self._follow(reader, head)
        if self._is_first:
            _time_lags(self._seen, head.size)
        if not self._seen.in_order:
            return
        event = self._noise.choice(self._seen.in_order)
        receipt, _ = self._seen.receipts[event]
        proof = prove_event(reader, event, self._keys.log.verifier)
        if proof is None and receipt.index < head.size:
            raise VerificationError(f"record {receipt.index} has no proof")
        if proof is not None and proof.index != receipt.index:
            raise VerificationError(f"record {receipt.index} is proved elsewhere")

    def _follow(self, reader: LogReader, head: Checkpoint) -> None:
        """Verify that a head continues the one before.

        Raises:
            VerificationError: It doesn't.
        """
        last, self._last = self._last, head
        if last is None or last == head:
            return
        proof = prove_consistency(reader, last.size, head.size)
        if (proof.root1, proof.root2) != (last.root, head.root):
            raise VerificationError(f"head {head.size} does not continue {last.size}")


def _time_lags(seen: Seen, size: int) -> None:
    """Note how long ago the receipts were given that a head covers now."""
    now = time.monotonic()
    while seen.unpublished and seen.unpublished[0][0] < size:
        _, given = seen.unpublished.popleft()
        seen.lags_ms.append(1_000 * (now - given))


def full_reader(keys: LogKeys) -> Work:
    """Return what checks the whole published log."""

    def work(reader: LogReader) -> None:
        if reader.published() is not None:
            vkey = keys.log.verifier.vkey
            check_log(fetch_from_file(reader), vkey, lambda _done, _of: None)

    return work


def verify(folder: Path, keys: LogKeys, seen: Seen) -> int:
    """Publish and verify what is left; return how many records there are.

    The whole log is computed anew, every index from 0 on, every receipt is held
    against it, and no event stands twice.

    Raises:
        VerificationError: Something does not hold; the message names it.
    """
    with (
        sealing(folder / SUBJECTS_FILE, keys) as sealer,
        logging_to(folder / LOG_FILE, sealer, keys) as log,
    ):
        publisher = Publisher(log, keys.log, SystemClock())
        publisher.publish()
        publisher.stop()
    found = verify_log(
        folder,
        keys.log.verifier.vkey,
        receipts=[note for _, note in seen.receipts.values()],
        receipt_vkey=keys.receipt.verifier.vkey,
    )
    if len({one.index for one, _ in seen.receipts.values()}) != found.receipts:
        raise VerificationError("two receipts name one index")
    if found.published != found.records:
        raise VerificationError("not all that is recorded could be published")
    if _events_in(folder, found.records) != found.records:
        raise VerificationError("an event stands twice")
    return found.records


def _events_in(folder: Path, records: int) -> int:
    """Return how many events there are, as the leaves say it."""
    events: set[EventId] = set()
    with closing(LogReader.open(folder / LOG_FILE)) as reader:
        for start in range(0, records, _READ_AT_ONCE):
            leaves = reader.leaves(start, start + _READ_AT_ONCE)
            events.update(read_leaf(leaf).id for leaf in leaves)
    return len(events)


def prove_some(folder: Path, keys: LogKeys, seen: Seen, noise: random.Random) -> None:
    """Prove some receipts under the last head, as an outsider gets it.

    Raises:
        VerificationError: A receipt has no proof, or one of another index.
    """
    with closing(LogReader.open(folder / LOG_FILE)) as reader:
        count = min(_PROVED_AT_THE_END, len(seen.in_order))
        for event in noise.sample(seen.in_order, count):
            receipt, note = seen.receipts[event]
            verify_receipt(note, keys.receipt.verifier)
            proof = prove_event(reader, event, keys.log.verifier)
            if proof is None or proof.index != receipt.index:
                raise VerificationError(f"receipt {receipt.index} is not proved")
