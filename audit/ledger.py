"""The shred ledger: what was erased and what is held, apart from what it is about.

It only grows, and a line is durable before anything rests on it. It holds references,
which mean nothing once the subject directory has lost them, and no id.

On PostgreSQL several processes share it, and each keeps keys in its memory. So each has
a row beside the ledger with a lease, which says up to which line it has forgotten what
was erased (`forgetting`). A file belongs to one process, and there are no such rows.

SOURCE: audit-log design, 5.3.
"""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from audit.places import open_sql
from audit.record import Actor, Event, Kind
from audit.sql import Changes, Place, Postgres, SqliteSql, Tables
from schemas.errors import NotFoundError, StateConflictError
from schemas.ids import EventId

ERASURES_FILE: Final = "erasures.db"
"""The ledger's file in a data folder."""
ERASURES_SCHEMA = "errand_erasures"
"""Where the ledger stands in a PostgreSQL database."""

_TABLES = Tables(
    sqlite="""
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    act TEXT NOT NULL,             -- erase, hold, release
    what TEXT NOT NULL,            -- subject, shard
    name TEXT NOT NULL,            -- reference of the subject, origin of the shard
    event_id TEXT NOT NULL UNIQUE, -- the record that says so
    by_client TEXT NOT NULL,
    reason TEXT NOT NULL,          -- where the reason is kept: a file number
    hold TEXT                      -- the hold that a release ends
);
CREATE TRIGGER ledger_is_never_changed BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER ledger_is_never_removed BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
""",
    postgres="""
CREATE TABLE ledger (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    act TEXT COLLATE "C" NOT NULL,
    what TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL UNIQUE,
    by_client TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    hold TEXT COLLATE "C"
);
CREATE FUNCTION the_ledger_only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the ledger only grows'; END $$;
CREATE TRIGGER ledger_is_never_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
FOR EACH STATEMENT EXECUTE FUNCTION the_ledger_only_grows();
CREATE TABLE replica (
    id TEXT COLLATE "C" PRIMARY KEY,  -- of one process, made when it starts
    name TEXT COLLATE "C" NOT NULL,   -- what operators call it
    heard BIGINT NOT NULL,            -- the last line that it has carried out
    lease_until TIMESTAMPTZ NOT NULL  -- by the database's clock
);
""",
)
_COLUMNS = "at_ms, act, what, name, event_id, by_client, reason, hold"
_HELD = (
    f"SELECT {_COLUMNS} FROM ledger AS held WHERE act = 'hold' AND NOT EXISTS"  # noqa: S608 - names of ours
    " (SELECT 1 FROM ledger WHERE act = 'release' AND hold = held.event_id)"
)

_SAY = (
    "INSERT INTO replica VALUES"
    " (?, ?, ?, clock_timestamp() + ? * INTERVAL '1 millisecond')"
    " ON CONFLICT (id) DO UPDATE"
    " SET heard = excluded.heard, lease_until = excluded.lease_until"
)
_TIDY = "DELETE FROM replica WHERE lease_until < clock_timestamp() - INTERVAL '1 day'"
"""Strikes out who never came to leave."""
_BEHIND = (
    "SELECT name FROM replica WHERE lease_until > clock_timestamp()"
    " AND heard < (SELECT number FROM ledger WHERE event_id = ?) ORDER BY name, id"
)
_MILLISECOND = timedelta(milliseconds=1)


class Act(StrEnum):
    """What a line of the ledger says."""

    ERASE = "erase"
    HOLD = "hold"
    RELEASE = "release"


class What(StrEnum):
    """What can be erased, and held."""

    SUBJECT = "subject"
    SHARD = "shard"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger."""

    at_ms: int
    """When, in milliseconds since 1970."""
    act: Act
    what: What
    name: str
    """The subject's reference, or the shard's origin."""
    event: EventId
    """The record that says so, or will: it is made again where a log lost it."""
    by: str
    """The client that asked for it."""
    reason: str
    """Where the reason is kept, as a file number: nobody's name."""
    hold: EventId | None = None
    """The hold that a release ends."""

    def as_event(self) -> Event:
        """Return the record of this line: always the same one.

        It is about nobody, so that it stays readable when a key is gone.
        """
        is_erasure = self.act is Act.ERASE
        return Event(
            id=self.event,
            at=datetime.fromtimestamp(self.at_ms / 1000, UTC),
            kind=Kind.KEY_SHREDDED if is_erasure else Kind.HOLD_CHANGED,
            outcome=self.what if is_erasure else _OUTCOMES[self.act],
            requester=self.by,
            correlation=self.hold or "",
            actor=Actor("system", self.by),
            details={"what": self.what, "name": self.name, "reason": self.reason},
        )


_OUTCOMES = {Act.HOLD: "held", Act.RELEASE: "released"}


