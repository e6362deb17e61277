"""The durable engine that runs waiting work: the one module that knows DBOS.

One workflow is one short attempt, and its id is the id of a due row, so that one
started twice is one. What DBOS stores, of inputs, results and errors, are ids and
words of a closed list, as JSON and never as pickles.

DBOS as found (3.4.0), and why things stand here as they do:

* A workflow belongs to the `application_version` that started it; the default is a
  hash of the source, which strands what waits at the next release. Ours is pinned.
* Its calls must not be made on an event loop, where they would block; the ones for
  a loop take that loop's thread pool over, and shut it down at the end. So they are
  made from a plain thread, and launched from one.
* It never tells anybody outside by itself once conductor and OTLP are off. Only
  `DBOS__CLOUD` in the environment turns them on again, so that is refused.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url

from exchange.connecting import connected, file_of, patience, telling_damage
from schemas.clock import to_rfc3339_ms
from schemas.errors import SettingsError
from schemas.ids import DueId

if TYPE_CHECKING:
    from dbos import DBOS, DBOSConfig, WorkflowStatus

APPLICATION_VERSION = "1"
"""Changes only when a running attempt could not be taken over by the new code."""

_APP = "errand"
_QUEUE = "errand-due"
_WORKFLOW = "attempt"
_MOST_RECOVERIES = 10
"""After so many starts that ended in a crash the row gets another id, and waits."""
_LISTENER_S = 0.2
"""How often DBOS's notification thread wakes; closing waits for it once."""
_SCHEDULER_S = 3600.0
"""We have no schedules of DBOS's own, so it need not look for them."""
_LOOK_S = 0.02
"""How often closing looks whether what ran is stored as ended."""
_FORGET_AT_ONCE = 200
_IDLE_S = 60.0
"""How often DBOS looks for work of kinds that we never give it."""
_POLLERS = 4
"""Connections for DBOS's own threads, beside one for each workflow."""


class Stand(Enum):
    """How a workflow stands."""

    QUEUED = auto()
    RUNNING = auto()
    """Somebody took it up; whether they live is another matter."""
    ENDED = auto()
    STRANDED = auto()
    """It belongs to another version, which may never come back."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the engine knows of one workflow."""

    id: DueId
    stand: Stand
    since: datetime | None
    """When it was taken up, to the second; None while it never was."""


_ANEW = "remove it with its `-wal`, and it is made anew"


class Engine:
    """DBOS in this process: there can be one at a time.

    No method may be called on a thread that runs an event loop.

    Args:
        url: Its own database: `sqlite:///FILE` or `postgresql://...`.
        executor_id: A name of this gateway that is stable and nobody else's.
        version: The application version; see the module.
        most_at_once: How many workflows run at once here.
        poll_s: Seconds between two looks at the queue.
    """

    _one = threading.Lock()

    def __init__(
        self,
        url: str,
        executor_id: str,
        *,
        version: str = APPLICATION_VERSION,
        most_at_once: int = 8,
        poll_s: float = 2.0,
    ) -> None:
        self._url = url
        self._executor_id = executor_id
        self._version = version
        self._most_at_once = most_at_once
        self._poll_s = poll_s
        self._stops: Sequence[threading.Event] = ()
        """Set, each ends a thread of DBOS that takes workflows up."""

    def launch(self, work: Callable[[DueId], str]) -> None:
        """Start; from now on `work` is called in threads, once for each workflow.

        What `work` returns is stored; it must hold no more than a word, and must not
        raise. What this executor held when it was killed is started again.

        Raises:
            SettingsError: DBOS was told to connect to its cloud.
            RuntimeError: There is one in this process already.
        """
        if os.environ.get("DBOS__CLOUD"):
            raise SettingsError(
                "unset `DBOS__CLOUD`: waiting work stays on our machine"
            )
        if not self._one.acquire(blocking=False):
            raise RuntimeError("there is one durable engine in this process already")
        dbos = _dbos()

        def attempt(due: str) -> str:
            return work(DueId(due))

        try:
            _make_sqlite(self._url)
            _route_logs()
            dbos.workflow(name=_WORKFLOW, max_recovery_attempts=_MOST_RECOVERIES)(
                attempt
            )
            instance = dbos(config=self._config())
            _quieten(instance)
            self._declare_queue(instance)
            dbos.launch()
            self._stops = instance.background_thread_stop_events
        except BaseException:
            self.close(0)
            raise

    def close(self, drain_s: int) -> None:
        """Stop, waiting up to `drain_s` seconds for workflows to be stored as ended.

        No thread of the engine is left after it.

        (1) Take up nothing more.
        (2) Wait until what runs here is stored: DBOS would look once a second.
        (3) Let DBOS end.
        """
        until = time.monotonic() + drain_s
        for stop in self._stops:  # (1)
            stop.set()
        while drain_s and self._busy() and time.monotonic() < until:  # (2)
            time.sleep(_LOOK_S)
        # (3): nothing is left that it would have to wait for.
        _dbos().destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        _join_threads(deadline=until + 1)
        self._one.release()

    def enqueue(self, due: DueId) -> None:
        """Start the workflow of a due row; one that was started is left as it is."""
        _dbos().enqueue_workflow_with_options(
            {
                "workflow_name": _WORKFLOW,
                "queue_name": _QUEUE,
                "workflow_id": due,
                "app_version": self._version,
            },
            due,
        )

    def look_up(self, due_ids: Iterable[DueId]) -> Mapping[DueId, Run]:
        """Return what is known of some workflows; one that is not known is missing."""
        found = _dbos().list_workflows(
            workflow_ids=list(due_ids), load_input=False, load_output=False
        )
        return {run.id: run for run in map(self._run, found)}

    def taken_up_before(self, instant: datetime, limit: int) -> list[DueId]:
        """Return workflows that somebody took up before `instant`, and never ended."""
        found = _dbos().list_workflows(
            queue_name=_QUEUE,
            status="PENDING",
            app_version=self._version,
            dequeued_before=to_rfc3339_ms(instant),
            limit=limit,
            load_input=False,
            load_output=False,
        )
        return [DueId(status.workflow_id) for status in found]

    def resume(self, due_ids: Iterable[DueId]) -> None:
        """Put workflows that a dead executor holds back on the queue."""
        for due in due_ids:
            _dbos().resume_workflow(due, queue_name=_QUEUE)

    def _busy(self) -> bool:
        """Return whether this executor holds any workflow now."""
        return bool(
            _dbos().list_workflows(
                queue_name=_QUEUE,
                status="PENDING",
                executor_id=self._executor_id,
                limit=1,
                load_input=False,
                load_output=False,
            )
        )

    def forget(self, before: datetime) -> int:
        """Delete old workflows, up to a bound; return how many.

        However one stands, the due row is the truth: it would be started again.
        """
        old = _dbos().list_workflows(
            queue_name=_QUEUE,
            end_time=to_rfc3339_ms(before),
            limit=_FORGET_AT_ONCE,
            load_input=False,
            load_output=False,
        )
        if old:
            _dbos().delete_workflows([status.workflow_id for status in old])
        return len(old)

    def _declare_queue(self, instance: "DBOS") -> None:
        """Declare our queue as DBOS declares its own: before it is launched.

        One that is registered in its database, after the launch, is found up to a
        second later where the database is new, and is read anew before each look at it.
        """
        registry: Any = instance._registry  # noqa: SLF001 - as the docstring says
        registry._register_internal_queue(  # noqa: SLF001 - likewise
            _QUEUE,
            worker_concurrency=self._most_at_once,
            polling_interval_sec=self._poll_s,
        )

    def _run(self, status: "WorkflowStatus") -> Run:
        since = status.dequeued_at
        return Run(
            id=DueId(status.workflow_id),
            stand=_stand(status.status, ours=status.app_version == self._version),
            since=None if since is None else datetime.fromtimestamp(since / 1000, UTC),
        )

    def _config(self) -> "DBOSConfig":
        from dbos import DBOSPortableJSONSerializer  # noqa: PLC0415 - see `_dbos`

        return {
            "name": _APP,
            "system_database_url": self._url,
            "sys_db_pool_size": self._most_at_once + _POLLERS,
            "db_engine_kwargs": {"hide_parameters": True, **_patience(self._url)},
            "application_version": self._version,
            "executor_id": self._executor_id,
            # Nobody waits for DBOS's notifications, so no connection listens for them.
            "use_listen_notify": False,
            "serializer": DBOSPortableJSONSerializer(),
            "conductor_key": None,
            "enable_otlp": False,
            "otlp_traces_endpoints": [],
            "otlp_logs_endpoints": [],
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": _LISTENER_S,
            "scheduler_polling_interval_sec": _SCHEDULER_S,
        }


