"""A line that sends or takes nothing, or a head without an end, holds nobody up."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import orjson
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from exchange.incoming import Incoming
from tests.connectors.servers import closing_socket, running

_HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
_WHOLE = _HEAD + b"\r\nabcde"
_MOST = 4096
_FAR_TOO_MANY = 131_072
"""Pieces of 512 bytes: more than both ends of a line hold by themselves."""


class Short(Incoming):
    """A small head, and time enough."""

    most_head_bytes = _MOST


class Quick(Incoming):
    """Hardly any time."""

    whole_s = 0.5
    taken_s = 0.5


_CHUNK = bytes(65_536)


class Service:
    """Says the length of what is posted; sends far more than anybody takes to `GET`.

    What is put is answered when it may `go_on`.
    """

    def __init__(self) -> None:
        self.left = threading.Event()
        """Whether it heard that a caller left."""
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        size, more = 0, scope["method"] == "POST"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        if scope["method"] == "PUT":
            await asyncio.to_thread(self.go_on.wait, 10)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["method"] == "GET":
            for _ in range(300):
                await send(
                    {"type": "http.response.body", "body": _CHUNK, "more_body": True}
                )
            await receive()
            self.left.set()
        await send({"type": "http.response.body", "body": b"%d" % size})


class Place:
    """A service, and lines to it."""

    def __init__(self, service: Service, address: tuple[str, int]) -> None:
        self.service = service
        self._address = address

    def line(self) -> socket.socket:
        """Return a line that has sent nothing yet."""
        line = socket.create_connection(self._address)
        line.settimeout(10)
        return line

    def answer_to(self, *pieces: bytes) -> bytes:
        """Return all that comes until the service closes the line."""
        with self.line() as line:
            for piece in pieces:
                line.sendall(piece)
            return _rest(line)


def _rest(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65_536), b""))


@contextmanager
def _served(http: type[Incoming]) -> Iterator[Place]:
    service = Service()
    with closing_socket() as listener:
        config = uvicorn.Config(
            service, http=http, log_config=None, lifespan="off", ws="none"
        )
        with running(uvicorn.Server(config), listener):
            yield Place(service, listener.getsockname())


@pytest.fixture(scope="module")
def short() -> Iterator[Place]:
    """Serve small heads."""
    with _served(Short) as place:
        yield place


@pytest.fixture(scope="module")
def quick() -> Iterator[Place]:
    """Serve who is quick."""
    with _served(Quick) as place:
        yield place


def _told(answer: bytes) -> str:
    """Return what a refusal says, which is whole and the only answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = head.split(b"\r\n")

    assert b"HTTP/1.1 400 Bad Request" == fields[0]
    assert b"content-length: %d" % len(body) in fields
    assert b"content-type: application/problem+json" in fields
    problem = orjson.loads(body)
    assert {"type", "title", "status", "detail"} == set(problem)
    return str(problem["detail"])


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /", _HEAD, _HEAD + b"\r\nabc"],
    ids=["line", "head", "end", "body"],
)
def test_a_request_that_does_not_come_whole_is_closed(
    quick: Place, begun: bytes
) -> None:
    """Nobody waits for the rest; a service at work on its body hears of it."""
    quick.service.left.clear()
    answer = quick.answer_to(begun)

    if begun.endswith(b"abc"):
        assert quick.service.left.wait(10)
        assert b"" == answer
    elif begun:
        assert "a request comes whole within 0.5 seconds" == _told(answer)
    else:
        assert b"" == answer


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"GET /", b"x" * 512),
        (b"GET / HTTP/1.1\r\n", b"A: " + b"x" * 509 + b"\r\n"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"A: " + b"x" * 509 + b"\r\n",
        ),
    ],
    ids=["line", "fields", "trailers"],
)
def test_a_head_has_an_end(short: Place, begun: bytes, more: bytes) -> None:
    """What comes after so many bytes is not read."""
    with short.line() as line:
        line.sendall(begun)
        with pytest.raises(OSError, match=r"(reset|pipe)"):
            line.sendall(more * _FAR_TOO_MANY)


def test_a_head_that_is_too_long_is_told_so(short: Place) -> None:
    """The limit is named."""
    answer = short.answer_to(b"GET / HTTP/1.1\r\nA: " + b"x" * _MOST)

    assert f"a head may have {_MOST} bytes at most" == _told(answer)


def test_an_answer_that_nobody_takes_is_given_up(quick: Place) -> None:
    """The service hears that its caller left, and is free again."""
    quick.service.left.clear()
    with quick.line() as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert quick.service.left.wait(10)


