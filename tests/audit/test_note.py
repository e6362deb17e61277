"""Notes and checkpoints: the published values, and everything that is not a note."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from audit.note import (
    Checkpoint,
    Cosigner,
    Signer,
    Verifier,
    b64,
    b64_decode,
    decimal,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_cosigner,
    parse_skey,
    parse_vkey,
)
from schemas.errors import VerificationError

# Values of the tests of golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SIGNS = (
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
)
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER_LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ov"
    "TG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
NOTE = f"{TEXT}\n{PETER_LINE}"
SIGNER = Signer("log.example/1", bytes(range(32)))
COSIGNER = Cosigner("w.example/witness", b"w" * 32)
ROOT = bytes(range(32))


def keys(*vkeys: str) -> list[Verifier]:
    """Return the verifiers of some vkeys."""
    return [parse_vkey(vkey) for vkey in vkeys]


def test_the_published_key_signs_the_published_note() -> None:
    """Our signer makes the very bytes that the Go implementation made."""
    signer = parse_skey(PETER_SIGNS)

    assert PETER == signer.verifier.vkey
    assert PETER_SIGNS == signer.skey
    assert NOTE == signer.sign(TEXT)


def test_signatures_are_told_apart_by_key() -> None:
    """Known keys are verified, unknown ones and duplicates dropped."""
    data = f"{TEXT}\n{PETER_LINE}{PETER_LINE}{ENOCH_LINE}".encode()
    one = open_note(data, keys(PETER))
    both = open_note(data, keys(PETER, ENOCH))

    assert TEXT == one.text
    assert ["PeterNeumann"] == [signature.name for signature in one.verified]
    assert ["PeterNeumann", "EnochRoot"] == [one.name for one in both.verified]


def test_a_blank_line_inside_the_text_belongs_to_it() -> None:
    """The last blank line parts text and signatures, as in the format's example."""
    text = "Ed è subito sera\n\n\nzweimal\n"
    note = open_note(SIGNER.sign(text).encode(), [SIGNER.verifier])

    assert text == note.text


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        TEXT + "\n",
        NOTE[:-1],
        NOTE.replace("\n", "\r\n"),
        "\x01" + NOTE,
        NOTE.replace("think", "think\t"),
        f"{TEXT}\n{PETER_LINE}Unexpected line.\n",
        NOTE + "\n",
        NOTE.replace("PeterNeumann", "Peter Neumann"),
        NOTE.replace("PeterNeumann", "Peter+Neumann"),
        NOTE.replace("PeterNeumann", "Peter\u00a0Neumann"),
        NOTE.replace("\u2014 PeterNeumann", "\u2014  "),
        NOTE.replace("\u2014", "-"),
        NOTE.replace("x08g", "x08-"),
        NOTE.replace("nAM=", "nAM"),
        NOTE.replace("nAM=", "nAN="),
        f"{TEXT}\n\u2014 PeterNeumann x08goA==\n",
        f"{TEXT}\n{PETER_LINE * 101}",
        f"{TEXT}\n{PETER_LINE}{ENOCH_LINE * 100}",
        f"{TEXT}\n{PETER_LINE}\r\n",
        f"{TEXT[:-1]}\r\n\n{PETER_LINE}",
        f"{TEXT}{PETER_LINE}",
        f"{TEXT}\n{ENOCH_LINE}",
        NOTE.replace("problem", "Problem"),
    ],
)
def test_what_is_not_a_note_of_this_key_is_refused(note: str) -> None:
    """Each way to be almost a note is refused as a whole."""
    with pytest.raises(VerificationError):
        open_note(note.encode(), keys(PETER))


def test_bytes_that_are_no_text_are_refused() -> None:
    """A note is UTF-8, and not larger than the limit."""
    with pytest.raises(VerificationError, match="UTF-8"):
        open_note(b"\xff" + NOTE.encode(), keys(PETER))
    with pytest.raises(VerificationError, match="too large"):
        open_note(b"x" * 1_000_001, keys(PETER))


def test_two_verifiers_of_one_name_and_id_are_refused() -> None:
    """An ambiguous list of keys is an error of the caller."""
    with pytest.raises(VerificationError, match="share"):
        open_note(NOTE.encode(), keys(PETER, PETER))


@pytest.mark.parametrize("vkey", [PETER, COSIGNER.verifier.vkey])
def test_every_part_of_a_vkey_is_needed(vkey: str) -> None:
    """Every substring of a vkey and every changed byte is refused, a witness's too."""
    data = vkey.encode()
    parts = [
        data[start:end].decode()
        for start in range(len(data) + 1)
        for end in range(start, len(data) + 1)
        if (start, end) != (0, len(data))
    ]
    changed = [
        (data[:at] + bytes([data[at] + 1]) + data[at + 1 :]).decode()
        for at in range(len(data))
    ]

    assert vkey == parse_vkey(vkey).vkey
    for other in parts + changed:
        with pytest.raises(VerificationError):
            parse_vkey(other)


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER + "\n",
    ],
)
def test_a_vkey_of_another_size_or_type_is_refused(vkey: str) -> None:
    """A wrong length or algorithm is refused, even with its id adjusted."""
    with pytest.raises(VerificationError):
        parse_vkey(vkey)


