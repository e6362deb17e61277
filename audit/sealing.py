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
from struct import Struct
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
    Subject,
    build_leaf,
    milliseconds,
)
from audit.subjects import NONCE_SIZE, Recent, SubjectDirectory, SubjectKey, mac
from schemas.canonical import Json, canonical_plain
from schemas.entropy import random_bytes
from schemas.errors import VerificationError

_WRAPPED_SIZE = NONCE_SIZE + SECRET_SIZE + 16
_SLOT = Struct(f"{SECRET_SIZE}s{SECRET_SIZE}s{NONCE_SIZE}s")
"""Random bytes that a section takes: data key, opening, nonce of the wrapping."""
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


def guard(digest: bytes, beside: bytes) -> int:
    """Return a check value over what stands beside a leaf: CRC-32.

    It tells accident, not malice: a flipped bit in a private column or in a sealed
    section is found without any key.

    Args:
        digest: The hash of the leaf, so that nothing stands beside another one.
        beside: What stands beside it.
    """
    return crc32(beside, crc32(digest))


def private_guard(
    digest: bytes,
    case: str | None,
    matter: str,
    subjects: str,
    actor: str | None,
    ends: str | None,
) -> int:
    """Return the check value over an entry's private columns."""
    text = f"{case or ''}\x1f{matter}\x1f{subjects}\x1f{actor or ''}\x1f{ends or ''}"
    return crc32(text.encode(), crc32(digest))


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


class _About(NamedTuple):
    """What the records of one append about the same people share."""

    people: Sequence[SubjectKey]
    """Each once: one person may stand in two roles, and a tag twice would say so."""
    refs: str
    wrapping: AESGCM
    section: bytes
    """The section `subject`."""
    pads: int
    """How many random tags such a record gets."""


class _By(NamedTuple):
    """What the records of one append by the same official share."""

    ref: str | None
    section: bytes
    """The section `actor`."""


class _Draft(NamedTuple):
    """A record that lacks nothing but its random bytes."""

    event: Event
    about: _About
    actor_ref: str | None
    sections: Mapping[str, bytes]
    noise: int
    """How many random bytes it takes."""


