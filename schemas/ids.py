"""One type for each kind of id, and the only place that makes them.

Ids are UUIDs of version 7 (RFC 9562, section 5.7), so that they sort by time, in
the 36-character form. Nothing about a person ever goes into an id.
"""

import os
from collections.abc import Callable, Iterator
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
    """Return a source of ids that reads `clock` and `entropy`, for any thread."""
    # As `str(uuid7(...))` writes it; but a case makes 26 of them, so the random ends
    # are written a page at a time, and the time once a millisecond.
    ends = _ready if entropy is random_bytes else []
    now, written = clock.now, (-1, "")

    def new_id() -> str:
        nonlocal written
        milliseconds = int(now().timestamp() * 1000)
        instant, time = written  # both at once: another thread may be writing them
        if instant != milliseconds:
            digits = f"{milliseconds:012x}"
            time = f"{digits[:8]}-{digits[8:]}"
            written = (milliseconds, time)
        while True:
            try:
                return time + ends.pop()  # one step: no two threads get the same
            except IndexError:
                ends.extend(_random_ends(entropy(_PAGE)))

    return new_id


_PAGE = 2_560
"""Random bytes drawn at once, ten for each id."""
_ready: list[str] = []
"""Random ends of ids to come, for all of this process; not for what it forks."""
os.register_at_fork(after_in_child=_ready.clear)


def _random_ends(entropy: bytes) -> Iterator[str]:
    """Yield what follows the time in an id, for each ten random bytes."""
    digits = entropy.hex()
    for at in range(0, len(digits), 20):
        one = digits[at : at + 20]
        yield f"-7{one[:3]}-{_VARIANT[one[4]]}{one[5:8]}-{one[8:]}"
