"""Anchors: an outside authority's time stamps over published checkpoints.

SOURCE: RFC 3161. A stamp over the exact bytes of a checkpoint shows, to whoever trusts
the authority, that all under it was there by then: also when log and witnesses were to
lie together. Beside each other are kept `anchors/<name>.checkpoint`, the question
`.tsq` and the answer `.tsr`, and `anchors/list`, which names them, oldest first.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import rfc3161_client as rfc3161
from cryptography import x509

from audit.bounded import Bounds, Exchanges
from audit.fetching import Fetch, wanted
from audit.merkle import tree_root
from audit.note import open_checkpoint
from audit.objects import Objects
from audit.proving import ServedTree
from audit.store import LogReader
from schemas.errors import (
    NotFoundError,
    SettingsError,
    StoreUnavailableError,
    VerificationError,
)

ANCHORS: Final = "anchors"
"""Where anchors are served, below the log's address."""
LIST: Final = f"{ANCHORS}/list"
"""The names of all anchors, one a line."""
PARTS: Final = ("checkpoint", "tsq", "tsr")
"""What an anchor consists of."""

_NAME = re.compile(r"[0-9]{1,12}-[0-9a-f]{16}")
"""When it was asked for, in seconds since 1970, and the beginning of the answer's
digest."""
_ANSWER_LIMIT = 65_536
"""Largest answer that is read, in bytes."""
_TIMEOUT_S = 20.0
"""How long each read of an answer may take, in seconds."""
_TOTAL_S = 60.0
"""How long an answer may take, in seconds."""
_GRANTED = 0


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose time stamps count."""

    roots: tuple[x509.Certificate, ...]
    others: tuple[x509.Certificate, ...] = ()
    """Certificates between a root and the one that signs, where answers lack them."""


def parse_trust(pem: bytes) -> Trust:
    """Return the certificates of a PEM file: those that sign themselves are roots.

    Raises:
        SettingsError: There is none, or no root among them.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise SettingsError("these are no certificates (PEM)") from None
    roots = tuple(one for one in found if one.issuer == one.subject)
    if not roots:
        raise SettingsError("the root of the authority's certificate is missing")
    return Trust(roots, tuple(one for one in found if one not in roots))


@dataclass(frozen=True, slots=True)
class Stamp:
    """A question to an authority, and its answer."""

    request: bytes
    response: bytes


class Stamper:
    """Asks one authority for time stamps, and takes none that does not verify."""

    def __init__(self, url: str, trust: Trust, *, total_s: float = _TOTAL_S) -> None:
        """Make ready to ask.

        Args:
            url: Where the authority takes questions (RFC 3161, section 3.4).
            trust: The certificates that its answers must verify with.
            total_s: How long an answer may take, from first to last, in seconds.
        """
        self._url = url
        self._trust = trust
        self._exchanges = Exchanges(Bounds(_TIMEOUT_S, total_s, _ANSWER_LIMIT))

    def close(self) -> None:
        """Let go of connections."""
        self._exchanges.close()

    def stamp(self, note: bytes) -> Stamp:
        """Return a time stamp over a checkpoint.

        Raises:
            StoreUnavailableError: None came, or none that verifies: an authority that
                answers wrongly costs its stamp, and never stops the log for good.
        """
        built = rfc3161.TimestampRequestBuilder(
            data=note, hash_algorithm=rfc3161.HashAlgorithm.SHA256
        ).build()
        try:
            answer = self._ask(built.as_bytes())
            verify_stamp(note, answer, self._trust, nonce=built.nonce)
        except (StoreUnavailableError, VerificationError) as error:
            raise StoreUnavailableError(
                f"the time-stamping authority: {error}"
            ) from None
        return Stamp(built.as_bytes(), answer)

    def _ask(self, request: bytes) -> bytes:
        """Return the answer to a question, read up to a bound."""
        headers = {"content-type": "application/timestamp-query"}
        answer = self._exchanges.ask(
            "POST", self._url, content=request, headers=headers
        )
        if answer.status != HTTPStatus.OK:
            raise VerificationError(f"HTTP {answer.status}")
        return answer.content


