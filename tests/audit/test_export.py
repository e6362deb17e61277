"""Records as tables: the same rows as the index has, in typed columns."""

import asyncio
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pyarrow import parquet  # type: ignore[import-untyped] # has no types

from audit.engine_sqlite import copy_log
from audit.export import (
    published_rows,
    write_export,
    write_ndjson,
    write_parquet,
)
from audit.keys import save_keys
from audit.query import AccessIndex, RecordQuery, RecordRow
from audit.record import Kind, Subject
from audit.store import LogReader
from schemas.ids import CaseId
from tests.audit.examples import CASE, FATHER, MOTHER, NOW, Room, an_event
from tests.harness.commands import errand

COUNT = 5_000
CASES = (CASE, CaseId("019b9c3a-0000-7000-8000-00000000c0d1"))


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


def read_lines(file: Path) -> list[Any]:
    """Return the values of a file with one a line."""
    return [orjson.loads(one) for one in file.read_bytes().splitlines()]


CONDITIONS = [
    {},
    {"requester": "yunxi_portal"},
    {"requester": "other_portal", "outcome": "denied"},
    {"provider": "yunxi_police"},
    {"matter": "company@1"},
    {"case": CASES[1]},
    {"kind": "case.closed"},
    {"since": "2026-01-08T06:30:05Z"},
    {"until": "2026-01-08T14:30:05+08:00", "provider": "yunxi_health"},
    {"since": "2026-01-08T06:30:03Z", "until": "2026-01-08T06:30:04Z"},
    {"outcome": "nothing_like_it"},
]


@pytest.fixture
def varied(room: Room) -> Room:
    """Return a log whose records differ in everything that is searched by."""
    events = [
        an_event(
            (Kind.REQUEST_ACCEPTED, Kind.CASE_CLOSED)[number % 2],
            at=NOW + timedelta(milliseconds=number * 500),
            requester=("yunxi_portal", "other_portal")[number % 3 == 0],
            provider=("yunxi_health", "yunxi_police")[number % 5 == 0],
            matter=("newborn@1", "company@1")[number % 7 == 0],
            outcome=("accepted", "denied")[number % 2],
            case=CASES[number % 2],
            subjects=((MOTHER,), (FATHER,), (MOTHER, FATHER), ())[number % 4],
        )
        for number in range(24)
    ]
    asyncio.run(room.log.append(events))
    room.publisher.publish()
    save_keys(room.keys, room.folder / "keys")
    return room


def indexed(room: Room, tmp_path: Path, query: RecordQuery) -> list[dict[str, Any]]:
    """Return what the index finds, in the log's order."""
    index = AccessIndex(tmp_path / "index.db", LogReader.open(room.path))
    found = index.query(query).rows
    index.close()
    return [dict(row.as_json()) for row in sorted(found, key=lambda row: row.index)]


@pytest.mark.parametrize("given", CONDITIONS)
def test_a_table_holds_what_the_same_question_finds(
    varied: Room, tmp_path: Path, given: dict[str, str]
) -> None:
    """In both forms, the rows that the index returns under these conditions."""
    options = [one for name, text in given.items() for one in (f"--{name}", text)]
    typed: dict[str, Any] = {
        name: datetime.fromisoformat(text) if name in ("since", "until") else text
        for name, text in given.items()
    }
    wanted = indexed(varied, tmp_path, RecordQuery(**typed))
    target: list[str | Path] = [varied.folder, tmp_path / "out"]
    export = ("audit", "export", *target, *options)
    done = [errand(*export, "--format", "ndjson")]
    lines = read_lines(tmp_path / "out")
    done.append(errand(*export, "--format", "parquet"))
    table = parquet.read_table(tmp_path / "out").to_pylist()

    assert [(0, f"{len(wanted)} entries\n")] * 2 == [
        (one.status, one.stdout) for one in done
    ]
    assert wanted == lines
    assert wanted == [{"at_ms": milliseconds(row.pop("at")), **row} for row in table]
    assert ("outcome" in given and len(given) == 1) == (not wanted)


@pytest.mark.parametrize("who", [MOTHER, FATHER, None])
def test_a_table_holds_the_records_about_one_person(
    varied: Room, tmp_path: Path, who: Subject | None
) -> None:
    """Whom they are about is read from stdin; of a stranger there is nothing."""
    name = "990101200001010006" if who is None else who.id
    known = None if who is None else varied.directory.lookup(who)
    ref = "" if known is None else known.ref
    wanted = indexed(varied, tmp_path, RecordQuery(subject_ref=ref))
    done = errand(
        *("audit", "export", varied.folder, tmp_path / "out", "--format", "ndjson"),
        *("--subject", "--keys", varied.folder / "keys"),
        stdin=f"{name}\n",
    )
    lines = read_lines(tmp_path / "out")

    assert (0, 0 if who is None else 12) == (done.status, len(lines))
    assert wanted == lines


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--since", "yesterday"), "`--since` is an instant"),
        (("--until", "2026-01-08T06:30:00"), "`--until` is an instant"),
        (("--kind", "case.lost"), "`--kind` is none"),
        (("--subject",), "takes `--keys`"),
        (("--format", "files", "--matter", "newborn@1"), "conditions are for tables"),
    ],
)
def test_a_condition_that_says_nothing_is_refused(
    varied: Room, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    """In one line, and nothing is written."""
    form = () if "--format" in options else ("--format", "ndjson")
    done = errand("audit", "export", varied.folder, tmp_path / "out", *form, *options)

    assert 2 == done.status
    assert why in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "show"])
def test_a_directory_that_is_not_there_is_no_verdict(
    varied: Room, tmp_path: Path, command: str
) -> None:
    """Nothing was checked: status 2, which names what is missing."""
    lone = tmp_path / "lone"
    lone.mkdir()
    copy_log(varied.path, lone / "log.db")
    given: dict[str, tuple[str | Path, ...]] = {
        "export": (lone, tmp_path / "out", "--format", "ndjson", "--subject"),
        "show": (an_event().id, "--log", lone),
    }
    keys = ("--keys", varied.folder / "keys")
    done = errand("audit", command, *given[command], *keys, stdin=f"{MOTHER.id}\n")

    assert (2, "") == (done.status, done.stdout)
    assert done.stderr == "errand: there is no `subjects.db` beside the log\n"


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
