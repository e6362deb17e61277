"""Signed notes, their keys, and checkpoints: how the log speaks to outsiders.

SOURCE: C2SP signed-note and tlog-checkpoint. A note is a text and signature lines;
a checkpoint is a note whose text is the log's origin, its size and its root. What
these parsers take is exactly what the formats allow: strictness is the security.
"""

import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from audit.merkle import HASH_SIZE
from schemas.errors import VerificationError

NOTE_LIMIT = 1_000_000
"""Largest note that is read, in bytes."""
SIGNATURE_LIMIT = 100
"""Most signature lines that are read in one note; the format demands 16 at least."""
SIZE_LIMIT = 1 << 63
"""Sizes stay below this."""

ED25519 = 0x01
"""Signature type: Ed25519 over the text of the note."""
COSIGNATURE = 0x04
"""Signature type: a witness's Ed25519 over the time and the text (cosignature/v1)."""

_KEY_SIZE = 32
_KEY_ID_SIZE = 4
_TIME_SIZE = 8
_SIGNATURE_SIZE = 64
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[^\s+]{1,255}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DASH = "\u2014 "


def b64(data: bytes) -> str:
    """Return `data` in standard base64 with padding, the alphabet of notes."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def b64_decode(text: str) -> bytes:
    """Return the bytes of standard base64 with padding, in its one form.

    Raises:
        VerificationError: It is not that.
    """
    try:
        data = binascii.a2b_base64(text)
    except ValueError:
        raise VerificationError("not base64") from None
    # The decoder is lenient; that there is one text for each value is checked here.
    if b64(data) != text:
        raise VerificationError("not base64 in its one form")
    return data


def decimal(text: str) -> int:
    """Return a size or an index: decimal, without sign or leading zeros.

    Raises:
        VerificationError: It is not that, or not below 2^63.
    """
    if not _DECIMAL.fullmatch(text) or int(text) >= SIZE_LIMIT:
        raise VerificationError("not a decimal number without leading zeros")
    return int(text)


def _verify_ed25519(key: bytes, text: bytes, signature: bytes) -> None:
    """Raise InvalidSignature unless the signature of type 0x01 holds."""
    Ed25519PublicKey.from_public_bytes(key).verify(signature, text)


def cosigned_message(text: bytes, unix_s: int) -> bytes:
    """Return what a witness signs (C2SP tlog-cosignature, Ed25519)."""
    return b"cosignature/v1\ntime %d\n%b" % (unix_s, text)


def _verify_cosignature(key: bytes, text: bytes, signature: bytes) -> None:
    """Raise InvalidSignature unless the signature of type 0x04 holds."""
    unix_s = int.from_bytes(signature[:_TIME_SIZE], "big")
    if len(signature) != _TIME_SIZE + _SIGNATURE_SIZE or unix_s >= SIZE_LIMIT:
        raise InvalidSignature
    message = cosigned_message(text, unix_s)
    Ed25519PublicKey.from_public_bytes(key).verify(signature[_TIME_SIZE:], message)


_TYPES: Mapping[int, tuple[int, Callable[[bytes, bytes, bytes], None]]] = {
    ED25519: (_KEY_SIZE, _verify_ed25519),
    COSIGNATURE: (_KEY_SIZE, _verify_cosignature),
}
"""Signature types that are understood: size of the key in bytes, and how to verify.
The list moves with the specifications, so it is data."""


def _key_id(name: str, typed_key: bytes) -> bytes:
    """Return the first four bytes of the hash over a key's name, type and value."""
    digest = hashlib.sha256(name.encode() + b"\n" + typed_key).digest()
    return digest[:_KEY_ID_SIZE]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A key that signatures of a note are checked with."""

    name: str
    type: int
    """Signature type, such as `ED25519`."""
    key: bytes = field(repr=False)
    """The public key, raw."""

    @property
    def key_id(self) -> bytes:
        """Four bytes that, with the name, say which key signed."""
        return _key_id(self.name, bytes([self.type]) + self.key)

    @property
    def vkey(self) -> str:
        """The key as a line: name, key id in hex, and type and key in base64."""
        typed = bytes([self.type]) + self.key
        return f"{self.name}+{self.key_id.hex()}+{b64(typed)}"

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify a signature over the text of a note.

        Raises:
            VerificationError: It does not hold.
        """
        try:
            _TYPES[self.type][1](self.key, text, signature)
        except (InvalidSignature, ValueError):
            raise VerificationError(
                f"the signature of `{self.name}` does not hold"
            ) from None


