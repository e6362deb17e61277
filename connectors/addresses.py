"""Where a look-up may go: addresses held to networks."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from schemas.endpoint import Address

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Every address of a host and port, as text; raises OSError when there is none."""


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
