"""Real servers on loopback: ASGI apps under uvicorn, and sockets that misbehave."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn


@contextmanager
def serving(app: Any) -> Iterator[str]:  # noqa: ANN401 - any ASGI app
    """Run an ASGI app in a thread; yield its base URL; stop it at the end."""
    with closing_socket() as listener:
        host, port = listener.getsockname()
        config = uvicorn.Config(app, log_level="error", lifespan="on")
        with running(uvicorn.Server(config), listener):
            yield f"http://{host}:{port}"


@contextmanager
def running(server: uvicorn.Server, *listeners: socket.socket) -> Iterator[None]:
    """Run a server in a thread, until the block ends."""
    thread = threading.Thread(target=server.run, args=([*listeners],), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.005)
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
    yield
    server.should_exit = True
    thread.join()


@contextmanager
def closing_socket() -> Iterator[socket.socket]:
    """Yield a socket that listens on a free port of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        yield listener
    finally:
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    """Return one whole HTTP/1.1 request with a `content-length`."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    while len(body) < (lengths[0] if lengths else 0):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


Handle = Callable[[socket.socket, bytes], None]
"""Takes a connection and the request's bytes, and misbehaves; it is closed after."""


@contextmanager
def misbehaving(handle: Handle) -> Iterator[str]:
    """Serve each connection's requests with `handle`; yield the base URL."""

    def attend(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = read_request(connection)
            if request:
                handle(connection, request)
            # Without this the peer may see a reset before it has read the reply.
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

    with closing_socket() as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        host, port = listener.getsockname()
        yield f"http://{host}:{port}"
        listener.shutdown(socket.SHUT_RDWR)


def reply(
    body: bytes,
    *headers: str,
    status: str = "200 OK",
    media_type: str = "application/sd-jwt",
) -> bytes:
    """Return the bytes of an HTTP/1.1 response."""
    lines = [
        f"HTTP/1.1 {status}",
        f"content-type: {media_type}",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sending(data: bytes) -> Handle:
    """Return a handler that sends `data` and hangs up."""

    def send(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(data)

    return send
