"""What is no HTTP, and what leads nowhere, is answered as a problem with an id."""

import asyncio
import socket
from collections.abc import Sequence

import httpx
import orjson
import pytest
from starlette.types import Message

from exchange.api.edge import Edge
from tests.harness.application import PORTAL, Site

_HOST = b"Host: x\r\n"
_UNREADABLE = {
    "another method": b"BREW /v1/cases HTTP/1.1\r\n" + _HOST + b"\r\n",
    "no ASCII in the path": "GET /v1/matters/名 HTTP/1.1\r\n".encode()
    + _HOST
    + b"\r\n",
    "two lengths": b"POST /v1/cases HTTP/1.1\r\n"
    + _HOST
    + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a bad chunk": b"POST /v1/cases HTTP/1.1\r\n"
    + _HOST
    + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "DEL in a header": b"GET /v1/matters HTTP/1.1\r\n" + _HOST + b"A: \x7f\r\n\r\n",
    "nothing of HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another version": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a head without an end": b"GET /v1/matters HTTP/1.1\r\nA: " + b"x" * 65_536,
}


def _exchanged(site: Site, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return status, headers and body of the one answer."""
    with socket.create_connection(("127.0.0.1", httpx.URL(site.url).port or 0)) as line:
        line.settimeout(10)
        line.sendall(raw)
        answer = b"".join(iter(lambda: line.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body


@pytest.mark.parametrize("name", _UNREADABLE)
def test_what_is_no_http_is_a_malformed_request(site: Site, name: str) -> None:
    """With an id under which it is found in the log, and it is counted."""
    status, headers, body = _exchanged(site, _UNREADABLE[name])
    site.client(None).get("/health/live")
    lines = [orjson.loads(line) for line in site.output.getvalue().splitlines()]
    told = [line for line in lines if line.get("request") == headers["x-request-id"]]

    assert 400 == status
    assert "application/problem+json" == headers["content-type"]
    assert str(len(body)) == headers["content-length"]
    assert ("close", "no-store", "nosniff") == (
        headers["connection"],
        headers["cache-control"],
        headers["x-content-type-options"],
    )
    assert orjson.loads(body)["type"].endswith("/malformed-request")
    assert [("OTHER", "none", 400)] == [
        (line["method"], line["route"], line["status"]) for line in told
    ]


@pytest.mark.parametrize(
    "path", ["/v1/cases/", "/v1/cases//", "/v1/matters/", "//v1/cases", "/health/"]
)
def test_a_slash_too_many_leads_nowhere(site: Site, path: str) -> None:
    """It is not sent on: a client that follows would post a case twice over."""
    for method in ("GET", "POST"):
        answer = site.client(PORTAL).request(method, path, content=b"{}")

        assert 404 == answer.status_code
        assert answer.json()["type"].endswith("/not-found")
        assert answer.headers["x-request-id"]


def test_an_upgrade_is_not_taken_up(site: Site) -> None:
    """There is nothing here that speaks anything but HTTP."""
    raw = (
        b"GET /v1/matters HTTP/1.1\r\n" + _HOST + b"Connection: upgrade, close\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )
    status, headers, _ = _exchanged(site, raw)

    assert 200 == status
    assert headers["x-request-id"]


def test_a_request_that_stopping_cuts_off_is_told_so(site: Site) -> None:
    """The server cancels what it has waited for in vain, and answers itself then."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def cut_off(edge: Edge) -> None:
        headers: Sequence[tuple[bytes, bytes]] = ()
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/cases",
            "headers": headers,
        }
        task = asyncio.create_task(edge(scope, receive, send))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off(site.app.edge))

    assert [503] == [one["status"] for one in sent if "status" in one]
