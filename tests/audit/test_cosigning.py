"""A log under witnesses: published when enough have cosigned, and never a step back."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from audit.cosigning import Cosigning, cosigned_by
from audit.note import Checkpoint, open_checkpoint
from audit.policy import Policy, parse_policy
from audit.publisher import Pace, Publisher
from audit.receipt import parse_proof, prove_event, verify_proof
from audit.store import SignedHead
from audit.swaps import Release
from audit.verify import verify_log
from audit.witness import SIZE_TYPE, Reply, origin_path
from schemas.errors import LogUnavailableError, VerificationError
from tests.audit.examples import Room, an_event, open_room
from tests.harness.witnesses import Served, a_witness, an_answerer, answering

NOW_S = 1_767_853_800
NOWHERE = "http://127.0.0.1:9"
"""Where nobody answers."""


def append(room: Room, number: int) -> None:
    """Record some events."""
    asyncio.run(room.log.append([an_event(subjects=()) for _ in range(number)]))


def seen(room: Room) -> SignedHead | None:
    """Return what outsiders see."""
    with room.reader() as reader:
        return reader.published()


def size_seen(room: Room) -> int:
    """Return how much outsiders see."""
    head = seen(room)
    return 0 if head is None else head.size


def moved(line: str, url: str) -> str:
    """Return the line of a witness that is at another address."""
    return f"{line.rpartition(' ')[0]} {url}"


class Watch:
    """Three witnesses, of which two must cosign."""

    def __init__(self, room: Room, folder: Path, stack: ExitStack) -> None:
        self.room = room
        self.served: list[Served] = [
            stack.enter_context(
                a_witness(name, folder / f"{name}.db", room.keys.log.verifier)
            )
            for name in ("w1", "w2", "w3")
        ]
        for one in self.served:
            stack.callback(one.leave)
        self._stack = stack

    def policy(self, *lines: str) -> Policy:
        """Return two of three, or other witnesses where they are given."""
        lines = lines or tuple(one.line for one in self.served)
        names = " ".join(line.split()[1] for line in lines)
        text = "\n".join((*lines, f"group all-of-them 2 {names}"))
        return parse_policy(f"{text}\nquorum all-of-them\n")

    def publisher(
        self,
        *lines: str,
        room: Room | None = None,
        pace: Pace | None = None,
        timeout_s: float = 20,
    ) -> Publisher:
        """Return a publisher that has asked the witnesses what they saw."""
        room = room or self.room
        witnesses = Cosigning(
            self.policy(*lines), room.keys.log.verifier, timeout_s=timeout_s
        )
        publisher = Publisher(room.log, room.keys.log, room.clock, pace, witnesses)
        self._stack.callback(publisher.stop)
        publisher.tick()
        return publisher

    def with_first_at(self, url: str) -> list[str]:
        """Return the lines of the witnesses, the first one at another address."""
        first, *others = (one.line for one in self.served)
        return [moved(first, url), *others]

    def without(self, *gone: int) -> list[str]:
        """Return the lines of the witnesses, some of them where nobody answers.

        Args:
            gone: Which, from 0.
        """
        lines = [one.line for one in self.served]
        return [moved(x, NOWHERE) if at in gone else x for at, x in enumerate(lines)]

    def ask_others(self, publisher: Publisher, *lines: str) -> None:
        """Have a publisher ask others from now on, or ours where none is named."""
        others = Cosigning(self.policy(*lines), self.room.keys.log.verifier)
        old, publisher._witnesses = publisher._witnesses, others
        assert old is not None
        old.close()

    def publish_some(self, first_at: str) -> Publisher:
        """Record and publish three events, with the first witness elsewhere."""
        publisher = self.publisher(*self.with_first_at(first_at))
        append(self.room, 3)
        publisher.tick()
        return publisher


@pytest.fixture
def watch(room: Room, tmp_path: Path) -> Iterator[Watch]:
    """A log and its witnesses."""
    with ExitStack() as stack:
        yield Watch(room, tmp_path, stack)


def test_what_is_published_carries_the_cosignatures(watch: Watch) -> None:
    """Each head, as the log grows; and proofs carry them to whoever gets one."""
    room, publisher = watch.room, watch.publisher()
    for total, number in ((3, 3), (300, 297), (301, 1)):
        append(room, number)
        publisher.publish()
        head = seen(room)
        assert head is not None
        by = cosigned_by(head.note.encode(), room.keys.log.verifier, watch.policy())

        assert total == head.size
        assert {"w1", "w2", "w3"} == set(by)
    event = an_event()
    asyncio.run(room.log.append([event]))
    publisher.publish()
    with room.reader() as reader:
        proof = prove_event(reader, event.id, room.keys.log.verifier)
        entry = reader.entry_of(event.id)
    assert proof is not None
    assert entry is not None
    note = parse_proof(proof.as_text()).checkpoint.encode()

    assert 302 == verify_proof(proof, entry.leaf, room.keys.log.verifier).size
    assert 3 == len(cosigned_by(note, room.keys.log.verifier, watch.policy()))
    assert 302 == verify_log(room.folder, room.keys.log.verifier.vkey).published


def test_one_witness_that_is_gone_is_not_missed(watch: Watch) -> None:
    """Two of three suffice; a dead address costs its own cosignature alone."""
    publisher = watch.publisher(*watch.without(1))
    append(watch.room, 3)
    publisher.tick()
    head = seen(watch.room)
    assert head is not None

    assert publisher.failure is None
    assert {"w1", "w3"} == set(
        cosigned_by(head.note.encode(), watch.room.keys.log.verifier, watch.policy())
    )


def test_without_a_quorum_nothing_is_published_and_recording_goes_on(
    watch: Watch,
) -> None:
    """Outsiders see the last head that enough have cosigned; after hours it stops."""
    room, lonely = watch.room, watch.publisher()
    append(room, 3)
    lonely.publish()
    watch.ask_others(lonely, *watch.without(0, 1))
    append(room, 2)
    lonely.tick()
    room.clock.advance(timedelta(hours=1))
    lonely.tick()
    append(room, 1)

    assert 3 == size_seen(room)
    assert lonely.failure is None
    assert 3600 == lonely.unwitnessed_for()
    room.clock.advance(timedelta(hours=4))
    lonely.tick()
    with pytest.raises(LogUnavailableError, match="too few witnesses"):
        append(room, 1)


def test_a_head_that_waited_is_published_when_the_witnesses_are_back(
    watch: Watch,
) -> None:
    """The next round asks again, even though nothing new was recorded."""
    room = watch.room
    first, second, _ = (one.line for one in watch.served)
    answers = iter([Reply(404), Reply(500), *[Reply(404)] * 9])
    with an_answerer(lambda _path, _body: next(answers)) as bad:
        flaky = watch.publisher(first, moved(second, bad))
        append(room, 3)
        flaky.publish()
        before = size_seen(room)
        watch.ask_others(flaky)
        flaky.publish()

    assert (0, 3) == (before, size_seen(room))
    assert 0 == flaky.unwitnessed_for()


def test_a_log_that_was_rolled_back_refuses_to_sign(
    watch: Watch, tmp_path: Path
) -> None:
    """A restored backup is behind its witnesses: it stops, and says so."""
    room = watch.room
    append(room, 5)
    watch.publisher().publish()
    backup = tmp_path / "backup"
    backup.mkdir()
    for name in ("log.db", "log.db-wal", "subjects.db", "subjects.db-wal"):
        if (room.folder / name).exists():
            shutil.copy(room.folder / name, backup / name)
    append(room, 4)
    watch.publisher().publish()
    restored = open_room(backup, room.keys)
    with capture_logs() as logged:
        publisher = watch.publisher(room=restored)
    [told] = logged

    assert "has cosigned 9 records, here are 5" in str(publisher.failure)
    assert "log_refuses_everything" == told["event"]
    assert "here are 5" in told["why"]
    assert told["remedy"].startswith("do not restart: put the newer data back")
    assert "errand audit recover" in told["remedy"]
    assert 5 == size_seen(restored)
    with pytest.raises(LogUnavailableError, match="does not verify"):
        append(restored, 1)
    restored.close()


def test_a_log_of_another_history_refuses_to_sign(watch: Watch, tmp_path: Path) -> None:
    """Longer or not: a witness has seen another root at a size that it has passed."""
    append(watch.room, 5)
    watch.publisher().publish()
    folder = tmp_path / "fork"
    folder.mkdir()
    fork = open_room(folder, watch.room.keys)
    append(fork, 9)
    publisher = watch.publisher(room=fork)
    publisher.tick()

    assert "another root at size 5" in str(publisher.failure)
    assert seen(fork) is None
    fork.close()


def test_nothing_is_signed_before_enough_witnesses_were_asked(watch: Watch) -> None:
    """Who can't tell whether it went back signs no head, and no receipt."""
    append(watch.room, 3)
    publisher = watch.publisher(*watch.without(1, 2))
    with pytest.raises(LogUnavailableError, match="too few witnesses have told"):
        append(watch.room, 3)
    with watch.room.reader() as reader:
        signed, size = reader.head(), reader.size()

    assert (None, 3) == (signed, size)
    assert publisher.failure is None
    assert "too few witnesses have told" in str(publisher.unsure)


