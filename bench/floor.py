"""D: the floor. The same fan-out without a framework, over the product's own client."""

import asyncio
import sys

import orjson
from starlette.types import Receive, Scope, Send

from bench.asks import ASKS, Ask
from bench.processes import serve
from bench.ungoverned import question
from connectors.client import ClientPolicy, Media, ServiceClient
from connectors.protocol import EVIDENCE_MEDIA_TYPE
from schemas.clock import SystemClock

_CONCURRENCY = 32
"""As in the packs: how many look-ups of one service may be under way."""


class Floor:
    """Asks five departments and merges what they say (ASGI)."""

    def __init__(self, departments: str) -> None:
        policy, clock = ClientPolicy.of("127.0.0.1/32"), SystemClock()
        self._clients = {
            ask.name: ServiceClient(
                departments + ask.path,
                policy,
                clock,
                media=Media("application/json", EVIDENCE_MEDIA_TYPE),
                concurrency=_CONCURRENCY,
            )
            for ask in ASKS
        }

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
        person = orjson.loads(body)["person"]
        answers = await asyncio.gather(*(self._fetch(ask, person) for ask in ASKS))
        names = (ask.name for ask in ASKS)
        merged = orjson.dumps({"evidence": dict(zip(names, answers, strict=True))})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(merged)).encode()),
        ]
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": headers,
            }
        )
        await send({"type": "http.response.body", "body": merged})

    async def _fetch(self, ask: Ask, person: str) -> str:
        reply = await self._clients[ask.name].post(
            orjson.dumps(question(ask, person)).decode()
        )
        if reply.status != 200:
            raise ValueError(f"a department answered {reply.status}")
        return reply.body.decode("ascii")


def main() -> None:
    """Serve until told to stop: `python -m bench.floor PORT DEPARTMENTS_URL`."""
    serve(Floor(sys.argv[2]), int(sys.argv[1]))


if __name__ == "__main__":
    main()
