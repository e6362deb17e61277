"""Whether a log and its keys belong together, seen by what they have locked and signed.

A key of another installation is well-formed: what it would sign is another log's, and
what it would find is nobody. So one stored thing is opened with each, before anything
is signed or sealed. Of receipts nothing is stored, so the log says itself which key
they verify with.

What is damaged is told as damage: no other key would open it.
"""

from functools import partial

from audit.keys import LOG_FILE, RECEIPT_FILE, SHARD_FILE, LogKeys, wrong_key
from audit.note import Verifier, open_checkpoint, parse_vkey
from audit.record import read_leaf
from audit.sealing import Sealer
from audit.sections import guard
from audit.store import RECEIPTS, Entry, LogReader, note_receipts
from audit.swaps import head_guard
from audit.writer import AuditLog
from schemas.errors import SettingsError, VerificationError

_LOOKED_AT = 8
"""Records of which one is opened: one that is damaged is no sign of a wrong key, and
those about people who were erased can't be opened by anybody."""


def check_log_keys(reader: LogReader, sealer: Sealer, keys: LogKeys) -> None:
    """Verify that the last head was signed, and a last record sealed, with these keys.

    A log without a head, or without a record that can still be opened, shows nothing.

    Args:
        reader: Reads the log.
        sealer: Holds the shard's key, and a directory whose keys were verified.
        keys: Those of the log.

    Raises:
        SettingsError: A key is another one, and named; or the last head is damaged.
        LogUnavailableError: The log's server can't be reached.
    """
    _check_head(reader, keys.log.verifier)
    size = reader.size()
    entries = list(reader.entries(max(0, size - _LOOKED_AT), size))
    found = {_opens(sealer, entry) for entry in entries}
    if False in found and True not in found:
        raise wrong_key(SHARD_FILE, "the log's last records are not sealed")


def take_receipt_key(log: AuditLog, reader: LogReader, verifier: Verifier) -> None:
    """Have a log say which key its receipts verify with, or verify that it is this one.

    A log that does not say it yet, or has no record, takes this one. So all that else
    tells a key of another installation comes first.

    Args:
        log: Nothing was recorded yet since it was opened.
        reader: Reads it.
        verifier: The key's public half.

    Raises:
        SettingsError: Its receipts verify with another key.
        LogUnavailableError: It can't be read, or it could not be stored.
    """
    if reader.meta().get(RECEIPTS) is None or reader.size() == 0:
        log.write(partial(note_receipts, vkey=verifier.vkey)).result()
    check_receipt_key(reader, verifier)


def check_receipt_key(reader: LogReader, verifier: Verifier) -> None:
    """Verify that a log's receipts verify with a key, where it says with which one.

    Raises:
        SettingsError: With another one, or what it says is damaged.
        LogUnavailableError: It can't be read.
    """
    known = reader.meta().get(RECEIPTS, verifier.vkey)
    if known == verifier.vkey:
        return
    try:
        parse_vkey(known)
    except VerificationError:
        raise _damaged(f"`{RECEIPTS}` of the log's `meta`") from None
    origin = reader.meta()["origin"]
    raise wrong_key(RECEIPT_FILE, f"the receipts of `{origin}` are not signed")


def _damaged(what: str) -> SettingsError:
    return SettingsError(
        f"{what} is damaged: restore all of the log from one backup, and run "
        "`errand audit verify`; nothing was recorded"
    )


def _check_head(reader: LogReader, verifier: Verifier) -> None:
    """Verify that the last head was signed with a key; before the first, nothing is."""
    head = reader.head()
    if head is None:
        return
    # First: a head that is not what was written says nothing about any key.
    if head.guard != head_guard(head.size, head.note, head.signed_ms):
        raise _damaged("the log's last head")
    try:
        open_checkpoint(head.note.encode(), verifier)
    except VerificationError:
        raise wrong_key(LOG_FILE, "the log's last head is not signed") from None


def _opens(sealer: Sealer, entry: Entry) -> bool | None:
    """Return whether a record's sections open; None where that tells nothing."""
    if not entry.sealed or entry.sealed_guard != guard(entry.leaf_hash, entry.sealed):
        return None
    try:
        people = [sealer.directory.by_ref(ref) for ref in entry.subject_refs.split()]
    except VerificationError:
        return None  # somebody's row is damaged, and not the shard's key
    if None in people:
        return None
    try:
        committed = read_leaf(entry.leaf).commitments
        sealer.open_sections(
            entry.event_id, entry.subject_refs, entry.sealed, committed
        )
    except VerificationError:
        return False
    return True