def parse_vkey(line: str) -> Verifier:
    """Return the verifier that a vkey describes.

    Raises:
        VerificationError: It is malformed, of an unknown type, or its key id is not
            that of its name and key.
    """
    parts = line.split("+", 2)  # the base64 may hold a plus of its own
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):  # noqa: PLR2004 - name, id, key
        raise VerificationError("malformed vkey")
    typed = b64_decode(parts[2])
    if not typed or typed[0] not in _TYPES or len(typed) != 1 + _TYPES[typed[0]][0]:
        raise VerificationError("malformed vkey")
    verifier = Verifier(parts[0], typed[0], typed[1:])
    if parts[1] != verifier.key_id.hex():
        raise VerificationError("the vkey's id is not that of its name and key")
    return verifier


class Signer:
    """An Ed25519 key that signs notes under a name."""

    def __init__(self, name: str, seed: bytes) -> None:
        if not _NAME.fullmatch(name) or len(seed) != _KEY_SIZE:
            raise ValueError("a signer takes a name without spaces and a 32-byte seed")
        self._seed = seed
        public, self._key = crypto_sign_seed_keypair(seed)
        self.verifier = Verifier(name, ED25519, public)
        """The public half."""
        self.name = name
        """The name under which it signs."""
        self._key_id = self.verifier.key_id

    @property
    def skey(self) -> str:
        """The private key as a line, in the form that Go's sumdb uses."""
        return _private_line(self.verifier, self._seed)

    def sign(self, text: str) -> str:
        """Return the note with this text and one signature.

        Raises:
            ValueError: The text is not that of a note: it must end with a newline
                and hold no control characters.
        """
        if not text.endswith("\n") or _CONTROL.search(text):
            raise ValueError("a note's text ends with a newline, without controls")
        # The signature stands before what it signs.
        signature = crypto_sign(text.encode(), self._key)[:_SIGNATURE_SIZE]
        return f"{text}\n{_DASH}{self.name} {b64(self._key_id + signature)}\n"


def parse_skey(line: str) -> Signer:
    """Return the signer that a private key line describes.

    Raises:
        VerificationError: It is malformed, or its key id is not its own.
    """
    name, seed, key_id = _parse_private(line, ED25519)
    signer = Signer(name, seed)
    _check_own(signer.verifier, key_id)
    return signer


def _parse_private(line: str, kind: int) -> tuple[str, bytes, str]:
    """Return the name, the seed and the key id of a private key line."""
    parts = line.split("+", 4)
    if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:  # noqa: PLR2004 - the form's fields
        raise VerificationError("malformed private key")
    typed = b64_decode(parts[4])
    if len(typed) != 1 + _KEY_SIZE or typed[0] != kind:
        raise VerificationError("malformed private key")
    if not _NAME.fullmatch(parts[2]):
        raise VerificationError("malformed private key")
    return parts[2], typed[1:], parts[3]


def _check_own(verifier: Verifier, key_id: str) -> None:
    """Refuse the id of a private key line that its key does not have."""
    if verifier.key_id.hex() != key_id:
        raise VerificationError("the private key's id is not its own")


def _private_line(verifier: Verifier, seed: bytes) -> str:
    """Return a private key as a line: the kind of its public half, and the seed."""
    typed = b64(bytes([verifier.type]) + seed)
    return f"PRIVATE+KEY+{verifier.name}+{verifier.key_id.hex()}+{typed}"


class Cosigner:
    """A witness's Ed25519 key: it signs a checkpoint's text together with the time."""

    def __init__(self, name: str, seed: bytes) -> None:
        # One key for one name: the message does not say who cosigned.
        signer = Signer(name, seed)
        self.verifier = Verifier(name, COSIGNATURE, signer.verifier.key)
        """The public half."""
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @property
    def skey(self) -> str:
        """The private key as a line."""
        return _private_line(self.verifier, self._seed)

    def cosign(self, text: str, unix_s: int) -> str:
        """Return the signature line over a checkpoint's text at a time."""
        signature = self._key.sign(cosigned_message(text.encode(), unix_s))
        value = self.verifier.key_id + unix_s.to_bytes(_TIME_SIZE, "big") + signature
        return f"{_DASH}{self.verifier.name} {b64(value)}\n"


