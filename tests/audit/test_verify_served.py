"""Verifying a log as outsiders see it: whoever wrote it, from wherever it is."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.demands import Demands, Form
from audit.fetching import fetch_from_folder
from audit.merkle import leaf_hash
from audit.mirror import mirror
from audit.note import Checkpoint, Cosigner, b64, b64_decode
from audit.objects import FolderObjects
from audit.policy import parse_policy
from audit.receipt import Receipt, sign_receipt
from audit.resume import load_state
from audit.verify import verify_stored
from audit.verify_served import VerifiedServed, verify_served
from schemas.errors import SettingsError, VerificationError
from tests.audit.examples import Room, an_event, open_room
from tests.audit.test_fsck import LOG, VKEY, a_log, nothing
from tests.audit.test_served import served as serving
from tests.harness.commands import errand

FROZEN = {
    1: "2zQm6HgGjSjSabbIcXIyLOU3K2V1bQeJAB00g19gHAM=",
    2: "ywCYnZSlacCmeK4EK2Pc1GJduWRAUX83put5duok7Us=",
    255: "Mvhbyqh9e80Fco8J6a66NQumovczgwCH8Fl2goSL5cs=",
    256: "goUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE=",
    257: "HtoEmkNR2G92JSvX7At3Rq11t/oDFq1fVB29pFijEsQ=",
    70_000: "Gkzfy2Y3SgwNy+9JrL1JdtE+6GT7PLJB/JQ8rQTwL34=",
}
"""Roots over the leaves `0`, `1`, `2`, ..., computed with golang.org/x/mod as well."""
WITNESS = Cosigner("w.example/witness", b"w" * 32)


def verified(
    served: dict[str, bytes], state: Path | None = None, **demanded: object
) -> VerifiedServed:
    """Verify a log of somebody else."""
    demands = Demands(VKEY, **demanded)  # type: ignore[arg-type] # by name
    return verify_served(served.get, demands, nothing, state_file=state)


@pytest.mark.parametrize("size", FROZEN)
def test_a_log_of_other_leaves_has_the_root_that_others_computed(size: int) -> None:
    """Its entries are any bytes, and nothing is said about them."""
    served = a_log(size)
    served["checkpoint"] = LOG.sign(
        Checkpoint(LOG.name, size, b64_decode(FROZEN[size])).text
    ).encode()
    found = verified(served)

    assert (size, "any", {}) == (found.published, found.form, found.by_kind)
    with pytest.raises(VerificationError, match="entry 0: the leaf"):
        verified(served, form=Form.RECORDS)


def test_a_policy_demands_its_cosignatures() -> None:
    """Without them the log is not verified, however whole it is."""
    served = a_log(3)
    note = served["checkpoint"].decode()
    text = note[: note.rindex("\n\n") + 1]
    cosigned = {**served, "checkpoint": (note + WITNESS.cosign(text, 7)).encode()}
    policy = parse_policy(f"witness w {WITNESS.verifier.vkey}\nquorum w\n")

    assert {"w": 7} == verified(cosigned, policy=policy).cosigned
    with pytest.raises(VerificationError, match="too few witnesses"):
        verified(served, policy=policy)


class Counting:
    """Counts what is fetched, and may break off."""

    def __init__(self, served: dict[str, bytes], most: int = 1 << 30) -> None:
        self.paths: list[str] = []
        self._served = served
        self._most = most

    def __call__(self, path: str) -> bytes | None:
        """Return what is served."""
        if len(self.paths) == self._most:
            raise KeyboardInterrupt
        self.paths.append(path)
        return self._served.get(path)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 1_400), min_size=2, max_size=4).map(sorted))
def test_an_update_costs_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Of what an earlier run verified, only the bundle at the edge is read again."""
    state = tmp_path_factory.mktemp("state") / "state"
    before = 0
    for size in sizes:
        counting = Counting(a_log(size))
        found = verify_served(
            counting, Demands(VKEY, form=Form.ANY), nothing, state_file=state
        )
        bundles = [path for path in counting.paths if "entries" in path]

        assert (size, before) == (found.published, found.since)
        assert -(-size // 256) - before // 256 >= len(bundles)
        before = size


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """It is as far as it was last known to be, and ends with the same result."""
    served, state = a_log(20_000), tmp_path / "state"
    whole = verified(served)
    demands = Demands(VKEY, form=Form.ANY)
    with pytest.raises(KeyboardInterrupt):
        verify_served(Counting(served, 130), demands, nothing, state_file=state)
    broken_off = load_state(state, LOG.verifier, "served, any")
    found = verified(served, state)

    assert broken_off is not None
    assert 0 < broken_off.edge.size == found.since < 20_000
    assert (whole.root, whole.published) == (found.root, found.published)


def test_a_state_convicts_a_log_that_went_back_or_changed(tmp_path: Path) -> None:
    """The head that was seen is signed: less, or another history, contradicts it."""
    state = tmp_path / "state"
    verified(a_log(300), state)
    kept = state.read_bytes()
    other = Checkpoint(LOG.name, 300, bytes(32)).text
    forked = {**a_log(300), "checkpoint": LOG.sign(other).encode()}
    with pytest.raises(VerificationError, match="showed 300 entries before, and 299"):
        verified(a_log(299), state)
    with pytest.raises(VerificationError, match="another root than before"):
        verified(forked, state)

    assert kept == state.read_bytes()
    assert 300 == verified(a_log(700), state).since


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"what"', '"what'),
        ('"size":300', '"size":301'),
        ('"size":300', '"size":44'),
        ('"format":1', '"format":2'),
        ('"tally":{}', '"tally":1'),
        ("served, any", "file"),
        (LOG.name, "other.example"),
    ],
)
def test_a_state_of_something_else_is_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    """Nothing goes on from a file that is damaged, or of another verification."""
    state = tmp_path / "state"
    verified(a_log(300), state)
    text = state.read_text()
    assert old in text
    state.write_text(text.replace(old, new))

    with pytest.raises(SettingsError, match="`state` is"):
        verified(a_log(301), state)


