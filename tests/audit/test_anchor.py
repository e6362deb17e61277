"""Anchors: time stamps of an outside authority, taken only where they verify."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from audit.anchor import (
    ANCHORS,
    LIST,
    Stamper,
    anchor,
    anchor_names,
    copy_anchors,
    parse_name,
    parse_trust,
    verify_stamp,
)
from audit.demands import Demands
from audit.mirror import mirror
from audit.note import Checkpoint
from audit.objects import FolderObjects
from audit.verify import verify_stored
from audit.verify_served import verify_served
from schemas.clock import SystemClock
from schemas.errors import (
    NotFoundError,
    SettingsError,
    StoreUnavailableError,
    VerificationError,
)
from tests.audit.examples import NOW, Room
from tests.audit.test_fsck import nothing
from tests.audit.test_served import append
from tests.harness.commands import errand
from tests.harness.tsa import Authority, an_authority

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: no authority"
)
NOTE = b"log.example\n1\nroot\n\nsignature\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """Run an authority for all tests of this module."""
    with an_authority(tmp_path_factory.mktemp("tsa")) as running:
        yield running


@pytest.fixture
def good(authority: Authority) -> Iterator[Stamper]:
    """Return what asks the authority where it answers well."""
    stamper = a_stamper(authority, "good")
    yield stamper
    stamper.close()


def a_stamper(authority: Authority, manner: str) -> Stamper:
    """Return what asks the authority where it answers in a manner."""
    return Stamper(authority.at(manner), parse_trust(authority.root.read_bytes()))


def test_a_stamp_tells_when_a_checkpoint_was_there(
    authority: Authority, good: Stamper, tmp_path: Path
) -> None:
    """`openssl ts` itself, the tool of outsiders, verifies what is kept."""
    stamp = good.stamp(NOTE)
    at = verify_stamp(NOTE, stamp.response, parse_trust(authority.root.read_bytes()))
    for name, content in (
        ("note", NOTE),
        ("a.tsq", stamp.request),
        ("a.tsr", stamp.response),
    ):
        (tmp_path / name).write_bytes(content)
    given = ("-in", "a.tsr", "-CAfile", authority.root)
    for asked in (("-data", "note"), ("-queryfile", "a.tsq")):
        done = subprocess.run(
            ["openssl", "ts", "-verify", *given, *asked],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert b"Verification: OK" in done.stdout + done.stderr

    now = SystemClock().now()
    assert abs(now - at) < timedelta(minutes=10)


def test_a_stamp_over_something_else_is_refused(
    authority: Authority, good: Stamper
) -> None:
    """One bit of the checkpoint, one of the stamp, or another root is enough."""
    trust = parse_trust(authority.root.read_bytes())
    response = good.stamp(NOTE).response
    flipped = bytearray(response)
    flipped[-1] ^= 1
    with pytest.raises(VerificationError, match="Mismatch between messages"):
        verify_stamp(NOTE + b"?", response, trust)
    for changed in (bytes(flipped), b"", response[:-5]):
        with pytest.raises(VerificationError, match="stamp"):
            verify_stamp(NOTE, changed, trust)


def test_a_stamp_of_another_authority_is_refused(good: Stamper, tmp_path: Path) -> None:
    """Whoever verifies says whom they trust."""
    response = good.stamp(NOTE).response
    with an_authority(tmp_path) as other:
        trust = parse_trust(other.root.read_bytes())

    with pytest.raises(VerificationError, match="does not hold"):
        verify_stamp(NOTE, response, trust)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("other", "Mismatch between messages|Nonce mismatch"),
        ("expired", "certificate"),
        ("garbage", "does not hold"),
        ("large", "too large"),
        ("refused", "HTTP 503"),
    ],
)
def test_an_answer_that_is_wrong_is_not_taken(
    authority: Authority, manner: str, reason: str
) -> None:
    """Of another digest, with an expired certificate, or no stamp at all."""
    stamper = a_stamper(authority, manner)
    with pytest.raises(StoreUnavailableError, match=reason):
        stamper.stamp(NOTE)
    stamper.close()


def test_an_answer_to_another_question_is_not_taken(authority: Authority) -> None:
    """The nonce says that it is fresh, though the digest is the same."""
    stamper = a_stamper(authority, "replay")
    stamper.stamp(NOTE)
    with pytest.raises(StoreUnavailableError, match="Nonce mismatch"):
        stamper.stamp(NOTE)
    stamper.close()


def test_an_authority_that_is_down_costs_a_stamp(authority: Authority) -> None:
    """And nothing else."""
    trust = parse_trust(authority.root.read_bytes())
    stamper = Stamper("http://127.0.0.1:9/", trust)
    with pytest.raises(StoreUnavailableError, match="authority: ConnectError"):
        stamper.stamp(NOTE)
    stamper.close()


def test_certificates_need_a_root(authority: Authority) -> None:
    """Else nothing would ever verify."""
    with pytest.raises(SettingsError, match="no certificates"):
        parse_trust(b"nothing")
    with pytest.raises(SettingsError, match=r"the root .* is missing"):
        parse_trust(authority.root.with_name("good.pem").read_bytes())


def test_checkpoints_are_stamped_at_their_pace(
    room: Room, good: Stamper, tmp_path: Path
) -> None:
    """At first, and then once the last stamp is old enough, by whichever replica."""
    objects = FolderObjects(tmp_path / "public")
    with room.reader() as reader, pytest.raises(NotFoundError):
        anchor(reader, objects, good, NOW, 3_600)
    append(room, 3)
    room.publisher.publish()
    counts = []
    with room.reader() as reader:
        for minutes in (0, 1, 59, 60, 119, 121):
            now = NOW + timedelta(minutes=minutes)
            anchor(reader, objects, good, now, 3_600)
            counts.append(len(anchor_names(objects.read(LIST))))

    assert [1, 1, 1, 2, 2, 3] == counts


def anchored(room: Room, good: Stamper) -> None:
    """Publish some records at three times, and anchor each checkpoint."""
    objects = FolderObjects(room.folder / "public")
    with room.reader() as reader:
        for hours, count in enumerate((3, 300, 5)):
            append(room, count)
            room.publisher.publish()
            anchor(reader, objects, good, NOW + timedelta(hours=hours), 3_600)


def test_verification_demands_anchors_and_finds_a_wrong_one(
    room: Room, good: Stamper, authority: Authority, tmp_path: Path
) -> None:
    """Of the log's file and of what it serves; a missing or changed one is named."""
    anchored(room, good)
    public = room.folder / "public"
    trust = parse_trust(authority.root.read_bytes())
    demands = Demands(room.keys.log.verifier.vkey, anchors=trust)
    served = FolderObjects(tmp_path / "served")
    with room.reader() as reader:
        mirror(reader, served)
    with pytest.raises(VerificationError, match="anchors/list: missing"):
        verify_served(served.read, demands, nothing)
    copy_anchors(FolderObjects(public).read, served)
    copy_anchors(FolderObjects(public).read, served)
    for found in (
        verify_stored(room.folder, demands).anchored,
        verify_served(served.read, demands, nothing).anchored,
    ):
        assert found is not None
        assert (3, 308) == (found.count, found.size)
    names = anchor_names(served.read(LIST))
    files = {
        part: public / ANCHORS / f"{names[1]}.{part}" for part in ("checkpoint", "tsr")
    }
    for file in files.values():
        content = file.read_bytes()
        file.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
        with pytest.raises(VerificationError, match=f"anchors/{names[1]}: "):
            verify_stored(room.folder, demands)
        file.unlink()
        with pytest.raises(VerificationError, match=f"anchors/{names[1]}: .*missing"):
            verify_stored(room.folder, demands)
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("size", "reason"),
    [(2, "another root was stamped"), (900, "900 entries were stamped")],
)
def test_a_log_that_was_stamped_with_another_history_is_convicted(
    room: Room, good: Stamper, authority: Authority, size: int, reason: str
) -> None:
    """The log's own signature under the stamp: no witness is needed to see it."""
    anchored(room, good)
    objects = FolderObjects(room.folder / "public")
    note = room.keys.log.sign(Checkpoint(room.log.origin, size, bytes(32)).text)
    stamp = good.stamp(note.encode())
    name = "1800000000-0123456789abcdef"
    parts = (note.encode(), stamp.request, stamp.response)
    for part, content in zip(("checkpoint", "tsq", "tsr"), parts, strict=True):
        objects.write_once(f"{ANCHORS}/{name}.{part}", content)
    listed = objects.read(LIST) or b""
    objects.swap(LIST, listed, listed + f"{name}\n".encode())
    trust = parse_trust(authority.root.read_bytes())
    demands = Demands(room.keys.log.verifier.vkey, anchors=trust)

    with pytest.raises(VerificationError, match=reason):
        verify_stored(room.folder, demands)


