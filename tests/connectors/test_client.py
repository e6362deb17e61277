"""The way out: which addresses, how much, how many at once."""

import asyncio
import ipaddress
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from connectors.addresses import is_allowed
from connectors.client import ClientPolicy, HttpReply, ServiceClient
from schemas.errors import (
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
    SettingsError,
)
from tests.connectors.examples import FakeClock
from tests.connectors.servers import misbehaving, reply, sending

LOOPBACK = ClientPolicy.of("127.0.0.0/8", "::1/128")


async def post(client: ServiceClient) -> HttpReply:
    """Post something, for at most five seconds, and close the client."""
    try:
        async with asyncio.timeout(5):
            return await client.post("x")
    finally:
        await client.aclose()


@given(st.ip_addresses(), st.ip_addresses(v=4))
def test_an_address_is_allowed_when_a_network_holds_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    mapped: ipaddress.IPv4Address,
) -> None:
    """Nothing outside is allowed, and IPv4 in IPv6 clothes is IPv4."""
    own = ipaddress.ip_network(address)
    special = address.is_multicast or address.is_unspecified
    clothed = ipaddress.IPv6Address(f"::ffff:{mapped}")
    everything_v6 = [ipaddress.ip_network("::/0")]

    assert not is_allowed(address, [])
    if getattr(address, "ipv4_mapped", None) is None:
        assert special is not is_allowed(address, [own])
    assert not is_allowed(clothed, everything_v6)
    assert is_allowed(mapped, [ipaddress.ip_network(mapped)]) == is_allowed(
        clothed, [ipaddress.ip_network(mapped)]
    )


def test_an_address_with_a_zone_is_not_allowed() -> None:
    """A zone says which interface, which is nobody's business but ours."""
    zoned = ipaddress.ip_address("fe80::1%lo")

    assert not is_allowed(zoned, [ipaddress.ip_network("fe80::/10")])


def test_what_is_no_network_is_a_wrong_setting() -> None:
    """A network with host bits, or none at all, is refused."""
    with pytest.raises(SettingsError):
        ClientPolicy.of("127.0.0.1/8")


@pytest.mark.anyio
async def test_an_address_outside_the_networks_is_not_connected_to() -> None:
    """A listening server outside gets no connection."""
    with misbehaving(sending(reply(b"x"))) as url:
        client = ServiceClient(url, ClientPolicy.of("10.0.0.0/8"), FakeClock())
        with pytest.raises(ConnectorUnavailableError, match="networks") as caught:
            await post(client)

    assert Layer.CONNECTOR is caught.value.layer


@pytest.mark.parametrize(
    "addresses",
    [[], ["8.8.8.8"], ["127.0.0.1", "8.8.8.8"], ["127.0.0.1", "::"]],
)
@pytest.mark.anyio
async def test_a_name_must_point_inside_with_every_address(
    addresses: list[str],
) -> None:
    """One address outside and the name is not trusted at all."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    client = ServiceClient(
        "http://reg.example/", LOOPBACK, FakeClock(), resolve=resolve
    )
    with pytest.raises(ConnectorUnavailableError, match="networks"):
        await post(client)


@pytest.mark.anyio
async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    """A resolver that fails is a connector's trouble, and passes."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    client = ServiceClient(
        "http://reg.example/", LOOPBACK, FakeClock(), resolve=resolve
    )
    with pytest.raises(ConnectorUnavailableError) as caught:
        await post(client)

    assert Layer.CONNECTOR is caught.value.layer


@pytest.mark.anyio
async def test_the_name_goes_to_the_address_that_was_checked() -> None:
    """Nobody resolves the name a second time: it exists for us alone."""
    seen: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(reply(b"here"))

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    with misbehaving(answer) as url:
        port = url.rpartition(":")[2]
        endpoint = f"http://no-such-name.invalid:{port}/lookups"
        client = ServiceClient(endpoint, LOOPBACK, FakeClock(), resolve=resolve)

        assert b"here" == (await post(client)).body
    assert f"no-such-name.invalid:{port}".encode() in seen[0]


