"""The load: requests in a closed loop over connections that stay open.

Each connection sends its next request when it has the answer to the last one. It ends
after a time or a count, whichever comes first, and every answer is looked at.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import httptools
from typing_extensions import override

from bench.processes import BenchError

Check = Callable[[int, bytes], bool]
"""Tells whether status and body are a right answer."""

_GRACE_S = 30.0
"""How long answers under way may take after the end."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, and what is right."""

    port: int
    requests: Iterator[bytes]
    """Whole HTTP requests, without end."""
    check: Check


@dataclass(slots=True)
class Measured:
    """What one run measured."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of each answer, in seconds."""

    @property
    def count(self) -> int:
        """How many answers there were."""
        return len(self.latencies)

    def percentile(self, share: float) -> float:
        """Return a latency in seconds, such as that of half of the answers."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run(target: Target, in_flight: int, seconds: float, most: int) -> Measured:
    """Send requests, `in_flight` at a time.

    Args:
        target: Whom to ask for what.
        in_flight: Connections, each with one request at a time.
        seconds: After how long no further request is sent.
        most: After how many none is sent.

    Raises:
        BenchError: An answer was wrong or did not come.
    """
    loop = asyncio.get_running_loop()
    scene = _Scene(target, most)
    connections = [_Connection(scene) for _ in range(in_flight)]
    for one in connections:
        await loop.create_connection(lambda one=one: one, "127.0.0.1", target.port)  # type: ignore[misc] # mypy can't infer the default
    began = time.monotonic()
    scene.until = began + seconds
    for one in connections:
        one.ask()
    try:
        ends = asyncio.gather(*(one.done for one in connections))
        await asyncio.wait_for(ends, seconds + _GRACE_S)
    except TimeoutError:
        raise BenchError("answers did not come in time") from None
    finally:
        for one in connections:
            one.close()
    scene.measured.seconds = time.monotonic() - began
    return scene.measured


@dataclass(slots=True)
class _Scene:
    """What the connections of one run share."""

    target: Target
    left: int
    until: float = 0.0
    measured: Measured = field(default_factory=Measured)


class _Connection(asyncio.Protocol):
    """One connection, with one request under way."""

    def __init__(self, scene: _Scene) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scene = scene
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._sent = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def ask(self) -> None:
        """Send the next request, or be done."""
        scene = self._scene
        self._sent = time.monotonic()
        if scene.left <= 0 or self._sent >= scene.until:
            self._end(None)
            return
        scene.left -= 1
        self._body.clear()
        if self._transport is not None:
            self._transport.write(next(scene.target.requests))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    @override
    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._end(BenchError("the server closed a connection"))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body (httptools)."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Take the answer, and ask for the next one (httptools)."""
        now, body = time.monotonic(), b"".join(self._body)
        status = self._parser.get_status_code()
        if not self._scene.target.check(status, body):
            shown = body[:600].decode(errors="replace")
            self._end(BenchError(f"a wrong answer: {status} {shown}"))
            return
        self._scene.measured.latencies.append(now - self._sent)
        asyncio.get_running_loop().call_soon(self.ask)

    def _end(self, error: BenchError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
