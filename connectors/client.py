"""The one way out: HTTP to one data service, held on a short lead.

HTTP libraries resolve names by themselves, follow redirects, obey proxy variables,
unpack whatever is packed, and read `2130706433` as 127.0.0.1. None of that may happen
here. The host is parsed and resolved by us, every address is checked against the
configured networks, and connections go to the one that was checked, until the name is
asked for again.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import string
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeAlias
from urllib.parse import quote, urlsplit

from connectors.wire import (
    Connection,
    HungUpError,
    NotHttpError,
    TooMuchError,
    WireReply,
)
from schemas.clock import Clock
from schemas.errors import (
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
    SettingsError,
)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Every address of a host and port, as text; raises OSError when there is none."""

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SPACE = 0x20
_IDLE_S = 4.0
"""How long an unused connection is kept: less than common servers do, since a look-up
that is sent into a connection which is being closed is lost and can't be sent twice."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What holds for every outbound call of a deployment."""

    networks: tuple[Network, ...]
    """Where departments may be; an address outside is never connected to."""
    max_reply: int = 256 * 1024  # bytes
    max_waiting: int = 256
    """How many look-ups may wait for a free slot of one service."""
    connect_timeout_s: float = 2.0
    resolve_every_s: float = 60.0
    """How long a pinned address is kept before the name is asked for again."""
    root_certificates: bytes | None = None
    """PEM of further roots to trust, such as a government's own."""

    @classmethod
    def of(cls, *networks: str) -> Self:
        """Return the default policy for networks in CIDR form.

        Raises:
            SettingsError: One of them is not a network.
        """
        try:
            parsed = tuple(ipaddress.ip_network(text) for text in networks)
        except ValueError as error:
            raise SettingsError(f"not a network in CIDR form: {error}") from error
        return cls(networks=parsed)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where look-ups are posted, taken apart."""

    url: str
    """In ASCII, put together again from the parts that were checked."""
    host: str
    """A DNS name in lower case, or an address without brackets."""
    port: int
    address: Address | None
    """The address, when the host is one."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a department sent, whole and within the cap."""

    status: int
    media_type: str
    """In lower case, without parameters; "" when absent."""
    body: bytes
    retry_after_s: float | None
    """`Retry-After` in seconds, at most a week; None when absent or a date."""


