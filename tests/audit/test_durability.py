"""Crashes and full disks: what was promised is there, what is not there was not."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audit.keys import load_keys, make_keys, save_keys
from audit.sql import Postgres
from audit.verify import verify_log
from schemas.errors import LogUnavailableError
from tests.audit.examples import ORIGIN, an_event, open_room

ROOT = Path(__file__).parents[2]


Promise = tuple[str, int, bytes]
"""Event, index and receipt, as a process printed them."""


def killed_while_writing(folder: Path, promises: int, *database: str) -> list[Promise]:
    """Run the writing process, kill it, and return every promise it made."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.audit.writing_child", str(folder), *database],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(promises)]
    os.kill(child.pid, signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    made = [line.split() for line in lines if line.endswith("\n")]
    return [(event, int(index), bytes.fromhex(note)) for event, index, note in made]


def test_every_promise_survives_a_kill(tmp_path: Path) -> None:
    """A process killed in mid-write, three times, loses nothing that it promised."""
    save_keys(make_keys(ORIGIN), tmp_path / "keys")
    keys = load_keys(tmp_path / "keys")
    promised: list[tuple[str, int, bytes]] = []
    for kills in (1, 2, 3):
        promised += killed_while_writing(tmp_path, 150)
        found = verify_log(
            tmp_path,
            keys.log.verifier.vkey,
            receipts=[note for _, _, note in promised],
            receipt_vkey=keys.receipt.verifier.vkey,
            keys=keys,
        )

        assert found.receipts == len(promised) >= kills * 150
        assert found.records >= len(promised)
    assert len({index for _, index, _ in promised}) == len(promised)
    assert len({event for event, _, _ in promised}) == len(promised)


def test_every_promise_of_two_replicas_survives_their_kill(
    tmp_path: Path, a_schema: Callable[[], Postgres]
) -> None:
    """Each publishes as well, so one that led is gone in mid-publication."""
    save_keys(make_keys(ORIGIN), tmp_path / "keys")
    keys, place = load_keys(tmp_path / "keys"), a_schema()
    room = open_room(tmp_path, keys, place=place)

    def killed(_replica: int) -> list[Promise]:
        return killed_while_writing(tmp_path, 100, place.url, place.schema)

    with ThreadPoolExecutor(2) as pool:
        promised = [one for made in pool.map(killed, range(2)) for one in made]
    while not room.publisher.is_leading:
        # The server may not have missed the one that led yet.
        room.publisher.publish()
    [after] = asyncio.run(room.log.append([an_event()]))
    room.publisher.publish()
    room.close()
    found = verify_log(
        place,
        keys.log.verifier.vkey,
        receipts=[note for _, _, note in promised],
        receipt_vkey=keys.receipt.verifier.vkey,
    )

    assert found.receipts == len(promised) >= 200
    assert len({index for _, index, _ in promised}) == len(promised)
    assert found.records == found.published == after.index + 1 > len(promised)


def test_after_a_kill_the_log_goes_on(tmp_path: Path) -> None:
    """The next process numbers on from what is there, publishes it, and verifies."""
    save_keys(make_keys(ORIGIN), tmp_path / "keys")
    keys = load_keys(tmp_path / "keys")
    killed_while_writing(tmp_path, 40)
    room = open_room(tmp_path, keys)
    before = room.log.size
    [place] = asyncio.run(room.log.append([an_event()]))
    room.publisher.publish()
    room.close()

    assert before == place.index
    found = verify_log(tmp_path, keys.log.verifier.vkey, keys=keys)
    assert found.records == found.published == before + 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of one megabyte, where this process may."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_every_promise(tiny_disk: Path) -> None:
    """On a real full disk an append is refused; all that was promised verifies."""
    room = open_room(tiny_disk)
    receipts: list[bytes] = []

    async def fill() -> None:
        while True:
            event = an_event(subjects=(), details={"text": "x" * 3_000})
            [place] = await room.log.append([event])
            receipts.append(room.log.sign(place).encode())

    with pytest.raises(LogUnavailableError):
        asyncio.run(fill())
    with pytest.raises(LogUnavailableError):
        asyncio.run(room.log.append([an_event(details={"text": "x" * 3_000})] * 9))
    keys = room.keys
    try:
        room.close()
    except sqlite3.OperationalError:
        # The disk is so full that the log can't be tidied up either.
        assert not room.log._batches.thread.is_alive()
    found = verify_log(
        tiny_disk / "log.db",
        keys.log.verifier.vkey,
        receipts=receipts,
        receipt_vkey=keys.receipt.verifier.vkey,
    )

    assert found.receipts == len(receipts) > 20
