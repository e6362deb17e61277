"""Sealing the shard that is written to, and opening the next one.

A log in files is sealed while no gateway runs: the data folder is held meanwhile. One
on PostgreSQL may be sealed while gateways run: its server refuses what they record from
one instant on, and they start again with the next shard once the register names it.
The register is changed last and at once, so that a crash at any instant leaves either
the old shard or the new one current, and the command can be given again. Until then the
old shard is closed already: by its last record, or by the mark that it was left.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from audit.anchor import anchor
from audit.fitting import take_receipt_key
from audit.freezing import (
    PATIENCE_S,
    Seal,
    await_witnesses,
    leave,
    publish_whole,
    record_last,
)
from audit.keys import LogKeys
from audit.merkle import tree_root
from audit.mirror import mirror
from audit.note import Checkpoint, open_checkpoint, parse_vkey
from audit.publisher import Publisher
from audit.record import Event, Kind, Leaf, read_leaf
from audit.register import save_shards, sealing
from audit.sealing import Sealer
from audit.shards import (
    HandedOn,
    Lost,
    Shard,
    check_genesis,
    check_name,
    check_recovery,
    genesis_event,
    half_year,
    is_recovery,
    open_handing_on,
    recovery_event,
)
from audit.sql import Place
from audit.store import LogReader
from audit.tiles import node_reader
from audit.writer import AuditLog, interrupted
from exchange.keys import GatewayKeys, open_keys, open_shard_keys, shard_keys
from exchange.outward import make_stamper, open_public
from exchange.recording import (
    current_shards,
    data_folder,
    open_sealer,
    open_witnesses,
)
from exchange.settings import Settings
from schemas.clock import Clock
from schemas.errors import (
    LogUnavailableError,
    SettingsError,
    StoreMovedError,
    VerificationError,
)
from schemas.ids import NewId

_AT_ONCE = 512
"""Most ends of look-ups that are recorded at once."""
_SHOWINGS = 3
"""Tries to bring the store up: a gateway that runs may be doing the same."""


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


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log that has lost records, and who goes on from it."""

    shards: Sequence[Shard]
    """All of them, the one that goes on last."""
    left: Shard
    """The one that has lost records, sealed with the head that is left."""
    unpublished: int
    """How many records it still holds that no published head covers: each was
    acknowledged, and none can be proved."""


def prepare_shard(settings: Settings, clock: Clock, name: str | None) -> str:
    """Make the keys of the next shard, and return its vkey: for witnesses to add.

    Raises:
        SettingsError: The name is taken, or a gateway holds the data folder.
    """
    with _held(settings):
        return _begin(settings, clock, lambda: "", name).following.log.verifier.vkey


async def seal_shard(
    settings: Settings,
    clock: Clock,
    new_id: NewId,
    name: str | None = None,
    *,
    patience_s: float = PATIENCE_S,
) -> Sequence[Shard]:
    """Seal the current shard and open the next; return the list.

    (1) Keep others from sealing, and make the keys of the next shard.
    (2) Record the last record, publish all of it, and have it stamped.
    (3) Make the next shard, with its first record.
    (4) Change the register: from here on the next one is current.

    Args:
        settings: Say where everything is.
        clock: Tells the time.
        new_id: Makes ids of records.
        name: The next shard's; by itself that of the half-year.
        patience_s: How long the last checkpoint may take to be published.

    Raises:
        SettingsError: A gateway holds the data folder, somebody else is sealing, the
            name is taken, or the shard is sealed for another one.
        LogUnavailableError: The last checkpoint is not published: try again.
    """
    # (1): nobody else may choose a next shard.
    with _held(settings):
        rollover = _begin(settings, clock, new_id, name)
        # (2): before the next one can cite it.
        before, last = await _seal(rollover, patience_s)
        # (3), (4): it is nobody's log until the register names it.
        genesis = genesis_event(last, clock.now(), before)
        return await _open_next(rollover, before, [genesis])


