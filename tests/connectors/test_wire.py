"""One connection: what is a whole reply, whose it is, and what is never read as one."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from connectors.client import ClientPolicy, HttpReply, ServiceClient
from connectors.wire import Connection, HungUpError, NotHttpError, WireError, WireReply
from schemas.errors import ConnectorFaultError, ConnectorUnavailableError, Fault
from tests.connectors.examples import NOW, FakeClock

LOOPBACK = ClientPolicy.of("127.0.0.0/8", "::1/128")
MOST = 1_000

pytestmark = pytest.mark.anyio


def ok(body: bytes, *headers: str) -> bytes:
    """Return a reply after which the connection stays."""
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Written(asyncio.Transport):
    """A transport that goes nowhere."""

    closed = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take it."""

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def abort(self) -> None:
        self.closed = True


def come(pieces: Sequence[bytes], *, ends: bool) -> WireReply | WireError:
    """Return what a connection makes of pieces that come one after the other."""

    async def ask() -> WireReply | WireError:
        connection = Connection("127.0.0.1", MOST)
        connection.connection_made(Written())
        reply = connection.ask(b"x")
        for piece in pieces:
            if connection.is_open:
                connection.data_received(piece)
        if ends and connection.is_open:
            connection.connection_lost(None)
        try:
            return await asyncio.wait_for(reply, 1)
        except WireError as error:
            return error

    return asyncio.run(ask())


CHUNKS = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\ncontent-type: trailing/one\r\n\r\n"
WHOLE: dict[str, tuple[bytes, bytes]] = {
    "with a length": (ok(b"hello!"), b"hello!"),
    "without a body": (ok(b""), b""),
    "in chunks": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKS,
        b"hello!",
    ),
    "until the end": (b"HTTP/1.0 200 OK\r\n\r\nhello!", b"hello!"),
    "announced": (
        b"HTTP/1.1 100 Continue\r\ncontent-type: a/b\r\n\r\n" + ok(b"hello!"),
        b"hello!",
    ),
    "one byte in each chunk": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * MOST
        + b"0\r\n\r\n",
        b"x" * MOST,
    ),
}


@given(
    how=st.sampled_from(sorted(WHOLE)), cuts=st.lists(st.integers(0, 200), max_size=8)
)
def test_a_reply_is_the_same_however_it_is_cut(how: str, cuts: list[int]) -> None:
    """Neither the network's pieces nor trailers nor announcements change a reply."""
    data, body = WHOLE[how]
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]

    assert WireReply(200, {}, body) == _bare(come(pieces, ends=True))


def _bare(reply: WireReply | WireError) -> WireReply | WireError:
    """Return a reply without what says how long it is."""
    if isinstance(reply, WireError):
        return reply
    lengths = (b"content-length", b"transfer-encoding")
    headers = {n: v for n, v in reply.headers.items() if n not in lengths}
    return replace(reply, headers=headers)


WRONG: dict[str, bytes] = {
    "another protocol": (
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    ),
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n"
    ),
    "a long head": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,
    "a long trailer": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 70_000
    ),
    "a long extension": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 70_000
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_can_be_read_in_two_ways_or_never_ends_is_not_http(what: str) -> None:
    """Nothing is guessed, and no part of a reply may grow without a limit."""
    assert isinstance(come([WRONG[what]], ends=False), NotHttpError)


async def test_nothing_is_written_to_a_connection_that_ended() -> None:
    """A request that can't have been heard is not waited for."""
    transport, connection = Written(), Connection("127.0.0.1", MOST)
    connection.connection_made(transport)
    transport.abort()

    with pytest.raises(HungUpError):
        await connection.ask(b"x")


@dataclass
class Department:
    """A server that answers each request on a connection with its next reply."""

    replies: list[bytes]
    requests: list[bytes] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    attended: list[asyncio.Task[None] | None] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self.attended)

    async def attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one connection's requests, whose bodies are one byte long."""
        self.attended.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(1))
                self.heard.set()
                writer.write(self.replies.pop(0))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def attending(
    *replies: bytes, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Department, int]]:
    """Run a department; yield it and its port."""
    department = Department(list(replies))
    server = await asyncio.start_server(department.attend, "127.0.0.1", 0, ssl=context)
    async with server:
        yield department, server.sockets[0].getsockname()[1]
        # Ends only because the client has closed every connection.
        async with asyncio.timeout(5):
            await asyncio.gather(*filter(None, department.attended))


async def post(client: ServiceClient, body: str = "x") -> HttpReply:
    """Post something, for at most five seconds."""
    async with asyncio.timeout(5):
        return await client.post(body, media_type="application/jwt", accept="*/*")


