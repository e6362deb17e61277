"""Records: what an event of the exchange is, and the leaf that stands for it.

A leaf is pseudonymous: it says which organisation asked which for what kind of
evidence, when, and how it ended. Who it was about, which official acted, for which
case and with which evidence is in *sections*, sealed beside the log (`sealing`);
the leaf holds a commitment to each. The salt hides all of it from guessing: without
the salt, nobody can test a guess against a leaf's hash.

The leaf's form is final: no field is ever added, renamed or left out. A verifier
hashes the stored bytes and never writes a leaf anew.
"""

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache, partial
from typing import cast

import orjson

from audit.note import b64_decode
from schemas.canonical import Json, canonical_plain
from schemas.clock import to_rfc3339_ms
from schemas.errors import VerificationError
from schemas.ids import CaseId, EventId

LEAF_LIMIT = 16_384
"""Largest leaf that is written, in bytes."""
SECTION_LIMIT = 65_535
"""Largest section, in bytes."""
SALT_SIZE = 16
TAG_SIZE = 16
TAG_COUNTS = (1, 2, 4, 8)
"""How many tags a leaf may have, so that their number tells little."""
SUBJECT_LIMIT = TAG_COUNTS[-1]
"""Most people or companies that one record may be about."""

_FORMAT = 1
_EVENT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORDS = re.compile(r"[!-~]{0,256}( [!-~]{0,256}){6}")
"""The seven open words of an event: printable ASCII without spaces."""


class Kind(StrEnum):
    """What happened: the closed list of record kinds."""

    REQUEST_ACCEPTED = "request.accepted"
    """A look-up is about to be made: durable before the department is asked."""
    REQUEST_DENIED = "request.denied"
    REQUEST_ENDED = "request.ended"
    """How an accepted look-up ended: answered, refused, failed or never sent."""
    EVIDENCE_RELEASED = "evidence.released"
    """Evidence is about to leave: durable before its first byte does."""
    CONSENT_CHANGED = "consent.changed"
    KEY_CHANGED = "key.changed"
    REGISTRATION_CHANGED = "registration.changed"
    POLICY_CHANGED = "policy.changed"
    AUDIT_QUERY = "audit.query"
    KEY_SHREDDED = "key.shredded"
    """A subject's or a shard's key is destroyed: what it sealed can't be read again."""
    KEY_ISSUED = "key.issued"
    """A subject's key is given out, to test the log with."""
    HOLD_CHANGED = "hold.changed"
    SHARD_GENESIS = "shard.genesis"
    """The first record of a shard: it cites what the one before ended with."""
    SHARD_FINAL = "shard.final"
    """The last record of a shard: it names the next one and its key."""
    CASE_OPENED = "case.opened"
    CASE_CLOSED = "case.closed"


class Section(StrEnum):
    """The parts of a record that are sealed, each under a key of its own."""

    SUBJECT = "subject"
    """Whom the record is about."""
    ACTOR = "actor"
    """Which official or system acted."""
    MATTER = "matter"
    """The case, the matter and why: requirements, basis, grant, fields."""
    EVIDENCE = "evidence"
    """Digests of the evidence, never its content."""


class Audience(StrEnum):
    """For whom a section is opened."""

    CITIZEN = "citizen"
    """A person whom the record is about."""
    REQUESTER = "requester"
    """The organisation that asked."""
    PROVIDER = "provider"
    """The department that was asked."""
    AUDITOR = "auditor"


