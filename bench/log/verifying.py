"""(3) Checking a log: whole, at several sizes, and an update from a kept state."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from audit.demands import Demands
from audit.fetching import fetching
from audit.fsck import check_log
from audit.keys import LogKeys
from audit.verify import verify_stored
from audit.verify_served import verify_served

WAYS: Final = {
    "fsck": "fsck: the tree from the entries alone",
    "served": "verify, as outsiders see it",
    "stored": "verify, the log's own file with all that stands beside the leaves",
}
RESUMED: Final = ("served", "stored")
"""Which of them go on from a kept state."""


def _nobody(_done: int, _of: int) -> None:
    """Report progress to nobody."""


class Checks:
    """Checks one log in each way, and keeps how far each has come.

    Args:
        path: The log's file, which nobody has open meanwhile.
        keys: The log's.
        folder: Where states are kept.
    """

    def __init__(self, path: Path, keys: LogKeys, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._vkey = keys.log.verifier.vkey
        self._sizes: dict[str, int] = {}
        """How far each way's kept state goes."""

    def whole(self, way: str, size: int) -> dict[str, float | str]:
        """Check the whole log, and keep a new state."""
        self._state(way).unlink(missing_ok=True)
        self._sizes[way] = 0
        return self.update(way, size)

    def update(self, way: str, size: int) -> dict[str, float | str]:
        """Check what was added to the log since the kept state; return the figures."""
        added, self._sizes[way] = size - self._sizes[way], size
        began, spent = time.perf_counter(), time.process_time()
        self._way(way)()
        return {
            "way": way,
            "size": size,
            "added": added,
            "wall_s": time.perf_counter() - began,
            "cpu_s": time.process_time() - spent,
        }

    def _way(self, way: str) -> Callable[[], object]:
        demands = Demands(self._vkey)

        def run() -> object:
            if way == "stored":
                return verify_stored(self._path, demands, state_file=self._state(way))
            with fetching(str(self._path)) as fetch:
                if way == "fsck":
                    return check_log(fetch, self._vkey, _nobody)
                return verify_served(
                    fetch, demands, _nobody, state_file=self._state(way)
                )

        return run

    def _state(self, way: str) -> Path:
        return self._folder / f"{way}.state"
