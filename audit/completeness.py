"""Proving that a list of accesses is complete: every leaf is tested with the key.

No index can prove that it left nothing out. Whoever holds a subject's key can: each
record about the subject carries a tag that the key alone tells from a random one. So
the whole log is read, from anybody's copy, verified against its signed checkpoint on
the way, and what carries a tag is compared with what the list names.

SOURCE: audit-log design, 5.3.
"""

import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import orjson

from audit.demands import Demands
from audit.fetching import Fetch, ahead, fetch_head
from audit.fsck import Progress, bundles, grow, plan
from audit.keyed import SubjectKey
from audit.leaves import Leaves
from audit.merkle import EMPTY_ROOT
from audit.note import Checkpoint, b64, open_checkpoint, parse_vkey
from schemas.canonical import Json
from schemas.errors import VerificationError

_SALT = b'"salt":"'
_SALT_TEXT = 24
"""Characters of a salt: 16 bytes in base64."""
_ID = b'"id":"'
_ID_TEXT = 36


@dataclass(frozen=True, slots=True)
class Listed:
    """An access that a list names."""

    index: int
    event: str
    log: str | None = None
    """The shard that it stands in; None where the list does not say."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a list is worth."""

    origin: str
    size: int
    """Records that were tested: all under the checkpoint."""
    root: str
    """Root of the checkpoint, in base64."""
    about: int
    """Records about the subject, among those."""
    listed: int
    """Records that the list names in this shard."""
    missing: Sequence[int]
    """Indexes of records about the subject that the list does not name."""
    foreign: Sequence[int]
    """Indexes that the list names, and that are not about the subject, or of another
    event than it says."""
    unpublished: Sequence[int]
    """Indexes that the list names beyond the checkpoint: not to be tested yet."""

    @property
    def is_complete(self) -> bool:
        """Whether the list names every record about the subject, and no other."""
        return not (self.missing or self.foreign)

    def as_json(self) -> Mapping[str, Json]:
        """Return the result as JSON."""
        return {"complete": self.is_complete, **asdict(self)}


def read_list(pages: Sequence[bytes]) -> list[Listed]:
    """Return the accesses in what the gateway answered, page by page.

    Raises:
        VerificationError: A page is not an answer of the gateway, one is missing, or
            there is an access twice.
    """
    listed: dict[tuple[str | None, int], Listed] = {}
    for number, page in enumerate(pages, 1):
        try:
            answer = orjson.loads(page)
            rows = [
                Listed(row["index"], row["event"], row.get("log"))
                for row in answer["records"]
            ]
            is_last = answer["next"] is None
        except (ValueError, TypeError, LookupError):
            raise VerificationError(f"page {number} of the list is malformed") from None
        if is_last != (number == len(pages)):
            raise VerificationError(f"page {number} of the list: a page is missing")
        for row in rows:
            if type(row.index) is not int or type(row.event) is not str:
                raise VerificationError(f"page {number} of the list is malformed")
            if (row.log, row.index) in listed:
                raise VerificationError(f"the list names record {row.index} twice")
            listed[row.log, row.index] = row
    return list(listed.values())


def check_complete(
    fetch: Fetch,
    demands: Demands,
    key: bytes,
    listed: Sequence[Listed],
    progress: Progress,
    *,
    at_once: bool = False,
) -> Compared:
    """Compare a list of accesses with a log, all of whose leaves are tested.

    (1) The checkpoint: its signature, and the cosignatures that are demanded.
    (2) Every entry is a leaf of this log; those with the subject's tag are found.
    (3) The root over all of them is the one that was signed: none was left out.
    (4) What was found is what is listed.

    Args:
        fetch: Reads what is served, or anybody's copy of it.
        demands: The log's public key, and who must have cosigned.
        key: The subject's key; 32 bytes.
        listed: What the list names.
        progress: Told how far it is.
        at_once: Whether several pieces may be fetched at once.

    Raises:
        VerificationError: The log does not hold; the message names what doesn't.
        UnverifiableError: It is another log, or shard, than the key's.
    """
    # (1): only what is signed can prove that nothing is missing.
    verifier = parse_vkey(demands.vkey)
    note = fetch_head(fetch, verifier.name)
    checkpoint = open_checkpoint(note, verifier)
    demands.check_quorum(note, verifier)
    # (2): one pass, in which the tree is computed as well.
    leaves = Leaves(verifier.name)
    about: dict[int, str] = {}
    subject = SubjectKey("", key)

    def look(start: int, entries: Sequence[bytes]) -> None:
        leaves.check(start, entries)
        about.update(tagged(subject, verifier.name, start, entries))

    with ExitStack() as stack:
        if at_once:
            fetch = stack.enter_context(ahead(fetch, plan(0, checkpoint.size)))
        growing = grow(fetch, checkpoint, ())
        for size in bundles(fetch, growing, checkpoint.size, look):
            progress(size, checkpoint.size)
        # (3): or an entry could have been left out of what was read.
        growing.finish()
    if not checkpoint.size and checkpoint.root != EMPTY_ROOT:
        raise VerificationError("checkpoint: the entries give another root")
    # (4): by index and by event, since a list could name the wrong one of two.
    mine = [one for one in listed if one.log in (None, verifier.name)]
    return _compared(checkpoint, about, {one.index: one.event for one in mine})


def _compared(
    checkpoint: Checkpoint, about: Mapping[int, str], known: Mapping[int, str]
) -> Compared:
    """Compare what was found with what is listed: the event at each index."""
    return Compared(
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=b64(checkpoint.root),
        about=len(about),
        listed=len(known),
        missing=sorted(index for index in about if index not in known),
        foreign=sorted(
            index
            for index, event in known.items()
            if index < checkpoint.size and about.get(index) != event
        ),
        unpublished=sorted(index for index in known if index >= checkpoint.size),
    )


def tagged(
    subject: SubjectKey, origin: str, start: int, leaves: Sequence[bytes]
) -> Iterator[tuple[int, str]]:
    """Yield index and event of the leaves that carry a subject's tag.

    Args:
        subject: Whose.
        origin: The log's name.
        start: Index of the first leaf.
        leaves: Leaves of format 1: nothing in them looks like a member's name but the
            members, since quotation marks in words are escaped.
    """
    name = origin.encode()
    for index, leaf in enumerate(leaves, start):
        at = leaf.rindex(_SALT) + len(_SALT)
        salt = binascii.a2b_base64(leaf[at : at + _SALT_TEXT])
        tag = binascii.b2a_base64(subject.tag(name, salt), newline=False)
        if leaf.find(tag, at) >= 0:
            found = leaf.index(_ID) + len(_ID)
            yield index, leaf[found : found + _ID_TEXT].decode("ascii")
