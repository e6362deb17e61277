"""The application in this process: a server in a thread, and clients of each scope.

Departments are not there: what a case needs from them stays pending. For whole
installations see `tests.harness.gateway`.
"""

import io
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn
import yaml
from starlette.datastructures import State

from connectors.jose import SigningKey
from exchange.api.dependencies import Gateway
from exchange.api.shortcut import Application
from exchange.app import build_app, server_config
from exchange.assertions import client_assertion
from exchange.demo.lines import NO_TLS
from exchange.identity import TOKEN_PATH
from exchange.settings import Settings, parse_settings
from exchange.telemetry import configure_logs
from exchange.token_request import ASSERTION_TYPE
from schemas.clock import SystemClock
from schemas.ids import new_ids

PACK = Path(__file__).parents[2] / "schemas" / "packs" / "990100"
PORTAL, OTHER_PORTAL = "portal_990100", "other_portal"
CITIZEN, AUDITOR, OPERATOR = "citizen_app", "audit_office", "operations"
_SOON = "checkpoint_every_s: 0.05\n"
SCOPES = {
    PORTAL: "portal:newborn_registration",
    OTHER_PORTAL: "portal:newborn_registration",
    CITIZEN: "citizen",
    AUDITOR: "auditor",
    OPERATOR: "operator",
}
MOTHER, FATHER = "990101199403120026", "990101199207250018"


@dataclass(slots=True)
class Site:
    """A running application, and whoever uses it."""

    app: Application
    url: str
    keys: dict[str, SigningKey]
    clients: dict[str | None, httpx.Client] = field(default_factory=dict)
    output: io.BytesIO = field(default_factory=io.BytesIO)
    """What it has logged."""

    @property
    def gateway(self) -> Gateway:
        """What runs behind the API."""
        gateway: Gateway = self.app.state.gateway
        return gateway

    def token(self, client: str, scope: str | None = None) -> httpx.Response:
        """Ask for a token as a client; return the answer."""
        clock = SystemClock()
        assertion = client_assertion(
            client,
            self.keys[client],
            self.url + TOKEN_PATH,
            jti=new_ids(clock)(),
            now=clock.now(),
        )
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
            "scope": SCOPES[client] if scope is None else scope,
        }
        return self.client(None).post(TOKEN_PATH, data=form)

    def client(self, name: str | None) -> httpx.Client:
        """Return an HTTP client that carries a client's token; None carries none."""
        if name not in self.clients:
            client = httpx.Client(base_url=self.url, timeout=30, verify=NO_TLS)
            self.clients[name] = client
            if name is not None:
                token = self.token(name).json()["access_token"]
                client.headers["authorization"] = f"Bearer {token}"
        return self.clients[name]

    def open_case(self, client: httpx.Client) -> dict[str, Any]:
        """Open a case that waits for departments."""
        answer = client.post("/v1/cases", json=OPENING, headers={"prefer": "wait=0"})
        assert answer.status_code == 201, answer.text
        opened: dict[str, Any] = answer.json()
        return opened


OPENING = {
    "matter": "newborn@1",
    "purpose": "newborn_registration",
    "actor": {"kind": "official", "id": "window-3"},
    "subjects": {
        "mother": {"id": MOTHER, "name": "林云"},
        "newborn": {"birth_date": "2026-01-08"},
    },
    "answers": {"parents_married": True},
}


@contextmanager
def a_site(folder: Path, *, settings: str = "") -> Iterator[Site]:
    """Run the application while the block lasts.

    Args:
        folder: Empty; everything that it keeps is inside.
        settings: Further settings, as YAML.
    """
    since = SystemClock().now().replace(microsecond=0)
    keys = {name: SigningKey.from_seed(os.urandom(32)) for name in SCOPES}
    own_names: dict[str, Any] = {
        OTHER_PORTAL: {
            "scopes": ["portal"],
            "purposes": ["newborn_registration", "statistics"],
        },
        CITIZEN: {"scopes": ["citizen"]},
        AUDITOR: {"scopes": ["auditor"]},
        OPERATOR: {"scopes": ["operator"]},
    }
    requesters = {
        name: {
            **({"name": {"zh": name, "en": name}} if name in own_names else {}),
            **own_names.get(name, {}),
            "keys": [key.pinned(since).model_dump(mode="json")],
        }
        for name, key in keys.items()
    }
    (folder / "deployment").mkdir()
    document = {"kind": "deployment", "requesters": requesters}
    text = yaml.safe_dump(document, allow_unicode=True)
    (folder / "deployment" / "deployment.yaml").write_text(text, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        chosen = (
            f"data_dir: data\npacks: ['{PACK}', deployment]\npublic_url: {url}\n"
            f"{'' if 'checkpoint_every_s' in settings else _SOON}{settings}"
        )
        parsed = parse_settings(chosen, {}, folder)
        site = Site(build_app(parsed), url, keys)
        config = server_config(site.app, parsed)
        with _logging(parsed, site.output), served(config, listening, site.app.state):
            yield site
            for client in site.clients.values():
                client.close()


@contextmanager
def _logging(settings: Settings, output: io.BytesIO) -> Iterator[None]:
    """Write what the gateway logs to `output`, as it would to standard error."""
    configure_logs(settings, output)
    try:
        yield
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()


@contextmanager
def served(
    config: uvicorn.Config, listening: socket.socket, state: State
) -> Iterator[None]:
    """Serve an application in a thread on a socket that listens already.

    Args:
        config: The application, or what stands before it, and how it is served.
        listening: Where it is served.
        state: Where it says why it did not start.
    """
    config.lifespan = "on"
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign] # it has no event to wait for
    thread = threading.Thread(target=_run, args=(server, listening, started))
    thread.start()
    try:
        started.wait()
        assert server.started, getattr(state, "failure", "it did not start")
        yield
    finally:
        server.should_exit = True
        thread.join()


def _run(
    server: uvicorn.Server, listening: socket.socket, started: threading.Event
) -> None:
    try:
        server.run(sockets=[listening])
    except SystemExit:
        pass  # it said why in `app.state.failure`
    finally:
        started.set()
