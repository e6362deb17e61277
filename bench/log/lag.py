"""(5) How long after its append a record stands under the published head.

Seen as outsiders see it: through a reader of its own, which looks fifty times a second
at what is published.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Final

from audit.record import Event
from audit.sql import Place
from audit.store import Appended, LogReader

_LOOK_EVERY_S: Final = 0.02
_PATIENCE_S: Final = 30.0


class Lags:
    """Notes when records are appended, and when they are published."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Of each append whose last record is published."""
        self._waiting: deque[tuple[int, float]] = deque()

    def noting(
        self, append: Callable[[Sequence[Event]], Awaitable[Sequence[Appended]]]
    ) -> Callable[[Sequence[Event]], Awaitable[object]]:
        """Return an append that notes when it returned."""

        async def appended(events: Sequence[Event]) -> None:
            places = await append(events)
            self.note(max(place.index for place in places))

        return appended

    def note(self, index: int) -> None:
        """Note that a record is durable from now on."""
        self._waiting.append((index, time.monotonic()))

    @asynccontextmanager
    async def watching(self, place: Place) -> AsyncIterator[None]:
        """Watch what is published, until everything that was appended is."""
        loop = asyncio.get_running_loop()
        with closing(LogReader.open(place)) as reader:
            over = asyncio.Event()

            async def watch() -> None:
                while not (over.is_set() and not self._waiting):
                    head = await loop.run_in_executor(None, reader.published)
                    self.see(0 if head is None else head.size)
                    await asyncio.sleep(_LOOK_EVERY_S)

            task = asyncio.create_task(watch())
            yield
            over.set()
            await asyncio.wait_for(task, _PATIENCE_S)

    def see(self, size: int) -> None:
        """Note that a head of this size is published: what it holds waits no more."""
        now, left = time.monotonic(), deque[tuple[int, float]]()
        for index, at in self._waiting:
            if index < size:
                self.seconds.append(now - at)
            else:
                left.append((index, at))
        self._waiting = left
