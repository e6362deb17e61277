"""A log in PostgreSQL: several replicas append, and the server numbers.

A batch is one call of one function in one transaction. The function locks the row
that counts, so that batches are numbered one after the other, without a gap and in
the order in which they are committed: who reads up to a number has read everything
below it. (A sequence would commit out of order.)

INVARIANT: an append that returned was confirmed by a commit. Where a connection is
lost in mid-commit, the function is called again with the same events: under the lock
it finds those that were committed, and stores the others.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final, LiteralString, TypeAlias, TypeVar

import psycopg

from audit.arrays import Blobs, Numbers, Texts
from audit.postgres import SEALED_STATE, PostgresSql, unavailable
from audit.record import milliseconds, read_leaf
from audit.sealing import SealedRecord
from audit.sql import Changes, Postgres, Sql, Tables
from audit.store import (
    FORMAT,
    NOT_WHOLE,
    Appended,
    LogReader,
    Look,
    Refusal,
    Work,
    is_log_of,
    mark_left,
    read_meta,
)
from audit.swaps import PUBLISHED_TABLES
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import EventId

_PUT_BACK: Final = "ER001"
"""The SQL state with which the function refuses, where promised records are gone."""
_RETRY_S: Final = 0.05
"""Seconds between two tries to reach a server that was lost."""

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE coordinate (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    next BIGINT NOT NULL           -- index of the next leaf
) WITH (fillfactor = 10);          -- room for the many versions of one row
INSERT INTO coordinate VALUES (1, 0);
CREATE TABLE entry (
    seq BIGINT PRIMARY KEY,        -- index of the leaf
    event_id TEXT COLLATE "C" NOT NULL UNIQUE,
    leaf BYTEA NOT NULL,
    leaf_hash BYTEA NOT NULL,
    case_ref TEXT,                 -- from here on private: for the index alone
    matter TEXT NOT NULL,
    subject_refs TEXT NOT NULL,    -- separated by spaces
    actor_ref TEXT,
    ends TEXT,                     -- event id of the look-up that ended with this
    guard BIGINT NOT NULL,         -- check value over the private columns
    sealed BYTEA NOT NULL,         -- sections, as `Sealer.open_sections` reads them
    sealed_guard BIGINT NOT NULL
) WITH (toast_tuple_target = 8160);
-- Ciphertext and hashes can't be compressed: nobody tries.
ALTER TABLE entry ALTER leaf SET STORAGE EXTERNAL, ALTER sealed SET STORAGE EXTERNAL;
CREATE FUNCTION the_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the log only grows'; END $$;
CREATE TRIGGER entry_is_never_changed
BEFORE UPDATE OF seq, event_id, leaf, leaf_hash ON entry
FOR EACH ROW EXECUTE FUNCTION the_log_only_grows();
CREATE TRIGGER entry_is_never_removed BEFORE DELETE OR TRUNCATE ON entry
FOR EACH STATEMENT EXECUTE FUNCTION the_log_only_grows();

-- Returns the index of the first record that was stored, and how many were: those
-- whose event is in the log already are left out. `promised` is how many records the
-- caller knows to be durable: with fewer of them the log was put back.
CREATE FUNCTION append_records(
    promised BIGINT, event_ids TEXT[], leaves BYTEA[], leaf_hashes BYTEA[],
    case_refs TEXT[], matters TEXT[], subjects TEXT[], actors TEXT[], ended TEXT[],
    guards BIGINT[], sealeds BYTEA[], sealed_guards BIGINT[],
    OUT first BIGINT, OUT added BIGINT
) LANGUAGE plpgsql AS $$
BEGIN
    -- Whoever changes this row first is numbered first; the others wait here.
    UPDATE coordinate SET next = next + cardinality(event_ids)
    RETURNING next - cardinality(event_ids) INTO STRICT first;
    IF first < promised THEN
        RAISE EXCEPTION 'the log was put back' USING ERRCODE = 'ER001';
    END IF;
    INSERT INTO entry
    SELECT first - 1 + row_number() OVER (ORDER BY g.place),
        g.event_id, g.leaf, g.leaf_hash, g.case_ref, g.matter, g.subject, g.actor,
        g.ended, g.guard, g.sealed, g.sealed_guard
    FROM unnest(
        event_ids, leaves, leaf_hashes, case_refs, matters, subjects, actors, ended,
        guards, sealeds, sealed_guards
    ) WITH ORDINALITY AS g(
        event_id, leaf, leaf_hash, case_ref, matter, subject, actor, ended, guard,
        sealed, sealed_guard, place
    )
    WHERE NOT EXISTS (SELECT FROM entry AS e WHERE e.event_id = g.event_id);
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added < cardinality(event_ids) THEN
        UPDATE coordinate SET next = first + added;
    END IF;
END $$;
"""
_LOG: Final = Tables("", _TABLES + PUBLISHED_TABLES.postgres, NOT_WHOLE)
_FREEZE: Final = """
CREATE OR REPLACE FUNCTION the_shard_is_sealed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the shard is sealed' USING ERRCODE = 'ER002'; END $$;
-- For each row: of a batch that was stored before, nothing is stored, nor refused.
CREATE OR REPLACE TRIGGER entry_is_sealed BEFORE INSERT ON entry
FOR EACH ROW EXECUTE FUNCTION the_shard_is_sealed();
"""
_FREEZE_HEADS: Final = """
CREATE OR REPLACE TRIGGER checkpoint_is_frozen
BEFORE INSERT OR UPDATE OR DELETE ON checkpoint
FOR EACH STATEMENT EXECUTE FUNCTION the_shard_is_sealed();
CREATE OR REPLACE TRIGGER published_is_frozen
BEFORE INSERT OR UPDATE OR DELETE ON published
FOR EACH STATEMENT EXECUTE FUNCTION the_shard_is_sealed();
"""
_APPEND: Final[LiteralString] = (
    "SELECT first, added FROM append_records(%b::bigint, %b::text[], %b::bytea[],"
    " %b::bytea[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],"
    " %b::bigint[], %b::bytea[], %b::bigint[])"
)
_FIND: Final[LiteralString] = (
    "SELECT event_id, seq, leaf, leaf_hash FROM entry WHERE event_id = ANY (%s)"
)
_SIZE: Final = "SELECT next FROM coordinate"

