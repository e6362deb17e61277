"""Opening the data folder and the access log: keys, shards, directory, heads."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from typing import TypeAlias

from audit.cosigning import Cosigning
from audit.erasure import Erasures
from audit.fitting import check_log_keys, check_receipt_key, take_receipt_key
from audit.following import Follower
from audit.forgetting import Forgetting
from audit.keys import SUBJECTS_FILE, Entropy, LogKeys, load_signers, wrong_key
from audit.ledger import Ledger
from audit.policy import parse_policy
from audit.publisher import Pace, Publisher
from audit.register import load_shards
from audit.sealing import Sealer
from audit.shards import Shard
from audit.shelf import SealedShard, ShardFiles, Shelf
from audit.store import LogReader
from audit.subjects import SubjectDirectory
from audit.writer import AuditLog
from exchange.connecting import telling_damage
from exchange.keys import GatewayKeys, open_keys, shard_keys
from exchange.locking import held
from exchange.outward import open_followers, open_public
from exchange.settings import Settings
from exchange.wholeness import check_whole
from schemas.clock import Clock
from schemas.errors import SettingsError
from schemas.ids import new_ids

Stack: TypeAlias = ExitStack | AsyncExitStack


@contextmanager
def data_folder(settings: Settings) -> Iterator[None]:
    """Hold the data folder: one gateway at a time, whatever ends it.

    Raises:
        SettingsError: Another one holds it, or it can't be made.
    """
    with ExitStack() as stack:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(held(settings.lock_file))
        except BlockingIOError:
            raise SettingsError(
                f"another gateway holds the data folder `{settings.data_dir}`: stop "
                "it, or set `data_dir` to another folder"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"`data_dir` can't be used: {error.strerror}; choose another folder"
            ) from error
        yield


def open_sealer(settings: Settings, keys: LogKeys, stack: Stack) -> Sealer:
    """Open the subject directory, and what seals a shard's records with it.

    Raises:
        SettingsError: The directory was made with other keys.
        LogUnavailableError: Its server can't be reached.
    """
    place = settings.subjects_place()
    with telling_damage(place):
        directory = SubjectDirectory(place, keys.directory)
        stack.callback(directory.close)
        is_right = directory.fits()
    # INVARIANT: an id that is known is found, or an empty list would answer falsely.
    if not is_right:
        raise wrong_key(SUBJECTS_FILE, "the subject directory was not made")
    return Sealer(keys.origin, keys.shard, directory)


def open_gateway_keys(
    settings: Settings, shards: Sequence[Shard], entropy: Entropy | None = os.urandom
) -> GatewayKeys:
    """Open the keys, with those of the current shard; make what is missing.

    INVARIANT: no key and no store is made in the place of one that was lost.

    Args:
        settings: Say where they are.
        shards: The log's shards, the current one last.
        entropy: Where new keys come from; None makes none.

    Raises:
        SettingsError: One is missing, damaged, or open to others; or keys or stores of
            a gateway that has run before are missing.
    """
    if entropy is not None:
        check_whole(settings, shards)
    *_, current = shards or (Shard(settings.log_origin, "", ""),)
    return open_keys(
        settings.keys_dir, current.origin, entropy=entropy, shard=current.name
    )


def current_shards(settings: Settings) -> tuple[Shard, ...]:
    """Return the log's shards, the first alone where there is no list yet.

    Raises:
        SettingsError: The list or a key is missing or damaged.
    """
    listed = load_shards(settings.shards_place())
    if listed:
        return listed
    signer, _ = load_signers(shard_keys(settings.keys_dir, ""))
    return (Shard(signer.name, "", signer.verifier.vkey),)


def open_shelf(
    settings: Settings,
    shards: Sequence[Shard],
    sealer: Sealer,
    stack: Stack,
) -> Shelf:
    """Open the sealed shards, the newest first.

    Raises:
        SettingsError: The key of one's receipts is another one.
    """
    opened: list[SealedShard] = []
    for shard in reversed(shards[:-1]):
        files = ShardFiles(
            shard,
            settings.log_place(shard.name),
            settings.index_place(shard.name),
            shard_keys(settings.keys_dir, shard.name),
            open_public(settings, shard.name),
        )
        signer, receipts = load_signers(files.keys)
        sealed = SealedShard(files, signer, receipts, sealer.directory)
        stack.callback(sealed.close)
        check_receipt_key(sealed.reader, receipts.verifier)
        opened.append(sealed)
    return Shelf(opened)


def open_erasures(
    settings: Settings,
    sealer: Sealer,
    log: AuditLog,
    shelf: Shelf,
    clock: Clock,
    stack: Stack,
) -> Erasures:
    """Open the ledger of what was erased."""
    place = settings.erasures_place()
    with telling_damage(place):
        ledger = Ledger(place)
    erasures = Erasures(log, sealer, ledger, shelf, clock, new_ids(clock))
    stack.callback(erasures.close)
    return erasures


async def start_forgetting(
    settings: Settings, erasures: Erasures, clock: Clock, stack: AsyncExitStack
) -> Forgetting:
    """Bring keys and directory up to the ledger, and follow it from then on.

    What the log lacks of it is recorded when the log takes records.

    Raises:
        LogUnavailableError: The ledger or the directory can't be reached.
    """
    # INVARIANT: nothing is read from a restored copy that was erased.
    with telling_damage(settings.erasures_place()):
        await erasures.destroy_again()
    process = new_ids(clock)()
    forgetting = Forgetting(erasures, process, settings.executor_id, clock)
    # Before it has started: half a start may have counted this process in.
    stack.push_async_callback(forgetting.stop)
    await forgetting.start()
    return forgetting


def open_log(
    settings: Settings,
    keys: GatewayKeys,
    sealer: Sealer,
    clock: Clock,
    shard: str,
    stack: Stack,
) -> tuple[AuditLog, Publisher, tuple[Follower, ...]]:
    """Open the log, and what publishes and indexes it, not started yet.

    Raises:
        SettingsError: It can't be opened, or the witnesses' policy is wrong.
        LogUnavailableError: Its server can't be reached.
    """
    place = settings.log_place(shard)
    try:
        log = AuditLog(place, sealer, keys.log.receipt)
    except sqlite3.Error as error:
        raise SettingsError(
            f"the access log `{place}` can't be opened: {error}; "
            "see that the disk is there and writable, and run `errand audit verify`"
        ) from error
    stack.callback(log.close)
    if log.is_left:
        raise SettingsError(
            "the log has lost records and was left, and the shard that goes on is not "
            "open yet: start again when it is, and if recovering was cut off, give "
            "`errand audit recover` again"
        )
    if log.is_sealed:
        raise SettingsError(
            "the log's shard is sealed and the next one is not open yet: start again "
            "when `errand audit seal-shard` has ended, and if it was cut off, give it "
            "again"
        )
    with telling_damage(place), closing(LogReader.open(place)) as reader:
        check_log_keys(reader, sealer, keys.log)
        take_receipt_key(log, reader, keys.log.receipt.verifier)
    pace = Pace(interval_s=settings.checkpoint_every_s)
    witnesses = open_witnesses(settings, keys)
    publisher = Publisher(log, keys.log.log, clock, pace, witnesses)
    with ExitStack() as undone:
        undone.callback(publisher.stop)
        followers = open_followers(settings, log, publisher, clock, shard)
        undone.pop_all()
    for follower in followers:
        stack.callback(follower.stop)  # after the publisher's last head
    stack.callback(publisher.stop)
    return log, publisher, followers


def open_witnesses(settings: Settings, keys: GatewayKeys) -> Cosigning | None:
    """Read who cosigns the log's heads; None when nobody has to.

    Raises:
        SettingsError: The policy can't be read, or is wrong.
    """
    file = settings.witness_policy
    if file is None:
        return None
    try:
        policy = parse_policy(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"`witness_policy`: `{file.name}` can't be read") from None
    asked = frozenset(name for name, one in policy.witnesses.items() if one.url)
    if not policy.is_met(asked):
        raise SettingsError("`witness_policy`: too few witnesses have an address")
    return Cosigning(policy, keys.log.log.verifier)