MAY_OPEN: Mapping[Audience, frozenset[Section]] = {
    Audience.CITIZEN: frozenset({Section.SUBJECT, Section.MATTER}),
    Audience.REQUESTER: frozenset(Section),
    Audience.PROVIDER: frozenset({Section.SUBJECT, Section.EVIDENCE}),
    Audience.AUDITOR: frozenset(Section),
}
"""Which sections each audience sees: a citizen learns why, not the official's name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A person or company whom an event is about."""

    role: str
    """Their role in the matter, such as `mother`."""
    namespace: str
    """What kind of id it is, such as `citizen_id`."""
    id: str = field(repr=False)
    """The id as the register has it: it never leaves the sealed section."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The official or system on whose behalf it happened, or who acts for another."""

    kind: str
    """`official`, `system`, `agent` (a person under a mandate) or `person`."""
    id: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that is about to be recorded.

    What is open in the log (`outcome` to `correlation`) holds words of the
    exchange's own making: no name, no id of a person, no value.

    Raises:
        ValueError: A part is not of its form. The message names the part alone.
    """

    id: EventId
    """A UUID in its 36-character form; the log keeps one record for each."""
    at: datetime
    kind: Kind
    outcome: str
    """How it went, as a word: `accepted`, `retrieved`, `refused`, ..."""
    requester: str = ""
    """Who asks; "" where nobody does."""
    provider: str = ""
    """Who is asked; "" where nobody is."""
    evidence_type: str = ""
    """`id@version`; "" where it is about none."""
    policy: str = ""
    """Digest of the rules in force: that of the packs."""
    correlation: str = ""
    """What links the records of one thing, such as the look-up's id."""
    subjects: tuple[Subject, ...] = ()
    actor: Actor | None = None
    case: CaseId | None = None
    matter: str = ""
    """The matter as `id@version`; "" where there is none."""
    ends: EventId | None = None
    """For `request.ended`: the `request.accepted` that has ended."""
    details: Mapping[str, Json] = field(default_factory=dict, repr=False)
    """More for the section `matter`: requirements, basis, grant, fields. ASCII keys;
    no floats."""
    evidence: Mapping[str, Json] = field(default_factory=dict, repr=False)
    """The section `evidence`: ids and digests. ASCII keys; no floats."""

    def __post_init__(self) -> None:
        if not _EVENT_ID.fullmatch(self.id):
            raise ValueError("`id` is not a UUID in its 36-character form")
        if len(self.subjects) > SUBJECT_LIMIT:
            raise ValueError(f"`subjects` has more than {SUBJECT_LIMIT}")
        if (self.ends is not None) != (self.kind is Kind.REQUEST_ENDED):
            raise ValueError("`ends` belongs to `request.ended`, and to it alone")
        words = (
            self.outcome,
            self.requester,
            self.provider,
            self.evidence_type,
            self.policy,
            self.correlation,
            self.matter,
        )
        if not _WORDS.fullmatch(" ".join(words)):
            raise ValueError(
                "`outcome`, `requester`, `provider`, `evidence_type`, `policy`,"
                " `correlation` and `matter` are printable ASCII without spaces,"
                " of at most 256 characters"
            )


def milliseconds(instant: datetime) -> int:
    """Return an instant as whole milliseconds since 1970."""
    return int(instant.timestamp()) * 1000 + instant.microsecond // 1000


def build_leaf(
    event: Event,
    origin: str,
    salt: bytes,
    tags: Iterable[bytes],
    commitments: Mapping[str, bytes],
) -> bytes:
    """Return the leaf of an event: canonical JSON, the form of audit format 1.

    Args:
        event: What happened.
        origin: The log's name, so that a leaf of one shard is never one of another.
        salt: 16 random bytes.
        tags: One for each subject, with random ones up to 1, 2, 4 or 8 (`sealing`).
        commitments: By section, the HMAC-SHA256 of the section under its opening.

    Raises:
        ValueError: The leaf would be larger than 16 KiB.
    """
    words = (
        event.correlation,
        event.evidence_type,
        event.id,
        event.kind,
        event.outcome,
        event.policy,
        event.provider,
        event.requester,
    )
    said = "".join(words)
    if '"' in said or "\\" in said:
        words = tuple(map(_escaped, words))  # type: ignore[assignment] # as many
    names = commitments if len(commitments) == 1 else sorted(commitments)
    corr, etype, id_, kind, outcome, pol, prov, req = words
    committed = b",".join(
        [b'"%b":"%b"' % (_NAMES[name], _b64(commitments[name])) for name in names]
    )
    # The keys in their order, as RFC 8785 sorts them.
    said = (
        f'"corr":"{corr}","etype":"{etype}","id":"{id_}","kind":"{kind}",'
        f'"log":{_quoted(origin)},"outcome":"{outcome}","pol":"{pol}",'
        f'"prov":"{prov}","req":"{req}"'
    )
    leaf = b'{"c":{%b},%b,"salt":"%b","t":"%b","tags":["%b"],"v":1}' % (
        committed,
        said.encode(),
        _b64(salt),
        to_rfc3339_ms(event.at).encode(),
        b'","'.join(map(_b64, tags)),
    )
    if len(leaf) > LEAF_LIMIT:
        raise ValueError("the leaf is larger than 16 KiB")
    return leaf


