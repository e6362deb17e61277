"""The demo's departments: the product's service beside each register, and a counter.

Each runs as a process of its own, with its own port, key, register and log:

    python -m exchange.demo.departments FOLDER --delay-ms 40 --seed 7

What answers look-ups is the product's department service, unchanged. Around it are
the delay that a register of its age would have, and the counter where the portal
files the department's own step (`exchange.demo.steps`).
"""

import argparse
import asyncio
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

import orjson
import yaml
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.department.app import build_app
from connectors.department.config import load_config
from connectors.department.signing import generate_key
from exchange.demo.people import Population
from exchange.demo.registers import REGISTERS, Rows
from exchange.demo.sources import SOURCES
from exchange.demo.steps import Facts, FilingError, perform, verify_filing
from exchange.incoming import serve
from schemas.clock import Clock, SystemClock
from schemas.directory import PublicKey
from schemas.errors import SettingsError
from schemas.model import Model

CONFIG = "department.yaml"
REGISTER = "register.db"
LOG = "log.db"
KEY = "key.pem"
PINNED = "departments.json"
"""The files of a department's folder; the last holds the keys of all of them."""

LOOPBACK = "127.0.0.1"
"""Where all of the demo listens."""
_MOST_DELAYS = 10_000
_PINNED = TypeAdapter(dict[str, list[PublicKey]])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one department of the demo is: its folder and its port."""

    provider: str
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def register(self) -> Path:
        """Its database."""
        return self.folder / REGISTER

    @property
    def log(self) -> Path:
        """Its own log of what it was asked and answered."""
        return self.folder / LOG


def make_keys(folders: Mapping[str, Path], now: datetime) -> dict[str, PublicKey]:
    """Make a key for each department in its folder, and pin all of them in each.

    Departments know each other's keys so that a step can rest on what another signed.

    Returns:
        The public keys, by provider.
    """
    pinned = {
        provider: generate_key(folder / KEY).pinned(now)
        for provider, folder in folders.items()
    }
    document = orjson.dumps({p: [k.model_dump(mode="json")] for p, k in pinned.items()})
    for folder in folders.values():
        (folder / PINNED).write_bytes(document)
    return pinned


def write_config(place: Place, gateway: str, gateway_key: PublicKey) -> None:
    """Write the configuration that `errand department serve` takes.

    Args:
        place: Where the department is.
        gateway: `iss` of the gateway's look-ups.
        gateway_key: The key that it signs them with.
    """
    config = {
        "provider": place.provider,
        "listen": {"host": LOOPBACK, "port": place.port},
        "database": f"sqlite:///{REGISTER}",
        "key": KEY,
        "log": LOG,
        "gateways": [{"id": gateway, "keys": [gateway_key.model_dump(mode="json")]}],
        "evidence_types": SOURCES[place.provider],
    }
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (place.folder / CONFIG).write_text(text, encoding="utf-8")


def write_register(place: Place, population: Population) -> int:
    """Write a department's register, to a new file; return how many rows it has."""
    register = REGISTERS[place.provider]
    with closing(sqlite3.connect(place.register)) as database:
        # Nobody reads it yet, and a half-written file is thrown away.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(register.schema)
        with database:
            return sum(
                _insert(database, table, rows)
                for table, rows in register.rows(population).items()
            )


def _insert(database: sqlite3.Connection, table: str, rows: Rows) -> int:
    columns = len(database.execute(f"PRAGMA table_info({table})").fetchall())
    marks = ", ".join("?" * columns)
    statement = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - names of ours
    return database.executemany(statement, rows).rowcount


class Filing(Model):
    """What the portal files at a department's counter."""

    step: str
    requester: str
    """Who files: the evidence must have been given to it."""
    presentations: tuple[str, ...]
    """SD-JWTs that the case returned."""


class Delay:
    """Answers look-ups as slowly as an old register would (ASGI)."""

    def __init__(
        self, app: ASGIApp, mean_ms: float, random: Random, clock: Clock
    ) -> None:
        """Take what is delayed, by how much on average, and where chance comes from."""
        self._app = app
        self._clock = clock
        self._mean_ms = mean_ms
        self._random = random
        self.delays: deque[tuple[float, float]] = deque(maxlen=_MOST_DELAYS)
        """When each began, on the machine's monotonic clock, and how long it was, in
        milliseconds; the newest."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delay a look-up by the mean, half more or less; pass on the rest."""
        if scope["type"] == "http" and scope["path"] == "/lookups":
            delay_ms = self._mean_ms * self._random.uniform(0.5, 1.5)
            self.delays.append((self._clock.monotonic() * 1000, delay_ms))
            await asyncio.sleep(delay_ms / 1000)
        await self._app(scope, receive, send)


class Counter:
    """The department's counter, where its step is filed; all else goes on (ASGI)."""

    def __init__(self, delay: Delay, folder: Path, clock: Clock) -> None:
        """Take what is behind the counter, and the department's folder."""
        self._behind = delay
        self._provider = load_config(folder / CONFIG).provider
        self._folder = folder
        self._pinned = _PINNED.validate_json((folder / PINNED).read_bytes())
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a filing at `/demo/steps`, tell the delays at `/demo/delays`."""
        match scope["type"], scope.get("path"):
            case "http", "/demo/steps":
                response = await self._step(Request(scope, receive))
            case "http", "/demo/delays":
                response = JSONResponse({"delays": list(self._behind.delays)})
            case _:
                await self._behind(scope, receive, send)
                return
        await response(scope, receive, send)

    async def _step(self, request: Request) -> Response:
        """Verify what is filed, and perform the step."""
        try:
            filing = Filing.model_validate_json(await request.body())
            verified = await run_in_threadpool(self._perform, filing)
        except (ValueError, FilingError) as error:
            detail = str(error) if isinstance(error, FilingError) else "not a filing"
            return JSONResponse({"performed": False, "detail": detail}, 422)
        return JSONResponse({"performed": True, "verified": verified})

    def _perform(self, filing: Filing) -> int:
        proved = verify_filing(filing.presentations, filing.requester, self._pinned)
        facts = Facts(proved, self._folder / LOG)
        today = self._clock.now().date()
        perform(self._provider, filing.step, self._folder / REGISTER, facts, today)
        return len(proved)


def build_department(
    folder: Path, *, delay_ms: float, seed: int, clock: Clock
) -> ASGIApp:
    """Return a department of the demo as an ASGI app.

    Raises:
        SettingsError: Its folder does not hold what `write_config` and `make_keys`
            write there.
    """
    app = build_app(load_config(folder / CONFIG), clock=clock)
    random = Random(f"{seed} {folder.name}")  # noqa: S311 - a delay, no secret
    return Counter(Delay(app, delay_ms, random, clock), folder, clock)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one department until it is told to stop."""
    parser = argparse.ArgumentParser(prog="exchange.demo.departments")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-ms", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(arguments)
    try:
        listen = load_config(chosen.folder / CONFIG).listen
        app = build_department(
            chosen.folder,
            delay_ms=chosen.delay_ms,
            seed=chosen.seed,
            clock=SystemClock(),
        )
    except SettingsError as error:
        parser.error(str(error))
    serve(app, listen.host, listen.port)


if __name__ == "__main__":
    main()
