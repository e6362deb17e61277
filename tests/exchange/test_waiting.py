"""Waiting work on the real engine and real files: it goes on whatever happens."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from exchange import due as dues
from exchange.database import Database
from exchange.engine import Engine, Run, Stand
from exchange.waiting import Ended, Move, Terms, Waiting, next_move
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import CaseId, DueId
from tests.fakes.waiting import LEASE, TERMS, Desk, WatchedEngine, a_waiting

NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
HELD = timedelta(seconds=70)
PLANTED = "990101202601080017"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway keeps its tables and its engine's."""

    database: Database
    database_url: str
    engine_url: str
    folder: Path

    def kept(self) -> str:
        """Return all that either keeps, as text."""
        if self.engine_url.startswith("sqlite"):
            files = [file.read_bytes() for file in self.folder.iterdir()]
            return b"".join(files).decode(errors="replace")
        with psycopg.connect(self.engine_url) as connection:
            names = connection.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname IN ('public', 'dbos')"
            ).fetchall()
            rows = [
                connection.execute(
                    sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*name))
                ).fetchall()
                for name in names
            ]
        return str(rows)


@pytest.fixture
def place(tables_url: str, tmp_path: Path) -> Iterator[Place]:
    """Give a test the tables of a gateway, and a place for its engine's."""
    on_files = tables_url.startswith("sqlite")
    engine_url = f"sqlite:///{tmp_path / 'waiting.db'}" if on_files else tables_url
    with Database(tables_url) as database:
        yield Place(database, tables_url, engine_url, tmp_path)


@asynccontextmanager
async def running(
    desk: Desk,
    place: Place,
    *,
    version: str = "1",
    terms: Terms = TERMS,
    refusal: Callable[[], str | None] = lambda: None,
) -> AsyncIterator[Waiting]:
    """Run waiting work for a desk while the block lasts."""
    waiting = a_waiting(
        desk, place.engine_url, version=version, terms=terms, refusal=refusal
    )
    await waiting.start()
    try:
        yield waiting
    finally:
        await waiting.stop()


async def for_ever(_: CaseId) -> None:
    """Work that never ends by itself."""
    await asyncio.Event().wait()


def test_row_without_a_workflow_is_started() -> None:
    """A row that fell due gets a workflow."""
    assert Move.START is next_move(None, NOW, HELD)


@pytest.mark.parametrize(
    ("stand", "since", "move"),
    [
        (Stand.QUEUED, None, Move.WAIT),
        (Stand.RUNNING, NOW - HELD, Move.WAIT),
        (Stand.RUNNING, NOW - HELD - timedelta(seconds=1), Move.RESUME),
        (Stand.ENDED, NOW, Move.AGAIN),
        (Stand.STRANDED, None, Move.TAKE_OVER),
        (Stand.STRANDED, NOW, Move.TAKE_OVER),
    ],
)
def test_row_with_a_workflow_is_seen_to(
    stand: Stand, since: datetime | None, move: Move
) -> None:
    """Whatever became of a row's workflow, the row is waited for or tried again."""
    assert move is next_move(Run(DueId("due-1"), stand, since), NOW, HELD)


@pytest.mark.anyio
async def test_attempt_happens_by_itself_when_due(place: Place) -> None:
    """What falls due is attempted, and what is not due yet is left alone."""
    desk = Desk(place.database)
    async with running(desk, place) as waiting:
        later = await desk.owe("case-2", in_s=3600)
        due = await desk.owe("case-1", in_s=0.1)
        await desk.until(lambda: "case-1" in desk.settled)

    assert {due.id: 1} == desk.asked
    assert await desk.owed(due.case) is None
    assert later == await desk.owed(later.case)
    assert 1 == waiting.ended[Ended.SETTLED]


@pytest.mark.anyio
async def test_row_started_twice_runs_once(place: Place) -> None:
    """Starting the workflow of a row again, even when it ended, runs nothing."""
    ran: list[DueId] = []
    ended = threading.Event()

    def work(due_id: DueId) -> str:
        ran.append(due_id)
        if due_id == "due-2":
            ended.set()
        return "settled"

    def use() -> None:
        engine = Engine(place.engine_url, "gateway-1", most_at_once=1, poll_s=0.02)
        engine.launch(work)
        for due_id in ("due-1", "due-1", "due-2"):
            engine.enqueue(DueId(due_id))
        assert ended.wait(20)
        engine.enqueue(DueId("due-1"))
        engine.enqueue(DueId("due-3"))
        engine.close(5)

    await asyncio.to_thread(use)

    assert ["due-1", "due-2"] == ran[:2]
    assert "due-1" not in ran[2:]


