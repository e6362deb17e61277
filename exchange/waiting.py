"""Work that waits: what is due is tried again by itself, for days and over restarts.

A dispatcher on the gateway's loop reads the rows that are due (`exchange.due`) and
starts a workflow for each (`exchange.engine`), under the row's id. The workflow, in
a thread of the engine, hands over to the gateway's loop, where one short attempt is
made; so a request and an attempt use the same clients, caches and limits.

INVARIANT (rule 10): a person is never sent home. Whatever becomes of a workflow (it
ended and its row is still due, its gateway died, another version started it), the
row stands, and the dispatcher sees to it that an attempt is made.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import TypeVar, assert_never

import structlog

from exchange import due as dues
from exchange.database import Database
from exchange.due import Due, next_try
from exchange.engine import Engine, Run, Stand
from schemas.clock import Clock
from schemas.ids import DueId, NewId

T = TypeVar("T")
Attempt = Callable[[DueId], Awaitable[str]]
"""One short attempt: settled, owed or gone (`Ended`); may be repeated at any time."""

_MOST_ROWS = 64
"""Rows in one round; the others are seen when these are under way."""
_HAND_OVER_S = 5.0
"""How much longer than an attempt its thread waits for the loop."""

_log = structlog.get_logger(__name__)


class Ended(StrEnum):
    """What came of one attempt."""

    SETTLED = "settled"
    OWED = "owed"
    """Something is still owed, or somebody else is at it."""
    GONE = "gone"
    """There is no such row any more."""
    LATE = "late"
    """It took too long and was stopped."""
    FAILED = "failed"
    CUT = "cut"
    """The gateway was stopping."""


class Move(Enum):
    """What the dispatcher does about a row that is due."""

    START = auto()
    WAIT = auto()
    RESUME = auto()
    """Whoever took it up is dead."""
    AGAIN = auto()
    """Its workflow ended and it is still due: another row, another workflow."""
    TAKE_OVER = auto()
    """Its workflow is another version's: another row, at once."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How waiting work goes on."""

    waits: tuple[float, ...]
    """Seconds after each attempt that failed by itself; the last one repeats."""
    poll_s: float = 1.0
    """Seconds between two looks at what is due."""
    attempt_s: float = 60.0
    """The longest that one attempt may take; leases must last longer."""
    drain_s: float = 10.0
    """How long stopping waits for the attempts that are under way."""
    sweep_s: float = 60.0
    """Seconds between two searches for what dead gateways left."""
    keep: timedelta = timedelta(days=1)
    """How long workflows are kept; their rows and records outlive them."""

    @property
    def held(self) -> timedelta:
        """How long a workflow may be under way before its gateway counts as dead."""
        return timedelta(seconds=self.attempt_s + 2 * _HAND_OVER_S)


def next_move(run: Run | None, now: datetime, held: timedelta) -> Move:
    """Decide what to do about a row that is due and that nobody works on."""
    if run is None:
        return Move.START
    match run.stand:
        case Stand.QUEUED:
            return Move.WAIT
        case Stand.RUNNING:
            dead = run.since is not None and run.since < now - held
            return Move.RESUME if dead else Move.WAIT
        case Stand.ENDED:
            return Move.AGAIN
        case Stand.STRANDED:
            return Move.TAKE_OVER
        case _:
            assert_never(run.stand)


