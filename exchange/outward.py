"""What the log gives away by itself: followers of what is published."""

from audit.following import Follower, Patience
from audit.mirror import mirror
from audit.objects import open_objects
from audit.publisher import Publisher
from audit.store import LogReader
from audit.writer import AuditLog
from exchange.settings import Settings
from schemas.clock import Clock

_TILES_ALARM_S = 60.0
"""Seconds without bringing the store up from which an operator has to look."""
_TILES_STOP_S = 600.0
"""Seconds without bringing the store up from which nothing more is recorded."""


def open_followers(
    settings: Settings, log: AuditLog, publisher: Publisher, clock: Clock
) -> tuple[Follower, ...]:
    """Return what follows the publisher, not started yet.

    Raises:
        SettingsError: A store's address is wrong.
    """
    followers = []
    if settings.tiles_url is not None:
        objects = open_objects(settings.tiles_url, settings.tiles_endpoint)

        def copy_tiles(reader: LogReader) -> None:
            # Of several replicas, the one that leads; two at once would do no harm.
            if publisher.is_leading:
                mirror(reader, objects)

        pace = Patience(settings.checkpoint_every_s, _TILES_ALARM_S, _TILES_STOP_S)
        followers.append(Follower("tiles", log, copy_tiles, pace, clock))
    for follower in followers:
        publisher.watch(follower.lag)
    return tuple(followers)