def _dbos() -> "type[DBOS]":
    """Import DBOS: half a second and 60 MiB, which only those who serve pay."""
    from dbos import DBOS  # noqa: PLC0415 - as above

    return DBOS


def _quieten(dbos: "DBOS") -> None:
    """Have DBOS look less often for what we never give it: half of its idle work.

    We start nothing with a delay, a deadline or a schedule, and nothing on DBOS's own
    queue; it looks for each of them once a second, for schedules in its first minute,
    and has no setting for it. A test tells when a release of DBOS keeps these numbers
    elsewhere.
    """
    from dbos import _scheduler, _workflow_commands  # noqa: PLC0415 - as above

    jobs: Any = _workflow_commands
    jobs._BACKGROUND_JOBS_INTERVAL_SEC = _IDLE_S  # noqa: SLF001 - as the docstring says
    schedules: Any = _scheduler
    schedules._STARTUP_FAST_POLL_DURATION_SEC = 0.0  # noqa: SLF001 - likewise
    internal: Any = dbos._registry.get_internal_queue()  # noqa: SLF001 - likewise
    internal._polling_interval_sec = _IDLE_S  # noqa: SLF001 - likewise


def _stand(status: str, *, ours: bool) -> Stand:
    if status in {"ENQUEUED", "DELAYED"}:
        return Stand.QUEUED if ours else Stand.STRANDED
    if status == "PENDING":
        return Stand.RUNNING if ours else Stand.STRANDED
    return Stand.ENDED


def _patience(url: str) -> dict[str, Any]:
    """Return what has DBOS connect as we do, where its tables are on PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    return {"connect_args": {"application_name": "errand-work", **patience(parsed)}}


def _make_sqlite(url: str) -> None:
    """Make the file the gateway's alone, and commits on it cheap (WAL)."""
    file = file_of(url)
    if file is None:
        return
    with telling_damage(file, _ANEW), connected(url, read_only=False):
        pass


def _route_logs() -> None:
    """Let DBOS's warnings go where every library's go (`exchange.telemetry`).

    INVARIANT: no log line holds a person's value (rule 8). There only the kind and
    the place of what a library says are written; DBOS's own handler, which it
    installs where it finds none, would write the words to the console.
    """
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _join_threads(deadline: float) -> None:
    """Wait until DBOS's pool is empty: it lets go of its threads without waiting."""
    for thread in threading.enumerate():
        if thread.name.startswith(("dbos-", "queue-worker-")):
            thread.join(max(0.0, deadline - time.monotonic()))
