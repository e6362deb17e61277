"""Departments behind TLS: whose certificate counts, over real connections."""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from connectors.client import ClientPolicy, ServiceClient
from exchange.office import read_roots
from schemas.clock import SystemClock
from schemas.errors import ConnectorUnavailableError, SettingsError
from tests.connectors.servers import closing_socket, running

NAME = "register.example"
SOON = timedelta(days=1)


@dataclass(frozen=True)
class Department:
    """A department that answers over TLS, and the authority that vouches for it."""

    port: int
    root: Path


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """Run a server whose certificate was issued by an authority of its own."""
    folder = tmp_path_factory.mktemp("tls")
    root, issued = folder / "root.pem", folder / "department.pem"
    issue(root, issued)
    with closing_socket() as listener:
        config = uvicorn.Config(answer, log_level="error", ssl_certfile=issued)
        with running(uvicorn.Server(config), listener):
            yield Department(listener.getsockname()[1], root)


async def answer(scope: object, receive: object, send: object) -> None:
    """Answer every request with a few bytes."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator] # ASGI
    await send({"type": "http.response.body", "body": b"heard"})  # type: ignore[operator] # ASGI


def issue(root: Path, issued: Path) -> None:
    """Write an authority's certificate, and what it issued with its key."""
    authority, key = (
        generate_private_key(SECP256R1()),
        generate_private_key(SECP256R1()),
    )
    of_authority = _certificate("An authority", authority, authority, None)
    of_department = _certificate("A department", key, authority, NAME)
    root.write_bytes(of_authority.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    issued.write_bytes(secret + of_department.public_bytes(Encoding.PEM))


def _certificate(
    subject: str,
    key: EllipticCurvePrivateKey,
    authority: EllipticCurvePrivateKey,
    dns: str | None,
) -> x509.Certificate:
    """Return a certificate: for a DNS name, or of an authority where there is none."""
    now = SystemClock().now()
    if dns is None:
        extension: x509.ExtensionType = x509.BasicConstraints(ca=True, path_length=0)
    else:
        extension = x509.SubjectAlternativeName([x509.DNSName(dns)])
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")])
        )
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SOON)
        .not_valid_after(now + SOON)
        .add_extension(extension, critical=dns is None)
        .sign(authority, SHA256())
    )


async def _here(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


async def ask(department: Department, host: str, roots: Path | None) -> bytes:
    """Post something to the department under a name, trusting some roots."""
    policy = ClientPolicy(
        networks=(ipaddress.ip_network("127.0.0.0/8"),),
        root_certificates=None if roots is None else read_roots(roots),
    )
    url = f"https://{host}:{department.port}/lookups"
    client = ServiceClient(url, policy, SystemClock(), resolve=_here)
    try:
        return (await client.post("x")).body
    finally:
        await client.aclose()


@pytest.mark.anyio
async def test_a_department_of_a_trusted_authority_is_asked(
    department: Department,
) -> None:
    """The setting's roots count beside those of the system."""
    body = await ask(department, NAME, department.root)

    assert b"heard" == body


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "is_trusted"), [(NAME, False), ("another.example", True)]
)
async def test_a_department_with_a_strangers_certificate_hears_nothing(
    department: Department, host: str, *, is_trusted: bool
) -> None:
    """An authority that nobody trusts, or a certificate for another name."""
    with pytest.raises(ConnectorUnavailableError):
        await ask(department, host, department.root if is_trusted else None)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "can't be read"), (b"no PEM", "no certificate")]
)
def test_roots_that_are_none_are_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The error names the setting and the file, and no more of its place."""
    file = tmp_path / "roots.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(
        SettingsError, match=f"^`root_certificates`: `roots.pem`.*{reason}"
    ):
        read_roots(file)
