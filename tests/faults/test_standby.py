"""A log on a PostgreSQL with a synchronous standby: nothing is promised without it."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from audit.record import Event
from audit.sql import Postgres
from audit.store import Appended, SignedHead
from audit.verify import Verified, verify_log
from audit.writer import Limits
from exchange.demo.postgres import PostgresServer, a_server
from schemas.errors import LogUnavailableError
from tests.audit.examples import Room, an_event, open_room
from tests.harness.standby import Standby, follow

_WAITS = b"SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
_CANCEL = b"SELECT pg_cancel_backend(%s)"


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    """Run a server that may be killed."""
    with a_server() as server:
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[Standby]:
    """Run a standby that every commit of the primary waits for."""
    server = Standby(primary._folder.parent / "standby", primary)
    try:
        follow(server, primary)
        yield server
    finally:
        server.stop()


def cancel(
    server: PostgresServer, number: int, append: "asyncio.Task[list[Appended]]"
) -> None:
    """Cancel an append's waits for the standby: so many, each of a connection."""
    cancelled: set[int] = set()
    with psycopg.connect(server.url(), autocommit=True) as connection:
        while len(cancelled) < number and not append.done():
            for (pid,) in connection.execute(_WAITS).fetchall():
                connection.execute(_CANCEL, (pid,))
                cancelled.add(pid)


async def refuse(room: Room, server: PostgresServer, event: Event) -> None:
    """Have a record refused: its wait is cancelled, and so is that of asking again."""
    append = asyncio.create_task(room.log.append([event]))
    await asyncio.to_thread(cancel, server, 2, append)
    with pytest.raises(LogUnavailableError, match="warned of a commit"):
        await append


async def go_on(
    room: Room, server: PostgresServer, promised: Sequence[Appended]
) -> tuple[list[Appended | None], SignedHead | None, Verified]:
    """Go on with a log elsewhere; return what it found there, and what it is now."""
    place, keys = Postgres(server.url(), "log"), room.keys
    other = open_room(room.folder, keys, place=place)
    found = [await other.log.find(one.event) for one in promised]
    with other.reader() as reader:
        head = reader.head()
    after = await other.log.append([an_event()])
    other.publisher.publish()
    receipts = [other.log.sign(one).encode() for one in [*promised, *after]]
    other.close()
    receipt_vkey = keys.receipt.verifier.vkey
    verified = verify_log(
        place, keys.log.verifier.vkey, receipts=receipts, receipt_vkey=receipt_vkey
    )
    return found, head, verified


@pytest.mark.anyio
async def test_what_the_standby_has_not_confirmed_is_not_promised(
    tmp_path: Path, primary: PostgresServer, standby: Standby
) -> None:
    """A wait that is cancelled confirms nothing; a standby has all that is confirmed.

    A record that was refused may be in the log all the same. It is promised once it is
    recorded again, and the standby has it.
    """
    place = Postgres(primary.url(), "log")
    room = open_room(tmp_path, limits=Limits(resolve_s=0.0), place=place)
    event = an_event()
    promised = await room.log.append([an_event() for _ in range(3)])
    head = room.publisher.publish()
    with standby.silent():
        await refuse(room, primary, event)
        stands = await room.log.find(event.id)
        append = asyncio.create_task(room.log.append([event]))
        await asyncio.to_thread(cancel, primary, 1, append)

        assert not append.done()
    promised += await append
    with standby.silent():
        await refuse(room, primary, an_event())
        primary.kill()
    room.close()
    standby.promote()
    found, shown, verified = await go_on(room, standby, promised)

    assert [0, 1, 2, 3] == [one.index for one in promised]
    assert promised[3] == stands
    assert promised == found
    assert head == shown
    assert verified.published == verified.records
