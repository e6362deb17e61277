"""The hammer, for a few seconds: writers are killed, and every promise is kept."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from bench.seen import Seen, hear, verify
from schemas.errors import ErrandError
from tests.audit.examples import an_event, open_room

BROKEN = {
    "lost": "DELETE FROM entry WHERE seq = 2",
    "a gap": "UPDATE entry SET seq = 3 WHERE seq = 2",
    "twice": """INSERT INTO entry SELECT 3, event_id, leaf, leaf_hash, case_ref, matter,
        subject_refs, actor_ref, ends, guard, sealed, sealed_guard
        FROM entry WHERE seq = 2""",
}

TRIGGERS = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entry'"


def test_writers_that_are_killed_keep_every_promise(tmp_path: Path) -> None:
    """Every receipt proves, no event stands twice, and readers see one history."""
    file = tmp_path / "hammer.json"
    command = (sys.executable, "-m", "bench.hammer", "--quick", "--json", str(file))
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)

    assert 0 == done.returncode, done.stderr[-2000:]
    told = orjson.loads(file.read_bytes())
    assert told["kills"] >= 3
    assert told["records"] >= told["receipts"] > 0
    assert [] == told["wrong"]
    assert b"all kept" in done.stdout


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("lost", "the log broke its promise at 2"),
        ("a gap", "entry 2 is missing"),
        ("twice", "an event stands twice"),
    ],
)
def test_a_promise_that_is_not_kept_is_named(
    tmp_path: Path, how: str, why: str
) -> None:
    """A record that is lost after its receipt, an index without one, an event twice."""
    room = open_room(tmp_path)
    events = [an_event(subjects=(), case=None) for _ in range(3)]
    places = asyncio.run(room.log.append(events))
    seen = Seen()
    for place in places:
        hear(f"receipt 1 {room.log.sign(place).encode().hex()}\n".encode(), seen)
    room.close()
    with closing(sqlite3.connect(room.path, isolation_level=None)) as log:
        # As a log is that kept no rule: no trigger, and no unique key.
        rules = log.execute(TRIGGERS).fetchall()
        [[made]] = log.execute("SELECT sql FROM sqlite_master WHERE name = 'entry'")
        log.execute("ALTER TABLE entry RENAME TO kept")
        log.execute(made.replace("UNIQUE", ""))
        log.execute("INSERT INTO entry SELECT * FROM kept")
        log.execute("DROP TABLE kept")
        log.execute(BROKEN[how])
        # The triggers come back: a log without them is refused before it is read.
        for [rule] in rules:
            log.execute(rule)

    with pytest.raises(ErrandError, match=why):
        verify(tmp_path, room.keys, seen)
