"""Rule 1 over real connections: portals that hang up, at any moment, lose nothing.

The gateway and its departments are served over sockets, on real files. A portal sends
half a request, leaves while the log's disk or a department keeps it waiting, or ends
the connection in mid-answer; and meanwhile commits of the log fail, and departments do.
At the instant in which a department is asked, and in which the first bytes of an answer
reach the portal, the log's file is read.
"""

import asyncio
import re
import select
import socket
import sqlite3
import struct
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

import orjson
import pytest
import uvicorn
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import text
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from audit.keys import load_keys
from audit.record import Kind
from audit.verify import verify_log
from connectors.kinds.http import HttpConnector
from exchange.api.dependencies import Gateway
from exchange.api.edge import Edge
from exchange.api.shortcut import Application
from exchange.app import build_app
from exchange.demo.building import build
from exchange.demo.people import Birth
from exchange.demo.population import generate
from exchange.demo.portal import Client
from exchange.demo.stage import (
    PORTAL,
    PURPOSE,
    SCOPES,
    Stage,
    write_registers,
)
from exchange.settings import read_settings
from schemas.canonical import b64url_decode
from schemas.clock import SystemClock
from tests.faults.commits import FailingConnection, Failure, Hold, fail_commits
from tests.faults.machines import run_machine
from tests.harness.application import served
from tests.harness.registers import Front, Mood, departments

