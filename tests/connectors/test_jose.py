"""Compact JWS on the hot path: the same as everybody else's, and strict."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OKPKey

from connectors.jose import (
    SigningKey,
    parse_header,
    raw_key,
    sign_compact,
    thumbprint,
    verify_compact,
    was_valid,
)
from schemas.canonical import Json, b64url, canonical
from schemas.errors import SettingsError, VerificationError
from tests.connectors.examples import (
    GATEWAY_KEY,
    LONG_AGO,
    NOW,
    STRANGERS_KEY,
    a_key,
    as_text,
    pinned,
)

PINNED = pinned(GATEWAY_KEY)


def a_token(header: dict[str, Json], payload: bytes = b"{}") -> str:
    """Return a token with any header, signed by the gateway's key."""
    signed = f"{b64url(canonical(header))}.{b64url(payload)}"
    return f"{signed}.{b64url(GATEWAY_KEY.sign(signed.encode()))}"


@given(payload=st.binary(max_size=200))
def test_what_is_signed_here_verifies_in_joserfc(payload: bytes) -> None:
    """A token of ours is an ordinary JWS to the ordinary library."""
    token = sign_compact(payload, "lookup+jwt", GATEWAY_KEY)
    key = OKPKey.import_key(as_text(GATEWAY_KEY.public_jwk()))

    seen = jws.deserialize_compact(token, key, algorithms=["Ed25519"])

    assert payload == seen.payload
    assert "lookup+jwt" == seen.headers()["typ"]


@pytest.mark.parametrize("alg", ["Ed25519", "EdDSA"])
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_what_joserfc_signs_verifies_here(alg: str) -> None:
    """Both names of the algorithm are taken, from the ordinary library's hand."""
    key = OKPKey.import_key(GATEWAY_KEY.to_pem())
    header = {"alg": alg, "kid": GATEWAY_KEY.kid, "typ": "lookup+jwt"}
    token = jws.serialize_compact(header, b"payload", key, algorithms=[alg])

    assert b"payload" == verify_compact(token, "lookup+jwt", PINNED).payload


@given(data=st.data(), payload=st.binary(min_size=1, max_size=60))
def test_a_token_with_any_character_changed_is_refused(
    data: st.DataObject, payload: bytes
) -> None:
    """Not one character of a token can change, not even in spare bits."""
    token = sign_compact(payload, "lookup+jwt", GATEWAY_KEY)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != token[place]))
    changed = token[:place] + other + token[place + 1 :]

    with pytest.raises(VerificationError):
        verify_compact(changed, "lookup+jwt", PINNED)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": GATEWAY_KEY.kid, "typ": "lookup+jwt"},
        {"alg": "HS256", "kid": GATEWAY_KEY.kid, "typ": "lookup+jwt"},
        {"alg": "Ed25519", "kid": GATEWAY_KEY.kid, "typ": "evidence+sd-jwt"},
        {"alg": "Ed25519", "kid": "another", "typ": "lookup+jwt"},
        {"alg": "Ed25519", "kid": 7, "typ": "lookup+jwt"},
        {"alg": "Ed25519", "typ": "lookup+jwt"},
        {
            "alg": "Ed25519",
            "kid": GATEWAY_KEY.kid,
            "typ": "lookup+jwt",
            "crit": ["b64"],
            "b64": False,
        },
    ],
)
def test_a_header_of_another_kind_is_refused(header: dict[str, Json]) -> None:
    """Algorithm, type and key are pinned, and nothing critical is passed over."""
    with pytest.raises(VerificationError):
        verify_compact(a_token(header), "lookup+jwt", PINNED)


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c.d", "e30..", "*.e30.e30"])
def test_what_is_no_token_is_refused(text: str) -> None:
    """Text that is no compact JWS ends in one kind of error."""
    with pytest.raises(VerificationError):
        verify_compact(text, "lookup+jwt", PINNED)


def test_a_header_without_end_is_refused_unread() -> None:
    """The header is bounded before it is decoded."""
    with pytest.raises(VerificationError, match="too long"):
        parse_header("A" * 1025)


def test_a_header_with_a_member_twice_is_refused() -> None:
    """Of two algorithms or keys, none is chosen (RFC 7515, section 4)."""
    head = b'{"typ":"x","typ":"lookup+jwt","alg":"Ed25519","kid":"k"}'

    with pytest.raises(VerificationError, match="protected header"):
        parse_header(b64url(head))


def test_a_stranger_with_the_right_kid_is_refused() -> None:
    """The name of a key proves nothing."""
    impostor = SigningKey.from_seed(b"\x07" * 32, GATEWAY_KEY.kid)
    token = sign_compact(b"{}", "lookup+jwt", impostor)

    with pytest.raises(VerificationError, match="does not hold"):
        verify_compact(token, "lookup+jwt", PINNED)


def test_a_pinned_key_under_a_wrong_thumbprint_is_refused() -> None:
    """The thumbprint is the pin, and the key must be its key."""
    wrong = PINNED[0].model_copy(update={"thumbprint": STRANGERS_KEY.kid})

    with pytest.raises(VerificationError, match="thumbprint"):
        raw_key(wrong)


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    """The published example of RFC 8037, appendix A.3, comes out."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"

    assert "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" == thumbprint(x)


@given(seed=st.binary(min_size=32, max_size=32))
def test_a_key_comes_back_from_its_pem(seed: bytes) -> None:
    """Writing a key and reading it again is the same key."""
    key = SigningKey.from_seed(seed)

    assert key == SigningKey.from_pem(key.to_pem())


@pytest.mark.parametrize("content", [b"", b"not a key", bytes(40)])
def test_a_file_without_key_is_a_wrong_setting(tmp_path: Path, content: bytes) -> None:
    """What is not a key is named by its path."""
    path = tmp_path / "key.pem"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"key\.pem` holds no Ed25519 private key"):
        SigningKey.from_file(path)


def test_a_missing_key_file_is_a_wrong_setting(tmp_path: Path) -> None:
    """A path that leads nowhere is named too."""
    with pytest.raises(SettingsError, match="No such file"):
        SigningKey.from_file(tmp_path / "none.pem")


def test_a_key_does_not_show_its_secret() -> None:
    """Whoever logs a key by mistake logs its name."""
    key = a_key("shown by mistake")

    assert "_secret" not in repr(key)


def test_a_key_signs_until_the_instant_it_ends() -> None:
    """The first instant of a validity is in it, its end is not."""
    key = PINNED[0].model_copy(update={"valid_from": NOW, "valid_until": NOW})
    longer = key.model_copy(update={"valid_until": NOW + timedelta(seconds=1)})

    assert not was_valid(key, NOW)
    assert was_valid(longer, NOW)
    assert not was_valid(longer, LONG_AGO)
