"""The shards of a log, one after the other: that each names the next, and is cited."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audit.fetching import (
    FIRST,
    SHARDS_FOLDER,
    fetching,
    is_address,
    open_still,
    stored_log,
)
from audit.fsck import served_entry
from audit.merkle import inclusion_proof, leaf_hash, verify_inclusion
from audit.note import Checkpoint, Verifier, open_checkpoint, parse_vkey
from audit.places import parse_place
from audit.proving import ServedTree, open_tree, prove_growth
from audit.record import Kind, Leaf, read_leaf
from audit.register import REGISTER_FILE, REGISTER_SCHEMA, load_shards
from audit.served import CHECKPOINT
from audit.shards import HandedOn, Lost, Shard, check_link, check_recovery, read_list
from audit.sql import Place, Postgres
from schemas.canonical import Json
from schemas.errors import NotFoundError, VerificationError


@dataclass(frozen=True, slots=True)
class Ends:
    """The first and the last record of a shard."""

    checkpoint: Checkpoint | None
    """What is published of it; None for nothing yet."""
    first: Leaf
    last: Leaf
    verifier: Verifier
    """The shard's key."""
    root_at: Callable[[int], bytes]
    """Gives the root of the tree as it was at a size, and is under the checkpoint."""

    @property
    def next_vkey(self) -> str | None:
        """The key of the shard that it names; None where it has no last record."""
        return self.last.policy if self.last.kind is Kind.SHARD_FINAL else None

    def check_next(self, following: "Ends") -> "Recovered | None":
        """Verify that another shard goes on from this one.

        Returns:
            What this one has lost, by its own word; None where it ended with a last
            record.

        Raises:
            VerificationError: One of them names something else, or what is shown of
                this one contradicts it or does not reach it.
        """
        vkey = following.verifier.vkey
        if self.checkpoint is None:
            raise VerificationError(f"{self.last.log}: sealed, and not published")
        if self.last.kind is not Kind.SHARD_FINAL:
            handed = check_recovery(self.verifier, following.first, vkey)
            self._check_shown(self.checkpoint, handed.lost)
            return Recovered(handed, self.checkpoint.size)
        check_link(self.last, self.checkpoint, following.first, vkey)
        return None

    def _check_shown(self, shown: Checkpoint, lost: Lost) -> None:
        """Verify that what is shown of a log contains what was left of it.

        A copy from before the loss shows more: then also what was seen, as far as it
        reaches. What was seen in another history than what is left is in no copy.
        """
        left, seen = lost.left, lost.seen
        if shown.size < left.size:
            raise VerificationError(
                f"{left.origin}: {shown.size} are here of the {left.size} records that "
                "another shard goes on from: bring this copy up to date"
            )
        heads = [left, *([seen] if left.size < seen.size <= shown.size else [])]
        for head in heads:
            if self.root_at(head.size) != head.root:
                raise VerificationError(
                    f"{left.origin}: what is shown contradicts the head of {head.size} "
                    "records that the next shard cites"
                )


@dataclass(frozen=True, slots=True)
class Recovered:
    """That a shard goes on from a log which has lost records; what is shown of that."""

    handed: HandedOn
    """Who goes on, by the log's own word."""
    shown: int
    """Records that are shown here of the log, at least those that are left."""

    def as_json(self) -> Mapping[str, Json]:
        """Return it as JSON: what was lost, and what of that still stands here.

        `lost_first` and `lost_last` are indexes, where a copy has records that the log
        has lost: nothing goes on from these.
        """
        lost = self.handed.lost
        found = lost.as_json()
        if self.shown == lost.left.size:
            return found
        return {**found, "lost_first": lost.left.size, "lost_last": self.shown - 1}


def ends_of(
    where: str, shard: str | None, verifier: Verifier, token: str | None = None
) -> tuple[Ends, str | None]:
    """Return the first and the last record of a shard, and the key of the next one.

    Args:
        where: An address, a folder of files as served, or where the log is kept.
        shard: What the shard is called there, as `shard_at` found it.
        verifier: Its key.
        token: An access token, for a log whose entries are for members.

    Raises:
        VerificationError: It has none, or it is not the shard of this key.
    """
    ends = _ends_of(where, shard, verifier, token)
    if ends.next_vkey is not None:
        return ends, ends.next_vkey
    told = _told_next(where, verifier, token)
    # It may have been sealed since it was read.
    return (ends if told is None else _ends_of(where, shard, verifier, token)), told


def handed_on(
    where: str, shard: str | None, verifier: Verifier, token: str | None = None
) -> HandedOn:
    """Return with which shard a log that has lost records goes on: the signed note.

    Args:
        where: An address, a folder of files as served, or where the log is kept.
        shard: What the shard that has lost them is called there; None for `verifier`'s.
        verifier: Its key.
        token: An access token, for a log whose entries are for members.

    Raises:
        NotFoundError: It has lost nothing, or nothing goes on from it yet.
        VerificationError: What goes on from it is not what it has signed.
    """
    shard = shard or shard_at(where, verifier.name, token)
    ends, vkey = ends_of(where, shard, verifier, token)
    if vkey is None or ends.next_vkey is not None:
        raise NotFoundError(f"{verifier.name}: no shard goes on from a loss of it")
    following = parse_vkey(vkey)
    there = shard_at(where, following.name, token)
    found = ends.check_next(ends_of(where, there, following, token)[0])
    if found is None:
        raise VerificationError(f"{verifier.name}: it ended with a last record")
    return found.handed


