"""What a log keeps, on either engine: its rows, reading them, and the port of engines.

`entry` holds the records in order: `seq` is the leaf's index, gapless from 0. Beside
the leaf stand private columns for the index, and the sealed sections, which alone
may ever change. `tile` holds the hash tiles, `tree` what is integrated, `attempt` the
look-ups of cases that had not ended by then, `checkpoint` what was signed last,
`published` what outsiders see: the same, or the last one that enough witnesses have
cosigned.

On SQLite one writer alone writes (`engine_sqlite`), on PostgreSQL that of each
replica (`engine_postgres`). A log with tiles in files or objects changes this module,
the engines and the tile rows alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from audit.nodes import SharedNodes
from audit.places import open_sql
from audit.record import Kind, Leaf, read_leaf
from audit.sealing import SealedRecord
from audit.sql import Changes, Place, Row, Sql
from audit.tiles import TileId, edge_tiles
from schemas.errors import SettingsError
from schemas.ids import CaseId, EventId

FORMAT = "2"
"""Version of the tables, and of what is sealed in them."""
TABLES: Final = ("entry", "attempt", "tile", "tree", "checkpoint", "published")
"""What every log has on either engine, beside `meta`."""
LEFT = "left"
"""Name of the mark in `meta` that a log was left, as it has lost records."""
RECEIPTS = "receipts"
"""Name of the key in `meta` that receipts verify with, as a vkey."""
LOG_SCHEMA = "errand_log"
"""Where a log stands in a PostgreSQL database; its later shards beside it."""

NOT_WHOLE: Final = (
    "it is no whole copy of a log; restore all of it from one backup, and run "
    "`errand audit verify`"
)
"""What to do where a part of a log is not there."""
_SHARD_SCHEMA = "errand_shard_"
_T = TypeVar("_T")


def log_schema(shard: str) -> str:
    """Return the schema of a shard on PostgreSQL; "" stands for the first.

    No two schemas share a name, since a shard's name has no underscore.

    >>> log_schema("2026h2")
    'errand_shard_2026h2'
    """
    return f"{_SHARD_SCHEMA}{shard}" if shard else LOG_SCHEMA


def shard_of_schema(schema: str) -> str:
    """Return the name of the shard in a schema; "" for the first.

    >>> shard_of_schema("errand_shard_2026h2")
    '2026h2'
    """
    has_name = schema.startswith(_SHARD_SCHEMA)
    return schema.removeprefix(_SHARD_SCHEMA) if has_name else ""


Work: TypeAlias = Callable[[Changes], None]
"""What is done in a transaction of its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored record."""

    seq: int
    event_id: EventId
    leaf: bytes
    leaf_hash: bytes
    case_ref: CaseId | None
    matter: str
    subject_refs: str
    actor_ref: str | None
    ends: EventId | None
    guard: int
    sealed: bytes = field(repr=False)
    """Its sealed sections; b"" where there are none."""
    sealed_guard: int


@dataclass(frozen=True, slots=True)
class Appended:
    """A record that is durable."""

    event: EventId
    index: int
    """Where it stands in the log."""
    leaf_hash: bytes
    at_ms: int
    """When it happened, in milliseconds since 1970."""


class Described(NamedTuple):
    """What of a record the search index is made from."""

    seq: int
    event: EventId
    leaf: bytes
    matter: str
    case: CaseId | None
    actor_ref: str | None
    subject_refs: str


_DESCRIBED = (
    "SELECT seq, event_id, leaf, matter, case_ref, actor_ref, subject_refs FROM entry"
)


class Link(NamedTuple):
    """What of a record links it to its look-up, and to its leaf."""

    seq: int
    event: EventId
    leaf: bytes
    leaf_hash: bytes
    case: CaseId | None
    ends: EventId | None


_ATTEMPT = "SELECT event_id, case_ref FROM attempt"
_LINK = "SELECT seq, event_id, leaf, leaf_hash, case_ref, ends FROM entry"
ACCEPTED = f',"kind":"{Kind.REQUEST_ACCEPTED.value}",'.encode()
"""In a leaf, which is canonical JSON, these bytes stand for the kind and nothing else:
within a string the quotation marks would be escaped."""


def attempts_of(
    links: Iterable[Link],
) -> tuple[dict[EventId, CaseId], frozenset[EventId]]:
    """Return the look-ups of cases that records begin, and those that they end."""
    begun: dict[EventId, CaseId] = {}
    ended: list[EventId] = []
    for _, event, leaf, _, case, ends in links:
        if ends is not None:
            ended.append(ends)
        elif case is not None and ACCEPTED in leaf:
            begun[event] = case
    return begun, frozenset(ended)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The checkpoint that was signed last."""

    size: int
    note: str
    """The signed note."""
    signed_ms: int
    guard: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was not done."""

    reason: str
    """What its callers are told."""
    fault: str | None = None
    """Why nothing may be done until the log is opened again; None when it may."""
    is_sealed: bool = False
    """Whether the fault is no harm: the log has ended, and another one goes on."""
    is_behind: bool = False
    """Whether the fault is that the log lacks what it has signed or promised, so that
    to open it again may be worse."""


class Engine(Protocol):
    """Keeps the records; belongs to the writer's thread.

    INVARIANT: what `append` returned is on the disk, numbered without a gap.
    """

    @property
    def size(self) -> int:
        """How many records are known to be durable; read from any thread."""

    def check(self) -> None:
        """Look whether there is room.

        Raises:
            LogUnavailableError: Nothing may be written for now.
        """

    def append(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Store records, all or none, and return where they stand once durable.

        A record whose event is in the log already is not stored again; what stands
        there is returned.
        """

    def transact(self, work: Work) -> None:
        """Do something else in a transaction, and return once it is durable."""

    def explain(self, error: Exception) -> Refusal:
        """Undo what an error left half done, and say what it means."""

    def tidy(self) -> None:
        """Do what is better done between two batches."""

    def close(self) -> None:
        """Let go of everything."""


