"""An endpoint of a data service, taken apart and held to its one ordinary form.

What some software reads as an address and other software as a name is refused here,
when a pack is loaded and before anybody connects.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from schemas.errors import SettingsError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
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