async def recover_shard(
    settings: Settings,
    clock: Clock,
    new_id: NewId,
    seen_note: bytes,
    name: str | None = None,
) -> Recovered:
    """Leave a log that has lost what a witness saw, and open a recovery shard.

    (1) The witness's head is signed by this log, and the log does not contain it; else
        nothing is done. What an earlier run that was cut off has signed, stands; and
        after one that was not, there is nothing left to do.
    (2) The old one takes no more records and heads: it is marked with its own
        signature under who goes on.
    (3) The next shard's first record cites both heads: what is left, and what was
        seen; and holds that signature.

    Raises:
        VerificationError: The head is not this log's, or what is left contradicts
            itself.
        SettingsError: A gateway holds the data folder, nothing is lost, or the log goes
            on with another shard.
        LogUnavailableError: It is not known to be done: try again.
    """
    with _held(settings):
        shards = current_shards(settings)
        was_left = _recovered_from(settings, shards, seen_note, name)
        if was_left is not None:
            return _recovered(settings, shards, was_left)
        rollover = _begin(settings, clock, new_id, name)
        _check_none_begun(rollover)
        with ExitStack() as stack:
            sealer = open_sealer(settings, rollover.keys.log, stack)
            # (1), (2): what is cited is what there is for good, and before it is cited.
            place = settings.log_place(rollover.shards[-1].name)
            look = partial(_what_is_left, rollover, sealer, seen_note)
            left, events = await asyncio.to_thread(leave, place, look)
        # (3): the old one is never written to again.
        opened = await _open_next(rollover, left, events)
        return _recovered(settings, opened, opened[-2])


def _recovered(settings: Settings, shards: Sequence[Shard], left: Shard) -> Recovered:
    """Count what is left, and takes no record any more."""
    with closing(LogReader.open(settings.log_place(left.name))) as reader:
        return Recovered(shards, left, reader.size() - (left.size or 0))


def _recovered_from(
    settings: Settings, shards: Sequence[Shard], seen_note: bytes, name: str | None
) -> Shard | None:
    """Return the log of a head, where it was left for a shard, as the register says.

    Raises:
        VerificationError: The log has not signed the head, or who goes on.
        SettingsError: It was left for another shard than that of the name.
    """
    for before, after in pairwise(shards):
        place = settings.log_place(after.name)
        if not (
            seen_note.startswith(f"{before.origin}\n".encode()) and _is_begun(place)
        ):
            continue
        with closing(LogReader.open(place)) as reader:
            [first] = map(read_leaf, reader.leaves(0, 1))
        if not is_recovery(first):
            return None
        verifier = parse_vkey(before.vkey)
        open_checkpoint(seen_note, verifier)
        check_recovery(verifier, first, after.vkey)
        if name not in {None, after.name}:
            raise SettingsError(
                f"the log goes on with the shard `{after.name}` already"
            )
        return before
    return None


def _check_none_begun(rollover: _Rollover) -> None:
    """Raise where an earlier run has begun another shard than this one.

    INVARIANT: a log's key signs for one shard that it goes on. The log's mark says
    which; and where a copy without it was put back, the shard itself does.
    """
    settings = rollover.settings
    known = {rollover.name, *(shard.name for shard in rollover.shards)}
    folder = shard_keys(settings.keys_dir, rollover.name).parent
    for name in sorted({one.name for one in folder.iterdir()} - known):
        if _is_begun(settings.log_place(name)):
            raise SettingsError(f"the shard `{name}` was begun already: give its name")


def _is_begun(place: Place) -> bool:
    if isinstance(place, Path) and not place.is_file():
        return False
    with closing(LogReader.open(place)) as reader:
        return reader.sql.is_made("entry") and reader.size() > 0


