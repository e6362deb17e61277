"""Exchanges that end: over real connections, several at once, plain and over TLS."""

import gzip
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from audit.bounded import Answer, Bounds, Exchanges
from schemas.clock import SystemClock
from schemas.errors import StoreUnavailableError

PATIENCE_S = 30.0
SHORT = Bounds(read_s=300.0, total_s=0.2, size=1_000)
LONG = replace(SHORT, total_s=300.0)
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
"""Such an answer is as long as its connection."""
PACKED = gzip.compress(b"small")
ANSWERS = {
    "/whole": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
    "/refused": b"HTTP/1.1 409 Conflict\r\ncontent-type: text/x.size\r\n"
    b"content-length: 3\r\n\r\n17\n",
    "/packed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(PACKED), PACKED),
    "/cookies": b"HTTP/1.1 200 OK\r\nset-cookie: a=b; path=/\r\n"
    b"set-cookie: c=d\r\ncontent-length: 0\r\n\r\n",
}


@dataclass(slots=True)
class Server:
    """A server of one thread for each connection."""

    url: str
    connections: int = 0
    heads: list[str] = field(default_factory=list)
    """What was asked, each with its header lines, in lower case."""
    is_waiting: threading.Event = field(default_factory=threading.Event)
    """Set when somebody waits for the end of an answer that has none."""
    was_left: threading.Event = field(default_factory=threading.Event)
    """Set when that one's connection broke."""

    def answer(self, line: socket.socket) -> None:
        """Answer what is asked on a connection."""
        while (head := _asked(line)) is not None:
            self.heads.append(head.lower())
            path = head.split()[1].removeprefix("http://log.invalid")
            if path in ANSWERS:
                line.sendall(ANSWERS[path])
            elif path.startswith("/points?"):
                location = unquote(path[8:], encoding="latin-1").encode("latin-1")
                line.sendall(b"HTTP/1.1 301 Moved\r\nlocation: " + location)
                line.sendall(b"\r\ncontent-length: 0\r\n\r\n")
            elif path == "/endless":
                line.sendall(UNTIL_CLOSED)
                self._until_left(line)
            elif path == "/headless":
                line.sendall(b"HTTP/1.1 200 OK\r\nx-long: ")
                self._until_left(line)
            elif path == "/beside":
                line.sendall(UNTIL_CLOSED + b"first, ")
                self.was_left.wait(PATIENCE_S)
                line.sendall(b"second")
                return

    def _until_left(self, line: socket.socket) -> None:
        self.is_waiting.set()
        # As bytes, also under TLS: what is said there about its end counts for nothing.
        while socket.socket.recv(line, 1 << 10):
            pass
        self.was_left.set()


