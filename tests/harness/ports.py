"""Ports for what takes several in a row, as the demo does."""

import os
import secrets
import socket
from contextlib import ExitStack

import pytest

_FIRST, _LAST = 21_000, 29_000
"""Below the ports that systems give to whoever asks for any."""
_EACH = 1_000
"""So many has each worker of a run: what one finds free, no other takes meanwhile."""


def free_ports_in_a_row(count: int) -> int:
    """Return the first of so many free ports in a row."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker * _EACH % (_LAST - _FIRST)
    rows = _EACH // count
    begin = secrets.randbelow(rows)  # another run on this machine begins elsewhere
    for row in range(rows):
        port = first + (begin + row) % rows * count
        with ExitStack() as stack:
            try:
                for one in range(port, port + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", one)))
            except OSError:
                continue
            return port
    pytest.fail("no free ports")