def _what_is_left(
    rollover: _Rollover, sealer: Sealer, seen_note: bytes, reader: LogReader
) -> tuple[str, tuple[Checkpoint, list[Event]]]:
    """Return the mark of a log that has lost records, and what the next begins with.

    INVARIANT: the log's key signs once who goes on, and from what.
    """
    signer, now = rollover.keys.log.log, rollover.clock.now()
    seen = open_checkpoint(seen_note, signer.verifier)
    handed = _handed_on(rollover, reader) or _hand_on(rollover, seen, reader)
    left, following = handed.lost.left, rollover.following.log.verifier
    if not _contains(reader, left):
        raise VerificationError(
            f"the log does not contain the {left.size} records that it goes on from: "
            "restore a copy of it that does"
        )
    [last] = map(read_leaf, reader.leaves(left.size - 1, left.size))
    genesis = recovery_event(last, now, handed.lost, signer, following)
    ends = interrupted(reader, sealer.directory, rollover.new_id, now)
    return handed.note, (left, [genesis, *ends])


def _handed_on(rollover: _Rollover, reader: LogReader) -> HandedOn | None:
    """Return who goes on, as an earlier run has had it signed; None where none has.

    Raises:
        SettingsError: It is another shard, or has another key.
    """
    verifier = rollover.keys.log.log.verifier
    vkey = rollover.following.log.verifier.vkey
    place, mark = rollover.settings.log_place(rollover.name), reader.left()
    if mark is not None:
        handed = open_handing_on(mark.encode(), verifier)
    elif _is_begun(place):
        with closing(LogReader.open(place)) as following:
            [first] = map(read_leaf, following.leaves(0, 1))
        handed = check_recovery(verifier, first, vkey)
    else:
        return None
    if handed.vkey != vkey:
        raise SettingsError(
            f"the log goes on with `{parse_vkey(handed.vkey).name}`: give its name, "
            "and have its keys in place"
        )
    return handed