def test_an_empty_log_asks_its_witnesses_too(watch: Watch, tmp_path: Path) -> None:
    """Keys were put back and no log: it would begin a second one under one name."""
    append(watch.room, 5)
    watch.publisher().publish()
    folder = tmp_path / "empty"
    folder.mkdir()
    empty = open_room(folder, watch.room.keys)
    publisher = watch.publisher(room=empty)

    assert "has cosigned 5 records, here are 0" in str(publisher.failure)
    with pytest.raises(LogUnavailableError, match="does not verify"):
        append(empty, 1)
    empty.close()


def test_a_log_is_held_from_before_its_witnesses_are_asked(watch: Watch) -> None:
    """There is no instant in which a record gets a receipt unasked."""
    append(watch.room, 1)
    witnesses = Cosigning(watch.policy(), watch.room.keys.log.verifier)
    publisher = Publisher(
        watch.room.log, watch.room.keys.log, watch.room.clock, None, witnesses
    )
    with pytest.raises(LogUnavailableError, match="too few witnesses have told"):
        append(watch.room, 1)
    publisher.publish()
    append(watch.room, 1)
    publisher.stop()

    assert 2 == watch.room.log.size


def test_a_witness_that_never_settles_is_given_up(watch: Watch) -> None:
    """It answers 409 with ever other sizes: a few tries, and the others decide."""
    asked = count(1)

    def slippery(path: str, _body: bytes) -> Reply:
        if path != "/add-checkpoint":
            return Reply(404)
        return Reply(409, f"{next(asked) % 3}\n", SIZE_TYPE)

    with an_answerer(slippery) as url:
        publisher = watch.publish_some(url)

    assert publisher.failure is None
    assert 3 == size_seen(watch.room)
    assert next(asked) <= 5