def _asked(line: socket.socket) -> str | None:
    """Return the head of the next request; None at the end of the connection."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = line.recv(1 << 16)
        if not part:
            return None
        data += part
    return data.decode()


@contextmanager
def a_server(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve while the block lasts."""
    scheme = "http" if tls is None else "https"
    with (
        ThreadPoolExecutor(10) as threads,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        server = Server(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}")

        def serve(line: socket.socket) -> None:
            with line if tls is None else tls.wrap_socket(line, True) as talking:
                talking.settimeout(PATIENCE_S)
                server.answer(talking)

        def accept() -> None:
            while True:
                try:
                    line, _ = listening.accept()
                except OSError:
                    return
                server.connections += 1
                threads.submit(serve, line)

        accepting = threads.submit(accept)
        yield server
        listening.shutdown(socket.SHUT_RDWR)
        accepting.result()


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server without TLS."""
    with a_server() as running:
        yield running


def in_a_thread(ask: Callable[[], Answer]) -> Callable[[], Answer]:
    """Begin an exchange beside this thread; return what waits for its answer."""
    threads = ThreadPoolExecutor(1)
    future = threads.submit(ask)
    threads.shutdown(wait=False)
    return lambda: future.result(PATIENCE_S)


def test_an_exchange_that_takes_too_long_costs_no_other_one(server: Server) -> None:
    """What comes beside it, and ends with its connection, comes whole."""
    with closing(Exchanges(SHORT)) as exchanges:
        late = in_a_thread(lambda: exchanges.ask("GET", f"{server.url}/endless"))
        assert server.is_waiting.wait(PATIENCE_S)
        exchanges._bounds = LONG
        beside = exchanges.ask("GET", f"{server.url}/beside")
        with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
            late()

    assert Answer(200, "text/plain", b"first, second") == beside


@pytest.mark.parametrize("path", ["endless", "headless"])
def test_an_exchange_over_a_connection_that_was_kept_ends_in_time(
    server: Server, path: str
) -> None:
    """And the next one has a connection of its own."""
    with closing(Exchanges(replace(SHORT, total_s=0.5))) as exchanges:
        exchanges.ask("GET", f"{server.url}/whole")
        exchanges.ask("GET", f"{server.url}/whole")
        kept = server.connections
        with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
            exchanges.ask("GET", f"{server.url}/{path}")
        again = exchanges.ask("GET", f"{server.url}/whole")

    assert b"whole" == again.content
    assert (1, 2) == (kept, server.connections)


def test_closing_ends_what_is_under_way(server: Server) -> None:
    """Nobody waits until it is over by itself, and nothing more is asked."""
    exchanges = Exchanges(LONG)
    late = in_a_thread(lambda: exchanges.ask("GET", f"{server.url}/endless"))
    assert server.is_waiting.wait(PATIENCE_S)
    exchanges.close()
    with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
        late()
    with pytest.raises(StoreUnavailableError, match="closed"):
        exchanges.ask("GET", f"{server.url}/whole")

    assert 1 == server.connections


def test_an_answer_is_told_whatever_its_status(server: Server) -> None:
    """With its media type; and no more than the limit is taken."""
    with closing(Exchanges(LONG)) as exchanges:
        refused = exchanges.ask("POST", f"{server.url}/refused")
    with closing(Exchanges(replace(LONG, size=5))) as exchanges:
        whole = exchanges.ask("GET", f"{server.url}/whole")
    with (
        closing(Exchanges(replace(LONG, size=4))) as exchanges,
        pytest.raises(StoreUnavailableError, match="too large"),
    ):
        exchanges.ask("GET", f"{server.url}/whole")

    assert Answer(409, "text/x.size", b"17\n") == refused
    assert b"whole" == whole.content


def test_what_is_packed_is_refused(server: Server) -> None:
    """Nothing is unpacked, however little it is: nobody asked for it."""
    with closing(Exchanges(LONG)) as exchanges:
        with pytest.raises(StoreUnavailableError, match="packed"):
            exchanges.ask("GET", f"{server.url}/packed")
        whole = exchanges.ask("GET", f"{server.url}/whole")

    assert b"whole" == whole.content
    assert all("\naccept-encoding: identity\r" in head for head in server.heads)


def test_no_cookie_is_kept(server: Server) -> None:
    """What a server sets, it does not get back; the connection is the same."""
    with closing(Exchanges(LONG)) as exchanges:
        exchanges.ask("GET", f"{server.url}/cookies")
        exchanges.ask("GET", f"{server.url}/cookies")

    assert (2, 1) == (len(server.heads), server.connections)
    assert not any("\ncookie:" in head for head in server.heads)


@pytest.mark.parametrize(
    "location", ["http:@", "http://xn--/", "http://[", "//\xff", "\x07", "/whole", ""]
)
def test_nobody_reads_where_an_answer_points_to(server: Server, location: str) -> None:
    """It is told as it is, whether or not an address stands there."""
    path = f"points?{quote(location, encoding='latin-1')}"
    with closing(Exchanges(LONG)) as exchanges:
        answer = exchanges.ask("GET", f"{server.url}/{path}")

    assert Answer(301, "", b"") == answer
    assert 1 == len(server.heads)


@pytest.mark.parametrize(
    "address",
    ["http://[", "http:@", "http://xn--/", "http://a..b/", "ftp://a.example/"],
)
def test_what_is_no_address_is_not_asked(address: str) -> None:
    """Whoever asks is told as of a server that is not there."""
    with (
        closing(Exchanges(LONG)) as exchanges,
        pytest.raises(StoreUnavailableError),
    ):
        exchanges.ask("GET", address)


def test_a_user_in_the_address_is_sent(server: Server) -> None:
    """With the password, as for a log that stands behind one (RFC 7617, section 2)."""
    url = server.url.replace("//", "//Aladdin:open%20sesame@")
    with closing(Exchanges(LONG)) as exchanges:
        exchanges.ask("GET", f"{url}/whole")

    expected = "\nauthorization: basic qwxhzgrpbjpvcgvuihnlc2ftzq==\r"
    assert expected in server.heads[0]


def test_a_proxy_is_used_where_the_environment_counts(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the hosts that it is not for; and a server keeps the one it had."""
    named = {"http_proxy": server.url[7:], "no_proxy": "a.example,127.0.0.1"}
    monkeypatch.setattr(os, "environ", named)
    with closing(Exchanges(LONG)) as exchanges:
        exchanges.ask("GET", f"{server.url}/refused")
    with closing(Exchanges(LONG, trust_env=True)) as exchanges:
        exchanges.ask("GET", "http://log.invalid/whole")
        exchanges.ask("GET", f"{server.url}/whole")
        monkeypatch.setenv("no_proxy", "log.invalid")
        exchanges.ask("GET", "http://log.invalid/whole")

    asked = [head.split()[1] for head in server.heads]
    proxied = "http://log.invalid/whole"
    assert ["/refused", proxied, "/whole", proxied] == asked


@pytest.mark.parametrize("path", ["endless", "headless"])
def test_an_exchange_over_tls_ends_in_time(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is broken below its encryption, which might wait for the other."""
    file = tmp_path / "server.pem"
    file.write_bytes(a_certificate())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    bounds = replace(SHORT, total_s=1.0)
    with (
        a_server(tls) as server,
        closing(Exchanges(bounds, trust_env=True)) as exchanges,
    ):
        whole = exchanges.ask("GET", f"{server.url}/whole")
        late = in_a_thread(lambda: exchanges.ask("GET", f"{server.url}/{path}"))
        with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
            late()

    assert b"whole" == whole.content


def a_certificate() -> bytes:
    """Return a key and its own certificate for this machine, as PEM."""
    key, now = generate_private_key(SECP256R1()), SystemClock().now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .sign(key, SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)