@pytest.mark.anyio
@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_what_runs_while_the_engine_is_closed_is_stored_as_ended(
    place: Place,
) -> None:
    """Closing waits for it: after the next start it is not run again."""
    ran: list[DueId] = []
    begun, over = threading.Event(), threading.Event()

    def use(engine: WatchedEngine, last: DueId) -> None:
        def work(due_id: DueId) -> str:
            ran.append(due_id)
            if due_id == last:
                over.set()
                return "settled"
            begun.set()
            # It ends when closing has seen that it runs, and has looked again.
            for _ in range(2):
                assert engine.looks.acquire(timeout=20)
            return "settled"

        engine.launch(work)
        if not begun.is_set():
            engine.enqueue(DueId("due-1"))
            assert begun.wait(20)
        else:
            engine.enqueue(last)
            assert over.wait(20)
        engine.close(20)

    for _ in range(2):
        engine = WatchedEngine(place.engine_url, "gateway-1")
        await asyncio.to_thread(use, engine, DueId("due-2"))

    assert ["due-1", "due-2"] == ran


@pytest.mark.anyio
async def test_case_is_worked_on_once_at_a_time(place: Place) -> None:
    """Rounds during an attempt, and calls for another, start nothing beside it."""
    go = asyncio.Event()

    async def work(_: CaseId) -> None:
        await go.wait()

    desk = Desk(place.database, work=work)
    async with running(desk, place) as waiting:
        due = await desk.owe("case-1")
        await desk.until(lambda: desk.worked[due.case] == 1)
        await place.database.write(
            lambda c: dues.hasten(c, due.case, DueId("due-2"), desk.clock.now())
        )
        await asyncio.gather(*(waiting.dispatch_once() for _ in range(5)))
        other = await desk.owe("case-2")
        await desk.until(lambda: desk.worked[other.case] == 1)
        go.set()
        await desk.until(lambda: len(desk.settled) == 2)

    assert {due.id: 1, other.id: 1} == desk.asked


@pytest.mark.anyio
async def test_request_at_work_is_not_disturbed(place: Place) -> None:
    """While a request works on a case its row waits, and goes on when it fell over."""
    desk = Desk(place.database)
    async with running(desk, place) as waiting:
        due = await desk.owe("case-1")
        # A gateway that is not this one: its leases end by time alone.
        other = Desk(place.database, "gateway-2")
        await place.database.write(
            lambda c: dues.begin(c, due, other.lease(due.case), desk.clock.now())
        )
        asked_before = desk.asked[due.id]
        await waiting.dispatch_once()
        assert desk.worked[due.case] == 0
        desk.clock.later = LEASE
        await desk.until(lambda: due.case in desk.settled)

    assert asked_before <= 1
    assert 1 == desk.worked[due.case]


@pytest.mark.anyio
async def test_attempt_killed_half_way_is_made_again(place: Place) -> None:
    """After `kill -9` in mid-attempt the gateway comes back, and the case settles."""
    desk = Desk(place.database)
    due = await desk.owe("case-1")
    kill_once_it_holds(place, "gateway-1", due.case)
    held = await desk.owed(due.case)

    async with running(desk, place):
        await desk.until(lambda: due.case in desk.settled)

    assert due == held
    assert await desk.owed(due.case) is None


@pytest.mark.anyio
async def test_work_of_a_gateway_that_stays_dead_is_brought_back(place: Place) -> None:
    """What a gateway held that never comes back is ended by another, in time."""
    desk = Desk(place.database, "gateway-2")
    due, gone = await desk.owe("case-1"), await desk.owe("case-2")
    kill_once_it_holds(place, "gateway-1", due.case, gone.case)
    await place.database.write(lambda c: dues.settle(c, gone.case))

    async with running(desk, place) as waiting:
        await waiting.dispatch_once()
        before = desk.worked.total()
        desk.clock.later = LEASE
        await waiting.sweep()
        await desk.until(lambda: due.case in desk.settled and desk.asked[gone.id] == 1)

    assert 0 == before
    assert {due.case: 1} == desk.worked


