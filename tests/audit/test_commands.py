"""`errand audit`: what auditors get from each command, and its exit status."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from audit.engine_sqlite import copy_log
from audit.keys import save_keys
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
    (tmp_path / "copy").write_bytes(receipt)
    alone = [
        errand("audit", "accuse", tmp_path / "receipt", *more, *keys)
        for more in ((), (tmp_path / "receipt",), (tmp_path / "copy",))
    ]

    assert 1 == convicted.status == as_json.status
    assert "the log has signed two leaves at index 0" in convicted.stdout
    assert as_json.json["contradiction"] in convicted.stdout
    assert (0, "no contradiction\n") == (honest.status, honest.stdout)
    assert [(2, "")] * 3 == [(done.status, done.stdout) for done in alone]
    assert all("one note contradicts nothing" in done.stderr for done in alone)
    assert 2 == leafless.status
    assert "a proof is worth nothing without its leaf" in leafless.stderr


def test_a_log_is_not_exported_into_what_a_gateway_keeps(
    room: Room, tmp_path: Path
) -> None:
    """Neither into its own folder nor over a file of it; and there nothing changes."""
    recorded(room)
    data, keys = room.folder, tmp_path / "other"
    save_keys(room.keys, keys / "keys" / "log")
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    targets = (data, data / "public", keys)
    done = [
        errand("audit", "export", data, data / "log.db", "--format", "ndjson"),
        *(errand("audit", "export", data, target) for target in targets),
    ]

    assert [(2, "")] * 4 == [(one.status, one.stdout) for one in done]
    assert all("name a place of its own" in one.stderr for one in done)
    assert before == {f: f.read_bytes() for f in data.rglob("*") if f.is_file()}


@pytest.mark.parametrize("command", ["verify", "fsck"])
def test_a_file_that_is_no_log_is_named_and_not_judged(
    room: Room, tmp_path: Path, command: str
) -> None:
    """Status 2 for a document, another database, or nothing; 1 for a log cut short."""
    recorded(room)
    copy_log(room.folder / "log.db", tmp_path / "whole.db")
    log = (tmp_path / "whole.db").read_bytes()
    for name, content, status, says in (
        ("README.md", b"# A document\n" * 400, 2, "`README.md` is no log"),
        ("empty.db", b"", 2, "`empty.db` is no log"),
        ("other.db", another_database(tmp_path), 2, "`other.db` is no log"),
        ("cut.db", log[: len(log) // 2], 1, "`cut.db`: "),
    ):
        (tmp_path / name).write_bytes(content)
        vkey = room.keys.log.verifier.vkey
        done = errand("audit", command, tmp_path / name, "--vkey", vkey)

        assert (status, "") == (done.status, done.stdout), name
        assert says in done.stderr
        assert 1 == done.stderr.count("\n")


def another_database(folder: Path) -> bytes:
    """Return the file of a database that has nothing to do with a log."""
    with closing(sqlite3.connect(folder / "another")) as connection:
        connection.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY)")
        connection.commit()
    return (folder / "another").read_bytes()


@pytest.mark.parametrize("content", [b"# A document\n\nIt says this.\n", b"", b"\xff"])
def test_a_file_that_is_no_note_accuses_and_recovers_nothing(
    room: Room, tmp_path: Path, content: bytes
) -> None:
    """Wherever a signed note is taken: the file is named, and the status is 2."""
    file, config = tmp_path / "README.md", tmp_path / "settings.yaml"
    file.write_bytes(content)
    config.write_text("data_dir: data\n", encoding="utf-8")
    vkey = ("--vkey", room.keys.log.verifier.vkey)
    receipt_key = ("--receipt-key", room.keys.receipt.verifier.vkey)
    for arguments in (
        ("recover", file, "--config", config),
        ("shards", file, *vkey),
        ("verify", room.folder, *vkey, *receipt_key, "--receipt", file),
        ("check", file, *vkey, *receipt_key),
    ):
        done = errand("audit", *arguments)

        assert (2, "") == (done.status, done.stdout), arguments
        assert "`README.md` is no " in done.stderr
    assert not (tmp_path / "data").exists()


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
