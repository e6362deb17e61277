"""HTTP exchanges that end: each within a time and a size, however slowly it comes.

A time limit of the client counts for each read alone, so a server that sends a byte now
and then could hold its caller up for ever. Here a watch counts for the whole exchange,
the header included, and cuts the connection when it is over.

Exchanges that are under way at once share no connection pool: what is cut is one
exchange's own, and no answer beside it comes short.

The library's client reads where an answer points to, also when it does not follow;
keeps cookies and sends them back; and unpacks what is packed before anybody can count
it. None of that may happen here, so only its transport is used.
"""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import httpx

from schemas.errors import StoreUnavailableError

_OPENED: Final = (
    ".connect_tcp.complete",
    ".connect_unix_socket.complete",
    ".start_tls.complete",
)
"""What `httpcore` tells when a connection has a socket (its `trace` extension)."""
_ROOTS: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where the environment names whom to believe, the first before the second."""
_SERVERS: Final = 16
"""How many servers' proxies are remembered."""
_HEADERS: Final = {"accept-encoding": "identity", "user-agent": "errand"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an exchange may take."""

    read_s: float
    """How long each read or write may take, in seconds."""
    total_s: float
    """How long all of it may take, in seconds, once the server's name is resolved."""
    size: int
    """The largest answer that is read, in bytes as they come."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whatever its status."""

    status: int
    media_type: str
    """As sent; empty where none was."""
    content: bytes


class Exchanges:
    """Exchanges over connections that are kept; may be used from several threads."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
    ) -> None:
        """Make ready to ask.

        Args:
            bounds: What each exchange may take.
            headers: Sent with each.
            trust_env: Whether proxies and roots that the environment names count: as it
                is now, and for a proxy when a server is asked first.
        """
        self._bounds = bounds
        self._headers = {**_HEADERS, **(headers or {})}
        # Looking takes longer than all else that is done here for an exchange.
        self._proxy_of: Callable[[str, str, str], str | None] = (
            lru_cache(_SERVERS)(_proxy_of) if trust_env else _no_proxy
        )
        named = map(os.environ.get, _ROOTS) if trust_env else (None, None)
        self._tls = _tls(*named)
        self._guard = threading.Lock()
        self._busy: set[_Line] = set()
        self._idle: list[_Line] = []
        self._is_closed = False

    def close(self) -> None:
        """Cut what is under way, and let go of connections."""
        with self._guard:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for line in self._busy:
                line.cut()
        for line in idle:
            line.close()

    def ask(self, method: str, url: str, **request: Any) -> Answer:  # noqa: ANN401 - as httpx has it
        """Return what a server answers; where that points elsewhere, nobody follows.

        Args:
            method: Such as `GET`.
            url: The address; a user and a password in it are sent (RFC 7617).
            request: Its parts, by the names that they have in `httpx.Request`.

        Raises:
            StoreUnavailableError: No whole answer came, or not within the bounds, or it
                is packed, or the address is none; says why in a word.
        """
        line = self._take()
        watch = threading.Timer(self._bounds.total_s, line.cut)
        watch.daemon = True
        watch.start()
        try:
            asked = self._request(method, url, **request)
            proxy = self._proxy_of(*_server_of(asked.url))
            return line.ask(asked, proxy, self._bounds.size)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            # ValueError: of a name that the resolver can't take, and of a proxy's.
            raise StoreUnavailableError(type(error).__name__) from None
        finally:
            watch.cancel()
            # A watch that cuts just now has the next exchange on its line before it.
            watch.join()
            self._give_back(line)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        **request: Any,  # noqa: ANN401 - as httpx has it
    ) -> httpx.Request:
        """Return a request of its own: nothing that came before is part of it."""
        sent = {**self._headers, **(headers or {})}
        timeout = httpx.Timeout(self._bounds.read_s).as_dict()
        asked = httpx.Request(
            method, url, headers=sent, extensions={"timeout": timeout}, **request
        )
        if asked.url.userinfo:
            user = httpx.BasicAuth(asked.url.username, asked.url.password)
            next(user.auth_flow(asked))
        return asked

    def _take(self) -> "_Line":
        """Return a line that nobody else uses."""
        with self._guard:
            if self._is_closed:
                raise StoreUnavailableError("closed")
            line = self._idle.pop() if self._idle else _Line(self._tls)
            self._busy.add(line)
        return line

    def _give_back(self, line: "_Line") -> None:
        """Keep a line for the next exchange, unless it was cut."""
        with self._guard:
            self._busy.discard(line)
            if not line.is_cut:
                self._idle.append(line)
                return
        line.close()


class _Line:
    """A way out for one exchange at a time, whose connection can be cut for good."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._transports: dict[str | None, httpx.HTTPTransport] = {}
        """By the proxy that they go through."""
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._guard = threading.Lock()
        self.is_cut = False

    def close(self) -> None:
        """Let go of its connections."""
        for transport in self._transports.values():
            transport.close()

    def cut(self) -> None:
        """Wake whoever waits for the connection; from now on it gives no answer."""
        with self._guard:
            self.is_cut = True
            for one in self._sockets:
                _break(one)

    def ask(self, request: httpx.Request, proxy: str | None, limit: int) -> Answer:
        """Return an answer of at most so many bytes.

        Raises:
            httpx.HTTPError: No whole answer came, or the line was cut.
            StoreUnavailableError: The answer is packed, or too large.
        """
        request.extensions = {**request.extensions, "trace": self._trace}
        content = bytearray()
        try:
            with closing(self._via(proxy).handle_request(request)) as answer:
                _check_unpacked(answer)
                for part in answer.iter_raw():
                    content += part
                    if len(content) > limit:
                        raise StoreUnavailableError("too large")
        except httpx.HTTPError:
            self._check_whole()
            raise
        self._check_whole()
        media_type = answer.headers.get("content-type", "")
        return Answer(answer.status_code, media_type, bytes(content))

    def _via(self, proxy: str | None) -> httpx.HTTPTransport:
        """Return what sends through a proxy, or to the server itself."""
        if proxy not in self._transports:
            self._transports[proxy] = httpx.HTTPTransport(self._tls, proxy=proxy)
        return self._transports[proxy]

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Note the socket of a connection, to break it when the line is cut."""
        if not event.endswith(_OPENED):
            return
        connected = info["return_value"].get_extra_info("socket")
        with self._guard:
            self._sockets.add(connected)
            if self.is_cut:
                _break(connected)

    def _check_whole(self) -> None:
        """Refuse what may be cut off.

        An answer that is as long as its connection looks whole when that breaks.
        """
        if self.is_cut:
            raise httpx.ReadTimeout("the exchange takes too long")


@lru_cache(4)
def _tls(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return whom to believe at the other end; making it takes 30 ms."""
    if file:
        return ssl.create_default_context(cafile=file)
    if folder:
        return ssl.create_default_context(capath=folder)
    return httpx.create_ssl_context(trust_env=False)


def _check_unpacked(answer: httpx.Response) -> None:
    """Refuse what is packed: a few bytes of it may be a great many."""
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise StoreUnavailableError("packed, and nothing was asked to be")


def _server_of(url: httpx.URL) -> tuple[str, str, str]:
    """Return the scheme, the host, and the host with its port, where one is named."""
    return url.scheme, url.raw_host.decode("ascii"), url.netloc.decode("ascii")


def _proxy_of(scheme: str, host: str, with_port: str) -> str | None:
    """Return the proxy that the environment names for a server; None for none."""
    if proxy_bypass(host) or proxy_bypass(with_port):
        return None
    named = getproxies()
    proxy = named.get(scheme) or named.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _no_proxy(*_server: str) -> None:
    """Return that there is none, whatever the environment names."""


def _break(connected: socket.socket) -> None:
    """Wake whoever reads from a socket, or writes to it: closing alone does not."""
    with suppress(OSError):
        # That of the class, since TLS has a shutdown of its own, which would wait.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
