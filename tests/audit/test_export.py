"""Records as tables: the same rows as the index has, in typed columns."""

import asyncio
import tracemalloc
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from pyarrow import parquet

from audit.export import (
    published_rows,
    write_export,
    write_ndjson,
    write_parquet,
)
from audit.query import AccessIndex, RecordQuery, RecordRow
from audit.record import Kind
from audit.store import LogReader
from tests.audit.examples import Room, an_event
from tests.harness.commands import errand

COUNT = 5_000


@pytest.fixture
def rows(room: Room, tmp_path: Path) -> list[RecordRow]:
    """Record more than a page, publish, and return what the index says of it."""
    for start in range(0, COUNT, 1_000):
        events = [
            an_event(
                (Kind.REQUEST_ACCEPTED, Kind.CASE_CLOSED)[number % 2],
                case=None if number % 3 else an_event().case,
                actor=None if number % 5 else an_event().actor,
                subjects=(),
            )
            for number in range(start, start + 1_000)
        ]
        asyncio.run(room.log.append(events))
    room.publisher.publish()
    asyncio.run(room.log.append([an_event()]))  # not published: not in the table
    index = AccessIndex(tmp_path / "index.db", LogReader.open(room.path))
    found: list[RecordRow] = []
    after = None
    while True:
        page = index.query(RecordQuery(limit=1_000, after=after))
        found += page.rows
        after = page.next
        if after is None:
            break
    index.close()
    return sorted(
        (row for row in found if row.index < COUNT), key=lambda row: row.index
    )


def test_json_lines_hold_what_the_index_holds(
    room: Room, rows: list[RecordRow], tmp_path: Path
) -> None:
    """One record a line, in the log's order."""
    done = errand(
        "audit", "export", room.folder, tmp_path / "out", "--format", "ndjson"
    )
    lines = (tmp_path / "out").read_bytes().splitlines()

    assert (0, f"{COUNT} entries\n") == (done.status, done.stdout)
    assert [dict(row.as_json()) for row in rows] == [orjson.loads(one) for one in lines]


def test_parquet_holds_what_the_index_holds(
    room: Room, rows: list[RecordRow], tmp_path: Path
) -> None:
    """Numbers, instants and words each in a column of their type; rows in groups."""
    target = tmp_path / "records.parquet"
    done = errand("audit", "export", room.folder, target, "--format", "parquet")
    table = parquet.read_table(target)
    found = [{"at_ms": milliseconds(row.pop("at")), **row} for row in table.to_pylist()]

    assert (0, f"{COUNT} entries\n") == (done.status, done.stdout)
    assert [dict(row.as_json()) for row in rows] == found
    assert "timestamp[ms, tz=UTC]" == str(table.schema.field("at").type)
    assert 2 == parquet.ParquetFile(target).num_row_groups


def milliseconds(at: datetime) -> int:
    """Return an instant as milliseconds since 1970."""
    return round(at.timestamp() * 1000)


def test_an_export_that_fails_leaves_what_was_there(room: Room, tmp_path: Path) -> None:
    """A table is whole or not there."""
    target = tmp_path / "out"
    target.write_bytes(b"before")
    asyncio.run(room.log.append([an_event()]))
    room.publisher.publish()
    with room.reader() as reader:
        page = next(iter(published_rows(reader)))

    def broken() -> object:
        yield page
        raise OSError("it broke")

    for write in (write_ndjson, write_parquet):
        with pytest.raises(OSError, match="broke"):
            write_export(target, broken(), write)  # type: ignore[arg-type] # a generator that breaks
    assert b"before" == target.read_bytes()


def test_memory_does_not_grow_with_the_log(
    rows: list[RecordRow], tmp_path: Path
) -> None:
    """A page is let go before the next one is read."""
    assert COUNT == len(rows)
    page = rows[:4_096]
    peaks = []
    for pages in (2, 8):
        tracemalloc.start()
        write_export(tmp_path / "out", (list(page) for _ in range(pages)), write_ndjson)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.3 * peaks[0]