@pytest.mark.anyio
async def test_release_of_another_version_strands_nothing(place: Place) -> None:
    """What another version started and never ran is done under a new row."""
    before = Desk(place.database)
    due = await before.owe("case-1")
    old = a_waiting(before, place.engine_url, version="1", most_at_once=0)
    await old.start()
    await old.dispatch_once()
    await old.stop()

    desk = Desk(place.database)
    async with running(desk, place, version="2"):
        await desk.until(lambda: due.case in desk.settled)

    assert {} == before.asked
    assert due.id not in desk.asked


@pytest.mark.anyio
async def test_failed_attempt_is_followed_by_another_without_its_words(
    place: Place,
) -> None:
    """An attempt that fails is made again later; what it said is kept nowhere."""
    failures = [ValueError(PLANTED), OSError(PLANTED)]

    async def work(_: CaseId) -> None:
        if failures:
            raise failures.pop()

    desk = Desk(place.database, work=work)
    with capture_logs() as logs:
        async with running(desk, place) as waiting:
            due = await desk.owe("case-1")
            await desk.until(lambda: due.case in desk.settled)

    assert 3 == desk.worked[due.case] == len(desk.asked)
    assert {Ended.FAILED: 2, Ended.SETTLED: 1} == waiting.ended
    assert ["OSError", "ValueError"] == [
        entry["error"] for entry in logs if entry["event"] == "attempt_failed"
    ]
    assert PLANTED not in str(logs)
    assert due.id in place.kept()
    assert PLANTED not in place.kept()


@pytest.mark.anyio
async def test_what_failed_waits_until_an_attempt_can_come_to_its_end(
    place: Place,
) -> None:
    """Each is tried once while the log is away; when it is back, all go on at once."""
    away: list[str | None] = ["the log is away"]

    async def work(_case: CaseId) -> None:
        if away[0] is not None:
            raise LogUnavailableError(away[0])

    desk = Desk(place.database, work=work)
    cases = [CaseId(f"case-{n}") for n in range(4)]
    async with running(desk, place, refusal=lambda: away[0]):
        for case in cases:
            # Each takes a round, in which those before it would be tried again.
            await desk.owe(case)
            await desk.until(partial(desk.worked.__contains__, case))
        worked = dict(desk.worked)
        away[0] = None
        await desk.until(lambda: desk.settled == set(cases))

    assert dict.fromkeys(cases, 1) == worked
    assert dict.fromkeys(cases, 2) == dict(desk.worked)


@pytest.mark.anyio
async def test_attempt_that_takes_too_long_is_stopped_and_made_again(
    place: Place,
) -> None:
    """An attempt ends at its time limit, and the case is tried again."""
    hang = [for_ever]

    async def work(case: CaseId) -> None:
        if hang:
            await hang.pop()(case)

    desk = Desk(place.database, work=work)
    async with running(desk, place, terms=replace(TERMS, attempt_s=0.5)) as waiting:
        due = await desk.owe("case-1")
        await desk.until(lambda: due.case in desk.settled)

    assert waiting.ended[Ended.LATE] >= 1
    assert 1 == waiting.ended[Ended.SETTLED]


@pytest.mark.anyio
async def test_attempt_that_owes_nothing_new_does_not_spin(place: Place) -> None:
    """A workflow that ended while its row is due is followed by one that waits."""
    desk = Desk(place.database)
    due = await desk.owe("case-1")

    async def shrug(due_id: DueId) -> str:
        desk.asked[due_id] += 1
        return "owed"

    waiting = a_waiting(desk, place.engine_url, terms=replace(TERMS, waits=(3600.0,)))
    waiting._attempt = shrug
    await waiting.start()
    try:
        row = due
        while row.id == due.id:
            await waiting.dispatch_once()
            row = await desk.owed(due.case) or row
    finally:
        await waiting.stop()

    assert row.due_at >= due.made_at + timedelta(seconds=3600)
    assert 1 == row.attempt


