"""The load: requesters who append the records of one case after another.

Each hands in its next records when those before are durable (a closed loop), as a
gateway does for the cases that it has under way.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.log.figures import percentile

T = TypeVar("T")
Batch = Sequence[T]
"""What is appended together."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a closed loop came to."""

    records: int
    seconds: float
    cpu_s: float
    """CPU seconds of this process, all its threads."""
    latencies: Sequence[float]
    """Of each append, in seconds."""

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return a latency in milliseconds, such as that of half of the appends."""
        return 1_000 * percentile(self.latencies, share)


async def closed_loop(
    append: Callable[[Batch[T]], Awaitable[object]],
    cases: Iterable[Iterable[Batch[T]]],
    requesters: int,
    seconds: float,
) -> Load:
    """Append cases until the time is over, or there are no more.

    Args:
        append: Returns once what it was given is durable.
        cases: For each case its appends, in order.
        requesters: How many cases are under way at a time.
        seconds: After how long no further case is begun.
    """
    latencies: list[float] = []
    waiting, records = iter(cases), 0
    until = time.perf_counter() + seconds

    async def requester(cases: Iterator[Iterable[Batch[T]]]) -> None:
        nonlocal records
        for case in cases:
            for batch in case:
                before = time.perf_counter()
                await append(batch)
                latencies.append(time.perf_counter() - before)
                records += len(batch)
            if time.perf_counter() >= until:
                return

    settle()
    began, spent = time.perf_counter(), time.process_time()
    until = began + seconds
    await asyncio.gather(*(requester(waiting) for _ in range(requesters)))
    took = time.perf_counter() - began
    return Load(records, took, time.process_time() - spent, latencies)


def settle() -> None:
    """Set the garbage collector as the gateway sets it when it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
