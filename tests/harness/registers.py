"""Real departments in one thread: they can be made to hold back, fail or hang up.

    with departments(stage, clock) as front:
        front.on_asked = look_into_the_log
        front.moods["ga"] = Mood.FAILS

Each is the service of `connectors.department` over its register, at the port that the
demo's stage gave it; before them stands one front, which decides what goes wrong.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum

import orjson
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.department.app import build_app
from connectors.department.config import load_config
from exchange.demo.departments import CONFIG
from exchange.demo.stage import Stage
from schemas.canonical import b64url_decode
from schemas.clock import Clock
from tests.connectors.servers import running

_PATIENCE_S = 30.0


class Mood(Enum):
    """How a department takes look-ups."""

    FAILS = "it answers 500"
    HANGS_UP = "it ends the connection in mid-answer"
    WAITS = "it says nothing until it is let go"


@dataclass(slots=True)
class Front:
    """What look-ups meet before they reach a department."""

    moods: dict[str, Mood] = field(default_factory=dict)
    """By provider; one that is not named here answers as it does."""
    on_asked: Callable[[str], None] = lambda _event: None
    """Told the event of the intent that a look-up names, when it has arrived."""
    on_waiting: Callable[[], None] = lambda: None
    """Told when a look-up waits."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set to let go of all that wait."""
    by_port: Mapping[int, tuple[str, FastAPI]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the department at whose port it arrived."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        provider, app = self.by_port[scope["server"][1]]
        if scope["path"] != "/lookups":
            await app(scope, receive, send)
            return
        body = await _body(receive)
        claims = orjson.loads(b64url_decode(body.decode().split(".")[1]))
        self.on_asked(claims["intent"]["event"])
        mood = self.moods.get(provider)
        if mood is Mood.WAITS:
            self.on_waiting()
            await asyncio.to_thread(self.released.wait, _PATIENCE_S)
        if mood in (Mood.FAILS, Mood.HANGS_UP):
            await _refuse(send, hangs_up=mood is Mood.HANGS_UP)
            return
        await app(scope, _again(body, receive), send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open all departments, and close them in the end."""
        async with AsyncExitStack() as stack:
            await receive()
            for _, app in self.by_port.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


@contextmanager
def departments(stage: Stage, clock: Clock, *providers: str) -> Iterator[Front]:
    """Run some departments of a stage while the block lasts.

    Args:
        stage: It wrote down their configurations and registers.
        clock: What time it is to them.
        providers: Which; the others can't be reached.
    """
    places = [stage.places[one] for one in providers]
    apps = {
        place.port: (
            place.provider,
            build_app(load_config(place.folder / CONFIG), clock=clock),
        )
        for place in places
    }
    front = Front(by_port=apps)
    with ExitStack() as stack:
        listening = [
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
            for port in apps
        ]
        app: ASGIApp = front
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
        stack.enter_context(running(uvicorn.Server(config), *listening))
        yield front


async def _body(receive: Receive) -> bytes:
    """Return the whole body of a request."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what comes after it."""
    parts = [body]

    async def give() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return give


async def _refuse(send: Send, *, hangs_up: bool) -> None:
    """Answer 500; or promise more than comes, which ends the connection."""
    length = b"1000" if hangs_up else b"3"
    headers = [(b"content-length", length), (b"content-type", b"text/plain")]
    status = 200 if hangs_up else 500
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"no\n"})
