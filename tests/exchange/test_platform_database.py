"""The gateway's tables: one writer with group commit, readers, and its failures."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from exchange.connecting import connected, truncate_journal
from exchange.database import Database
from schemas.errors import SettingsError, StoreUnavailableError
from tests.harness.patience import until
from tests.harness.postgres import Lend

_METADATA = MetaData()
_THING = Table(
    "thing",
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column("word", Text, nullable=False),
)

pytestmark = pytest.mark.anyio


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'tables.db'}"


def _prepare(url: str) -> None:
    with connected(url, read_only=False) as connection:
        _METADATA.create_all(connection)
        connection.commit()


@pytest.fixture
def database(lend: Lend) -> Iterator[Database]:
    """A database with one empty table, on each engine."""
    with Database(lend("things", _prepare)) as opened:
        yield opened


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Database]:
    """A database with one empty table, on SQLite."""
    _prepare(_url(tmp_path))
    with Database(_url(tmp_path)) as opened:
        yield opened


def _add(connection: Connection, number: int, word: str = "word") -> int:
    connection.execute(insert(_THING), {"id": number, "word": word})
    return number


def _count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(_THING)) or 0


async def test_a_write_is_seen_by_every_later_read(database: Database) -> None:
    """Once `write` has returned, both kinds of reads see what it stored."""
    result = await database.write(lambda c: _add(c, 7))

    assert result == 7
    assert database.read_now(_count) == 1
    assert await database.read(_count) == 1


async def test_a_point_read_sees_each_new_write(database: Database) -> None:
    """A point read never keeps the snapshot of the one before."""
    seen = []
    for number in range(5):
        await _write(database, number)
        seen.append(database.read_now(_count))

    assert seen == [1, 2, 3, 4, 5]


async def test_a_failing_write_takes_zero_else_with_it(database: Database) -> None:
    """Of many writes in one commit, only the one that raised is undone, whole."""

    def fail(connection: Connection) -> int:
        _add(connection, 1_000)
        raise LookupError("not this one")

    async with _stalled(database):
        waiting = await _started(
            _write(database, 0), database.write(fail), _write(database, 1)
        )
    first, failed, last = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(failed, LookupError)
    assert (first, last) == (0, 1)
    assert database.read_now(_count) == 2


async def test_a_write_that_fails_alone_is_run_once(database: Database) -> None:
    """Nothing is gained by running again what failed by itself."""
    runs: list[int] = []

    def fail(connection: Connection) -> None:
        runs.append(_add(connection, len(runs)))
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail)

    assert [0] == runs
    assert database.read_now(_count) == 0


async def test_what_waits_together_shares_one_commit(database: Database) -> None:
    """Writes that were handed in during a commit are stored by the next one, all."""
    commits: list[int] = []
    event.listen(database._writers, "commit", lambda _: commits.append(1))
    async with _stalled(database):
        waiting = await _started(*(_write(database, n) for n in range(50)))
    await asyncio.gather(*waiting)

    assert database.read_now(_count) == 50
    assert len(commits) == 2


async def test_a_broken_rule_of_the_tables_reaches_its_caller(
    database: Database,
) -> None:
    """A duplicate id is the caller's own error, and later writes go on."""
    await database.write(lambda c: _add(c, 1))
    with pytest.raises(IntegrityError):
        await database.write(lambda c: _add(c, 1))
    await database.write(lambda c: _add(c, 2))

    assert database.read_now(_count) == 2


async def test_an_error_of_the_engine_quotes_no_value(database: Database) -> None:
    """What SQLAlchemy says about a statement leaves its parameters out."""
    await database.write(lambda c: _add(c, 1))
    with pytest.raises(IntegrityError) as caught:
        await database.write(lambda c: _add(c, 1, "planted-value"))

    assert "planted-value" not in str(caught.value)