ENTRY_COLUMNS = (
    "seq, event_id, leaf, leaf_hash, case_ref, matter, subject_refs,"
    " actor_ref, ends, guard, sealed, sealed_guard"
)
_ENTRY = f"SELECT {ENTRY_COLUMNS} FROM entry"  # noqa: S608 - names of ours


class LogReader:
    """Reads a log; each thread takes a reader of its own."""

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.nodes = SharedNodes(self.tile)
        """What its proofs have in common."""

    @classmethod
    def open(cls, place: Place) -> "LogReader":
        """Open a log that writers may have open.

        Raises:
            LogUnavailableError: The server can't be reached.
            sqlite3.Error: There is no such file.
        """
        return cls(open_sql(place, read_only=True))

    def close(self) -> None:
        """Let go of it."""
        self.sql.close()

    def meta(self) -> Mapping[str, str]:
        """Return what the log says of itself: format, origin, key of receipts, mark."""
        return read_meta(self.sql)

    def left(self) -> str | None:
        """Return the mark that the log was left, and for which shard; None for none.

        It is read with `audit.shards.open_handing_on`.
        """
        return self.meta().get(LEFT)

    def size(self) -> int:
        """Return how many records there are."""
        [[size]] = self.sql.rows("SELECT coalesce(max(seq) + 1, 0) FROM entry")
        return int(size)

    def entries(self, start: int, end: int) -> Iterator[Entry]:
        """Yield the records from `start` up to, not including, `end`, in order."""
        for row in self.rows(start, end):
            yield Entry(*row)

    def rows(self, start: int, end: int) -> list[Row]:
        """Return the same as the rows that they are, for whoever reads very many."""
        query = f"{_ENTRY} WHERE seq >= ? AND seq < ? ORDER BY seq"
        return self.sql.rows(query, (start, end))

    def leaves(self, start: int, end: int) -> list[bytes]:
        """Return the leaves of the records in a range that there are, in order."""
        query = "SELECT leaf FROM entry WHERE seq >= ? AND seq < ? ORDER BY seq"
        return [leaf for (leaf,) in self.sql.rows(query, (start, end))]

    def links(self, start: int, end: int) -> list[Link]:
        """Return what links records of look-ups in a range, in order."""
        query = f"{_LINK} WHERE seq >= ? AND seq < ? ORDER BY seq"
        return list(map(Link._make, self.sql.rows(query, (start, end))))

    def described(self, start: int, end: int) -> list[Described]:
        """Return what the search index is made from, of a range, in order."""
        query = f"{_DESCRIBED} WHERE seq >= ? AND seq < ? ORDER BY seq"
        return list(map(Described._make, self.sql.rows(query, (start, end))))

    def entry_of(self, event: EventId) -> Entry | None:
        """Return the record of an event; None when there is none."""
        for row in self.sql.rows(f"{_ENTRY} WHERE event_id = ?", (event,)):
            return Entry(*row)
        return None

    def last_leaf(self) -> Leaf | None:
        """Return the last record, as its leaf says it; None when there is none."""
        for (leaf,) in self.sql.rows(
            "SELECT leaf FROM entry ORDER BY seq DESC LIMIT 1"
        ):
            return read_leaf(leaf)
        return None

    def attempts(self, case: CaseId | None = None) -> Mapping[EventId, CaseId]:
        """Return the case of each look-up that was accepted and has not ended.

        Up to where the tree is, `attempt` names them; from there on, the records do.
        The tree may move on meanwhile: its size is read first, so that every record is
        in one part or in both, which does no harm.

        Args:
            case: The case whose look-ups are wanted; None for those of all.
        """
        size, _ = self.tree() or (0, b"")
        of, values = ("", ()) if case is None else ("case_ref = ?", (case,))
        begun: dict[EventId, CaseId] = dict(
            self.sql.rows(_ATTEMPT + (of and f" WHERE {of}"), values)
        )
        links = self.sql.rows(
            f"{_LINK} WHERE seq >= ?" + (of and f" AND {of}"), (size, *values)
        )
        later, ended = attempts_of(map(Link._make, links))
        begun |= later
        return {event: begun[event] for event in begun if event not in ended}

    def tile(self, level: int, number: int) -> bytes:
        """Return the hashes of a tile that there are; b"" for none."""
        query = "SELECT hashes FROM tile WHERE level = ? AND number = ?"
        for (hashes,) in self.sql.rows(query, (level, number)):
            return bytes(hashes)
        return b""

    def edge(self, size: int) -> Mapping[TileId, bytes]:
        """Return the tiles that the root of a tree of `size` is computed from."""
        wanted = edge_tiles(size)
        if not wanted:
            return {}
        at = " OR ".join(["(level = ? AND number = ?)"] * len(wanted))
        query = f"SELECT level, number, hashes FROM tile WHERE {at}"  # noqa: S608 - marks alone
        rows = self.sql.rows(query, [part for tile in wanted for part in tile])
        return {(level, number): bytes(hashes) for level, number, hashes in rows}

    def tile_ids(self) -> list[TileId]:
        """Return which tiles are stored."""
        return self.sql.rows("SELECT level, number FROM tile ORDER BY level, number")

    def tree(self) -> tuple[int, bytes] | None:
        """Return the size and the root of what is integrated; None for nothing."""
        for size, root in self.sql.rows("SELECT size, root FROM tree"):
            return size, root
        return None

    def head(self) -> SignedHead | None:
        """Return the checkpoint that was signed last; None before the first."""
        return self._head("checkpoint")

    def published(self) -> SignedHead | None:
        """Return the checkpoint that outsiders see; None before the first."""
        return self._head("published")

    def _head(self, table: str) -> SignedHead | None:
        query = f"SELECT size, note, signed_ms, guard FROM {table}"  # noqa: S608 - one of two names
        for row in self.sql.rows(query):
            return SignedHead(*row)
        return None