_T = TypeVar("_T")
_Places: TypeAlias = dict[EventId, Appended]


class PostgresEngine:
    """Keeps a log's records in a schema of a PostgreSQL database.

    Args:
        place: The database and the schema, which is made where there is none.
        origin: The log's name.
        resolve_s: Seconds for which a batch that was cut off is looked up.

    Raises:
        SettingsError: The schema is another log's, or not whole, or the server is set
            to lose what it has confirmed.
        LogUnavailableError: The server can't be reached.
    """

    def __init__(self, place: Postgres, origin: str, *, resolve_s: float) -> None:
        self.sql = PostgresSql(place)
        self._resolve_s = resolve_s
        self._stopping = threading.Event()
        with ExitStack() as undone:
            undone.callback(self.sql.close)
            self._make(place, {"format": FORMAT, "origin": origin})
            self._size = _next_index(self.sql, place)
            undone.pop_all()
        self._fault: str | None = None
        self._is_sealed = False
        self._is_behind = False

    def _make(self, place: Postgres, meta: Mapping[str, str]) -> None:
        """Make the log where there is none, and see that it is the one we mean."""
        self.sql.make(_LOG)
        # A log with records was given its name before: a copy without it is not whole.
        if _next_index(self.sql, place) == 0:
            with self.sql.transaction() as changes:
                changes.change_all(
                    "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING",
                    meta.items(),
                )
        if not is_log_of(read_meta(self.sql), meta["origin"]):
            raise SettingsError(
                f"the schema `{place.schema}` is the log of another origin or format"
            )

    @property
    def size(self) -> int:
        """How many records are durable, as far as this replica has heard."""
        return self._size

    def check(self) -> None:
        """Look for nothing: the server itself refuses where there is no room."""

    def append(self, records: Sequence[SealedRecord]) -> list[Appended]:
        """Store records in one call and return where they stand."""
        once: dict[EventId, SealedRecord] = {}
        for record in records:
            once.setdefault(record.event.id, record)
        fresh = list(once.values())
        batch = _arguments(fresh)
        # A server that is known to be away was not asked anything: refused at once.
        self.sql.connected()
        try:
            places = self._append(fresh, batch)
        except LogUnavailableError:
            if not self.sql.is_lost:
                raise
            # Nobody knows whether it was committed: ask, and only then answer.
            places = self._resolve(fresh, batch)
        self._size = max(self._size, *[place.index + 1 for place in places.values()])
        return [places[record.event.id] for record in records]

    def _append(self, fresh: Sequence[SealedRecord], batch: list[Any]) -> _Places:
        """Call the function once."""
        connection = self.sql.connected()
        try:
            called = connection.execute(_APPEND, [self._size, *batch], binary=True)
            [first, added] = called.fetchone() or (0, 0)
            self.sql.refuse_warnings()
            if added == len(fresh):
                return {
                    record.event.id: Appended(
                        record.event.id, seq, record.leaf_hash, record.at_ms
                    )
                    for seq, record in enumerate(fresh, first)
                }
            # Some were in the log already, which is rare: see where.
            ids = [record.event.id for record in fresh]
            found = connection.execute(_FIND, (ids,), binary=True).fetchall()
        except psycopg.Error as error:
            if error.sqlstate == _PUT_BACK:
                self._fault = "the log was put back: what it has promised is gone"
                self._is_behind = True
                raise LogUnavailableError(self._fault) from None
            refused = unavailable(error)
            if error.sqlstate == SEALED_STATE:
                self._fault, self._is_sealed = str(refused), True
            raise refused from None
        return {
            event: Appended(event, seq, digest, milliseconds(read_leaf(leaf).at))
            for event, seq, leaf, digest in found
        }

    def _resolve(self, fresh: Sequence[SealedRecord], batch: list[Any]) -> _Places:
        """Call the function again, until the server answers or time has run out.

        Raises:
            LogUnavailableError: Whether they are stored is not known.
        """
        until = time.monotonic() + self._resolve_s
        while True:
            try:
                return self._append(fresh, batch)
            except LogUnavailableError:
                is_late = time.monotonic() >= until
                if is_late or not self.sql.is_lost or self._stopping.wait(_RETRY_S):
                    raise

    def transact(self, work: Work) -> None:
        """Do something else in a transaction of its own."""
        with self.sql.transaction() as changes:
            work(changes)

    def explain(self, error: Exception) -> Refusal:
        """Say what an error means; the connection is opened anew after any."""
        self.sql.drop()
        if isinstance(error, LogUnavailableError):
            sealed, behind = self._is_sealed, self._is_behind
            return Refusal(str(error), self._fault, is_sealed=sealed, is_behind=behind)
        name = type(error).__name__
        reason = f"the log can't be written: {name}"
        return Refusal(reason, f"the log failed with {name} and must be opened again")

    def tidy(self) -> None:
        """Do nothing: the server tidies up itself."""

    def close(self) -> None:
        """Let go of the connection."""
        self._stopping.set()
        self.sql.close()


