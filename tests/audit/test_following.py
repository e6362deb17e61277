"""Followers of what is published: how long they fail is known, and acted upon."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from audit.following import Follower, Patience
from audit.store import LogReader
from schemas.errors import (
    LogUnavailableError,
    NotFoundError,
    StoreUnavailableError,
    VerificationError,
)
from tests.audit.examples import Room
from tests.audit.test_served import append

ALARM_S = 60.0
STOP_S = 600.0


class Job:
    """Does what a test says."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.rounds = 0

    def __call__(self, _reader: LogReader) -> None:
        """Do one round."""
        self.rounds += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def job() -> Job:
    """Return a job that succeeds."""
    return Job()


@pytest.fixture
def follower(room: Room, job: Job) -> Iterator[Follower]:
    """Return a follower that the room's publisher watches."""
    made = Follower(
        "tiles", room.log, job, Patience(0.001, ALARM_S, STOP_S), room.clock
    )
    room.publisher.watch(made.lag)
    yield made
    made.stop()


def test_what_fails_for_too_long_stops_the_log_until_it_succeeds(
    room: Room, follower: Follower, job: Job
) -> None:
    """Counted from the first failure; one success takes it back."""
    for wait, failing in ((0, 0), (STOP_S, STOP_S), (1, STOP_S + 1)):
        job.error = StoreUnavailableError("down")
        room.clock.advance(timedelta(seconds=wait))
        follower.tick()
        room.publisher.tick()
        assert failing == follower.failing_for()
        assert (failing > ALARM_S) == follower.is_alarming
        if failing <= STOP_S:
            append(room, 1)
    with pytest.raises(LogUnavailableError, match="tiles have failed for too long"):
        append(room, 1)
    job.error = None
    follower.tick()
    room.publisher.tick()
    append(room, 1)

    assert (0, None) == (follower.failing_for(), follower.failure)


def test_nothing_to_do_yet_is_no_failure(
    room: Room, follower: Follower, job: Job
) -> None:
    """Before the first checkpoint there is nothing to follow."""
    job.error = NotFoundError("nothing is published yet")
    follower.tick()
    room.clock.advance(timedelta(seconds=STOP_S + 1))
    follower.tick()

    assert (0, None) == (follower.failing_for(), follower.failure)


def test_a_contradiction_stops_the_log_for_good(
    room: Room, follower: Follower, job: Job
) -> None:
    """What does not verify is for people to look at, however it goes on."""
    job.error = VerificationError("the store shows another root")
    follower.tick()
    job.error = None
    follower.tick()
    room.publisher.tick()

    with pytest.raises(LogUnavailableError, match="tiles: the store shows another"):
        append(room, 1)


def test_it_does_one_more_round_when_it_stops(follower: Follower, job: Job) -> None:
    """So that the last head that was published is not left out."""
    follower.start()
    follower.stop()

    assert job.rounds > 0
