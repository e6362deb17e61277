"""A time-stamping authority for tests: `openssl ts` behind HTTP, in another process."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CONFIG = """
[tsa]
default_tsa = {name}
[{name}]
serial = {folder}/serial
signer_cert = {folder}/{name}.pem
signer_key = {folder}/{name}.key
default_policy = 1.2.3.4.1
digests = sha256
signer_digest = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""
SIGNERS = ("good", "expired")


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that answers at several addresses, each in its own way."""

    url: str
    root: Path
    """The certificate that its answers verify with (PEM)."""

    def at(self, manner: str) -> str:
        """Return where it answers in a manner, such as `good` or `replay`."""
        return f"{self.url}/{manner}"


@contextmanager
def an_authority(folder: Path) -> Iterator[Authority]:
    """Run an authority until it is no longer needed."""
    root = _make_certificates(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = Path(__file__).with_name("tsa_child.py")
    process = subprocess.Popen([sys.executable, child, str(folder), str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
            client.get(url)
        yield Authority(url, root)
    finally:
        process.terminate()
        process.wait(10)


def _make_certificates(folder: Path) -> Path:
    """Write a root, and a signer that it vouches for: one now, one in the past."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test root")])
    now = datetime.now(UTC)  # noqa: TID251 - openssl stamps with the real clock
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=400))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    for number, signer in enumerate(SIGNERS):
        past = timedelta(days=200 * number)
        made = _make_signer(folder / f"{signer}.key", number + 2, now - past)
        signed = made.issuer_name(name).sign(key, hashes.SHA256())
        (folder / f"{signer}.pem").write_bytes(signed.public_bytes(Encoding.PEM))
        config = _CONFIG.format(name=signer, folder=folder)
        (folder / f"{signer}.conf").write_text(config, encoding="ascii")
    (folder / "serial").write_text("01\n", encoding="ascii")
    return folder / "root.pem"


def _make_signer(file: Path, serial: int, around: datetime) -> x509.CertificateBuilder:
    """Write a signer's key, and return its certificate but for who issues it."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.stem)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(around - timedelta(days=1))
        .not_valid_after(around + timedelta(days=1))
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
