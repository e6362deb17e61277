"""Ports for what takes several in a row, as the demo does."""

import socket
from contextlib import ExitStack

import pytest

_FIRST, _LAST = 21_000, 29_000
"""Below the ports that systems give to whoever asks for any."""


def free_ports_in_a_row(count: int, first: int = _FIRST) -> int:
    """Return the first of so many free ports in a row."""
    for port in range(first, _LAST, count):
        with ExitStack() as stack:
            try:
                for one in range(port, port + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", one)))
            except OSError:
                continue
            return port
    pytest.fail("no free ports")
