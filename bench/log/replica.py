"""One replica: `python -m bench.log.replica`, with its orders as JSON in a line.

It opens the log as a gateway does, with a publisher of its own (of several, one
leads); says that it is ready; appends when it is told to; prints what it measured; and
stays connected until its standard input ends, so that the server's time can be read.
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
from bench.asks import people
from bench.log.closed import closed_loop, open_loop
from bench.log.events import CaseEvents, many_cases
from bench.log.lag import Lags
from bench.log.room import logging_to, sealing
from schemas.clock import SystemClock
from schemas.ids import new_ids

_WARM_S: Final = 60.0


def main() -> None:
    """Do what the first line of standard input says."""
    orders = orjson.loads(sys.stdin.readline())
    clock = SystemClock()
    persons = people(orders["persons"])
    cases = many_cases(persons, orders["cases"], clock.now(), new_ids(clock))
    warm = many_cases(persons, orders["persons"], clock.now(), new_ids(clock))
    uvloop.run(_run(orders, warm, cases))


def places(where: str) -> tuple[Place, Place]:
    """Return the log and the subject directory in a folder or a database."""
    if where.startswith("postgresql://"):
        return Postgres(where, LOG_SCHEMA), Postgres(where, SUBJECTS_SCHEMA)
    return Path(where, "log.db"), Path(where, "subjects.db")


async def _run(
    orders: Mapping[str, Any],
    warm: Sequence[CaseEvents],
    cases: Sequence[CaseEvents],
) -> None:
    keys, lags = load_keys(Path(orders["keys"])), Lags()
    place, subjects = places(orders["where"])
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        sealer = stack.enter_context(sealing(subjects, keys))
        log = stack.enter_context(logging_to(place, sealer, keys))
        publisher = Publisher(log, keys.log, SystemClock())
        publisher.start()
        stack.callback(publisher.stop)
        # Every person is known from here on, and every statement prepared.
        await closed_loop(log.append, _appends(warm), 8, _WARM_S)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        async with lags.watching(place):
            began = time.monotonic()
            append = lags.noting(log.append)
            if orders["cases_per_s"]:
                run = open_loop(
                    append, _appends(cases), orders["cases_per_s"], orders["seconds"]
                )
            else:
                run = closed_loop(
                    append, _appends(cases), orders["requesters"], orders["seconds"]
                )
            load = await run
            ended = time.monotonic()
        told = {
            "records": load.records,
            "began": began,
            "ended": ended,
            "cpu_s": load.cpu_s,
            "latencies": load.latencies,
            "lags": lags.seconds,
        }
        print(orjson.dumps(told).decode(), flush=True)
        # Still connected, so that the time of the server's processes can be read.
        await loop.run_in_executor(None, sys.stdin.read)


def _appends(cases: Sequence[CaseEvents]) -> list[tuple[Sequence[Event], ...]]:
    return [(case.before, case.after) for case in cases]


if __name__ == "__main__":
    main()