def parse_cosigner(line: str) -> Cosigner:
    """Return the cosigner that a private key line describes.

    Raises:
        VerificationError: It is malformed, or its key id is not its own.
    """
    name, seed, key_id = _parse_private(line, COSIGNATURE)
    cosigner = Cosigner(name, seed)
    _check_own(cosigner.verifier, key_id)
    return cosigner


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    value: bytes
    """The signature without the key id."""


def signature_line(signature: Signature) -> str:
    """Return a signature as the line of a note."""
    return f"{_DASH}{signature.name} {b64(signature.key_id + signature.value)}\n"


def cosigned_at(signature: Signature) -> int:
    """Return when a cosignature was made, in seconds since 1970."""
    return int.from_bytes(signature.value[:_TIME_SIZE], "big")


@dataclass(frozen=True, slots=True)
class Note:
    """A note of which at least one signature was verified."""

    text: str
    """What was signed, with its final newline."""
    verified: tuple[Signature, ...]
    """Signatures of the keys that were asked for."""


def open_note(data: bytes, verifiers: Sequence[Verifier]) -> Note:
    """Return a note after checking each signature of a known key; others say nothing.

    Raises:
        VerificationError: The note is malformed, a known key's signature does not
            hold, or no known key has signed.
    """
    text, lines = _split_note(data)
    known = {(key.name, key.key_id): key for key in verifiers}
    if len(known) != len(verifiers):
        raise VerificationError("two verifiers share a name and a key id")
    verified: dict[tuple[str, bytes], Signature] = {}
    for signature in map(_parse_signature, lines):
        who = (signature.name, signature.key_id)
        if who in known and who not in verified:
            known[who].verify(text, signature.value)
            verified[who] = signature
    if not verified:
        raise VerificationError("the note has no signature of a known key")
    return Note(text.decode(), tuple(verified.values()))


def text_of(data: bytes) -> str:
    """Return the text of a note that has the form of one; no signature is verified.

    Raises:
        VerificationError: It is no note.
    """
    text, lines = _split_note(data)
    for line in lines:
        _parse_signature(line)
    return text.decode()


def _split_note(data: bytes) -> tuple[bytes, list[str]]:
    """Return the text and the signature lines of a note, both checked for form."""
    if len(data) > NOTE_LIMIT:
        raise VerificationError("the note is too large")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise VerificationError("the note is not UTF-8") from None
    if _CONTROL.search(whole):
        raise VerificationError("the note holds a control character")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise VerificationError("malformed note")
    lines = signatures[:-1].split("\n")
    if len(lines) > SIGNATURE_LIMIT:
        raise VerificationError("the note has too many signatures")
    return (text + "\n").encode(), lines


def _parse_signature(line: str) -> Signature:
    """Return the signature that a line holds."""
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not _NAME.fullmatch(name):
        raise VerificationError("malformed signature line")
    value = b64_decode(encoded)
    if len(value) <= _KEY_ID_SIZE:
        raise VerificationError("malformed signature line")
    return Signature(name, value[:_KEY_ID_SIZE], value[_KEY_ID_SIZE:])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: what its signed note says."""

    origin: str
    """The log's name: an address without a scheme."""
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text that is signed."""
        lines = (self.origin, str(self.size), b64(self.root), *self.extensions)
        return "\n".join(lines) + "\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint that the text of a note holds.

    Raises:
        VerificationError: It is no checkpoint.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):  # noqa: PLR2004 - three lines and the end
        raise VerificationError("malformed checkpoint")
    root = b64_decode(lines[2])
    if len(root) != HASH_SIZE:
        raise VerificationError("the checkpoint's root is not 32 bytes long")
    return Checkpoint(lines[0], decimal(lines[1]), root, tuple(lines[3:-1]))


@lru_cache(maxsize=4)
def open_checkpoint(data: bytes, verifier: Verifier) -> Checkpoint:
    """Return a checkpoint that the log with this key has signed.

    Between two heads each proof has the same one: what held then holds now.

    Raises:
        VerificationError: It is malformed, not signed with the key, or of another
            origin than the key's name.
    """
    checkpoint = parse_checkpoint(open_note(data, (verifier,)).text)
    if checkpoint.origin != verifier.name:
        raise VerificationError("the checkpoint is of another origin than its key")
    return checkpoint
