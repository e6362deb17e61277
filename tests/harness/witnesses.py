"""Witnesses on loopback: ours, served as `errand witness serve` does, and bad ones."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import uvicorn
from typing_extensions import override

from audit.note import Cosigner, Verifier
from audit.witness import Reply, Witness
from audit.witness_app import build_witness_app
from schemas.clock import Clock, SystemClock
from tests.harness.commands import errand


@dataclass(slots=True)
class Served:
    """A witness that can be asked."""

    name: str
    url: str
    cosigner: Cosigner
    witness: Witness
    server: uvicorn.Server

    @property
    def line(self) -> str:
        """Its line in a policy."""
        return f"witness {self.name} {self.cosigner.verifier.vkey} {self.url}"

    def leave(self) -> None:
        """Have it begin to stop: several that stop together take the time of one."""
        self.server.should_exit = True


@contextmanager
def a_witness(
    name: str, file: Path, *logs: Verifier, clock: Clock | None = None, port: int = 0
) -> Iterator[Served]:
    """Serve a witness of our own while the block lasts."""
    cosigner = Cosigner(f"{name}.example/witness", name.encode().ljust(32, b"."))
    witness = Witness(file, cosigner, {log.name: log for log in logs})
    app = build_witness_app(witness, clock or SystemClock())
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    # It listens from here on: whoever asks before the server runs just waits.
    listening = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Served(name, url, cosigner, witness, server)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        witness.close()


@contextmanager
def an_answerer(answer: Callable[[str, bytes], Reply]) -> Iterator[str]:
    """Serve whatever a function answers to a path and a body; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", "0"))
            self._answer(answer(self.path, self.rfile.read(size)))

        def do_GET(self) -> None:
            self._answer(answer(self.path, b""))

        def _answer(self, reply: Reply) -> None:
            body = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("content-type", reply.media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Keep it to itself."""

    with answering(Handler) as url:
        yield url


@contextmanager
def answering(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve what a handler answers, on loopback; yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def a_witness_process(folder: Path, log: Verifier) -> Iterator[str]:
    """Run `errand witness serve` while the block lasts; yield its line of a policy."""
    made = errand("witness", "keygen", folder / "w.key", "--name", "audit.example/w")
    logs = f"log {log.vkey}\nquorum none\n"
    (folder / "logs.policy").write_text(logs, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "exchange", "witness", "serve"]
    for option, name in (("key", "w.key"), ("logs", "logs.policy"), ("data", "w.db")):
        command += [f"--{option}", str(folder / name)]
    with (folder / "w.err").open("wb") as told:
        process = subprocess.Popen([*command, "--port", str(port)], stderr=told)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(process, url)
        yield f"witness audit {made.stdout.strip()} {url}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a service answers anything."""
    while process.poll() is None:
        try:
            httpx.get(f"{url}/nothing/checkpoint", trust_env=False)
        except httpx.ConnectError:
            continue
        return
    pytest.fail("the witness did not start")
