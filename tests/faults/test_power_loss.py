"""The power goes at any moment: what was handed out before is there afterwards."""

import asyncio
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.keys import LogKeys, make_keys, save_keys
from audit.verify import verify_log
from schemas.errors import VerificationError
from tests.audit.examples import ORIGIN, an_event, open_room
from tests.faults import disk
from tests.faults.disk import Keep, Step, What, after_power_loss, read_steps
from tests.faults.promises import check_goes_on
from tests.faults.tracing import Worker, a_worker

MOMENTS = 14
"""Moments at which the power goes, for each way to lose what was not synced."""


@dataclass(frozen=True, slots=True)
class Place:
    """A worker, and a log in a folder that each life gets a copy of."""

    worker: Worker
    model: Path
    keys: LogKeys
    root: Path


@dataclass(frozen=True, slots=True)
class Life:
    """What a process did with a log, and what it told."""

    keys: LogKeys
    root: Path
    before: Mapping[str, bytes]
    steps: Sequence[Step]

    def check(self, moment: int, keep: Keep, *, further: bool = False) -> None:
        """Verify what is left when the power goes at a moment, and open it again.

        Raises:
            VerificationError: Something that was handed out is gone.
        """
        folder = self.root / "left"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        steps = self.steps[:moment]
        for name, data in after_power_loss(self.before, steps, keep).items():
            (folder / name).write_bytes(data)
        receipts, seen = told(steps)
        if receipts or seen:
            found = verify_log(
                folder,
                self.keys.log.verifier.vkey,
                receipts=receipts,
                receipt_vkey=self.keys.receipt.verifier.vkey,
                keys=self.keys,
            )
            if found.published < seen:
                raise VerificationError(f"a head of size {seen} was seen and is gone")
        if further:
            check_goes_on(folder, self.keys, receipts)

    def moments(self) -> Sequence[int]:
        """Return moments at which the power may go, evenly spread, the end included."""
        step = len(self.steps) / MOMENTS
        return [round(step * (number + 1)) for number in range(MOMENTS)]


def told(steps: Sequence[Step]) -> tuple[list[bytes], int]:
    """Return the receipts that were handed out, and the largest head that was seen."""
    words = [one.data.split() for one in steps if one.what is What.TELL]
    receipts = [bytes.fromhex(one[1].decode()) for one in words if one[0] == b"receipt"]
    return receipts, max([int(one[1]) for one in words if one[0] == b"head"], default=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A log of ten records that was closed, so that nothing stands beside its file."""
    root = tmp_path_factory.mktemp("power")
    model, keys = root / "model", make_keys(ORIGIN)
    model.mkdir()
    save_keys(keys, model / "keys")
    room = open_room(model, keys)
    asyncio.run(room.log.append([an_event() for _ in range(10)]))
    room.publisher.publish()
    room.close()
    with a_worker(root) as worker:
        yield Place(worker, model, keys, root)


def a_life(place: Place, action: str, *, is_born: bool = False) -> Life:
    """Let a process append and publish for a while, and record all that it does."""
    folder = place.root / "life"
    shutil.rmtree(folder, ignore_errors=True)
    if is_born:
        shutil.copytree(place.model / "keys", folder / "keys")
    else:
        shutil.copytree(place.model, folder)
    before = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
    trace = place.worker.record(folder, action, disk.CALLS)
    return Life(place.keys, place.root, before, read_steps(trace, folder, before))


def test_a_sync_covers_what_was_written_before_it_began(tmp_path: Path) -> None:
    """What another thread writes meanwhile is lost with the power all the same."""
    file = "".join(f"\\x{byte:02x}" for byte in str(tmp_path / "log").encode())
    trace = tmp_path / "trace"
    trace.write_text(
        f'1 pwrite64(3<{file}>, "\\x61", 1, 0) = 1\n'
        f"2 fdatasync(4<{file}> <unfinished ...>\n"
        f'1 pwrite64(3<{file}>, "\\x62", 1, 1) = 1\n'
        "2 <... fdatasync resumed>) = 0\n"
    )
    steps = read_steps(trace, tmp_path, {"log"})

    assert {"log": b"a"} == after_power_loss({"log": b""}, steps, disk.nothing)
    assert {"log": b"ab"} == after_power_loss({"log": b""}, steps, lambda steps: steps)


@pytest.mark.parametrize("is_born", [False, True])
def test_what_was_handed_out_survives_a_power_loss(
    place: Place, *, is_born: bool
) -> None:
    """Receipts, heads, and the keys that open the records, at any moment of a life."""
    life = a_life(place, "life", is_born=is_born)
    noise = random.Random(5)  # noqa: S311 - which sectors a test loses
    for keep in (disk.nothing, disk.a_beginning(noise), disk.torn(noise)):
        for number, moment in enumerate(life.moments()):
            try:
                life.check(moment, keep, further=number % 6 == 0)
            except VerificationError as error:
                pytest.fail(f"at {moment} of {len(life.steps)}: {error}")

    assert 16 == len(told(life.steps)[0])


def test_without_a_flush_at_each_commit_a_power_loss_breaks_promises(
    place: Place,
) -> None:
    """The control: at the same moments `synchronous=NORMAL` loses receipts."""
    life = a_life(place, "careless")
    lost = 0
    for moment in life.moments():
        try:
            life.check(moment, disk.nothing)
        except VerificationError:
            lost += 1

    assert lost > MOMENTS // 4
