"""A process that does one thing with a log at a time, for whoever breaks its calls.

It has everything imported, and forks for each thing to do: the fork opens the log,
says which threads will do the work (so that a tracer can be put on one), waits for
SIGUSR1, works, and says what came of it. What it hands out is on the pipe before it
goes on.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import structlog

from audit.keys import load_keys
from audit.merkle import EMPTY_ROOT
from audit.mirror import mirror
from audit.objects import FolderObjects
from audit.record import Subject
from audit.store import Work
from audit.swaps import Integration, Publication
from audit.writer import Limits
from schemas.clock import SystemClock
from schemas.errors import ErrandError
from schemas.ids import EventId, new_ids
from tests.audit.examples import Room, an_event, open_room
from tests.faults.commits import Hold, fail_moves

_PR_SET_PTRACER = 0x59616D61
_PATIENCE_S = 30
"""How long a fork waits for its tracer, so that none is ever left behind."""
NEW_ID = new_ids(SystemClock())


def say(*words: object) -> None:
    """Tell the test something: one line, on the pipe when this returns."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def hear() -> str:
    """Return the next line from the test, and read nothing beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        got = os.read(0, 1)
        if not got:
            sys.exit()
        line += got
    return line.decode().rstrip("\n")


def append(room: Room) -> None:
    """Record something about somebody new, and hand the receipts out."""
    who = Subject("mother", "citizen_id", f"planted-{NEW_ID()}")
    events = [an_event(id=EventId(NEW_ID()), subjects=(who,)) for _ in range(2)]
    for place in asyncio.run(room.log.append(events)):
        say("receipt", room.log.sign(place).encode().hex())


def move(room: Room) -> None:
    """Append, have what was appended moved, and append once more, which moves that."""
    mover = room.sqlite._mover
    hold = Hold()
    fail_moves(room.log).planned.append(hold)
    hold.released.set()
    append(room)
    assert hold.reached.wait(_PATIENCE_S)
    with mover._turn:
        say("moved")
    append(room)
    # The writer moves after its batch: when this comes to its turn, it has.
    room.log.write(lambda _changes: None).result()


def integrate(room: Room) -> None:
    """Take what is recorded into the tree."""
    with room.reader() as reader:
        size, root = reader.tree() or (0, EMPTY_ROOT)
        end = reader.size()
    room.publisher._integrate(size, root, end)


def publish(room: Room) -> None:
    """Sign and publish what is recorded."""
    room.publisher.publish()


def copy(room: Room) -> None:
    """Write what is published to a folder."""
    with room.reader() as reader:
        mirror(reader, FolderObjects(room.folder / "served"))


def live(room: Room) -> None:
    """Append and publish for a while, and say what outsiders could have seen."""
    for _ in range(4):
        append(room)
        append(room)
        head = room.publisher.publish()
        say("head", 0 if head is None else head.size)


def serve(room: Room) -> None:
    """Append, publish and copy for a while, and say what outsiders could have seen."""
    for _ in range(3):
        append(room)
        head = room.publisher.publish()
        copy(room)
        say("head", 0 if head is None else head.size)


def live_carelessly(room: Room) -> None:
    """Do the same without a flush at each commit."""
    room.sqlite.connection.execute("PRAGMA synchronous=NORMAL")
    live(room)


def freeze(room: Room, stage: type) -> None:
    """Publish, and be stopped by SIGSTOP between reading and swapping."""
    write = room.publisher._lead.write

    def stopping(work: Work) -> None:
        if isinstance(work, stage):
            os.kill(os.getpid(), signal.SIGSTOP)
        write(work)

    room.publisher._lead.write = stopping  # type: ignore[method-assign] # stops itself
    publish(room)


def born(_room: Room) -> None:
    """Do no more: the log was opened."""


ACTIONS: Mapping[str, Callable[[Room], None]] = {
    "append": append,
    "moving": move,
    "integration": integrate,
    "publication": publish,
    "mirror": copy,
    "birth": born,
    "frozen in integration": lambda room: freeze(room, Integration),
    "frozen in publication": lambda room: freeze(room, Publication),
    "life": live,
    "careless": live_carelessly,
    "serving": serve,
}
_MOVES = {"moving": 2, "life": 6, "careless": 6}
"""Records after which the write-ahead file is moved into the log's file."""
_FROM_THE_START = frozenset({"birth", "life", "careless"})
"""What is traced from before the log is opened."""


def work(folder: Path, action: str, *, again: bool) -> None:
    """Do one thing, and where it is wanted append once more: it may be refused."""
    keys = load_keys(folder / "keys")
    limits = Limits(free_bytes=0, wal_records=_MOVES.get(action, 4_096))
    if action in _FROM_THE_START:
        say("ready", os.getpid(), os.getpid(), os.getpid())
        signal.sigtimedwait({signal.SIGUSR1}, _PATIENCE_S)
    room = open_room(folder, keys, limits)
    if action == "publication":
        integrate(room)
    if action not in _FROM_THE_START:
        writer, mover = room.log._batches.thread, room.sqlite._mover.thread
        say("ready", os.getpid(), writer.native_id, mover.native_id)
        signal.sigtimedwait({signal.SIGUSR1}, _PATIENCE_S)
    try:
        ACTIONS[action](room)
        say("done")
    except (ErrandError, OSError) as error:
        say("failed", error)
    if again:
        try:
            append(room)
            say("again")
        except ErrandError as error:
            say("refused", error)


def run() -> None:
    """Fork for each line that comes, until none does."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # A fork waits for it: only what is blocked can be waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    # Any process of this user may trace this one, wherever that is restricted.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    while True:
        task = orjson.loads(hear())
        child = os.fork()
        if child == 0:
            try:
                work(Path(task["folder"]), task["action"], again=task["again"])
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        say("end")


if __name__ == "__main__":
    run()
