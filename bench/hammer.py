"""`python -m bench.hammer`: one log, many callers and readers, and `kill -9` all along.

A writer appends for many callers and publishes; every few seconds it is killed, and
another one takes over. Meanwhile random readers prove records of which they hold a
receipt, and a full reader checks the whole log again and again. At the end the log is
verified whole: every receipt is kept, no event stands twice, no index is missing.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

import orjson
from rich.console import Console
from rich.table import Table

from audit.beside import SUBJECTS_FILE
from audit.fetching import LOG_FILE, fetch_from_file
from audit.fsck import check_log
from audit.keys import LogKeys, load_keys, make_keys, save_keys
from audit.note import Checkpoint, open_checkpoint
from audit.publisher import Publisher
from audit.receipt import (
    Receipt,
    prove_consistency,
    prove_event,
    verify_receipt,
)
from audit.store import LogReader
from audit.verify import verify_log
from bench.hammered import KEYS
from bench.log.room import ORIGIN, logging_to, sealing
from bench.processes import BenchError
from schemas.clock import SystemClock
from schemas.errors import ErrandError, NotFoundError, VerificationError
from schemas.ids import EventId

RESULTS = Path(__file__).parent / "results" / "hammer.json"
_PROVED_AT_THE_END = 2_000
"""Receipts for which an outsider's proof is made at the end; all are verified."""


@dataclass(frozen=True, slots=True)
class Options:
    """How hard, and for how long."""

    seconds: float = 60.0
    kills: int = 10
    """How often a writer is killed at least, however long that takes."""
    callers: int = 32
    readers: int = 2
    """Random ones; there is one more that reads everything."""
    life_s: tuple[float, float] = (0.1, 4.0)
    """Shortest and longest life of a writer, from when it opens the log."""
    seed: int = 1


QUICK = Options(seconds=0.5, kills=3, callers=4, readers=1, life_s=(0.2, 0.6))
"""Enough for a few kills."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Times in milliseconds."""

    least: float
    mean: float
    most: float


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


_Work = Callable[[LogReader], None]
"""Reads something once, and raises when it does not hold."""


