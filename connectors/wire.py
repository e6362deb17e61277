"""HTTP/1.1 over one connection: a request is written, its reply is read, both whole.

A thread of its own for look-ups cost more than all that a look-up needs of Python: each
reply took the interpreter away from the event loop and gave it back. So the loop's own
transports carry the bytes here, llhttp takes replies apart as strictly as it does by
default, and what is left are the limits. `connectors.client` says where to and how
often; nothing else may use this (ADR 11).
"""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from typing_extensions import override

_MAX_HEAD = 64 * 1024
"""Bytes of the largest head."""
_SMALLEST_CHUNK = 6
"""Bytes that a chunk of one byte takes: its length, the byte, and two ends of line."""
_FIRST_FINAL = 200
"""What is below announces a reply and is none (RFC 9110, 15.2)."""
_READ = frozenset(
    (
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"retry-after",
        b"transfer-encoding",
    )
)
"""Headers that somebody reads; the others are passed over."""


class WireError(Exception):
    """A reply that did not come; never leaves the client."""


class HungUpError(WireError):
    """The connection ended before the reply did."""


class NotHttpError(WireError):
    """What came is not HTTP/1.1."""


class TooMuchError(WireError):
    """The body is larger than allowed."""


@dataclass(frozen=True, slots=True)
class WireReply:
    """One whole reply."""

    status: int
    headers: dict[bytes, bytes]
    """By name in lower case, the first of each, and only those that are read."""
    body: bytes = field(repr=False)


class Connection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, address: str, max_body: int) -> None:
        self.address = address
        """Where it leads."""
        self.is_open = True
        """Whether another request may be written."""
        self.idle_since = 0.0
        """When its last reply was whole, in seconds of the monotonic clock."""
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._reply: asyncio.Future[WireReply] | None = None
        self._begin()

    def ask(self, request: bytes) -> asyncio.Future[WireReply]:
        """Write a request; the future is its reply, or raises `WireError`.

        The connection must be open and idle. Who gives up waiting closes it, since the
        reply may still come.
        """
        reply = self._reply = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail(HungUpError())
        else:
            self._begin()
            self._transport.write(request)
        return reply

    def close(self) -> None:
        """End the connection at once, whatever is under way on it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail(NotHttpError())
            return
        if self._size > self._max_body:
            self._fail(TooMuchError())
        elif self._received > _MAX_HEAD + _SMALLEST_CHUNK * self._size:
            self._fail(NotHttpError())

    @override
    def eof_received(self) -> None:
        self.is_open = False  # and the transport closes itself

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        headers = self._headers
        has_length = b"content-length" in headers or b"transfer-encoding" in headers
        if self._head_ended and not has_length and exc is None:
            # RFC 9112, 6.3: without either, the body is all that comes until the end.
            self._finish()
        self._fail(HungUpError())

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Close when nobody asked: what follows a reply must answer nobody."""
        if self._reply is None:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header that is read."""
        name = name.lower()
        if name in _READ and not self._head_ended:
            self._headers.setdefault(name, value)

    def on_headers_complete(self) -> None:
        """From here on headers are trailers, which nobody reads."""
        self._head_ended = True

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body, unless it is too much."""
        self._size += len(piece)
        if self._size <= self._max_body:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Answer who asked, unless this only announced the reply."""
        if self._parser.get_status_code() < _FIRST_FINAL:
            self._begin()
            return
        if not self._parser.should_keep_alive():
            self.close()
        if self._size <= self._max_body:
            self._finish()

    def _begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._size = self._received = 0
        self._head_ended = False

    def _finish(self) -> None:
        waiting, self._reply = self._reply, None
        if waiting is not None and not waiting.done():
            status = self._parser.get_status_code()
            waiting.set_result(WireReply(status, self._headers, b"".join(self._pieces)))

    def _fail(self, error: WireError) -> None:
        waiting, self._reply = self._reply, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        self.close()
