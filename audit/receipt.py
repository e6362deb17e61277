"""What is handed out for a record: receipts now, proofs once it is published.

A *receipt* (R0) is a promise, signed when the record is durable: this event stands
at this index with this leaf hash. A *proof* shows it under a signed checkpoint. A
receipt and a proof of another leaf at the same index are together evidence that the
log broke its promise.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from audit.merkle import (
    HASH_SIZE,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from audit.note import (
    Checkpoint,
    Signer,
    Verifier,
    b64,
    b64_decode,
    decimal,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    text_of,
)
from audit.store import Appended, LogReader
from audit.tiles import node_reader, reading_once
from schemas.canonical import Json
from schemas.errors import NotFoundError, VerificationError
from schemas.ids import EventId

_PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_PROOF_LIMIT = 64
"""Most hashes of an inclusion proof: the levels of the largest tree."""
_EVENT_ID = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True)
class Receipt:
    """The promise that an event stands in the log."""

    event: EventId
    index: int
    leaf_hash: bytes
    at_ms: int
    """When it happened, in milliseconds since 1970."""


def sign_receipt(signer: Signer, record: Receipt | Appended) -> str:
    """Return a durable record's receipt as a signed note, of `<origin>/receipt`."""
    return signer.sign(
        f"{signer.name}\n{record.event}\n{record.index}\n"
        f"{b64(record.leaf_hash)}\n{record.at_ms}\n"
    )


def verify_receipt(note: bytes, verifier: Verifier) -> Receipt:
    """Return the receipt in a note, after checking its signature.

    Raises:
        VerificationError: It is malformed, not signed with this key, or of another
            log.
    """
    name, receipt = _parse_receipt(open_note(note, (verifier,)).text)
    if name != verifier.name:
        raise VerificationError("the receipt is of another log than its key")
    return receipt


def parse_receipt(note: bytes) -> Receipt:
    """Return what a receipt promises; its signature is not verified yet.

    Raises:
        VerificationError: It is malformed.
    """
    return _parse_receipt(text_of(note))[1]


def _parse_receipt(text: str) -> tuple[str, Receipt]:
    """Return the name and the promise that the text of a receipt holds."""
    lines = text.split("\n")
    if len(lines) != 6:  # noqa: PLR2004 - five lines and the end
        raise VerificationError("malformed receipt")
    digest = b64_decode(lines[3])
    if len(digest) != HASH_SIZE or not _EVENT_ID.fullmatch(lines[1]):
        raise VerificationError("malformed receipt")
    index, at_ms = decimal(lines[2]), decimal(lines[4])
    return lines[0], Receipt(EventId(lines[1]), index, digest, at_ms)


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf stands in the tree of a signed checkpoint."""

    index: int
    hashes: tuple[bytes, ...]
    """The leaf's sibling first."""
    checkpoint: str
    """The signed note."""

    def as_text(self) -> str:
        """Return the proof as a `.tlog-proof` (C2SP tlog-proof)."""
        hashes = "".join(f"{b64(value)}\n" for value in self.hashes)
        return f"{_PROOF_HEADER}\nindex {self.index}\n{hashes}\n{self.checkpoint}"

    def as_json(self) -> Mapping[str, Json]:
        """Return the proof as JSON, with hashes in base64."""
        return {
            "index": self.index,
            "hashes": [b64(value) for value in self.hashes],
            "checkpoint": self.checkpoint,
        }


def parse_proof(text: str) -> Proof:
    """Return the proof that a `.tlog-proof` holds; nothing of it is verified yet.

    Raises:
        VerificationError: It is malformed.
    """
    head, blank, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if lines[:1] != [_PROOF_HEADER] or not blank:
        raise VerificationError("malformed proof")
    if lines[1:2] and lines[1].startswith("extra "):
        # Not authenticated by anything, so nothing here relies on it.
        b64_decode(lines.pop(1).removeprefix("extra "))
    if len(lines) < 2 or not lines[1].startswith("index "):  # noqa: PLR2004 - header and index
        raise VerificationError("malformed proof")
    hashes = tuple(b64_decode(line) for line in lines[2 : 3 + _PROOF_LIMIT])
    if len(hashes) > _PROOF_LIMIT or any(len(h) != HASH_SIZE for h in hashes):
        raise VerificationError("malformed proof")
    return Proof(decimal(lines[1].removeprefix("index ")), hashes, checkpoint)


