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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import orjson
from rich.console import Console
from rich.table import Table

from audit.keys import load_keys, make_keys, save_keys
from bench.hammered import KEYS
from bench.log.room import ORIGIN
from bench.processes import BenchError
from bench.seen import (
    RandomReader,
    Reads,
    Seen,
    full_reader,
    hear,
    prove_some,
    read,
    verify,
)
from schemas.errors import ErrandError

RESULTS = Path(__file__).parent / "results" / "hammer.json"


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
    reads = [Reads(RandomReader(keys, seen, n)) for n in range(options.readers)]
    reads.append(Reads(full_reader(keys)))
    threads = [
        threading.Thread(target=read, args=(folder, one, seen, stop)) for one in reads
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
    records = verify(folder, keys, seen)
    prove_some(folder, keys, seen, noise)
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
                    hear(line, seen)
    finally:
        killer.cancel()
        writer.kill()
    if writer.wait() != -signal.SIGKILL:
        raise BenchError("the writer ended by itself")


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