def test_what_is_no_http_is_answered_as_a_problem(short: Place) -> None:
    """In the form of all our errors (RFC 9457)."""
    assert "this is no HTTP" == _told(short.answer_to(b"\x16\x03\x01\r\n\r\n"))


def _lasts(line: socket.socket) -> bool:
    """Return whether a line is open when the time for whatever it owes is over."""
    line.settimeout(2 * Quick.whole_s)
    try:
        return line.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return True


def test_who_owes_nothing_is_left_alone(quick: Place) -> None:
    """A line is kept whose requests came whole, and whose answers were taken."""
    with quick.line() as line:
        for asked in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", _WHOLE):
            line.settimeout(10)
            line.sendall(asked)
            tail = b""
            while not tail.endswith(b"0\r\n\r\n"):
                more = line.recv(1 << 20)
                assert more
                tail = tail[-5:] + more

            assert _lasts(line)


def test_the_next_request_on_a_line_comes_whole_too(quick: Place) -> None:
    """The time begins anew with it."""
    answer = quick.answer_to(_WHOLE, _HEAD)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"a request comes whole within 0.5 seconds" in answer


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (_WHOLE, b"\r\n"),
        (_WHOLE.replace(b"POST", b"PUT")[:-1], b"e"),
    ],
    ids=["empty line", "rest"],
)
def test_a_line_is_closed_on_which_something_came_that_begins_no_request(
    quick: Place, asked: bytes, more: bytes
) -> None:
    """A line may be empty, and the rest of a body come after its answer."""
    quick.service.go_on.set()
    with quick.line() as line:
        line.sendall(asked)
        _answered(line)
        line.sendall(more)

        assert b"" == _rest(line)


@pytest.mark.parametrize(
    ("asked", "rest", "before"),
    [
        (b"Content-Length: 8192\r\n\r\n" + bytes(8192) + b"PU", b"T", 1),
        (b"\r\n" + (b"PUT / HTTP/1.1\r\nA: %1000d\r\n\r\n" % 0) * 5 + b"PU", b"T", 6),
        (
            b"Transfer-Encoding: chunked\r\n\r\n2000\r\n%b\r\n0\r\nA: b\r\nC: d"
            % bytes(8192),
            b"\r\n\r\nPUT",
            1,
        ),
    ],
    ids=["body", "heads", "trailers"],
)
def test_what_comes_before_a_head_is_not_counted_with_it(
    short: Place, asked: bytes, rest: bytes, before: int
) -> None:
    """The end of what is long, and the beginning of what follows, come at once."""
    short.service.go_on.set()
    with short.line() as line:
        line.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\n" + asked)
        for _ in range(before):
            _answered(line)
        line.sendall(rest + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        _answered(line)


def _answered(line: socket.socket) -> None:
    """Take the next answer on a line, which is no refusal."""
    tail = line.recv(12)

    assert b"HTTP/1.1 200" == tail
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        more = line.recv(1)
        assert more
        tail = tail[-6:] + more


def test_nobody_is_blamed_for_what_we_do_not_read(quick: Place) -> None:
    """What follows a request that is still worked on is not read before its answer."""
    quick.service.go_on.clear()
    with quick.line() as line:
        line.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + _HEAD)
        lasted = _lasts(line)
        quick.service.go_on.set()
        line.settimeout(10)
        answer = _rest(line)

    assert lasted
    assert 2 == answer.count(b"HTTP/1.1 200 OK")
    assert answer.endswith(b'whole within 0.5 seconds"}')


def test_each_head_is_counted_by_itself(short: Place) -> None:
    """A line that is kept may bring any number of them."""
    half = b"POST / HTTP/1.1\r\nContent-Length: 0\r\nA: " + b"x" * (_MOST // 2)
    last = b"\r\nConnection: close\r\n\r\n"
    answer = short.answer_to(*[half, b"\r\n\r\n"] * 20, half, last)

    assert 21 == answer.count(b"HTTP/1.1 200 OK")


@settings(max_examples=40)
@given(cuts=st.sets(st.integers(1, len(_WHOLE) * 3 - 1), max_size=5))
def test_however_it_is_cut_each_request_gets_its_answer(
    short: Place, cuts: set[int]
) -> None:
    """Three in a row on one line, of which the last one closes it."""
    last = _WHOLE.replace(b"Host: x", b"Connection: close")
    whole = _WHOLE + _WHOLE + last
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    answer = short.answer_to(*pieces)

    assert 3 == answer.count(b"HTTP/1.1 200 OK")
    assert 3 == answer.count(b"\r\n5\r\n")