async def test_a_cancelled_caller_does_not_cancel_the_commit(
    database: Database,
) -> None:
    """The commit goes through although nobody waits for it any more."""
    async with _stalled(database):
        (waiting,) = await _started(_write(database, 1))
        waiting.cancel()
    await _write(database, 2)

    assert waiting.cancelled()
    assert database.read_now(_count) == 2


async def test_too_much_waiting_is_refused(tmp_path: Path) -> None:
    """A full queue refuses at once and says that asking later helps."""
    with Database(_url(tmp_path), most_queued=1) as database:
        async with _stalled(database):
            (waiting,) = await _started(database.write(_zero))
            with pytest.raises(StoreUnavailableError, match="too much waits"):
                await database.write(_zero)
        await waiting


async def test_a_closed_database_commits_what_waits_and_then_refuses(
    database: Database,
) -> None:
    """Closing loses nothing that was handed in, and lets nothing more in."""
    waiting = await _started(*(_write(database, n) for n in range(20)))
    await asyncio.to_thread(database.close)

    assert await asyncio.gather(*waiting) == list(range(20))
    with pytest.raises(StoreUnavailableError, match="closed"):
        await database.write(_zero)
    with pytest.raises(StoreUnavailableError, match="closed"):
        database.read_now(_count)


async def test_a_reader_cannot_write(database: Database) -> None:
    """A transaction for reading refuses to change anything."""
    with pytest.raises(StoreUnavailableError):
        await database.read(lambda c: _add(c, 1))
    with pytest.raises(StoreUnavailableError):
        database.read_now(lambda c: _add(c, 1))

    assert database.read_now(_count) == 0


async def test_rows_cannot_leave_their_transaction(database: Database) -> None:
    """A result that is not read to the end is refused, as it would hold a snapshot."""
    with pytest.raises(TypeError):
        database.read_now(lambda c: c.execute(select(_THING)))
    with pytest.raises(TypeError):
        await database.write(lambda c: c.execute(select(_THING)))


async def test_open_transactions_are_counted(database: Database) -> None:
    """Inside a transaction the counter shows it; between transactions it shows none."""
    inside = [
        await database.write(lambda _: database.open_transactions),
        await database.read(lambda _: database.open_transactions),
        database.read_now(lambda _: database.open_transactions),
    ]

    assert inside == [1, 1, 1]
    assert database.open_transactions == 0


async def test_a_full_disk_stores_zero_and_promises_zero(
    on_sqlite: Database,
) -> None:
    """When the engine can't store, every caller of the batch hears that it was not."""
    pages = 16
    await on_sqlite.write(
        lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar()
    )
    with pytest.raises(StoreUnavailableError):
        await on_sqlite.write(lambda c: _add(c, 1, "x" * 4096 * pages * 2))
    await on_sqlite.write(lambda c: _add(c, 2))

    assert on_sqlite.read_now(_count) == 1


async def test_that_nothing_can_be_written_is_told_until_it_works_again(
    tables_url: str,
) -> None:
    """A write that failed is told by `check`, and nobody has to write to end that."""
    with Database(tables_url) as database, held(tables_url) as other:
        await database.write(_waits_for_nobody)
        database.check()
        other.hold()
        with pytest.raises(StoreUnavailableError):
            await database.write(_forget_marks)
        with pytest.raises(StoreUnavailableError):
            database.check()
        other.release()
        until(partial(is_well, database), "writes work again")


class Holder:
    """Somebody else who holds what every write needs.

    Args:
        connection: To the same tables.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def hold(self) -> None:
        """Let nobody else write."""
        if self._connection.dialect.name == "sqlite":
            self._connection.begin()  # at once for writing: the engine sees to it
        else:
            self._connection.exec_driver_sql("LOCK TABLE commit_mark")

    def release(self) -> None:
        """Let others write again."""
        self._connection.rollback()


@contextmanager
def held(url: str) -> Iterator[Holder]:
    """Connect to tables, to hold them."""
    with connected(url, read_only=False) as connection:
        yield Holder(connection)


def _waits_for_nobody(connection: Connection) -> None:
    """Have the writer fail at once where somebody holds what it needs."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    else:
        connection.exec_driver_sql("SET lock_timeout = '10ms'")


