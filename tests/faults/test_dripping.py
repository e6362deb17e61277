"""Servers that answer a byte at a time, for ever: they hold nobody up."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from audit.anchor import Stamper, Trust
from audit.cosigning import Cosigning, cosigned_by
from audit.fetching import fetching_from_url
from audit.note import Cosigner
from audit.policy import parse_policy
from audit.publisher import Publisher
from schemas.errors import StoreUnavailableError, UnverifiableError
from tests.audit.examples import Room, an_event, open_room
from tests.harness.witnesses import a_witness

TIMEOUT_S = 0.2
MOST = 500
"""Bytes after which the witness has had its way, one every 20 ms."""


NOBODY = Cosigner("w3.example/witness", b"w3".ljust(32, b"."))


@dataclass(slots=True)
class Dripping:
    """A server that never comes to the end of its answer."""

    url: str
    begins: bytes
    stop: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    had_its_way: bool = False

    def serve(self, listening: socket.socket) -> None:
        """Answer one request after another."""
        while not self.stop.is_set():
            try:
                line, _ = listening.accept()
            except TimeoutError:
                continue
            self.asked += 1
            with line:
                self._drip(line)

    def _drip(self, line: socket.socket) -> None:
        line.sendall(self.begins)
        for _ in range(MOST):
            if self.stop.wait(0.02):
                return
            try:
                line.sendall(b"x")
            except OSError:
                return
        self.had_its_way = True


IN_THE_HEADER = b"HTTP/1.1 200 OK\r\nx-long: "
IN_THE_BODY = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
"""It is as long as its connection, so a broken one looks whole."""


@contextmanager
def a_dripping_server(begins: bytes = IN_THE_HEADER) -> Iterator[Dripping]:
    """Serve it while the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        dripping = Dripping(f"http://127.0.0.1:{listening.getsockname()[1]}", begins)
        thread = threading.Thread(target=dripping.serve, args=(listening,))
        thread.start()
        try:
            yield dripping
        finally:
            dripping.stop.set()
            thread.join()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Return a fresh log."""
    opened = open_room(tmp_path)
    yield opened
    opened.close()


def test_a_witness_that_drips_costs_its_own_cosignature_alone(
    room: Room, tmp_path: Path
) -> None:
    """It is given up in time, each time; the others count."""
    key = room.keys.log.verifier
    with (
        a_witness("w1", tmp_path / "w1.db", key) as first,
        a_witness("w2", tmp_path / "w2.db", key) as second,
        a_dripping_server() as dripping,
    ):
        for one in (first, second):
            httpx.get(f"{one.url}/nothing/checkpoint", trust_env=False)  # it runs
        policy = parse_policy(
            f"{first.line}\n{second.line}\ngroup g 2 w1 w2\nquorum g\n"
            f"witness w3 {NOBODY.verifier.vkey} {dripping.url}\n"
        )
        witnesses = Cosigning(policy, key, timeout_s=0.5)
        publisher = Publisher(room.log, room.keys.log, room.clock, None, witnesses)
        publisher.tick()
        for size in (1, 2, 3):
            asyncio.run(room.log.append([an_event(subjects=())]))
            head = publisher.publish()
            assert head is not None
            by = cosigned_by(head.note.encode(), key, policy)

            assert (size, {"w1", "w2"}) == (head.size, set(by))
        publisher.stop()

        assert (4, False) == (dripping.asked, dripping.had_its_way)


@pytest.mark.parametrize("begins", [IN_THE_HEADER, IN_THE_BODY])
def test_an_authority_that_drips_costs_its_stamp(begins: bytes) -> None:
    """Each read is in time, and the whole is not."""
    with a_dripping_server(begins) as dripping:
        stamper = Stamper(dripping.url, Trust(()), total_s=TIMEOUT_S)
        with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
            stamper.stamp(b"a checkpoint")
        stamper.close()

        assert (1, False) == (dripping.asked, dripping.had_its_way)


@pytest.mark.parametrize("begins", [IN_THE_HEADER, IN_THE_BODY])
def test_a_log_that_drips_is_not_waited_for(begins: bytes) -> None:
    """Whoever verifies it is told which resource never came."""
    with (
        a_dripping_server(begins) as dripping,
        fetching_from_url(dripping.url, total_s=TIMEOUT_S) as fetch,
    ):
        with pytest.raises(UnverifiableError, match=r"checkpoint: .*ReadTimeout"):
            fetch("checkpoint")

        assert (1, False) == (dripping.asked, dripping.had_its_way)
