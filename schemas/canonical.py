"""The one byte form of JSON, for hashes and signatures; and base64url for both.

`canonical` is RFC 8785 for any JSON value. `canonical_plain` gives the same bytes
some fifty times faster, for the values that we build ourselves from ASCII keys,
texts, booleans, None, small whole numbers, lists and dicts; a property test holds
the two equal.
"""

import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import orjson
import rfc8785

Json: TypeAlias = (
    str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
)
"""A JSON value, in Python's words: at run time dicts, lists or tuples, and scalars."""

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
"""What is not of the alphabet becomes what the decoder refuses."""
_PADDING = (b"", b"!", b"==", b"=")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST = tuple(map(frozenset, (_ALPHABET, "", _ALPHABET[::16], _ALPHABET[::4])))
"""By length modulo 4, the last characters whose bits to spare are zero."""


def canonical(value: Json) -> bytes:
    """Return the canonical JSON of `value`, in UTF-8.

    SOURCE: RFC 8785 (JSON Canonicalization Scheme).

    Raises:
        ValueError: `value` has no canonical form: it is no JSON value, a whole
            number of 2^53 or more, NaN, an infinity, or text with a lone surrogate.
    """
    try:
        return rfc8785.dumps(value)
    except (RecursionError, UnicodeError) as error:
        raise ValueError("the value has no canonical JSON form") from error


def canonical_plain(value: Json) -> bytes:
    """Return the canonical JSON of a value of our own making, fast.

    Equal to `canonical` for values made of dicts with ASCII keys, lists, text,
    booleans, None and whole numbers below 2^53 in size; not for floats (`1e16`)
    and not for keys beyond ASCII, which the two sort differently.

    Raises:
        TypeError: `value` is no JSON value, or a whole number of 2^53 or more.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)


def b64url(data: bytes) -> str:
    """Return `data` in base64url without padding (RFC 4648, section 5).

    >>> b64url(bytes([251, 255]))
    '-_8'
    """
    standard = binascii.b2a_base64(data, newline=False)
    return standard.translate(_TO_URL, b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Return the bytes of base64url without padding.

    Only the form that `b64url` makes is taken, so that one value has one text.

    Raises:
        ValueError: `text` has padding, white space, another alphabet's characters,
            or bits to spare that are not zero.
    """
    odd = len(text) % 4
    if odd and text[-1] not in _LAST[odd]:
        raise ValueError("not base64url without padding")
    try:
        standard = text.encode("ascii").translate(_FROM_URL) + _PADDING[odd]
        # `binascii.Error`, for another alphabet or an impossible length, is a
        # ValueError, and so is what `encode` raises.
        return binascii.a2b_base64(standard, strict_mode=True)
    except ValueError:
        raise ValueError("not base64url without padding") from None


def sha256_b64url(data: bytes) -> str:
    """Return the SHA-256 digest of `data`, in base64url without padding."""
    return b64url(hashlib.sha256(data).digest())


def check_members(document: bytes) -> None:
    """Check that no object in a JSON document has two members of one name.

    Parsers differ in which of the two they take, so that two readers of one signature
    would read two statements. No value is in the message.

    SOURCE: RFC 7493 (I-JSON), 2.3.

    Raises:
        ValueError: One has, or the document is not JSON.
    """
    try:
        # Numbers stay text: what is not looked at need not fit.
        json.loads(document, object_pairs_hook=_once, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        raise ValueError("not JSON in which each member comes once") from None


def _once(members: list[tuple[str, object]]) -> None:
    if len({name for name, _ in members}) != len(members):
        raise ValueError("a member comes twice")
