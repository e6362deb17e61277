"""The one byte form of JSON, for hashes and signatures; and base64url for both.

`canonical` is RFC 8785 for any JSON value. `canonical_plain` gives the same bytes
some fifty times faster, for the values that we build ourselves from ASCII keys,
texts, booleans, None, small whole numbers, lists and dicts; a property test holds
the two equal.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import orjson
import rfc8785

Json: TypeAlias = (
    str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
)
"""A JSON value, in Python's words: at run time dicts, lists or tuples, and scalars."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


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
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Return the bytes of base64url without padding.

    Only the form that `b64url` makes is taken, so that one value has one text.

    Raises:
        ValueError: `text` has padding, white space, another alphabet's characters,
            or bits to spare that are not zero.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64url without padding")
    # `binascii.Error`, for an impossible length, is a ValueError.
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if b64url(data) != text:
        raise ValueError("not base64url without padding")
    return data


def sha256_b64url(data: bytes) -> str:
    """Return the SHA-256 digest of `data`, in base64url without padding."""
    return b64url(hashlib.sha256(data).digest())
