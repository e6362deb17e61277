"""`errand audit check`: who holds a receipt finds out alone whether it is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.mirror import mirror
from audit.note import Cosigner, Signer
from audit.objects import FolderObjects
from audit.receipt import Receipt, sign_receipt, verify_receipt
from tests.audit.examples import Room, open_room
from tests.audit.test_accusation import recorded
from tests.harness.commands import Done, errand

LOG_KEEPS = "The log kept its promise"


class Portal:
    """Somebody with a receipt, its proof, and the public keys of the log."""

    def __init__(self, room: Room, folder: Path) -> None:
        self.room, self.folder = room, folder
        for _ in range(4):
            recorded(room)
        note, proof, _, _ = recorded(room)
        recorded(room)
        self.note, self.proof = note, proof
        self.receipt = verify_receipt(note, room.keys.receipt.verifier)
        (folder / "receipt").write_bytes(note)
        (folder / "proof").write_bytes(proof)

    def check(self, *arguments: str | Path, note: bytes | None = None) -> Done:
        """Check a receipt: its own one, or another note."""
        file = self.folder / "receipt"
        if note is not None:
            file = self.folder / "forged"
            file.write_bytes(note)
        return errand(
            *("audit", "check", file, *arguments),
            *("--vkey", self.room.keys.log.verifier.vkey),
            *("--receipt-key", self.room.keys.receipt.verifier.vkey),
        )

    def served(self) -> Path:
        """Return a copy of what everybody may read of the log: no entries."""
        copy = self.folder / "served"
        with self.room.reader() as reader:
            mirror(reader, FolderObjects(copy))
        for bundle in (copy / "tile" / "entries").rglob("*"):
            if bundle.is_file():
                bundle.unlink()
        return copy


@pytest.fixture
def portal(room: Room, tmp_path: Path) -> Portal:
    """Return somebody who was given the receipt of the fifth record of six."""
    return Portal(room, tmp_path)


def test_a_receipt_is_checked_by_whoever_holds_it(portal: Portal) -> None:
    """By its signature alone, by its proof, or by tiles: without a single entry."""
    proof = portal.folder / "proof"
    promised = portal.check("--json")
    proved = portal.check(proof, "--json")
    made = portal.check("--log", portal.served(), "--json")
    told = orjson.dumps(
        {"event": "", "receipt": portal.note.decode(), "proof": portal.proof.decode()}
    )
    answered = portal.check("--json", note=told)

    done = (promised, proved, made, answered)
    assert [0] * 4 == [one.status for one in done], [one.stderr for one in done]
    assert [False, True, True, True] == [one.json["proved"] for one in done]
    assert [(portal.receipt.event, 4)] * 4 == [
        (one.json["event"], one.json["index"]) for one in done
    ]
    assert [5, 6, 5] == [one.json["size"] for one in done[1:]]
    assert LOG_KEEPS in portal.check(proof).stdout
    assert LOG_KEEPS not in portal.check().stdout


FORGED: dict[str, tuple[Callable[[Portal], bytes], str]] = {
    "another key": (
        lambda portal: _signed(portal, Signer(_name(portal), bytes(32))),
        "no signature of a known key",
    ),
    "another key under the same id": (
        lambda portal: portal.note[:-9] + b"AAAAAA==\n",
        "the signature of",
    ),
    "the key of heads": (
        lambda portal: _signed(portal, portal.room.keys.log),
        "no signature of a known key",
    ),
    "another index": (
        lambda portal: portal.note.replace(b"\n4\n", b"\n3\n"),
        "the signature of",
    ),
    "another leaf": (
        lambda portal: _with_line(portal, 3, b"A" * 43 + b"="),
        "the signature of",
    ),
    "another event": (
        lambda portal: _with_line(portal, 1, b"019b9c3a-1234-7000-8000-0123456789ab"),
        "the signature of",
    ),
    "another time": (
        lambda portal: _with_line(portal, 4, b"1"),
        "the signature of",
    ),
    "the name of another log": (
        lambda portal: portal.note.replace(_name(portal).encode(), b"other/receipt"),
        "no signature of a known key",
    ),
    "another log": (
        lambda portal: _signed(portal, Signer("other/receipt", bytes(32))),
        "no signature of a known key",
    ),
}


def _name(portal: Portal) -> str:
    return portal.room.keys.receipt.name


def _signed(portal: Portal, signer: Signer) -> bytes:
    return sign_receipt(signer, portal.receipt).encode()


def _with_line(portal: Portal, at: int, line: bytes) -> bytes:
    lines = portal.note.split(b"\n")
    return b"\n".join([*lines[:at], line, *lines[at + 1 :]])


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_receipt_is_named_and_refused(portal: Portal, forgery: str) -> None:
    """Alone, with the genuine one's proof, and against the log itself."""
    make, why = FORGED[forgery]
    note = make(portal)
    proof, served = portal.folder / "proof", portal.served()
    done = [
        portal.check(*more, note=note) for more in ((), (proof,), ("--log", served))
    ]

    assert note != portal.note
    assert [(1, "")] * 3 == [(one.status, one.stdout) for one in done]
    for one in done:
        assert f"`forged` is no receipt of `{_name(portal)}`: " in one.stderr
        assert why in one.stderr


