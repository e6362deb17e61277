"""S: signatures alone in a loop, made and verified by the product.

The floor is five answers verified and one signature made. A case makes ten: each
look-up is signed, and so is the receipt of each evidence; that is measured as well.
(The tree head is signed once a second, however many cases there are, and is left out.)
"""

import os
import sys
import time
from collections.abc import Callable

import orjson

from audit.note import Signer
from audit.receipt import Receipt, sign_receipt
from bench.asks import ASKS, people
from bench.department import register
from bench.ungoverned import question
from connectors.jose import SigningKey, sign_compact, verify_compact
from connectors.protocol import EVIDENCE_TYPE, LOOKUP_TYPE
from schemas.clock import SystemClock
from schemas.ids import EventId, new_ids

_LOOKUP_BYTES = 700
"""About the size of a look-up's claims."""


def cpu_per_case(seconds: float) -> tuple[float, float]:
    """Return the CPU seconds of the floor, and of all signatures of one case."""
    clock = SystemClock()
    department, gateway = (
        SigningKey.from_seed(bytes(32)),
        SigningKey.from_seed(bytes(32)),
    )
    pinned = (department.pinned(clock.now()),)
    (person,) = people(1)
    tokens = [
        register(ask, department)
        .answer(orjson.dumps(question(ask, person)), clock)
        .decode()
        .partition("~")[0]
        for ask in ASKS
    ]
    signer = Signer("errand.example/bench/log/receipt", bytes(32))
    receipt = Receipt(EventId(new_ids(clock)()), 123_456, bytes(32), 1_767_225_600_000)
    lookup = b"x" * _LOOKUP_BYTES

    def floor() -> None:
        for token in tokens:
            verify_compact(token, EVIDENCE_TYPE, pinned)
        sign_receipt(signer, receipt)

    def whole() -> None:
        for token in tokens:
            sign_compact(lookup, LOOKUP_TYPE, gateway)
            verify_compact(token, EVIDENCE_TYPE, pinned)
            sign_receipt(signer, receipt)

    return _cpu_of(floor, seconds / 2), _cpu_of(whole, seconds / 2)


def _cpu_of(work: Callable[[], None], seconds: float) -> float:
    """Return the CPU seconds that it takes once, repeated for some seconds."""
    count, began, until = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < until:
        work()
        count += 1
    return (time.process_time() - began) / count


def main() -> None:
    """Print both, with a space between them: `python -m bench.signatures SECONDS`."""
    floor, whole = cpu_per_case(float(sys.argv[1]))
    os.write(1, f"{floor!r} {whole!r}\n".encode())


if __name__ == "__main__":
    main()
