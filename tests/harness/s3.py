"""S3-compatible storage for tests: moto's server, in a process of its own."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

_SERVER = Path(__file__).with_name("s3_child.py")
BUCKET = "tiles"
_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=0"
)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
"""Credentials as an operator gives them."""


@dataclass(frozen=True, slots=True)
class S3:
    """A server with one bucket."""

    endpoint: str
    process: subprocess.Popen[bytes]

    def url(self, prefix: str) -> str:
        """Return the address of a part of the bucket."""
        return f"s3://{BUCKET}/{prefix}"


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run the server until it is no longer needed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (sys.executable, str(_SERVER), str(port))
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        transport = httpx.HTTPTransport(retries=8)  # half a second, doubled each time
        with httpx.Client(transport=transport) as client:
            made = client.put(
                f"{endpoint}/{BUCKET}", headers={"authorization": _SIGNED}
            )
        made.raise_for_status()
        yield S3(endpoint, process)
    finally:
        process.terminate()
        process.wait(10)
