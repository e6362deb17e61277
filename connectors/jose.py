"""Compact JWS with Ed25519, written for the hot path, and the keys for it.

SOURCE: RFC 7515 (compact serialisation), RFC 8037 and RFC 9864 (Ed25519), RFC 7638
(thumbprints). `joserfc` is the ordinary tool and the tests hold the two against each
other; here PyNaCl verifies in 60 % of the time of `cryptography`, and a protected
header that has been seen before is not parsed again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from pydantic import JsonValue

from schemas.canonical import (
    Json,
    b64url,
    b64url_decode,
    canonical_plain,
    check_members,
)
from schemas.directory import PublicKey
from schemas.errors import SettingsError, VerificationError

ALGORITHM = "Ed25519"
ACCEPTED_ALGORITHMS = frozenset({"Ed25519", "EdDSA"})
"""RFC 9864 names the curve; `EdDSA` (RFC 8037) is the old name of the same."""

_MAX_HEADER = 1024  # characters
_KEY_BYTES = 32
_NO_KEY = "holds no Ed25519 private key in PEM (PKCS #8)"
_SIGNATURE_BYTES = 64


def thumbprint(x: str) -> str:
    """Return the SHA-256 thumbprint (RFC 7638) of the Ed25519 key with this `x`."""
    members: Json = {"crv": "Ed25519", "kty": "OKP", "x": x}
    return b64url(hashlib.sha256(canonical_plain(members)).digest())


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key that signs; its name is its thumbprint unless it says another."""

    kid: str
    public: bytes
    """The public key, 32 bytes."""
    _secret: bytes = field(repr=False)
    """Seed and public key, 64 bytes, as libsodium wants it."""

    @classmethod
    def from_seed(cls, seed: bytes, kid: str | None = None) -> Self:
        """Return the key of a 32-byte seed (RFC 8032, 5.1.5).

        Raises:
            ValueError: `seed` is not 32 bytes long.
        """
        if len(seed) != _KEY_BYTES:
            raise ValueError("an Ed25519 seed has 32 bytes")
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(kid or thumbprint(b64url(public)), public, secret)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Return the key of a PKCS #8 PEM without password.

        Raises:
            ValueError: It is not a private Ed25519 key.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError:
            raise ValueError("is locked by a password: give one without") from None
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(_NO_KEY) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(_NO_KEY)  # noqa: TRY004 - a wrong file
        return cls.from_seed(key.private_bytes_raw())

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Return the key in the PEM file at `path`.

        Raises:
            SettingsError: There is no such file, or no Ed25519 key in it.
        """
        try:
            return cls.from_pem(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"key file `{path}`: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"key file `{path}` {error}") from error

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 PEM without password."""
        private = Ed25519PrivateKey.from_private_bytes(self._secret[:_KEY_BYTES])
        return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_jwk(self) -> dict[str, JsonValue]:
        """Return the public key as a JWK with `kid`, `alg` and `use`."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": b64url(self.public),
            "kid": self.kid,
            "alg": ALGORITHM,
            "use": "sig",
        }

    def pinned(self, valid_from: datetime) -> PublicKey:
        """Return the public key as it is pinned elsewhere."""
        x = b64url(self.public)
        return PublicKey(
            jwk=self.public_jwk(), thumbprint=thumbprint(x), valid_from=valid_from
        )

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return crypto_sign(message, self._secret)[:_SIGNATURE_BYTES]


@lru_cache(maxsize=256)
def _protected(kid: str, typ: str) -> str:
    """Return the protected header segment, which is the same for every token."""
    header: Json = {"alg": ALGORITHM, "kid": kid, "typ": typ}
    return b64url(canonical_plain(header))


def sign_compact(payload: bytes, typ: str, key: SigningKey) -> str:
    """Return `payload` as a compact JWS of media type `typ`, signed by `key`."""
    signed = f"{_protected(key.kid, typ)}.{b64url(payload)}"
    return f"{signed}.{b64url(key.sign(signed.encode()))}"


@dataclass(frozen=True, slots=True)
class Header:
    """What a protected header says that matters here."""

    alg: str
    kid: str
    typ: str


@lru_cache(maxsize=1024)
def parse_header(segment: str) -> Header:
    """Return the protected header of a token's first segment.

    Raises:
        VerificationError: It is none, or wants what is not understood (`crit`).
    """
    if len(segment) > _MAX_HEADER:
        raise VerificationError("the protected header is too long")
    try:
        decoded = b64url_decode(segment)
        header = orjson.loads(decoded)
        check_members(decoded)  # RFC 7515, 4: of two, readers would take one or other
        alg, kid, typ = header["alg"], header["kid"], header["typ"]
    except (ValueError, TypeError, KeyError) as error:
        raise VerificationError("not a protected header with alg, kid, typ") from error
    texts = isinstance(alg, str) and isinstance(kid, str) and isinstance(typ, str)
    # RFC 7515, 4.1.11: what is critical and not understood must be refused.
    if not texts or "crit" in header:
        raise VerificationError("the protected header is not one of this protocol")
    return Header(alg, kid, typ.removeprefix("application/").lower())


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a signature covers, and whose it is."""

    payload: bytes
    key: PublicKey
    """The pinned key that verified; whether it was valid then is not yet checked."""


