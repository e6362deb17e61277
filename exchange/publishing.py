"""`errand publish`: a process that publishes the log's heads, and does nothing else.

Every gateway of a fleet can publish, and one of them leads; a process apart goes on
publishing while gateways come and go.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing

import structlog

from audit.register import load_shards
from audit.sql import Postgres
from exchange.moving import LOOK_S, NextShard
from exchange.recording import (
    data_folder,
    open_gateway_keys,
    open_log,
    open_sealer,
)
from exchange.settings import Settings
from schemas.clock import Clock
from schemas.errors import SettingsError

_log = structlog.get_logger(__name__)


def publish_until(
    settings: Settings, clock: Clock, stopped: Callable[[float], bool]
) -> None:
    """Publish the heads of a log on PostgreSQL until told to stop.

    When its shard is sealed, it goes on with the next one.

    Args:
        settings: Those of a gateway; the data folder must be this process's own.
        clock: Tells the time.
        stopped: Waits for so many seconds, or until it is time to stop; returns
            whether it is.

    Raises:
        SettingsError: The log is in a file, whose one gateway publishes it; or the
            configuration is wrong.
        LogUnavailableError: The log's server can't be reached.
    """
    if not isinstance(settings.shards_place(), Postgres):
        raise SettingsError(
            "the log is in a file, and the gateway that holds it publishes it: "
            "`errand publish` is for a log on PostgreSQL (`log_url`, `database_url`)"
        )
    with data_folder(settings):
        while _publish_shard(settings, clock, stopped):
            pass
    _log.info("publishing_ended")


def _publish_shard(
    settings: Settings, clock: Clock, stopped: Callable[[float], bool]
) -> bool:
    """Publish the current shard; return whether there is a next one to go on with."""
    with ExitStack() as stack:
        shards = load_shards(settings.shards_place())
        current = shards[-1].name if shards else ""
        keys = open_gateway_keys(settings, shards, entropy=None)
        sealer = open_sealer(settings, keys.log, stack)
        log, publisher, followers = open_log(
            settings, keys, sealer, clock, current, stack
        )
        publisher.start()
        for follower in followers:
            follower.start()
        following = stack.enter_context(closing(NextShard(settings, log.origin)))
        _log.info("publishing", records=log.size, process=os.getpid())
        while not stopped(LOOK_S):
            if following.is_open():
                return True
    return False
