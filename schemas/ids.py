"""One type for each kind of id, and the only place that makes them.

Ids are UUIDs of version 7 (RFC 9562, section 5.7), so that they sort by time, in
the 36-character form. Nothing about a person ever goes into an id.
"""

from collections.abc import Callable
from datetime import datetime
from typing import NewType
from uuid import UUID

from schemas.clock import Clock
from schemas.entropy import random_bytes

CaseId = NewType("CaseId", str)
"""One run of a matter for real people."""
KeyId = NewType("KeyId", str)
"""The key of one case: made before the case, which names it."""
LookupId = NewType("LookupId", str)
"""One question to one data service; a retry is a look-up of its own."""
EventId = NewType("EventId", str)
"""One record of the access log."""
ConsentId = NewType("ConsentId", str)
MandateId = NewType("MandateId", str)
DueId = NewType("DueId", str)
"""One row of work that waits."""
EvidenceId = NewType("EvidenceId", str)
"""SHA-256 of the issuer-signed JWT, base64url without padding."""

NewId = Callable[[], str]
"""A source of fresh ids: an argument wherever ids are needed."""


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit of the variant (RFC 9562, section 4.1), by the random one it stands for."""


def uuid7(now: datetime, entropy: bytes) -> UUID:
    """Return the UUID of version 7 for an instant and 10 random bytes.

    SOURCE: RFC 9562, section 5.7.

    Raises:
        ValueError: `entropy` is not 10 bytes long.
    """
    if len(entropy) != 10:  # noqa: PLR2004 - 74 random bits and 6 that are overwritten
        raise ValueError("a version 7 UUID takes 10 random bytes")
    milliseconds = int(now.timestamp() * 1000)
    random_bits = int.from_bytes(entropy, "big")
    rand_a = random_bits >> 68
    rand_b = random_bits & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)


def new_ids(clock: Clock, entropy: Callable[[int], bytes] = random_bytes) -> NewId:
    """Return a source of ids that reads `clock` and `entropy`."""

    def new_id() -> str:
        # As `str(uuid7(...))` writes it, digit by digit: a case makes 26 of them.
        time = f"{int(clock.now().timestamp() * 1000):012x}"
        rest = entropy(10).hex()
        head = f"{time[:8]}-{time[8:]}-7{rest[:3]}"
        return f"{head}-{_VARIANT[rest[4]]}{rest[5:8]}-{rest[8:]}"

    return new_id