def test_an_edge_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """The log is not accused of what happened to the verifier's own file."""
    state = tmp_path / "state"
    verified(a_log(300), state)
    text = state.read_text()
    edge = b64(leaf_hash(b"256"))[:20]
    assert edge in text
    state.write_text(text.replace(edge, edge[::-1]))

    with pytest.raises(SettingsError, match="`state` is no state"):
        verified(a_log(301), state)


@pytest.fixture
def ours(room: Room, tmp_path: Path) -> Iterator[Path]:
    """A log of this exchange, as files."""
    record(room, 300)
    yield export(room, tmp_path / "served")
    room.close()


def record(room: Room, count: int) -> list[bytes]:
    """Record and publish some events; return their receipts."""
    events = [an_event(subjects=()) for _ in range(count)]
    places = asyncio.run(room.log.append(events))
    room.publisher.publish()
    return [room.log.sign(place).encode() for place in places]


def export(room: Room, folder: Path) -> Path:
    """Write the log's files."""
    with room.reader() as reader:
        mirror(reader, FolderObjects(folder))
    return folder


def test_our_own_log_is_verified_with_its_leaves_form(room: Room, ours: Path) -> None:
    """Its kinds are counted; a leaf of another form is named, though it is signed."""
    fetch = fetch_from_folder(ours)
    demands = Demands(room.keys.log.verifier.vkey)
    found = verify_served(fetch, demands, nothing)

    assert ("records", {"request.accepted": 300}) == (found.form, found.by_kind)
    with pytest.raises(VerificationError, match="entry 0: the leaf"):
        verified(a_log(1), form=Form.RECORDS)