def parse_endpoint(url: str) -> Endpoint:
    """Return an endpoint taken apart, or refuse it.

    A host is an address in its one ordinary form, or a DNS name; what some software
    reads as an address and other software as a name (`2130706433`, `0x7f.1`,
    `127.1`) is refused.

    Raises:
        SettingsError: It is not an absolute http or https URL of that kind.
    """
    if any(ord(character) <= _SPACE or character == "\\" for character in url):
        raise SettingsError("an endpoint holds no spaces, controls or backslashes")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as error:
        raise SettingsError("an endpoint is not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS or "@" in parts.netloc or parts.fragment:
        message = "an endpoint is an http or https URL without user or fragment"
        raise SettingsError(message)
    address = _address_of(host)
    port = port or _DEFAULT_PORTS[parts.scheme]
    shown = f"[{host}]" if isinstance(address, ipaddress.IPv6Address) else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = quote(target, safe=string.punctuation)  # what is beyond ASCII, alone
    return Endpoint(f"{parts.scheme}://{shown}:{port}{target}", host, port, address)


def _address_of(host: str) -> Address | None:
    """Return the address that `host` is; None when it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and "%" not in host:
        return address
    # WHATWG URL: a host whose last label is a number is taken for an IPv4 address.
    if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
        message = "an endpoint's host is neither a DNS name nor a plain address"
        raise SettingsError(message)
    return None


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Tell whether `address` lies in one of the networks.

    An IPv4 address in IPv6 clothes is the IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast:
        return False
    return any(address in network for network in networks)


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Return every address that the system's resolver knows for `host`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


@dataclass(frozen=True, slots=True)
class _Pinned:
    """The address that look-ups go to, and until when it is trusted."""

    address: str
    until: float
    """In seconds of the monotonic clock."""


class ServiceClient:
    """The HTTP client of one data service."""

    def __init__(
        self,
        endpoint: str,
        policy: ClientPolicy,
        clock: Clock,
        *,
        concurrency: int = 32,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """Take the endpoint apart; nothing is connected yet.

        Raises:
            SettingsError: The endpoint is refused; see `parse_endpoint`.
        """
        self._endpoint = parse_endpoint(endpoint)
        self._policy = policy
        self._clock = clock
        self._resolve = resolve
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting = 0
        self._pinning = asyncio.Lock()
        self._pinned: _Pinned | None = None
        self._idle: list[Connection] = []
        """Connections that can be used again, the one used last at the end."""
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def post(self, body: str, *, media_type: str, accept: str) -> HttpReply:
        """Post `body` and return the reply. The caller bounds the time.

        (1) Wait for one of the service's slots, in a queue that is bounded.
        (2) Take a connection to the address that was checked.
        (3) Send, and read at most `max_reply` bytes.

        Raises:
            ConnectorUnavailableError: The queue is full, no allowed address was
                found, or the service could not be reached or closed the connection
                before the end of its reply.
            ConnectorFaultError: The reply is packed, too large or not HTTP.
        """
        if self._slots.locked():
            await self._queue()  # (1)
        else:
            await self._slots.acquire()
        try:
            connection = await self._connection()  # (2)
            request = _request(self._endpoint.url, media_type, accept, body)
            return await self._exchange(connection, request)  # (3)
        finally:
            self._slots.release()

    async def prepare(self) -> None:
        """Find the address before the first look-up needs it.

        Raises:
            ConnectorUnavailableError: No allowed address was found, by now.
        """
        await self._address()

    async def aclose(self) -> None:
        """Close every connection; one that is in use, when its reply has come."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().close()

    async def _queue(self) -> None:
        if self._waiting >= self._policy.max_waiting:
            message = "too many look-ups wait for this data service"
            raise ConnectorUnavailableError(message, layer=Layer.GATEWAY)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    # Addresses.

    async def _address(self) -> str:
        pinned = self._pinned
        if pinned is not None and self._clock.monotonic() < pinned.until:
            return pinned.address
        async with self._pinning:
            pinned = self._pinned
            if pinned is None or self._clock.monotonic() >= pinned.until:
                pinned = await self._pin(pinned)
                self._pinned = pinned
            return pinned.address

    async def _pin(self, before: _Pinned | None) -> _Pinned:
        """Return an address that the host has now and that is allowed."""
        addresses = await self._addresses()
        until = self._clock.monotonic() + self._policy.resolve_every_s
        if before is not None and before.address in addresses:
            return _Pinned(before.address, until)
        return _Pinned(addresses[0], until)

    async def _addresses(self) -> Sequence[str]:
        endpoint = self._endpoint
        if endpoint.address is not None:
            found: Sequence[str] = [str(endpoint.address)]
        else:
            try:
                found = await self._resolve(endpoint.host, endpoint.port)
            except OSError:
                found = []
        networks = self._policy.networks
        # All of them, not the first: a name that also points elsewhere is not trusted.
        allowed = all(is_allowed(ipaddress.ip_address(a), networks) for a in found)
        if not found or not allowed:
            message = "the endpoint has no address, or one outside the networks allowed"
            raise ConnectorUnavailableError(message, layer=Layer.CONNECTOR)
        return found

    def _unpin(self) -> None:
        """Ask for the name again at the next look-up: it may have moved."""
        if self._pinned is not None and self._endpoint.address is None:
            self._pinned = _Pinned(self._pinned.address, float("-inf"))

    # Connections.

    async def _connection(self) -> Connection:
        """Return a connection to the pinned address: one that is kept, or another."""
        address, now = await self._address(), self._clock.monotonic()
        while self._idle:
            kept = self._idle.pop()
            is_fresh = now < kept.idle_since + _IDLE_S
            if is_fresh and kept.is_open and kept.address == address:
                return kept
            kept.close()
        return await self._connect(address)

    async def _connect(self, address: str) -> Connection:
        endpoint, policy = self._endpoint, self._policy
        is_secured = endpoint.url.startswith("https:")
        try:
            async with asyncio.timeout(policy.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(address, policy.max_reply),
                    address,
                    endpoint.port,
                    ssl=_trust(policy.root_certificates) if is_secured else None,
                    server_hostname=endpoint.host if is_secured else None,
                )
        except OSError:  # a time-out and a certificate that is not trusted among them
            self._unpin()
            raise _unreachable() from None
        return connection

    async def _exchange(self, connection: Connection, request: bytes) -> HttpReply:
        try:
            reply = await connection.ask(request)
        except HungUpError:
            # The connection ended before the reply did: whether that was the
            # department or the line, nobody said anything wrong.
            self._unpin()
            raise _unreachable() from None
        except NotHttpError:
            raise ConnectorFaultError(Fault.FORMAT, "the reply is not HTTP") from None
        except TooMuchError:
            message = f"the reply exceeds {self._policy.max_reply} bytes"
            raise ConnectorFaultError(Fault.TOO_LARGE, message) from None
        except BaseException:
            connection.close()  # given up: the reply may still come
            raise
        self._keep(connection)
        return _reply(reply)

    def _keep(self, connection: Connection) -> None:
        """Keep a connection for the next look-up."""
        if self._is_closed:
            connection.close()
        if not connection.is_open:
            return
        connection.idle_since = self._clock.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(_IDLE_S, self._close_unused)

    def _close_unused(self) -> None:
        """Close what nobody used for a while: departments need not keep it either."""
        since = self._clock.monotonic() - _IDLE_S
        unused = [one for one in self._idle if one.idle_since <= since]
        self._idle = [one for one in self._idle if one.idle_since > since]
        for connection in unused:
            connection.close()
        loop = asyncio.get_running_loop()
        self._sweep = (
            loop.call_later(_IDLE_S, self._close_unused) if self._idle else None
        )


def _unreachable() -> ConnectorUnavailableError:
    message = "the data service can't be reached, or hung up in its reply"
    return ConnectorUnavailableError(message, layer=Layer.SOURCE)


@lru_cache(maxsize=16)
def _trust(root_certificates: bytes | None) -> ssl.SSLContext:
    """Return whom to trust: the system's roots, and those of the policy."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if root_certificates is not None:
        context.load_verify_locations(cadata=root_certificates.decode("ascii"))
    return context


def _request(url: str, media_type: str, accept: str, body: str) -> bytes:
    content = body.encode()
    head = _request_head(url, media_type, accept)
    return b"%b%d\r\n\r\n%b" % (head, len(content), content)


@lru_cache(maxsize=4096)
def _request_head(url: str, media_type: str, accept: str) -> bytes:
    """Return a request up to its length: the same for every look-up of a service."""
    parts = urlsplit(url)
    default = f":{_DEFAULT_PORTS[parts.scheme]}"
    lines = (
        f"POST {parts.path}{'?' if parts.query else ''}{parts.query} HTTP/1.1",
        f"host: {parts.netloc.removesuffix(default)}",
        "user-agent: errand",
        "accept-encoding: identity",
        f"accept: {accept}",
        f"content-type: {media_type}",
        "content-length: ",
    )
    return "\r\n".join(lines).encode("ascii")


def _reply(reply: WireReply) -> HttpReply:
    headers = reply.headers
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        message = "the reply is packed, and nothing was asked to be"
        raise ConnectorFaultError(Fault.FORMAT, message)
    media_type = headers.get(b"content-type", b"").partition(b";")[0]
    return HttpReply(
        reply.status,
        media_type.strip().lower().decode("latin-1"),
        reply.body,
        _retry_after(headers.get(b"retry-after")),
    )


_LONGEST_WAIT_S = 7 * 24 * 3600


def _retry_after(text: bytes | None) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, 10.2.3); None for a date."""
    if text is None or not re.fullmatch(rb"[0-9]{1,9}", text):
        return None
    return float(min(int(text), _LONGEST_WAIT_S))
