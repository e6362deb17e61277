"""Locks on files: held by a process, and gone with it, whatever ends it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(file: Path) -> Iterator[int]:
    """Hold a file while the block lasts; yield it, open for reading and writing.

    Args:
        file: Made where there is none.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It can't be opened.
    """
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    finally:
        os.close(lock)  # and with it the lock


def is_held(file: Path) -> bool:
    """Tell whether a process holds a file, which is there.

    Raises:
        OSError: It can't be opened.
    """
    try:
        with held(file):
            return False
    except BlockingIOError:
        return True
