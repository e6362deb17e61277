"""What lies beside a log, for whoever opens its sections: the people, and who is gone.

The subject directory and the shred ledger stand where the log does: in the data folder
of its file, or in its database; unless it is said where.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from audit.keys import LogKeys
from audit.ledger import ERASURES_FILE, ERASURES_SCHEMA, erased_subjects
from audit.sealing import Sealer
from audit.sql import Place, Postgres
from audit.subjects import SUBJECTS_SCHEMA, SubjectDirectory
from audit.walking import Opener
from schemas.errors import VerificationError

SHARDS_FOLDER: Final = "shards"
"""The folder of later shards in a data folder."""
SUBJECTS_FILE: Final = "subjects.db"
"""The subject directory's file in a data folder."""


@contextmanager
def open_sealer(log: Place, keys: LogKeys | None) -> Iterator[Sealer | None]:
    """Open the subject directory beside a log, where keys are given; a file's copy.

    Raises:
        VerificationError: There is none.
    """
    if keys is None:
        yield None
        return
    if not isinstance(log, Path):
        place = Postgres(log.url, SUBJECTS_SCHEMA)
        with closing(SubjectDirectory(place, keys.directory)) as directory:
            yield Sealer(keys.origin, keys.shard, directory)
        return
    source = _beside(log, SUBJECTS_FILE)
    if not source.is_file():
        raise VerificationError(f"there is no `{SUBJECTS_FILE}` beside the log")
    with tempfile.TemporaryDirectory(prefix="errand-verify-") as folder:
        for suffix in ("", "-wal"):
            name = source.name + suffix
            if source.with_name(name).is_file():
                shutil.copyfile(source.with_name(name), Path(folder, name))
        with _naming_subjects():
            directory = SubjectDirectory(Path(folder, source.name), keys.directory)
        try:
            yield Sealer(keys.origin, keys.shard, directory)
        finally:
            directory.close()


@contextmanager
def _naming_subjects() -> Iterator[None]:
    """Say of a damaged file that it is the subject directory's."""
    try:
        yield
    except sqlite3.Error as error:
        raise VerificationError(f"`{SUBJECTS_FILE}`: {error}") from None


def make_opener(log: Place, sealer: Sealer | None) -> Opener | None:
    """Return what opens sections, with what the ledger beside the log has erased.

    Raises:
        VerificationError: A row of the subject directory is not what was written.
    """
    ledger: Place
    if sealer is None:
        return None
    with _naming_subjects():
        sealer.directory.check()
    if not isinstance(log, Path):
        ledger = Postgres(log.url, ERASURES_SCHEMA)
    else:
        ledger = _beside(log, ERASURES_FILE)
    return Opener(sealer, erased_subjects(ledger))


def _beside(log: Path, name: str) -> Path:
    """Return where a file of the data folder is that a log's file lies in.

    A later shard lies two folders below it.
    """
    folder = log if log.is_dir() else log.parent
    if folder.parent.name == SHARDS_FOLDER and not (folder / name).is_file():
        folder = folder.parent.parent
    return folder / name