@pytest.mark.parametrize(
    "told",
    [
        Reply(409, "2\n"),
        Reply(409, "02\n", SIZE_TYPE),
        Reply(409, "\N{SUPERSCRIPT TWO}\n", SIZE_TYPE),
        Reply(409, "", SIZE_TYPE),
        Reply(200, "x" * 70_000),
        Reply(409, "x" * 70_000, SIZE_TYPE),
        Reply(500, "2\n", SIZE_TYPE),
    ],
)
def test_what_is_no_size_is_not_tried_again(watch: Watch, told: Reply) -> None:
    """Nor is it a reason to stop, however large it is."""
    asked = []

    def strange(path: str, _body: bytes) -> Reply:
        if path != "/add-checkpoint":
            return Reply(404)
        asked.append(path)
        return told

    with an_answerer(strange) as url:
        publisher = watch.publish_some(url)

    assert publisher.failure is None
    assert 3 == size_seen(watch.room)
    assert 1 == len(asked)


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("location", ["http:@", "http://xn--/", "http://[", "/x"])
def test_a_witness_that_points_elsewhere_is_not_followed(
    watch: Watch, status: int, location: str
) -> None:
    """Nobody reads where to: it costs its own cosignature alone, in every round."""
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("location", location)
            self.send_header("set-cookie", "a=b; path=/")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - as the handler wants it

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Keep it to itself."""

    with answering(Elsewhere) as url:
        publisher = watch.publisher(*watch.with_first_at(url))
        for size in (1, 2):
            append(watch.room, 1)
            publisher.tick()

            assert (None, size) == (publisher.failure, size_seen(watch.room))
    assert ["/add-checkpoint"] * 2 == asked[1:]


def test_whatever_goes_wrong_with_a_witness_costs_its_own_cosignature(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody has thought of; the log says of whom it was."""
    resolve = socket.getaddrinfo

    def broken(host: str, *rest: Any) -> Any:  # noqa: ANN401 - as socket has it
        if host == "w1.example":
            raise ZeroDivisionError
        return resolve(host, *rest)

    monkeypatch.setattr(socket, "getaddrinfo", broken)
    with capture_logs() as logged:
        publisher = watch.publish_some("http://w1.example")

    told = {"witness": "w1", "reason": "ZeroDivisionError", "log_level": "warning"}
    assert [{"event": "witness_failed", **told}] * 2 == logged
    assert (None, 3) == (publisher.failure, size_seen(watch.room))


