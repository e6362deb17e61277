"""A whole installation for tests from outside: a gateway and departments as processes.

    with an_installation(tmp_path, delay_ms=200) as place:
        body = opening(place.family("married"), MARRIED)
        case = place.portal().post("/v1/cases", body)
        place.kill_gateway()
        place.start_gateway()

Everything is on loopback, on free ports, in one folder; it is the stage of the demo
(`exchange.demo.building`) on a small population, with what a test needs beside:
settings of its own, `kill -9`, what the processes wrote, and a search for planted
values.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import JsonValue

from exchange.demo.building import build
from exchange.demo.children import Child
from exchange.demo.lines import NO_TLS
from exchange.demo.people import Family, Population
from exchange.demo.population import generate
from exchange.demo.portal import Client
from exchange.demo.registers import REGISTERS
from exchange.demo.stage import (
    AUDITOR,
    CITIZEN,
    PORTAL,
    SETTINGS,
    Stage,
    write_registers,
)
from schemas.clock import SystemClock


@dataclass(slots=True)
class Installation:
    """What runs, and how a test meddles with it."""

    stage: Stage
    population: Population
    clients: ExitStack
    """Closes the clients that were handed out."""

    @property
    def url(self) -> str:
        """Where the gateway's API is."""
        return self.stage.gateway_url

    def family(self, case: str) -> Family:
        """Return the family of one of the demo's cases."""
        return self.population.families[case]

    def portal(self) -> Client:
        """Return a portal: a client that opens cases."""
        return self._client(PORTAL)

    def citizen(self) -> Client:
        """Return the app in which citizens consent."""
        return self._client(CITIZEN)

    def auditor(self) -> Client:
        """Return an auditor."""
        return self._client(AUDITOR)

    def kill_gateway(self) -> None:
        """Kill the gateway as `kill -9` does, and wait until it is gone."""
        kill(self.stage.gateway)

    def stop_gateway(self) -> None:
        """Ask the gateway to end, and wait until it has."""
        self.stage.gateway.stop()

    def start_gateway(self) -> None:
        """Start the gateway, and wait until it is ready.

        Raises:
            StageError: It is not, in time; the message holds the end of its log.
        """
        self.stage.gateway.start()
        self.stage.gateway.wait()

    def department(self, provider: str) -> Child:
        """Return a department's process: `start`, `wait`, `stop`; see also `kill`."""
        return self.stage.departments[provider]

    def metric(self, sample: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=10, verify=NO_TLS).text
        return sum(
            one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == sample and labels.items() <= one.labels.items()
        )

    def asked(self, provider: str) -> int:
        """Return how many look-ups reached a department, answered or not yet."""
        url = f"{self.stage.places[provider].url}/demo/delays"
        return len(httpx.get(url, timeout=10, verify=NO_TLS).json()["delays"])

    def written(self) -> Mapping[str, str]:
        """Return what each process wrote to its output and error, by its name."""
        children = (self.stage.gateway, *self.stage.departments.values())
        return {
            child.name: child.log.read_text(encoding="utf-8", errors="replace")
            for child in children
            if child.log.exists()
        }

    def told(self) -> Mapping[str, str]:
        """Return all that the gateway and the departments tell their operators.

        That is what they wrote, and the gateway's metrics while it runs.
        """
        told = dict(self.written())
        if self.stage.gateway.pid is not None:
            told["metrics"] = httpx.get(
                f"{self.url}/metrics", timeout=10, verify=NO_TLS
            ).text
        return told

    def kept(self) -> Iterator[Path]:
        """Yield every file of the gateway's data folder, its keys included."""
        yield from (p for p in self.stage.data_dir.rglob("*") if p.is_file())

    def _client(self, name: str) -> Client:
        client = self.stage.client(name)
        self.clients.callback(client.close)
        return client


@contextmanager
def an_installation(
    folder: Path,
    *,
    departments: Iterable[str] = tuple(REGISTERS),
    delay_ms: float = 1.0,
    people: int = 300,
    settings: Mapping[str, JsonValue] | None = None,
    prepare: Callable[[Stage], None] = lambda _stage: None,
) -> Iterator[Installation]:
    """Run a gateway and departments while the block lasts.

    (1) Write everything down: keys, registers, configurations, settings.
    (2) Start the processes, and wait until all are ready.
    (3) In the end stop each by its own id, and kill what does not stop.

    Args:
        folder: Empty; everything is inside it.
        departments: The providers that run; the others can be started later.
        delay_ms: How long departments take, on average.
        people: How many are in the registers, at least.
        settings: Settings of the gateway, over those of the demo.
        prepare: Called when all is written down and nothing runs yet.

    Raises:
        StageError: Something did not start.
    """
    # (1): ports are chosen free here, and taken by the processes a moment later.
    now = SystemClock().now()
    stage = build(folder / "stage", now, delay_ms=delay_ms, seed=7)
    population = generate(seed=7, at_least=people)
    write_registers(stage, population, lambda _provider: None)
    _set(stage, settings or {})
    prepare(stage)
    with ExitStack() as processes, ExitStack() as clients:
        # (3): registered before anything starts, so that nothing is left behind.
        for child in (*stage.departments.values(), stage.gateway):
            processes.callback(child.stop)
        # (2): all at once, as each takes a while.
        started = [*(stage.departments[one] for one in departments), stage.gateway]
        for child in started:
            child.start()
        for child in started:
            child.wait()
        yield Installation(stage, population, clients)


def kill(child: Child) -> None:
    """Kill a process as `kill -9` does, by its own id, and wait until it is gone."""
    if child.pid is not None:
        os.kill(child.pid, signal.SIGKILL)
        child.stop()  # it only has to be collected


def found(values: Iterable[str], texts: Mapping[str, str]) -> list[str]:
    """Return where planted values turn up, as `value in place`; empty is good."""
    return [
        f"`{value}` in {place}"
        for value in values
        for place, text in texts.items()
        if value in text
    ]


def found_in_files(values: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Return which files hold planted values, byte for byte; empty is good."""
    wanted = [(value, value.encode()) for value in values]
    return [
        f"`{value}` in {file.name}"
        for file in files
        for value, planted in wanted
        if planted in file.read_bytes()
    ]


def _set(stage: Stage, settings: Mapping[str, JsonValue]) -> None:
    """Write settings over those that the stage wrote."""
    path = stage.folder / SETTINGS
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = yaml.safe_dump({**document, **settings}, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
