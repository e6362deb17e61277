"""Receipts and proofs: what they say holds, and nothing else passes for them."""

import asyncio
import sqlite3

import pytest

from audit.note import Signer
from audit.receipt import (
    Proof,
    Receipt,
    parse_proof,
    prove_event,
    sign_receipt,
    verify_proof,
    verify_receipt,
)
from schemas.errors import NotFoundError, VerificationError
from schemas.ids import EventId
from tests.audit.examples import Room, an_event, an_id

SIGNER = Signer("log.example/1/receipt", bytes(32))
RECEIPT = Receipt(
    EventId("019b9c3a-1234-7000-8000-0123456789ab"),
    70_000,
    bytes(32),
    1_767_853_800_000,
)


def published(room: Room, count: int = 20) -> list[EventId]:
    """Record and publish some events."""
    events = [an_event() for _ in range(count)]
    asyncio.run(room.log.append(events))
    room.publisher.publish()
    return [event.id for event in events]


def test_a_receipt_has_the_lines_of_its_form() -> None:
    """Name, event, index, leaf hash and milliseconds, and then the signature."""
    note = sign_receipt(SIGNER, RECEIPT)
    expected = (
        "log.example/1/receipt\n019b9c3a-1234-7000-8000-0123456789ab\n70000\n"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n1767853800000\n\n"
    )

    assert note.startswith(expected + "\u2014 log.example/1/receipt ")
    assert RECEIPT == verify_receipt(note.encode(), SIGNER.verifier)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("70000", "70001"),
        ("70000", "070000"),
        ("019b", "119b"),
        ("1767", "1768"),
        ("AAAA", "BAAA"),
        ("log.example/1/receipt\n0", "log.example/2/receipt\n0"),
    ],
)
def test_a_changed_receipt_is_refused(old: str, new: str) -> None:
    """Whatever is changed in a receipt, its signature no longer holds."""
    note = sign_receipt(SIGNER, RECEIPT).replace(old, new, 1)

    with pytest.raises(VerificationError):
        verify_receipt(note.encode(), SIGNER.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "log.example/1/receipt\n",
        f"other\n019b9c3a-1234-7000-8000-0123456789ab\n1\n{'A' * 43}=\n1\n",
        "log.example/1/receipt\n019b9c3a-1234-7000-8000-0123456789ab\n1\nAAAA\n1\n",
        f"log.example/1/receipt\nevent\n1\n{'A' * 43}=\n1\n",
    ],
)
def test_a_signed_text_that_is_no_receipt_is_refused(text: str) -> None:
    """The right key under another text makes no receipt."""
    with pytest.raises(VerificationError):
        verify_receipt(SIGNER.sign(text).encode(), SIGNER.verifier)


def test_every_published_record_can_be_proved_from_text_alone(room: Room) -> None:
    """A proof written, read again and verified with nothing but the log's key."""
    events = published(room)
    verifier = room.keys.log.verifier
    with room.reader() as reader:
        for event in events:
            proof = prove_event(reader, event, room.keys.log.verifier)
            entry = reader.entry_of(event)
            assert proof is not None
            assert entry is not None
            read = parse_proof(proof.as_text())

            assert proof == read
            assert 20 == verify_proof(read, entry.leaf, verifier).size
            assert entry.seq == proof.as_json()["index"]
            with pytest.raises(VerificationError):
                verify_proof(read, entry.leaf + b" ", verifier)


def test_what_is_not_published_has_no_proof_yet(room: Room) -> None:
    """A fresh record has a receipt alone; an unknown one has nothing."""
    published(room)
    event = an_event()
    asyncio.run(room.log.append([event]))
    with room.reader() as reader:
        assert prove_event(reader, event.id, room.keys.log.verifier) is None
        with pytest.raises(NotFoundError):
            prove_event(reader, an_id(), room.keys.log.verifier)


def test_a_proof_that_does_not_hold_is_never_handed_out(room: Room) -> None:
    """The log checks its own proof: a flipped tile is an error, not an answer."""
    [event, *_] = published(room)
    other = sqlite3.connect(room.path, isolation_level=None)
    other.execute("UPDATE tile SET hashes = zeroblob(640)")
    other.close()

    with room.reader() as reader, pytest.raises(VerificationError):
        prove_event(reader, event, room.keys.log.verifier)


def test_a_proof_of_another_key_is_refused(room: Room) -> None:
    """A proof is worth the key it is checked with."""
    [event, *_] = published(room)
    with room.reader() as reader:
        proof, entry = (
            prove_event(reader, event, room.keys.log.verifier),
            reader.entry_of(event),
        )
    assert proof is not None
    assert entry is not None

    with pytest.raises(VerificationError):
        verify_proof(proof, entry.leaf, SIGNER.verifier)


def test_extra_data_of_a_proof_is_read_over() -> None:
    """What nothing authenticates is neither kept nor believed."""
    text = Proof(3, (bytes(32),), "checkpoint").as_text()
    with_extra = text.replace("index", "extra QUJD\nindex")

    assert parse_proof(text) == parse_proof(with_extra)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("index 3", "index 03"),
        ("index 3\n", ""),
        ("index 3", "extra A\nindex 3"),
        ("AAAA", "AAA"),
        ("\n\n", "\n"),
        ("A=\n", "A=\n" + "A" * 43 + "=\n" + ("A" * 43 + "=\n") * 64),
    ],
)
def test_what_is_almost_a_proof_is_refused(old: str, new: str) -> None:
    """Another version, a number of another form, a hash cut short or 66 hashes."""
    text = Proof(3, (bytes(32),), "checkpoint").as_text().replace(old, new, 1)

    with pytest.raises(VerificationError):
        parse_proof(text)
