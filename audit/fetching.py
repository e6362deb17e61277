"""Where a log is read from: an address, a folder of its files, or its own file.

A log is its checkpoint and its pieces, each at a path (C2SP tlog-tiles); whoever
verifies it need not know where they come from.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from audit.bounded import Bounds, Exchanges
from audit.note import text_of
from audit.places import parse_place
from audit.served import CHECKPOINT, read_piece
from audit.sql import Place, SqliteSql
from audit.store import LogReader, log_schema
from audit.tiles import Piece, parse_piece
from schemas.errors import (
    StoreUnavailableError,
    TokenWantedError,
    UnverifiableError,
    VerificationError,
)

LOG_FILE: Final = "log.db"
"""The log's file in a data folder."""
SHARDS_FOLDER: Final = "shards"
"""The folder of later shards in a data folder, and below a log's address."""
FIRST: Final = "first"
"""What the first shard is called, which has no name."""
PUBLIC_FOLDER: Final = "public"
"""Where a data folder keeps what is given away and stands in no table: anchors."""
PIECE_LIMIT = 32 << 20
"""Largest resource that is read, in bytes: a bundle of 256 entries is at most half."""

_ANY_OF_A_LOG = "SELECT 1 FROM sqlite_schema WHERE name IN ('meta', 'entry')"
_TIMEOUT_S = 30.0
"""How long each read of a resource may take, in seconds."""
_TOTAL_S = 300.0
"""How long a resource may take, in seconds: the largest at 1 Mbit/s."""
_AT_ONCE = 8
"""How many pieces are fetched at once over HTTP."""
_AHEAD = 32
"""How many pieces are fetched before they are asked for."""

Fetch = Callable[[str], bytes | None]
"""Gives what is served at a path below the log's address; None for nothing."""


def is_address(where: str) -> bool:
    """Return whether a log is named by its address, and not by a file or folder."""
    return where.startswith(("http://", "https://"))


def stored_log(where: str, shard: str | None = None) -> Place | None:
    """Return where a log itself is kept; None where only what it serves is.

    Args:
        where: A database (PostgreSQL URL), a log's file, or a data folder with one.
        shard: The name of one of its shards; `first` or None for the first.
    """
    if is_address(where):
        return None
    later = "" if shard in (None, FIRST) else shard
    place = parse_place(where, log_schema(later))
    if not isinstance(place, Path):
        return place
    folder = place / SHARDS_FOLDER / later if later else place
    file = folder / LOG_FILE if folder.is_dir() else folder
    return file if file.is_file() else None


@contextmanager
def fetching(
    where: str, token: str | None = None, shard: str | None = None
) -> Iterator[Fetch]:
    """Read a log from wherever it is.

    Args:
        where: Its address, a folder of files as served, or where it is kept itself.
        token: An access token, for a log whose entries are for members.
        shard: The name of one of its shards; None for what stands there itself.

    Raises:
        UnverifiableError: There is nothing.
    """
    if is_address(where):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        with fetching_from_url(where, headers) as fetch:
            yield fetch if shard is None else _fetch_from_shard(fetch, shard)
        return
    stored = stored_log(where, shard)
    if stored is not None:
        with open_still(stored) as reader:
            yield fetch_from_file(reader)
    elif (folder := _served_folder(where, shard)).is_dir():
        yield fetch_from_folder(folder)
    else:
        raise UnverifiableError(f"there is no log at `{Path(where).name}`")


def _fetch_from_shard(fetch: Fetch, shard: str) -> Fetch:
    """Return what reads a shard below a log's address.

    Sealed ones stand in a folder of their own; the one that is written to is what the
    address itself serves, and that may be the first, or the one of this name. Where
    there is no such shard, nothing is read.
    """
    for below in (f"{SHARDS_FOLDER}/{shard}/", f"{shard}/"):
        if fetch(below + CHECKPOINT) is not None:
            return _fetch_below(fetch, below)
    origin = _first_line(fetch(CHECKPOINT))
    first = _first_line(fetch(SHARDS_FOLDER)).removesuffix(f"/{SHARDS_FOLDER}")
    is_named = origin.rpartition("/")[2] == shard
    if origin and (is_named or (shard == FIRST and first in ("", origin))):
        return fetch
    return _fetch_below(fetch, f"{SHARDS_FOLDER}/{shard}/")


