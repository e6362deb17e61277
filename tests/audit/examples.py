"""A log to test with, and events for it: everything that a test is not about."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from audit.engine_sqlite import SqliteEngine
from audit.keys import LogKeys, make_keys
from audit.places import open_sql
from audit.publisher import Publisher
from audit.record import Actor, Event, Kind, Subject
from audit.sealing import Sealer
from audit.sql import Place, Postgres, Value
from audit.store import LogReader
from audit.subjects import SubjectDirectory
from audit.tiles import Piece, tiles_of_size
from audit.writer import AuditLog, Limits
from schemas.canonical import Json
from schemas.ids import CaseId, EventId, uuid7
from tests.fakes.clock import FakeClock

ORIGIN = "log.yunxi.example/2026h1"
NOW = datetime(2026, 1, 8, 6, 30, tzinfo=UTC)
MOTHER = Subject("mother", "citizen_id", "990101199003070024")
FATHER = Subject("father", "citizen_id", "990101198811230017")
OFFICIAL = Actor("official", "clerk-4711@portal")
CASE = CaseId("019b9c3a-0000-7000-8000-00000000c0de")

_noise = random.Random(1)  # noqa: S311 - ids of a test


def an_id() -> EventId:
    """Return a fresh event id."""
    return EventId(str(uuid7(NOW, _noise.randbytes(10))))


def an_event(kind: Kind = Kind.REQUEST_ACCEPTED, **fields: object) -> Event:
    """Return an event about the mother, with other fields where they are given."""
    values: dict[str, object] = {
        "id": an_id(),
        "at": NOW,
        "kind": kind,
        "outcome": "accepted",
        "requester": "yunxi_portal",
        "provider": "yunxi_health",
        "evidence_type": "birth_certificate@1",
        "policy": "packs-digest",
        "correlation": "lookup-1",
        "subjects": (MOTHER,),
        "actor": OFFICIAL,
        "case": CASE,
        "matter": "newborn@1",
        "details": {"requirements": ["birth_registered"], "grant": "newborn_health"},
        **fields,
    }
    return Event(**values)  # type: ignore[arg-type] # a test may give wrong ones


def some_evidence() -> dict[str, Json]:
    """Return what the section `evidence` holds."""
    return {"id": "sha256-of-the-jwt", "fields": ["birth_date"]}


def pieces_of_size(size: int) -> Iterator[Piece]:
    """Yield every hash tile and bundle that a checkpoint of `size` leaves implies."""
    for (level, index), width in tiles_of_size(size):
        yield Piece(level, index, width)
        if level == 0:
            yield Piece(None, index, width)


@dataclass(frozen=True, slots=True)
class Room:
    """A log with all that belongs to it."""

    folder: Path
    place: Place
    """Where the log is kept."""
    keys: LogKeys
    directory: SubjectDirectory
    sealer: Sealer
    log: AuditLog
    publisher: Publisher
    clock: FakeClock

    @property
    def path(self) -> Path:
        """The log's file."""
        assert isinstance(self.place, Path)
        return self.place

    @property
    def sqlite(self) -> SqliteEngine:
        """The writer of the log's file."""
        engine = self.log._engine
        assert isinstance(engine, SqliteEngine)
        return engine

    def beside(self, name: str) -> Place:
        """Return where something else is kept, on the same engine."""
        if isinstance(self.place, Path):
            return self.folder / f"{name}.db"
        return Postgres(self.place.url, f"{self.place.schema}_{name}")

    def change(
        self, statement: str, values: Sequence[Value] = (), part: str | None = None
    ) -> int:
        """Change what is stored in the log, or in a part beside it, unseen by it."""
        place = self.place if part is None else self.beside(part)
        with closing(open_sql(place)) as sql, sql.transaction() as changes:
            return changes.change(statement, values)

    @contextmanager
    def reader(self) -> Iterator[LogReader]:
        """Read the log."""
        with closing(LogReader.open(self.place)) as reader:
            yield reader

    def close(self) -> None:
        """Close everything; twice does no harm."""
        self.publisher.stop()
        self.log.close()
        self.directory.close()


def open_room(
    folder: Path,
    keys: LogKeys | None = None,
    limits: Limits | None = None,
    place: Place | None = None,
) -> Room:
    """Open the log at a place, or in a folder, and make it where there is none."""
    keys = keys or make_keys(ORIGIN)
    clock = FakeClock(NOW)
    place = place or folder / "log.db"
    subjects: Place = folder / "subjects.db"
    if isinstance(place, Postgres):
        subjects = Postgres(place.url, f"{place.schema}_subjects")
    directory = SubjectDirectory(subjects, keys.directory)
    sealer = Sealer(keys.origin, keys.shard, directory)
    limits = limits or Limits(free_bytes=0)
    try:
        log = AuditLog(place, sealer, keys.receipt, limits)
    except Exception:
        directory.close()
        raise
    publisher = Publisher(log, keys.log, clock)
    return Room(folder, place, keys, directory, sealer, log, publisher, clock)
