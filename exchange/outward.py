"""What the log gives away by itself: followers of what is published."""

from collections.abc import Callable
from pathlib import Path

from audit.anchor import Stamper, anchor, parse_trust
from audit.following import Follower, Patience
from audit.mirror import mirror
from audit.objects import FolderObjects, Objects, open_objects
from audit.publisher import Publisher
from audit.store import LogReader
from audit.table_objects import TableObjects
from audit.writer import AuditLog
from exchange.settings import Settings
from schemas.clock import Clock
from schemas.errors import SettingsError

_TILES_ALARM_S = 60.0
"""Seconds without bringing the store up from which an operator has to look."""
_ANCHOR_LOOK_S = 60.0
"""Seconds between two looks whether a stamp is due, and between two tries."""
_ANCHOR_ALARM_S = 900.0
"""Seconds without a stamp that is due from which an operator has to look."""
_TILES_STOP_S = 600.0
"""Seconds without bringing the store up from which nothing more is recorded."""


def open_followers(
    settings: Settings, log: AuditLog, publisher: Publisher, clock: Clock, shard: str
) -> tuple[Follower, ...]:
    """Return what follows the publisher, not started yet.

    Raises:
        SettingsError: A store's address is wrong.
    """
    jobs: list[tuple[str, Callable[[LogReader], None], Patience]] = []
    if settings.tiles_url is not None:
        tiles = open_public(settings, shard)

        def copy_tiles(reader: LogReader) -> None:
            # Of several replicas, the one that leads; two at once would do no harm.
            if publisher.is_leading:
                mirror(reader, tiles)

        pace = Patience(settings.checkpoint_every_s, _TILES_ALARM_S, _TILES_STOP_S)
        jobs.append(("tiles", copy_tiles, pace))
    if settings.anchor_url is not None:
        public = open_public(settings, shard)
        job = _Anchoring(settings, public, make_stamper(settings), publisher, clock)
        pace = Patience(_ANCHOR_LOOK_S, _ANCHOR_ALARM_S, settings.anchor_stop_s)
        jobs.append(("anchors", job, pace))
    # Last: what could be refused was, and nothing is open yet.
    followers = [Follower(name, log, job, pace, clock) for name, job, pace in jobs]
    for follower in followers:
        publisher.watch(follower.lag)
    return tuple(followers)


def open_public(settings: Settings, shard: str = "") -> Objects:
    """Return where a shard's anchors are kept: with its tiles, or beside the log.

    Raises:
        SettingsError: The store's address is wrong.
    """
    if settings.tiles_url is not None:
        return open_objects(settings.tiles_address(shard), settings.tiles_endpoint)
    place = settings.public_place()
    if isinstance(place, Path):
        return FolderObjects(place / shard)
    return TableObjects(place, shard)


def make_stamper(settings: Settings) -> Stamper:
    """Return what asks the authority.

    Raises:
        SettingsError: Its certificates can't be read.
    """
    url, file = settings.anchor_url, settings.anchor_certificates
    if url is None or file is None:
        raise SettingsError("`anchor_url` and `anchor_certificates` go together")
    try:
        return Stamper(url, parse_trust(file.read_bytes()))
    except OSError:
        raise SettingsError(
            f"`anchor_certificates`: `{file.name}` can't be read"
        ) from None
    except SettingsError as error:
        raise SettingsError(f"`anchor_certificates`: {error}") from None


class _Anchoring:
    """Has a checkpoint stamped whenever the last stamp is old enough."""

    def __init__(
        self,
        settings: Settings,
        public: Objects,
        stamper: Stamper,
        publisher: Publisher,
        clock: Clock,
    ) -> None:
        self._objects = public
        self._every_s = settings.anchor_every_s
        self._stamper = stamper
        self._publisher = publisher
        self._clock = clock
        self._last = 0

    def __call__(self, reader: LogReader) -> None:
        """Do one round: mostly there is nothing to do, and nobody is asked."""
        now = self._clock.now()
        is_due = now.timestamp() - self._last >= self._every_s
        if is_due and self._publisher.is_leading:
            self._last = anchor(
                reader, self._objects, self._stamper, now, self._every_s
            )
