"""The writer that the hammer kills: callers append cases, and hand their receipts out.

Each caller's cases and all their ids are numbered, so that a writer which comes back
sends again what nobody has a receipt for: the log must not record it twice.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from audit.beside import SUBJECTS_FILE
from audit.fetching import LOG_FILE
from audit.keys import load_keys
from audit.publisher import Pace, Publisher
from audit.record import Event
from audit.writer import AuditLog
from bench.asks import people
from bench.log.events import CaseEvents, case_events
from bench.log.room import logging_to, sealing
from schemas.clock import SystemClock
from schemas.ids import NewId

KEYS: Final = "keys"
"""The folder of the log's keys, in the folder that is hammered."""
PACE: Final = Pace(interval_s=0.25)
_PERSONS: Final = people(64)


def numbered_ids(caller: int, case: int) -> NewId:
    """Return what gives the ids of one case of one caller: the same ones each time."""
    numbers = itertools.count(case << 8)
    return lambda: f"{caller:08x}-0000-7000-8000-{next(numbers):012x}"


def numbered_case(caller: int, case: int) -> CaseEvents:
    """Return what one case of one caller appends."""
    person = _PERSONS[(caller + case) % len(_PERSONS)]
    return case_events(person, SystemClock().now(), numbered_ids(caller, case))


async def call(log: AuditLog, caller: int, first: int) -> None:
    """Append one case after another, from a number on, until the process ends."""
    for case in itertools.count(first):
        events = numbered_case(caller, case)
        await _append(log, events.before)
        await _append(log, events.after)
        print(f"case {caller} {case}", flush=True)


async def _append(log: AuditLog, events: Sequence[Event]) -> None:
    """Append, and hand out the receipts together."""
    began = time.monotonic()
    places = await log.append(events)
    waited_us = int(1e6 * (time.monotonic() - began))
    lines = [
        f"receipt {waited_us} {log.sign(place).encode().hex()}\n" for place in places
    ]
    sys.stdout.write("".join(lines))
    sys.stdout.flush()


async def run(folder: Path, firsts: Sequence[int]) -> None:
    """Open the log, publish it, and call from as many callers as there are numbers."""
    print("opening", flush=True)
    keys = load_keys(folder / KEYS)
    with (
        sealing(folder / SUBJECTS_FILE, keys) as sealer,
        logging_to(folder / LOG_FILE, sealer, keys) as log,
    ):
        publisher = Publisher(log, keys.log, SystemClock(), PACE)
        publisher.start()
        await asyncio.gather(
            *(call(log, caller, first) for caller, first in enumerate(firsts))
        )


if __name__ == "__main__":
    # What is told to the hammer, and nothing else, goes to standard output.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(run(Path(sys.argv[1]), [int(one) for one in sys.argv[2:]]))
