"""Records as tables for auditors' own tools: what the index knows, in typed columns.

No section is opened for it. Records are read in order, a bounded number at a time, and
the file is there whole or not at all.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import orjson

from audit.keys import sync_folder
from audit.query import RecordQuery, RecordRow, row_of
from audit.record import milliseconds
from audit.store import LogReader

PAGE: Final = 4_096
"""Records read at a time; also a row group of Parquet."""

EVERYTHING: Final = RecordQuery()
"""No condition."""

Write = Callable[[IO[bytes], Iterable[Sequence[RecordRow]]], int]
"""Writes pages of rows, and returns how many rows there were."""


def published_rows(
    reader: LogReader, wanted: RecordQuery = EVERYTHING
) -> Iterator[Sequence[RecordRow]]:
    """Yield the published records that are wanted, in order, in pages.

    Args:
        reader: Reads the log.
        wanted: Conditions, all of which must hold; its limit and its cursor say nothing
            here.

    Raises:
        VerificationError: A leaf is not of its form.
    """
    head = reader.published()
    size = 0 if head is None else head.size
    page: list[RecordRow] = []
    for start in range(0, size, PAGE):
        for entry in reader.entries(start, min(size, start + PAGE)):
            row = row_of(entry)
            if meets(row, entry.subject_refs, wanted):
                page.append(row)
        if len(page) >= PAGE:
            yield page
            page = []
    if page:
        yield page


def meets(row: RecordRow, subject_refs: str, wanted: RecordQuery) -> bool:
    """Return whether a record meets all conditions, as the index would say it.

    Args:
        row: The record.
        subject_refs: References of its subjects, separated by spaces.
        wanted: The conditions.
    """
    for name in _EQUAL:
        value = getattr(wanted, name)
        if value is not None and getattr(row, name) != value:
            return False
    if wanted.since is not None and row.at_ms < milliseconds(wanted.since):
        return False
    if wanted.until is not None and row.at_ms >= milliseconds(wanted.until):
        return False
    return wanted.subject_ref is None or wanted.subject_ref in subject_refs.split()


_EQUAL: Final = (
    *("requester", "provider", "matter", "case", "actor_ref", "outcome", "kind"),
)


def write_export(
    target: Path, pages: Iterable[Sequence[RecordRow]], write: Write
) -> int:
    """Write a table to a file, durably; return how many rows there are."""
    beside = target.with_name(target.name + ".new")
    with beside.open("wb") as file:
        count = write(file, pages)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(target)
    sync_folder(target.absolute().parent)
    return count


def write_ndjson(file: IO[bytes], pages: Iterable[Sequence[RecordRow]]) -> int:
    """Write rows as JSON, one a line."""
    count = 0
    for rows in pages:
        file.write(b"".join([orjson.dumps(row.as_json()) + b"\n" for row in rows]))
        count += len(rows)
    return count


def write_parquet(file: IO[bytes], pages: Iterable[Sequence[RecordRow]]) -> int:
    """Write rows as Parquet: numbers as such, times as instants, few words as codes."""
    import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - large and slow to load; has no types
    from pyarrow import parquet  # noqa: PLC0415 - as above

    code = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            pa.field("index", pa.int64(), nullable=False),
            pa.field("event", pa.string(), nullable=False),
            pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
            *[pa.field(name, code, nullable=False) for name in _CODES],
            pa.field("correlation", pa.string(), nullable=False),
            pa.field("matter", code, nullable=False),
            pa.field("case", pa.string()),
            pa.field("actor_ref", pa.string()),
            pa.field("log", code, nullable=False),
        ]
    )
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in pages:
            writer.write_table(pa.Table.from_pylist(list(map(_typed, rows)), schema))
            count += len(rows)
    return count


_CODES = ("kind", "outcome", "requester", "provider", "evidence_type")
"""Columns of few different words."""


def _typed(row: RecordRow) -> Mapping[str, Any]:
    values = dict(row.as_json())
    return {"at": values.pop("at_ms"), **values}