@pytest.mark.anyio
async def test_a_name_that_moves_is_followed_when_its_pin_expires() -> None:
    """Until then the pinned address is used; then the new one, checked again."""
    homes, asked = [["127.0.0.1"], ["127.0.0.2"], ["8.8.8.8"]], []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return homes[min(len(asked), 3) - 1]

    listener = socket.create_server(("127.0.0.2", 0))
    port = listener.getsockname()[1]
    here = socket.create_server(("127.0.0.1", port))
    listener.close()
    here.settimeout(5)
    clock = FakeClock()
    client = ServiceClient(
        f"http://reg.example:{port}/", LOOPBACK, clock, resolve=resolve
    )
    errors = []
    with here:
        for pause in (0.0, 59.0, 1.0, 60.0):
            clock.advance(pause)
            request = asyncio.create_task(client.post("x"))
            if pause in (0.0, 59.0):
                await asyncio.to_thread(_answer_once, here)
                await request
                continue
            with pytest.raises(ConnectorUnavailableError) as caught:
                await request
            errors.append(caught.value.layer)
    await client.aclose()

    assert 3 == len(asked)
    assert [Layer.SOURCE, Layer.CONNECTOR] == errors


@pytest.mark.anyio
async def test_a_name_is_asked_for_again_when_nobody_answers_there() -> None:
    """A department that moved is found at the next look-up, pin or no pin."""
    homes = [["127.0.0.2"], ["127.0.0.1"]]

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return homes.pop(0)

    with misbehaving(sending(reply(b"here"))) as url:
        port = url.rpartition(":")[2]
        client = ServiceClient(
            f"http://reg.example:{port}/", LOOPBACK, FakeClock(), resolve=resolve
        )
        with pytest.raises(ConnectorUnavailableError):
            await client.post("x")
        answer = await post(client)

    assert b"here" == answer.body


def _answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(reply(b"here"))


def _nothing(_connection: socket.socket, _request: bytes) -> None:
    """Close without a word."""


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MEGABYTES = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"


