"""The gateway's own keys: files in one folder, readable by the gateway alone.

One key for each thing that is signed, so that none can stand in for another:
`lookup.pem` and `token.pem` (Ed25519, PKCS #8), the log's keys in `log/` (see
`audit.keys`), and `master.key`, 32 bytes that wrap the keys of cases. Whoever holds
the folder is the gateway: back it up apart from the data.
"""

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from audit.keys import KEY_FILES, LogKeys, load_keys, make_keys, save_keys, sync_folder
from connectors.jose import SigningKey
from schemas.canonical import b64url, b64url_decode
from schemas.errors import SettingsError

_LOOKUP_FILE, _TOKEN_FILE, _MASTER_FILE = "lookup.pem", "token.pem", "master.key"
SECRET_BYTES = 32
"""Bytes of a secret that a key is made from."""
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
    master: bytes = field(repr=False)
    """32 bytes; wraps the keys of cases and makes person references."""
    log: LogKeys
    """Signs tree heads and receipts, and guards the people in the log."""


def open_keys(
    folder: Path, origin: str, *, entropy: Entropy | None, shard: str = ""
) -> GatewayKeys:
    """Return the keys in `folder`; with `entropy`, make those that are missing.

    Args:
        folder: Where they are.
        origin: The log's name, which its keys carry.
        entropy: Where the bytes of a new key come from; None makes none.
        shard: The log's shard, whose keys these are; "" for the first.

    Raises:
        SettingsError: A file is missing, damaged, readable by others, or of a log
            with another name.
    """
    if entropy is not None and not shard:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_missing(folder, origin, entropy)
    keys = GatewayKeys(
        lookup=signing_key(folder / _LOOKUP_FILE),
        token=signing_key(folder / _TOKEN_FILE),
        master=_secret(folder / _MASTER_FILE),
        log=load_keys(shard_keys(folder, shard)),
    )
    if keys.log.origin != origin:
        raise SettingsError(
            f"the log's keys are of `{keys.log.origin}`: set `log_origin` to that"
        )
    return keys


def shard_keys(folder: Path, shard: str) -> Path:
    """Return where the keys of a shard are; "" stands for the first."""
    return folder / "shards" / shard if shard else folder / "log"


def missing_keys(folder: Path, shard: str) -> list[str]:
    """Return the files that a gateway's keys folder lacks, by their paths in it."""
    names = [_LOOKUP_FILE, _TOKEN_FILE, _MASTER_FILE]
    log = shard_keys(Path(), shard)
    names += [str(log / name) for name in KEY_FILES]
    return [name for name in names if not (folder / name).is_file()]


def open_shard_keys(
    folder: Path, shard: str, origin: str, before: LogKeys, entropy: Entropy
) -> LogKeys:
    """Return the keys of the next shard, made where they are missing.

    Args:
        folder: Where the gateway's keys are.
        shard: The next shard's name.
        origin: Its log's name.
        before: The keys of the shard before: people stay who they are.
        entropy: Where the bytes of a new key come from.

    Raises:
        SettingsError: A file is damaged, readable by others, or of another log.
    """
    place = shard_keys(folder, shard)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = replace(make_keys(origin, entropy), directory=before.directory)
        unfinished = place.with_name(f"{shard}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        save_keys(fresh, unfinished)
        unfinished.rename(place)
        sync_folder(place.parent)
    keys = load_keys(place)
    if keys.origin != origin:
        raise SettingsError(f"the keys of shard `{shard}` are of `{keys.origin}`")
    return keys


def _make_missing(folder: Path, origin: str, entropy: Entropy) -> None:
    """Make the keys that are missing, each durable before anything rests on it."""
    for name in (_LOOKUP_FILE, _TOKEN_FILE):
        if not (file := folder / name).exists():
            create_file(file, SigningKey.from_seed(entropy(SECRET_BYTES)).to_pem())
    if not (file := folder / _MASTER_FILE).exists():
        create_file(file, b64url(entropy(SECRET_BYTES)).encode() + b"\n")
    if not (log := folder / "log").exists():
        # Under its name only when complete: a crash leaves no half a set behind.
        unfinished = folder / "log.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        save_keys(make_keys(origin, entropy), unfinished)
        unfinished.rename(log)
        sync_folder(folder)


def create_file(file: Path, content: bytes) -> None:
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
    sync_folder(file.parent)


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


def signing_key(file: Path) -> SigningKey:
    """Return the key in a file.

    Raises:
        SettingsError: It is missing, damaged, or others may read it.
    """
    try:
        return SigningKey.from_pem(_read(file))
    except ValueError as error:
        raise SettingsError(f"key file `{file}` {error}") from error


def _secret(file: Path) -> bytes:
    try:
        secret = b64url_decode(_read(file).strip().decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise SettingsError(f"key file `{file}` does not hold 32 bytes in base64url")
    return secret
