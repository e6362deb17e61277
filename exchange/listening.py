"""Whether an address can be listened on, asked before a service takes it.

uvicorn says in its own log alone that an address is taken, and ends with a status of
its own; whoever starts a service wants one line with the address and the setting. The
same holds of a TLS certificate that can't be used, which ends it with a traceback.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import SettingsError
from schemas.model import MOST_PORT


@contextmanager
def free_address(host: str, port: int, setting: str) -> Iterator[None]:
    """Run a service that listens on an address, which must be free.

    Args:
        host: The address, or a name of it.
        port: The port, from 1.
        setting: What names the port, as the message says it.

    Raises:
        SettingsError: It is taken, before or just now, or is no address of this
            machine, or there is no such port.
    """
    check_free(host, port, setting)
    try:
        yield
    except SystemExit:  # uvicorn's way of saying that it could not start
        check_free(host, port, setting)
        raise


def check_free(host: str, port: int, setting: str) -> None:
    """Check that an address can be listened on now.

    Raises:
        SettingsError: As for `free_address`.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not 1 <= port <= MOST_PORT:  # the system would take a larger one's lower bits
        raise SettingsError(
            f"`{shown}` can't be listened on: a port is a number from 1 to {MOST_PORT},"
            f" choose one with {setting}"
        )
    try:
        _try_all(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"`{shown}` is taken: stop what listens there, or choose another port"
                f" with {setting}"
            ) from None
        raise SettingsError(
            f"`{shown}` can't be listened on ({error.strerror}): choose another"
            f" address, or another port with {setting}"
        ) from None


def check_certificate(certificate: Path, key: Path) -> None:
    """Check that TLS can be spoken with a certificate and its key, both in PEM.

    Raises:
        SettingsError: One can't be read, or the pair can't be used.
    """
    for setting, file in ("certificate", certificate), ("certificate_key", key):
        try:
            file.read_bytes()
        except OSError as error:
            told = f"`listen.{setting}`: `{file}`: {error.strerror}"
            raise SettingsError(told) from None
    try:
        # With a password given, none is asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, "")
    except (OSError, ValueError) as error:
        mismatched = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        why = (
            "the key is of another certificate"
            if mismatched
            else "no PEM of a certificate, and of its key without a password"
        )
        told = "`listen.certificate` and `listen.certificate_key`"
        raise SettingsError(f"{told}: `{certificate}`, `{key}`: {why}") from None


def _try_all(host: str, port: int) -> None:
    """Bind a socket at each address that a host's name has, as a server would.

    A family of addresses that the system has no sockets of is passed over, as
    asyncio and uvloop do, if another is left.

    Raises:
        OSError: One of them can't be bound, or no socket can be made.
    """
    missing, found = None, False
    for family, kind, _, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            tried = socket.socket(family, kind)
        except OSError as error:
            missing = error
            continue
        found = True
        with tried:
            _bind(tried, address)
    if missing is not None and not found:
        raise missing


def _bind(tried: socket.socket, address: object) -> None:
    """Bind a socket as a server does.

    Raises:
        OSError: Somebody else listens there, or it is no address of this machine.
    """
    # As servers do: what a server left behind when it ended takes no port.
    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if tried.family == socket.AF_INET6:
        tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tried.bind(address)  # type: ignore[arg-type] # as getaddrinfo gives it
