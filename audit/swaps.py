"""What a publisher stores, and how: each step a compare-and-swap, in one transaction.

INVARIANT: of two publishers that read the same, one alone moves the tree, and one
alone the checkpoint, whoever believes to lead. So there is one history.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from audit.sections import guard
from audit.sql import Changes, Tables
from audit.store import SignedHead
from audit.tiles import TileId
from schemas.errors import LogUnavailableError
from schemas.ids import CaseId, EventId

_TABLES = """
CREATE TABLE attempt (event_id {text} PRIMARY KEY, case_ref TEXT NOT NULL){clustered};
CREATE TABLE tile (
    level INTEGER NOT NULL,
    number {number} NOT NULL,
    hashes {bytes} NOT NULL,
    PRIMARY KEY (level, number)
);
CREATE TABLE tree (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size {number} NOT NULL,
    root {bytes} NOT NULL
);
CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size {number} NOT NULL,
    note TEXT NOT NULL,
    signed_ms {number} NOT NULL,   -- when, in milliseconds since 1970
    guard {number} NOT NULL        -- check value over the row
);
CREATE TABLE published (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    size {number} NOT NULL,
    note TEXT NOT NULL,            -- with the cosignatures of witnesses
    signed_ms {number} NOT NULL,
    guard {number} NOT NULL
);
"""
PUBLISHED_TABLES = Tables(
    sqlite=_TABLES.format(
        number="INTEGER", bytes="BLOB", text="TEXT", clustered=" WITHOUT ROWID"
    ),
    postgres=_TABLES.format(
        number="BIGINT", bytes="BYTEA", text='TEXT COLLATE "C"', clustered=""
    )
    # Hashes can't be compressed: nobody tries.
    + "ALTER TABLE tile ALTER hashes SET STORAGE EXTERNAL;",
)
"""What a publisher stores, beside the records that the engines keep."""


def head_guard(size: int, note: str, signed_ms: int) -> int:
    """Return the check value over a stored checkpoint."""
    return guard(note.encode(), f"{size} {signed_ms}".encode())


@dataclass(frozen=True, slots=True)
class Integration:
    """Stores changed tiles and moves the tree's head, if it is where it was read.

    The look-ups under way move with it, so that the writer of records need not keep
    them: most have ended by then, and no row is ever written for them.
    """

    before: tuple[int, bytes]
    after: tuple[int, bytes]
    tiles: Mapping[TileId, bytes]
    begun: Mapping[EventId, CaseId]
    """The case of each look-up that the new leaves begin, and do not end."""
    ended: frozenset[EventId]
    """The look-ups that they end, and that earlier leaves have begun."""

    def __call__(self, changes: Changes) -> None:
        """Do it; raise LogUnavailableError when another one was there before."""
        if self.before[0] == 0:
            changes.change(
                "INSERT INTO tree VALUES (1, 0, ?) ON CONFLICT DO NOTHING",
                (self.before[1],),
            )
        moved = changes.change(
            "UPDATE tree SET size = ?, root = ? WHERE size = ? AND root = ?",
            (*self.after, *self.before),
        )
        if moved != 1:
            raise LogUnavailableError("another publisher has moved the tree")
        changes.change_all(
            "INSERT INTO tile VALUES (?, ?, ?)"
            " ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
            [(*tile, hashes) for tile, hashes in self.tiles.items()],
        )
        changes.change_all(
            "DELETE FROM attempt WHERE event_id = ?",
            [(event,) for event in self.ended],
        )
        changes.change_all("INSERT INTO attempt VALUES (?, ?)", self.begun.items())


@dataclass(frozen=True, slots=True)
class Publication:
    """Puts a checkpoint in the place of the one that was read: compare and swap."""

    before: SignedHead | None
    after: SignedHead
    is_public: bool
    """Whether it is published at once, without any cosignature."""

    def __call__(self, changes: Changes) -> None:
        """Do it; raise LogUnavailableError when another one was there before."""
        row = (self.after.size, self.after.note, self.after.signed_ms, self.after.guard)
        if self.before is None:
            swapped = changes.change(
                "INSERT INTO checkpoint VALUES (1, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                row,
            )
        else:
            swapped = changes.change(
                "UPDATE checkpoint SET size = ?, note = ?, signed_ms = ?, guard = ?"
                " WHERE note = ? AND signed_ms = ?",
                (*row, self.before.note, self.before.signed_ms),
            )
        if swapped != 1:
            raise LogUnavailableError("another publisher has moved the checkpoint")
        if self.is_public:
            Release(self.after)(changes)


@dataclass(frozen=True, slots=True)
class Release:
    """Shows outsiders a head; never one that is older than what they have seen."""

    head: SignedHead

    def __call__(self, changes: Changes) -> None:
        """Do it."""
        changes.change(
            "INSERT INTO published VALUES (1, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET size = excluded.size, note = excluded.note,"
            " signed_ms = excluded.signed_ms, guard = excluded.guard"
            " WHERE published.size <= excluded.size"
            " AND published.signed_ms <= excluded.signed_ms",
            (self.head.size, self.head.note, self.head.signed_ms, self.head.guard),
        )