@pytest.mark.anyio
async def test_stopping_lets_attempts_end_and_leaves_no_thread(place: Place) -> None:
    """An attempt under way may end; afterwards no thread is left."""
    before = set(threading.enumerate())
    stopping = asyncio.Event()

    async def work(_: CaseId) -> None:
        await stopping.wait()

    desk = Desk(place.database, work=work)
    async with running(desk, place):
        due = await desk.owe("case-1")
        await desk.until(lambda: desk.worked[due.case] == 1)
        asyncio.get_running_loop().call_soon(stopping.set)

    assert due.case in desk.settled
    assert set() == {t for t in set(threading.enumerate()) - before if _is_ours(t)}


@pytest.mark.anyio
async def test_attempt_cut_off_by_stopping_is_made_after_the_start(
    place: Place,
) -> None:
    """An attempt that doesn't end in time is cut off; the row is still due."""
    desk = Desk(place.database, work=for_ever)
    async with running(desk, place, terms=replace(TERMS, drain_s=0.01)):
        due = await desk.owe("case-1")
        await desk.until(lambda: desk.worked[due.case] == 1)
    left = await desk.owed(due.case)

    again = Desk(place.database)
    async with running(again, place):
        await again.until(lambda: due.case in again.settled)

    assert due == left


@pytest.mark.anyio
async def test_old_workflows_are_forgotten_and_rows_are_not(place: Place) -> None:
    """Deleting old workflows loses no row, and a forgotten one can be started."""
    desk = Desk(place.database)
    async with running(desk, place) as waiting:
        due = await desk.owe("case-1")
        await desk.until(lambda: due.case in desk.settled)
        later = await desk.owe("case-2", in_s=3600)
        desk.clock.later = TERMS.keep + timedelta(hours=2)
        known = await waiting._on_engine(lambda: waiting._engine.look_up([due.id]))
        await waiting.sweep()
        left = await waiting._on_engine(lambda: waiting._engine.look_up([due.id]))
        await desk.until(lambda: later.case in desk.settled)

    assert [due.id] == list(known)
    assert {} == left


@pytest.mark.anyio
async def test_engine_is_one_and_stays_at_home(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second engine, or one told to connect to a cloud, is refused."""
    desk = Desk(place.database)
    with monkeypatch.context() as environment:
        environment.setenv("DBOS__CLOUD", "true")
        clouded = a_waiting(desk, place.engine_url)
        with pytest.raises(SettingsError):
            await clouded.start()

    async with running(desk, place):
        second = a_waiting(desk, place.engine_url)
        with pytest.raises(RuntimeError, match="one durable engine"):
            await second.start()


def test_engine_is_not_imported_by_those_who_do_not_serve() -> None:
    """Importing the modules of waiting work does not import DBOS."""
    code = "import sys, exchange.waiting; sys.exit('dbos' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert 0 == ran.returncode


def kill_once_it_holds(place: Place, gateway: str, *cases: CaseId) -> None:
    """Run a gateway until it holds some cases, and kill it in mid-attempt."""
    command = ["-m", "tests.exchange.waiting_child", place.database_url]
    left = {f"{case}\n".encode() for case in cases}
    with subprocess.Popen(
        [sys.executable, *command, place.engine_url, gateway],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            left.discard(line)
            if not left:
                break
        child.kill()
    assert not left


def _is_ours(thread: threading.Thread) -> bool:
    """Tell a thread of waiting work from asyncio's own and the database's."""
    return not thread.name.startswith(("errand-read", "asyncio_"))


def test_what_is_set_inside_dbos_is_still_where_it_was() -> None:
    """A release of DBOS that keeps its intervals or queues elsewhere is noticed."""
    commands, queues, schedules, main = (
        Path(str(files("dbos") / name)).read_text(encoding="utf-8")
        for name in ("_workflow_commands.py", "_queue.py", "_scheduler.py", "_dbos.py")
    )

    assert "_BACKGROUND_JOBS_INTERVAL_SEC = 1.0\n" in commands
    assert "        _BACKGROUND_JOBS_INTERVAL_SEC,\n" in commands
    assert "min_polling_interval = queue._polling_interval_sec\n" in queues
    assert "\n_STARTUP_FAST_POLL_DURATION_SEC = 60.0\n" in schedules
    assert "time.monotonic() + _STARTUP_FAST_POLL_DURATION_SEC\n" in schedules
    assert "def get_internal_queue(self) -> Queue:\n" in main
    assert "def _register_internal_queue(self, name: str, **limits: Any)" in main
    assert "for queue in dbos._registry.internal_queues():\n" in queues