_b64 = partial(binascii.b2a_base64, newline=False)
"""As `note.b64`, in bytes."""


def _escaped(word: str) -> str:
    """Return a word as it stands in JSON between its quotes."""
    return canonical_plain(word)[1:-1].decode()


@lru_cache(maxsize=16)
def _quoted(origin: str) -> str:
    """Return a log's name as JSON."""
    return canonical_plain(origin).decode()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf that was read: its open fields, decoded."""

    log: str
    id: EventId
    t: str
    kind: Kind
    outcome: str
    requester: str
    provider: str
    evidence_type: str
    policy: str
    correlation: str
    salt: bytes
    tags: tuple[bytes, ...]
    commitments: Mapping[str, bytes]

    @property
    def at(self) -> datetime:
        """When it happened."""
        return datetime.fromisoformat(self.t)


_TEXT_FIELDS = (
    "log",
    "id",
    "t",
    "kind",
    "outcome",
    "req",
    "prov",
    "etype",
    "pol",
    "corr",
)
_LEAF_FIELDS = frozenset((*_TEXT_FIELDS, "v", "salt", "tags", "c"))
_NAMES = {section.value: section.value.encode() for section in Section}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


def read_leaf(data: bytes) -> Leaf:
    """Return what a leaf says.

    Raises:
        VerificationError: It is no leaf of format 1 in canonical form. Duplicate
            keys are refused with all else that is not canonical.
    """
    try:
        parsed: Json = orjson.loads(data)
        canonical = canonical_plain(parsed)
    except (ValueError, TypeError):
        raise VerificationError("the leaf is not JSON") from None
    if not isinstance(parsed, dict) or parsed.keys() != _LEAF_FIELDS:
        raise VerificationError("the leaf has not the fields of format 1")
    if canonical != data or len(data) > LEAF_LIMIT:
        raise VerificationError("the leaf is not canonical")
    return _typed_leaf(parsed)


def _typed_leaf(parsed: Mapping[str, Json]) -> Leaf:
    """Return a leaf after checking the type and form of each field."""
    texts = [parsed[name] for name in _TEXT_FIELDS]
    tags, commitments = parsed["tags"], parsed["c"]
    if type(parsed["v"]) is not int or parsed["v"] != _FORMAT:
        raise VerificationError("the leaf is not of format 1")
    if not all([isinstance(text, str) for text in texts]):  # noqa: C419 - a list is twice as fast
        raise VerificationError("the leaf has not the types of format 1")
    if not isinstance(tags, list) or not isinstance(commitments, dict):
        raise VerificationError("the leaf has not the types of format 1")
    log, event_id, time, kind, outcome, req, prov, etype, pol, corr = cast(
        "list[str]", texts
    )
    if not _EVENT_ID.fullmatch(event_id) or not _TIME.fullmatch(time):
        raise VerificationError("the leaf's id or time is not of its form")
    if kind not in _KINDS or not commitments.keys() <= _SECTIONS:
        raise VerificationError("the leaf names an unknown kind or section")
    if len(tags) not in TAG_COUNTS:
        raise VerificationError("the leaf has not 1, 2, 4 or 8 tags")
    return Leaf(
        log=log,
        id=EventId(event_id),
        t=time,
        kind=Kind(kind),
        outcome=outcome,
        requester=req,
        provider=prov,
        evidence_type=etype,
        policy=pol,
        correlation=corr,
        salt=_bytes(parsed["salt"], SALT_SIZE),
        tags=tuple(_bytes(tag, TAG_SIZE) for tag in tags),
        commitments={name: _bytes(value, 32) for name, value in commitments.items()},
    )


_KINDS = frozenset(kind.value for kind in Kind)
_SECTIONS = frozenset(section.value for section in Section)


def _bytes(value: Json, size: int) -> bytes:
    """Return the bytes of a base64 field that must have this size."""
    data = b64_decode(value) if isinstance(value, str) else b""
    if len(data) != size:
        raise VerificationError("a field of the leaf has not the size it must have")
    return data