def _forget_marks(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM commit_mark WHERE writer = 'nobody'")


def is_well(database: Database) -> bool:
    """Tell whether a database can be read and written, as far as it knows."""
    try:
        database.check()
    except StoreUnavailableError:
        return False
    return True


async def test_nothing_deleted_is_left_in_the_files_of_a_database(
    tmp_path: Path,
) -> None:
    """After a deletion and a truncated journal no file holds the bytes."""
    with connected(_url(tmp_path), read_only=False) as connection:
        _METADATA.create_all(connection)
        connection.commit()
    with Database(_url(tmp_path)) as database:
        await database.write(lambda c: _add(c, 1, "planted" * 100))
        assert b"plantedplanted" in _all_bytes(tmp_path)
        await database.write(lambda c: c.execute(_THING.delete()))
        await database.maintain(truncate_journal)

        assert b"plantedplanted" not in _all_bytes(tmp_path)


def test_the_tables_are_the_owners_alone(on_sqlite: Database, tmp_path: Path) -> None:
    """Neither the file nor its journal is readable by others."""
    on_sqlite.read_now(_count)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    assert set(modes.values()) == {0o600}


async def test_every_commit_is_synced_to_the_disk(on_sqlite: Database) -> None:
    """SQLite keeps a write-ahead log and syncs it on each commit (FULL is 2)."""
    pragmas = await on_sqlite.write(
        lambda c: [
            c.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )

    assert pragmas == ["wal", 2, 1]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqlite://", "no file"),
        ("sqlite:///:memory:", "no file"),
        ("mysql://host/name", "mysql"),
        ("nonsense", "no URL"),
    ],
)
async def test_a_url_of_zero_that_lasts_is_refused(url: str, word: str) -> None:
    """A database that can't be kept is refused with what to write instead."""
    with pytest.raises(SettingsError, match=word):
        Database(url)


def test_the_tables_hold_exactly_what_was_acknowledged(database: Database) -> None:
    """Whatever is handed in at once, what returned is stored and what raised is not."""

    def work(connection: Connection, step: tuple[int, bool]) -> int:
        number, fails = step
        _add(connection, number)
        if fails:
            raise LookupError
        return number

    async def run(steps: list[tuple[int, bool]]) -> tuple[list[int], list[int]]:
        await database.write(lambda c: c.execute(_THING.delete()).rowcount)
        results = await asyncio.gather(
            *(database.write(partial(work, step=step)) for step in steps),
            return_exceptions=True,
        )
        stored = await database.read(
            lambda c: list(c.scalars(select(_THING.c.id).order_by(_THING.c.id)))
        )
        return [r for r in results if isinstance(r, int)], stored

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20))
    def holds(steps: list[tuple[int, bool]]) -> None:
        acknowledged, stored = asyncio.run(run(steps))

        assert sorted(acknowledged) == stored

    holds()


def _zero(_connection: Connection) -> int:
    return 0


async def _write(database: Database, number: int) -> int:
    return await database.write(lambda c: _add(c, number))


def _all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@asynccontextmanager
async def _stalled(database: Database) -> AsyncIterator[None]:
    """Hold the writer inside a transaction, so that others pile up behind it."""
    entered, go_on = threading.Event(), threading.Event()

    def stall(_connection: Connection) -> None:
        entered.set()
        go_on.wait()

    first = asyncio.ensure_future(database.write(stall))
    try:
        assert await asyncio.to_thread(entered.wait, 20)
        yield
    finally:
        go_on.set()
        await first


async def _started(*calls: Coroutine[Any, Any, int]) -> list[asyncio.Task[int]]:
    """Start calls and let each hand its work to the writer."""
    waiting = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return waiting