def test_a_receipt_that_the_log_broke_convicts_it(portal: Portal) -> None:
    """Its own key signed it, and another leaf stands there: under a proof, in tiles."""
    signer = portal.room.keys.receipt
    broken = sign_receipt(signer, replace(portal.receipt, leaf_hash=bytes(32))).encode()
    moved = sign_receipt(signer, replace(portal.receipt, index=3)).encode()
    beyond = sign_receipt(signer, replace(portal.receipt, index=6)).encode()
    proof, log = portal.folder / "proof", ("--log", portal.served())

    for note, more, status, why in (
        (broken, (proof,), 1, "the proof does not show the promised leaf at 4"),
        (broken, log, 1, "the log broke its promise at 4: another leaf stands there"),
        (moved, (proof,), 1, "the proof is of index 4, and the receipt of 3"),
        (moved, log, 1, "the log broke its promise at 3: another leaf stands there"),
        (beyond, log, 2, "the log has published 6 entries"),
    ):
        done = portal.check(*more, note=note)

        assert (status, "") == (done.status, done.stdout)
        assert why in done.stderr


def test_a_proof_that_is_none_proves_nothing(portal: Portal, tmp_path: Path) -> None:
    """A hash left out, another one, or under a head of another log."""
    lines = portal.proof.split(b"\n")
    folder = tmp_path / "other"
    folder.mkdir()
    other = open_room(folder)
    _, foreign, _, _ = recorded(other)
    other.close()
    for proof, why in (
        (b"\n".join([*lines[:2], *lines[3:]]), "does not show the promised leaf"),
        (portal.proof.replace(lines[2], b"A" * 43 + b"="), "does not show the"),
        (portal.proof.replace(b"index 4", b"index 3"), "the proof is of index 3"),
        (foreign, "no signature of a known key"),
    ):
        (portal.folder / "bad").write_bytes(proof)
        done = portal.check(portal.folder / "bad")

        assert proof != portal.proof
        assert (1, "") == (done.status, done.stdout)
        assert why in done.stderr


NO_RECEIPTS: dict[str, Callable[[Portal], bytes]] = {
    "another file": lambda _: b"# A document\n\nIt says something.\n",
    "nothing": lambda _: b"",
    "bytes": lambda _: bytes(range(256)),
    "its proof": lambda portal: portal.proof,
    "cut": lambda portal: portal.note[:-9],
    "a note of something else": lambda portal: portal.room.keys.receipt.sign(
        "a note\n"
    ).encode(),
}


@pytest.mark.parametrize("kind", NO_RECEIPTS)
def test_a_file_that_is_no_receipt_says_nothing_of_the_log(
    portal: Portal, kind: str
) -> None:
    """Nothing could be verified: the file is named, and the status is 2."""
    done = portal.check(note=NO_RECEIPTS[kind](portal))

    assert (2, "") == (done.status, done.stdout)
    assert "`forged` is no receipt: " in done.stderr


@given(end=st.integers(0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_proof_that_was_cut_is_no_proof(portal: Portal, end: int) -> None:
    """Wherever it ends, neither the log nor the receipt is blamed."""
    (portal.folder / "cut").write_bytes(portal.proof[: end % len(portal.proof)])
    done = portal.check(portal.folder / "cut")

    assert (2, "") == (done.status, done.stdout)
    assert "`cut` is no proof: " in done.stderr


def test_files_and_keys_that_changed_places_are_named(portal: Portal) -> None:
    """A receipt is no proof, and the log's key signs no receipts."""
    receipt, proof = portal.folder / "receipt", portal.folder / "proof"
    log = portal.room.keys.log.verifier.vkey
    other = Signer("other/receipt", bytes(32)).verifier.vkey
    receipts = portal.room.keys.receipt.verifier.vkey
    check = ("audit", "check")
    swapped = errand(*check, proof, receipt, "--vkey", log, "--receipt-key", receipts)
    keys = errand(*check, receipt, "--vkey", receipts, "--receipt-key", log)
    foreign = errand(*check, receipt, "--vkey", log, "--receipt-key", other)
    no_proof = portal.check(receipt)

    done = (swapped, keys, foreign, no_proof)
    assert [(2, "")] * 4 == [(one.status, one.stdout) for one in done]
    assert "`proof` is no receipt: " in swapped.stderr
    assert "`--vkey` and `--receipt-key` are swapped" in keys.stderr
    assert "is named" in foreign.stderr
    assert "`receipt` is no proof: " in no_proof.stderr


def test_a_policy_demands_cosignatures_of_a_proof(portal: Portal) -> None:
    """Which a proof without witnesses lacks; without a proof it demands nothing."""
    witness = Cosigner("audit.example/witness", bytes(32)).verifier.vkey
    policy = portal.folder / "policy"
    log = portal.room.keys.log.verifier.vkey
    policy.write_text(f"log {log}\nwitness audit {witness}\nquorum audit\n")
    demand, proof = ("--policy", policy), portal.folder / "proof"
    short, alone = portal.check(proof, *demand), portal.check(*demand)
    policy.write_text(f"log {log}\nquorum none\n")
    enough = portal.check(proof, *demand)

    assert (1, 2, 0) == (short.status, alone.status, enough.status)
    assert "too few witnesses have cosigned" in short.stderr
    assert "who cosigned is said of a proof" in alone.stderr


def test_a_receipt_of_a_receipt_key_says_what_was_promised(portal: Portal) -> None:
    """Event, index and leaf hash are those that were signed."""
    found = portal.check("--json").json
    event, index = found["event"], found["index"]
    receipt = Receipt(event, index, portal.receipt.leaf_hash, found["at_ms"])

    assert portal.receipt == receipt
    assert found["leaf_hash"] in portal.note.decode()
