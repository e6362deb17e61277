"""The publisher: takes what is recorded into the tree, and signs the tree's head.

Sequencing comes first, so each tile is a pure function of the records before it and
may be made twice. A head is signed only over leaves that were hashed again and over
tiles that were read back: one flipped bit under a signature ends a log.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Final

from audit.merkle import EMPTY_ROOT, leaf_hash, tree_root
from audit.note import Checkpoint, Signer, Verifier, open_checkpoint
from audit.record import milliseconds
from audit.sealing import guard
from audit.store import LogReader, SignedHead
from audit.tiles import TileId, integrate, node_reader
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import LogUnavailableError, VerificationError

_WRITE_TIMEOUT_S: Final = 60.0
"""How long a transaction of the publisher may wait for the writer, in seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how much."""

    interval_s: float = 1.0
    """Seconds between checkpoints while there is news."""
    republish_s: float = 600.0
    """Seconds after which an unchanged checkpoint is confirmed."""
    chunk: int = 4_096
    """Records taken into the tree in one transaction."""
    unpublished: int = 100_000
    """Records beyond the checkpoint from which nothing more is recorded."""
    stale_s: float = 600.0
    """Seconds without publishing what there is, from which nothing more is recorded."""


class Publisher:
    """Integrates, signs and publishes, in a thread of its own."""

    def __init__(
        self, log: AuditLog, signer: Signer, clock: Clock, pace: Pace | None = None
    ) -> None:
        if signer.name != log.origin:
            raise ValueError("the signer's name is not the log's origin")
        self._log = log
        self._signer = signer
        self._clock = clock
        self._pace = pace or Pace()
        self._reader = LogReader.open(log.path)
        self._published = 0
        self._news_since: float | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        """Why the last round failed; None when it did not."""

    def start(self) -> None:
        """Publish from now on, until `stop`."""
        self._thread = threading.Thread(
            target=self._run, name="audit-publisher", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Publish what there is once more, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        """Publish at the pace that was set."""
        while not self._stopping.wait(self._pace.interval_s):
            self.tick()
        self.tick()

    def tick(self) -> None:
        """Do one round, and hold the log while publishing lags too far behind."""
        try:
            self.publish()
        except VerificationError as error:
            # INVARIANT: a log that contradicts itself signs and records nothing more.
            self.failure = str(error)
            self._log.refuse(f"the log does not verify: {error}")
        except Exception as error:  # noqa: BLE001 - tried again in the next round
            self.failure = type(error).__name__
        else:
            self.failure = None
        self._log.hold(self._lag())

    def _lag(self) -> str | None:
        """Return why nothing more may be recorded for now, or None."""
        behind = self._log.size - self._published
        now = self._clock.monotonic()
        if behind <= 0:
            self._news_since = None
        elif self._news_since is None:
            self._news_since = now
        since = now if self._news_since is None else self._news_since
        if behind > self._pace.unpublished or now - since > self._pace.stale_s:
            return "too much is recorded and not published"
        return None

    @property
    def verifier(self) -> Verifier:
        """The key that checkpoints verify with."""
        return self._signer.verifier

    @property
    def published(self) -> int:
        """How many records stand under the published checkpoint, as last seen."""
        return self._published

    def publish(self) -> SignedHead | None:
        """Publish what is recorded; return the head, None while there is nothing.

        (1) Take new records into the tree, in chunks.
        (2) Read the tiles back, and compute the roots from them: that of now, and
            that of the last checkpoint.
        (3) Sign the head, and put it in the place of the one that was read.

        Raises:
            VerificationError: What is stored contradicts itself: nothing was signed.
            LogUnavailableError: It could not be stored.
        """
        head = self._reader.head()
        # (1): every tile is a function of the records, so half a round does no harm.
        size, root = self._reader.tree() or (0, EMPTY_ROOT)
        target = self._reader.size()
        while size < target:
            end = min(target, size + self._pace.chunk)
            size, root = self._integrate(size, root, end)
        self._published = 0 if head is None else head.size
        if size == 0 or not self._is_due(head, size):
            return head
        # (2): what is signed is what is stored, not what was meant to be.
        self._check_root(size, root)
        if head is not None:
            before = open_checkpoint(head.note.encode(), self._signer.verifier)
            self._check_root(before.size, before.root)
        # (3): at most one publisher wins.
        head = self._sign(head, Checkpoint(self._log.origin, size, root))
        self._published = size
        return head

    def _check_root(self, size: int, root: bytes) -> None:
        """Verify that the stored tiles give this root."""
        if tree_root(node_reader(self._reader.tile), size) != root:
            raise VerificationError(f"the tiles do not give the root of size {size}")

    def _is_due(self, head: SignedHead | None, size: int) -> bool:
        """Return whether a head has to be signed: there is news, or it is old."""
        if head is None or head.size < size:
            return True
        age_ms = milliseconds(self._clock.now()) - head.signed_ms
        return age_ms >= self._pace.republish_s * 1000

    def _integrate(self, size: int, root: bytes, end: int) -> tuple[int, bytes]:
        """Take the records from `size` to `end` into the tree.

        Returns:
            The new size and root.

        Raises:
            VerificationError: A record is missing, or its leaf is not what was hashed.
        """
        # A bit that flipped in the right edge would be built upon.
        self._check_root(size, root)
        hashes: list[bytes] = []
        for seq, leaf, stored in self._reader.leaves(size, end):
            if seq != size + len(hashes):
                raise VerificationError(f"entry {size + len(hashes)} is missing")
            if leaf_hash(leaf) != stored:
                raise VerificationError(f"entry {seq} has another leaf than its hash")
            hashes.append(stored)
        changed = integrate(self._reader.tile, size, hashes)
        reached = size + len(hashes)
        new_root = tree_root(node_reader(_Overlay(changed, self._reader)), reached)
        self._write(_Integration((size, root), (reached, new_root), changed))
        return reached, new_root

    def _sign(self, head: SignedHead | None, checkpoint: Checkpoint) -> SignedHead:
        """Sign a head and store it in the place of `head`."""
        note = self._signer.sign(checkpoint.text)
        signed_ms = milliseconds(self._clock.now())
        check = head_guard(checkpoint.size, note, signed_ms)
        new = SignedHead(checkpoint.size, note, signed_ms, check)
        self._write(_Publication(head, new))
        return new

    def _write(self, work: "_Integration | _Publication") -> None:
        """Have the writer do it, and wait until it is durable."""
        try:
            self._log.write(work).result(_WRITE_TIMEOUT_S)
        except FutureTimeoutError:
            raise LogUnavailableError("the writer does not answer") from None


def head_guard(size: int, note: str, signed_ms: int) -> int:
    """Return the check value over a stored checkpoint."""
    return guard(note.encode(), f"{size} {signed_ms}".encode())


@dataclass(frozen=True, slots=True)
class _Overlay:
    """Tiles as they will be: those that change, and the stored ones."""

    changed: Mapping[TileId, bytes]
    reader: LogReader

    def __call__(self, level: int, number: int) -> bytes:
        return self.changed.get((level, number)) or self.reader.tile(level, number)


@dataclass(frozen=True, slots=True)
class _Integration:
    """Stores changed tiles and moves the tree's head, if it is where it was read."""

    before: tuple[int, bytes]
    after: tuple[int, bytes]
    tiles: Mapping[TileId, bytes]

    def __call__(self, connection: Connection) -> None:
        if self.before[0] == 0:
            connection.execute(
                "INSERT INTO tree VALUES (1, 0, ?) ON CONFLICT DO NOTHING",
                (self.before[1],),
            )
        moved = connection.execute(
            "UPDATE tree SET size = ?, root = ? WHERE size = ? AND root = ?",
            (*self.after, *self.before),
        )
        if moved.rowcount != 1:
            raise LogUnavailableError("another publisher has moved the tree")
        connection.executemany(
            "INSERT INTO tile VALUES (?, ?, ?)"
            " ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
            [(*tile, hashes) for tile, hashes in self.tiles.items()],
        )


@dataclass(frozen=True, slots=True)
class _Publication:
    """Puts a checkpoint in the place of the one that was read: compare and swap."""

    before: SignedHead | None
    after: SignedHead

    def __call__(self, connection: Connection) -> None:
        row = (self.after.size, self.after.note, self.after.signed_ms, self.after.guard)
        if self.before is None:
            swapped = connection.execute(
                "INSERT INTO checkpoint VALUES (1, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                row,
            )
        else:
            swapped = connection.execute(
                "UPDATE checkpoint SET size = ?, note = ?, signed_ms = ?, guard = ?"
                " WHERE note = ? AND signed_ms = ?",
                (*row, self.before.note, self.before.signed_ms),
            )
        if swapped.rowcount != 1:
            raise LogUnavailableError("another publisher has moved the checkpoint")
