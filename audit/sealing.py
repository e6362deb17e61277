"""What only some may read of a record: its sections, sealed beside the log.

A section is sealed with AES-256-GCM under a data key of its own, which is wrapped
under a key derived from the keys of all subjects of the record and that of the
shard. So destroying one subject's key makes every section that speaks of the
subject unreadable, and destroying the shard's key makes all of them so, while
leaves, proofs and roots stay as they are. The leaf commits to each section with an
HMAC under an opening that is sealed with it: whoever is shown section and opening
can check them against the leaf, and learns nothing about the others.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple
from zlib import crc32

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.keys import SECRET_SIZE, Entropy
from audit.merkle import leaf_hash
from audit.record import (
    SALT_SIZE,
    SECTION_LIMIT,
    SUBJECT_LIMIT,
    TAG_COUNTS,
    TAG_SIZE,
    Actor,
    Event,
    Kind,
    Section,
    build_leaf,
    milliseconds,
)
from audit.subjects import NONCE_SIZE, Recent, SubjectDirectory, SubjectKey, mac
from schemas.canonical import Json, canonical_plain
from schemas.entropy import random_bytes
from schemas.errors import VerificationError

_WRAPPED_SIZE = NONCE_SIZE + SECRET_SIZE + 16
_SECTION_NOISE = SECRET_SIZE + SECRET_SIZE + NONCE_SIZE
"""Random bytes a section takes: data key, opening, nonce of the wrapping."""
_SINGLE_USE = bytes(NONCE_SIZE)
"""The nonce under a data key: the key is random and seals one section, once."""
_SUBJECT = Section.SUBJECT.value
_ACTOR = Section.ACTOR.value
_MATTER = Section.MATTER.value
_EVIDENCE = Section.EVIDENCE.value
_CODES: Mapping[str, bytes] = {
    _SUBJECT: b"\x01",
    _ACTOR: b"\x02",
    _MATTER: b"\x03",
    _EVIDENCE: b"\x04",
}
_NAMES = {code[0]: Section(name) for name, code in _CODES.items()}
_PADS = tuple(
    next(count for count in TAG_COUNTS if count >= subjects) - subjects
    for subjects in range(SUBJECT_LIMIT + 1)
)
"""How many random tags a record about so many subjects gets."""


def commitment(opening: bytes, section: bytes) -> bytes:
    """Return what a leaf holds in place of a section: HMAC under its opening."""
    return mac(opening, section)


def guard(digest: bytes, beside: bytes) -> int:
    """Return a check value over what stands beside a leaf: CRC-32.

    It tells accident, not malice: a flipped bit in a private column or in a sealed
    section is found without any key.

    Args:
        digest: The hash of the leaf, so that nothing stands beside another one.
        beside: What stands beside it.
    """
    return crc32(beside, crc32(digest))


def private_guard(digest: bytes, *columns: str | None) -> int:
    """Return the check value over an entry's private columns.

    Their order: case, matter, subjects, actor, what it ends.
    """
    text = "\x1f".join([column or "" for column in columns])
    return guard(digest, text.encode())


class SealedRecord(NamedTuple):
    """A record ready to be stored: the leaf, and what stands beside it."""

    event: Event
    leaf: bytes
    leaf_hash: bytes
    at_ms: int
    subject_refs: str
    """References of the subjects, separated by spaces."""
    actor_ref: str | None
    guard: int
    """Check value over the private columns."""
    sealed: bytes
    """The sealed sections, as `open_sections` reads them; b"" for none."""
    sealed_guard: int

    @property
    def opens(self) -> bool:
        """Whether this is an attempt of a case, which must end."""
        return self.event.kind is Kind.REQUEST_ACCEPTED and self.event.case is not None


class Sealer:
    """Turns events into records of one log (shard)."""

    def __init__(
        self,
        origin: str,
        shard_key: bytes,
        directory: SubjectDirectory,
        *,
        entropy: Entropy = random_bytes,
        cached: int = 16_384,
    ) -> None:
        self.origin = origin
        self._origin = origin.encode()
        self.directory = directory
        self._shard_key = shard_key
        self._entropy = entropy
        self._wrapping: Recent[tuple[str, ...], AESGCM] = Recent(cached)
        self._actors: Recent[tuple[str, str], str] = Recent(cached)

    def seal(self, event: Event, subjects: Sequence[SubjectKey]) -> SealedRecord:
        """Return the record of an event.

        Args:
            event: What happened.
            subjects: The directory's entries for `event.subjects`, in their order.

        Raises:
            ValueError: The leaf or a section would be too large, or a section holds
                what has no plain canonical form.
        """
        sections = _sections(event, subjects)
        # One person may stand in two roles: a tag twice would say so.
        people = tuple(dict.fromkeys(subjects)) if len(subjects) > 1 else subjects
        pads = _PADS[len(people)]
        sized = SALT_SIZE + pads * TAG_SIZE
        noise = self._entropy(sized + len(sections) * _SECTION_NOISE)
        salt = noise[:SALT_SIZE]
        tags = [person.tag(self._origin, salt) for person in people]
        tags += [noise[at : at + TAG_SIZE] for at in range(SALT_SIZE, sized, TAG_SIZE)]
        # Sorted, so that a tag's place does not tell whether it is a person's.
        tags.sort()
        commitments, sealed = self._seal_sections(
            event, self._wrapping_key(people), sections, noise[sized:]
        )
        leaf = build_leaf(event, self.origin, salt, tags, commitments)
        return self._record(event, people, leaf, sealed)

    def _record(
        self, event: Event, subjects: Sequence[SubjectKey], leaf: bytes, sealed: bytes
    ) -> SealedRecord:
        """Return a record from its finished parts."""
        digest = leaf_hash(leaf)
        refs = " ".join([subject.ref for subject in subjects])
        actor_ref = None if event.actor is None else self._actor_ref(event.actor)
        check = private_guard(
            digest, event.case, event.matter, refs, actor_ref, event.ends
        )
        return SealedRecord(
            event,
            leaf,
            digest,
            milliseconds(event.at),
            refs,
            actor_ref,
            check,
            sealed,
            guard(digest, sealed),
        )

    def _actor_ref(self, actor: Actor) -> str:
        """Return the stable name of an official, made once."""
        named = (actor.kind, actor.id)
        ref = self._actors.get(named)
        if ref is None:
            ref = self.directory.actor_ref(actor.kind, actor.id)
            self._actors.put(named, ref)
        return ref

    def _seal_sections(
        self,
        event: Event,
        wrapping: AESGCM,
        sections: Mapping[str, bytes],
        noise: bytes,
    ) -> tuple[dict[str, bytes], bytes]:
        """Return the commitment of each section, and all of them sealed."""
        commitments: dict[str, bytes] = {}
        parts: list[bytes] = []
        place = self._place(event.id)
        for number, (name, section) in enumerate(sections.items()):
            at = number * _SECTION_NOISE
            key, opening = noise[at : at + 32], noise[at + 32 : at + 64]
            nonce = noise[at + 64 : at + _SECTION_NOISE]
            context = place + _CODES[name]
            commitments[name] = commitment(opening, section)
            body = AESGCM(key).encrypt(_SINGLE_USE, opening + section, context)
            parts += (
                _CODES[name],
                len(body).to_bytes(4, "big"),
                nonce,
                wrapping.encrypt(nonce, key, context),
                body,
            )
        return commitments, b"".join(parts)

    def _place(self, event_id: str) -> bytes:
        """Return what binds a section to its record, so that it can't be moved."""
        return f"errand/section/v1\n{self.origin}\n{event_id}\n".encode()

    def _wrapping_key(self, subjects: Sequence[SubjectKey]) -> AESGCM:
        """Return what wraps the section keys of a record about these subjects.

        HKDF-SHA256 (RFC 5869) over the subjects' keys, salted with the shard's key:
        the loss of any one of them is the loss of the section.
        """
        refs = tuple([subject.ref for subject in subjects])
        wrapping = self._wrapping.get(refs)
        if wrapping is None:
            secret = b"".join([subject.key for subject in subjects])
            extracted = mac(self._shard_key, secret)
            info = b"errand/section-key/v1\n" + self.origin.encode()
            wrapping = AESGCM(mac(extracted, info + b"\x01"))
            self._wrapping.put(refs, wrapping)
        return wrapping

    def open_sections(
        self,
        event_id: str,
        subject_refs: str,
        sealed: bytes,
        commitments: Mapping[str, bytes],
        wanted: frozenset[Section] = frozenset(Section),
    ) -> dict[Section, "OpenedSection"]:
        """Return the wanted sections of a record, each checked against its leaf.

        Raises:
            VerificationError: A section was tampered with, is not the one that the
                leaf commits to, is missing, or a subject's key is gone.
        """
        wrapping = self._wrapping_key(self._subjects(subject_refs))
        opened: dict[Section, OpenedSection] = {}
        for name, wrapped, body in split_sections(sealed):
            if name not in wanted:
                continue
            context = self._place(event_id) + _CODES[name]
            try:
                key = wrapping.decrypt(
                    wrapped[:NONCE_SIZE], wrapped[NONCE_SIZE:], context
                )
                plain = AESGCM(key).decrypt(_SINGLE_USE, body, context)
            except (InvalidTag, ValueError):
                raise VerificationError(f"section `{name}` can't be opened") from None
            opening, section = plain[:SECRET_SIZE], plain[SECRET_SIZE:]
            verify_section(commitments.get(name, b""), opening, section)
            opened[name] = OpenedSection(section, opening)
        if any(name in wanted and name not in opened for name in commitments):
            raise VerificationError("a section that the leaf commits to is missing")
        return opened

    def _subjects(self, refs: str) -> list[SubjectKey]:
        """Return the subjects behind the references of a record."""
        subjects = [self.directory.by_ref(ref) for ref in refs.split()]
        found = [subject for subject in subjects if subject is not None]
        if len(found) != len(subjects):
            raise VerificationError("the key of a subject of the record is gone")
        return found


