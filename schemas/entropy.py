"""Random bytes, drawn from the system a page at a time.

Asking the system costs little by itself, but lets go of the interpreter each time, so
that another thread takes over: a case that takes some sixty draws would change threads
sixty times.
"""

import os
import threading
from collections.abc import Callable

_PAGE = 16_384
"""Bytes drawn at once."""
_LARGEST = 4_096
"""Bytes above which a draw goes to the system itself."""


class EntropyPool:
    """Hands out each byte once; safe to use from any thread, and after a fork.

    Args:
        source: Where the bytes come from.
    """

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._page = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """Return `count` bytes that nobody was given before."""
        if count > _LARGEST:
            return self._source(count)
        with self._lock:
            end = self._at + count
            if end > len(self._page):
                self._page, self._at, end = self._source(_PAGE), 0, count
            drawn = self._page[self._at : end]
            self._at = end
            return drawn

    def forget(self) -> None:
        """Drop what was drawn: for a fork, whose parent hands out the same bytes."""
        self._lock = threading.Lock()
        self._page, self._at = b"", 0


random_bytes = EntropyPool()
"""The pool of this process."""
os.register_at_fork(after_in_child=random_bytes.forget)
