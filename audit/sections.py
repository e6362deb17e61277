"""What stands beside a leaf: its sections, how they are put together, check values.

The sections of a record are sealed as one (`sealing`): first the opening of each, in
the order of their names, then they themselves, with a line feed in between. A byte in
front says which they are.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from zlib import crc32

import orjson

from audit.keyed import mac
from audit.keys import SECRET_SIZE
from audit.record import SECTION_LIMIT, Event, Kind, Section
from audit.subjects import NONCE_SIZE
from schemas.canonical import Json, canonical_plain
from schemas.errors import VerificationError

HEAD_SIZE = 1 + NONCE_SIZE
"""What stands before the ciphertext: which sections there are, and the nonce."""
_TAIL_SIZE = 16
"""AES-GCM's tag."""
_BETWEEN = b"\n"
"""Between two sections: canonical JSON holds no line feed."""
_SECTIONS = tuple(sorted(section.value for section in Section))
"""As a leaf names them, in its order."""
CODES: Mapping[tuple[str, ...], bytes] = {
    names: bytes([sum(1 << _SECTIONS.index(name) for name in names)])
    for count in range(1, len(_SECTIONS) + 1)
    for names in combinations(_SECTIONS, count)
}
"""Every set of sections, and the byte that says which they are."""
_NAMES = {code[0]: list(names) for names, code in CODES.items()}


def sections_of(event: Event, about: bytes, by: bytes) -> dict[str, bytes]:
    """Return the sections that an event needs, as canonical JSON, in their order.

    What ended says no more than how: whom and what it was about, and who acted,
    stands in the record of its beginning, which the correlation leads to.

    Args:
        event: What happened.
        about: The section `subject`, where it is about anybody.
        by: The section `actor`, where anybody acted.
    """
    sections: dict[str, bytes] = {}
    is_end = event.kind is Kind.REQUEST_ENDED
    if by and not is_end:
        sections["actor"] = by
    if event.evidence:
        sections["evidence"] = canonical_plain(event.evidence)
    if event.details or (not is_end and (event.matter or event.case is not None)):
        sections["matter"] = canonical_plain(
            {**event.details, "case": event.case, "matter": event.matter}
        )
    if about and not is_end:
        sections["subject"] = about
    return sections


def join_sections(openings: bytes, sections: Mapping[str, bytes]) -> bytes:
    """Return what is sealed for a record: its openings, and then its sections.

    Raises:
        ValueError: A section is too large.
    """
    joined = _BETWEEN.join(sections.values())
    if len(joined) > SECTION_LIMIT:
        _check_sizes(sections)
    return openings + joined


def _check_sizes(sections: Mapping[str, bytes]) -> None:
    """Refuse a section that is too large."""
    if max(map(len, sections.values())) > SECTION_LIMIT:
        raise ValueError("a section is larger than 65,535 bytes")


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


def split_sections(plain: bytes, count: int) -> list[OpenedSection]:
    """Return so many sections from what was sealed: first their openings, then they."""
    size = count * SECRET_SIZE
    openings = [plain[at : at + SECRET_SIZE] for at in range(0, size, SECRET_SIZE)]
    # No line feed between two of them can be one of their own.
    contents = plain[size:].split(_BETWEEN) if count else []
    return [
        OpenedSection(content, opening)
        for content, opening in zip(contents, openings, strict=True)
    ]


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


def section_names(sealed: bytes) -> Sequence[str]:
    """Return which sections are sealed for a record, by name, in alphabetical order.

    Raises:
        VerificationError: They are cut short, or of no such set.
    """
    if not sealed:
        return []
    names = _NAMES.get(sealed[0], [])
    least = HEAD_SIZE + len(names) * SECRET_SIZE + _TAIL_SIZE
    if not names or len(sealed) < least:
        raise VerificationError("the sealed sections are malformed")
    return names


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
    return guard(digest, private_bytes(case, matter, subjects, actor, ends))


def private_bytes(
    case: str | None, matter: str, subjects: str, actor: str | None, ends: str | None
) -> bytes:
    """Return an entry's private columns as the bytes that are checked."""
    text = f"{case or ''}\x1f{matter}\x1f{subjects}\x1f{actor or ''}\x1f{ends or ''}"
    return text.encode()
