"""One replica: `python -m bench.log.replica`, with its orders as JSON in a line.

It opens the log as a gateway does, with a publisher of its own (of several, one
leads), and says that it is ready. For each further line it appends once, and prints
what it measured; it ends with its standard input.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from audit.keys import load_keys
from audit.publisher import Publisher
from audit.record import Event
from audit.sql import Place, Postgres
from audit.store import LOG_SCHEMA
from audit.subjects import SUBJECTS_SCHEMA
from audit.writer import AuditLog
from bench.asks import people
from bench.log.closed import closed_loop, open_loop, shaped
from bench.log.events import many_cases
from bench.log.lag import Lags
from bench.log.room import logging_to, sealing
from schemas.clock import SystemClock
from schemas.ids import new_ids

PACES: Final = ("one", "case", "steady")
"""As fast as it goes, one record at a time or those of a case; and at a steady pace."""
_WARM_S: Final = 60.0


def main() -> None:
    """Do what the lines of standard input say."""
    uvloop.run(_run(orjson.loads(sys.stdin.readline())))


def places(where: str) -> tuple[Place, Place]:
    """Return the log and the subject directory in a folder or a database."""
    if where.startswith("postgresql://"):
        return Postgres(where, LOG_SCHEMA), Postgres(where, SUBJECTS_SCHEMA)
    return Path(where, "log.db"), Path(where, "subjects.db")


async def _run(orders: Mapping[str, Any]) -> None:
    keys, loop = load_keys(Path(orders["keys"])), asyncio.get_running_loop()
    place, subjects = places(orders["where"])
    clock = SystemClock()
    persons = people(orders["persons"])
    with ExitStack() as stack:
        sealer = stack.enter_context(sealing(subjects, keys))
        log = stack.enter_context(logging_to(place, sealer, keys))
        publisher = Publisher(log, keys.log, clock)
        publisher.start()
        stack.callback(publisher.stop)

        def cases(count: int) -> list[tuple[Sequence[Event], ...]]:
            made = many_cases(persons, count, clock.now(), new_ids(clock))
            return [(case.before, case.after) for case in made]

        # Every person is known from here on, and every statement prepared.
        await closed_loop(log.append, cases(orders["persons"]), 8, _WARM_S)
        waiting = [cases(orders["cases"]) for _ in PACES]
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            told = await _measure(line.strip(), log, waiting.pop(), orders)
            print(orjson.dumps(told).decode(), flush=True)


async def _measure(
    pace: str,
    log: AuditLog,
    cases: Sequence[Sequence[Sequence[Event]]],
    orders: Mapping[str, Any],
) -> dict[str, object]:
    """Append at one pace, and return what came of it once all is published."""
    lags, seconds = Lags(), orders["seconds"]
    append = lags.noting(log.append)
    async with lags.watching(log.place):
        began = time.monotonic()
        if pace == "steady":
            load = await open_loop(append, cases, orders["cases_per_s"], seconds)
        else:
            waiting = shaped(cases, pace)
            load = await closed_loop(append, waiting, orders["requesters"], seconds)
        ended = time.monotonic()
    return {
        "records": load.records,
        "began": began,
        "ended": ended,
        "cpu_s": load.cpu_s,
        "latencies": load.latencies,
        "lags": lags.seconds,
    }


if __name__ == "__main__":
    main()