class _Shared:
    """What the records of one append have in common, made once.

    Subjects and actors are told apart by what they are in memory: those of one case
    are mostly the same objects, and all of them live as long as the append's events.
    """

    __slots__ = ("about", "by")

    def __init__(self) -> None:
        self.about: dict[tuple[int, ...], _About] = {}
        self.by: dict[int, _By] = {id(None): _By(None, b"")}


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
        """Return the record of one event; as `seal_all`."""
        return self.seal_all([event], [subjects])[0]

    def seal_all(
        self, events: Sequence[Event], people: Sequence[Sequence[SubjectKey]]
    ) -> list[SealedRecord]:
        """Return the records of events that are appended together.

        Args:
            events: What happened.
            people: For each event the directory's entries for its `subjects`, in
                their order.

        Raises:
            ValueError: A leaf or a section would be too large, or a section holds
                what has no plain canonical form.
        """
        shared = _Shared()
        drafts = [
            self._draft(event, who, shared)
            for event, who in zip(events, people, strict=True)
        ]
        # One draw for all of them: each byte is still used once.
        noise = self._entropy(sum([draft.noise for draft in drafts]))
        records: list[SealedRecord] = []
        at = 0
        for draft in drafts:
            end = at + draft.noise
            records.append(self._seal(draft, noise[at:end]))
            at = end
        return records

    def _draft(
        self, event: Event, subjects: Sequence[SubjectKey], shared: _Shared
    ) -> _Draft:
        """Return a record without its random parts."""
        same = tuple(map(id, event.subjects))
        about = shared.about.get(same)
        if about is None:
            about = shared.about[same] = self._about(event.subjects, subjects)
        by = shared.by.get(id(event.actor))
        if by is None:
            by = shared.by[id(event.actor)] = self._by(event.actor)
        sections = _sections(event, about.section, by.section)
        noise = SALT_SIZE + about.pads * TAG_SIZE + len(sections) * _SLOT.size
        return _Draft(event, about, by.ref, sections, noise)

    def _about(
        self, named: Sequence[Subject], subjects: Sequence[SubjectKey]
    ) -> _About:
        """Return what records about these people share."""
        people = tuple(dict.fromkeys(subjects))
        section = canonical_plain(
            [
                {"id": who.id, "ns": who.namespace, "ref": known.ref, "role": who.role}
                for who, known in zip(named, subjects, strict=True)
            ]
        )
        refs = " ".join([person.ref for person in people])
        wrapping = self._wrapping_key(people)
        return _About(people, refs, wrapping, section, _PADS[len(people)])

    def _by(self, actor: Actor | None) -> _By:
        """Return what records by an official share."""
        if actor is None:
            return _By(None, b"")
        section = canonical_plain({"kind": actor.kind, "id": actor.id})
        return _By(self._actor_ref(actor), section)

    def _seal(self, draft: _Draft, noise: bytes) -> SealedRecord:
        """Return a record with its random parts: salt, tags, keys, openings, nonces."""
        event, about = draft.event, draft.about
        salt = noise[:SALT_SIZE]
        sized = SALT_SIZE + about.pads * TAG_SIZE
        tags = [person.tag(self._origin, salt) for person in about.people]
        tags += [noise[at : at + TAG_SIZE] for at in range(SALT_SIZE, sized, TAG_SIZE)]
        # Sorted, so that a tag's place does not tell whether it is a person's.
        tags.sort()
        commitments, sealed = self._seal_sections(draft, noise[sized:])
        leaf = build_leaf(event, self.origin, salt, tags, commitments)
        digest = leaf_hash(leaf)
        refs, actor_ref = about.refs, draft.actor_ref
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
        self, draft: _Draft, noise: bytes
    ) -> tuple[dict[str, bytes], bytes]:
        """Return the commitment of each section, and all of them sealed."""
        commitments: dict[str, bytes] = {}
        parts: list[bytes] = []
        place = self._place(draft.event.id)
        wrap = draft.about.wrapping.encrypt
        slots = _SLOT.iter_unpack(noise)
        for (name, section), (key, opening, nonce) in zip(
            draft.sections.items(), slots, strict=True
        ):
            code = _CODES[name]
            context = place + code
            commitments[name] = mac(opening, section)
            body = AESGCM(key).encrypt(_SINGLE_USE, opening + section, context)
            size = len(body).to_bytes(4, "big")
            parts += code, size, nonce, wrap(nonce, key, context), body
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
            if not self.directory.has_forgotten(refs):
                self._wrapping.put(refs, wrapping)
        return wrapping

    def forget(self, ref: str) -> None:
        """Drop from memory what a subject's key takes part in, for good."""
        self.directory.forget(ref)
        self._wrapping.drop(lambda refs, _: ref in refs)

    def forget_all(self) -> None:
        """Drop from memory what any subject's key takes part in."""
        self.directory.forget_all()
        self._wrapping.clear()

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
    if not hmac.compare_digest(committed, mac(opening, section)):
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


def _sections(event: Event, about: bytes, by: bytes) -> dict[str, bytes]:
    """Return the sections that an event needs, as canonical JSON, by their codes.

    What ended says no more than how: whom and what it was about, and who acted,
    stands in the record of its beginning, which the correlation leads to.

    Args:
        event: What happened.
        about: The section `subject`, where it is about anybody.
        by: The section `actor`, where anybody acted.
    """
    sections: dict[str, bytes] = {}
    is_end = event.kind is Kind.REQUEST_ENDED
    if event.subjects and not is_end:
        sections[_SUBJECT] = about
    if event.actor is not None and not is_end:
        sections[_ACTOR] = by
    if event.details or (not is_end and (event.matter or event.case is not None)):
        sections[_MATTER] = canonical_plain(
            {**event.details, "case": event.case, "matter": event.matter}
        )
    if event.evidence:
        sections[_EVIDENCE] = canonical_plain(event.evidence)
    for section in sections.values():
        if len(section) > SECTION_LIMIT:
            raise ValueError("a section is larger than 65,535 bytes")
    return sections