@dataclass(frozen=True, slots=True)
class OpenedSection:
    """A section in the clear, with what proves it: show both with the leaf."""

    content: bytes
    """The section: canonical JSON."""
    opening: bytes
    """The secret under which the leaf commits to it; 32 bytes."""

    @property
    def value(self) -> Json:
        """The section, parsed."""
        parsed: Json = orjson.loads(self.content)
        return parsed


def verify_section(committed: bytes, opening: bytes, section: bytes) -> None:
    """Verify that a leaf commits to a section.

    Args:
        committed: What the leaf holds under `c` for this section.
        opening: The opening that was shown with the section.
        section: The bytes of the section, as they were shown.

    Raises:
        VerificationError: It does not.
    """
    if not hmac.compare_digest(committed, commitment(opening, section)):
        raise VerificationError("the section is not the one that the leaf commits to")


def split_sections(sealed: bytes) -> list[tuple[Section, bytes, bytes]]:
    """Return the sealed sections of a record: name, wrapped key and ciphertext.

    Raises:
        VerificationError: They are cut short, or one is unknown or there twice.
    """
    sections: list[tuple[Section, bytes, bytes]] = []
    at = last = 0
    while at < len(sealed):
        # In the order of their codes, so that none is there twice.
        code = sealed[at]
        start = at + 5 + _WRAPPED_SIZE
        end = start + int.from_bytes(sealed[at + 1 : at + 5], "big")
        if code <= last or code not in _NAMES or end > len(sealed):
            raise VerificationError("the sealed sections are malformed")
        sections.append((_NAMES[code], sealed[at + 5 : start], sealed[start:end]))
        at, last = end, code
    return sections


