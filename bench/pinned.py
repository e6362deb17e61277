"""Becomes another command on one core: `python -m bench.pinned CORE COMMAND...`."""

import os
import sys


def main() -> None:
    """Take the core, then become the command; its threads stay there."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the bench's own command


if __name__ == "__main__":
    main()
