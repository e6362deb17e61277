"""A log with all that belongs to it, opened where the bench wants it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from audit.keys import LogKeys
from audit.sealing import Sealer
from audit.sql import Place
from audit.subjects import SubjectDirectory
from audit.writer import AuditLog

ORIGIN: Final = "bench.example/log/2026h2"


@contextmanager
def sealing(subjects: Place, keys: LogKeys) -> Iterator[Sealer]:
    """Open a subject directory, and what seals records about its subjects."""
    with closing(SubjectDirectory(subjects, keys.directory)) as directory:
        yield Sealer(keys.origin, keys.shard, directory)


@contextmanager
def logging_to(place: Place, sealer: Sealer, keys: LogKeys) -> Iterator[AuditLog]:
    """Open a log with the limits of a gateway."""
    with closing(AuditLog(place, sealer, keys.receipt)) as log:
        yield log
