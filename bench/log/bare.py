"""The floor: bare group commit of the same bytes, through plain `sqlite3`.

What any durable log has to do on this disk, and nothing else: one thread takes what
waits, inserts it, commits with `synchronous=FULL`, and wakes whoever waited. No
record is numbered by anything but SQLite, none is looked at, nothing is indexed.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from audit.sealing import SealedRecord

_Job = tuple[Sequence[bytes], "asyncio.Future[None]"]


def bare_bytes(record: SealedRecord) -> bytes:
    """Return the bytes of a record's row, one after the other."""
    event = record.event
    texts = (
        *(event.id, event.case or "", event.matter, record.subject_refs),
        *(record.actor_ref or "", event.ends or ""),
    )
    # Two check values of four bytes each.
    return b"".join(
        (record.leaf, record.leaf_hash, "".join(texts).encode(), record.sealed)
    ) + bytes(8)


class BareCommit:
    """Stores rows of bytes in one table, one commit for all that wait.

    Args:
        path: A new file.
        most: Rows after which a commit takes nobody else in, as the log's writer.
        wal_rows: Rows after which the write-ahead file is moved, as the log's writer.
    """

    def __init__(self, path: Path, most: int, wal_rows: int) -> None:
        self._most, self._wal_rows = most, wal_rows
        self._rows = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False
        )
        self._rows.execute("PRAGMA journal_mode=WAL")
        self._rows.execute("PRAGMA synchronous=FULL")
        self._rows.execute("PRAGMA wal_autocheckpoint=0")
        self._rows.execute("CREATE TABLE row (seq INTEGER PRIMARY KEY, body BLOB)")
        self.commits = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="bare-commit")
        self._thread.start()

    async def append(self, rows: Sequence[bytes]) -> None:
        """Store rows, and return once they are durable."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((rows, done))
        await done

    def close(self) -> None:
        """Store what waits, and let go of the file."""
        self._jobs.put(None)
        self._thread.join()
        self._rows.close()

    def _run(self) -> None:
        unmoved = 0
        while (first := self._jobs.get()) is not None:
            jobs, count, ends = [first], len(first[0]), False
            while count < self._most and not ends and self._jobs.qsize():
                job = self._jobs.get()
                if job is None:
                    ends = True
                else:
                    jobs.append(job)
                    count += len(job[0])
            self._commit(jobs)
            unmoved += count
            if unmoved >= self._wal_rows:
                unmoved = 0
                self._rows.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if ends:
                return

    def _commit(self, jobs: Sequence[_Job]) -> None:
        self._rows.execute("BEGIN IMMEDIATE")
        self._rows.executemany(
            "INSERT INTO row (body) VALUES (?)",
            [(r,) for rows, _ in jobs for r in rows],
        )
        self._rows.execute("COMMIT")
        self.commits += 1
        self._loop.call_soon_threadsafe(_wake, [done for _, done in jobs])


def _wake(waiting: Sequence["asyncio.Future[None]"]) -> None:
    for done in waiting:
        done.set_result(None)
