"""The department's own key, and what it signs."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from connectors.jose import SigningKey
from connectors.protocol import (
    EvidenceClaims,
    LookupClaims,
    seal_evidence,
    subject_digest,
)
from schemas.canonical import b64url, b64url_decode
from schemas.errors import SettingsError

_OWNER_ONLY = 0o600
_TOKEN_ID_BYTES = 16


def generate_key(
    path: Path, entropy: Callable[[int], bytes] = os.urandom
) -> SigningKey:
    """Make a key, write it to `path` as PEM that only its owner may read; return it.

    Raises:
        SettingsError: The file exists already, or can't be written.
    """
    key = SigningKey.from_seed(entropy(32))
    try:
        # Exclusive: a key that may have signed is never written over.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except OSError as error:
        raise SettingsError(f"key file `{path}`: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(key.to_pem())
        file.flush()
        os.fsync(file.fileno())
    return key


def jwks(key: SigningKey) -> dict[str, JsonValue]:
    """Return the public key as a JWK Set (RFC 7517)."""
    return {"keys": [key.public_jwk()]}


@dataclass(frozen=True, slots=True)
class Statement:
    """What the register says about one record, before it is signed."""

    keys: Mapping[str, str]
    """The keys as the register has them."""
    as_of: datetime
    values: Mapping[str, JsonValue] | None
    """The fields asked for; None in verify mode."""
    match: bool | None
    """Whether the stated facts agree; None in retrieve mode."""


def sign_statement(
    statement: Statement,
    lookup: LookupClaims,
    key: SigningKey,
    now: datetime,
    entropy: Callable[[int], bytes],
) -> str:
    """Return the statement as the signed answer to `lookup`, an SD-JWT."""
    claims = EvidenceClaims(
        iss=lookup.aud,
        aud=lookup.requester,
        jti=b64url(entropy(_TOKEN_ID_BYTES)),
        iat=int(now.timestamp()),
        lookup=lookup.jti,
        evidence_type=lookup.evidence_type,
        # Of the register's keys, not of the ones in the look-up: if another record
        # was found, the gateway must see it.
        subject=subject_digest(b64url_decode(lookup.subject_salt), statement.keys),
        as_of=statement.as_of,
        match=statement.match,
    )
    return seal_evidence(claims, statement.values, key, entropy)