def test_receipts_are_kept_or_convict(room: Room, tmp_path: Path) -> None:
    """A receipt must name the leaf that is served; one beyond the checkpoint can't."""
    receipts = record(room, 3)
    later = asyncio.run(room.log.append([an_event()]))
    fetch = fetch_from_folder(export(room, tmp_path / "served"))
    signer = room.keys.receipt
    broken = sign_receipt(signer, Receipt(an_event().id, 1, bytes(32), 0)).encode()
    vkey, receipt_vkey = room.keys.log.verifier.vkey, signer.verifier.vkey

    def verify(*given: bytes) -> int:
        demands = Demands(vkey, receipts=given, receipt_vkey=receipt_vkey)
        return verify_served(fetch, demands, nothing).receipts

    assert 3 == verify(*receipts)
    with pytest.raises(VerificationError, match="receipt 1: the log broke its promise"):
        verify(receipts[0], broken)
    with pytest.raises(VerificationError, match="does not reach 3 yet"):
        verify(room.log.sign(later[0]).encode())


def test_a_file_is_verified_from_where_it_was(room: Room, tmp_path: Path) -> None:
    """Records that were not published then are read again; all counts add up."""
    state = tmp_path / "state"
    demands = Demands(room.keys.log.verifier.vkey)
    record(room, 4_000)
    asyncio.run(room.log.append([an_event() for _ in range(7)]))
    first = verify_stored(room.folder, demands, state_file=state)
    record(room, 600)
    second = verify_stored(room.folder, demands, state_file=state)
    whole = verify_stored(room.folder, demands)

    assert (4_007, 4_607) == (first.records, second.records)
    assert first.tiles + 5 > second.tiles
    assert (whole.by_kind, whole.open_attempts, whole.sections) == (
        second.by_kind,
        second.open_attempts,
        second.sections,
    )
    with pytest.raises(SettingsError, match="another verification: file"):
        verify_stored(room.folder, demands, keys=room.keys, state_file=state)


def test_the_command_takes_an_address_a_folder_and_a_file(
    room: Room, ours: Path, tmp_path: Path
) -> None:
    """Each with its exit status; of the three, the file alone shows its inside."""
    vkey = ("--vkey", room.keys.log.verifier.vkey)
    state = ("--state", tmp_path / "state")
    with serving(ours) as url:
        by_url = errand("audit", "verify", url, *vkey, *state, "--json")
        again = errand("audit", "verify", url, *vkey, *state, "--json")
    by_folder = errand("audit", "verify", ours, *vkey)
    by_file = errand("audit", "verify", room.path, *vkey, "--json")
    checked = errand("audit", "fsck", room.path, *vkey, "--json")
    keys = errand("audit", "verify", ours, *vkey, "--keys", tmp_path)
    shutil.rmtree(ours / "tile/0")
    broken = errand("audit", "verify", ours, *vkey)
    nowhere = errand("audit", "verify", tmp_path / "nowhere", *vkey)

    assert (0, 300, 0) == (
        by_url.status,
        by_url.json["published"],
        by_url.json["since"],
    )
    assert (0, 300, 300) == (again.status, again.json["published"], again.json["since"])
    assert 0 == by_folder.status
    assert "request.accepted" in by_folder.stdout
    assert (0, 300) == (by_file.status, by_file.json["records"])
    assert (0, 300) == (checked.status, checked.json["entries"])
    assert (2, 1, 2) == (keys.status, broken.status, nowhere.status)
    assert "errand: tile/0/000: missing" in broken.stderr


def test_one_flipped_bit_of_the_stored_log_is_found_by_both(tmp_path: Path) -> None:
    """`fsck` over the file's own tables names the tile, as over what it serves."""
    room = open_room(tmp_path)
    record(room, 300)
    room.close()
    vkey = ("--vkey", room.keys.log.verifier.vkey)
    data = bytearray(room.path.read_bytes())
    with room.reader() as reader:
        tile = reader.tile(0, 1)
    data[data.index(tile)] ^= 1
    room.path.write_bytes(data)
    found = errand("audit", "fsck", room.path, *vkey)

    assert 1 == found.status
    assert "tile/0/001" in found.stderr
