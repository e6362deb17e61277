"""Stores of objects: the same promises from a folder and from S3 over HTTP."""

import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.fetching import fetching_from_url
from audit.fsck import check_log
from audit.merkle import EMPTY_ROOT
from audit.mirror import mirror
from audit.note import Checkpoint
from audit.objects import FolderObjects, Objects, S3Objects, open_objects
from audit.sql import Postgres
from audit.table_objects import TableObjects
from audit.tiles import pieces_between
from schemas.errors import SettingsError, StoreUnavailableError, VerificationError
from tests.audit.examples import Room, open_room, pieces_of_size
from tests.audit.test_fsck import nothing
from tests.audit.test_served import append
from tests.harness.s3 import BUCKET, ENVIRONMENT, S3, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """Run a server for all tests of this module."""
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3", "table"])
def objects(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Objects:
    """Return an empty store of each kind."""
    if request.param == "folder":
        return open_objects((tmp_path / "a folder").as_uri())
    if request.param == "table":
        place: Postgres = request.getfixturevalue("a_schema")()
        return TableObjects(place, "2026h2")
    server: S3 = request.getfixturevalue("s3")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return open_objects(server.url(f"{tmp_path.name}-{os.getpid()}"), server.endpoint)


def test_what_is_written_once_is_never_another_thing(objects: Objects) -> None:
    """The same bytes again are a success; other bytes stop everything."""
    assert objects.read("tile/0/x001/000") is None
    objects.write_once("tile/0/x001/000", b"hashes")
    objects.write_once("tile/0/x001/000", b"hashes")
    for other in (b"hashe", b"other", b""):
        with pytest.raises(VerificationError, match="tile/0/x001/000: the store holds"):
            objects.write_once("tile/0/x001/000", other)

    assert b"hashes" == objects.read("tile/0/x001/000")


def test_an_object_is_replaced_by_who_knows_what_stood_there(objects: Objects) -> None:
    """Also the first time: nothing must stand there then."""
    objects.swap("checkpoint", None, b"one")
    objects.swap("checkpoint", b"one", b"two")
    for before in (None, b"one", b"three"):
        with pytest.raises(StoreUnavailableError, match="replaced meanwhile"):
            objects.swap("checkpoint", before, b"mine")

    assert b"two" == objects.read("checkpoint")


def test_of_many_at_once_one_replaces_it(objects: Objects) -> None:
    """Two replicas that read the same never both win."""
    objects.swap("checkpoint", None, b"start")
    won: list[bytes] = []

    def try_it(name: bytes) -> None:
        try:
            objects.swap("checkpoint", b"start", name)
            won.append(name)
        except StoreUnavailableError:
            pass

    names = [b"%d" % number for number in range(6)]
    threads = [threading.Thread(target=try_it, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [objects.read("checkpoint")] == won


def test_a_mirror_follows_and_is_verified(objects: Objects, room: Room) -> None:
    """Whatever it was behind by; its pieces are the log as anybody verifies it."""
    vkey = room.keys.log.verifier.vkey
    for count in (1, 254, 1, 1, 400):
        append(room, count)
        room.publisher.publish()
        with room.reader() as reader:
            size = mirror(reader, objects)
            assert size == mirror(reader, objects)
        checked = check_log(objects.read, vkey, nothing)

        assert size == checked.entries == room.log.size


def test_a_mirror_of_another_history_stops(
    objects: Objects, room: Room, tmp_path: Path
) -> None:
    """A store that is ahead, or shows another root: people have to look."""
    append(room, 3)
    room.publisher.publish()
    (tmp_path / "twin").mkdir()
    twin = open_room(tmp_path / "twin", room.keys)
    append(twin, 5)
    twin.publisher.publish()
    with room.reader() as reader, twin.reader() as other:
        mirror(other, objects)
        with pytest.raises(VerificationError, match="shows 5 records, here are 3"):
            mirror(reader, objects)
        append(room, 7)
        room.publisher.publish()
        with pytest.raises(VerificationError, match="shows another root"):
            mirror(reader, objects)
        shown = objects.read("checkpoint")
        objects.swap("checkpoint", shown, b"something else")
        with pytest.raises(VerificationError, match="malformed"):
            mirror(reader, objects)
    twin.close()


def test_an_empty_checkpoint_in_the_store_is_a_beginning(
    objects: Objects, room: Room
) -> None:
    """A tree of nothing is the beginning of every tree."""
    empty = Checkpoint(room.log.origin, 0, EMPTY_ROOT)
    objects.swap("checkpoint", None, room.keys.log.sign(empty.text).encode())
    append(room, 2)
    room.publisher.publish()
    with room.reader() as reader:
        assert 2 == mirror(reader, objects)


def test_an_object_store_serves_the_log_over_http(
    s3: S3, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read the bucket verifies it without asking the gateway."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    append(room, 300)
    room.publisher.publish()
    with room.reader() as reader:
        mirror(reader, S3Objects(s3.url("public"), s3.endpoint))
    signed = {"authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/x/s3/x"}
    with fetching_from_url(f"{s3.endpoint}/{BUCKET}/public", signed) as fetch:
        checked = check_log(fetch, room.keys.log.verifier.vkey, nothing)

    assert 300 == checked.entries


def test_a_disk_that_fills_up_in_mid_write_leaves_no_half_an_object(
    tmp_path: Path,
) -> None:
    """An object is whole under its name, or not there; the one before stays."""
    objects = FolderObjects(tmp_path)
    objects.swap("checkpoint", None, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(StoreUnavailableError):
            objects.write_once("tile/0/000", bytes(20_000))
        with pytest.raises(StoreUnavailableError):
            objects.swap("checkpoint", b"before", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = {
        one.name for one in tmp_path.rglob("*") if one.is_file() and one.stat().st_size
    }

    assert objects.read("tile/0/000") is None
    assert b"before" == objects.read("checkpoint")
    assert {"checkpoint"} == left


def test_a_store_that_is_down_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its address, which may hold more than a name, is not quoted."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # never listens
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        objects = S3Objects("s3://secret-bucket/prefix", endpoint)
        with pytest.raises(StoreUnavailableError) as refused:
            objects.write_once("tile/0/000", b"hashes")

    assert "the object store: GenericError" == str(refused.value)


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """What stands in the way is named by its kind alone."""
    (tmp_path / "file").write_bytes(b"")
    objects = FolderObjects(tmp_path / "file")
    with pytest.raises(StoreUnavailableError, match="the folder: "):
        objects.write_once("tile/0/000", b"hashes")


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    """Of a write that was refused, and of one that an earlier process broke off."""
    objects = FolderObjects(tmp_path)
    objects.write_once("a/b", b"one")
    with pytest.raises(VerificationError):
        objects.write_once("a/b", b"two")

    assert ["b"] == [file.name for file in (tmp_path / "a").iterdir()]


@pytest.mark.parametrize(
    "url", ["folder", "file://host/x", "file:", "s3:///x", "https://example.com/x"]
)
def test_another_address_is_refused(url: str) -> None:
    """It is a folder, or a bucket."""
    with pytest.raises(SettingsError, match="`file:///folder` or `s3://bucket/prefix`"):
        open_objects(url)


@given(st.lists(st.integers(0, 70_000), min_size=2, max_size=2).map(sorted))
@example([0, 256])
@example([255, 256])
@example([65_535, 65_536])
def test_a_step_adds_what_its_end_implies_and_its_beginning_did_not(
    sizes: list[int],
) -> None:
    """Each piece once."""
    old, new = sizes
    added = list(pieces_between(old, new))

    assert len(added) == len(set(added))
    assert set(pieces_of_size(new)) - set(pieces_of_size(old)) == set(added)