T = TypeVar("T")
PATIENCE_S = 30.0
DEPARTMENTS = ("ga", "wj", "mz")
"""Police, health, civil affairs; what the others hold stays pending."""
RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER`: closing sends RST, and what is not sent yet never is."""
PRESENTATION = re.compile(rb'"sd_jwt":"[^".]+\.([^".]+)\.')
"""The claims of an evidence, as soon as so much of an answer is there."""


class Leaving(Enum):
    """When a portal ends its connection."""

    NEVER = "it reads its answer"
    IN_REQUEST = "before it has sent all"
    WAITING = "while the log or a department keeps it waiting"
    IN_ANSWER = "when it has read some bytes of the answer"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong while a request is under way."""

    leaving: Leaving
    at: int
    """How many bytes are sent, or read, before it leaves."""
    is_reset: bool
    """Whether it leaves with a reset, and not with a word."""
    commit: int
    """The commit of the log, counted from 0, that something happens to."""
    failure: Failure | None
    """How that commit fails; None when it does not."""
    hangs: bool
    """Whether it hangs before that."""
    moods: dict[str, Mood]
    """How departments take look-ups meanwhile."""


troubles = st.builds(
    Trouble,
    leaving=st.sampled_from(Leaving),
    at=st.integers(0, 20_000),
    is_reset=st.booleans(),
    commit=st.sampled_from((0, 0, 1, 2, 3)),
    failure=st.sampled_from((None, Failure(sqlite3.SQLITE_FULL, is_persisted=False))),
    hangs=st.booleans(),
    moods=st.dictionaries(st.sampled_from(DEPARTMENTS), st.sampled_from(Mood)),
)


CALM = Trouble(
    leaving=Leaving.NEVER,
    at=0,
    is_reset=False,
    commit=0,
    failure=None,
    hangs=False,
    moods={},
)
"""Nothing goes wrong."""


class ShiftedClock(SystemClock):
    """The machine's clock, moved on by the test."""

    ahead = timedelta(0)

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()


@dataclass(frozen=True, slots=True)
class Held:
    """What is held for somebody; nothing, when nobody is there."""

    requests: int = 0
    lookups: int = 0
    slots: int = 0
    """Of the departments' clients."""
    leases: int = 0
    releasing: int = 0
    """Leases on their way back."""
    records: int = 0
    """In the log's queue."""


@dataclass(slots=True)
class Watched:
    """The gateway as a server runs it, on a loop that a test can ask."""

    app: Application
    loop: asyncio.AbstractEventLoop | None = None
    lasting: "frozenset[asyncio.Task[Any]]" = frozenset()
    """What runs as long as the gateway does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is asked (ASGI)."""
        if scope["type"] == "lifespan":
            self.loop = asyncio.get_running_loop()
        await self.app(scope, receive, send)

    @property
    def gateway(self) -> Gateway:
        """The gateway that is served."""
        gateway: Gateway = self.app.state.gateway
        return gateway

    def begin(self) -> None:
        """Take what runs now for what runs always."""
        self.lasting = frozenset(self._ask(self._others()))

    def held(self) -> Held:
        """Wait until nothing is under way, and return what is held all the same."""
        return self._ask(self._quiet())

    def _ask(self, what: Coroutine[None, None, T]) -> T:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_S)

    async def _others(self) -> "set[asyncio.Task[Any]]":
        others = asyncio.all_tasks() - self.lasting - {asyncio.current_task()}
        # The dispatcher waits for its next round in a task of its own.
        return {one for one in others if "Event.wait" not in repr(one.get_coro())}

    async def _quiet(self) -> Held:
        while others := await self._others():
            await asyncio.wait(others)
        gateway, edge = self.gateway, self.app.edge
        connectors = gateway.resolver.flow.asker.connectors.values()
        clients = [one._client for one in connectors if isinstance(one, HttpConnector)]
        # An attempt of the gateway itself has the lease of its own row.
        query = text("SELECT count(*) FROM due WHERE lease_id <> id")
        assert isinstance(edge, Edge)
        return Held(
            requests=edge._in_flight,
            lookups=gateway.in_flight.count,
            slots=sum(c._concurrency - c._slots._value + c._waiting for c in clients),
            leases=gateway.database.read_now(lambda c: c.execute(query).scalar_one()),
            releasing=len(gateway.resolver.releasing),
            records=gateway.log._batches.outstanding,
        )


@dataclass(slots=True)
class Ringing(Hold):
    """A commit that hangs, and says so."""

    bell: socket.socket | None = None

    @override
    def wait(self) -> None:
        assert self.bell is not None
        self.bell.send(b"!")
        Hold.wait(self)


@dataclass(slots=True)
class Place:
    """What runs for all examples, and what is seen of it."""

    stage: Stage
    births: tuple[Birth, ...]
    clock: ShiftedClock
    front: Front
    watched: Watched
    disk: FailingConnection
    portal: Client
    bell: socket.socket
    """Rung when something keeps a request waiting."""
    hears: socket.socket
    notes: list[bytes] = field(default_factory=list)
    """Every receipt that the portal has got."""
    hold: Hold = field(default_factory=Hold)
    since: int = 0
    """The first record of the example."""

    @property
    def address(self) -> tuple[str, int]:
        """Where the gateway is served."""
        return "127.0.0.1", int(self.stage.gateway_url.rpartition(":")[2])

    def ring(self) -> None:
        """Say that a request is kept waiting."""
        self.bell.send(b"!")

    def move_on(self, passed: timedelta) -> None:
        """Let time pass: what was fresh gets old, and tokens too."""
        self.clock.ahead += passed
        self.portal._renew()

    def prepare(self, trouble: "Trouble") -> None:
        """See to it that things go wrong, once."""
        self.hold, self.front.released = Ringing(bell=self.bell), threading.Event()
        first = self.hold if trouble.hangs else trouble.failure
        self.disk.planned.clear()
        self.disk.planned.extend([*[None] * trouble.commit, first])
        if trouble.hangs:
            self.disk.planned.append(trouble.failure)
        self.front.moods = dict(trouble.moods)

    def let_go(self) -> None:
        """Let go of whatever waits."""
        self.hold.released.set()
        self.front.released.set()

    def calm(self) -> None:
        """End what was to go wrong, and wait until nothing is under way."""
        self.disk.planned.clear()
        self.let_go()
        self.watched.held()
        self.front.moods = {}
        while select.select([self.hears], [], [], 0)[0]:
            self.hears.recv(1 << 10)

    def stored(self, event: str) -> str | None:
        """Return the kind of a record that is on the disk."""
        query = "SELECT leaf FROM entry WHERE event_id = ?"
        found = [orjson.loads(leaf)["kind"] for (leaf,) in self._rows(query, event)]
        return found[0] if found else None

    def released(self) -> list[tuple[str, str, str]]:
        """Return case, look-up and evidence type of each release on the disk."""
        rows = self._rows("SELECT case_ref, leaf FROM entry WHERE seq >= ?", self.since)
        leaves = [(case, orjson.loads(leaf)) for case, leaf in rows]
        return [
            (case, leaf["corr"], leaf["etype"])
            for case, leaf in leaves
            if leaf["kind"] == Kind.EVIDENCE_RELEASED.value
        ]

    def open_cases(self) -> list[str]:
        """Return the cases that are not closed, also those that nobody heard of."""
        query = text("SELECT id FROM case_file WHERE status <> 'closed' ORDER BY id")
        database = self.watched.gateway.database
        return [one for (one,) in database.read_now(lambda c: c.execute(query).all())]

    def _rows(self, query: str, value: str | int) -> list[tuple[Any, ...]]:
        file = self.stage.data_dir / "log.db"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as log:
            return log.execute(query, (value,)).fetchall()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve a gateway and three departments, and verify its log in the end."""
    folder, clock = tmp_path_factory.mktemp("released") / "stage", ShiftedClock()
    stage = build(folder, clock.now(), delay_ms=0, seed=7)
    population = generate(seed=7, at_least=100)
    write_registers(stage, population, lambda _provider: None)
    # What nobody can answer here need not be asked again and again.
    chosen = {"ERRAND_RETRY_S": "600", "ERRAND_CHECKPOINT_EVERY_S": "600"}
    app = build_app(read_settings(stage.settings_file, chosen), clock)
    watched = Watched(app)
    with ExitStack() as stack:
        front = stack.enter_context(departments(stage, clock, *DEPARTMENTS))
        port = int(stage.gateway_url.rpartition(":")[2])
        listening = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        config = uvicorn.Config(watched, log_config=None, access_log=False)
        stack.enter_context(served(config, listening, app.state))
        bell, hears = (stack.enter_context(one) for one in socket.socketpair())
        portal = Client(
            [stage.gateway_url], PORTAL, stage.clients[PORTAL], SCOPES[PORTAL], clock
        )
        stack.callback(portal.close)
        births = tuple(b for b in population.births if b.father is not None)[:6]
        disk = fail_commits(watched.gateway.log)
        found = Place(stage, births, clock, front, watched, disk, portal, bell, hears)
        front.on_waiting = found.ring
        watched.begin()
        yield found
    keys = load_keys(stage.data_dir / "keys" / "log")
    verify_log(
        stage.data_dir,
        keys.log.verifier.vkey,
        receipts=found.notes,
        receipt_vkey=keys.receipt.verifier.vkey,
        keys=keys,
    )


class Released(RuleBasedStateMachine):
    """Cases of a portal that hangs up; what it and the departments heard is kept."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.cases: list[str] = []
        self.left: Counter[str] = Counter()
        """How many answers have held the evidence of a look-up, or a part of it."""
        self.place.front.on_asked = self._asked
        self.place.since = self.place.watched.gateway.log.size
        self.place.move_on(timedelta(hours=2))  # no department is held back any more

    # What can happen.

    @rule(which=st.integers(0, 5), trouble=troubles)
    def opens_a_case(self, which: int, trouble: Trouble) -> None:
        """Open the case of a birth."""
        body = opening_of(self.place.births[which])
        answer = self._request("POST", "/v1/cases", trouble, body)
        if answer is not None:
            self.cases.append(answer["id"])

    @rule(which=st.integers(0, 5), trouble=troubles)
    def reads_a_case(self, which: int, trouble: Trouble) -> None:
        """Read a case."""
        self._ask_about(which, "GET", "", trouble)

    @rule(which=st.integers(0, 5), trouble=troubles)
    def resolves_a_case(self, which: int, trouble: Trouble) -> None:
        """Resolve a case again."""
        self._ask_about(which, "POST", "/resolve", trouble)

    @rule(which=st.integers(0, 5), trouble=troubles)
    def follows_a_case(self, which: int, trouble: Trouble) -> None:
        """Follow a case as events, up to the first."""
        self._ask_about(which, "GET", "/events", trouble)

    @rule(which=st.integers(0, 5), trouble=troubles)
    def closes_a_case(self, which: int, trouble: Trouble) -> None:
        """Close a case; nobody else does."""
        self._ask_about(which, "POST", "/close", trouble)

    @rule(minutes=st.sampled_from((1, 90)))
    def time_passes(self, minutes: int) -> None:
        """What was fresh gets old."""
        self.place.move_on(timedelta(minutes=minutes))

    @invariant()
    def nothing_was_told_before_it_was_durable(self) -> None:
        """Whatever departments and portal have heard stood on the disk."""
        assert [] == self.broken

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        """No request, look-up, slot or lease outlives whoever it was for."""
        assert Held() == self.place.watched.held()

    @override
    def teardown(self) -> None:
        """Whatever happened, what comes next is served, and no evidence is lost."""
        self.place.move_on(timedelta(hours=2))
        answer = self._request(
            "POST", "/v1/cases", CALM, opening_of(self.place.births[0])
        )
        assert answer is not None
        assert answer["evidence"]
        for case in self.place.open_cases():
            self._check_kept(case)
            self._request("POST", f"/v1/cases/{case}/close", CALM)
        assert [] == self.broken
        assert [] == self.place.open_cases()

    # How it happens, and what is looked at.

    def _ask_about(self, which: int, method: str, path: str, trouble: Trouble) -> None:
        """Ask for something of one of the cases, if there is any."""
        if self.cases:
            case = self.cases[which % len(self.cases)]
            self._request(method, f"/v1/cases/{case}{path}", trouble)

    def _request(
        self, method: str, path: str, trouble: Trouble, body: bytes = b""
    ) -> dict[str, Any] | None:
        """Send a request while something goes wrong; return what was answered well."""
        place, heard = self.place, b""
        place.prepare(trouble)
        said = request_of(place, method, path, body)
        with socket.create_connection(place.address, PATIENCE_S) as line:
            if trouble.is_reset:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            if trouble.leaving is Leaving.IN_REQUEST:
                line.sendall(said[: trouble.at % len(said)])
            else:
                line.sendall(said)
                heard = self._listen(line, trouble, is_endless=path.endswith("events"))
        place.calm()
        return self._whole(heard)

    def _listen(
        self, line: socket.socket, trouble: Trouble, *, is_endless: bool
    ) -> bytes:
        """Return what the portal hears before it leaves."""
        place, heard, told = self.place, b"", 0
        while place.hears in select.select([line, place.hears], [], [], PATIENCE_S)[0]:
            place.hears.recv(1 << 10)
            if trouble.leaving is Leaving.WAITING:
                return b""
            place.let_go()
        most = trouble.at if trouble.leaving is Leaving.IN_ANSWER else sys.maxsize
        while len(heard) < most and not is_whole(heard, is_endless=is_endless):
            part = line.recv(min(most - len(heard), 1 << 16))
            if not part:
                self.broken.append("an answer was cut off")
                break
            heard += part
            lookups = lookups_in(heard)
            if len(lookups) > told:
                # At this instant, and not when all of it is there.
                self._check_durable(lookups)
                told = len(lookups)
        self.left.update(lookups_in(heard))
        return heard

    def _check_durable(self, lookups: frozenset[str]) -> None:
        """Evidence has left: each time it did has a record of its own."""
        recorded = Counter(lookup for _, lookup, _ in self.place.released())
        if any(self.left[one] + 1 > recorded[one] for one in lookups):
            self.broken.append("evidence left without its record")

    def _whole(self, heard: bytes) -> dict[str, Any] | None:
        """Return a case that was answered whole, and keep its receipts."""
        head, _, body = heard.partition(b"\r\n\r\n")
        is_good = re.match(rb"HTTP/1.1 20[01] ", head) and b"application/json" in head
        if not is_good or not is_whole(heard, is_endless=False):
            return None
        case: dict[str, Any] = orjson.loads(body)
        if case["evidence"].keys() != {one["evidence"] for one in case["receipts"]}:
            self.broken.append("evidence left without its receipt")
        self.place.notes += [one["note"].encode() for one in case["receipts"]]
        return case

    def _asked(self, event: str) -> None:
        """A department is asked: the intent is on the disk."""
        if self.place.stored(event) != Kind.REQUEST_ACCEPTED.value:
            self.broken.append("a department was asked too early")

    def _check_kept(self, case: str) -> None:
        """What was released is still there, or newer evidence of its type."""
        recorded = [one for one in self.place.released() if one[0] == case]
        answer = self._request("GET", f"/v1/cases/{case}", CALM)
        assert answer is not None
        kept = lookups_in(orjson.dumps(answer))
        newest = {kind: at for at, (_, one, kind) in enumerate(recorded) if one in kept}
        for at, (_, _, kind) in enumerate(recorded):
            if newest.get(kind, -1) < at:
                self.broken.append(f"{kind} was released and is gone")


def request_of(place: Place, method: str, path: str, body: bytes) -> bytes:
    """Return a request as it is sent."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {place.stage.gateway_url[7:]}\r\n"
        f"authorization: Bearer {place.portal.token()}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def opening_of(birth: Birth) -> bytes:
    """Return what a portal says to open the case of a birth."""
    return orjson.dumps(
        {
            "matter": "newborn@1",
            "purpose": PURPOSE,
            "actor": {"kind": "system", "id": "portal"},
            "subjects": {
                "mother": {"id": birth.mother.id, "name": birth.mother.name},
                "newborn": {"birth_date": birth.born_on.isoformat()},
            },
            "answers": {"parents_married": True, "joins": "mother"},
        }
    )


def is_whole(heard: bytes, *, is_endless: bool) -> bool:
    """Tell whether an answer is there, or the first of one that has no end."""
    head, blank, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    if length is None:
        return bool(blank) and is_endless and b"\n\n" in body
    return bool(blank) and len(body) >= int(length[1])


def lookups_in(heard: bytes) -> frozenset[str]:
    """Return the look-ups whose evidence is in so much of an answer."""
    found = PRESENTATION.findall(heard)
    return frozenset(
        orjson.loads(b64url_decode(one.decode()))["lookup"] for one in found
    )


def test_a_portal_that_hangs_up_is_told_nothing_that_is_not_durable(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs nobody else anything, whatever fails or waits meanwhile."""
    monkeypatch.setattr(Released, "place", place, raising=False)
    run_machine(Released, examples=12, steps=10, deep=200)


@pytest.mark.parametrize("commit", [0, 1])
@pytest.mark.parametrize("action", ["opens_a_case", "resolves_a_case"])
def test_a_request_that_the_log_fails_leaves_its_case_to_others(
    place: Place, monkeypatch: pytest.MonkeyPatch, action: str, commit: int
) -> None:
    """Nothing of it is held, and what comes next is served."""
    monkeypatch.setattr(Released, "place", place, raising=False)
    full = Failure(sqlite3.SQLITE_FULL, is_persisted=False)
    portal = Released()
    portal.opens_a_case(0, CALM)
    place.move_on(timedelta(hours=2))
    getattr(portal, action)(0, replace(CALM, commit=commit, failure=full))

    portal.nothing_is_held_for_nobody()
    portal.teardown()
