"""The department's service as a process of its own, started from its file."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml

from connectors.client import ClientPolicy, ServiceClient
from connectors.department.log import verify_log
from connectors.kinds.http import HttpConnector
from connectors.lookup import Answered
from schemas.clock import SystemClock
from tests.connectors.examples import (
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    a_config,
    a_request,
    a_source,
    pinned,
)
from tests.connectors.servers import closing_socket

SERVE = (sys.executable, "-m", "exchange", "department", "serve", "--config")


@contextmanager
def running(path: Path, url: str) -> Iterator[None]:
    """Run the service of a file until it is well; end it, by its own id, at the end."""
    with (
        path.with_suffix(".output").open("wb") as words,
        subprocess.Popen(
            [*SERVE, str(path)], stdout=words, stderr=subprocess.STDOUT
        ) as process,
        httpx.Client(base_url=url) as client,
    ):
        try:
            while not _is_well(client):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
                    raise RuntimeError("the service ended before it was well")
            yield
        finally:
            process.terminate()


def _is_well(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


@pytest.mark.anyio
async def test_a_department_runs_from_its_file_alone(tmp_path: Path) -> None:
    """A process, a file, a register: a look-up is answered, and is in the log."""
    with closing_socket() as free:
        port = free.getsockname()[1]
    source = a_source(as_of="now")
    config = a_config(tmp_path, evidence_types={MARRIAGE.ref: source})
    document = config.model_dump(mode="json") | {"listen": {"port": port}}
    path, url = tmp_path / "department.yaml", f"http://127.0.0.1:{port}"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    clock, policy = SystemClock(), ClientPolicy.of("127.0.0.0/8")
    client = ServiceClient(f"{url}/lookups", policy, clock)
    connector = HttpConnector(GATEWAY, GATEWAY_KEY, client, lambda _: pinned(), clock)
    with running(path, url):
        answer = await connector.fetch(a_request(issued_at=clock.now()))
        await connector.aclose()
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"no HTTP\r\n\r\n")
            told = b"".join(iter(lambda: line.recv(4096), b""))

    assert isinstance(answer, Answered)
    assert b"\r\ncontent-type: application/problem+json\r\n" in told
    assert 1 == verify_log(tmp_path / "log.db").count
    [listens, words] = path.with_suffix(".output").read_text().splitlines()
    assert f"port={port}" in listens
    assert "[warning  ] library " in words
    assert " library=uvicorn.error place=" in words


def test_a_department_with_a_wrong_file_says_what_is_wrong(tmp_path: Path) -> None:
    """The process ends, and its last words name the place."""
    path = tmp_path / "department.yaml"
    path.write_text("provider: Civil Affairs\n", encoding="utf-8")
    ended = subprocess.run([*SERVE, str(path)], capture_output=True, check=False)

    assert 0 != ended.returncode
    assert b"/provider" in ended.stderr
