"""The keys of a log: made once, kept in a folder apart from the data.

Four files, each readable by its owner alone: `log.key` signs checkpoints,
`receipt.key` signs receipts, `shard.key` takes part in sealing every section of
this shard (destroying it erases the shard), `subjects.key` guards the subject
directory. The first two are in the form of Go's sumdb, so that its tools read them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.note import Signer, b64, b64_decode, parse_skey
from schemas.canonical import b64url_decode
from schemas.errors import SettingsError, VerificationError

SECRET_SIZE = 32
LOG_FILE: Final = "log.key"
RECEIPT_FILE: Final = "receipt.key"
SHARD_FILE: Final = "shard.key"
"""The one whose destruction erases the shard."""
SUBJECTS_FILE: Final = "subjects.key"
KEY_FILES: Final = (LOG_FILE, RECEIPT_FILE, SHARD_FILE, SUBJECTS_FILE)
"""What `save_keys` writes."""

Entropy = Callable[[int], bytes]
"""Gives this many random bytes."""


@dataclass(frozen=True, slots=True)
class DirectoryKeys:
    """What the subject directory is guarded with."""

    blind: bytes = field(repr=False)
    """Turns an id into the key it is found by; 32 bytes."""
    wrapping: bytes = field(repr=False)
    """Wraps the keys of the subjects; 32 bytes."""


@dataclass(frozen=True, slots=True)
class LogKeys:
    """All keys of one log."""

    log: Signer
    """Signs checkpoints; its name is the origin."""
    receipt: Signer
    """Signs receipts; its name is `<origin>/receipt`."""
    shard: bytes = field(repr=False)
    """Takes part in every section key of this shard; 32 bytes."""
    directory: DirectoryKeys

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.log.name


def make_keys(origin: str, entropy: Entropy = os.urandom) -> LogKeys:
    """Return fresh keys for a log of this name."""
    return LogKeys(
        log=Signer(origin, entropy(SECRET_SIZE)),
        receipt=Signer(f"{origin}/receipt", entropy(SECRET_SIZE)),
        shard=entropy(SECRET_SIZE),
        directory=DirectoryKeys(entropy(SECRET_SIZE), entropy(SECRET_SIZE)),
    )


def save_keys(keys: LogKeys, folder: Path) -> None:
    """Write keys to a folder, durably, readable by the owner alone.

    Raises:
        SettingsError: A key file is there already: no key is ever overwritten.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(folder / LOG_FILE, keys.log.skey)
    write_secret(folder / RECEIPT_FILE, keys.receipt.skey)
    write_secret(folder / SHARD_FILE, b64(keys.shard))
    directory = keys.directory
    write_secret(
        folder / SUBJECTS_FILE, f"{b64(directory.blind)}\n{b64(directory.wrapping)}"
    )
    sync_folder(folder)


def load_keys(folder: Path) -> LogKeys:
    """Return the keys that `save_keys` wrote.

    Raises:
        SettingsError: A file is missing, malformed, or readable by others.
    """
    try:
        log = parse_skey(read_secret(folder / LOG_FILE))
        receipt = parse_skey(read_secret(folder / RECEIPT_FILE))
        shard = _secret(read_secret(folder / SHARD_FILE))
        blind, _, wrapping = read_secret(folder / SUBJECTS_FILE).partition("\n")
        directory = DirectoryKeys(_secret(blind), _secret(wrapping))
    except VerificationError as error:
        raise SettingsError(f"a key of the log is malformed: {error}") from None
    if receipt.name != f"{log.name}/receipt":
        raise SettingsError("`receipt.key` is not of the same log as `log.key`")
    return LogKeys(log, receipt, shard, directory)


def sync_folder(folder: Path) -> None:
    """Make the names of new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_secret(path: Path, text: str) -> None:
    """Write a new file that its owner alone may read, durably."""
    with new_secret(path) as write:
        write(text)


@contextmanager
def new_secret(path: Path) -> Iterator[Callable[[str], None]]:
    """Make a new file that its owner alone may read, before there is what goes in.

    Yields what writes it, durably. What ends before that leaves no file.

    Raises:
        SettingsError: There is one already: no key is ever overwritten.
        OSError: It can't be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError(f"`{path.name}` is there already") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:

        def write(text: str) -> None:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

        try:
            yield write
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)


def read_secret(path: Path) -> str:
    """Return the text of a key file without its last newline."""
    try:
        with path.open(encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise SettingsError(f"`{path.name}` may be read by others: chmod 600")
            return file.read().removesuffix("\n")
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"`{path.name}` can't be read") from None


def load_shard_secret(folder: Path) -> bytes:
    """Return the key that takes part in every section key of a shard.

    Raises:
        SettingsError: It can't be read, as when it was destroyed.
    """
    return _secret(read_secret(folder / SHARD_FILE))


def load_signers(folder: Path) -> tuple[Signer, Signer]:
    """Return what signs a shard's checkpoints, and what signs its receipts.

    Raises:
        SettingsError: A file is missing, malformed, or readable by others.
    """
    try:
        log = parse_skey(read_secret(folder / LOG_FILE))
        return log, parse_skey(read_secret(folder / RECEIPT_FILE))
    except VerificationError as error:
        raise SettingsError(f"a key of the log is malformed: {error}") from None


def shred_file(path: Path) -> bool:
    """Overwrite a file and remove it; return whether it was there.

    Whether the disk keeps what was overwritten is the disk's affair, and that of its
    backups.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)
    return True


def read_subject_key(path: Path) -> bytes:
    """Return a subject's key from the file that it was given out in.

    Raises:
        SettingsError: It can't be read, may be read by others, or is no key.
    """
    try:
        key = b64url_decode(read_secret(path))
    except ValueError:
        key = b""
    if len(key) != SECRET_SIZE:
        raise SettingsError(f"`{path.name}` is no subject's key")
    return key


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


def _secret(text: str) -> bytes:
    """Return a 32-byte secret from its base64."""
    secret = b64_decode(text)
    if len(secret) != SECRET_SIZE:
        raise VerificationError("a secret is not 32 bytes long")
    return secret
