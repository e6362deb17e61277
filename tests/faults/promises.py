"""What has to hold whatever happened: a sound log, and every receipt proves."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from audit.keys import LogKeys
from audit.receipt import prove_event, verify_proof, verify_receipt
from audit.verify import Verified, verify_log
from tests.audit.examples import an_event, open_room


def check_as_it_is(folder: Path, keys: LogKeys, receipts: Sequence[bytes]) -> Verified:
    """Verify a log as it was left, and that every receipt is kept.

    Raises:
        VerificationError: Something does not hold; the message names it.
    """
    return verify_log(
        folder,
        keys.log.verifier.vkey,
        receipts=receipts,
        receipt_vkey=keys.receipt.verifier.vkey,
    )


def check_goes_on(folder: Path, keys: LogKeys, receipts: Sequence[bytes]) -> Verified:
    """Open a log again, append, publish, and prove every receipt to an outsider.

    Raises:
        VerificationError: Something does not hold; the message names it.
    """
    room = open_room(folder, keys)
    try:
        asyncio.run(room.log.append([an_event(subjects=())]))
        room.publisher.publish()
        with room.reader() as reader:
            for note in receipts:
                receipt = verify_receipt(note, keys.receipt.verifier)
                proof = prove_event(reader, receipt.event, keys.log.verifier)
                entry = reader.entry_of(receipt.event)
                assert proof is not None
                assert entry is not None
                assert proof.index == receipt.index
                verify_proof(proof, entry.leaf, keys.log.verifier)
    finally:
        room.close()
    return check_as_it_is(folder, keys, receipts)
