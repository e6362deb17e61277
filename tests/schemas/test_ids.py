"""Ids: UUIDs of version 7, by the time and random bytes they are given."""

from datetime import UTC, datetime
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