Look: TypeAlias = Callable[[LogReader], tuple[str, _T]]
"""Reads what is left of a log, of which nothing changes any more; returns the mark that
it was left, and whatever else was wanted."""


def read_meta(sql: Changes | Sql) -> Mapping[str, str]:
    """Return what a log says of itself: format, origin, key of receipts, mark."""
    return dict(sql.rows("SELECT name, value FROM meta"))


def check_tables(sql: Sql, name: str, tables: Iterable[str]) -> None:
    """Verify that a log that was made has these tables: none is made anew.

    Args:
        sql: Reads it.
        name: What an error may call its file, or its schema.
        tables: What it must have.

    Raises:
        SettingsError: One is missing.
    """
    for table in tables:
        if not sql.is_made(table):
            raise SettingsError(f"`{name}` has no table `{table}`: {NOT_WHOLE}")


def is_log_of(meta: Mapping[str, str], origin: str) -> bool:
    """Return whether a log is that of an origin, in the format that we know."""
    return (meta.get("format"), meta.get("origin")) == (FORMAT, origin)


def note_receipts(changes: Changes, vkey: str) -> None:
    """Note which key receipts verify with; one that stands there stays.

    While there is no record there is no receipt: whoever comes then is the first.
    """
    changes.change(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE"
        " SET value = excluded.value WHERE NOT EXISTS (SELECT 1 FROM entry)",
        (RECEIPTS, vkey),
    )


def mark_left(changes: Changes, mark: str) -> None:
    """Mark a log as left; a mark that stands there stays.

    INVARIANT: once it is committed, the log takes no record from anybody who opens it.
    """
    changes.change(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING", (LEFT, mark)
    )