def check_proof_form(proof: Proof) -> None:
    """Raise unless a proof's checkpoint has the form of one; nothing is verified.

    Raises:
        VerificationError: It is malformed.
    """
    parse_checkpoint(text_of(proof.checkpoint.encode()))


def verify_proof(proof: Proof, leaf: bytes, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint under which a leaf was proved to stand.

    Args:
        proof: What the log handed out.
        leaf: The bytes of the leaf.
        verifier: The log's key.

    Raises:
        VerificationError: The checkpoint or the proof does not hold.
    """
    checkpoint = open_checkpoint(proof.checkpoint.encode(), verifier)
    verify_inclusion(
        leaf_hash(leaf), proof.index, checkpoint.size, proof.hashes, checkpoint.root
    )
    return checkpoint


def verify_kept(receipt: Receipt, proof: Proof, verifier: Verifier) -> Checkpoint:
    """Return the checkpoint under which the log was proved to keep a promise.

    Neither the leaf nor anybody has to be asked: the receipt has the leaf's hash.

    Args:
        receipt: The promise, once its signature is verified.
        proof: What the log handed out later, or its tiles gave.
        verifier: The log's key.

    Raises:
        VerificationError: The checkpoint does not hold, or the proof is not of the leaf
            that was promised.
    """
    checkpoint = open_checkpoint(proof.checkpoint.encode(), verifier)
    if proof.index != receipt.index:
        raise VerificationError(
            f"the proof is of index {proof.index}, and the receipt of {receipt.index}"
        )
    try:
        verify_inclusion(
            receipt.leaf_hash,
            receipt.index,
            checkpoint.size,
            proof.hashes,
            checkpoint.root,
        )
    except VerificationError as error:
        raise VerificationError(
            f"the proof does not show the promised leaf at {receipt.index}: {error}"
        ) from None
    return checkpoint


def prove_event(reader: LogReader, event: EventId, verifier: Verifier) -> Proof | None:
    """Return the proof of a record under the last checkpoint, checked before it goes.

    None when the record is not published yet: the next checkpoint will hold it.

    Args:
        reader: Reads the log.
        event: Whose record.
        verifier: The log's key: the proof is written, read and verified as whoever
            gets it will do it.

    Raises:
        NotFoundError: The log has no record of the event.
        VerificationError: The stored tiles do not prove the stored record.
    """
    entry = reader.entry_of(event)
    if entry is None:
        raise NotFoundError("the log has no record of this event")
    head = reader.published()
    if head is None or entry.seq >= head.size:
        return None
    with reader.nodes.proving() as read:
        hashes = inclusion_proof(read, entry.seq, head.size)
        proof = Proof(entry.seq, tuple(hashes), head.note)
        # INVARIANT: no proof leaves that an outsider would refuse.
        verify_proof(parse_proof(proof.as_text()), entry.leaf, verifier)
    return proof


@dataclass(frozen=True, slots=True)
class Consistency:
    """That a later tree only added leaves to an earlier one."""

    size1: int
    root1: bytes
    size2: int
    root2: bytes
    hashes: tuple[bytes, ...]

    def as_json(self) -> Mapping[str, Json]:
        """Return the proof as JSON, with hashes in base64."""
        return {
            "size1": self.size1,
            "root1": b64(self.root1),
            "size2": self.size2,
            "root2": b64(self.root2),
            "hashes": [b64(value) for value in self.hashes],
        }


def prove_consistency(reader: LogReader, size1: int, size2: int) -> Consistency:
    """Return the proof that the tree of `size2` continues that of `size1`.

    Raises:
        NotFoundError: Not `0 < size1 <= size2`, or not so much is published.
        VerificationError: The stored tiles do not prove it.
    """
    head = reader.published()
    if not 0 < size1 <= size2 or head is None or size2 > head.size:
        raise NotFoundError("the log has published no trees of these sizes")
    read = node_reader(reading_once(reader.tile))
    root1, root2 = tree_root(read, size1), tree_root(read, size2)
    hashes: Sequence[bytes] = consistency_proof(read, size1, size2)
    verify_consistency(size1, size2, hashes, root1, root2)
    return Consistency(size1, root1, size2, root2, tuple(hashes))