def _ends_of(
    where: str, shard: str | None, verifier: Verifier, token: str | None
) -> Ends:
    stored = stored_log(where, shard)
    if stored is not None:
        return _stored_ends(stored, where, shard, verifier)
    with fetching(where, token, shard) as fetch:
        tree = open_tree(fetch, verifier)
        size = tree.head.size
        first, last = (
            _proved(tree, at, served_entry(fetch, at, size)) for at in (0, size - 1)
        )
    read = partial(_root_at, where, shard, token, verifier, tree.note.encode())
    return Ends(tree.head, first, last, verifier, read)


def _root_at(
    where: str,
    shard: str | None,
    token: str | None,
    verifier: Verifier,
    note: bytes,
    size: int,
) -> bytes:
    """Return the root of a log at a size, shown to be under a signed head."""
    with fetching(where, token, shard) as fetch:
        tree = open_tree(fetch, verifier, note)
        return prove_growth(tree, size, tree.head.size).root1


def _proved(tree: ServedTree, index: int, entry: bytes) -> Leaf:
    """Return a record, once it is shown to stand in the tree."""
    hashes = inclusion_proof(tree.read, index, tree.head.size)
    verify_inclusion(leaf_hash(entry), index, tree.head.size, hashes, tree.head.root)
    return read_leaf(entry)


def _stored_ends(
    stored: Place, where: str, shard: str | None, verifier: Verifier
) -> Ends:
    """Return what a log's own rows say, which `verify` holds against its tree."""
    with open_still(stored) as reader:
        size, head = reader.size(), reader.published()
        found = [
            read_leaf(one.leaf)
            for at in (0, size - 1)
            for one in reader.entries(at, at + 1)
        ]
    if not found:
        raise VerificationError(f"{verifier.name}: it has no record")
    note = b"" if head is None else head.note.encode()
    checkpoint = open_checkpoint(note, verifier) if note else None
    is_whole = checkpoint is not None and checkpoint.size == size
    if found[-1].kind is Kind.SHARD_FINAL and not is_whole:
        raise VerificationError(f"{verifier.name}: sealed, and not published whole")
    read = partial(_root_at, where, shard, None, verifier, note)
    return Ends(checkpoint, found[0], found[-1], verifier, read)


def _told_next(where: str, verifier: Verifier, token: str | None) -> str | None:
    """Return the key of the shard after one that has no last record; None for none.

    So ends a log that has lost records, and which one goes on stands in the list that
    a gateway serves, or that was saved with a copy; or in the register where the log is
    kept. None has to be believed: the log has signed it, and `Ends.check_next` looks.

    Raises:
        VerificationError: There is a list, and it is not signed with this key.
    """
    shards = _told_shards(where, verifier, token)
    origins = [shard.origin for shard in shards]
    at = origins.index(verifier.name) + 1 if verifier.name in origins else len(shards)
    return shards[at].vkey if at < len(shards) else None


def _told_shards(
    where: str, verifier: Verifier, token: str | None
) -> tuple[Shard, ...]:
    if stored_log(where) is None:
        with fetching(where, token) as fetch:
            note = fetch(SHARDS_FOLDER)
        return () if note is None else read_list(note, verifier)
    place = parse_place(where, REGISTER_SCHEMA)
    if isinstance(place, Path):
        place = (place if place.is_dir() else place.parent) / REGISTER_FILE
    return load_shards(place)


def shard_at(where: str, origin: str, token: str | None = None) -> str | None:
    """Return what the shard of an origin is called where a log is kept or served.

    None stands for what is there itself: the first shard where a log is kept, and the
    one that is written to where it is served.

    Raises:
        VerificationError: It is not there.
    """
    for shard in (None, origin.rpartition("/")[2], FIRST):
        if _origin_of(where, shard, token) == origin:
            return shard
    raise VerificationError(f"there is no shard `{origin}`")


def _origin_of(where: str, shard: str | None, token: str | None) -> str | None:
    """Return which shard stands somewhere; None for none."""
    stored = stored_log(where, shard)
    if stored is not None:
        with open_still(stored) as reader:
            # A schema may not be made yet; a file that has no such table is damaged.
            if isinstance(stored, Postgres) and not reader.sql.is_made("meta"):
                return None
            return reader.meta().get("origin")
    if not is_address(where) and not Path(where).is_dir():
        return None
    with fetching(where, token, shard) as fetch:
        note = fetch(CHECKPOINT) or b""
        return note.partition(b"\n")[0].decode("utf-8", "replace")
