"""One type for each kind of id, and the only place that makes them.

Ids are UUIDs of version 7 (RFC 9562, section 5.7), so that they sort by time, in
the 36-character form. Nothing about a person ever goes into an id.
"""

import os
from collections.abc import Callable
from datetime import datetime
from typing import NewType
from uuid import UUID

from schemas.clock import Clock

CaseId = NewType("CaseId", str)
"""One run of a matter for real people."""
LookupId = NewType("LookupId", str)
"""One question to one data service; a retry is a look-up of its own."""
EventId = NewType("EventId", str)
"""One record of the access log."""
ConsentId = NewType("ConsentId", str)
DueId = NewType("DueId", str)
"""One row of work that waits."""
EvidenceId = NewType("EvidenceId", str)
"""SHA-256 of the issuer-signed JWT, base64url without padding."""

NewId = Callable[[], str]
"""A source of fresh ids: an argument wherever ids are needed."""


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
    return UUID(
        int=(milliseconds << 80) | (7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
    )


def new_ids(clock: Clock, entropy: Callable[[int], bytes] = os.urandom) -> NewId:
    """Return a source of ids that reads `clock` and `entropy`."""

    def new_id() -> str:
        return str(uuid7(clock.now(), entropy(10)))

    return new_id