async def test_a_connection_is_used_again() -> None:
    """The second look-up needs no new connection, and a request is written as it is."""
    async with attending(ok(b"1"), ok(b"2")) as (department, port):
        url = f"http://127.0.0.1:{port}/l\u00fc?v=\u00e4"
        client = ServiceClient(url, LOOPBACK, FakeClock())
        answers = [(await post(client)).body, (await post(client)).body]
        await client.aclose()

    assert [b"1", b"2"] == answers
    assert 1 == department.connections
    assert (
        b"POST /l%%C3%%BC?v=%%C3%%A4 HTTP/1.1\r\n"
        b"host: 127.0.0.1:%d\r\n"
        b"user-agent: errand\r\n"
        b"accept-encoding: identity\r\n"
        b"accept: */*\r\n"
        b"content-type: application/jwt\r\n"
        b"content-length: 1\r\n\r\nx"
    ) % port == department.requests[0]


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    """The department may be closing it: what is sent then is lost."""
    clock = FakeClock()
    async with attending(ok(b"1"), ok(b"2")) as (department, port):
        client = ServiceClient(f"http://127.0.0.1:{port}/", LOOPBACK, clock)
        await post(client)
        clock.advance(4)
        await post(client)
        await client.aclose()

    assert 2 == department.connections


@pytest.mark.parametrize(
    "first",
    [
        ok(b"1", "connection: close"),
        ok(b"1") + ok(b"planted"),
        ok(b"1") + b"good morning",
        ok(b"1") + b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["the end", "another reply", "no reply", "an announcement"],
)
async def test_what_follows_a_reply_is_nobodys(first: bytes) -> None:
    """Bytes that nobody asked for end the connection; the next look-up has another."""
    async with attending(first, ok(b"2")) as (department, port):
        client = ServiceClient(f"http://127.0.0.1:{port}/", LOOPBACK, FakeClock())
        answers = [(await post(client)).body, (await post(client)).body]
        await client.aclose()

    assert [b"1", b"2"] == answers
    assert 2 == department.connections


async def test_the_reply_to_a_look_up_that_was_given_up_is_nobodys() -> None:
    """Its connection is closed: the next look-up would read the late reply."""
    async with attending(b"", ok(b"2")) as (department, port):
        client = ServiceClient(f"http://127.0.0.1:{port}/", LOOPBACK, FakeClock())
        given_up = asyncio.create_task(post(client))
        await department.heard.wait()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        answer = await post(client)
        await client.aclose()

    assert given_up.cancelled()
    assert b"2" == answer.body
    assert 2 == department.connections


async def test_a_fault_ends_the_connection() -> None:
    """After a reply that can't be read, nobody knows where the next one begins."""
    async with attending(b"good morning\r\n\r\n", ok(b"2")) as (department, port):
        client = ServiceClient(f"http://127.0.0.1:{port}/", LOOPBACK, FakeClock())
        with pytest.raises(ConnectorFaultError) as caught:
            await post(client)
        answer = await post(client)
        await client.aclose()

    assert Fault.FORMAT is caught.value.fault
    assert (b"2", 2) == (answer.body, department.connections)


@dataclass
class Certified:
    """A department's certificate, signed by itself."""

    context: ssl.SSLContext
    pem: bytes


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    """Make a certificate for `reg.example` and 127.0.0.1."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reg.example")])
    names = [x509.DNSName("reg.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1_000))
        .not_valid_after(NOW + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    pem = certificate.public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(secret + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return Certified(context, pem)


async def _here(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.mark.parametrize("host", ["reg.example", "127.0.0.1"])
async def test_a_department_is_known_by_its_certificate(
    certified: Certified, host: str
) -> None:
    """Over TLS, the name of the endpoint is what the certificate must be for."""
    policy = replace(LOOPBACK, root_certificates=certified.pem)
    async with attending(ok(b"1"), context=certified.context) as (_, port):
        client = ServiceClient(
            f"https://{host}:{port}/", policy, FakeClock(), resolve=_here
        )
        answer = await post(client)
        await client.aclose()

    assert b"1" == answer.body


@pytest.mark.parametrize(
    ("host", "trusted"), [("other.example", True), ("reg.example", False)]
)
async def test_a_department_with_anothers_certificate_hears_nothing(
    certified: Certified, host: str, *, trusted: bool
) -> None:
    """A wrong name, or a signature that nobody trusts: no look-up is sent."""
    roots = certified.pem if trusted else None
    policy = replace(LOOPBACK, root_certificates=roots)
    async with attending(ok(b"1"), context=certified.context) as (department, port):
        client = ServiceClient(
            f"https://{host}:{port}/", policy, FakeClock(), resolve=_here
        )
        with pytest.raises(ConnectorUnavailableError):
            await post(client)
        await client.aclose()

    assert [] == department.requests
