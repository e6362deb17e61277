"""Going on with the next shard of a log on PostgreSQL: whoever records starts again.

The server refuses every record of a sealed shard, so nothing can go into the wrong one.
Whoever has it open goes on reading and proving from it, looks into the register once a
second, and starts again when that names the next shard and its keys are at hand.
"""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Final

import structlog

from audit.keys import load_keys
from audit.places import open_sql
from audit.register import read_register
from exchange.keys import shard_keys
from exchange.settings import Settings
from schemas.errors import LogUnavailableError, SettingsError

LOOK_S: Final = 1.0
"""Seconds between two looks into the register."""

_log = structlog.get_logger(__name__)


class NextShard:
    """Tells whether a next shard is open; of one thread at a time.

    Args:
        settings: Say where the register and the keys are; the log is on PostgreSQL.
        origin: The shard that we have open.
    """

    def __init__(self, settings: Settings, origin: str) -> None:
        self._keys = settings.keys_dir
        self._origin = origin
        self._sql = open_sql(settings.shards_place(), read_only=True)
        self._trouble = ""

    def close(self) -> None:
        """Let go of the register."""
        self._sql.close()

    def is_open(self) -> bool:
        """Return whether another shard is written to than ours, and its keys are here.

        Keys that are missing are told once: somebody has to copy them.
        """
        try:
            shards = read_register(self._sql)
            if not shards or shards[-1].origin == self._origin:
                return False
            load_keys(shard_keys(self._keys, shards[-1].name))
        except LogUnavailableError:
            return False  # it is asked again soon
        except Exception as error:  # noqa: BLE001 - told, and tried again
            self._tell(str(error) if isinstance(error, SettingsError) else repr(error))
            return False
        _log.info("shard_opened", shard=shards[-1].name)
        return True

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            _log.error("next_shard_not_usable", why=trouble)


async def call_at_next_shard(
    settings: Settings, origin: str, go_on: Callable[[], None]
) -> None:
    """Call once another shard is written to than that of an origin, and return.

    Who cancels it awaits it: a look that is under way comes to its end first.
    """
    with closing(NextShard(settings, origin)) as following:
        while True:
            await asyncio.sleep(LOOK_S)
            looking = asyncio.ensure_future(asyncio.to_thread(following.is_open))
            try:
                is_open = await asyncio.shield(looking)
            finally:
                # The thread would wait for ever, closed under its hands.
                await asyncio.wait({looking})
            if is_open:
                go_on()
                return
