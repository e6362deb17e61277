"""Shards: a log is sealed when its half-year is over, and another one goes on.

A shard is a log of its own, with an origin, keys and files of its own. Its last record
(`shard.final`) names the next shard and its key; the first record of that one
(`shard.genesis`) names the size and the root that the sealed one ended with. Both say
so in the open part of their leaf. Nothing is ever moved: a shard lies where it was
made, and the register says which one is written to.

SOURCE: audit-log design, 5.6.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from audit.merkle import HASH_SIZE
from audit.note import (
    Checkpoint,
    Signature,
    Signer,
    Verifier,
    b64,
    b64_decode,
    decimal,
    open_note,
    parse_vkey,
    signature_line,
)
from audit.record import Actor, Event, Kind, Leaf
from schemas.canonical import Json
from schemas.errors import SettingsError, VerificationError
from schemas.ids import EventId, uuid7

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_OPERATOR = Actor("system", "operator")
_RECOVERED = "recovered"
"""Outcome of a first record where the shard before has lost records."""


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


@dataclass(frozen=True, slots=True)
class Lost:
    """What became of a log that has lost records which it has shown."""

    left: Checkpoint
    """The head that outsiders see of what is left."""
    seen: Checkpoint
    """The head that a witness holds."""

    def hand_on(self, signer: Signer, following: Verifier) -> str:
        """Return the log's signature under going on with another shard, in base64.

        The log can't say so in a last record: at the place of that, a witness has seen
        another one. So its key says it, and the next shard's first record holds it.
        """
        note = signer.sign(self._text(following.vkey))
        return note.rstrip("\n").rpartition(" ")[2]

    def handing_on(self, signature: str, verifier: Verifier, vkey: str) -> str:
        """Return the note that says with which shard the log goes on.

        Args:
            signature: As `hand_on` returned it; not verified yet.
            verifier: The log's key.
            vkey: The key of the shard.
        """
        signed, at = b64_decode(signature), len(verifier.key_id)
        line = signature_line(Signature(verifier.name, signed[:at], signed[at:]))
        return f"{self._text(vkey)}\n{line}"

    def as_json(self) -> Mapping[str, Json]:
        """Return it as JSON: how many records are left, and how many were seen."""
        return {
            "from": self.left.origin,
            "left": self.left.size,
            "seen": self.seen.size,
        }

    def _text(self, vkey: str) -> str:
        # Never the text of a checkpoint, whose second line is a number.
        heads = f"{_cited(self.left)}\n{_cited(self.seen)}"
        return f"{handing_on_title(self.left.origin)}\n{vkey}\n{heads}\n"


@dataclass(frozen=True, slots=True)
class HandedOn:
    """That a log which has lost records goes on with a shard: its key has signed it."""

    lost: Lost
    vkey: str
    """The key of the shard."""
    note: str
    """The signed note, for whoever holds the log to it."""

    def as_json(self) -> Mapping[str, Json]:
        """Return it as JSON: what was lost, who goes on, and the note."""
        return {**self.lost.as_json(), "vkey": self.vkey, "note": self.note}


def handing_on_title(origin: str) -> str:
    """Return the first line of the note by which a log is handed on."""
    return f"{origin}/{_RECOVERED}"


def open_handing_on(note: bytes, verifier: Verifier) -> HandedOn:
    """Return with which shard a log that has lost records goes on, by its own word.

    Args:
        note: The note, as `Lost.handing_on` has it.
        verifier: The log's key.

    Raises:
        VerificationError: It is no such note, or the log has not signed it.
    """
    lines = open_note(note, (verifier,)).text.split("\n")
    if len(lines) != 5 or lines[0] != handing_on_title(verifier.name):  # noqa: PLR2004 - four lines and the end
        raise VerificationError("malformed handing-on")
    left, seen = (_read_cited(verifier.name, line) for line in lines[2:4])
    vkey = parse_vkey(lines[1]).vkey
    return HandedOn(Lost(left, seen), vkey, note.decode())


def genesis_event(last: Leaf, at: datetime, before: Checkpoint) -> Event:
    """Return the first record of a shard: it names what the one before ended with.

    It has the same id whenever it is made: so it is recorded once.

    Args:
        last: The last record of the shard before.
        at: When.
        before: The last checkpoint of the shard before.
    """
    return _genesis(last, at, before, "opened", "")


def recovery_event(
    last: Leaf, at: datetime, lost: Lost, signer: Signer, following: Verifier
) -> Event:
    """Return the first record of a shard that goes on from one that has lost records.

    Args:
        last: The last record of what is left.
        at: When.
        lost: What is left, and what was seen.
        signer: The key of the log that has lost them.
        following: The key of the shard.
    """
    signed = lost.hand_on(signer, following)
    said = f"{_cited(lost.seen)}#{signed}"
    return _genesis(last, at, lost.left, _RECOVERED, said)


def _genesis(
    last: Leaf, at: datetime, before: Checkpoint, outcome: str, policy: str
) -> Event:
    cited = _cited_whole(before)
    noise = hashlib.sha256(f"{cited}\n{policy}".encode()).digest()[:10]
    return Event(
        id=EventId(str(uuid7(last.at, noise))),
        at=at,
        kind=Kind.SHARD_GENESIS,
        outcome=outcome,
        correlation=cited,
        policy=policy,
        actor=_OPERATOR,
    )


def check_genesis(leaf: Leaf, expected: Event) -> None:
    """Verify that a record is the one that a shard begins with.

    Raises:
        VerificationError: It is another one, or cites something else.
    """
    said = (leaf.kind, leaf.outcome, leaf.correlation, leaf.policy)
    wanted = (expected.kind, expected.outcome, expected.correlation, expected.policy)
    if said != wanted:
        raise VerificationError("the shard does not begin with what it goes on from")


def check_link(final: Leaf, before: Checkpoint, genesis: Leaf, vkey: str) -> None:
    """Verify that two shards name each other.

    Args:
        final: The last record of the first.
        before: The checkpoint of the first, which the record stands under.
        genesis: The first record of the second.
        vkey: The key of the second.

    Raises:
        VerificationError: One of them names something else.
    """
    said = (final.kind, final.correlation, final.policy)
    if said != (Kind.SHARD_FINAL, genesis.log, vkey):
        raise VerificationError(f"{before.origin}: the last record names another shard")
    _check_cites(genesis, before)


def is_recovery(genesis: Leaf) -> bool:
    """Return whether a first record says that the shard before has lost records."""
    said = genesis.kind, genesis.outcome
    return said == (Kind.SHARD_GENESIS, _RECOVERED)


def check_recovery(verifier: Verifier, genesis: Leaf, vkey: str) -> HandedOn:
    """Verify that a shard goes on from one that has lost records; return who says so.

    Whether what is left of the first is what the second cites is for whoever has it.

    Args:
        verifier: The key of the first, which has no last record.
        genesis: The first record of the second.
        vkey: The key of the second.

    Raises:
        VerificationError: It cites something else, or the first has not signed it.
    """
    if not is_recovery(genesis):
        raise VerificationError(f"{verifier.name}: goes on and has no last record")
    origin, _, cited = genesis.correlation.partition("#")
    if origin != verifier.name:
        raise VerificationError(
            f"{genesis.log}: the first record does not cite what it goes on from"
        )
    seen, _, signature = genesis.policy.rpartition("#")
    lost = Lost(_read_cited(origin, cited), _read_cited(origin, seen))
    note = lost.handing_on(signature, verifier, vkey)
    return open_handing_on(note.encode(), verifier)


def _check_cites(genesis: Leaf, before: Checkpoint) -> None:
    said = (genesis.kind, genesis.correlation)
    if said != (Kind.SHARD_GENESIS, _cited_whole(before)):
        raise VerificationError(
            f"{genesis.log}: the first record does not cite what it goes on from"
        )


def _cited_whole(head: Checkpoint) -> str:
    return f"{head.origin}#{_cited(head)}"


def _cited(head: Checkpoint) -> str:
    return f"{head.size}#{b64(head.root)}"


def _read_cited(origin: str, text: str) -> Checkpoint:
    size, _, root = text.partition("#")
    digest = b64_decode(root)
    if len(digest) != HASH_SIZE:
        raise VerificationError("the head that is cited has no root")
    return Checkpoint(origin, decimal(size), digest)
