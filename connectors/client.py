"""The one way out: HTTP to one data service, held on a short lead.

The HTTP library resolves names by itself, follows redirects, obeys proxy variables,
unpacks whatever is packed, and reads `2130706433` as 127.0.0.1. None of that may
happen here. The host is parsed and resolved by us, every address is checked against
the configured networks, and the one that is used is pinned in a client of its own for
each service, which is built again when the name moves.
"""

import asyncio
import atexit
import ipaddress
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Self

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DecodeError, RequestError
from pyreqwest.http import Url
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from connectors.addresses import (
    Network,
    Resolve,
    is_allowed,
    resolve_by_system,
)
from connectors.protocol import LOOKUP_MEDIA_TYPE
from schemas.clock import Clock
from schemas.endpoint import parse_endpoint
from schemas.errors import (
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
    SettingsError,
)

_IDLE = timedelta(seconds=4)
"""How long an unused connection is kept: less than common servers do, since a look-up
that is sent into a connection which is being closed is lost and can't be sent twice."""
_CUT_OFF = "end of file before message length reached"
"""The HTTP library's words for a body that is shorter than announced."""
_LAST_WORDS_S = 0.1


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
class Media:
    """The media types that a client sends and accepts."""

    sends: str = LOOKUP_MEDIA_TYPE
    accepts: str = "*/*"


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a department sent, whole and within the cap."""

    status: int
    media_type: str
    """In lower case, without parameters; "" when absent."""
    body: bytes
    retry_after_s: float | None
    """`Retry-After` in seconds, at most a week; None when absent or a date."""


@cache
def _end_in_peace() -> None:
    """Let the HTTP library's thread hand back the interpreter before it goes.

    It hands over a call's result, is overtaken by whoever waited for that, and then
    asks for the interpreter once more. CPython before 3.14 aborts the process (SIGABRT)
    when that happens while it goes; there is nothing to wait for, so it is given time.
    """
    atexit.register(time.sleep, _LAST_WORDS_S)


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A client that can reach one address only, and until when it is trusted."""

    client: Client
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
        media: Media = Media(),
        concurrency: int = 32,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """Take the endpoint apart; nothing is connected yet.

        Args:
            endpoint: Where it is posted to.
            policy: What holds for every call.
            clock: Tells when to ask for the name again.
            media: What is posted, and what is understood.
            concurrency: How many calls may be under way.
            resolve: Finds the addresses of a name.

        Raises:
            SettingsError: The endpoint is refused; see `parse_endpoint`.
        """
        self._endpoint = parse_endpoint(endpoint)
        self._url = Url(self._endpoint.url)
        self._headers = {
            "accept": media.accepts,
            "accept-encoding": "identity",
            "content-type": media.sends,
        }
        self._policy = policy
        self._clock = clock
        self._concurrency = concurrency
        self._resolve = resolve
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting = 0
        self._pinning = asyncio.Lock()
        self._pinned: _Pinned | None = None
        self._retired: list[Client] = []

    async def post(self, body: str) -> HttpReply:
        """Post `body` and return the reply. The caller bounds the time.

        (1) Wait for one of the service's slots, in a queue that is bounded.
        (2) Take the client that is pinned to a checked address.
        (3) Send, and read at most `max_reply` bytes.

        Raises:
            ConnectorUnavailableError: The queue is full, no allowed address was
                found, or the service could not be reached or closed the connection
                before the end of its reply.
            ConnectorFaultError: The reply is packed, too large or not HTTP.
        """
        if self._slots.locked():  # (1)
            await self._queue()
        else:
            await self._slots.acquire()
        try:
            client = await self._client()  # (2)
            request = client.post(self._url).body_text(body).build_streamed()
            return await self._exchange(request)  # (3)
        finally:
            self._slots.release()

    async def get(self, path: str) -> HttpReply:
        """Read another path of the same host, within the same bounds.

        Raises:
            ConnectorUnavailableError: As in `post`.
            ConnectorFaultError: As in `post`.
        """
        client = await self._client()
        request = client.get(self._url.join(path)).build_streamed()
        return await self._exchange(request)

    async def prepare(self) -> None:
        """Build the client before the first look-up needs it: it takes 10 ms of CPU.

        Raises:
            ConnectorUnavailableError: No allowed address was found, by now.
        """
        await self._client()

    async def aclose(self) -> None:
        """Close every connection."""
        pinned, self._pinned = self._pinned, None
        clients = [*self._retired, *([pinned.client] if pinned else [])]
        self._retired.clear()
        for client in clients:
            await client.close()

    async def _queue(self) -> None:
        if self._waiting >= self._policy.max_waiting:
            message = "too many look-ups wait for this data service"
            raise ConnectorUnavailableError(message, layer=Layer.GATEWAY)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    async def _client(self) -> Client:
        pinned = self._pinned
        if pinned is not None and self._clock.monotonic() < pinned.until:
            return pinned.client
        async with self._pinning:
            pinned = self._pinned
            if pinned is None or self._clock.monotonic() >= pinned.until:
                pinned = await self._pin(pinned)
                self._pinned = pinned
            return pinned.client

    async def _pin(self, before: _Pinned | None) -> _Pinned:
        """Return a client for an address that the host has now and that is allowed."""
        addresses = await self._addresses()
        until = self._clock.monotonic() + self._policy.resolve_every_s
        if before is not None and before.address in addresses:
            return _Pinned(before.client, before.address, until)
        if before is not None:
            await self._retire(before.client)
        return _Pinned(self._build(addresses[0]), addresses[0], until)

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

    async def _retire(self, client: Client) -> None:
        """Keep the last replaced client for calls under way; close older ones."""
        while self._retired:
            await self._retired.pop().close()
        self._retired.append(client)

    def _build(self, address: str) -> Client:
        _end_in_peace()
        endpoint, policy = self._endpoint, self._policy
        builder = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(enable=False)
            .referer(enable=False)
            .gzip(enable=False)
            .brotli(enable=False)
            .zstd(enable=False)
            .deflate(enable=False)
            .user_agent("errand")
            .default_headers(self._headers)
            .connect_timeout(timedelta(seconds=policy.connect_timeout_s))
            .pool_max_idle_per_host(self._concurrency)
            .pool_idle_timeout(_IDLE)
            .http1_only()
        )
        if policy.root_certificates is not None:
            builder = builder.add_root_certificate_pem(policy.root_certificates)
        if endpoint.address is None:
            builder = builder.resolve(endpoint.host, address, endpoint.port)
        return builder.build()

    async def _exchange(self, request: StreamRequest) -> HttpReply:
        try:
            async with request as response:
                return await self._read(response)
        # None is chained: the library's words may quote what was received.
        except RequestError as error:
            if isinstance(error, DecodeError) and not _is_cut_off(error):
                message = "the reply is not HTTP"
                raise ConnectorFaultError(Fault.FORMAT, message) from None
            # The connection ended before the reply did: whether that was the
            # department or the line, nobody said anything wrong.
            self._unpin()
            message = "the data service can't be reached, or hung up in its reply"
            raise ConnectorUnavailableError(message, layer=Layer.SOURCE) from None

    def _unpin(self) -> None:
        """Ask for the name again at the next look-up: it may have moved."""
        if self._pinned is not None and self._endpoint.address is None:
            pinned = self._pinned
            self._pinned = _Pinned(pinned.client, pinned.address, float("-inf"))

    async def _read(self, response: Response) -> HttpReply:
        encoding = response.get_header("content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            message = "the reply is packed, and nothing was asked to be"
            raise ConnectorFaultError(Fault.FORMAT, message)
        limit = self._policy.max_reply
        # One byte more than allowed tells a reply that is too large, unread.
        body = await response.body_reader.read(limit + 1)
        if body is not None and len(body) > limit:
            message = f"the reply exceeds {limit} bytes"
            raise ConnectorFaultError(Fault.TOO_LARGE, message)
        return _reply(response, bytes(body or b""))


def _is_cut_off(error: DecodeError) -> bool:
    """Tell whether a body ended before the length that was announced for it.

    The library calls that a fault of decoding, as it does a chunk of no length.
    """
    causes = error.details["causes"] or []
    return any(cause["message"] == _CUT_OFF for cause in causes)


def _reply(response: Response, body: bytes) -> HttpReply:
    media_type = (response.get_header("content-type") or "").partition(";")[0]
    return HttpReply(
        response.status,
        media_type.strip().lower(),
        body,
        _retry_after(response.get_header("retry-after")),
    )


_LONGEST_WAIT_S = 7 * 24 * 3600


def _retry_after(text: str | None) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, 10.2.3); None for a date."""
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        return None
    return float(min(int(text), _LONGEST_WAIT_S))
