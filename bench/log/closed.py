"""The load: the records of one case after another.

In a closed loop each of some requesters hands in its next records when those before
are durable: that shows what the log can take. In an open one cases come at a pace of
their own, however slow the log is: that shows how long one waits under such a load.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bench.log.figures import percentile

T = TypeVar("T")
Batch = Sequence[T]
"""What is appended together."""
Case = Iterable[Batch[T]]
"""The appends of a case, in order."""
Append = Callable[[Batch[T]], Awaitable[object]]


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


def shaped(cases: Sequence[Case[T]], shape: str) -> Sequence[Case[T]]:
    """Return cases in a shape: `case` as they are, `one` with one record an append."""
    if shape == "case":
        return cases
    return [[[record] for batch in case for record in batch] for case in cases]


async def closed_loop(
    append: Append[T], cases: Iterable[Case[T]], requesters: int, seconds: float
) -> Load:
    """Append cases until the time is over, or there are no more.

    Args:
        append: Returns once what it was given is durable.
        cases: For each case its appends, in order.
        requesters: How many cases are under way at a time.
        seconds: After how long no further case is begun.
    """
    waiting, noted = iter(cases), _Noted(append)

    async def requester(until: float) -> None:
        for case in waiting:
            for batch in case:
                await noted.append(batch, time.perf_counter())
            if time.perf_counter() >= until:
                return

    settle()
    began, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(requester(began + seconds) for _ in range(requesters)))
    return noted.load(began, spent)


async def open_loop(
    append: Append[T], cases: Iterable[Case[T]], cases_per_s: float, seconds: float
) -> Load:
    """Append cases at a steady pace until the time is over, or there are no more.

    What a case waits because the machine is late counts as well: its first append is
    measured from when it was due.

    Args:
        append: Returns once what it was given is durable.
        cases: For each case its appends, in order.
        cases_per_s: How many cases begin in a second.
        seconds: After how long no further case is begun.
    """
    noted = _Noted(append)

    async def run(case: Case[T], due: float) -> None:
        for batch in case:
            await noted.append(batch, due)
            due = time.perf_counter()

    settle()
    began, spent = time.perf_counter(), time.process_time()
    tasks: list[asyncio.Task[None]] = []
    for number, case in enumerate(cases):
        due = began + number / cases_per_s
        if due >= began + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(run(case, due)))
    await asyncio.gather(*tasks)
    return noted.load(began, spent)


class _Noted(Generic[T]):
    """Appends, and notes how long each took."""

    def __init__(self, append: Append[T]) -> None:
        self._append = append
        self._latencies: list[float] = []
        self._records = 0

    async def append(self, batch: Batch[T], since: float) -> None:
        """Append, and note how long it took since a moment."""
        await self._append(batch)
        self._latencies.append(time.perf_counter() - since)
        self._records += len(batch)

    def load(self, began: float, spent: float) -> Load:
        """Return what it came to since a moment and a reading of the CPU's clock."""
        took = time.perf_counter() - began
        cpu = time.process_time() - spent
        return Load(self._records, took, cpu, self._latencies)


def settle() -> None:
    """Set the garbage collector as the gateway sets it when it has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
