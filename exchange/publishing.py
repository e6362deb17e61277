"""`errand publish`: a process that publishes the log's heads, and does nothing else.

Every gateway of a fleet can publish, and one of them leads; a process apart goes on
publishing while gateways come and go.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog

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
    settings: Settings, clock: Clock, stopped: Callable[[], object]
) -> None:
    """Publish the heads of a log on PostgreSQL until told to stop.

    Args:
        settings: Those of a gateway; the data folder must be this process's own.
        clock: Tells the time.
        stopped: Returns when it is time to stop.

    Raises:
        SettingsError: The log is in a file, whose one gateway publishes it; or the
            configuration is wrong.
        LogUnavailableError: The log's server can't be reached.
    """
    if isinstance(settings.log_place(), Path):
        raise SettingsError(
            "the log is in a file, and the gateway that holds it publishes it: "
            "`errand publish` is for a log on PostgreSQL (`log_url`, `database_url`)"
        )
    with ExitStack() as stack:
        stack.enter_context(data_folder(settings))
        # On PostgreSQL a log has one shard, the first, which has no name.
        keys = open_gateway_keys(settings, (), entropy=None)
        sealer = open_sealer(settings, keys, stack)
        log, *_ = open_log(settings, keys, sealer, clock, "", stack)
        _log.info("publishing", records=log.size, process=os.getpid())
        stopped()
    _log.info("publishing_ended")