@dataclass(slots=True)
class Reads:
    """What one reader does, and how often it did."""

    work: _Work
    done: int = 0
    again: int = 0
    """How often it had to open the log anew, as somebody was just repairing it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    seconds: float
    kills: int
    records: int
    receipts: int
    repeated: int
    rate: float
    """Records a second, the time without a writer included."""
    in_queue_ms: Spread
    """From the call to the receipt."""
    to_publish_ms: Spread
    """From the receipt to the first head that covers it and that a reader saw."""
    random_reads: int
    full_reads: int
    reopened: int
    wrong: Sequence[str]


def hammer(folder: Path, options: Options, console: Console) -> Result:
    """Run everything, and verify what is left.

    (1) Start the readers.
    (2) Until the time is over: start a writer, and kill it.
    (3) Stop the readers, publish what is recorded, and verify.

    Raises:
        BenchError: A writer ended by itself.
    """
    save_keys(make_keys(ORIGIN), folder / KEYS)
    keys = load_keys(folder / KEYS)
    noise = random.Random(options.seed)  # noqa: S311 - when a test kills
    seen, stop = Seen(), threading.Event()
    # (1): they wait for the log by themselves.
    reads = [Reads(_RandomReader(keys, seen, n)) for n in range(options.readers)]
    reads.append(Reads(_full_reader(keys)))
    threads = [
        threading.Thread(target=_read, args=(folder, one, seen, stop)) for one in reads
    ]
    for thread in threads:
        thread.start()
    began, kills = time.monotonic(), 0
    try:
        # (2): each life goes on from what the callers know.
        while kills < options.kills or time.monotonic() - began < options.seconds:
            _live(folder, options, seen, noise.uniform(*options.life_s))
            kills += 1
            console.print(f"killed {kills}: {len(seen.receipts):,} receipts")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seconds = time.monotonic() - began
    # (3): with nothing but the file, the keys and the receipts.
    records = _verify(folder, keys, seen)
    _prove_some(folder, keys, seen, noise)
    return _result(seconds, kills, records, seen, reads)


def _result(
    seconds: float, kills: int, records: int, seen: Seen, reads: Sequence[Reads]
) -> Result:
    return Result(
        seconds=seconds,
        kills=kills,
        records=records,
        receipts=len(seen.receipts),
        repeated=seen.repeated,
        rate=records / seconds,
        in_queue_ms=_spread(seen.waits_ms),
        to_publish_ms=_spread(seen.lags_ms),
        random_reads=sum(one.done for one in reads[:-1]),
        full_reads=reads[-1].done,
        reopened=sum(one.again for one in reads),
        wrong=tuple(seen.wrong),
    )


def _live(folder: Path, options: Options, seen: Seen, life_s: float) -> None:
    """Run a writer, keep what it hands out, and kill it after a while."""
    firsts = [seen.cases.get(caller, -1) + 1 for caller in range(options.callers)]
    writer = subprocess.Popen(
        [sys.executable, "-m", "bench.hammered", str(folder), *map(str, firsts)],
        stdout=subprocess.PIPE,
    )
    killer = threading.Timer(life_s, os.kill, (writer.pid, signal.SIGKILL))
    try:
        if writer.stdout is not None:
            with writer.stdout as told:
                # Everything is loaded, and the log is about to be opened.
                told.readline()
                killer.start()
                for line in told:
                    _hear(line, seen)
    finally:
        killer.cancel()
        writer.kill()
    if writer.wait() != -signal.SIGKILL:
        raise BenchError("the writer ended by itself")


def _hear(line: bytes, seen: Seen) -> None:
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


def _read(folder: Path, reads: Reads, seen: Seen, stop: threading.Event) -> None:
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


class _RandomReader:
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


def _full_reader(keys: LogKeys) -> _Work:
    """Return what checks the whole published log."""

    def work(reader: LogReader) -> None:
        if reader.published() is not None:
            vkey = keys.log.verifier.vkey
            check_log(fetch_from_file(reader), vkey, lambda _done, _of: None)

    return work


def _verify(folder: Path, keys: LogKeys, seen: Seen) -> int:
    """Publish and verify what is left; return how many records there are.

    The whole log is computed anew, every index from 0 on, and every receipt is held
    against it.

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
    return found.records


def _prove_some(folder: Path, keys: LogKeys, seen: Seen, noise: random.Random) -> None:
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


def _spread(values: Sequence[float]) -> Spread:
    values = values or [0.0]
    return Spread(min(values), fmean(values), max(values))


def show(result: Result, console: Console) -> None:
    """Print a run as a table."""
    table = Table("what", "how much", title="the hammer")
    rows = {
        "seconds, kills": f"{result.seconds:.0f}, {result.kills}",
        "records, a second": f"{result.records:,}, {result.rate:,.0f}",
        "receipts, all kept": f"{result.receipts:,}",
        "of them handed out again": f"{result.repeated:,}",
        "time in queue, ms": _times(result.in_queue_ms),
        "time to a published head, ms": _times(result.to_publish_ms),
        "random reads, all proved": f"{result.random_reads:,}",
        "full reads, all verified": f"{result.full_reads:,}",
        "readers that opened anew": f"{result.reopened:,}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _times(spread: Spread) -> str:
    return f"{spread.least:,.1f} / {spread.mean:,.1f} / {spread.most:,.1f}"


def main(arguments: Sequence[str]) -> int:
    """Hammer a log in a folder that is removed afterwards; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.hammer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    options = replace(QUICK if asked.quick else Options(), seed=asked.seed)
    if asked.seconds is not None:
        options = replace(options, seconds=asked.seconds)
    console = Console(stderr=True)
    try:
        with tempfile.TemporaryDirectory(prefix="errand-hammer-") as folder:
            result = hammer(Path(folder), options, console)
    except ErrandError as error:
        console.print(f"hammer: {error}")
        return 1
    show(result, Console())
    content = orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2)
    asked.json.write_bytes(content + b"\n")
    for one in result.wrong:
        console.print(f"hammer: {one}")
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
