"""The gateway's own keys: files in one folder, readable by the gateway alone.

Four Ed25519 keys in PKCS #8 PEM, one for each thing that is signed, so that none can
stand in for another; and two secrets of 32 bytes. Whoever holds a folder's keys is
the gateway: back them up apart from the data.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from connectors.jose import SigningKey
from schemas.canonical import b64url, b64url_decode
from schemas.errors import SettingsError

_SECRET_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

Entropy = Callable[[int], bytes]
"""A source of random bytes: an argument, so that a test decides what is drawn."""


@dataclass(frozen=True, slots=True)
class GatewayKeys:
    """All keys of one gateway."""

    lookup: SigningKey
    """Signs look-ups; departments pin it."""
    token: SigningKey
    """Signs access tokens and consent receipts."""
    receipt: SigningKey
    """Signs the receipts of log records."""
    checkpoint: SigningKey
    """Signs the log's tree heads; witnesses and auditors pin it."""
    master: bytes
    """32 bytes; wraps the keys of cases and makes person references."""
    subjects: bytes
    """32 bytes; the key of the log's subject directory."""


SIGNING_KEYS = ("lookup", "token", "receipt", "checkpoint")
SECRETS = ("master", "subjects")


def open_keys(folder: Path, *, entropy: Entropy | None = None) -> GatewayKeys:
    """Return the keys in `folder`; with `entropy`, make those that are missing.

    Args:
        folder: Holds `lookup.pem`, `token.pem`, `receipt.pem`, `checkpoint.pem`,
            `master.key` and `subjects.key`.
        entropy: Where the bytes of a new key come from; None makes none.

    Raises:
        SettingsError: A file is missing, damaged, or readable by others.
    """
    if entropy is not None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_missing(folder, entropy)
    signing = {
        name: SigningKey.from_pem(_read(folder / f"{name}.pem"))
        for name in SIGNING_KEYS
    }
    secrets = {name: _secret(folder / f"{name}.key") for name in SECRETS}
    return GatewayKeys(
        lookup=signing["lookup"],
        token=signing["token"],
        receipt=signing["receipt"],
        checkpoint=signing["checkpoint"],
        master=secrets["master"],
        subjects=secrets["subjects"],
    )


def _make_missing(folder: Path, entropy: Entropy) -> None:
    """Make the keys that are missing, each durable before anything rests on it."""
    for name in SIGNING_KEYS:
        if not (file := folder / f"{name}.pem").exists():
            _create(file, SigningKey.from_seed(entropy(_SECRET_BYTES)).to_pem())
    for name in SECRETS:
        if not (file := folder / f"{name}.key").exists():
            _create(file, b64url(entropy(_SECRET_BYTES)).encode() + b"\n")


def _create(file: Path, content: bytes) -> None:
    """Write a new file whole, for its owner alone.

    It gets its name only when it is complete: a crash leaves no half a key behind.
    """
    unfinished = file.with_suffix(file.suffix + ".new")
    unfinished.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(file: Path) -> bytes:
    """Return a key file's bytes.

    Raises:
        SettingsError: It is missing, or others may read it.
    """
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read()
    except OSError as error:
        raise SettingsError(
            f"key file `{file}`: {error.strerror}; `errand keys make` makes keys"
        ) from error
    if mode & _OTHERS:
        raise SettingsError(f"key file `{file}` is open to others: `chmod 600` it")
    return content


def _secret(file: Path) -> bytes:
    try:
        secret = b64url_decode(_read(file).strip().decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise SettingsError(f"key file `{file}` does not hold 32 bytes in base64url")
    return secret
