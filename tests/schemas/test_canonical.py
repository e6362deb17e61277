"""One byte form of JSON, and base64url."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import (
    Json,
    b64url,
    b64url_decode,
    canonical,
    canonical_plain,
    sha256_b64url,
)

ASCII = st.text(st.characters(max_codepoint=127), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(ASCII, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_the_fast_form_is_the_canonical_one_for_plain_values(value: Json) -> None:
    """For values of our own making the two give the same bytes."""
    assert canonical(value) == canonical_plain(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        ({"peach": 1, "péché": 2, "pêche": 3}, '{"peach":1,"péché":2,"pêche":3}'),
        ([1.0, 1e16, 1e-6, -0.0, 1e21], b"[1,10000000000000000,0.000001,0,1e+21]"),
        ({"\U0001f600": 1, "\ufb33": 2}, '{"\U0001f600":1,"\ufb33":2}'),
        ('\u20ac$\x0f\nA\'B"\\\\"/', '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
    ],
)
def test_canonical_json_is_that_of_the_standard(
    value: Json, expected: str | bytes
) -> None:
    """Keys by UTF-16 units, numbers as ECMAScript writes them (RFC 8785, 3.2)."""
    encoded = expected.encode() if isinstance(expected, str) else expected

    assert encoded == canonical(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**53, "\ud800", {"a": [-(2**53)]}]
)
def test_what_has_no_canonical_form_is_refused(value: Json) -> None:
    """NaN, infinities, numbers too large and lone surrogates are ValueErrors."""
    with pytest.raises(ValueError, match=r".+"):
        canonical(value)


@pytest.mark.parametrize("value", [2**53, {1: "a"}, {"a": object()}])
def test_the_fast_form_refuses_what_is_not_plain(value: Json) -> None:
    """A number of 2^53 or more, or no JSON at all, is a TypeError."""
    with pytest.raises(TypeError):
        canonical_plain(value)


@given(st.binary())
def test_base64url_comes_back(data: bytes) -> None:
    """What is encoded is what is decoded, without padding."""
    text = b64url(data)

    assert "=" not in text
    assert data == b64url_decode(text)


@given(st.text("AQgw-_=+/ \n", min_size=1, max_size=6))
def test_one_value_has_one_base64url(text: str) -> None:
    """Only what the encoder makes is taken: no padding, no spare bits."""
    try:
        data = b64url_decode(text)
    except ValueError:
        return

    assert text == b64url(data)


def test_spare_bits_in_base64url_are_refused() -> None:
    """`QR` would be a second text for the byte of `QQ`."""
    assert b"A" == b64url_decode("QQ")
    with pytest.raises(ValueError, match="not base64url"):
        b64url_decode("QR")


def test_a_digest_is_the_sha256_in_base64url() -> None:
    """The digest of the empty text is the published one."""
    expected = b64url(hashlib.sha256(b"").digest())

    assert (
        expected == sha256_b64url(b"") == "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    )