def verify_compact(token: str, typ: str, keys: Sequence[PublicKey]) -> VerifiedToken:
    """Return the payload of a compact JWS that one of `keys` signed.

    (1) The header names `typ`, Ed25519 and one of the keys.
    (2) The signature over the first two segments, as they are, holds.

    Raises:
        VerificationError: Any of this does not hold.
    """
    signed, _, mark = token.rpartition(".")
    head, _, body = signed.partition(".")
    if not body or "." in body:  # header, payload, signature
        raise VerificationError("not a compact JWS")
    key = _signer(parse_header(head), typ, keys)  # (1)
    try:
        check_signature(b64url_decode(mark), signed.encode(), key)  # (2)
        return VerifiedToken(b64url_decode(body), key)
    except ValueError as error:
        raise VerificationError("the signature does not hold") from error


def check_signature(signature: bytes, signed: bytes, key: PublicKey) -> None:
    """Check that a pinned key made `signature` over the whole of `signed`.

    Raises:
        VerificationError: It did not, or the pin is no Ed25519 key.
    """
    # libsodium takes the two in one piece: of another length, a signature would end
    # in the message, or begin it.
    if len(signature) != _SIGNATURE_BYTES:
        raise VerificationError("the signature does not hold")
    try:
        crypto_sign_open(signature + signed, raw_key(key))
    except (BadSignatureError, ValueError) as error:
        raise VerificationError("the signature does not hold") from error


def _signer(header: Header, typ: str, keys: Sequence[PublicKey]) -> PublicKey:
    """Return the pinned key that a header names."""
    if header.typ != typ or header.alg not in ACCEPTED_ALGORITHMS:
        raise VerificationError(f"not a token of type `{typ}` signed with Ed25519")
    for key in keys:
        if key.jwk.get("kid") == header.kid:
            return key
    raise VerificationError("signed by a key that is not pinned")


def raw_key(key: PublicKey) -> bytes:
    """Return the 32 bytes of a pinned key.

    Raises:
        VerificationError: It is not an Ed25519 key, or not that of its thumbprint.
    """
    x, curve = key.jwk.get("x"), key.jwk.get("crv")
    if curve != "Ed25519" or not isinstance(x, str):
        raise VerificationError("a pinned key is not an Ed25519 key")
    return _raw(x, key.thumbprint)


@lru_cache(maxsize=4096)
def _raw(x: str, pinned: str) -> bytes:
    try:
        raw = b64url_decode(x)
    except ValueError as error:
        raise VerificationError("a pinned key is not base64url") from error
    if len(raw) != _KEY_BYTES or thumbprint(x) != pinned:
        raise VerificationError("a pinned key is not that of its thumbprint")
    return raw


def pin_complaint(key: PublicKey) -> tuple[str, str] | None:
    """Return which member of a pin is wrong, as a path, and how; None if it is right.

    Every signature would be refused by such a pin: say so when it is read.
    """
    x, kid = key.jwk.get("x"), key.jwk.get("kid")
    if key.jwk.get("kty") != "OKP" or key.jwk.get("crv") != "Ed25519":
        return "jwk/crv", "is no Ed25519 key (`kty: OKP`, `crv: Ed25519`)"
    if not isinstance(kid, str) or not kid:
        return "jwk/kid", "is missing"
    if not isinstance(x, str) or not _is_raw(x):
        return "jwk/x", "is not 32 bytes in base64url"
    if thumbprint(x) != key.thumbprint:
        return "thumbprint", "is not that of `jwk` (RFC 7638)"
    return None


def _is_raw(x: str) -> bool:
    try:
        return len(b64url_decode(x)) == _KEY_BYTES
    except ValueError:
        return False


def was_valid(key: PublicKey, instant: datetime) -> bool:
    """Tell whether `key` might sign at `instant`."""
    ended = key.valid_until is not None and instant >= key.valid_until
    return key.valid_from <= instant and not ended
