"""Whether a log and its keys belong together, seen by opening what they have locked.

A key of another installation is well-formed: what it would sign is another log's, and
what it would find is nobody. So one stored thing is opened with each, before anything
is signed or sealed.
"""

from audit.keys import SHARD_FILE, LogKeys
from audit.note import open_checkpoint
from audit.record import read_leaf
from audit.sealing import Sealer
from audit.store import Entry, LogReader
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
        SettingsError: A key is another one; it is named.
        LogUnavailableError: The log's server can't be reached.
    """
    head = reader.head()
    if head is not None:
        try:
            open_checkpoint(head.note.encode(), keys.log.verifier)
        except VerificationError:
            raise wrong_key("log.key", "the log's last head is not signed") from None
    size = reader.size()
    entries = list(reader.entries(max(0, size - _LOOKED_AT), size))
    found = {_opens(sealer, entry) for entry in entries}
    if False in found and True not in found:
        raise wrong_key(SHARD_FILE, "the log's last records are not sealed")


def wrong_key(name: str, told: str) -> SettingsError:
    """Return what to raise where a stored thing was not made with a key.

    Args:
        name: The key's file.
        told: What was not made with it.
    """
    return SettingsError(
        f"{told} with this `{name}`: put back the one that belongs to these data; "
        "nothing was recorded"
    )


def _opens(sealer: Sealer, entry: Entry) -> bool | None:
    """Return whether a record's sections open; None where that tells nothing."""
    if not entry.sealed:
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
