"""`errand audit`: what auditors get from each command, and its exit status."""

from pathlib import Path

from tests.audit.examples import Room, open_room
from tests.audit.test_accusation import recorded
from tests.harness.commands import errand


def test_a_log_that_shows_two_histories_is_accused(room: Room, tmp_path: Path) -> None:
    """Status 1 and the two contradicting statements; 0 when nothing contradicts."""
    folder = tmp_path / "twin"
    folder.mkdir()
    twin = open_room(folder, room.keys)
    receipt, proof, leaf, _ = recorded(room)
    _, proof2, leaf2, _ = recorded(twin)
    twin.close()
    for name, content in (
        ("receipt", receipt),
        ("proof", proof),
        ("proof2", proof2),
        ("leaf", leaf),
        ("leaf2", leaf2),
    ):
        (tmp_path / name).write_bytes(content)
    keys = (
        *("--key", room.keys.log.verifier.vkey),
        *("--receipt-key", room.keys.receipt.verifier.vkey),
    )
    both = (tmp_path / "receipt", tmp_path / "proof2", "--leaf", tmp_path / "leaf2")
    convicted = errand("audit", "accuse", *both, *keys)
    as_json = errand("audit", "accuse", *both, *keys, "--json")
    one = (tmp_path / "receipt", tmp_path / "proof", "--leaf", tmp_path / "leaf")
    honest = errand("audit", "accuse", *one, *keys)
    leafless = errand("audit", "accuse", *one[:2], *keys)

    assert 1 == convicted.status == as_json.status
    assert "the log has signed two leaves at index 0" in convicted.stdout
    assert as_json.json["contradiction"] in convicted.stdout
    assert (0, "no contradiction\n") == (honest.status, honest.stdout)
    assert 2 == leafless.status
    assert "a proof is worth nothing without its leaf" in leafless.stderr


def test_a_log_is_exported_and_verified_as_files(room: Room, tmp_path: Path) -> None:
    """What is exported verifies with the public key alone."""
    recorded(room)
    target = tmp_path / "served"
    early = errand("audit", "export", tmp_path / "nowhere", target)
    exported = errand("audit", "export", room.folder, target)
    key = room.keys.log.verifier.vkey
    verified = errand("audit", "fsck", target, "--key", key, "--json")

    assert (2, 0, 0) == (early.status, exported.status, verified.status)
    assert "1 entries\n" == exported.stdout
    assert room.log.origin == verified.json["origin"]
