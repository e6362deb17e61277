"""Setting the demo's stage: everything is written down that its processes read.

As for any other installation: a configuration for each department, and for the
gateway its settings and a deployment that adds keys and addresses to the region's
pack. A fleet is several gateways with settings of their own, and a publisher.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import yaml
from pydantic import JsonValue

from audit.keys import LogKeys
from audit.witness_app import make_cosigner
from connectors.department.signing import generate_key
from exchange.demo.children import (
    Child,
    CommandProcess,
    ForkedDepartment,
    answers,
    listens,
)
from exchange.demo.departments import LOOPBACK, Place, make_keys, write_config
from exchange.demo.registers import REGISTERS
from exchange.demo.stage import (
    AUDITOR,
    CITIZEN,
    GATEWAY,
    OPERATOR,
    PORTAL,
    SETTINGS,
    WITNESS_POLICY,
    Stage,
    WitnessAt,
)
from exchange.keys import open_keys
from exchange.listening import check_free
from exchange.office import read_pack
from exchange.settings import Settings
from schemas.directory import PublicKey
from schemas.validation import Pack

_PORT_OPTION = (
    '`--port` (`make serve ARGS="--port 9100"`): the demo takes {count} ports in a row'
)
_LEASE_MARGIN_S = 2.0
"""How long the cases of a gateway that was killed are held up, beside their attempt."""
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
    OPERATOR: {
        "name": {"zh": "云溪市数据局", "en": "Yunxi Data Bureau"},
        "scopes": ["operator"],
    },
}
"""The gateway's clients, and what the deployment says of them beside their keys."""
_RETRY_S = (0.25, 0.25, 0.5, 0.5, 1.0, 1.0, 2.0, 4.0, 8.0, 15.0, 60.0)
"""How soon the gateway tries again while somebody watches. They grow, so that a case
that stays open does not fill the log."""


def shipped_pack() -> tuple[Path, Pack]:
    """Return the region's pack as it is shipped, and where it is.

    Raises:
        PackError: It is wrong.
    """
    (folder,) = Settings.model_fields["packs"].default
    return folder, read_pack((folder,))


@dataclass(frozen=True, slots=True)
class Fleet:
    """Several gateways over one PostgreSQL, and a publisher beside them."""

    database_url: str
    vault_url: str
    gateways: int


def build(  # noqa: PLR0913 - what a stage is made of
    folder: Path,
    now: datetime,
    *,
    delay_ms: float,
    seed: int,
    port: int | None = None,
    fleet: Fleet | None = None,
    witnessed: bool = False,
    watched: bool = True,
) -> Stage:
    """Write down everything but the registers, and return what can be started.

    (1) Choose the ports, and make the folders.
    (2) Make everybody's keys.
    (3) Write each department's configuration.
    (4) Write the gateway's deployment and settings.

    Args:
        folder: Empty.
        now: When the keys begin to be valid.
        delay_ms: How long departments take on average.
        seed: Decides each delay.
        port: The gateway's port, the departments' follow it; None takes free ones.
        fleet: Several gateways on PostgreSQL; None for one, on files.
        witnessed: Whether the audit office runs a witness, which must cosign.
        watched: Whether somebody watches a run, so that what waits is soon tried again;
            else the gateway waits as long as the product does by itself.
    """
    pack_folder, pack = shipped_pack()
    replicas = 1 if fleet is None else fleet.gateways
    ports = _ports(port, port_count(replicas, witnessed=witnessed))  # (1)
    places = _make_places(folder, ports[replicas : port_count(replicas)])
    # (2): valid from the full second, as signatures count in seconds.
    since = now.replace(microsecond=0)
    origin = Settings.model_fields["log_origin"].default
    gateway_keys = open_keys(folder / "data" / "keys", origin, entropy=os.urandom)
    keys = make_keys({p: place.folder for p, place in places.items()}, since)
    clients = {c: generate_key(folder / "clients" / f"{c}.pem") for c in _CLIENTS}
    for place in places.values():  # (3)
        write_config(place, GATEWAY, gateway_keys.lookup.pinned(since))
    pinned = {client: key.pinned(since) for client, key in clients.items()}  # (4)
    (folder / "packs").mkdir()
    deployment = _deployment(pack, places, keys, pinned)
    _write(folder / "packs" / "deployment.yaml", deployment)
    more = _more(watched=watched, witnessed=witnessed)
    return Stage(
        folder=folder,
        pack=pack,
        places=places,
        clients=clients,
        gateways=_gateways(folder, pack_folder, ports[:replicas], fleet, more),
        publisher=None if fleet is None else _publisher(folder, fleet),
        witness=_witness(folder, gateway_keys.log, ports[-1]) if witnessed else None,
        departments={
            provider: _department(place, delay_ms, seed)
            for provider, place in places.items()
        },
    )


