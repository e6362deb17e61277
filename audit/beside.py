"""What lies beside a log, for whoever verifies it: people, who is gone, and anchors.

The subject directory, the shred ledger and the anchors stand where the log does: in the
data folder of its file, or in its database; unless it is said where.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.anchor import ANCHORS
from audit.fetching import (
    PUBLIC_FOLDER,
    SHARDS_FOLDER,
    Fetch,
    copied_away,
    fetch_from_folder,
)
from audit.keys import LogKeys
from audit.ledger import ERASURES_FILE, ERASURES_SCHEMA, erased_subjects
from audit.places import open_sql
from audit.sealing import Sealer
from audit.sql import Place, Postgres
from audit.store import shard_of_schema
from audit.subjects import SUBJECTS_SCHEMA, SubjectDirectory
from audit.table_objects import PUBLIC_SCHEMA, TableObjects
from audit.walking import Opener
from schemas.errors import UnverifiableError, VerificationError

SUBJECTS_FILE: Final = "subjects.db"
"""The subject directory's file in a data folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Where what belongs to a log is kept; None for beside it."""

    subjects: Place | None = None
    """The subject directory."""
    erasures: Place | None = None
    """The shred ledger."""
    anchors: Fetch | None = None
    """Reads anchors."""


BESIDE: Final = Elsewhere()
"""All of it stands beside the log."""


def anchors_of(log: Place, elsewhere: Elsewhere = BESIDE) -> Fetch:
    """Return what reads the anchors of a log."""
    if elsewhere.anchors is not None:
        return elsewhere.anchors
    if not isinstance(log, Path):
        public = Postgres(log.url, PUBLIC_SCHEMA)
        return TableObjects(public, shard_of_schema(log.schema)).read
    folder = log if log.is_dir() else log.parent
    if folder.parent.name == SHARDS_FOLDER:
        return fetch_from_folder(folder.parent.parent / PUBLIC_FOLDER / folder.name)
    return fetch_from_folder(folder / PUBLIC_FOLDER)


def with_anchors(fetch: Fetch, anchors: Fetch) -> Fetch:
    """Return what reads a log from one place, and its anchors from another."""

    def fetched(path: str) -> bytes | None:
        return (anchors if path.startswith(f"{ANCHORS}/") else fetch)(path)

    return fetched


@contextmanager
def open_sealer(
    log: Place, keys: LogKeys | None, elsewhere: Elsewhere = BESIDE
) -> Iterator[Sealer | None]:
    """Open a log's subject directory, where keys are given; a file's copy.

    Raises:
        UnverifiableError: There is none.
        VerificationError: It is damaged.
    """
    if keys is None:
        yield None
        return
    source = elsewhere.subjects or _subjects_beside(log)
    with ExitStack() as stack:
        if isinstance(source, Path):
            if not source.is_file():
                raise UnverifiableError(f"there is no `{SUBJECTS_FILE}` beside the log")
            source = stack.enter_context(copied_away(source))
        else:
            _check_there(source)
        with _naming_subjects():
            directory = SubjectDirectory(source, keys.directory)
        stack.callback(directory.close)
        yield Sealer(keys.origin, keys.shard, directory)


def _subjects_beside(log: Place) -> Place:
    if isinstance(log, Path):
        return _beside(log, SUBJECTS_FILE)
    return Postgres(log.url, SUBJECTS_SCHEMA)


def _check_there(place: Postgres) -> None:
    """Raise unless a database has a subject directory: none is ever made here."""
    with closing(open_sql(place, read_only=True)) as sql:
        if not sql.is_made("subject"):
            raise UnverifiableError(
                f"the database has no subject directory (`{place.schema}`): name the "
                "one that has"
            )


@contextmanager
def _naming_subjects() -> Iterator[None]:
    """Say of a damaged file that it is the subject directory's."""
    try:
        yield
    except sqlite3.Error as error:
        raise VerificationError(f"`{SUBJECTS_FILE}`: {error}") from None


def make_opener(
    log: Place, sealer: Sealer | None, elsewhere: Elsewhere = BESIDE
) -> Opener | None:
    """Return what opens sections, with what the ledger has erased.

    Raises:
        VerificationError: A row of the subject directory is not what was written.
    """
    if sealer is None:
        return None
    with _naming_subjects():
        sealer.directory.check()
    return Opener(sealer, erased_subjects(elsewhere.erasures or _ledger_beside(log)))


def _ledger_beside(log: Place) -> Place:
    if isinstance(log, Path):
        return _beside(log, ERASURES_FILE)
    return Postgres(log.url, ERASURES_SCHEMA)


def _beside(log: Path, name: str) -> Path:
    """Return where a file of the data folder is that a log's file lies in.

    A later shard lies two folders below it.
    """
    folder = log if log.is_dir() else log.parent
    if folder.parent.name == SHARDS_FOLDER and not (folder / name).is_file():
        folder = folder.parent.parent
    return folder / name
