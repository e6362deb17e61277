"""A process that seals or leaves a shard, and is killed at a step (`kill -9`)."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from audit import engine_postgres, engine_sqlite
from exchange import rollover
from exchange.settings import read_settings
from schemas.clock import SystemClock
from schemas.ids import new_ids

STEPS = {
    # In the transaction, in the place of its last statement but one.
    "before the last record is committed": (engine_postgres, "_arguments"),
    "before the last checkpoint": (rollover, "publish_whole"),
    "before the next shard": (rollover, "_open_next"),
    "before the register": (rollover, "save_shards"),
}


LEAVING = {
    "before the log is looked at": [(rollover, "leave")],
    # In the transaction that marks the log.
    "before the mark is committed": [
        (engine_postgres, "mark_left"),
        (engine_sqlite, "mark_left"),
    ],
    "before the next shard": [(rollover, "_open_next")],
    "after its first record": [(rollover, "check_genesis")],
    "before the register": [(rollover, "save_shards")],
}


def kill(*_: object) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(config: Path, step: str, name: str, seen: Path | None = None) -> None:
    """Seal the current shard for one of a name, and be killed at a step.

    Args:
        config: The settings.
        step: Where it is killed.
        name: The next shard's name.
        seen: What a witness has seen and the log has lost: it is left then.
    """
    clock = SystemClock()
    settings = read_settings(config, {})
    if seen is None:
        setattr(*STEPS[step], kill)
        asyncio.run(rollover.seal_shard(settings, clock, new_ids(clock), name))
        return
    for where, what in LEAVING[step]:
        setattr(where, what, kill)
    head = seen.read_bytes()
    asyncio.run(rollover.recover_shard(settings, clock, new_ids(clock), head, name))


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(Path, sys.argv[4:]))
