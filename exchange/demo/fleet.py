"""`errand demo --fleet`: three gateways and a publisher on one PostgreSQL, two killed.

Families open their cases at whichever gateway is next. In the middle a gateway is
killed while departments are being asked for a case of its own, and the publisher with
it. Every case settles all the same, and the log verifies.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from audit.keys import load_keys
from audit.places import parse_place
from audit.store import LOG_SCHEMA, LogReader
from exchange.demo.building import Fleet, build, port_count
from exchange.demo.children import StageError
from exchange.demo.lines import NO_TLS
from exchange.demo.logs import compare, verify_offline
from exchange.demo.people import Population
from exchange.demo.population import generate
from exchange.demo.portal import Answer
from exchange.demo.postgres import PostgresServer, a_server
from exchange.demo.report import Report
from exchange.demo.run import Choices, conclude, folder_of
from exchange.demo.show import Show
from exchange.demo.stage import (
    AUDITOR,
    CITIZEN,
    PORTAL,
    Stage,
    running,
    write_registers,
)
from exchange.demo.story import ALONE, MARRIED, Story, World, open_case
from schemas.clock import Clock

_VICTIM = "source_down"
"""The family whose gateway is killed."""
_FROZEN = "ga"
"""The department that is held still meanwhile, so that its look-ups are under way."""
_AT_ONCE = 4
_GATEWAYS = 3
_PORTS = port_count(_GATEWAYS)
_PATIENCE_S = 120.0
_POLL_S = 0.02


def run_fleet(
    choices: Choices, console: Console, json_file: Path | None, clock: Clock
) -> bool:
    """Run a fleet; return whether every claim held.

    (1) Start PostgreSQL, the departments, a publisher and three gateways.
    (2) Let families live through their cases, several at once.
    (3) Kill a gateway in the middle of a case, and the publisher with it, while more
        families open theirs; follow every case until it is settled.
    (4) Start the publisher again.
    (5) When all is stopped: hold the departments' logs against the exchange's, and
        verify the log in another process.

    Raises:
        PostgresError: There is no PostgreSQL here, or it did not start.
        StageError: A process did not start.
    """
    show, report = Show(console), Report()
    families = [f"waiting-{n}" for n in range(1, choices.families + 1)]
    before = families[: len(families) // 2]
    with folder_of(choices, _PORTS) as folder, a_server() as server:  # (1)
        with _fleet(choices, folder, server, show, clock) as (stage, population):
            lives = _Lives(stage, population, report)
            lives.live(before)  # (2)
            show.say(
                f"{len(before)} cases are settled, opened at three gateways in turn"
            )
            _kill_in_the_middle(lives, server, families[len(before) :], show)  # (3)
            _publish_again(stage, show)  # (4)
        show.heading("the log")  # (5)
        _check_log(stage, server, report, show)
    show.heading("the cases")
    show.cases(report.cases)
    return conclude(report, show, json_file)


@contextmanager
def _fleet(
    choices: Choices, folder: Path, server: PostgresServer, show: Show, clock: Clock
) -> Iterator[tuple[Stage, Population]]:
    """Run everything while the block lasts."""
    show.heading("a fleet: three gateways and a publisher on one PostgreSQL")
    population = generate(choices.seed, choices.people, choices.families)
    stage = build(
        folder,
        clock.now(),
        delay_ms=choices.delay_ms,
        seed=choices.seed,
        port=choices.port,
        fleet=Fleet(
            *(server.create_database("errand"), server.create_database("vault")),
            _GATEWAYS,
        ),
    )

    def prepare() -> None:
        with show.seeding(len(stage.places)) as advance:
            write_registers(stage, population, advance)

    with running(stage, prepare):
        for url, gateway in stage.gateways.items():
            show.say(f"{gateway.name}: {url}, process {gateway.pid}")
        publisher = stage.publisher
        show.say(f"publisher: process {None if publisher is None else publisher.pid}")
        yield stage, population


class _Lives:
    """Families living through their cases, each with clients of its own."""

    def __init__(self, stage: Stage, population: Population, report: Report) -> None:
        self.stage = stage
        self.population = population
        self.report = report
        self._quiet = Show(Console(quiet=True))
        self._opened = 0
        self._lock = threading.Lock()

    def live(self, families: Sequence[str]) -> None:
        """Live through the cases of families, some at once, until all are settled.

        Raises:
            PortalError: One of them does not get there.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="family") as threads:
            for done in [threads.submit(self.live_one, name) for name in families]:
                done.result()

    def live_one(self, name: str, first: int | None = None) -> Story:
        """Live through the case of one family, from the gateway that is next."""
        with self._lock:
            self._opened += 1
            turn = self._opened if first is None else first
        with self._world(turn) as world:
            father = self.population.families[name].father
            story = open_case(world, name, MARRIED if father else _ALONE)
            if father is not None:
                # Of a case that was cut off nobody has been asked for anything yet.
                story.go_on(_asks_for_consent)
                story.consent()
            story.go_on(lambda answer: answer.status == "settled")
            story.finish()
            story.check("the case is settled", story.answer.status == "settled")
        return story

    @contextmanager
    def _world(self, first: int) -> Iterator[World]:
        with ExitStack() as stack:
            portal, citizen, auditor = (
                stack.enter_context(closing(self.stage.client(name, first)))
                for name in (PORTAL, CITIZEN, AUDITOR)
            )
            yield World(
                *(self.stage, self.population, portal, citizen, auditor),
                *(self._quiet, self.report),
            )


