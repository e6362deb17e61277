"""HTTP exchanges that end: each within a time and a size, however slowly it comes.

A time limit of the client counts for each read alone, so a server that sends a byte now
and then could hold its caller up for ever. Here a watch counts for the whole exchange,
the header included, and breaks the connection when it is over.
"""

import socket
import threading
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

import httpx

from schemas.errors import VerificationError

_OPENED: Final = (
    "connection.connect_tcp.complete",
    "connection.connect_unix_socket.complete",
    "connection.start_tls.complete",
)
"""What `httpcore` tells when a connection has a socket (its `trace` extension)."""


class Exchanges:
    """Exchanges over one client; may be used from several threads.

    Args:
        client: Sends them.
        total_s: How long each may take, in seconds. One that takes longer costs the
            client all its connections.
        limit: The largest answer that is read, in bytes.
    """

    def __init__(self, client: httpx.Client, total_s: float, limit: int) -> None:
        self._client = client
        self._total_s = total_s
        self._limit = limit
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._guard = threading.Lock()

    def ask(self, method: str, url: str, **request: Any) -> tuple[int, bytes]:  # noqa: ANN401 - as httpx has it
        """Return the status of an answer, and its body where the status is 200.

        Raises:
            httpx.HTTPError: No whole answer came, or not in time.
            VerificationError: It is larger than the limit.
        """
        over = threading.Event()

        def trace(event: str, info: dict[str, Any]) -> None:
            if event in _OPENED:
                self._take(info["return_value"].get_extra_info("socket"), over)

        watch = threading.Timer(self._total_s, self._end, (over,))
        watch.daemon = True
        watch.start()
        extensions = {"trace": trace}
        content = bytearray()
        try:
            with self._client.stream(
                method, url, extensions=extensions, **request
            ) as answer:
                if answer.status_code == httpx.codes.OK:
                    for part in answer.iter_bytes():
                        content += part
                        if len(content) > self._limit:
                            raise VerificationError("too large")
        except httpx.HTTPError:
            _check_time(over)
            raise
        finally:
            watch.cancel()
        # An answer that is as long as its connection looks whole when that breaks.
        _check_time(over)
        return answer.status_code, bytes(content)

    def _take(self, connected: socket.socket, over: threading.Event) -> None:
        """Note a socket, to break it when the time is over."""
        with self._guard:
            self._sockets.add(connected)
        if over.is_set():
            _break(connected)

    def _end(self, over: threading.Event) -> None:
        over.set()
        with self._guard:
            connected = list(self._sockets)
        for one in connected:
            _break(one)


def _break(connected: socket.socket) -> None:
    """Wake whoever reads from a socket, or writes to it: closing alone does not."""
    with suppress(OSError):
        # That of the class, since TLS has a shutdown of its own, which would wait.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _check_time(over: threading.Event) -> None:
    if over.is_set():
        raise httpx.ReadTimeout("the exchange takes too long")