def test_the_command_takes_the_authoritys_certificates(
    room: Room, good: Stamper, authority: Authority, tmp_path: Path
) -> None:
    """Of the file, and of the files that are exported with the log."""
    anchored(room, good)
    target = tmp_path / "served"
    errand("audit", "export", room.folder, target)
    demanded = ("--vkey", room.keys.log.verifier.vkey, "--anchors", authority.root)
    by_file = errand("audit", "verify", room.folder, *demanded, "--json")
    by_folder = errand("audit", "verify", target, *demanded, "--json")
    shown = errand("audit", "verify", target, *demanded)

    assert 3 == by_file.json["anchored"]["count"] == by_folder.json["anchored"]["count"]
    assert 0 == shown.status


@pytest.mark.parametrize(
    "path", ["list", "1.tsr", "1-0123456789abcdef.pem", "../1-0123456789abcdef.tsr"]
)
def test_other_names_are_no_anchors(path: str) -> None:
    """Nothing but an anchor's parts is ever read for a path."""
    assert parse_name(path) is None
    assert parse_name("1-0123456789abcdef.tsr") == ("1-0123456789abcdef", "tsr")


def test_a_list_of_something_else_is_refused() -> None:
    """It names anchors, one a line."""
    with pytest.raises(VerificationError, match="no list of anchors"):
        anchor_names(b"1-0123456789abcdef\n../etc/passwd\n")
