"""(4) Asking a log of some size: the index follows, lists and proofs are timed."""

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Final

import psycopg

from audit.index_tables import INDEX_SCHEMA
from audit.keys import LogKeys
from audit.query import AccessIndex, RecordQuery
from audit.receipt import prove_event
from audit.record import Kind
from audit.sql import Place, Postgres
from audit.store import LOG_SCHEMA, LogReader
from bench.asks import MATTER
from bench.log.bulk import PORTALS, About, when
from bench.log.closed import settle
from bench.log.events import PER_CASE
from bench.log.figures import percentile
from bench.processes import BenchError, cpu_seconds, cpu_seconds_of, descendants

PAGE: Final = 100
"""Records of a list, where there are so many."""
_DAY: Final = timedelta(days=1)
_NAMES: Final = (
    *("subject", "subject, one case", "subject and kind", "requester", "provider"),
    *("matter", "case", "official", "outcome", "a day", "proof"),
)


def follow(index: Place, log: Place, server: int | None = None) -> dict[str, float]:
    """Have the index take in what is new, and return the figures.

    Args:
        index: Where the index is kept.
        log: Where its log is.
        server: The process of their server, whose time counts as well.
    """
    with closing(LogReader.open(log)) as reader:
        size = reader.size()
    with closing(AccessIndex(index, LogReader.open(log))) as opened:
        theirs = 0.0 if server is None else cpu_seconds(server)
        began, spent = time.perf_counter(), time.process_time()
        missing = opened.follow(0)
        while opened.follow():
            pass
        wall, own = time.perf_counter() - began, time.process_time() - spent
        theirs = 0.0 if server is None else cpu_seconds(server) - theirs
        return {
            "size": size,
            "records": missing,
            "wall_s": wall,
            "cpu_s": own + theirs,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """A log of some size with its index, closed."""

    about: About
    log: Place
    index: Place

    @classmethod
    def copied(cls, about: About, log: Path, index: Path, folder: Path) -> "Asked":
        """Copy a log and its index, which will both grow, to a new folder."""
        folder.mkdir()
        return cls(
            about,
            Path(shutil.copyfile(log, folder / log.name)),
            Path(shutil.copyfile(index, folder / index.name)),
        )


def places(url: str) -> tuple[Place, Place]:
    """Return where a log and its index are in one PostgreSQL database."""
    return Postgres(url, LOG_SCHEMA), Postgres(url, INDEX_SCHEMA)


def settle_server(url: str) -> None:
    """Have a server do now what it would do by itself in the middle of a question."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def measure(
    logs: Sequence[Asked], keys: LogKeys, times: int, server: int | None = None
) -> dict[int, dict[str, dict[str, float]]]:
    """Ask each kind of question many times, the logs by turns; figures by size.

    Each question is about different people and things.

    Args:
        logs: Some logs, of different sizes.
        keys: Theirs.
        times: How often.
        server: The process of their server, whose time counts as well.
    """
    figures: dict[int, dict[str, dict[str, float]]] = {
        one.about.size: {} for one in logs
    }
    with ExitStack() as stack:
        works = [_works(one, keys, times, stack) for one in logs]
        for name in _NAMES:
            found = _timed([each[name] for each in works], server)
            for one, row in zip(logs, found, strict=True):
                figures[one.about.size][name] = row
    return figures


def _works(
    asked: Asked, keys: LogKeys, times: int, stack: ExitStack
) -> Mapping[str, Sequence[Callable[[], object]]]:
    """Return what is to be timed on one log, by name."""
    noise = random.Random(asked.about.size)  # noqa: S311 - which ones are asked about
    opened = AccessIndex(asked.index, LogReader.open(asked.log))
    index = stack.enter_context(closing(opened))
    reader = stack.enter_context(closing(LogReader.open(asked.log)))
    works: dict[str, Sequence[Callable[[], object]]] = {
        name: [partial(_listed, index, make()) for _ in range(times)]
        for name, make in _questions(asked.about, noise).items()
    }
    places = [noise.randrange(asked.about.size) for _ in range(times)]
    events = [e.event_id for at in places for e in reader.entries(at, at + 1)]
    verifier = keys.log.verifier
    works["proof"] = [partial(prove_event, reader, e, verifier) for e in events]
    return works


def _listed(index: AccessIndex, query: RecordQuery) -> int:
    found = len(index.query(query).rows)
    if found == 0:
        raise BenchError("a list that must not be empty is")
    return found


def _questions(
    about: About, noise: random.Random
) -> dict[str, Callable[[], RecordQuery]]:
    """Return what makes a question of each kind."""

    def frequent() -> str:
        return noise.choice(about.frequent)

    def a_day() -> RecordQuery:
        since = when(noise.randrange(about.size // PER_CASE))
        return RecordQuery(since=since, until=since + _DAY, limit=PAGE)

    return {
        "subject": lambda: RecordQuery(subject_ref=frequent(), limit=PAGE),
        "subject, one case": lambda: RecordQuery(
            subject_ref=noise.choice(about.once), limit=PAGE
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
        "case": lambda: RecordQuery(case=about.case, limit=PAGE),
        "official": lambda: RecordQuery(
            actor_ref=noise.choice(about.actors), limit=PAGE
        ),
        "outcome": lambda: RecordQuery(outcome="retrieved", limit=PAGE),
        "a day": a_day,
    }


def _timed(
    works: Sequence[Sequence[Callable[[], object]]], server: int | None
) -> list[dict[str, float]]:
    """Do each once, the logs by turns, after one that does not count.

    How the CPU time grows is told turn by turn, against the question that was asked of
    the first log just before: a machine that changes its pace changes it for both.
    """
    settle()
    times: list[list[float]] = [[] for _ in works]
    spent: list[list[float]] = [[] for _ in works]
    for each in works:
        each[0]()
    # Those that answer are there by now.
    others = [] if server is None else descendants(server)
    for turn in zip(*works, strict=True):
        for place, work in enumerate(turn):
            theirs = cpu_seconds_of(others)
            before, began = time.process_time(), time.perf_counter()
            work()
            times[place].append(time.perf_counter() - began)
            own = time.process_time() - before
            spent[place].append(own + cpu_seconds_of(others) - theirs)
    return [
        {
            "p50_ms": 1_000 * percentile(wall, 0.5),
            "p99_ms": 1_000 * percentile(wall, 0.99),
            "cpu_ms": 1_000 * percentile(cpu, 0.5),
            "cpu_times": percentile(list(map(truediv, cpu, spent[0])), 0.5),
        }
        for wall, cpu in zip(times, spent, strict=True)
    ]
