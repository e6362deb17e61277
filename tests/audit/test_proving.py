"""Proofs from the pieces that a log serves, and one record with its sections."""

import asyncio
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.keys import save_keys
from audit.merkle import verify_consistency
from audit.note import b64_decode, open_checkpoint
from audit.proving import open_tree, prove_growth, prove_index
from audit.receipt import parse_proof, verify_proof
from schemas.errors import NotFoundError, VerificationError
from tests.audit.examples import Room, an_event, some_evidence
from tests.audit.test_fsck import LOG, VKEY, a_log
from tests.audit.test_verify_served import export
from tests.harness.commands import errand

SIZE = 66_000
SIZES = (1, 2, 255, 256, 257, 65_535, 65_536, 65_537)


@cache
def served() -> dict[str, bytes]:
    """Return what a log of `SIZE` entries serves."""
    return a_log(SIZE)


@cache
def root_of(size: int) -> bytes:
    """Return the root that was signed at a size."""
    return open_checkpoint(a_log(size)["checkpoint"], LOG.verifier).root


@given(st.integers(0, SIZE - 1) | st.sampled_from([0, 255, 256, 65_535, 65_536]))
def test_every_entry_is_proved_from_tiles_alone(index: int) -> None:
    """Without a look at the entries, which may be for members."""
    tiles = {path: one for path, one in served().items() if "entries" not in path}
    proof = prove_index(open_tree(tiles.get, LOG.verifier), index)
    told = parse_proof(proof.as_text())

    assert SIZE == verify_proof(told, str(index).encode(), LOG.verifier).size
    with pytest.raises(VerificationError):
        verify_proof(told, str(index + 1).encode(), LOG.verifier)


@given(st.lists(st.sampled_from(SIZES), min_size=2, max_size=2).map(sorted))
def test_any_two_trees_of_a_log_are_proved_to_continue(sizes: list[int]) -> None:
    """The roots are those that were signed at these sizes."""
    size1, size2 = sizes
    found = prove_growth(open_tree(served().get, LOG.verifier), size1, size2)

    assert (root_of(size1), root_of(size2)) == (found.root1, found.root2)
    verify_consistency(size1, size2, found.hashes, root_of(size1), root_of(size2))


@pytest.mark.parametrize("path", ["tile/0/001", "tile/1/000", "tile/2/000.p/1"])
def test_no_proof_leaves_that_would_be_refused(path: str) -> None:
    """One flipped bit in a tile that the proof needs, and there is none."""
    flipped = bytes([served()[path][0] ^ 1]) + served()[path][1:]
    tree = open_tree({**served(), path: flipped}.get, LOG.verifier)

    with pytest.raises(VerificationError):
        prove_index(tree, 65_900 if path == "tile/2/000.p/1" else 300)
    with pytest.raises(VerificationError):
        prove_growth(tree, 257, 65_537)


def test_what_is_not_published_has_no_proof() -> None:
    """Nor has a tree of more than there is, of nothing, or one that shrinks."""
    tree = open_tree(served().get, LOG.verifier)

    with pytest.raises(NotFoundError):
        prove_index(tree, SIZE)
    for sizes in ((0, 1), (2, 1), (1, SIZE + 1)):
        with pytest.raises(NotFoundError):
            prove_growth(tree, *sizes)


def test_the_command_prints_what_verifies(tmp_path: Path) -> None:
    """A `.tlog-proof` by index; hashes, one a line, between two sizes."""
    for path, content in a_log(300).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    prove = ("audit", "prove", tmp_path, "--vkey", VKEY)
    one = errand(*prove, "--index", "7")
    grown = errand(*prove, "--sizes", "2", "257")
    as_json = errand(*prove, "--sizes", "2", "257", "--json")
    both = errand(*prove, "--sizes", "2", "257", "--index", "7")
    beyond = errand(*prove, "--index", "300")
    by_event = errand(*prove, "--event", an_event().id)
    hashes = [b64_decode(line) for line in grown.stdout.splitlines()]

    verify_proof(parse_proof(one.stdout), b"7", LOG.verifier)
    verify_consistency(2, 257, hashes, root_of(2), root_of(257))
    assert grown.stdout.splitlines() == as_json.json["hashes"]
    assert (2, 2, 2) == (both.status, beyond.status, by_event.status)


@pytest.fixture
def recorded(room: Room) -> str:
    """Record and publish some events; return the id of one."""
    event = an_event(evidence=some_evidence())
    asyncio.run(room.log.append([an_event(), event, an_event()]))
    room.publisher.publish()
    return event.id


def test_a_record_of_the_log_itself_is_proved_by_its_event(
    room: Room, recorded: str, tmp_path: Path
) -> None:
    """From the file it is the same proof as from what is served."""
    vkey = ("--vkey", room.keys.log.verifier.vkey)
    served = export(room, tmp_path / "served")
    by_event = errand("audit", "prove", room.folder, *vkey, "--event", recorded)
    by_index = errand("audit", "prove", served, *vkey, "--index", "1")
    unknown = errand("audit", "prove", room.folder, *vkey, "--event", an_event().id)

    assert (0, by_index.stdout) == (by_event.status, by_event.stdout)
    assert 2 == unknown.status


def test_a_record_is_shown_to_each_audience_as_far_as_it_may_see(
    room: Room, recorded: str, tmp_path: Path
) -> None:
    """With the log's keys; without them the leaf alone."""
    save_keys(room.keys, tmp_path / "keys")
    show = ("audit", "show", recorded, "--log", room.folder)
    bare = errand(*show)
    auditor = errand(*show, "--keys", tmp_path / "keys")
    citizen = errand(*show, "--keys", tmp_path / "keys", "--audience", "citizen")
    unknown = errand("audit", "show", an_event().id, "--log", room.folder)
    incomplete = errand("audit", "show", recorded)

    assert (1, {}) == (bare.json["index"], bare.json["sections"])
    assert recorded == bare.json["leaf"]["id"]
    assert {"subject", "actor", "matter", "evidence"} == set(auditor.json["sections"])
    assert {"subject", "matter"} == set(citizen.json["sections"])
    assert some_evidence() == auditor.json["sections"]["evidence"]
    assert (2, 2) == (unknown.status, incomplete.status)
