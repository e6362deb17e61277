"""The two sides of the record: the departments' own logs, and the exchange's.

A look-up names the record that it rests on, by event, index and leaf hash; a
department keeps the look-up as it was signed. So each log proves the other: what a
department was asked must be in the exchange's log, at that place, with that hash.
"""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import orjson

from audit.keys import LogKeys
from audit.record import Kind, read_leaf
from audit.sql import Place as LogPlace
from audit.store import LogReader
from connectors.department.log import Entry, read_log, verify_log
from connectors.protocol import LookupClaims
from exchange.demo.departments import Place
from exchange.demo.report import LogReport
from schemas.canonical import b64url_decode
from schemas.errors import VerificationError
from schemas.ids import EventId

_VERIFY_S = 60.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the departments' logs say of the exchange's."""

    asked: int
    """Look-ups that the departments answered or refused."""
    chains_hold: bool
    """Whether every department's own hash chain holds."""
    unproved: int
    """Look-ups whose record is not in the exchange's log, or is another."""


def compare(places: Mapping[str, Place], log: LogPlace) -> Comparison:
    """Hold each department's log against the exchange's, or a copy of it."""
    asked = unproved = 0
    chains_hold = True
    with closing(LogReader.open(log)) as reader:
        for provider, place in places.items():
            try:
                verify_log(place.log)
            except VerificationError:
                chains_hold = False
            for entry in read_log(place.log):
                asked += 1
                unproved += not _is_proved(reader, provider, entry)
    return Comparison(asked, chains_hold, unproved)


def _is_proved(reader: LogReader, provider: str, asked: Entry) -> bool:
    """Tell whether the record that a look-up names is in the log, and says the same."""
    intent = claims_of(asked).intent
    entry = reader.entry_of(EventId(intent.event))
    if entry is None or entry.seq != intent.index:
        return False
    leaf = read_leaf(entry.leaf)
    return (
        entry.leaf_hash == b64url_decode(intent.leaf_hash)
        and leaf.kind is Kind.REQUEST_ACCEPTED
        and (leaf.provider, leaf.evidence_type, leaf.requester)
        == (provider, asked.evidence_type, asked.requester)
    )


def claims_of(entry: Entry) -> LookupClaims:
    """Return the claims of a look-up as the department kept it."""
    payload = b64url_decode(entry.lookup_jws.split(".")[1])
    return LookupClaims.model_validate_json(payload)


def verify_offline(
    log: str, keys: LogKeys, receipts: Mapping[str, str], folder: Path
) -> LogReport:
    """Verify a log in another process: it has the log, receipts, public keys.

    Args:
        log: The copy's file, or the URL of its database.
        keys: The log's keys, of which the public halves are handed over.
        receipts: The receipts that were given out and must be kept, by event.
        folder: A new folder in which the receipts are laid beside the copy.
    """
    folder.mkdir()
    for event, note in receipts.items():
        (folder / event).write_text(note, encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - a command of our own
        [
            *(sys.executable, "-m", "exchange", "audit", "verify", log),
            *("--key", keys.log.verifier.vkey),
            *("--receipt-key", keys.receipt.verifier.vkey),
            *(part for f in folder.iterdir() for part in ("--receipt", str(f))),
            "--json",
        ],
        capture_output=True,
        check=False,
        timeout=_VERIFY_S,
    )
    found = orjson.loads(done.stdout) if done.returncode == 0 else {}
    return LogReport(
        records=found.get("records", 0),
        verified=found.get("verified", False),
        receipts=found.get("receipts", 0),
    )