def section_names(sealed: bytes) -> Sequence[str]:
    """Return which sections are sealed for a record, by name, in alphabetical order.

    Raises:
        VerificationError: As for `split_sections`.
    """
    codes = bytearray()
    at, size = 0, len(sealed)
    while at < size:
        codes.append(sealed[at])
        at += 5 + _WRAPPED_SIZE + int.from_bytes(sealed[at + 1 : at + 5], "big")
    names = _IN_ORDER.get(bytes(codes))
    if names is None or at != size:
        raise VerificationError("the sealed sections are malformed")
    return names


_IN_ORDER = {
    bytes(codes): sorted(_NAMES[code].value for code in codes)
    for count in range(len(_NAMES) + 1)
    for codes in combinations(sorted(_NAMES), count)
}
"""Every set of sections, by their codes in order."""


def _sections(event: Event, subjects: Sequence[SubjectKey]) -> dict[str, bytes]:
    """Return the sections that an event needs, as canonical JSON.

    What ended says no more than how: whom and what it was about stands in the
    record of its beginning, which the correlation leads to.
    """
    sections: dict[str, bytes] = {}
    is_end = event.kind is Kind.REQUEST_ENDED
    if event.subjects and not is_end:
        sections[_SUBJECT] = canonical_plain(
            [
                {"id": who.id, "ns": who.namespace, "ref": known.ref, "role": who.role}
                for who, known in zip(event.subjects, subjects, strict=True)
            ]
        )
    if event.actor is not None:
        sections[_ACTOR] = canonical_plain(
            {"kind": event.actor.kind, "id": event.actor.id}
        )
    if event.details or (not is_end and (event.matter or event.case is not None)):
        sections[_MATTER] = canonical_plain(
            {**event.details, "case": event.case, "matter": event.matter}
        )
    if event.evidence:
        sections[_EVIDENCE] = canonical_plain(event.evidence)
    if max(map(len, sections.values()), default=0) > SECTION_LIMIT:
        raise ValueError("a section is larger than 65,535 bytes")
    return sections