def _fetch_below(fetch: Fetch, folder: str) -> Fetch:
    return lambda path: fetch(folder + path)


def _first_line(note: bytes | None) -> str:
    """Return what a note is of; empty for none."""
    return (note or b"").partition(b"\n")[0].decode("utf-8", "replace")


def check_published(fetch: Fetch, where: str, shard: str | None = None) -> None:
    """Raise unless there is a checkpoint: without one there is nothing to verify.

    Args:
        fetch: Reads the log.
        where: How the log was named.
        shard: Which of its shards.

    Raises:
        UnverifiableError: There is none; says what to name.
    """
    if fetch(CHECKPOINT) is not None:
        return
    told = "there is no log, or nothing of it is published yet"
    if shard is not None:
        raise UnverifiableError(
            f"there is no shard `{shard}`, or nothing of it is published yet: its name "
            f"is `{FIRST}`, or the last part of its origin"
        )
    if is_address(where):
        raise UnverifiableError(
            f"{where}: {told}: the address of a gateway's log ends in `/log`"
        )
    raise UnverifiableError(f"`{Path(where).name}`: {told}")


def _served_folder(where: str, shard: str | None) -> Path:
    """Return the folder of a shard's pieces: the first shard's is that of them all."""
    return Path(where) if shard in (None, FIRST) else Path(where) / shard


def fetch_from_folder(folder: Path) -> Fetch:
    """Return what reads a log from a folder of files as they are served."""

    def fetch(path: str) -> bytes | None:
        file = folder / path
        return file.read_bytes() if file.is_file() else None

    return fetch


def fetch_from_file(reader: LogReader) -> Fetch:
    """Return what reads the published part of a log from its own file."""

    def fetch(path: str) -> bytes | None:
        if path == CHECKPOINT:
            head = reader.published()
            return None if head is None else head.note.encode()
        piece = parse_piece(path)
        return None if piece is None else read_piece(reader, piece)

    return fetch


@contextmanager
def fetching_from_url(
    url: str, headers: Mapping[str, str] | None = None, *, total_s: float = _TOTAL_S
) -> Iterator[Fetch]:
    """Read a log over HTTP.

    Args:
        url: The log's address.
        headers: Sent with each request; such as a token where one is needed.
        total_s: How long one resource may take, from first to last, in seconds.

    Fetching raises `UnverifiableError` where neither content nor 404 comes.
    """
    bounds = Bounds(_TIMEOUT_S, total_s, PIECE_LIMIT)
    with closing(Exchanges(bounds, headers=headers, trust_env=True)) as exchanges:

        def fetch(path: str) -> bytes | None:
            try:
                answer = exchanges.ask("GET", f"{url.rstrip('/')}/{path}")
            except StoreUnavailableError as error:
                told = "is the server running, and the address right?"
                raise UnverifiableError(
                    f"{path}: it did not come ({error}): {told}"
                ) from None
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise TokenWantedError(f"{path}: HTTP {answer.status}")
            if answer.status != HTTPStatus.OK:
                raise UnverifiableError(f"{path}: HTTP {answer.status}")
            return answer.content

        yield fetch


@contextmanager
def ahead(fetch: Fetch, plan: Iterator[Piece]) -> Iterator[Fetch]:
    """Fetch pieces before they are asked for, some at once.

    Args:
        fetch: Fetches one; must bear several threads.
        plan: The pieces in the order in which they will be asked for, as far as it
            is known: what is asked for out of order is fetched then.
    """
    coming: dict[str, Future[bytes | None]] = {}
    threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="errand-fetch")

    def fetched(path: str) -> bytes | None:
        while len(coming) < _AHEAD and (piece := next(plan, None)) is not None:
            coming[piece.path] = threads.submit(fetch, piece.path)
        future = coming.pop(path, None)
        return fetch(path) if future is None else future.result()

    try:
        yield fetched
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def wanted(content: bytes | None, path: str) -> bytes:
    """Return what must be there.

    Raises:
        VerificationError: It is missing.
    """
    if content is None:
        raise VerificationError(f"{path}: missing")
    return content


