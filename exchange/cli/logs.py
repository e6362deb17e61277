"""How a command names a log, one of its shards, and what belongs to it."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import ErrandError

if TYPE_CHECKING:
    from audit.beside import Elsewhere
    from audit.sql import Place

Where = Annotated[
    str, typer.Argument(help="Its address, a folder as served or of data, or its file.")
]
LogKey = Annotated[
    str,
    typer.Option("--vkey", "--key", help="The log's vkey, as `errand keys show`."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="An access token, for a log with entries for members."),
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="A tlog-policy: who must have cosigned.")
]
StampCertificates = Annotated[
    Path | None,
    typer.Option(help="Certificates (PEM) of whose time stamps there must be."),
]
StateFile = Annotated[
    Path | None,
    typer.Option(help="Remembers what is verified: a later run goes on from it."),
]
LogKeysFolder = Annotated[
    Path | None,
    typer.Option("--keys", help="The log's own keys: opens every section."),
]
ShardName = Annotated[
    str | None,
    typer.Option("--shard", help="One of the log's shards: `first`, or as `2026h2`."),
]
SubjectsPlace = Annotated[
    str | None,
    typer.Option(
        "--subjects",
        help="The subject directory's database or file, if not beside the log.",
    ),
]
ErasuresPlace = Annotated[
    str | None,
    typer.Option(
        "--erasures", help="The shred ledger's database or file, if not beside the log."
    ),
]
AnchorsPlace = Annotated[
    str | None,
    typer.Option(
        "--anchors-in",
        help="The store that has the anchors, if they are not beside the log: "
        "a folder, or an address as of `tiles_url`.",
    ),
]


def stored_shard(log: str, shard: str | None) -> "Place":
    """Return where a shard itself is kept.

    Raises:
        ErrandError: There is none.
    """
    from audit.fetching import stored_log

    stored = stored_log(log, shard)
    if stored is None:
        raise ErrandError(f"there is no log at `{Path(log).name}`")
    return stored


def elsewhere_of(
    subjects: str | None, erasures: str | None = None, anchors: str | None = None
) -> "Elsewhere":
    """Return where what belongs to a log is kept, as options name it.

    Raises:
        SettingsError: An address is of no store.
    """
    from audit.beside import Elsewhere
    from audit.fetching import fetch_from_folder
    from audit.ledger import ERASURES_SCHEMA
    from audit.objects import open_objects
    from audit.places import parse_place
    from audit.subjects import SUBJECTS_SCHEMA

    fetch = None
    if anchors is not None:
        is_store = anchors.startswith(("file:", "s3:"))
        fetch = (
            open_objects(anchors).read if is_store else fetch_from_folder(Path(anchors))
        )
    return Elsewhere(
        subjects=None if subjects is None else parse_place(subjects, SUBJECTS_SCHEMA),
        erasures=None if erasures is None else parse_place(erasures, ERASURES_SCHEMA),
        anchors=fetch,
    )


def read_token(file: Path | None) -> str | None:
    """Return an access token from its file."""
    return None if file is None else file.read_text(encoding="ascii").strip()
