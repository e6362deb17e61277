"""The two sides of the record: the departments' own logs, and the exchange's.

A look-up names the record that it rests on, by event, index and leaf hash; a
department keeps the look-up as it was signed. So each log proves the other: what a
department was asked must be in the exchange's log, at that place, with that hash.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from audit.record import Kind, read_leaf
from audit.store import LogReader, copy_log
from connectors.department.log import Entry, read_log, verify_log
from connectors.protocol import LookupClaims
from exchange.demo.report import LogReport
from exchange.demo.stage import Stage
from schemas.canonical import b64url_decode
from schemas.errors import VerificationError
from schemas.ids import CaseId, EventId

_PUBLISHED_S = 15.0
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


def copy_published(stage: Stage, target: Path) -> Path:
    """Copy the exchange's log once its last record is under a signed tree head.

    Raises:
        TimeoutError: It does not get there in time.
    """
    source = stage.data_dir / "log.db"
    until = time.monotonic() + _PUBLISHED_S
    with closing(LogReader.open(source)) as reader:
        while (head := reader.head()) is None or head.size < reader.size():
            if time.monotonic() > until:
                raise TimeoutError("the log's newest records were not published")
            time.sleep(0.05)
    copy_log(source, target)
    return target


def compare(stage: Stage, log: Path) -> Comparison:
    """Hold each department's log against a copy of the exchange's."""
    asked = unproved = 0
    chains_hold = True
    with closing(LogReader.open(log)) as reader:
        for provider, place in stage.places.items():
            try:
                verify_log(place.log)
            except VerificationError:
                chains_hold = False
            for entry in read_log(place.log):
                asked += 1
                unproved += not _is_proved(reader, provider, entry)
    return Comparison(asked, chains_hold, unproved)


def accepted(log: Path, case: str) -> Iterator[tuple[str, str]]:
    """Yield provider and evidence type of each look-up that a case made."""
    with closing(LogReader.open(log)) as reader:
        for entry in reader.entries(0, reader.size()):
            leaf = read_leaf(entry.leaf)
            is_lookup = leaf.kind is Kind.REQUEST_ACCEPTED
            if is_lookup and entry.case_ref == CaseId(case):
                yield leaf.provider, leaf.evidence_type


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


def verify_offline(log: Path, verifier_key: str) -> LogReport:
    """Verify a copied log in another process, which has the copy and a key, no more."""
    done = subprocess.run(  # noqa: S603 - a command of our own
        [
            *(sys.executable, "-m", "exchange", "audit", "verify", str(log)),
            *("--key", verifier_key),
        ],
        capture_output=True,
        check=False,
        timeout=_VERIFY_S,
    )
    with closing(LogReader.open(log)) as reader:
        return LogReport(reader.size(), verified=done.returncode == 0)