def _asks_for_consent(answer: Answer) -> bool:
    return "consent_needed" in answer.unsettled().values()


_ALONE = {**ALONE, "head_agrees": True}


def _kill_in_the_middle(
    lives: _Lives, server: PostgresServer, families: Sequence[str], show: Show
) -> None:
    """Kill the second gateway while it asks departments, and the publisher with it.

    (1) Hold a department still, and open a case at the second gateway.
    (2) Wait until its look-ups are under way, recorded and not ended.
    (3) Kill the gateway and the publisher; let the department go on.
    (4) Meanwhile more families open their cases; all of them are followed to the end.
    """
    stage, report = lives.stage, lives.report
    department, publisher = stage.departments[_FROZEN], stage.publisher
    gateway = list(stage.gateways.values())[1]
    if department.pid is None or publisher is None:
        raise StageError("the department or the publisher does not run")
    os.kill(department.pid, signal.SIGSTOP)  # (1)
    with ThreadPoolExecutor(2, thread_name_prefix="middle") as threads:
        try:
            victim = threads.submit(lives.live_one, _VICTIM, 1)
            asking = _wait(lambda: _under_way(server), "nobody is being asked")  # (2)
            others = threads.submit(lives.live, families)  # (4)
            show.say(f"{gateway.name} asks departments: {asking} look-ups under way")
            published = _published(stage)
            show.say(f"kill -9 {gateway.pid} {publisher.pid}: it, and the publisher")
            gateway.kill()  # (3)
            publisher.kill()
        finally:
            os.kill(department.pid, signal.SIGCONT)
        report.killed += [gateway.name, publisher.name]
        others.result()
        story = victim.result()
    report.check(
        "the case whose gateway was killed is one case, and it settled",
        story.answer.status == "settled",
        f"{asking} look-ups were cut off",
    )
    show.say(f"{len(families) + 1} cases more are settled")
    _wait(lambda: _published(stage) > published, "no head is published any more")
    report.check(
        "a gateway publishes the log's heads while the publisher is gone",
        _published(stage) > published,
        f"{published} records, then {_published(stage)}",
    )


def _published(stage: Stage) -> int:
    """Return how many records stand under the published head, by the first gateway."""
    answer = httpx.get(f"{stage.gateway_url}/log/checkpoint", verify=NO_TLS)
    return int(answer.text.split("\n")[1]) if answer.is_success else 0


def _under_way(server: PostgresServer) -> int:
    """Return how many look-ups are recorded and have not ended."""
    place = parse_place(server.url("errand"), LOG_SCHEMA)
    with closing(LogReader.open(place)) as reader:
        return int(reader.sql.rows("SELECT count(*) FROM attempt")[0][0])


def _publish_again(stage: Stage, show: Show) -> None:
    """Start the publisher again: it stands by, since a gateway leads now."""
    if stage.publisher is not None:
        stage.publisher.start()
        stage.publisher.wait()
        show.say(f"the publisher runs again, process {stage.publisher.pid}")


def _wait(look: Callable[[], int], otherwise: str) -> int:
    """Look until there is something; return it.

    Raises:
        StageError: There is nothing in good time.
    """
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(_POLL_S)
    raise StageError(otherwise)


def _check_log(
    stage: Stage, server: PostgresServer, report: Report, show: Show
) -> None:
    """Hold the logs against each other, and verify the exchange's."""
    url = server.url("errand")
    compared = compare(stage.places, parse_place(url, LOG_SCHEMA))
    report.check(
        "every look-up that a department got is in the exchange's log, as it says",
        compared.chains_hold and compared.unproved == 0 < compared.asked,
        f"{compared.asked} look-ups",
    )
    report.check(
        "every look-up that began has ended, those of the killed gateway too",
        _under_way(server) == 0,
    )
    keys = load_keys(stage.data_dir / "keys" / "log")
    receipts = stage.folder / "receipts"
    report.log = verify_offline(url, keys, report.receipts, receipts)
    report.check("the log verifies, in another process", report.log.verified)
    report.check(
        "every receipt that the portals were given is kept",
        report.log.receipts == len(report.receipts) > 0,
        f"{report.log.receipts} receipts",
    )
    show.log(report.log)