def freeze(
    place: Postgres, last: Callable[[LogReader], Sequence[SealedRecord]]
) -> None:
    """Store the last records of a log, and have the server refuse all others for good.

    (1) Lock the row that numbers: nothing is appended meanwhile, by any replica.
    (2) Read what is there, and store the last records.
    (3) Have the server refuse every further row.

    INVARIANT: one transaction. Either a log ends with its last record and takes no
    other, or nothing has happened; whichever gateways are running.

    Args:
        place: Where the log is kept.
        last: Returns its last records, given what is there; none where they are there
            already.

    Raises:
        SettingsError: The log is not whole.
        LogUnavailableError: It is not known to be done; it may be done again.
    """
    # (1): no batch is numbered until this one's transaction is over.
    with _numbering(place) as (sql, changes):
        size = _next_index(changes, place)
        # The transaction's own: it is not opened anew as long as that lasts.
        connection = sql.connected()
        # (2): in this transaction, as the reader has its connection.
        records = last(LogReader(sql))
        if records:
            batch = [size, *_arguments(records)]
            connection.execute(_APPEND, batch, binary=True)
        # (3): not by this gateway's good will, but by the server.
        changes.change(_FREEZE)


def freeze_as_it_is(place: Postgres, look: Look[_T]) -> _T:
    """Have the server refuse every further record and head of a log; look what it has.

    For a log that may sign nothing more, since it has lost what it has shown.

    INVARIANT: one transaction. What is found is what there is for good; and where
    looking at it raises, nothing has happened.

    Args:
        place: Where the log is kept.
        look: Reads what there is, once nobody can change it; returns the mark that the
            log was left, and whatever else was wanted.

    Raises:
        LogUnavailableError: It is not known to be done; it may be done again.
    """
    with _numbering(place) as (sql, changes):
        # A publisher's transaction that is under way is waited for.
        changes.change(_FREEZE + _FREEZE_HEADS)
        mark, found = look(LogReader(sql))
        mark_left(changes, mark)
        return found


@contextmanager
def _numbering(place: Postgres) -> Iterator[tuple[PostgresSql, Changes]]:
    """Begin a transaction that holds the row that numbers, and so keeps others waiting.

    The connection is yielded, and the transaction on it.
    """
    with closing(PostgresSql(place)) as sql, sql.transaction() as changes:
        # As whoever appends: the row first, and then any table.
        changes.rows(f"{_SIZE} FOR UPDATE")
        yield sql, changes


def _next_index(sql: Sql | Changes, place: Postgres) -> int:
    """Return the index of the next record.

    Raises:
        SettingsError: The row that says so is missing.
    """
    for (size,) in sql.rows(_SIZE):
        return int(size)
    raise SettingsError(f"`{place.schema}.coordinate` has no row: {NOT_WHOLE}")


def _arguments(records: Sequence[SealedRecord]) -> list[Any]:
    """Return what the function takes, one array for each column."""
    events = [record.event for record in records]
    return [
        Texts.of([event.id for event in events]),
        Blobs.of([record.leaf for record in records]),
        Blobs.of([record.leaf_hash for record in records]),
        Texts.of([event.case for event in events]),
        Texts.of([event.matter for event in events]),
        Texts.of([record.subject_refs for record in records]),
        Texts.of([record.actor_ref for record in records]),
        Texts.of([event.ends for event in events]),
        Numbers.of([record.guard for record in records]),
        Blobs.of([record.sealed for record in records]),
        Numbers.of([record.sealed_guard for record in records]),
    ]