def verify_stamp(
    note: bytes, response: bytes, trust: Trust, *, nonce: int | None = None
) -> datetime:
    """Return when an authority saw a checkpoint.

    Args:
        note: The exact bytes of the checkpoint.
        response: What the authority answered.
        trust: Whose stamps count.
        nonce: The question's, where it is the one that was just asked.

    Raises:
        VerificationError: The stamp does not hold, is of something else, or was signed
            with a certificate that did not hold then.
    """
    try:
        answer = rfc3161.decode_timestamp_response(response)
        if answer.status != _GRANTED:
            raise VerificationError("the stamp was not granted")
        verifier = rfc3161.VerifierBuilder(
            roots=list(trust.roots), intermediates=list(trust.others), nonce=nonce
        ).build()
        verifier.verify_message(answer, note)
        return answer.tst_info.gen_time.astimezone(UTC)
    except (rfc3161.VerificationError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise VerificationError(f"the stamp does not hold: {reason}") from None


def parse_name(path: str) -> tuple[str, str] | None:
    """Return the name and the part of a path below `anchors/`; None for no anchor."""
    name, _, part = path.partition(".")
    return (name, part) if _NAME.fullmatch(name) and part in PARTS else None


def anchor_names(content: bytes | None) -> list[str]:
    """Return the anchors that a list names, oldest first.

    Raises:
        VerificationError: It is no list of anchors.
    """
    names = (content or b"").decode("ascii", "replace").splitlines()
    if not all(map(_NAME.fullmatch, names)):
        raise VerificationError(f"{LIST}: it is no list of anchors")
    return names


def anchored_at(names: Sequence[str]) -> int | None:
    """Return when the newest anchor was asked for, in seconds since 1970."""
    return int(names[-1].partition("-")[0]) if names else None


def anchor(
    reader: LogReader, objects: Objects, stamper: Stamper, now: datetime, every_s: float
) -> int:
    """Have the published checkpoint stamped, once the last stamp is old enough.

    (1) Look when that was.
    (2) Ask for a stamp over the exact bytes of the checkpoint, and verify it.
    (3) Keep question, answer and checkpoint, and then name them in the list.

    Returns:
        When the newest anchor was asked for, in seconds since 1970.

    Raises:
        NotFoundError: Nothing is published yet.
        StoreUnavailableError: No stamp came, or it could not be kept.
    """
    # (1): the list is shared by all replicas.
    listed = objects.read(LIST)
    names = anchor_names(listed)
    last, at = anchored_at(names), int(now.timestamp())
    if last is not None and at - last < every_s:
        return last
    head = reader.published()
    if head is None:
        raise NotFoundError("nothing is published yet")
    # (2): before anybody relies on it.
    note = head.note.encode()
    stamp = stamper.stamp(note)
    # (3): the list last, so that what it names is there.
    name = f"{at}-{hashlib.sha256(stamp.response).hexdigest()[:16]}"
    contents = (note, stamp.request, stamp.response)
    for part, content in zip(PARTS, contents, strict=True):
        objects.write_once(f"{ANCHORS}/{name}.{part}", content)
    lines = "".join(f"{one}\n" for one in (*names, name))
    objects.swap(LIST, listed, lines.encode())
    return at


@dataclass(frozen=True, slots=True)
class Anchored:
    """What anchors were found to show."""

    count: int
    newest: str
    """When the newest stamp was made (RFC 3339)."""
    size: int
    """How many entries it vouches for."""


def verify_anchors(
    fetch: Fetch, listed: bytes | None, tree: ServedTree, trust: Trust
) -> Anchored:
    """Verify every anchor of a log against a tree that was verified.

    Args:
        fetch: Reads anchors.
        listed: The list, read before the tree's head: a log may go on meanwhile.
        tree: The tree.
        trust: Whose stamps count.

    Raises:
        VerificationError: There is none, one does not hold, or the log does not
            contain what was stamped; the message names it.
    """
    names = anchor_names(wanted(listed, LIST))
    if not names:
        raise VerificationError(f"{LIST}: there is no anchor")
    seen = []
    for name in names:
        try:
            seen.append(_verify_anchor(f"{ANCHORS}/{name}", fetch, tree, trust))
        except VerificationError as error:
            raise VerificationError(f"{ANCHORS}/{name}: {error}") from None
    newest, size = max(seen)
    return Anchored(len(seen), newest.isoformat(), size)


def _verify_anchor(
    path: str, fetch: Fetch, tree: ServedTree, trust: Trust
) -> tuple[datetime, int]:
    """Return when an anchor was made, and over how many entries."""
    note, response = (wanted(fetch(f"{path}.{part}"), part) for part in _LOOKED_AT)
    at = verify_stamp(note, response, trust)
    checkpoint = open_checkpoint(note, tree.verifier)
    if checkpoint.size > tree.head.size:
        raise VerificationError(
            f"{checkpoint.size} entries were stamped, and {tree.head.size} are here"
        )
    if tree_root(tree.read, checkpoint.size) != checkpoint.root:
        raise VerificationError("another root was stamped")
    return at, checkpoint.size


_LOOKED_AT = ("checkpoint", "tsr")
"""The question tells whoever has the answer nothing more."""


def copy_anchors(source: Fetch, target: Objects) -> None:
    """Copy all anchors to another store; those that are there stay.

    Raises:
        VerificationError: One that the list names is missing, or differs there.
        StoreUnavailableError: The store can't be reached.
    """
    listed = source(LIST)
    if listed is None:
        return
    for path in _paths(anchor_names(listed)):
        target.write_once(path, wanted(source(path), path))
    before = target.read(LIST)
    if before != listed:
        target.swap(LIST, before, listed)


def _paths(names: Iterable[str]) -> Iterable[str]:
    return (f"{ANCHORS}/{name}.{part}" for name in names for part in PARTS)
