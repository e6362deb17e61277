"""Planted identifiers: in the log's own files there are none, nor in what it says."""

import asyncio
from pathlib import Path

import pytest

from audit.query import AccessIndex, RecordQuery
from audit.record import Actor, Event, Kind, Subject
from audit.store import LogReader
from schemas.errors import LogUnavailableError
from tests.audit.examples import an_event, open_room

PLANTED = (
    "99010119900307002X",
    "990101198811230017",
    "planted-official",
    "planted-requirement",
    "planted-digest",
)


def planted_events() -> list[Event]:
    """Return events of every kind that carry each planted value."""
    begun = an_event()
    return [
        an_event(
            kind,
            subjects=(
                Subject("mother", "citizen_id", PLANTED[0]),
                Subject("father", "citizen_id", PLANTED[1]),
            ),
            actor=Actor("official", PLANTED[2]),
            details={"requirements": [PLANTED[3]]},
            evidence={"id": PLANTED[4]},
            ends=begun.id if kind is Kind.REQUEST_ENDED else None,
        )
        for kind in Kind
    ]


def test_planted_values_are_in_no_file_of_the_log(tmp_path: Path) -> None:
    """Log, write-ahead file, index and directory hold no id, name or value in clear."""
    room = open_room(tmp_path)
    asyncio.run(room.log.append(planted_events()))
    room.publisher.publish()
    index = AccessIndex(tmp_path / "index.db", LogReader.open(room.path))
    index.query(RecordQuery())
    while_open = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    index.close()
    room.close()
    after = {f"{file.name} closed": file.read_bytes() for file in tmp_path.iterdir()}

    assert {"log.db", "log.db-wal", "index.db", "subjects.db"} <= set(while_open)
    assert sum(map(len, while_open.values())) > 10_000
    for name, content in {**while_open, **after}.items():
        for value in PLANTED:
            assert value.encode() not in content, name
            assert value.lower().encode() not in content.lower(), name


@pytest.mark.anyio
async def test_no_error_of_the_log_holds_a_planted_value(tmp_path: Path) -> None:
    """Refusals name the part and the rule, never the value."""
    room = open_room(tmp_path)
    messages: list[str] = []
    for fields in (
        {"details": {"text": PLANTED[3] * 9_000}},
        {"outcome": f"{PLANTED[0]} "},
        {"id": PLANTED[0]},
    ):
        try:
            await room.log.append([an_event(**fields)])
        except (ValueError, LogUnavailableError) as error:
            messages.append(f"{error!r} {error}")
    room.log.close()
    with pytest.raises(LogUnavailableError) as refused:
        await room.log.append([an_event(actor=Actor("official", PLANTED[2]))])
    messages.append(repr(refused.value))
    room.close()

    assert 4 == len(messages)
    assert not [value for value in PLANTED if value in " ".join(messages)]
