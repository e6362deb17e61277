"""(1) Appending to SQLite: the whole append, the writer alone, and the bare floor."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import uvloop
from typing_extensions import override

from audit.batches import Batches
from audit.engine_sqlite import SqliteEngine
from audit.keys import LogKeys
from audit.record import Event
from audit.sealing import SealedRecord, Sealer
from audit.store import Appended
from audit.writer import Limits
from bench.asks import people
from bench.log.bare import BareCommit, bare_bytes
from bench.log.closed import Load, closed_loop, shaped
from bench.log.events import CaseEvents, many_cases
from bench.log.room import logging_to
from schemas.clock import SystemClock
from schemas.ids import new_ids

VARIANTS = {
    "bare": "bare group commit of the same bytes through sqlite3",
    "writer": "the log's writer, records sealed beforehand",
    "append": "the whole append: subjects looked up, sealed, written",
}
SHAPES = {
    "one": "each requester appends one record and waits",
    "case": "each requester appends six records and waits, then ten: a case",
}
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Sealed:
    """Cases, and their records sealed beforehand."""

    events: Sequence[CaseEvents]
    records: Sequence[tuple[Sequence[SealedRecord], Sequence[SealedRecord]]]
    """Of each case its two appends."""
    rows: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]
    """The same as the bytes of their rows."""

    @property
    def bytes_per_record(self) -> float:
        """How many bytes a record's row holds."""
        sizes = [len(row) for case in self.rows for rows in case for row in rows]
        return sum(sizes) / len(sizes)


def make_cases(sealer: Sealer, cases: int, persons: int) -> Sealed:
    """Return cases about persons whom the directory knows from here on."""
    clock = SystemClock()
    known = people(persons)
    events = many_cases(known, cases, clock.now(), new_ids(clock))
    directory = sealer.directory
    directory.meet([case.before[0].subjects[0] for case in events[:persons]])

    def seal(batch: Sequence[Event]) -> list[SealedRecord]:
        who = [[directory.lookup(s) for s in event.subjects] for event in batch]
        return sealer.seal_all(batch, who)  # type: ignore[arg-type] # all are known

    records = [(seal(case.before), seal(case.after)) for case in events]
    rows = [
        ([bare_bytes(r) for r in before], [bare_bytes(r) for r in after])
        for before, after in records
    ]
    return Sealed(events, records, rows)


class _Counting(SqliteEngine):
    """Counts its commits."""

    commits = 0

    @override
    def append(self, records: Sequence[SealedRecord]) -> list[Appended]:
        self.commits += 1
        return super().append(records)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share."""

    work: Sealed
    sealer: Sealer
    keys: LogKeys
    seconds: float
    """How long each run begins new cases."""

    def measure(
        self, path: Path, variant: str, shape: str, requesters: int
    ) -> dict[str, float]:
        """Append to a new file, and return the figures."""
        run = {"bare": self._bare, "writer": self._writer, "append": self._append}
        load, commits = uvloop.run(run[variant](path, shape, requesters))
        return {
            "records": load.records,
            "per_second": load.rate,
            "cpu_us": 1e6 * load.cpu_s / load.records,
            "p50_ms": load.percentile_ms(0.5),
            "p99_ms": load.percentile_ms(0.99),
            "records_a_commit": load.records / commits if commits else 0.0,
        }

    async def _bare(self, path: Path, shape: str, requesters: int) -> tuple[Load, int]:
        bare = BareCommit(path, _LIMITS.batch, _LIMITS.wal_records)
        rows = shaped(self.work.rows, shape)
        with closing(bare):
            load = await closed_loop(bare.append, rows, requesters, self.seconds)
        return load, bare.commits

    async def _writer(
        self, path: Path, shape: str, requesters: int
    ) -> tuple[Load, int]:
        engine = _Counting(
            path,
            self.sealer.origin,
            free_bytes=_LIMITS.free_bytes,
            wal_records=_LIMITS.wal_records,
        )
        batches = Batches(engine, self.sealer.directory, _LIMITS.batch)
        records = shaped(self.work.records, shape)
        with closing(engine), closing(batches):
            load = await closed_loop(batches.append, records, requesters, self.seconds)
        return load, engine.commits

    async def _append(
        self, path: Path, shape: str, requesters: int
    ) -> tuple[Load, int]:
        cases = shaped([(c.before, c.after) for c in self.work.events], shape)
        with logging_to(path, self.sealer, self.keys) as log:
            load = await closed_loop(log.append, cases, requesters, self.seconds)
        return load, 0
