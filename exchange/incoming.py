"""HTTP/1.1 as it comes in, within a size and a time, for each service that listens.

uvicorn reads a head without an end, and waits for ever until the rest of a request has
come, or its answer is taken. Some hundred lines that only stand open would be all that
a service works on at once, without a token having been asked for.
"""

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson
import structlog
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exchange.libraries import EventDict, LibraryHandler

NO_HTTP: Final = "this is no HTTP"
MEDIA_TYPE: Final = b"application/problem+json"
"""SOURCE: RFC 9457, section 3."""

_log = structlog.get_logger(__name__)


class Incoming(HttpToolsProtocol):
    """One connection: what comes on it is a request within bounds, or is refused."""

    most_head_bytes = 65_536
    """The longest head: the request line and all fields; likewise for trailers. What
    comes of one in the same read as something else is not counted."""
    whole_s = 30.0
    """Seconds in which a request has come whole, the first since the connection; and
    in which one does where something came that began none."""
    taken_s = 60.0
    """Seconds in which something of an answer is taken."""

    _head_bytes = _fields = 0
    _in_head = _in_request = _is_mixed = False
    _comes: asyncio.TimerHandle | None = None
    _is_taken: asyncio.TimerHandle | None = None

    def unreadable(self, why: str) -> bytes:
        """Return the whole answer to what is no request that can be read (RFC 9112).

        A service with problems of its own (RFC 9457) answers in its own words.
        """
        told = {"type": "about:blank", "title": "Bad Request", "status": 400}
        body = orjson.dumps(told | {"detail": why})
        lines = (
            b"HTTP/1.1 400 Bad Request",
            b"content-type: " + MEDIA_TYPE,
            b"content-length: %d" % len(body),
            b"cache-control: no-store",
            b"connection: close",
        )
        return b"\r\n".join((*lines, b"", body))

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._comes = self.loop.call_later(self.whole_s, self._give_up)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._comes, self._is_taken):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        # Of what comes with anything else nobody knows how much is of a head.
        self._is_mixed = self._in_request and not self._has_open_fields()
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_request:
            self._bound(0 if self._is_mixed else len(data))
        elif self._comes is None and self.cycle.response_complete:
            # No request began with it, and uvicorn has stopped its own clock.
            self._comes = self.loop.call_later(self.whole_s, self._give_up)

    @override
    def on_message_begin(self) -> None:
        self._in_request = self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    @override
    def on_headers_complete(self) -> None:
        self._in_head, self._is_mixed = False, True
        self._fields = len(self.headers)
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_request, self._is_mixed = False, True
        if self._comes is not None:
            self._comes.cancel()
            self._comes = None
        super().on_message_complete()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_taken = self.loop.call_later(self.taken_s, self.transport.abort)

    @override
    def resume_writing(self) -> None:
        if self._is_taken is not None:
            self._is_taken.cancel()
            self._is_taken = None
        super().resume_writing()

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(NO_HTTP)

    def _has_open_fields(self) -> bool:
        """Tell whether what comes next is of a head, or of trailers."""
        return self._in_head or len(self.headers) > self._fields

    def _bound(self, size: int) -> None:
        """Hold a request that has not come whole yet to its size and its time.

        Args:
            size: Of what came now: 0 where it ended a head, a body or a request first.
        """
        if self._comes is None:
            self._comes = self.loop.call_later(self.whole_s, self._give_up)
        if self._has_open_fields():
            self._head_bytes += size
            if self._head_bytes > self.most_head_bytes:
                self._refuse(f"a head may have {self.most_head_bytes} bytes at most")

    def _give_up(self) -> None:
        """Close a connection whose request did not come whole.

        Where the head did, the service is at work on it and hears that the caller left.
        """
        if self.flow.read_paused:  # it is we who do not read
            self._comes = self.loop.call_later(self.whole_s, self._give_up)
        elif self._in_head:
            self._refuse(f"a request comes whole within {self.whole_s:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, why: str) -> None:
        self.transport.write(self.unreadable(why))
        self.transport.close()


class Server(uvicorn.Server):
    """Says in the output of its service from when on, and where, it listens."""

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            _log.info("listening", host=self.config.host, port=self.config.port)


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Run a department's or a witness's service until it is told to stop.

    What libraries log is told in the service's own output, as its other events are.

    Args:
        app: The service.
        host: The address to listen on.
        port: The port to listen on.
        certificate: PEM of the TLS certificate; None where a proxy in front does TLS.
        key: PEM of its key; given exactly when `certificate` is.
    """
    handlers = [LibraryHandler(_tell)]
    logging.basicConfig(handlers=handlers, level=logging.WARNING, force=True)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        http=Incoming,
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
    )
    with suppress(KeyboardInterrupt):
        Server(config).run()


def _tell(event: EventDict) -> None:
    _log.log(logging.getLevelNamesMapping()[event.pop("level").upper()], **event)
