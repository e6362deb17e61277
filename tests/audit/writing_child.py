"""A process that appends until it is killed, and prints each index it was promised."""

import asyncio
import sys
from pathlib import Path

from audit.keys import load_keys
from audit.record import Subject
from audit.sql import Postgres
from schemas.clock import SystemClock
from schemas.ids import EventId, new_ids
from tests.audit.examples import Room, an_event, open_room

NEW_ID = new_ids(SystemClock())


async def caller(room: Room, number: int) -> None:
    """Append one record after another, and say what was promised."""
    while True:
        who = Subject("mother", "citizen_id", f"planted-{number}-{NEW_ID()[-6:]}")
        event = an_event(id=EventId(NEW_ID()), subjects=(who,))
        [place] = await room.log.append([event])
        note = room.log.sign(place).encode().hex()
        sys.stdout.write(f"{place.event} {place.index} {note}\n")
        sys.stdout.flush()


async def run(folder: Path, *database: str) -> None:
    """Append from several callers at once.

    Args:
        folder: Has the log's keys, and the log itself where no database is given.
        database: URL and schema of a log on PostgreSQL.
    """
    place = Postgres(*database) if database else None
    room = open_room(folder, load_keys(folder / "keys"), place=place)
    room.publisher.start()
    await asyncio.gather(*(caller(room, number) for number in range(8)))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), *sys.argv[2:]))