@pytest.mark.parametrize(
    ("skey", "parse"), [(PETER_SIGNS, parse_skey), (COSIGNER.skey, parse_cosigner)]
)
def test_every_part_of_a_private_key_is_needed(
    skey: str, parse: Callable[[str], Signer | Cosigner]
) -> None:
    """Every changed byte and every cut of a private key line is refused."""
    data = skey.encode()

    assert skey == parse(skey).skey
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] + 1]) + data[at + 1 :]
        for line in (changed, data[:at], data[at + 1 :]):
            with pytest.raises(VerificationError):
                parse(line.decode())


@pytest.mark.parametrize("text", ["no newline", "a\tb\n", "a\r\n", ""])
def test_only_a_text_that_is_one_is_signed(text: str) -> None:
    """A signer refuses what a verifier would refuse."""
    with pytest.raises(ValueError, match="ends with a newline"):
        SIGNER.sign(text)


def test_one_known_signature_that_does_not_hold_is_one_too_many() -> None:
    """A good one beside it saves nothing."""
    wrong = ENOCH_LINE.replace("TG01", "TG02")

    assert 2 == len(
        open_note(f"{NOTE}{ENOCH_LINE}".encode(), keys(PETER, ENOCH)).verified
    )
    with pytest.raises(VerificationError):
        open_note(f"{NOTE}{wrong}".encode(), keys(PETER, ENOCH))


@pytest.mark.parametrize("control", [c for c in map(chr, range(32)) if c != "\n"])
def test_a_signature_saves_no_text_with_controls(control: str) -> None:
    """What a key has signed all the same is no note."""
    text = f"a{control}b\n"
    _, secret = crypto_sign_seed_keypair(bytes(range(32)))
    signature = crypto_sign(text.encode(), secret)[:64]
    signed = b64(SIGNER.verifier.key_id + signature)

    with pytest.raises(VerificationError, match="control"):
        open_note(
            f"{text}\n\u2014 {SIGNER.name} {signed}\n".encode(), [SIGNER.verifier]
        )


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])), st.binary(max_size=90))
def test_what_is_signed_can_be_opened(line: str, other: bytes) -> None:
    """Any text without control characters survives, and no other text passes."""
    text = f"{line}\n"
    note = SIGNER.sign(text)

    assert text == open_note(note.encode(), [SIGNER.verifier]).text
    with pytest.raises(VerificationError):
        open_note(b"x" + other + note.encode(), [SIGNER.verifier])


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_survives_being_written(size: int, root: bytes) -> None:
    """A signed checkpoint opens as what it was."""
    checkpoint = Checkpoint(SIGNER.name, size, root, ("extension",))
    note = SIGNER.sign(checkpoint.text)

    assert checkpoint == open_checkpoint(note.encode(), SIGNER.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "log\n1\n",
        f"log\n01\n{b64(ROOT)}\n",
        f"log\n-1\n{b64(ROOT)}\n",
        f"log\n+1\n{b64(ROOT)}\n",
        f"log\n 1\n{b64(ROOT)}\n",
        f"log\n\u0661\n{b64(ROOT)}\n",
        f"log\n{2**63}\n{b64(ROOT)}\n",
        f"log\n1\n{b64(ROOT[1:])}\n",
        f"log\n1\n{b64(ROOT)}x\n",
        f"log\n1\n{b64(ROOT)}",
        f"log\n1\n{b64(ROOT)}\nextension",
        f"\n1\n{b64(ROOT)}\n",
        f"log\n1\n{b64(ROOT)}\n\n",
        f"log\n1\n{b64(ROOT)}\nextension\n\n",
    ],
)
def test_what_is_almost_a_checkpoint_is_refused(text: str) -> None:
    """Leading zeros, signs, short roots and blank lines are refused."""
    with pytest.raises(VerificationError):
        parse_checkpoint(text)


def test_a_checkpoint_of_another_origin_is_refused() -> None:
    """A key signs for its own log alone."""
    note = SIGNER.sign(Checkpoint("other.example/log", 1, ROOT).text)

    with pytest.raises(VerificationError, match="another origin"):
        open_checkpoint(note.encode(), SIGNER.verifier)


@pytest.mark.parametrize("text", ["A", "AB==", "A===", " AA==", "AA==\n", "_-A=", "é"])
def test_base64_has_one_form(text: str) -> None:
    """Bits to spare, white space and the other alphabet are refused."""
    with pytest.raises(VerificationError):
        b64_decode(text)


@pytest.mark.parametrize("text", ["", "00", "1 ", "1e3", "0x1", str(2**63)])
def test_numbers_have_one_form(text: str) -> None:
    """A size is decimal digits without leading zeros, below 2^63."""
    with pytest.raises(VerificationError):
        decimal(text)