WRONG: dict[str, tuple[Fault, bytes]] = {
    "ten megabytes": (Fault.TOO_LARGE, reply(b"a" * 10_000_000)),
    "ten megabytes in chunks": (Fault.TOO_LARGE, CHUNKED + MEGABYTES * 160),
    "wrong chunks": (Fault.FORMAT, CHUNKED + b"zz\r\nhello\r\n"),
    "not HTTP": (Fault.FORMAT, b"good morning\r\n\r\n"),
    "headers without end": (Fault.FORMAT, b"HTTP/1.1 200 OK\r\nx: " + b"a" * 2_000_000),
    "packed": (Fault.FORMAT, reply(b"\x1f\x8b", "content-encoding: gzip")),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.anyio
async def test_a_reply_that_is_no_reply_is_faulty(what: str) -> None:
    """Too much, packed or not HTTP: each is a fault of its own."""
    fault, data = WRONG[what]
    with misbehaving(sending(data)) as url:
        client = ServiceClient(url, LOOPBACK, FakeClock())
        with pytest.raises(ConnectorFaultError) as caught:
            await post(client)

    assert fault is caught.value.fault


CUT_OFF: dict[str, bytes] = {
    "before the length that was announced": reply(b"a" * 1000)[:-500],
    "within the head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "within a chunk": CHUNKED + b"5\r\nhel",
    "after a chunk": CHUNKED + b"5\r\nhello",
    "between two chunks": CHUNKED + b"5\r\nhello\r\n",
    "before the last line": CHUNKED + b"5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("where", CUT_OFF)
@pytest.mark.anyio
async def test_a_reply_whose_connection_ends_before_it_is_unavailable(
    where: str,
) -> None:
    """Nobody said anything wrong: it is asked again, as any source that is down."""
    with misbehaving(sending(CUT_OFF[where])) as url:
        client = ServiceClient(url, LOOPBACK, FakeClock())
        with pytest.raises(ConnectorUnavailableError) as caught:
            await post(client)

    assert Layer.SOURCE is caught.value.layer


@pytest.mark.anyio
async def test_no_reply_at_all_is_unavailable() -> None:
    """A department that hangs up is down, not wrong."""
    with misbehaving(_nothing) as url:
        client = ServiceClient(url, LOOPBACK, FakeClock())
        with pytest.raises(ConnectorUnavailableError) as caught:
            await post(client)

    assert Layer.SOURCE is caught.value.layer


@pytest.mark.anyio
async def test_a_redirect_is_not_followed() -> None:
    """Where a department points is nowhere we go."""
    with (
        misbehaving(sending(reply(b"secret"))) as elsewhere,
        misbehaving(
            sending(reply(b"", f"location: {elsewhere}/", status="307 Elsewhere"))
        ) as url,
    ):
        answer = await post(ServiceClient(url, LOOPBACK, FakeClock()))

    assert (307, b"") == (answer.status, answer.body)


@pytest.mark.anyio
async def test_proxies_of_the_environment_are_not_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable of the machine does not lead look-ups elsewhere."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with misbehaving(sending(reply(b"direct"))) as url:
        answer = await post(ServiceClient(url, LOOPBACK, FakeClock()))

    assert b"direct" == answer.body


@pytest.mark.anyio
async def test_a_service_takes_so_many_at_once_and_lets_so_many_wait() -> None:
    """The look-up beyond slots and queue is refused at once, by the gateway."""
    waiting = ClientPolicy(networks=LOOPBACK.networks, max_waiting=1)
    arrived, go = asyncio.Event(), asyncio.Event()

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        arrived.set()
        await go.wait()
        return []

    client = ServiceClient(
        "http://a.example/", waiting, FakeClock(), concurrency=1, resolve=resolve
    )
    first = asyncio.create_task(client.post("1"))
    await arrived.wait()
    second = asyncio.create_task(client.post("2"))
    await checkpoint()
    with pytest.raises(ConnectorUnavailableError, match="too many") as caught:
        async with asyncio.timeout(5):
            await client.post("3")
    go.set()
    ended = await asyncio.gather(first, second, return_exceptions=True)

    assert Layer.GATEWAY is caught.value.layer
    assert all(isinstance(error, ConnectorUnavailableError) for error in ended)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after: 120", 120.0),
        ("retry-after: 999999999", 604800.0),
        ("retry-after: Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("retry-after: -1", None),
        ("x-other: 1", None),
    ],
)
@pytest.mark.anyio
async def test_reads_how_long_to_wait(header: str, seconds: float | None) -> None:
    """Seconds are taken, up to a week; anything else is passed over."""
    refused = reply(b"", header, status="503 No", media_type="TEXT/html; charset=x")
    with misbehaving(sending(refused)) as url:
        answer = await post(ServiceClient(url, LOOPBACK, FakeClock()))

    assert seconds == answer.retry_after_s
    assert "text/html" == answer.media_type


_CALL_AND_END = """
import asyncio, sys
from connectors.client import ClientPolicy, ServiceClient
from schemas.clock import SystemClock

async def call():
    policy = ClientPolicy.of("127.0.0.0/8")
    client = ServiceClient(sys.argv[1], policy, SystemClock())
    await client.post("x")
    await client.aclose()

asyncio.run(call())
"""


def test_a_process_that_has_called_ends_well() -> None:
    """Its status is its own, though the HTTP library's thread is still on its way.

    Without time to end, one process in six was aborted when four ran at once.
    """
    with misbehaving(sending(reply(b"x"))) as url, ThreadPoolExecutor(4) as pool:
        ended = pool.map(
            lambda _: subprocess.run(
                [sys.executable, "-c", _CALL_AND_END, url], check=False, timeout=60
            ),
            range(12),
        )
        statuses = {one.returncode for one in ended}

    assert {0} == statuses