def _more(*, watched: bool, witnessed: bool) -> dict[str, JsonValue]:
    """Return the settings that differ from run to run."""
    more: dict[str, JsonValue] = {"retry_s": list(_RETRY_S)} if watched else {}
    return {**more, "witness_policy": WITNESS_POLICY} if witnessed else more


def port_count(gateways: int, *, witnessed: bool = False) -> int:
    """Return how many ports in a row a stage takes: the witness's comes last."""
    return gateways + len(REGISTERS) + witnessed


def check_ports(first: int | None, count: int) -> None:
    """Check that so many ports from `first` on are free; None takes free ones later.

    Raises:
        SettingsError: One of them is taken; says which.
    """
    if first is None:
        return
    for port in range(first, first + count):
        check_free(LOOPBACK, port, _PORT_OPTION.format(count=count))


def _ports(first: int | None, count: int) -> list[int]:
    return free_ports(count) if first is None else list(range(first, first + count))


def _make_places(folder: Path, ports: Sequence[int]) -> dict[str, Place]:
    """Make a folder for each department, and one for the clients' keys."""
    (folder / "clients").mkdir(parents=True)
    places: dict[str, Place] = {}
    for provider, port in zip(REGISTERS, ports, strict=True):
        places[provider] = Place(provider, folder / provider, port)
        places[provider].folder.mkdir()
    return places


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that are free now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]


def _gateways(
    folder: Path,
    pack_folder: Path,
    ports: Sequence[int],
    fleet: Fleet | None,
    more: Mapping[str, JsonValue],
) -> dict[str, Child]:
    """Write down the settings of every gateway, and return each by its address."""
    found: dict[str, Child] = {}
    for number, port in enumerate(ports, start=1):
        name = "gateway" if fleet is None else f"gateway-{number}"
        file = folder / (SETTINGS if number == 1 else f"{name}.yaml")
        settings = _settings(pack_folder, _url(ports[0]), port)
        own = {} if fleet is None else _shared(fleet, name)
        _write(file, {**settings, **more, **own})
        url = _url(port)
        found[url] = Child(
            name=name,
            log=folder / f"{name}.log",
            is_ready=partial(answers, f"{url}/health/ready"),
            launch=partial(CommandProcess, _command("serve", file)),
        )
    return found


def _publisher(folder: Path, fleet: Fleet) -> Child:
    """Write down the publisher's settings, and return it."""
    file, log = folder / "publisher.yaml", folder / "publisher.log"
    _write(file, _shared(fleet, "publisher"))
    return Child(
        name="publisher",
        log=log,
        is_ready=lambda: log.exists() and b'"publishing"' in log.read_bytes(),
        launch=partial(CommandProcess, _command("publish", file)),
    )


def _witness(folder: Path, keys: LogKeys, port: int) -> WitnessAt:
    """Make the audit office's witness, and the policy that wants its cosignature."""
    key, logs = folder / "witness.key", folder / "witness-logs.policy"
    cosigner = make_cosigner(key, f"{AUDITOR}/witness", os.urandom)
    url, log = _url(port), f"log {keys.log.verifier.vkey}\n"
    logs.write_text(f"{log}quorum none\n", encoding="utf-8")
    (folder / WITNESS_POLICY).write_text(
        f"{log}witness audit {cosigner.verifier.vkey} {url}\nquorum audit\n",
        encoding="utf-8",
    )
    command = (
        *(sys.executable, "-m", "exchange", "witness", "serve", "--port", str(port)),
        *("--key", str(key), "--logs", str(logs), "--data", str(folder / "witness.db")),
    )
    process = Child(
        name="witness",
        log=folder / "witness.log",
        is_ready=partial(listens, port),
        launch=partial(CommandProcess, command),
    )
    return WitnessAt(url, process)


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"


def _command(command: str, settings: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "exchange", command, "--config", str(settings))


def _shared(fleet: Fleet, name: str) -> dict[str, JsonValue]:
    """Return what the settings of one of a fleet say beside those of a gateway."""
    return {
        "data_dir": f"{name}-data",
        "keys_folder": "data/keys",
        "database_url": fleet.database_url,
        "vault_url": fleet.vault_url,
        "executor_id": name,
        "lease_margin_s": _LEASE_MARGIN_S,
    }


def _department(place: Place, delay_ms: float, seed: int) -> Child:
    arguments = (
        *(str(place.folder), "--delay-ms", str(delay_ms)),
        *("--seed", str(seed)),
    )
    return Child(
        name=place.provider,
        log=place.folder / "output.log",
        is_ready=partial(answers, f"{place.url}/health"),
        launch=partial(ForkedDepartment, arguments),
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


def _settings(pack_folder: Path, url: str, port: int) -> dict[str, JsonValue]:
    return {
        "data_dir": "data",
        "packs": [str(pack_folder), "packs"],
        "listen_port": port,
        "public_url": url,
        "networks": [f"{LOOPBACK}/32"],
    }


def _write(path: Path, document: JsonValue) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
