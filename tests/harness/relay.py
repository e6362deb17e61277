"""A relay before a PostgreSQL server, which loses what it is told to lose."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_PORT = 5432
"""Part of a socket's name; nothing listens on TCP."""


class Loss(Enum):
    """What becomes of the next thing that a client says."""

    NOTHING = auto()
    QUESTION = auto()
    """It does not arrive, and the connection breaks."""
    ANSWER = auto()
    """It arrives and is done; the answer is lost, and the connection breaks."""


class Relay:
    """Passes on what clients and the server say to each other.

    Args:
        url: The database.
        folder: Where its own socket goes.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._server = Path(str(conninfo_to_dict(url)["host"])) / f".s.PGSQL.{_PORT}"
        self.url = make_conninfo(url, host=str(folder))
        self.loss = Loss.NOTHING
        self.is_open = True
        """Whether anybody new is let in."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / f".s.PGSQL.{_PORT}"))
        self._listening.listen()
        self._lines: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if not self.is_open:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._server))
                self._lines += [client, server]
                line = _Line(self, client, server)
                for pump in (line.ask, line.answer):
                    threading.Thread(target=pump, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; whoever comes anew is let in."""
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break every connection, and let nobody in."""
        for line in [self._listening, *self._lines]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()


class _Line:
    """One connection through the relay."""

    def __init__(
        self, relay: Relay, client: socket.socket, server: socket.socket
    ) -> None:
        self._relay = relay
        self._client = client
        self._server = server
        self._is_lost = False

    def ask(self) -> None:
        """Pass on what the client says."""
        with suppress(OSError):
            while said := self._client.recv(1 << 16):
                loss, self._relay.loss = self._relay.loss, Loss.NOTHING
                if loss is Loss.QUESTION:
                    break
                self._is_lost = self._is_lost or loss is Loss.ANSWER
                self._server.sendall(said)
        self._break()

    def answer(self) -> None:
        """Pass on what the server says."""
        with suppress(OSError):
            while said := self._server.recv(1 << 16):
                if self._is_lost:
                    break
                self._client.sendall(said)
        self._break()

    def _break(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def a_relay(url: str, folder: Path) -> Iterator[Relay]:
    """Run a relay while the block lasts."""
    relay = Relay(url, folder)
    try:
        yield relay
    finally:
        relay.close()
