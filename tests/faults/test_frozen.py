"""A publisher that is frozen in mid-round, while another one of the same log goes on.

A gateway's lock on its data folder forbids two on one file; this is what would hold if
it were lost. PostgreSQL has its own in `tests/audit/test_leading.py`.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from audit.keys import save_keys
from tests.audit.examples import Room, an_event, open_room
from tests.faults.promises import check_as_it_is, check_goes_on
from tests.faults.tracing import a_worker


def until_stopped(process: int) -> None:
    """Wait until a process is stopped; there is nothing else to wait for."""
    stat = Path(f"/proc/{process}/stat")
    while stat.read_text().rpartition(") ")[2][0] != "T":
        os.sched_yield()


def append(room: Room, number: int) -> list[bytes]:
    """Record some events, and return their receipts.

    They begin no look-up: a row of that would stand in the way of whoever wakes up.
    """
    events = [an_event(subjects=(), case=None) for _ in range(number)]
    places = asyncio.run(room.log.append(events))
    return [room.log.sign(place).encode() for place in places]


@pytest.mark.parametrize("stage", ["integration", "publication"])
def test_a_frozen_publisher_that_wakes_up_changes_nothing(
    room: Room, tmp_path: Path, stage: str
) -> None:
    """Its swap is refused, and so is all that it would record; there is one history."""
    save_keys(room.keys, tmp_path / "keys")
    receipts = append(room, 5)
    room.publisher.publish()
    receipts += append(room, 3)
    with a_worker(tmp_path) as worker:
        threads = worker.begin(tmp_path, f"frozen in {stage}", again=True)
        process = threads["main"]
        os.kill(process, signal.SIGUSR1)
        until_stopped(process)
        receipts += append(room, 300)
        head = room.publisher.publish()
        os.kill(process, signal.SIGCONT)
        told = worker.end()
    with room.reader() as reader:
        stands = reader.head()
    check_as_it_is(tmp_path, room.keys, receipts)
    room.close()

    assert ["failed", "refused"] == told.words
    assert head == stands
    assert 309 == check_goes_on(tmp_path, room.keys, receipts).published


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """Return a fresh log."""
    return open_room(tmp_path)