def _hand_on(rollover: _Rollover, seen: Checkpoint, reader: LogReader) -> HandedOn:
    """Sign who goes on from a log that has lost records.

    Raises:
        SettingsError: It has lost nothing, or has signed nothing.
    """
    signer, following = rollover.keys.log.log, rollover.following.log.verifier
    # What outsiders see: for good, since witnesses cosign nothing of it any more.
    head = reader.published() or reader.head()
    if head is None or head.size == 0:
        raise SettingsError("the log has signed nothing: restore a copy of it")
    # Else this would be a way out of a good log.
    if _contains(reader, seen):
        raise SettingsError("the log contains this head: nothing is lost")
    lost = Lost(open_checkpoint(head.note.encode(), signer.verifier), seen)
    signature = lost.hand_on(signer, following)
    note = lost.handing_on(signature, signer.verifier, following.vkey)
    return HandedOn(lost, following.vkey, note)


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Keep others from sealing: by the data folder, or by a lock of the server."""
    place = settings.shards_place()
    with data_folder(settings) if isinstance(place, Path) else sealing(place):
        yield


def _begin(
    settings: Settings, clock: Clock, new_id: NewId, name: str | None
) -> _Rollover:
    """Read the register and the keys, and make those of the next shard."""
    shards = current_shards(settings)
    current = shards[-1]
    name = name or _named(settings, shards) or half_year(clock.now())
    check_name(name)
    if name in {shard.name for shard in shards} | {"first"}:
        raise SettingsError(f"there is a shard `{name}` already: give another name")
    keys = open_keys(
        settings.keys_dir, current.origin, entropy=None, shard=current.name
    )
    following = open_shard_keys(
        settings.keys_dir, name, f"{shards[0].origin}/{name}", keys.log, os.urandom
    )
    return _Rollover(settings, clock, new_id, shards, keys, name, following)


def _named(settings: Settings, shards: Sequence[Shard]) -> str | None:
    """Return the name of the shard that an earlier run has signed; None for none."""
    place = settings.log_place(shards[-1].name)
    if not _is_begun(place):
        return None
    with closing(LogReader.open(place)) as reader:
        mark, last = reader.left(), reader.last_leaf()
    if mark is not None:
        handed = open_handing_on(mark.encode(), parse_vkey(shards[-1].vkey))
        origin = parse_vkey(handed.vkey).name
    elif last is not None and last.kind is Kind.SHARD_FINAL:
        origin = last.correlation
    else:
        return None
    return origin.removeprefix(f"{shards[0].origin}/")


async def _seal(rollover: _Rollover, patience_s: float) -> tuple[Checkpoint, Leaf]:
    """Seal the current shard; return its last checkpoint and its last record."""
    settings, clock, keys = rollover.settings, rollover.clock, rollover.keys
    with ExitStack() as stack:
        sealer = open_sealer(settings, keys.log, stack)
        place = settings.log_place(rollover.shards[-1].name)
        log = AuditLog(place, sealer, keys.log.receipt)
        stack.callback(log.close)
        witnesses = open_witnesses(settings, keys)
        publisher = Publisher(log, keys.log.log, clock, witnesses=witnesses)
        stack.callback(publisher.stop)
        reader = LogReader.open(place)
        stack.callback(reader.close)
        following = rollover.following.log
        # A last record over what a witness saw of another one would convict the log.
        await await_witnesses(publisher, clock, patience_s)
        await record_last(log, Seal(sealer, following, rollover.new_id, clock.now()))
        head = await publish_whole(publisher, reader, clock, patience_s)
        _show_outside(settings, rollover.shards[-1], reader, clock)
        last = reader.last_leaf()
    if last is None:
        raise LogUnavailableError("the last record can't be read")
    return open_checkpoint(head.note.encode(), keys.log.log.verifier), last


def _show_outside(
    settings: Settings, shard: Shard, reader: LogReader, clock: Clock
) -> None:
    """Copy a sealed shard, and have its last checkpoint stamped, where that is set.

    It is tried again where a gateway that runs was faster, and for no other reason.

    Raises:
        StoreUnavailableError: A store or the authority fails: try again.
    """
    public = open_public(settings, shard.name)
    for left in reversed(range(_SHOWINGS)):
        try:
            if settings.tiles_url is not None:
                mirror(reader, public)
            if settings.anchor_url is not None:
                anchor(reader, public, make_stamper(settings), clock.now(), 0)
        except StoreMovedError:
            if not left:
                raise
        else:
            return


async def _open_next(
    rollover: _Rollover, before: Checkpoint, events: Sequence[Event]
) -> Sequence[Shard]:
    """Make the next shard with its first records, and make it the current one."""
    settings, following = rollover.settings, rollover.following
    place = settings.log_place(rollover.name)
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        sealer = open_sealer(settings, following, stack)
        log = stack.enter_context(closing(AuditLog(place, sealer, following.receipt)))
        with closing(LogReader.open(place)) as reader:
            take_receipt_key(log, reader, following.receipt.verifier)
        await _begin_with(log, events)
    *earlier, current = rollover.shards
    opened = Shard(following.origin, rollover.name, following.log.verifier.vkey)
    shards = (*earlier, current.sealed(before), opened)
    save_shards(settings.shards_place(), shards)
    return shards


async def _begin_with(log: AuditLog, events: Sequence[Event]) -> None:
    """Record a shard's first record, and the ends of look-ups of the one before.

    Of an earlier run that was cut off, what it has recorded stands.

    Raises:
        VerificationError: It begins with something else: nobody may go on with it.
    """
    genesis, *ends = events
    if log.size == 0:
        await log.append([genesis])
    with closing(LogReader.open(log.place)) as reader:
        [first] = map(read_leaf, reader.leaves(0, 1))
        # INVARIANT: a shard cites what the one before ended with, or is never current.
        check_genesis(first, genesis)
        ended = {link.ends for link in reader.links(0, reader.size())}
    missing = [event for event in ends if event.ends not in ended]
    # The writer takes so many at once, however many were under way.
    for at in range(0, len(missing), _AT_ONCE):
        await log.append(missing[at : at + _AT_ONCE])


def _contains(reader: LogReader, seen: Checkpoint) -> bool:
    """Return whether a head is one of this log's tree."""
    size, _ = reader.tree() or (0, b"")
    if seen.size > size:
        return False
    return tree_root(node_reader(reader.tile), seen.size) == seen.root
