"""A log to test with, and events for it: everything that a test is not about."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from audit.keys import LogKeys, make_keys
from audit.publisher import Publisher
from audit.record import Actor, Event, Kind, Subject
from audit.sealing import Sealer
from audit.store import LogReader
from audit.subjects import SubjectDirectory
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


@dataclass(frozen=True, slots=True)
class Room:
    """A log with all that belongs to it, in one folder."""

    folder: Path
    keys: LogKeys
    directory: SubjectDirectory
    sealer: Sealer
    log: AuditLog
    publisher: Publisher
    clock: FakeClock

    @property
    def path(self) -> Path:
        """The log's file."""
        return self.folder / "log.db"

    @contextmanager
    def reader(self) -> Iterator[LogReader]:
        """Read the log."""
        reader = LogReader.open(self.path)
        try:
            yield reader
        finally:
            reader.close()

    def close(self) -> None:
        """Close everything; twice does no harm."""
        self.publisher.stop()
        self.log.close()
        self.directory.close()


def open_room(
    folder: Path, keys: LogKeys | None = None, limits: Limits | None = None
) -> Room:
    """Open the log in a folder, and make it where there is none."""
    keys = keys or make_keys(ORIGIN)
    clock = FakeClock(NOW)
    directory = SubjectDirectory(folder / "subjects.db", keys.directory)
    sealer = Sealer(keys.origin, keys.shard, directory)
    limits = limits or Limits(free_bytes=0)
    log = AuditLog(folder / "log.db", sealer, keys.receipt, limits)
    publisher = Publisher(log, keys.log, clock)
    return Room(folder, keys, directory, sealer, log, publisher, clock)