def fetch_head(fetch: Fetch, name: str) -> bytes:
    """Return the signed head that a log shows, which is yet to be verified.

    Raises:
        VerificationError: It is missing, or no note.
        UnverifiableError: It is the head of a log of another name, and signed so: of a
            later shard, where the one that was written to is sealed.
    """
    note = wanted(fetch(CHECKPOINT), CHECKPOINT)
    is_named = text_of(note).startswith(f"{name}\n")
    # What names it in one place, and not in the other, is damaged.
    if not is_named and f"\n\N{EM DASH} {name} ".encode() not in note:
        raise UnverifiableError(
            f"the log that is shown there is not `{name}`: if that one is sealed, "
            f"`--shard` names it, as in `--shard {FIRST}`, and `errand audit verify "
            "--shards` verifies it and all later ones"
        )
    return note


def fetch_piece(fetch: Fetch, piece: Piece) -> tuple[bytes, Piece]:
    """Return a piece's content, and which piece it is the content of.

    Of a partial piece that is gone, that is the full one, which it begins.

    Raises:
        VerificationError: Neither is there.
    """
    found = fetch(piece.path)
    if found is None and piece.is_partial:
        full = Piece(piece.level, piece.index)
        content = fetch(full.path)
        if content is not None:
            return content, full
    return wanted(found, piece.path), piece


@contextmanager
def open_still(log: Place) -> Iterator[LogReader]:
    """Open a log for reading, as of one instant; nothing is ever written.

    Args:
        log: A data folder, a log's file, or a schema of a PostgreSQL database.

    Raises:
        UnverifiableError: There is none.
        VerificationError: It is damaged.
        LogUnavailableError: The server can't be reached.
    """
    if not isinstance(log, Path):
        with closing(LogReader.open(log)) as reader, reader.sql.snapshot():
            yield reader
        return
    with _opened(log / LOG_FILE if log.is_dir() else log) as reader:
        yield reader


@contextmanager
def _opened(file: Path) -> Iterator[LogReader]:
    """Open a log's file for reading, without a trace beside it.

    A write-ahead file that belongs to it is read as well, which SQLite can't do
    without writing: so both are copied away first.
    """
    if not file.is_file():
        raise UnverifiableError(f"there is no log at `{file.name}`")
    wal = file.with_name(file.name + "-wal")
    read, query = file, "mode=ro&immutable=1"
    with ExitStack() as stack:
        if wal.is_file() and wal.stat().st_size:
            read, query = stack.enter_context(copied_away(file)), "mode=rw"
        uri = f"{read.absolute().as_uri()}?{query}"
        opened = sqlite3.connect(uri, uri=True, isolation_level=None)
        stack.enter_context(closing(opened))
        try:
            _check_is_log(opened, file.name)
            yield LogReader(SqliteSql(opened))
        except sqlite3.Error as error:
            raise VerificationError(f"`{file.name}`: {error}") from None


def _check_is_log(opened: sqlite3.Connection, name: str) -> None:
    """Raise unless a file is a database with a table of a log.

    Raises:
        UnverifiableError: It is none, or another one: there is nothing to verify.
        sqlite3.Error: It is damaged.
    """
    try:
        if opened.execute(_ANY_OF_A_LOG).fetchone() is not None:
            return
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
    raise UnverifiableError(f"`{name}` is no log")


@contextmanager
def copied_away(file: Path) -> Iterator[Path]:
    """Copy a SQLite file, and the write-ahead file that belongs to it."""
    with tempfile.TemporaryDirectory(prefix="errand-verify-") as folder:
        for source in (file, file.with_name(file.name + "-wal")):
            if source.is_file():
                shutil.copyfile(source, Path(folder, source.name))
        yield Path(folder, file.name)