class Ledger:
    """What was erased and what is held; it only grows, and is durable line by line."""

    def __init__(self, place: Place) -> None:
        """Open the ledger, and make it where there is none.

        Args:
            place: Where it is kept: apart from the directory and its backups.

        Raises:
            LogUnavailableError: The server can't be reached.
        """
        with ExitStack() as undone:
            self._sql = undone.enter_context(closing(open_sql(place)))
            if isinstance(self._sql, SqliteSql):
                # A line is on the disk, and the folder knows the file, before a key
                # goes.
                self._sql.connection.execute("PRAGMA synchronous=EXTRA")
            self._sql.make(_TABLES)
            undone.pop_all()

    def close(self) -> None:
        """Let go of it."""
        self._sql.close()

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write to it."""
        return not isinstance(self._sql, SqliteSql)

    def add(self, line: Line) -> None:
        """Write a line, durably; an erasure that a hold forbids is refused.

        Raises:
            StateConflictError: What is to be erased is held.
            NotFoundError: What is to be released is not held.
            LogUnavailableError: It is not known to be written.
        """
        with self._sql.transaction() as changes:
            if self.is_shared:
                # Of two replicas, one holds and the other erases: never both. And
                # numbers become visible in their order, so that `after` skips none.
                changes.change("LOCK TABLE ledger IN EXCLUSIVE MODE")
            _check(line, [_line(row) for row in changes.rows(_HELD)])
            _insert(changes, line)

    def holds(self) -> list[Line]:
        """Return the holds that stand."""
        return [_line(row) for row in self._sql.rows(f"{_HELD} ORDER BY number")]

    def erasures(self) -> list[Line]:
        """Return everything that was erased, or was about to be."""
        query = f"SELECT {_COLUMNS} FROM ledger WHERE act = 'erase' ORDER BY number"  # noqa: S608 - names of ours
        return [_line(row) for row in self._sql.rows(query)]

    def after(self, number: int) -> list[tuple[int, Line]]:
        """Return the lines after one, in order, each with its number; 0 for all."""
        query = (
            f"SELECT number, {_COLUMNS} FROM ledger"  # noqa: S608 - names of ours
            " WHERE number > ? ORDER BY number"
        )
        rows = self._sql.rows(query, (number,))
        return [(number, _line(row)) for number, *row in rows]

    def erased(self, what: What, names: Sequence[str]) -> Line | None:
        """Return the line that erased any of these; None when none of them was."""
        query = (
            f"SELECT {_COLUMNS} FROM ledger"  # noqa: S608 - names of ours
            " WHERE act = 'erase' AND what = ? AND name = ?"
        )
        for name in names:
            for row in self._sql.rows(query, (what, name)):
                return _line(row)
        return None

    def found(self, event: EventId) -> Line:
        """Return the line of a record.

        Raises:
            NotFoundError: There is none.
        """
        query = f"SELECT {_COLUMNS} FROM ledger WHERE event_id = ?"  # noqa: S608 - names of ours
        for row in self._sql.rows(query, (event,)):
            return _line(row)
        raise NotFoundError("there is no such erasure")

    # Who shares it.

    def say(self, process: str, name: str, heard: int, lease: timedelta) -> None:
        """Say how far a process has forgotten, and count it in for a while.

        Args:
            process: Its id, of this start alone.
            name: What operators call it.
            heard: The number of the last line that it has carried out.
            lease: How long it is waited for when it falls silent.

        Raises:
            LogUnavailableError: It is not known to be written.
        """
        if not self.is_shared:
            return
        with self._sql.transaction() as changes:
            changes.change(_SAY, (process, name, heard, lease // _MILLISECOND))
            changes.change(_TIDY)

    def leave(self, process: str) -> None:
        """Count a process out that ends: its memory ends with it."""
        if self.is_shared:
            with self._sql.transaction() as changes:
                changes.change("DELETE FROM replica WHERE id = ?", (process,))

    def behind(self, event: EventId) -> list[str]:
        """Return the names of those that have yet to forget what a line erased."""
        if not self.is_shared:
            return []
        return [str(name) for (name,) in self._sql.rows(_BEHIND, (event,))]


def erased_subjects(place: Place) -> frozenset[str]:
    """Return the references of everybody erased; where there is no ledger, of nobody.

    Raises:
        LogUnavailableError: The server can't be reached.
    """
    if isinstance(place, Path) and not place.is_file():
        return frozenset()
    with closing(open_sql(place, read_only=True)) as sql:
        # INVARIANT: who is erased never passes for somebody who is not. A schema may
        # not be made yet; a file that is there and has no ledger is another file.
        if isinstance(place, Postgres) and not sql.is_made("ledger"):
            return frozenset()
        query = "SELECT name FROM ledger WHERE act = ? AND what = ?"
        rows = sql.rows(query, (Act.ERASE.value, What.SUBJECT.value))
    return frozenset([name for (name,) in rows])


def _line(row: Sequence[object]) -> Line:
    at_ms, act, what, name, event, by, reason, hold = row
    return Line(
        int(str(at_ms)),
        Act(str(act)),
        What(str(what)),
        str(name),
        EventId(str(event)),
        str(by),
        str(reason),
        None if hold is None else EventId(str(hold)),
    )


def _insert(changes: Changes, line: Line) -> None:
    changes.change(
        f"INSERT INTO ledger ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - names of ours
        (
            *(line.at_ms, line.act.value, line.what.value, line.name),
            *(line.event, line.by, line.reason, line.hold),
        ),
    )


def _check(line: Line, holds: Sequence[Line]) -> None:
    """Raise unless a line may be written while these holds stand.

    INVARIANT: what is held is not erased. A shard holds records about many, and what
    is about one stands in many shards: so a hold on a shard keeps every subject, and
    a hold on a subject every shard.
    """
    if line.act is Act.RELEASE and line.hold not in {hold.event for hold in holds}:
        raise NotFoundError("there is no such hold, or it was released")
    if line.act is not Act.ERASE:
        return
    for hold in holds:
        if hold.what is not line.what or hold.name == line.name:
            raise StateConflictError(
                f"a hold on a {hold.what} forbids it: record {hold.event}"
            )
