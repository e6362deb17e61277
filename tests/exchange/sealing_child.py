"""A process that seals a shard, and is killed at one of its steps (`kill -9`)."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from audit import engine_postgres
from audit.publisher import Publisher
from exchange import rollover
from exchange.settings import read_settings
from schemas.clock import SystemClock
from schemas.ids import new_ids

STEPS = {
    # In the transaction, in the place of its last statement but one.
    "before the last record is committed": (engine_postgres, "_arguments"),
    "before the last checkpoint": (Publisher, "publish"),
    "before the next shard": (rollover, "_open_next"),
    "before the register": (rollover, "save_shards"),
}


def run(config: Path, step: str, name: str) -> None:
    """Seal the current shard for one of a name, and be killed at a step."""

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(*STEPS[step], kill)
    clock = SystemClock()
    settings = read_settings(config, {})
    asyncio.run(rollover.seal_shard(settings, clock, new_ids(clock), name))


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
