"""The command that writes an access log to files: as it is served, or as a table."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exchange.cli.console import (
    A_PLACE,
    AboutSubject,
    OfCase,
    OfKind,
    OfMatter,
    OfOutcome,
    OfProvider,
    OfRequester,
    Since,
    Until,
    check_span,
    given,
    read_subject_id,
)
from exchange.cli.logs import (
    ShardName,
    SubjectsPlace,
    elsewhere_of,
    read_keys,
    stored_shard,
)
from exchange.files import check_writable
from schemas.errors import ErrandError, SettingsError

if TYPE_CHECKING:
    from audit.query import RecordQuery
    from audit.sql import Place
    from audit.store import LogReader

_DATABASE = b"SQLite format 3\0"
"""What a SQLite file begins with (SQLite documentation, database file format)."""
_ELSEWHERE = "name a place of its own"

app = typer.Typer()
"""Part of the group `audit`."""


@app.command("export")
def export_log(  # noqa: PLR0913 - the conditions of `query`
    log: Annotated[
        str,
        typer.Argument(help="A data folder, a log's file, or its database."),
        A_PLACE,
    ],
    target: Annotated[Path, typer.Argument(help="The folder, or the table's file.")],
    form: Annotated[
        Literal["files", "ndjson", "parquet"],
        typer.Option("--format", help="Static files as served, or a table of records."),
    ] = "files",
    *,
    shard: ShardName = None,
    subject: AboutSubject = False,
    keys_folder: Annotated[
        Path | None, typer.Option("--keys", help="The log's own keys: for `--subject`.")
    ] = None,
    subjects: SubjectsPlace = None,
    requester: OfRequester = None,
    provider: OfProvider = None,
    matter: OfMatter = None,
    case: OfCase = None,
    outcome: OfOutcome = None,
    kind: OfKind = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Write the published log: as static files for any web server, or as a table.

    A table holds what auditors search by, in columns, of all records or of those that
    meet every condition; it opens no section.
    """
    check_span(since, until)
    stored = stored_shard(log, shard)
    _check_apart(target)
    conditions = given(
        requester=requester,
        provider=provider,
        matter=matter,
        case=case,
        outcome=outcome,
        kind=kind,
        since=since,
        until=until,
    )
    if form == "files":
        if conditions or subject:
            raise ErrandError("files hold all of the log: conditions are for tables")
        size = _export_files(stored, target)
    else:
        check_writable(target, is_replaced=True)
        ref = _subject_ref(stored, keys_folder, subjects) if subject else None
        size = _export_table(stored, target, form, _query(conditions, ref))
    sys.stdout.write(f"{size} entries\n")


def _check_apart(target: Path) -> None:
    """Refuse to write where a log or a gateway keeps its own.

    Raises:
        ErrandError: A database or keys stand there, such as in a data folder.
    """
    from audit.fetching import PUBLIC_FOLDER
    from audit.keys import LOG_FILE

    folder = target.parent if target.absolute().name == PUBLIC_FOLDER else target
    inside = [*folder.iterdir()] if folder.is_dir() else []
    for one in (target, *inside):
        if one.is_file() and _begins_as_database(one):
            raise ErrandError(
                f"`{target}` holds `{one.name}`, a database: {_ELSEWHERE}"
            )
        if one.is_dir() and (one / "log" / LOG_FILE).exists():
            raise ErrandError(f"`{target}` holds keys, in `{one.name}`: {_ELSEWHERE}")


def _begins_as_database(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_DATABASE)) == _DATABASE


def _export_files(stored: "Place", target: Path) -> int:
    """Write static files, as they are served; return how many entries there are."""
    from audit.anchor import copy_anchors
    from audit.beside import anchors_of
    from audit.mirror import mirror
    from audit.objects import FolderObjects

    objects = FolderObjects(target)
    copy_anchors(anchors_of(stored), objects)
    with _reading(stored) as reader:
        return mirror(reader, objects)


def _export_table(
    stored: "Place", target: Path, form: str, wanted: "RecordQuery"
) -> int:
    """Write a table; return how many rows it has."""
    from audit.export import published_rows, write_export, write_ndjson, write_parquet

    write = write_ndjson if form == "ndjson" else write_parquet
    with _reading(stored) as reader:
        return write_export(target, published_rows(reader, wanted), write)


@contextmanager
def _reading(stored: "Place") -> "Iterator[LogReader]":
    """Read a log where it is kept, which may go on meanwhile.

    Raises:
        SettingsError: Its file is no log.
    """
    from audit.store import LogReader

    try:
        with closing(LogReader.open(stored)) as reader:
            yield reader
    except sqlite3.Error as error:
        raise SettingsError(f"`{stored}` can't be read: {error}") from None


def _query(conditions: dict[str, str], ref: str | None) -> "RecordQuery":
    """Return the conditions, read.

    Raises:
        ErrandError: One of them is of no form that records have.
    """
    from audit.query import RecordQuery
    from audit.record import Kind

    kind = conditions.pop("kind", None)
    since, until = (
        None if text is None else datetime.fromisoformat(text)
        for text in (conditions.pop("since", None), conditions.pop("until", None))
    )
    try:
        read = None if kind is None else Kind(kind)
    except ValueError:
        raise ErrandError("`--kind` is none that records have") from None
    return RecordQuery(
        **conditions,  # type: ignore[arg-type] # what is left is text, and so are the fields
        subject_ref=ref,
        kind=read,
        since=since,
        until=until,
    )


def _subject_ref(
    stored: "Place", keys_folder: Path | None, subjects: str | None
) -> str:
    """Return the reference of whoever stdin names; "" for nobody that is known."""
    from audit.beside import open_sealer
    from audit.record import Subject

    keys = read_keys(keys_folder)
    with open_sealer(stored, keys, elsewhere_of(subjects)) as sealer:
        if sealer is None:
            raise ErrandError("`--subject` takes `--keys`, to find the person with")
        who = Subject("", "citizen_id", read_subject_id())
        try:
            return sealer.directory.ref_to_ask_for(who)
        except ValueError as error:
            raise ErrandError(f"the id on standard input {error}") from None
