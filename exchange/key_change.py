"""Changing the gateway's signing keys: prepared, pinned by others, then changed.

Beside the keys, `next/` holds a key that was prepared, and `older/` the public parts of
those that were changed, as pins: what they have signed verifies for good.
"""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from audit.keys import sync_folder
from connectors.jose import SigningKey
from exchange.keys import SECRET_BYTES, Entropy, create_file, signing_key
from schemas.directory import PublicKey
from schemas.errors import SettingsError

_EPOCH = datetime.fromtimestamp(0, UTC)


class Changeable(StrEnum):
    """A key that others know by pins or a list: one that can be another tomorrow.

    People in the log and the keys of cases rest on the others.
    """

    LOOKUP = "lookup"
    TOKEN = "token"  # noqa: S105 - the name of a key


def prepare_key(folder: Path, which: Changeable, entropy: Entropy) -> SigningKey:
    """Return the key that will come next, made where none is prepared.

    Args:
        folder: The gateway's keys.
        which: The one that is to be changed.
        entropy: Where the bytes of a new key come from.

    Raises:
        SettingsError: There are no keys, or the prepared one is damaged.
    """
    signing_key(_present(folder, which))
    file = _prepared(folder, which)
    if not file.exists():
        file.parent.mkdir(exist_ok=True, mode=0o700)
        create_file(file, SigningKey.from_seed(entropy(SECRET_BYTES)).to_pem())
    return signing_key(file)


def change_key(folder: Path, which: Changeable, now: datetime) -> SigningKey:
    """Put the prepared key in the place of the present one, and return it.

    (1) Keep the public part of the present one, until when it signed.
    (2) Replace it: its private part is gone.

    A crash in between leaves the present one in place; the change can be given again.

    Raises:
        SettingsError: None is prepared, or a file is damaged.
    """
    file = _prepared(folder, which)
    if not file.exists():
        raise SettingsError(
            f"no key is prepared: `errand keys prepare {which}` makes one"
        )
    key, present = signing_key(file), signing_key(_present(folder, which))
    pin = present.pinned(_EPOCH).model_copy(update={"valid_until": now})
    older = folder / "older" / f"{which}-{pin.thumbprint}.json"
    older.parent.mkdir(exist_ok=True, mode=0o700)
    if not older.exists():  # (1)
        create_file(older, pin.model_dump_json().encode() + b"\n")
    file.replace(_present(folder, which))  # (2)
    sync_folder(folder)
    return key


def older_keys(folder: Path, which: Changeable) -> tuple[PublicKey, ...]:
    """Return the public parts of keys that were changed, each with when.

    Raises:
        SettingsError: A file is damaged.
    """
    return tuple(
        _pin(file) for file in sorted(folder.joinpath("older").glob(f"{which}-*.json"))
    )


def _pin(file: Path) -> PublicKey:
    try:
        return PublicKey.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise SettingsError(f"key file `{file}` is no public key") from None


def _present(folder: Path, which: Changeable) -> Path:
    return folder / f"{which}.pem"


def _prepared(folder: Path, which: Changeable) -> Path:
    return folder / "next" / f"{which}.pem"
