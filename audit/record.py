"""Records: what an event of the exchange is, and the leaf that stands for it.

A leaf is pseudonymous: it says which organisation asked which for what kind of
evidence, when, and how it ended. Who it was about, which official acted, for which
case and with which evidence is in *sections*, sealed beside the log (`sealing`);
the leaf holds a commitment to each. The salt hides all of it from guessing: without
the salt, nobody can test a guess against a leaf's hash.

The leaf's form is final: no field is ever added, renamed or left out. A verifier
hashes the stored bytes and never writes a leaf anew.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, cast

import orjson
from typing_extensions import override

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
_WORDS = re.compile(" ".join(["[!-~]{0,256}"] * 8))
"""The open words of an event: printable ASCII without spaces."""
_PLAIN = r"[!#-\[\]-~]{0,256}"
_PLAIN_WORDS = re.compile(" ".join([_PLAIN] * 2 + [_EVENT_ID.pattern] + [_PLAIN] * 5))
"""The same where JSON writes all of them as they are."""


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
    """The parts of a record that are sealed; each is shown without the others."""

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


_NOTHING: Mapping[str, Json] = MappingProxyType({})


class Event(NamedTuple):
    """Something that is about to be recorded; built by keywords.

    What is open in the log (`outcome` to `correlation`) holds words of the
    exchange's own making: no name, no id of a person, no value. Whoever seals it
    refuses one whose parts are not of their form.
    """

    # A named tuple: of all immutable values the cheapest, and a case makes 16.
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
    """At most eight. Events of one append share what is made of them if they share
    this tuple; and so with `actor`."""
    actor: Actor | None = None
    case: CaseId | None = None
    matter: str = ""
    """The matter as `id@version`; "" where there is none."""
    ends: EventId | None = None
    """For `request.ended`, and for it alone: the `request.accepted` that has ended."""
    details: Mapping[str, Json] = _NOTHING
    """More for the section `matter`: requirements, basis, grant, fields. ASCII keys;
    no floats."""
    evidence: Mapping[str, Json] = _NOTHING
    """The section `evidence`: ids and digests. ASCII keys; no floats."""

    @override
    def __repr__(self) -> str:
        # Sections hold ids and values, which no log line and no traceback may show.
        return f"Event(id={self.id!r}, kind={self.kind.value!r})"


@lru_cache(maxsize=256)
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
        commitments: By section in alphabetical order, the HMAC-SHA256 of the section
            under its opening.

    Raises:
        ValueError: A word of the event is not of its form, or the leaf would be
            larger than 16 KiB. The message names the part alone.
    """
    corr, etype, id_, outcome, pol, prov, req, _ = _open_words(event)
    b64 = b2a_base64
    committed = ",".join(
        [
            f'"{name}":"{b64(value, newline=False).decode()}"'
            for name, value in commitments.items()
        ]
    )
    tagged = '","'.join([b64(tag, newline=False).decode() for tag in tags])
    salted = b64(salt, newline=False).decode()
    # The keys in their order, as RFC 8785 sorts them.
    leaf = (
        f'{{"c":{{{committed}}},"corr":"{corr}","etype":"{etype}","id":"{id_}",'
        f'"kind":"{event.kind.value}","log":{_quoted(origin)},"outcome":"{outcome}",'
        f'"pol":"{pol}","prov":"{prov}","req":"{req}","salt":"{salted}",'
        f'"t":"{to_rfc3339_ms(event.at)}","tags":["{tagged}"],"v":1}}'
    ).encode()
    if len(leaf) > LEAF_LIMIT:
        raise ValueError("the leaf is larger than 16 KiB")
    return leaf


def _open_words(event: Event) -> tuple[str, ...]:
    """Return the words of an event as they stand in JSON between quotes, each checked.

    They are those of the leaf in its order, and the matter, which stands beside it.
    """
    words = (
        event.correlation,
        event.evidence_type,
        event.id,
        event.outcome,
        event.policy,
        event.provider,
        event.requester,
        event.matter,
    )
    said = " ".join(words)
    if _PLAIN_WORDS.fullmatch(said):
        return words
    if not _EVENT_ID.fullmatch(event.id):
        raise ValueError("`id` is not a UUID in its 36-character form")
    if not _WORDS.fullmatch(said):
        raise ValueError(
            "`outcome`, `requester`, `provider`, `evidence_type`, `policy`,"
            " `correlation` and `matter` are printable ASCII without spaces,"
            " of at most 256 characters"
        )
    return tuple([canonical_plain(word)[1:-1].decode() for word in words])


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
