"""Ids: UUIDs of version 7, by the time and random bytes they are given."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import new_ids, uuid7
from tests.fakes.clock import FakeClock

_TIMES = st.integers(min_value=0, max_value=2**42).map(
    lambda milliseconds: datetime.fromtimestamp(milliseconds / 1000, UTC)
)


@given(_TIMES, st.binary(min_size=10, max_size=10))
def test_a_fresh_id_is_the_text_of_a_uuid_of_version_7(
    now: datetime, entropy: bytes
) -> None:
    """The short way of writing an id gives what the UUID itself would."""
    expected = uuid7(now, entropy)
    made = new_ids(FakeClock(now), lambda _: entropy)()

    assert str(expected) == made
    assert 7 == UUID(made).version
    assert "specified in RFC 4122" == UUID(made).variant


@given(_TIMES, st.binary(min_size=30, max_size=30))
def test_each_ten_random_bytes_make_one_id(now: datetime, entropy: bytes) -> None:
    """A page of them is used up, each at the time when it is asked for."""
    clock, pages = FakeClock(now), [entropy]
    new_id, expected, made = new_ids(clock, lambda _: pages.pop()), [], []
    for place in (20, 10, 0):
        clock.instant += timedelta(milliseconds=1)
        expected.append(str(uuid7(clock.instant, entropy[place : place + 10])))
        made.append(new_id())

    assert expected == made


def test_no_two_threads_get_one_id() -> None:
    """Sources of one process share what is ready, and hand each out once."""
    sources = [new_ids(FakeClock(datetime(2026, 1, 8, tzinfo=UTC))) for _ in range(8)]

    def draw(new_id: Callable[[], str]) -> list[str]:
        return [new_id() for _ in range(1_000)]

    with ThreadPoolExecutor(8) as threads:
        made = [one for many in threads.map(draw, sources) for one in many]

    assert len(made) == len(set(made))


def test_a_forked_process_makes_ids_of_its_own() -> None:
    """What the parent has ready is the parent's."""
    new_id = new_ids(FakeClock(datetime(2026, 1, 8, tzinfo=UTC)))
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        os.close(writing)
        theirs = pipe.read()

    assert len(theirs) == 36
    assert new_id() != theirs
