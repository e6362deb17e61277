"""Where a look-up may go: endpoints taken apart, and addresses held to networks.

What some software reads as an address and other software as a name is refused here,
before anybody connects.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from schemas.errors import SettingsError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Every address of a host and port, as text; raises OSError when there is none."""
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SPACE = 0x20
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where look-ups are posted, taken apart."""

    url: str
    host: str
    """A DNS name in lower case, or an address without brackets."""
    port: int
    address: Address | None
    """The address, when the host is one."""


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
    # Put together again from its parts, so that what was checked is what is used.
    shown = f"[{host}]" if isinstance(address, ipaddress.IPv6Address) else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
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
