"""How a command names a log, one of its shards, and what belongs to it."""

# ruff: noqa: PLC0415 - a command imports what it runs, see `exchange.__main__`

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exchange.cli.console import A_PLACE
from exchange.files import read_file, read_text
from schemas.errors import (
    ErrandError,
    TokenWantedError,
    UnverifiableError,
    VerificationError,
)

if TYPE_CHECKING:
    from audit.beside import Elsewhere
    from audit.fetching import Fetch
    from audit.keys import LogKeys
    from audit.policy import Policy
    from audit.receipt import Proof
    from audit.sql import Place

Where = Annotated[
    str,
    typer.Argument(help="Its address, a folder as served or of data, or its file."),
    A_PLACE,
]


def read_vkey(text: str | None) -> str | None:
    """Return a vkey as it was given, once it is known to be one.

    Raises:
        ErrandError: It is none.
    """
    from audit.note import parse_vkey

    if text is None:
        return None
    try:
        return parse_vkey(text).vkey
    except VerificationError as error:
        raise ErrandError(
            f"this key is no vkey: {error}; `errand keys show` and the address "
            "`/log/keys` of a gateway show whole ones: put them in quotation marks"
        ) from None


LogKey = Annotated[
    str,
    typer.Option(
        "--vkey",
        "--key",
        help="The log's vkey, as `errand keys show`.",
        callback=read_vkey,
    ),
]
ReceiptKey = Annotated[
    str | None,
    typer.Option(
        help="The vkey that receipts are signed with, as `errand keys show`.",
        callback=read_vkey,
    ),
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
    A_PLACE,
]
ErasuresPlace = Annotated[
    str | None,
    typer.Option(
        "--erasures", help="The shred ledger's database or file, if not beside the log."
    ),
    A_PLACE,
]
AnchorsPlace = Annotated[
    str | None,
    typer.Option(
        "--anchors-in",
        help="The store that has the anchors, if they are not beside the log: "
        "a folder, or an address as of `tiles_url`.",
    ),
    A_PLACE,
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


def check_keys(key: str, receipt_key: str | None) -> None:
    """Refuse a log's key and a receipt key that are not of one log.

    Raises:
        ErrandError: They are not; says so where the two are swapped.
    """
    from audit.note import parse_vkey

    if receipt_key is None:
        return
    log, receipts = parse_vkey(key).name, parse_vkey(receipt_key).name
    if log == f"{receipts}/receipt":
        raise ErrandError("`--vkey` and `--receipt-key` are swapped")
    if receipts != f"{log}/receipt":
        raise ErrandError(f"the receipt key of `{log}` is named `{log}/receipt`")


def read_receipt(file: Path) -> bytes:
    """Return the receipt in a file, which has the form of one.

    Raises:
        SettingsError: The file can't be read.
        UnverifiableError: It is no receipt.
    """
    note = read_file(file)
    check_receipt_form(file, note)
    return note


def check_receipt_form(file: Path, note: bytes) -> None:
    """Raise unless a note from a file has the form of a receipt.

    Raises:
        UnverifiableError: It has not.
    """
    from audit.receipt import parse_receipt

    with _naming(file, "receipt"):
        parse_receipt(note)


def read_proof(file: Path, text: str) -> "Proof":
    """Return the proof that stands in a file, which has the form of one.

    Raises:
        UnverifiableError: It is no proof.
    """
    from audit.receipt import check_proof_form, parse_proof

    with _naming(file, "proof"):
        proof = parse_proof(text)
        check_proof_form(proof)
    return proof


def read_head(file: Path) -> bytes:
    """Return the signed checkpoint in a file, which has the form of one.

    Raises:
        SettingsError: The file can't be read.
        UnverifiableError: It is no checkpoint.
    """
    from audit.note import parse_checkpoint, text_of

    note = read_file(file)
    with _naming(file, "signed checkpoint"):
        parse_checkpoint(text_of(note))
    return note


def read_shards(file: Path) -> bytes:
    """Return the list of shards in a file, which has the form of a signed note.

    Raises:
        SettingsError: The file can't be read.
        UnverifiableError: It is no note.
    """
    from audit.note import text_of

    note = read_file(file)
    with _naming(file, "list of shards"):
        text_of(note)
    return note


@contextmanager
def _naming(file: Path, wanted: str) -> Iterator[None]:
    """Say of a file that it is not what is wanted: then nothing could be verified.

    What has the form and does not hold is another matter: that is forged, or broken.
    """
    try:
        yield
    except VerificationError as error:
        raise UnverifiableError(f"`{file.name}` is no {wanted}: {error}") from None


_TOKEN = re.compile(r"[\x21-\x7e]+")


def read_token(file: Path | None) -> str | None:
    """Return an access token from its file.

    Raises:
        SettingsError: The file can't be read.
        ErrandError: It holds no token.
    """
    if file is None:
        return None
    token = read_text(file).strip()
    if not _TOKEN.fullmatch(token):
        raise ErrandError(f"`{file}` holds no access token: {_GET_ONE}")
    return token


_GET_ONE = "`errand token auditor --client ... --key-file ...` prints one"


def read_policy(file: Path | None) -> "Policy | None":
    """Return who must have cosigned, from a file.

    Raises:
        SettingsError: It can't be read, or is no policy.
    """
    from audit.policy import parse_policy

    return None if file is None else parse_policy(read_text(file))


def read_keys(folder: Path | None) -> "LogKeys | None":
    """Return a log's own keys from their folder.

    Raises:
        SettingsError: They are not there, or can't be read.
    """
    from audit.keys import LOG_FILE, load_keys

    if folder is None:
        return None
    below = folder / "log"
    if not (folder / LOG_FILE).exists() and (below / LOG_FILE).exists():
        raise ErrandError(
            f"`{folder}` has the gateway's keys: the log's own are in `{below}`"
        )
    return load_keys(folder)


@contextmanager
def opened(log: str, token: str | None, shard: str | None) -> Iterator["Fetch"]:
    """Read a log that has a checkpoint, from wherever it is.

    Raises:
        UnverifiableError: There is none, or it is not shown; says what to do.
    """
    from audit.fetching import check_published, fetching

    with asking_for_a_token(token), fetching(log, token, shard) as fetch:
        check_published(fetch, log, shard)
        yield fetch


@contextmanager
def asking_for_a_token(token: str | None) -> Iterator[None]:
    """Say what to do where a log shows its entries to members alone.

    Raises:
        UnverifiableError: It does, and this token opens nothing.
    """
    try:
        yield
    except TokenWantedError as error:
        told = (
            "the entries are for members: give an auditor's access token in a file, "
            "`--token-file`"
            if token is None
            else "the token in `--token-file` is not an auditor's, or has expired"
        )
        raise UnverifiableError(f"{error}: {told}; {_GET_ONE}") from None
