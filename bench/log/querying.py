"""(4) Asking a log of some size: the index follows, lists and proofs are timed."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final

from audit.keys import LogKeys
from audit.query import AccessIndex, RecordQuery
from audit.receipt import prove_event
from audit.record import Kind
from audit.store import LogReader
from bench.asks import MATTER
from bench.log.bulk import PORTALS, Bulk
from bench.log.closed import settle
from bench.log.events import PER_CASE
from bench.log.figures import percentile
from bench.processes import BenchError

PAGE: Final = 100
"""Records of a list, where there are so many."""
_DAY: Final = timedelta(days=1)


def follow(index: Path, log: Path) -> dict[str, float]:
    """Have the index take in what is new, and return the figures."""
    with closing(LogReader.open(log)) as reader:
        size = reader.size()
    with closing(AccessIndex(index, LogReader.open(log))) as opened:
        began, spent = time.perf_counter(), time.process_time()
        missing = opened.follow(0)
        while opened.follow():
            pass
        return {
            "size": size,
            "records": missing,
            "wall_s": time.perf_counter() - began,
            "cpu_s": time.process_time() - spent,
        }


def measure(
    bulk: Bulk, index: Path, log: Path, keys: LogKeys, times: int
) -> dict[str, dict[str, float]]:
    """Ask each kind of question many times, about different people and things."""
    noise = random.Random(bulk.size)  # noqa: S311 - which ones are asked about
    figures: dict[str, dict[str, float]] = {}
    with (
        closing(AccessIndex(index, LogReader.open(log))) as opened,
        closing(LogReader.open(log)) as reader,
    ):
        for name, make in _questions(bulk, noise).items():
            queries = [make() for _ in range(times)]
            figures[name] = _timed([lambda q=q: _listed(opened, q) for q in queries])
        events = [
            entry.event_id
            for _ in range(times)
            for at in (noise.randrange(bulk.size),)
            for entry in reader.entries(at, at + 1)
        ]
        figures["proof"] = _timed(
            [lambda e=e: prove_event(reader, e, keys.log.verifier) for e in events]
        )
    return figures


def _listed(index: AccessIndex, query: RecordQuery) -> int:
    found = len(index.query(query).rows)
    if found == 0:
        raise BenchError("a list that must not be empty is")
    return found


def _questions(
    bulk: Bulk, noise: random.Random
) -> dict[str, Callable[[], RecordQuery]]:
    """Return what makes a question of each kind."""

    def frequent() -> str:
        return noise.choice(bulk.known()).ref

    def a_day() -> RecordQuery:
        since = bulk.at(noise.randrange(bulk.size // PER_CASE))
        return RecordQuery(since=since, until=since + _DAY, limit=PAGE)

    return {
        "subject": lambda: RecordQuery(subject_ref=frequent(), limit=PAGE),
        "subject, one case": lambda: RecordQuery(
            subject_ref=noise.choice(bulk.once), limit=PAGE
        ),
        "subject and kind": lambda: RecordQuery(
            subject_ref=frequent(), kind=Kind.EVIDENCE_RELEASED, limit=PAGE
        ),
        "requester": lambda: RecordQuery(
            requester=f"portal_{noise.randrange(PORTALS)}", limit=PAGE
        ),
        "provider": lambda: RecordQuery(
            provider=f"d{noise.randrange(5) + 1}", limit=PAGE
        ),
        "matter": lambda: RecordQuery(matter=MATTER, limit=PAGE),
        "case": lambda: RecordQuery(case=bulk.case, limit=PAGE),
        "official": lambda: RecordQuery(
            actor_ref=noise.choice(bulk.actors[: bulk.size // PER_CASE]), limit=PAGE
        ),
        "outcome": lambda: RecordQuery(outcome="retrieved", limit=PAGE),
        "a day": a_day,
    }


def _timed(works: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Do each once, after one that does not count; return the figures."""
    settle()
    works[0]()
    times: list[float] = []
    spent: list[float] = []
    for work in works:
        began, before = time.perf_counter(), time.process_time()
        work()
        spent.append(time.process_time() - before)
        times.append(time.perf_counter() - began)
    return {
        "p50_ms": 1_000 * percentile(times, 0.5),
        "p99_ms": 1_000 * percentile(times, 0.99),
        "cpu_ms": 1_000 * percentile(spent, 0.5),
    }