def test_a_witness_whose_address_is_not_found_is_left_alone(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit of an exchange counts while a name is looked for: the others go on."""
    looked, found = [], threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: str, *rest: Any) -> Any:  # noqa: ANN401 - as socket has it
        if host != "w1.example":
            return resolve(host, *rest)
        looked.append(host)
        found.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    lines = watch.with_first_at("http://w1.example")
    publisher = watch.publisher(*lines, timeout_s=0.5)
    watch._stack.callback(found.set)
    for size in (1, 2, 3):
        append(watch.room, 1)
        publisher.tick()

        assert size == size_seen(watch.room)
    found.set()

    assert publisher.failure is None
    assert 1 == len(looked)


@pytest.mark.parametrize(
    "shown",
    [
        Reply(404),
        Reply(200, "log.yunxi.example/2026h1\n99\nAAAA\n\n"),
        Reply(200, "x" * 70_000),
        Reply(302),
    ],
)
def test_a_lie_about_our_size_stops_nothing(watch: Watch, shown: Reply) -> None:
    """A witness that claims to be ahead must show what we signed."""

    def liar(path: str, _body: bytes) -> Reply:
        ahead = Reply(409, "999999\n", SIZE_TYPE)
        return ahead if path == "/add-checkpoint" else shown

    with an_answerer(liar) as url:
        publisher = watch.publish_some(url)
        append(watch.room, 1)
        publisher.tick()

    assert publisher.failure is None
    assert 4 == size_seen(watch.room)


def test_a_witness_that_is_ahead_with_our_signature_stops_the_log(
    watch: Watch,
) -> None:
    """Unreachable at the start, it later shows a larger head that we have signed."""
    room = watch.room
    bigger = room.keys.log.sign(Checkpoint(room.log.origin, 99, bytes(32)).text)
    answers = iter([Reply(503)])

    def ahead(path: str, _body: bytes) -> Reply:
        if path == "/add-checkpoint":
            return Reply(409, "99\n", SIZE_TYPE)
        assert path == f"/{origin_path(room.log.origin)}"
        return next(answers, Reply(200, bigger))

    with an_answerer(ahead) as url:
        publisher = watch.publish_some(url)

    assert "has cosigned 99 records, here are 3" in str(publisher.failure)
    with pytest.raises(LogUnavailableError, match="does not verify"):
        append(room, 1)


def test_a_cosignature_that_does_not_hold_counts_for_nothing(watch: Watch) -> None:
    """Nor one of another key, nor one over something else."""
    room = watch.room
    first, second, third = watch.served
    other = Checkpoint(room.log.origin, 2, bytes(32)).text
    bad = [
        first.cosigner.cosign(other, NOW_S),
        second.cosigner.cosign(other, NOW_S),
        "no signature\n",
        "",
    ]
    for line in bad:

        def wrong(path: str, _body: bytes, line: str = line) -> Reply:
            return Reply(200, line) if path == "/add-checkpoint" else Reply(404)

        with an_answerer(wrong) as url:
            publisher = watch.publisher(moved(first.line, url), third.line)
            append(room, 1)
            publisher.tick()
            publisher.stop()

        assert publisher.failure is None
        assert seen(room) is None


def test_an_unchanged_head_is_cosigned_anew_when_it_is_old(watch: Watch) -> None:
    """So outsiders see from the witnesses' times that nothing was held back."""
    room, publisher = watch.room, watch.publisher()
    append(room, 1)
    first = publisher.publish()
    same = publisher.publish()
    room.clock.advance(timedelta(minutes=10))
    second = publisher.publish()
    assert first is not None
    assert second is not None

    assert first == same == SignedHead(1, first.note, first.signed_ms, first.guard)
    assert first.signed_ms + 600_000 == second.signed_ms
    assert open_checkpoint(second.note.encode(), room.keys.log.verifier).size == 1


def test_a_witness_of_other_logs_alone_does_not_count(
    watch: Watch, tmp_path: Path
) -> None:
    """It answers 404, which is no cosignature."""
    with a_witness("w4", tmp_path / "w4.db") as stranger:
        publisher = watch.publisher(watch.served[0].line, stranger.line)
        append(watch.room, 1)
        publisher.tick()

    assert seen(watch.room) is None


def test_published_heads_never_go_back(watch: Watch) -> None:
    """A late publisher with an older head changes nothing that outsiders see."""
    room, publisher = watch.room, watch.publisher()
    append(room, 2)
    old = publisher.publish()
    append(room, 2)
    new = publisher.publish()
    assert old is not None
    room.log.write(Release(old)).result()

    assert new == seen(room)


def test_what_is_no_note_was_cosigned_by_nobody(room: Room) -> None:
    """Anything that the log's key has not signed is refused before it is counted."""
    with pytest.raises(VerificationError):
        cosigned_by(b"nothing", room.keys.log.verifier, parse_policy("quorum none\n"))