class Waiting:
    """Runs what waits, from `start` to `stop`; only `serve` has one.

    Args:
        engine: Not launched yet.
        database: Holds the due rows.
        attempt: Runs on the loop that called `start`.
        clock: Tells what is due.
        new_id: Makes the ids of rows that take the place of others.
        executor_id: This gateway's name, under which it takes leases.
        terms: How work goes on.
        refusal: Says why no attempt can come to its end now; None where one can.
    """

    def __init__(  # noqa: PLR0913 - the one place where its parts are put together
        self,
        engine: Engine,
        database: Database,
        attempt: Attempt,
        *,
        clock: Clock,
        new_id: NewId,
        executor_id: str,
        terms: Terms,
        jitter: Callable[[], float] = random.random,
        refusal: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._database = database
        self._attempt = attempt
        self._clock = clock
        self._new_id = new_id
        self._executor_id = executor_id
        self._terms = terms
        self._jitter = jitter
        self._refusal = refusal
        # One thread: DBOS's calls block, and stay in the order in which they came.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="errand-engine")
        self._wake = asyncio.Event()
        self._attempts: set[asyncio.Task[Ended]] = set()
        # Workflows in the engine's threads: never resumed here, however late.
        self._in_hand: set[DueId] = set()
        self._stopping = False
        self._dispatcher: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ended: Counter[Ended] = Counter()
        """How many attempts ended how since the start, for metrics."""
        self._since = clock.now()
        """When waiting work was started here."""
        self._oldest: datetime | None = None
        """Since when the oldest row is due that nobody works on, as last read."""
        self.failure: str | None = None
        """The kind of error that the last round ended with; None when it did not."""

    async def start(self) -> None:
        """Start, before the first request is served.

        (1) End the leases that this gateway held when it was killed.
        (2) Launch the engine, which starts again what it held.
        (3) Dispatch what is due, and what will be.

        Raises:
            StoreUnavailableError: The due rows can't be reached.
            SettingsError: The engine must not run like this.
        """
        self._loop, self._since = asyncio.get_running_loop(), self._clock.now()
        # (1): this gateway's name is nobody else's, so nobody alive holds them.
        left = await self._database.write(
            lambda connection: dues.release_all(connection, self._executor_id)
        )
        # (2): before requests come, as they may wait for its first import.
        try:
            await self._on_engine(lambda: self._engine.launch(self._hand_over))
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        # (3): only now, as the dispatcher asks the engine.
        self._dispatcher = asyncio.create_task(self._dispatch(), name="dispatcher")
        _log.info("waiting_started", leases_ended=left)

    async def stop(self) -> None:
        """Stop: attempts under way may end, within a bound; nothing is lost.

        (1) Start nothing more.
        (2) Let attempts end, and cut those off that don't.
        (3) Close the engine, in its own thread, and that thread too.
        """
        # (1): a workflow that comes up now ends as cut; its row is still due.
        self._stopping = True
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._dispatcher
            # (2): the engine's threads wait for these.
            await self._drain()
            # (3): it joins its threads, which must not be done on the loop.
            await self._on_engine(lambda: self._engine.close(int(_HAND_OVER_S)))
        self._thread.shutdown()
        _log.info("waiting_stopped")

    def overdue_s(self) -> float:
        """Return for how many seconds something due was not taken up; 0 for nothing.

        It grows whatever the cause is: rounds that fail, an engine that takes nothing
        up or never answers, or more work than can be done. What fell due while nobody
        ran is counted from the start.
        """
        if self._oldest is None:
            return 0.0
        since = max(self._oldest, self._since)
        return max(0.0, (self._clock.now() - since).total_seconds())

    def wake(self) -> None:
        """Look at once for what is due; called on the loop after a row was hastened."""
        self._wake.set()

    async def dispatch_once(self) -> None:
        """See to each row that is due and that nobody works on, up to a bound.

        Where no attempt can come to its end now, what was tried before waits: each
        failure would put it off, in the end for longer than what it waits for lasts.
        What was not is tried once: a part of it may still be done.
        """
        now, untried = self._clock.now(), self._refusal() is not None
        rows = await self._database.read(
            lambda connection: dues.rows_due(
                connection, now, _MOST_ROWS, untried=untried
            )
        )
        self._oldest = rows[0].due_at if rows else None
        if not rows:
            return
        runs = await self._on_engine(
            lambda: self._engine.look_up([row.id for row in rows])
        )
        for row in rows:
            if row.id not in self._in_hand:
                move = next_move(runs.get(row.id), now, self._terms.held)
                await self._make(move, row, now)

    async def sweep(self) -> None:
        """Bring back what dead gateways held, and delete what is long over."""
        now = self._clock.now()
        held = await self._on_engine(
            lambda: self._engine.taken_up_before(now - self._terms.held, _MOST_ROWS)
        )
        left = [due_id for due_id in held if due_id not in self._in_hand]
        if left:
            await self._on_engine(lambda: self._engine.resume(left))
            _log.warning("workflows_brought_back", count=len(left))
        await self._on_engine(lambda: self._engine.forget(now - self._terms.keep))

    async def _dispatch(self) -> None:
        """Dispatch and sweep until cancelled; a failure costs a round, no more."""
        swept: float | None = None
        while True:
            try:
                if swept is None or self._clock.monotonic() - swept > (
                    self._terms.sweep_s
                ):
                    swept = self._clock.monotonic()
                    await self.sweep()
                await self.dispatch_once()
            except Exception as error:  # noqa: BLE001 - the next round tries again
                self._note(type(error).__name__)
            else:
                self._note(None)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._terms.poll_s)
            self._wake.clear()

    def _note(self, failure: str | None) -> None:
        """Remember what a round ended with, and say so when that has changed."""
        before, self.failure = self.failure, failure
        if failure is not None and failure != before:
            _log.warning("dispatch_failed", error=failure)
        elif failure is None and before is not None:
            _log.warning("dispatch_works_again")

    async def _make(self, move: Move, row: Due, now: datetime) -> None:
        match move:
            case Move.WAIT:
                return
            case Move.START:
                await self._on_engine(lambda: self._engine.enqueue(row.id))
            case Move.RESUME:
                await self._on_engine(lambda: self._engine.resume([row.id]))
            case Move.TAKE_OVER:
                await self._put_off(row, now, now)
            case Move.AGAIN:
                # The row's own age counts as waiting: one that waited long enough is
                # tried at once, and one that comes back at once has to wait.
                at = self._later(row, row.made_at)
                await self._put_off(replace(row, attempt=row.attempt + 1), now, at)
            case _:
                assert_never(move)

    async def _put_off(self, row: Due, now: datetime, at: datetime) -> None:
        """Put a row with another id in the place of one whose workflow is of no use."""
        new = replace(row, id=DueId(self._new_id()), due_at=max(now, at), made_at=now)
        await self._database.write(
            lambda connection: dues.replace(connection, row.id, new)
        )

    def _later(self, row: Due, since: datetime) -> datetime:
        at = next_try(
            row.attempt + 1, since, self._terms.waits, None, jitter=self._jitter()
        )
        return since if at is None else at

    async def _on_engine(self, call: Callable[[], T]) -> T:
        """Run a call to the engine in its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, call)

    async def _drain(self) -> None:
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self._terms.drain_s)
        late = tuple(self._attempts)
        for attempt in late:
            attempt.cancel()
        if late:
            await asyncio.wait(late, timeout=_HAND_OVER_S)

    # One attempt: first in a thread of the engine, then on the loop.

    def _hand_over(self, due_id: DueId) -> str:
        """Have the loop make one attempt, and wait for it, within a bound.

        INVARIANT: the engine stores what this returns, so it is a word of `Ended`,
        and nothing is ever raised.
        """
        self._in_hand.add(due_id)
        try:
            return self._ask_the_loop(due_id).value
        finally:
            self._in_hand.discard(due_id)

    def _ask_the_loop(self, due_id: DueId) -> Ended:
        loop = self._loop
        if loop is None or loop.is_closed():
            return Ended.CUT
        work = self._on_loop(due_id)
        try:
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # the loop was closed just now
            work.close()
            return Ended.CUT
        try:
            return future.result(self._terms.attempt_s + _HAND_OVER_S)
        except TimeoutError:  # the loop is stuck, not the attempt
            future.cancel()
            return Ended.LATE
        except CancelledError:
            return Ended.CUT

    async def _on_loop(self, due_id: DueId) -> Ended:
        if self._stopping:
            return Ended.CUT
        # A context of its own, without what DBOS left in the one of its thread.
        task = asyncio.get_running_loop().create_task(
            self._make_attempt(due_id), name="attempt", context=Context()
        )
        self._attempts.add(task)
        try:
            return await task
        finally:
            self._attempts.discard(task)

    async def _make_attempt(self, due_id: DueId) -> Ended:
        """Make one attempt within its time; where it fails, another is due later."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._terms.attempt_s):
                ended = Ended(await self._attempt(due_id))
        except TimeoutError:
            ended = Ended.LATE
        except Exception as error:  # noqa: BLE001 - it must not end in the engine
            # INVARIANT: an exception's words may hold a value (rule 8); its kind not.
            _log.warning("attempt_failed", due=due_id, error=type(error).__name__)
            ended = Ended.FAILED
        self.ended[ended] += 1
        _log.info(
            "attempt_ended",
            due=due_id,
            ended=ended.value,
            ms=round((self._clock.monotonic() - started) * 1000, 1),
        )
        if ended in {Ended.LATE, Ended.FAILED}:
            await self._after_failure(due_id)
        return ended

    async def _after_failure(self, due_id: DueId) -> None:
        """Owe another attempt, later; if that fails too, the dispatcher sees to it."""
        now = self._clock.now()
        try:
            row = await self._database.read(
                lambda connection: dues.find(connection, due_id)
            )
            if row is not None:
                again = replace(row, attempt=row.attempt + 1)
                await self._put_off(again, now, self._later(row, now))
        except Exception as error:  # noqa: BLE001 - the row is still due
            _log.warning("put_off_failed", due=due_id, error=type(error).__name__)
