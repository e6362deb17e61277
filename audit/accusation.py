"""Holding a log to what it has signed: two notes that contradict each other convict it.

Nothing is asked of the log, and nobody else has to be believed: both notes carry the
log's own signature, and no log that only grows could have made both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias, assert_never

from audit.merkle import leaf_hash
from audit.note import Checkpoint, Verifier, b64, open_checkpoint
from audit.receipt import Receipt, parse_proof, verify_proof, verify_receipt
from audit.record import Kind, read_leaf
from audit.shards import HandedOn, handing_on_title, open_handing_on
from schemas.errors import VerificationError
from schemas.ids import EventId

_PROOF_START = b"c2sp.org/tlog-proof@"


@dataclass(frozen=True, slots=True)
class ProvedLeaf:
    """A leaf that the log has shown to stand under a head that it has signed."""

    index: int
    leaf_hash: bytes
    event: EventId | None
    """The event that the leaf is of; None when it is no leaf of ours."""
    following: str | None = None
    """The key of the shard that goes on, where it is the log's last record."""


Statement: TypeAlias = Receipt | ProvedLeaf | Checkpoint | HandedOn
"""Something that a log has signed."""


def read_statements(
    note: bytes, log: Verifier, receipts: Verifier, leaves: Iterator[bytes]
) -> tuple[Statement, ...]:
    """Return what a signed receipt, `.tlog-proof`, checkpoint or handing-on states.

    Args:
        note: The bytes of the file.
        log: The key of checkpoints, and of who goes on after a loss.
        receipts: The key of receipts.
        leaves: Gives the leaf that a proof is of, one for each proof.

    Raises:
        VerificationError: It is none of these, or not signed with these keys: then it
            accuses nobody.
    """
    if note.startswith(_PROOF_START):
        leaf = next(leaves, None)
        if leaf is None:
            raise VerificationError("a proof is worth nothing without its leaf")
        proof = parse_proof(note.decode(errors="replace"))
        checkpoint = verify_proof(proof, leaf, log)
        proved = ProvedLeaf(proof.index, leaf_hash(leaf), *_read_of(leaf))
        return proved, checkpoint
    if note.startswith(f"{receipts.name}\n".encode()):
        return (verify_receipt(note, receipts),)
    if note.startswith(f"{handing_on_title(log.name)}\n".encode()):
        return (open_handing_on(note, log),)
    return (open_checkpoint(note, log),)


def _read_of(leaf: bytes) -> tuple[EventId | None, str | None]:
    """Return the event of a leaf, and the key of the shard that it says goes on."""
    try:
        read = read_leaf(leaf)
    except VerificationError:
        return None, None
    return read.id, read.policy if read.kind is Kind.SHARD_FINAL else None


def contradiction(statements: tuple[Statement, ...]) -> str | None:
    """Return why no honest log has signed all of this; None when one may have."""
    for one, other in combinations(statements, 2):
        found = _contradiction(one, other)
        if found is not None:
            return found
    return None


def _contradiction(one: Statement, other: Statement) -> str | None:
    """Return how two statements contradict each other, or None."""
    sealed = _after_the_last(one, other) or _after_the_last(other, one)
    if sealed is not None:
        return sealed
    match one, other:
        case Checkpoint(), Checkpoint():
            return _two_heads(one, other)
        case HandedOn(), HandedOn():
            return _two_shards(one, other)
        case ((Receipt() | ProvedLeaf()), (Receipt() | ProvedLeaf())):
            return _two_leaves(one, other)
        case _:
            # A head alone says of no index what stands there, and who goes on after a
            # loss is said of no head's tree.
            return None


def _after_the_last(final: Statement, other: Statement) -> str | None:
    """Return how a log's last record and a statement contradict each other, or None.

    A last record that was lost later, with what stood before it, contradicts nothing:
    what is left, and handed on, does not reach it.
    """
    if not isinstance(final, ProvedLeaf) or final.following is None:
        return None
    last, reached = final.index, _reached(other)
    if reached > last:
        return f"a last record at index {last}, and one at index {reached}"
    if not isinstance(other, HandedOn) or reached < last:
        return None
    if other.vkey != final.following:
        return (
            f"two shards that go on from it: {final.following}, as its last record "
            f"says, and {other.vkey}, after a loss of what does not hold that"
        )
    return None


def _reached(statement: Statement) -> int:
    """Return the highest index of which a statement says that a record stands there."""
    match statement:
        case Receipt() | ProvedLeaf():
            return statement.index
        case Checkpoint():
            return statement.size - 1
        case HandedOn():
            return statement.lost.left.size - 1
        case _:
            assert_never(statement)


def _two_heads(one: Checkpoint, other: Checkpoint) -> str | None:
    """Return how two heads contradict each other, or None."""
    if one.size != other.size or one.root == other.root:
        return None
    return f"two heads of size {one.size}: roots {b64(one.root)} and {b64(other.root)}"


def _two_shards(one: HandedOn, other: HandedOn) -> str | None:
    """Return how two words about who goes on contradict each other, or None."""
    if one.vkey == other.vkey:
        # A recovery that was cut off may have been begun again, from other heads.
        return None
    return f"two shards that go on from it after a loss: {one.vkey} and {other.vkey}"


def _two_leaves(one: Receipt | ProvedLeaf, other: Receipt | ProvedLeaf) -> str | None:
    """Return how two statements about leaves contradict each other, or None."""
    if one.index == other.index and one.leaf_hash != other.leaf_hash:
        return (
            f"two leaves at index {one.index}: "
            f"hashes {b64(one.leaf_hash)} and {b64(other.leaf_hash)}"
        )
    if one.event is None or other.event is None:
        return None
    if one.index == other.index and one.event != other.event:
        return f"two events at index {one.index}: {one.event} and {other.event}"
    if one.event == other.event and one.index != other.index:
        return f"event {one.event} at two indexes: {one.index} and {other.index}"
    return None
