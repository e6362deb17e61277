"""The demo's processes: seven departments and a gateway, in one temporary folder.

Everything is on loopback and on free ports. Each department has a folder, a key, a
register and a log of its own; what joins them is written down as for any other
installation: a configuration for each department, and for the gateway its settings
and a deployment that adds keys and addresses to the region's pack.

A process is only ever stopped by its own id, through the handle that started it.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx
import yaml
from pydantic import JsonValue
from typing_extensions import override

from connectors.department.signing import generate_key
from connectors.jose import SigningKey
from exchange.demo import departments
from exchange.demo.departments import Place, make_keys, write_config
from exchange.demo.population import Population
from exchange.demo.portal import Client
from exchange.demo.registers import REGISTERS, write_register
from exchange.keys import open_keys
from exchange.settings import Settings
from schemas.clock import SystemClock
from schemas.directory import PublicKey
from schemas.errors import ErrandError
from schemas.validation import Pack, load_pack

GATEWAY = "gateway_990100"
"""`iss` of the gateway's look-ups."""
PURPOSE = "newborn_registration"
PORTAL = "portal_990100"
CITIZEN = "citizen_app"
AUDITOR = "audit_office"
_CLIENTS: Mapping[str, Mapping[str, JsonValue]] = {
    # The region's pack declares the portal; the others are the demo's own.
    PORTAL: {},
    CITIZEN: {
        "name": {"zh": "云溪市民应用", "en": "Yunxi citizen app"},
        "scopes": ["citizen"],
    },
    AUDITOR: {
        "name": {"zh": "云溪市审计局", "en": "Yunxi Audit Office"},
        "scopes": ["auditor"],
    },
}
"""The gateway's clients, and what the deployment says of them beside their keys."""

SCOPES: Mapping[str, str] = {
    PORTAL: f"portal:{PURPOSE}",
    CITIZEN: "citizen",
    AUDITOR: "auditor",
}
"""What each client asks its tokens for."""

SETTINGS = "errand.yaml"
_MARK = ".errand-demo"
"""Says that a folder was made by the demo, which may empty it again."""
_RETRY_S = (0.25, 0.25, 0.5, 0.5, 1.0)
"""How soon the demo's gateway tries again: nobody wants to watch for a minute."""
_STOP_S = 15.0
_HEALTH_S = 180.0
"""Enough for a machine that has much else to do."""
_POLL_S = 0.05


class StageError(ErrandError):
    """A process of the demo did not start; the message holds the end of its log."""


@dataclass(slots=True)
class Child:
    """A process that the demo started."""

    name: str
    log: Path
    """What it writes to its standard output and error."""
    health: str
    """The address that answers 200 once it is ready."""
    launch: Callable[[Path], "Handle"]
    """Starts it, with that file for its output."""
    _handle: "Handle | None" = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return None if self._handle is None else self._handle.pid

    def start(self) -> None:
        """Start it, and return at once."""
        self._handle = self.launch(self.log)

    def wait(self) -> None:
        """Return once it is healthy.

        Raises:
            StageError: It ended, or is not healthy in time.
        """
        until = time.monotonic() + _HEALTH_S
        while time.monotonic() < until:
            if self._handle is None or not self._handle.is_alive():
                break
            try:
                if httpx.get(self.health, timeout=2).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
        end = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise StageError(f"`{self.name}` did not start:\n{end}")

    def stop(self) -> None:
        """Ask it to end, by its process id; kill it when it does not."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.stop()


class Handle(ABC):
    """A process that runs, whichever way it was started."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process id."""

    @abstractmethod
    def is_alive(self) -> bool:
        """Tell whether it runs."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to end, by its process id; kill it when it does not."""


class _Command(Handle):
    """A command's process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a command of our own
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    @override
    def pid(self) -> int | None:
        return self._process.pid

    @override
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @override
    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Fork(Handle):
    """A department's process: forked from one that has imported all of it.

    Seven interpreters that each import the same would take most of the demo's time.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["__main__", departments.__name__])
        self._process = forks.Process(
            target=_run_department, args=(list(arguments), str(log)), daemon=True
        )
        self._process.start()

    @property
    @override
    def pid(self) -> int | None:
        return self._process.pid

    @override
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @override
    def stop(self) -> None:
        self._process.terminate()
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _run_department(arguments: list[str], log: str) -> None:
    """Be a department's process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    departments.main(arguments)


def _end_with_parent() -> None:
    """End this process when the demo ends without having stopped it: by `kill -9`."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs, and where."""

    folder: Path
    pack: Pack
    places: Mapping[str, Place]
    """The departments, by provider."""
    clients: Mapping[str, SigningKey]
    """The keys with which the gateway's clients ask for tokens, by client."""
    gateway_url: str
    gateway: Child
    departments: Mapping[str, Child] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        """The gateway's data folder."""
        return self.folder / "data"

    def client(self, name: str) -> Client:
        """Return one of the gateway's clients."""
        key, scope = self.clients[name], SCOPES[name]
        return Client(self.gateway_url, name, key, scope, SystemClock())

    def client_key_file(self, client: str) -> Path:
        """Where a client's private key lies."""
        return self.folder / "clients" / f"{client}.pem"


def shipped_pack() -> tuple[Path, Pack]:
    """Return the region's pack as it is shipped, and where it is.

    Raises:
        PackError: It is wrong.
    """
    (folder,) = Settings.model_fields["packs"].default
    files = sorted(folder.glob("*.yaml"))
    return folder, load_pack({f.name: f.read_text(encoding="utf-8") for f in files})


