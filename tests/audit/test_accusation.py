"""Two signed notes that contradict each other convict a log; two that agree do not."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.accusation import ProvedLeaf, Statement, contradiction, read_statements
from audit.merkle import leaf_hash
from audit.note import Checkpoint, Signer, b64
from audit.receipt import Receipt, prove_event, sign_receipt
from audit.record import Event
from audit.shards import HandedOn, Lost, final_event, open_handing_on
from audit.store import LogReader
from schemas.errors import VerificationError
from schemas.ids import EventId
from tests.audit.examples import NOW, Room, an_event, an_id, open_room

A, B = EventId(an_id()), EventId(an_id())
HASHES = (bytes(32), b"\x01" * 32)

receipts = st.builds(
    Receipt,
    st.sampled_from((A, B)),
    st.integers(0, 1),
    st.sampled_from(HASHES),
    st.just(0),
)
proved = st.builds(
    ProvedLeaf,
    st.integers(0, 1),
    st.sampled_from(HASHES),
    st.sampled_from((A, B, None)),
    st.sampled_from((None, None, "one")),
)
following = st.builds(
    HandedOn,
    st.just(Lost(Checkpoint("log", 1, HASHES[0]), Checkpoint("log", 2, HASHES[1]))),
    st.sampled_from(("one", "other")),
    st.sampled_from(("note", "")),
)
heads = st.builds(
    Checkpoint, st.just("log"), st.integers(1, 2), st.sampled_from(HASHES)
)


@given(st.lists(receipts | proved | heads | following, max_size=4).map(tuple))
def test_a_log_is_convicted_exactly_when_no_honest_one_could_say_so(
    statements: tuple[Statement, ...],
) -> None:
    """One leaf, event, index, root and next shard for each index, leaf, event, size.

    And nothing after a last record.
    """
    leaves = [one for one in statements if isinstance(one, Receipt | ProvedLeaf)]
    told = [one for one in statements if isinstance(one, Checkpoint)]
    with_event = [one for one in leaves if one.event is not None]
    handed = [one for one in statements if isinstance(one, HandedOn)]
    highest = max(
        [one.index for one in leaves]
        + [one.size - 1 for one in told]
        + [one.lost.left.size - 1 for one in handed],
        default=-1,
    )
    finals = [one for one in leaves if isinstance(one, ProvedLeaf) and one.following]
    goes_on_once = all(
        one.index >= highest
        and all(
            one.index >= other.lost.left.size or one.following == other.vkey
            for other in handed
        )
        for one in finals
    )
    is_honest = goes_on_once and all(
        len({value for key, value in pairs if key == wanted}) <= 1
        for pairs in (
            [(one.index, one.leaf_hash) for one in leaves],
            [(one.index, one.event) for one in with_event],
            [(one.event, one.index) for one in with_event],
            [(one.size, one.root) for one in told],
            [("", one.vkey) for one in handed],
        )
        for wanted, _ in pairs
    )

    assert is_honest == (contradiction(statements) is None)


@pytest.fixture
def twin(tmp_path: Path, room: Room) -> Iterator[Room]:
    """A second log under the keys of the first: what an operator who cheats has."""
    folder = tmp_path / "twin"
    folder.mkdir()
    opened = open_room(folder, room.keys)
    yield opened
    opened.close()


def recorded(
    room: Room, event: Event | None = None
) -> tuple[bytes, bytes, bytes, bytes]:
    """Record and publish an event; return its receipt, proof, leaf and checkpoint."""
    event = event or an_event()
    [place] = asyncio.run(room.log.append([event]))
    room.publisher.publish()
    reader = LogReader.open(room.path)
    proof = prove_event(reader, event.id, room.keys.log.verifier)
    entry = reader.entry_of(event.id)
    reader.close()
    assert proof is not None
    assert entry is not None
    note = room.log.sign(place).encode()
    return note, proof.as_text().encode(), entry.leaf, proof.checkpoint.encode()


def judged(room: Room, notes: list[bytes], leaves: list[bytes]) -> str | None:
    """Return what two notes of a log convict it of."""
    keys, given_leaves = room.keys, iter(leaves)
    log, receipt = keys.log.verifier, keys.receipt.verifier
    return contradiction(
        tuple(
            statement
            for note in notes
            for statement in read_statements(note, log, receipt, given_leaves)
        )
    )


def test_an_honest_log_is_not_accused(room: Room) -> None:
    """Its receipt, its proof and its head all say the same."""
    receipt, proof, leaf, checkpoint = recorded(room)

    assert judged(room, [receipt, proof, checkpoint, receipt], [leaf]) is None


def test_a_log_that_shows_two_histories_is_convicted(room: Room, twin: Room) -> None:
    """By any two notes of which each belongs to another history."""
    receipt, proof, leaf, checkpoint = recorded(room)
    receipt2, proof2, leaf2, checkpoint2 = recorded(twin)

    for notes, leaves, why in (
        ([receipt, proof2], [leaf2], "two leaves at index 0"),
        ([proof, receipt2], [leaf], "two leaves at index 0"),
        ([receipt, receipt2], [], "two leaves at index 0"),
        ([checkpoint, checkpoint2], [], "two heads of size 1"),
        ([checkpoint, proof2], [leaf2], "two heads of size 1"),
    ):
        assert why in str(judged(room, notes, leaves))


def test_what_the_log_did_not_sign_accuses_nobody(room: Room) -> None:
    """A note with another signature, and a proof without its leaf, are refused."""
    receipt, proof, leaf, checkpoint = recorded(room)
    verified = Receipt(A, 0, leaf_hash(leaf), 0)
    forged = sign_receipt(room.keys.log, replace(verified, index=7)).encode()
    for note, leaves in (
        (receipt.replace(b"0\n", b"1\n", 1), []),
        (checkpoint.replace(b"\n1\n", b"\n2\n", 1), []),
        (proof, []),
        (proof, [leaf + b" "]),
        (forged, []),
        (b"", []),
    ):
        with pytest.raises(VerificationError):
            judged(room, [note], leaves)


def handed_on(
    room: Room, name: str, signer: Signer | None = None, *, left: int = 7
) -> bytes:
    """Return the note by which a log that lost records goes on with a shard."""
    log = room.keys.log
    heads = (Checkpoint(log.name, size, bytes(32)) for size in (left, 9))
    shard = Signer(f"{log.name}/{name}", bytes(32)).verifier
    lost, signer = Lost(*heads), signer or log
    note = lost.handing_on(lost.hand_on(signer, shard), signer.verifier, shard.vkey)
    return note.encode()


def test_a_log_that_goes_on_with_two_shards_is_convicted(room: Room) -> None:
    """After a loss it names one; a recovery that is begun again names it again."""
    one, other = handed_on(room, "one"), handed_on(room, "other")
    receipt, proof, leaf, checkpoint = recorded(room)
    found = judged(room, [one, other], [])

    assert found is not None
    assert found.startswith("two shards that go on from it after a loss: ")
    assert all(f"{room.log.origin}/{name}+" in found for name in ("one", "other"))
    assert judged(room, [one, one, receipt, proof, checkpoint], [leaf]) is None


def test_a_log_that_goes_on_after_its_last_record_is_convicted(room: Room) -> None:
    """With another shard than that says, or by itself; unless the record was lost."""
    asyncio.run(room.log.append([an_event()]))
    one = Signer(f"{room.log.origin}/one", bytes(32))
    _, final, leaf, _ = recorded(room, final_event(A, NOW, one))
    later = sign_receipt(room.keys.receipt, Receipt(B, 2, bytes(32), 0)).encode()
    head = room.keys.log.sign(f"{room.log.origin}\n3\n{b64(bytes(32))}\n").encode()

    after = "a last record at index 1, and one at index 2"
    for note, why in (
        (handed_on(room, "other", left=2), f"{one.verifier.vkey}, as its last record"),
        (handed_on(room, "one", left=3), after),
        (later, after),
        (head, after),
        (handed_on(room, "one", left=2), None),
        (handed_on(room, "other", left=1), None),
    ):
        for notes in ([final, note], [note, final]):
            found = judged(room, notes, [leaf])
            assert found is why or (why and found and why in found)


def test_a_next_shard_that_the_log_did_not_sign_accuses_nobody(room: Room) -> None:
    """Another key's word, a changed line, and a note of another form are refused."""
    good, name = handed_on(room, "one"), room.log.origin
    stranger = Signer(name, bytes(32))
    log = room.keys.log
    short = log.sign(f"{name}/recovered\n1\n2\n")
    text = good.decode().partition("\n\n")[0]
    other = log.sign(text.replace("/recovered", "/other", 1) + "\n")
    with pytest.raises(VerificationError, match="malformed handing-on"):
        open_handing_on(other.encode(), log.verifier)
    for note in (
        handed_on(room, "one", stranger),
        handed_on(room, "one", room.keys.receipt),
        good.replace(b"/one+", b"/two+"),
        good.replace(b"\n7#", b"\n8#"),
        good.replace(b"\n9#", b"\n8#"),
        short.encode(),
    ):
        assert note != good
        with pytest.raises(VerificationError):
            judged(room, [note], [])
