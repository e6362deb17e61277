"""What only some may read of a record: its sections, sealed beside the log.

The sections of a record are sealed together, with AES-256-GCM, under a key derived
from the keys of all its subjects and that of the shard. So destroying one subject's
key makes every section that speaks of the subject unreadable, and destroying the
shard's key makes all of them so, while leaves, proofs and roots stay as they are. The
leaf commits to each section with an HMAC under an opening of its own, which is sealed
with them: whoever is shown section and opening can check them against the leaf, and
learns nothing about the others (docs/adr/0011).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.keyed import SubjectKey, mac, macs
from audit.keys import SECRET_SIZE, Entropy
from audit.merkle import leaf_hash
from audit.recent import Recent
from audit.record import (
    SALT_SIZE,
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
from audit.sections import (
    CODES,
    HEAD_SIZE,
    OpenedSection,
    join_sections,
    private_bytes,
    section_names,
    sections_of,
    split_sections,
    verify_section,
)
from audit.subjects import NONCE_SIZE, SubjectDirectory
from schemas.canonical import canonical_plain
from schemas.entropy import random_bytes
from schemas.errors import VerificationError

_SALT_END = NONCE_SIZE + SALT_SIZE
"""Random bytes of a record: nonce, salt, an opening for each section, filling tags."""
_PADS = tuple(
    next(count for count in TAG_COUNTS if count >= subjects) - subjects
    for subjects in range(SUBJECT_LIMIT + 1)
)
"""How many random tags a record about so many subjects gets."""


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
    """The sections, as `Sealer.open_sections` reads them; b"" for none."""
    sealed_guard: int


class _About(NamedTuple):
    """What the records of one append about the same people share."""

    people: Sequence[SubjectKey]
    """Each once: one person may stand in two roles, and a tag twice would say so."""
    refs: str
    key: AESGCM
    """What their sections are sealed under."""
    section: bytes
    """The section `subject`; b"" where it is about nobody."""
    pads: int
    """How many random tags such a record gets."""


class _By(NamedTuple):
    """What the records of one append by the same official share."""

    ref: str | None
    section: bytes
    """The section `actor`; b"" where nobody acted."""


class _Draft(NamedTuple):
    """A record that lacks nothing but its random bytes."""

    event: Event
    about: _About
    actor_ref: str | None
    sections: Mapping[str, bytes]
    openings_end: int
    """Where the openings end in its random bytes."""


class _Shared:
    """What the records of one append have in common, made once.

    Subjects and actors are told apart by what they are in memory: those of one case
    are the same objects, and all of them live as long as the append's events.
    """

    __slots__ = ("about", "by")

    def __init__(self) -> None:
        self.about: dict[int, _About] = {}
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
        self._bound = f"errand/sections/v2\n{origin}\n".encode()
        self._keys: Recent[tuple[str, ...], AESGCM] = Recent(cached)
        self._actors: Recent[tuple[str, str], str] = Recent(cached)

    def seal(self, event: Event, subjects: Sequence[SubjectKey]) -> SealedRecord:
        """Return the record of one event; as `seal_all`."""
        return self.seal_all([event], [subjects])[0]

    def seal_all(
        self, events: Sequence[Event], people: Sequence[Sequence[SubjectKey]]
    ) -> list[SealedRecord]:
        """Return the records of events that are appended together.

        (1) Write the sections.
        (2) Draw random bytes, once for all: each byte is used once.
        (3) Commit to the sections, and make the tags.
        (4) Write the leaves, and hash them.
        (5) Seal the sections.

        Each step is done for all records before the next: the processor keeps at hand
        what one step runs, and not what all of them do, which is a tenth of the time.

        Args:
            events: What happened.
            people: For each event the directory's entries for its `subjects`, in
                their order.

        Raises:
            ValueError: A part of an event is not of its form (the message names the
                part alone), a leaf or a section would be too large, or a section
                holds what has no plain canonical form.
        """
        # (1): what records share is made once.
        shared = _Shared()
        drafts = [
            self._draft(event, who, shared)
            for event, who in zip(events, people, strict=True)
        ]
        # (2): before anything is made of them.
        noises = self._draw(drafts)
        # (3): each under its own opening, and this record's salt.
        salts = [noise[NONCE_SIZE:_SALT_END] for noise in noises]
        commitments = [
            macs(noise[_SALT_END:], draft.sections)
            for draft, noise in zip(drafts, noises, strict=True)
        ]
        tags = list(map(self._tags, drafts, salts, noises))
        # (4): from here on the leaves are final.
        leaves = [
            build_leaf(draft.event, self.origin, salt, those, committed)
            for draft, salt, those, committed in zip(
                drafts, salts, tags, commitments, strict=True
            )
        ]
        digests = list(map(leaf_hash, leaves))
        # (5): all of a record's at once.
        sealed = list(map(self._sealed, drafts, noises))
        return list(map(_record, drafts, leaves, digests, sealed))

    def _draft(
        self, event: Event, subjects: Sequence[SubjectKey], shared: _Shared
    ) -> _Draft:
        """Return a record without its random parts."""
        if (event.ends is not None) != (event.kind is Kind.REQUEST_ENDED):
            raise ValueError("`ends` belongs to `request.ended`, and to it alone")
        about = shared.about.get(id(event.subjects))
        if about is None:
            about = self._about(event.subjects, subjects)
            shared.about[id(event.subjects)] = about
        by = shared.by.get(id(event.actor))
        if by is None:
            by = shared.by[id(event.actor)] = self._by(event.actor)
        sections = sections_of(event, about.section, by.section)
        openings_end = _SALT_END + len(sections) * SECRET_SIZE
        return _Draft(event, about, by.ref, sections, openings_end)

    def _about(
        self, named: Sequence[Subject], subjects: Sequence[SubjectKey]
    ) -> _About:
        """Return what records about these people share."""
        if len(named) > SUBJECT_LIMIT:
            raise ValueError(f"`subjects` has more than {SUBJECT_LIMIT}")
        people = tuple(dict.fromkeys(subjects))
        refs = " ".join([person.ref for person in people])
        told = [
            {"id": who.id, "ns": who.namespace, "ref": known.ref, "role": who.role}
            for who, known in zip(named, subjects, strict=True)
        ]
        section = canonical_plain(told) if told else b""
        return _About(people, refs, self._key(people), section, _PADS[len(people)])

    def _by(self, actor: Actor | None) -> _By:
        """Return what records by an official share."""
        if actor is None:
            return _By(None, b"")
        section = canonical_plain({"kind": actor.kind, "id": actor.id})
        return _By(self._actor_ref(actor), section)

    def _draw(self, drafts: Sequence[_Draft]) -> list[bytes]:
        """Return random bytes for each record."""
        sizes = [draft.openings_end + draft.about.pads * TAG_SIZE for draft in drafts]
        drawn = self._entropy(sum(sizes))
        noises: list[bytes] = []
        at = 0
        for size in sizes:
            noises.append(drawn[at : at + size])
            at += size
        return noises

    def _tags(self, draft: _Draft, salt: bytes, noise: bytes) -> list[bytes]:
        """Return a tag for each subject of a record, and those that fill them up."""
        about = draft.about
        tags = [person.tag(self._origin, salt) for person in about.people]
        if about.pads:
            filling = range(draft.openings_end, len(noise), TAG_SIZE)
            tags += [noise[at : at + TAG_SIZE] for at in filling]
        # So that a tag's place does not tell whether it is a person's.
        tags.sort()
        return tags

    def _sealed(self, draft: _Draft, noise: bytes) -> bytes:
        """Return the sealed sections of a record."""
        sections = draft.sections
        if not sections:
            return b""
        head, nonce = CODES[(*sections,)], noise[:NONCE_SIZE]
        plain = join_sections(noise[_SALT_END : draft.openings_end], sections)
        context = self._context(draft.event.id, head)
        return head + nonce + draft.about.key.encrypt(nonce, plain, context)

    def _context(self, event_id: str, head: bytes) -> bytes:
        """Return what binds sections to their record, so that they can't be moved."""
        return self._bound + event_id.encode() + head

    def _actor_ref(self, actor: Actor) -> str:
        """Return the stable name of an official, made once."""
        named = (actor.kind, actor.id)
        ref = self._actors.get(named)
        if ref is None:
            ref = self.directory.actor_ref(actor.kind, actor.id)
            self._actors.put(named, ref)
        return ref

    def _key(self, subjects: Sequence[SubjectKey]) -> AESGCM:
        """Return what seals the sections of a record about these subjects.

        HKDF-SHA256 (RFC 5869) over the subjects' keys, salted with the shard's key:
        the loss of any one of them is the loss of the sections. The nonces under it
        are random: enough for 2^32 records about the same people in one shard (NIST
        SP 800-38D, 8.3).
        """
        refs = tuple([subject.ref for subject in subjects])
        key = self._keys.get(refs)
        if key is None:
            secret = b"".join([subject.key for subject in subjects])
            extracted = mac(self._shard_key, secret)
            info = b"errand/sections/v2\n" + self._origin
            key = AESGCM(mac(extracted, info + b"\x01"))
            if not self.directory.has_forgotten(refs):
                self._keys.put(refs, key)
        return key

    def forget(self, ref: str) -> None:
        """Drop from memory what a subject's key takes part in, for good."""
        self.directory.forget(ref)
        self._keys.drop(lambda refs, _: ref in refs)

    def forget_all(self) -> None:
        """Drop from memory what any subject's key takes part in."""
        self.directory.forget_all()
        self._keys.clear()

    def open_sections(
        self,
        event_id: str,
        subject_refs: str,
        sealed: bytes,
        commitments: Mapping[str, bytes],
        wanted: frozenset[Section] = frozenset(Section),
    ) -> dict[Section, OpenedSection]:
        """Return the wanted sections of a record, each checked against its leaf.

        Raises:
            VerificationError: A section was tampered with, is not the one that the
                leaf commits to, is missing, or a subject's key is gone.
        """
        key = self._key(self._subjects(subject_refs))
        names = section_names(sealed)
        plain = b""
        if names:
            context = self._context(event_id, sealed[:1])
            try:
                nonce, body = sealed[1:HEAD_SIZE], sealed[HEAD_SIZE:]
                plain = key.decrypt(nonce, body, context)
            except InvalidTag:
                raise VerificationError("the sections can't be opened") from None
        opened = {
            Section(name): one
            for name, one in zip(names, split_sections(plain, len(names)), strict=True)
            if name in wanted
        }
        for section, one in opened.items():
            verify_section(commitments.get(section, b""), one.opening, one.content)
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


def _record(draft: _Draft, leaf: bytes, digest: bytes, sealed: bytes) -> SealedRecord:
    """Return a record with the check values over what stands beside its leaf."""
    event, refs, actor = draft.event, draft.about.refs, draft.actor_ref
    private = private_bytes(event.case, event.matter, refs, actor, event.ends)
    begun = crc32(digest)
    return SealedRecord(
        event,
        leaf,
        digest,
        milliseconds(event.at),
        refs,
        actor,
        crc32(private, begun),
        sealed,
        crc32(sealed, begun),
    )