def empty(folder: Path) -> Path:
    """Return a folder for a new stage: made, or emptied when it is one of ours.

    Raises:
        StageError: There is something else in it.
    """
    folder = folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise StageError(f"`{folder}` is not empty: choose another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    return folder


def build(
    folder: Path,
    now: datetime,
    *,
    delay_ms: float,
    seed: int,
    port: int | None = None,
) -> Stage:
    """Write down everything but the registers, and return what can be started.

    (1) Choose the ports, and make the folders.
    (2) Make everybody's keys.
    (3) Write each department's configuration.
    (4) Write the gateway's deployment and settings.

    Args:
        folder: Empty, or made by `empty`.
        now: When the keys begin to be valid.
        delay_ms: How long departments take on average.
        seed: Decides each delay.
        port: The gateway's port, the departments' follow it; None takes free ones.
    """
    pack_folder, pack = shipped_pack()  # (1)
    count = len(REGISTERS) + 1
    ports = free_ports(count) if port is None else list(range(port, port + count))
    places = {
        provider: Place(provider, folder / provider, ports[place])
        for place, provider in enumerate(REGISTERS, start=1)
    }
    for part in (*(place.folder for place in places.values()), folder / "clients"):
        part.mkdir(parents=True)
    url = f"http://127.0.0.1:{ports[0]}"
    # (2): valid from the full second, as signatures count in seconds.
    since = now.replace(microsecond=0)
    origin = Settings.model_fields["log_origin"].default
    gateway_keys = open_keys(folder / "data" / "keys", origin, entropy=os.urandom)
    keys = make_keys({p: place.folder for p, place in places.items()}, since)
    clients = {c: generate_key(folder / "clients" / f"{c}.pem") for c in _CLIENTS}
    for place in places.values():  # (3)
        write_config(place, GATEWAY, gateway_keys.lookup.pinned(since))
    (folder / "packs").mkdir()  # (4)
    pinned = {client: key.pinned(since) for client, key in clients.items()}
    _write(
        folder / "packs" / "deployment.yaml", _deployment(pack, places, keys, pinned)
    )
    _write(folder / SETTINGS, _settings(pack_folder, url, ports[0]))
    return Stage(
        folder=folder,
        pack=pack,
        places=places,
        clients=clients,
        gateway_url=url,
        gateway=_gateway(folder, url),
        departments={
            provider: _department(place, delay_ms, seed)
            for provider, place in places.items()
        },
    )


def write_registers(
    stage: Stage, population: Population, written: Callable[[str], None]
) -> int:
    """Write every department's register; return how many rows they have in sum.

    Args:
        stage: Where they belong.
        population: Who is in them.
        written: Called after each, with its provider.
    """
    total = 0
    for provider, register in REGISTERS.items():
        path = stage.places[provider].register
        total += write_register(path, register, population)
        written(provider)
    return total


@contextmanager
def running(stage: Stage, prepare: Callable[[], None]) -> Iterator[None]:
    """Run everything; stop everything at the end, however it comes.

    Args:
        stage: What is run.
        prepare: Writes the registers; called while the gateway starts, which takes
            as long.

    Raises:
        StageError: Something did not start.
    """
    with ExitStack() as stack:
        stage.gateway.start()
        stack.callback(stage.gateway.stop)
        prepare()
        for child in stage.departments.values():
            child.start()
            stack.callback(child.stop)
        for child in (*stage.departments.values(), stage.gateway):
            child.wait()
        yield


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _gateway(folder: Path, url: str) -> Child:
    command = (
        *(sys.executable, "-m", "exchange", "serve"),
        *("--config", str(folder / SETTINGS)),
    )
    return Child(
        name="gateway",
        log=folder / "gateway.log",
        health=f"{url}/health/ready",
        launch=partial(_Command, command),
    )


def _department(place: Place, delay_ms: float, seed: int) -> Child:
    arguments = (
        *(str(place.folder), "--delay-ms", str(delay_ms)),
        *("--seed", str(seed)),
    )
    return Child(
        name=place.provider,
        log=place.folder / "output.log",
        health=f"{place.url}/health",
        launch=partial(_Fork, arguments),
    )


def _deployment(
    pack: Pack,
    places: Mapping[str, Place],
    keys: Mapping[str, PublicKey],
    clients: Mapping[str, PublicKey],
) -> JsonValue:
    """Return what this installation adds to the pack."""
    return {
        "kind": "deployment",
        "providers": {
            provider: {"keys": [key.model_dump(mode="json")]}
            for provider, key in keys.items()
        },
        "services": {
            service.id: {"endpoint": f"{places[service.provider].url}/lookups"}
            for service in pack.services.values()
            if service.provider in places
        },
        "requesters": {
            client: {**_CLIENTS[client], "keys": [key.model_dump(mode="json")]}
            for client, key in clients.items()
        },
    }


def _settings(pack_folder: Path, url: str, port: int) -> JsonValue:
    return {
        "data_dir": "data",
        "packs": [str(pack_folder), "packs"],
        "listen_port": port,
        "public_url": url,
        "networks": ["127.0.0.1/32"],
        "retry_s": list(_RETRY_S),
    }


def _write(path: Path, document: JsonValue) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
