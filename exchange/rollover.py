"""Sealing the shard that is written to, and opening the next one.

Both are done while no gateway runs: the data folder is held meanwhile. The list of
shards is replaced last and at once, so that a crash at any instant leaves either the
old shard or the new one current, and the command can be given again.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from audit.anchor import anchor
from audit.keys import LogKeys
from audit.merkle import tree_root
from audit.mirror import mirror
from audit.note import Checkpoint, open_checkpoint
from audit.publisher import Publisher
from audit.record import Event
from audit.sealing import Sealer
from audit.shards import (
    Shard,
    check_name,
    final_event,
    genesis_event,
    half_year,
    interrupted,
    save_shards,
    seal_log,
)
from audit.store import LogReader
from audit.subjects import SubjectDirectory
from audit.tiles import node_reader
from audit.writer import AuditLog
from exchange.keys import GatewayKeys, open_keys, open_shard_keys
from exchange.outward import make_stamper, open_public
from exchange.recording import current_shards, data_folder, open_witnesses
from exchange.settings import Settings
from schemas.clock import Clock
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import EventId, NewId


@dataclass(frozen=True, slots=True)
class _Rollover:
    """One change from a shard to the next."""

    settings: Settings
    clock: Clock
    new_id: NewId
    shards: Sequence[Shard]
    keys: GatewayKeys
    """With those of the shard that was written to."""
    name: str
    following: LogKeys
    """Keys of the next shard."""


def prepare_shard(settings: Settings, clock: Clock, name: str | None) -> str:
    """Make the keys of the next shard, and return its vkey: for witnesses to add.

    Raises:
        SettingsError: The name is taken, or the log is not kept in files.
    """
    with data_folder(settings):
        return _begin(settings, clock, lambda: "", name).following.log.verifier.vkey


async def seal_shard(
    settings: Settings, clock: Clock, new_id: NewId, name: str | None = None
) -> Sequence[Shard]:
    """Seal the current shard and open the next; return the list.

    (1) Hold the data folder, and make the keys of the next shard.
    (2) Record the last record, publish all of it, and have it stamped.
    (3) Make the next shard, with its first record.
    (4) Replace the list: from here on the next one is current.

    Raises:
        SettingsError: A gateway runs, the name is taken, or the log is not in files.
        LogUnavailableError: The last checkpoint is not published: try again.
    """
    # (1): no record can come in between.
    with data_folder(settings):
        rollover = _begin(settings, clock, new_id, name)
        # (2): before the next one can cite it.
        before = await _seal(rollover)
        # (3), (4): it is nobody's log until the list names it.
        event, now = EventId(new_id()), clock.now()
        return await _open_next(rollover, before, [genesis_event(event, now, before)])


async def recover_shard(
    settings: Settings,
    clock: Clock,
    new_id: NewId,
    seen_note: bytes,
    name: str | None = None,
) -> Sequence[Shard]:
    """Leave a log that has lost what a witness saw, and open a recovery shard.

    (1) The witness's head is signed by this log, and the log does not contain it.
    (2) The next shard's first record cites both heads: what is left, and what was seen.

    Raises:
        VerificationError: The head is not this log's.
        SettingsError: A gateway runs, or there is nothing to recover from.
    """
    with data_folder(settings):
        rollover = _begin(settings, clock, new_id, name)
        verifier = rollover.keys.log.log.verifier
        current = rollover.shards[-1]
        # (1): else this would be a way out of a good log.
        seen = open_checkpoint(seen_note, verifier)
        with ExitStack() as stack:
            reader = LogReader.open(settings.log_place(current.name))
            stack.callback(reader.close)
            head = reader.head()
            if head is None:
                raise SettingsError("the log has signed nothing: restore a copy of it")
            before = open_checkpoint(head.note.encode(), verifier)
            if _contains(reader, seen):
                raise SettingsError("the log contains this head: nothing is lost")
            directory = _directory(rollover, stack)
            sealer = Sealer(current.origin, rollover.keys.log.shard, directory)
            ends = interrupted(reader, sealer, new_id, clock.now())
        # (2): the old file is never written to again.
        genesis = genesis_event(EventId(new_id()), clock.now(), before, seen)
        return await _open_next(rollover, before, [genesis, *ends])


def _begin(
    settings: Settings, clock: Clock, new_id: NewId, name: str | None
) -> _Rollover:
    """Read the list and the keys, and make those of the next shard."""
    if not isinstance(settings.log_place(), Path):
        raise SettingsError("shards are sealed where the log is kept in files")
    name = name or half_year(clock.now())
    check_name(name)
    shards = current_shards(settings)
    if name in {shard.name for shard in shards} | {"first"}:
        raise SettingsError(f"there is a shard `{name}` already: give another name")
    current = shards[-1]
    keys = open_keys(
        settings.keys_dir, current.origin, entropy=None, shard=current.name
    )
    following = open_shard_keys(
        settings.keys_dir, name, f"{shards[0].origin}/{name}", keys.log, os.urandom
    )
    return _Rollover(settings, clock, new_id, shards, keys, name, following)


def _directory(rollover: _Rollover, stack: ExitStack) -> SubjectDirectory:
    place = rollover.settings.subjects_place()
    directory = SubjectDirectory(place, rollover.keys.log.directory)
    stack.callback(directory.close)
    return directory


async def _seal(rollover: _Rollover) -> Checkpoint:
    """Seal the current shard; return its last checkpoint."""
    settings, clock, keys = rollover.settings, rollover.clock, rollover.keys
    with ExitStack() as stack:
        sealer = Sealer(keys.log.origin, keys.log.shard, _directory(rollover, stack))
        place = settings.log_place(rollover.shards[-1].name)
        log = AuditLog(place, sealer, keys.log.receipt)
        stack.callback(log.close)
        witnesses = open_witnesses(settings, keys, clock)
        publisher = Publisher(log, keys.log.log, clock, witnesses=witnesses)
        stack.callback(publisher.stop)
        reader = LogReader.open(place)
        stack.callback(reader.close)
        ends = interrupted(reader, sealer, rollover.new_id, clock.now())
        event = EventId(rollover.new_id())
        final = final_event(event, clock.now(), rollover.following.log)
        head = await seal_log(log, publisher, ends, final)
        _show_outside(settings, rollover.shards[-1], reader, clock)
    return open_checkpoint(head.note.encode(), keys.log.log.verifier)


def _show_outside(
    settings: Settings, shard: Shard, reader: LogReader, clock: Clock
) -> None:
    """Copy a sealed shard, and have its last checkpoint stamped, where that is set."""
    public = open_public(settings, shard.name)
    if settings.tiles_url is not None:
        mirror(reader, public)
    if settings.anchor_url is not None:
        anchor(reader, public, make_stamper(settings), clock.now(), 0)


async def _open_next(
    rollover: _Rollover, before: Checkpoint, events: Sequence[Event]
) -> Sequence[Shard]:
    """Make the next shard with its first records, and make it the current one."""
    settings, following = rollover.settings, rollover.following
    place = settings.log_place(rollover.name)
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        directory = _directory(rollover, stack)
        sealer = Sealer(following.origin, following.shard, directory)
        log = AuditLog(place, sealer, following.receipt)
        stack.callback(log.close)
        if log.size == 0:
            await log.append(events)
        elif log.size < len(events):
            raise LogUnavailableError("the next shard was begun, and not as it should")
    *earlier, current = rollover.shards
    vkey = following.log.verifier.vkey
    shards = (
        *earlier,
        current.sealed(before),
        Shard(following.origin, rollover.name, vkey),
    )
    save_shards(settings.shards_file, shards)
    return shards


def _contains(reader: LogReader, seen: Checkpoint) -> bool:
    """Return whether a head is one of this log's tree."""
    size, _ = reader.tree() or (0, b"")
    if seen.size > size:
        return False
    return tree_root(node_reader(reader.tile), seen.size) == seen.root
