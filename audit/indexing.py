"""Keeping the search index near the end of the log, whoever asks or does not."""

import threading

from audit.query import AccessIndex
from audit.sql import Place
from audit.store import LogReader


class IndexFollower:
    """Has an index follow its log, in a thread of its own.

    A question takes in what is new by itself, as far as that is a matter of moments.
    After a day without questions it would not be, and the answer would lack most of
    that day.

    Args:
        index: Where the index is kept.
        log: Where the log is.
        interval_s: Seconds between two looks at the log.
    """

    def __init__(self, index: Place, log: Place, interval_s: float = 1.0) -> None:
        self._index = AccessIndex(index, LogReader.open(log))
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="audit-follower", daemon=True
        )
        self.failure: str | None = None
        """Why the last look failed; None when it did not."""

    def start(self) -> None:
        """Follow from now on, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Take in what is new once more, some of it, and stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._index.close()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._look()
        self._look()

    def _look(self) -> None:
        try:
            self._index.follow()
        except Exception as error:  # noqa: BLE001 - tried again at the next look
            self.failure = type(error).__name__
        else:
            self.failure = None
