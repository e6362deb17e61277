"""Shards: a log is sealed when its half-year is over, and another one goes on.

A shard is a log of its own, with an origin, keys and files of its own. Its last record
(`shard.final`) names the next shard and its key; the first record of that one
(`shard.genesis`) names the size and the root that the sealed one ended with. Both say
so in the open part of their leaf. Nothing is ever moved: a shard lies where it was
made, and the list says which one is written to.

SOURCE: audit-log design, 5.6.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import orjson

from audit.keys import sync_folder
from audit.merkle import HASH_SIZE
from audit.note import Checkpoint, Signer, Verifier, b64, b64_decode, decimal, open_note
from audit.publisher import Publisher
from audit.record import Actor, Event, Kind, Subject, read_leaf
from audit.sealing import Sealer
from audit.store import Entry, LogReader, SignedHead
from audit.writer import AuditLog
from schemas.canonical import canonical_plain
from schemas.errors import LogUnavailableError, SettingsError, VerificationError
from schemas.ids import EventId, NewId

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_OPERATOR = Actor("system", "operator")
_SEALING_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """One log of a series."""

    origin: str
    name: str
    """The folder that it lies in; "" for the first, which lies in the data folder."""
    vkey: str
    """The public key of its checkpoints."""
    size: int | None = None
    """Records under its last checkpoint; None while it is written to."""
    root: str | None = None
    """Root of its last checkpoint, in base64."""

    @property
    def is_sealed(self) -> bool:
        """Whether nothing is recorded in it any more."""
        return self.size is not None

    def sealed(self, checkpoint: Checkpoint) -> "Shard":
        """Return the shard after its last checkpoint."""
        return replace(self, size=checkpoint.size, root=b64(checkpoint.root))


def half_year(at: datetime) -> str:
    """Return the name of the half-year that an instant is in.

    >>> half_year(datetime(2026, 7, 1))
    '2026h2'
    """
    return f"{at.year}h{1 if at.month < 7 else 2}"  # noqa: PLR2004 - July


def check_name(name: str) -> None:
    """Raise SettingsError unless a shard may have this name."""
    if not _NAME.fullmatch(name):
        raise SettingsError("a shard's name is like `2026h2`: a-z, 0-9 and hyphens")


def load_shards(file: Path) -> tuple[Shard, ...]:
    """Return the shards in their order; none where there is no list yet.

    Raises:
        SettingsError: The list is damaged.
    """
    if not file.is_file():
        return ()
    try:
        return tuple(Shard(**one) for one in orjson.loads(file.read_bytes()))
    except (ValueError, TypeError):
        raise SettingsError(f"`{file.name}` is damaged") from None


def save_shards(file: Path, shards: Sequence[Shard]) -> None:
    """Replace the list, whole or not at all, and durably."""
    rows = [
        {name: getattr(shard, name) for name in Shard.__slots__} for shard in shards
    ]
    beside = file.with_name(file.name + ".new")
    with beside.open("wb") as stream:
        stream.write(canonical_plain(rows))
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
    sync_folder(file.parent)


def sign_list(shards: Sequence[Shard], signers: Sequence[Signer]) -> str:
    """Return the list of shards for clients: a note, signed with the key of each.

    So whoever knows the key of any shard learns the others.
    """
    lines = [
        f"{shard.origin} {shard.vkey} "
        + ("- -" if shard.size is None else f"{shard.size} {shard.root}")
        for shard in shards
    ]
    text = "\n".join([f"{shards[0].origin}/shards", *lines]) + "\n"
    signed = [signer.sign(text) for signer in signers]
    return signed[0] + "".join(note.rpartition("\n\n")[2] for note in signed[1:])


def read_list(note: bytes, verifier: Verifier) -> tuple[Shard, ...]:
    """Return the shards in a signed list; names are not told.

    Raises:
        VerificationError: It is malformed, or not signed with this key.
    """
    head, *lines, _ = open_note(note, (verifier,)).text.split("\n")
    shards: list[Shard] = []
    for line in lines:
        parts = line.split(" ")
        if len(parts) != 4:  # noqa: PLR2004 - origin, vkey, size, root
            raise VerificationError("malformed list of shards")
        origin, vkey, size, root = parts
        if (size, root) == ("-", "-"):
            shards.append(Shard(origin, "", vkey))
            continue
        if len(b64_decode(root)) != HASH_SIZE:
            raise VerificationError("malformed list of shards")
        shards.append(Shard(origin, "", vkey, decimal(size), root))
    if not shards or head != f"{shards[0].origin}/shards":
        raise VerificationError("malformed list of shards")
    return tuple(shards)


def final_event(event: EventId, at: datetime, following: Signer) -> Event:
    """Return the last record of a shard: it names the next one and its key."""
    return Event(
        id=event,
        at=at,
        kind=Kind.SHARD_FINAL,
        outcome="sealed",
        correlation=following.name,
        policy=following.verifier.vkey,
        actor=_OPERATOR,
    )


def genesis_event(
    event: EventId, at: datetime, before: Checkpoint, seen: Checkpoint | None = None
) -> Event:
    """Return the first record of a shard: it names what the one before ended with.

    Args:
        event: Its id.
        at: When.
        before: The last checkpoint of the shard before.
        seen: For a recovery: the head that a witness holds, and that the log has lost.
    """
    return Event(
        id=event,
        at=at,
        kind=Kind.SHARD_GENESIS,
        outcome="opened" if seen is None else "recovered",
        correlation=f"{before.origin}#{_cited(before)}",
        policy="" if seen is None else _cited(seen),
        actor=_OPERATOR,
    )


def _cited(head: Checkpoint) -> str:
    return f"{head.size}#{b64(head.root)}"


def interrupted(
    reader: LogReader, sealer: Sealer, new_id: NewId, now: datetime
) -> list[Event]:
    """Return the ends of look-ups that have not ended: nobody waits for them any more.

    A shard is sealed while no gateway runs, so whatever was under way was cut off.
    """
    ends: list[Event] = []
    for event in sorted(reader.attempts()):
        entry = reader.entry_of(event)
        if entry is None:
            raise VerificationError("a look-up that has not ended is not in the log")
        ends.append(_end(entry, sealer, EventId(new_id()), now))
    return ends


def _end(entry: Entry, sealer: Sealer, event: EventId, now: datetime) -> Event:
    """Return the end of one look-up, about those who are not erased."""
    leaf = read_leaf(entry.leaf)
    known = [sealer.directory.identity(ref) for ref in entry.subject_refs.split()]
    return Event(
        id=event,
        at=now,
        kind=Kind.REQUEST_ENDED,
        outcome="interrupted",
        requester=leaf.requester,
        provider=leaf.provider,
        evidence_type=leaf.evidence_type,
        policy=leaf.policy,
        correlation=leaf.correlation,
        subjects=tuple(Subject("", *who) for who in known if who is not None),
        case=entry.case_ref,
        matter=entry.matter,
        ends=entry.event_id,
    )


async def seal_log(
    log: AuditLog,
    publisher: Publisher,
    ends: Sequence[Event],
    final: Event,
) -> SignedHead:
    """Seal a log: after this it takes no record, and proves all that it has.

    (1) Record the ends of what was under way, and the last record; if an earlier run
        did, they stand.
    (2) Publish all of it: sign, and have enough witnesses cosign.

    Raises:
        LogUnavailableError: It could not be published whole, as when too few witnesses
            have cosigned. It may be tried again.
        VerificationError: The log contradicts itself, or what a witness holds.
    """
    # (1): once the last record stands, the log refuses everything else.
    if not log.is_sealed:
        await log.append([*ends, final])
    # (2): sealed is what outsiders can verify whole.
    for _ in range(_SEALING_ROUNDS):
        head = publisher.publish()
        if head is not None and head.size == log.size:
            return head
    raise LogUnavailableError(
        "the shard's last checkpoint is not published: have enough witnesses cosigned?"
    )
