"""The publisher: takes what is recorded into the tree, and signs the tree's head.

Sequencing comes first, so each tile is a pure function of the records before it and
may be made twice. A head is signed only over leaves that were hashed again and over
tiles that were read back: one flipped bit under a signature ends a log.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from audit.cosigning import Cosigning, Ours
from audit.leading import open_lead
from audit.merkle import EMPTY_ROOT, consistency_proof, tree_root
from audit.note import Checkpoint, Signer, Verifier, open_checkpoint
from audit.record import milliseconds
from audit.store import LogReader, SignedHead
from audit.swaps import Integration, Publication, Release, head_guard
from audit.taking import taking
from audit.tiles import TileId, TileReader, integrate, node_reader, reading_once
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import LogUnavailableError, RolledBackError, VerificationError

_UNSURE = "too few witnesses have told since the start what they saw of the log"
_LEAST_PAUSE = 0.1
"""Of the interval, between two rounds: appends need their share of the machine."""


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
    """Seconds without signing what there is, from which nothing more is recorded."""
    unwitnessed_s: float = 14_400.0
    """Seconds without enough cosignatures, from which nothing more is recorded."""
    silent_s: float = 15.0
    """Seconds without a sign of life, after which another replica's publisher leads."""

    def pause(self, took: float) -> float:
        """Return for how many seconds to wait after a round that took some.

        What is recorded when a round has just begun waits for the rest of it, for this
        pause, and for the next round, which takes about as long: for an interval in
        all, as long as that can be. The longer a round takes, the earlier the next one
        begins, and so the less it has to do.
        """
        return max(self.interval_s - 2 * took, self.interval_s * _LEAST_PAUSE)


class Publisher:
    """Integrates, signs and publishes, in a thread of its own."""

    def __init__(
        self,
        log: AuditLog,
        signer: Signer,
        clock: Clock,
        pace: Pace | None = None,
        witnesses: Cosigning | None = None,
    ) -> None:
        """Make ready to publish.

        Args:
            log: The log.
            signer: Its key.
            clock: Tells the time.
            pace: How often and how much.
            witnesses: Who cosigns; None publishes what the log alone has signed. With
                them, the log takes nothing until they have told what they saw of it.

        Raises:
            ValueError: The key is not the log's.
        """
        if signer.name != log.origin:
            raise ValueError("the signer's name is not the log's origin")
        self._log, self._signer, self._clock = log, signer, clock
        self._pace = pace or Pace()
        self._reader = LogReader.open(log.place)
        self._take = taking(log.place, self._reader)
        self._lead = open_lead(log, self._pace.silent_s)
        self._witnesses = witnesses
        self._is_compared = False
        """Whether the log was compared with what witnesses saw since this one leads."""
        self.is_known = witnesses is None
        """Whether it was compared since this publisher was made, and is whole."""
        self.is_leading = False
        """Whether this publisher led when it last looked."""
        self._last: Checkpoint | None = None
        """What was signed last here: the tree must go on from it."""
        self._signed = 0
        self._shown: SignedHead | None = None
        """What outsiders see, as far as this publisher knows."""
        self._news_since: float | None = None
        self._unwitnessed_since: float | None = None
        self._stopping, self._looked = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._followers: list[Callable[[], str | None]] = []
        self.failure: str | None = None
        """Why the last round failed; None when it did not."""
        if not self.is_known:
            # INVARIANT: a log that may have been rolled back signs no receipt.
            log.hold(_UNSURE)

    def watch(self, lag: Callable[[], str | None]) -> None:
        """Hold the log for another reason as well, such as a follower's lag."""
        self._followers.append(lag)

    def start(self) -> None:
        """Publish from now on, until `stop`."""
        self._thread = threading.Thread(
            target=self._run, name="audit-publisher", daemon=True
        )
        self._thread.start()

    def look(self) -> bool:
        """Wait for the first round, as long as a witness may take to answer.

        Returns:
            Whether witnesses have told enough, and nothing has failed.
        """
        if self._witnesses is not None:
            self._looked.wait(self._witnesses.timeout_s)
        return self.is_known and self.failure is None

    def stop(self) -> None:
        """Publish what there is once more, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self._witnesses is not None:
            self._witnesses.close()
        self._lead.close()
        self._reader.close()

    def _run(self) -> None:
        """Publish at the pace that was set: what a round takes is part of the pace."""
        is_stopping = False
        while not is_stopping:
            began = self._clock.monotonic()
            self.tick()
            took = self._clock.monotonic() - began
            is_stopping = self._stopping.wait(self._pace.pause(took))
        self.tick()

    def tick(self) -> None:
        """Do one round, and hold the log while publishing lags too far behind."""
        try:
            self.publish()
        except VerificationError as error:
            # INVARIANT: a log that contradicts itself signs and records nothing more.
            self.failure = str(error)
            is_behind = isinstance(error, RolledBackError)
            self._log.refuse(f"the log does not verify: {error}", is_behind=is_behind)
        except LogUnavailableError as error:
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001 - tried again in the next round
            self.failure = type(error).__name__
        else:
            self.failure = None
        self._log.hold(self._lag())
        self._looked.set()

    @property
    def unsure(self) -> str | None:
        """Why nobody knows yet whether the log has lost something; None if it is known.

        A log that was found to have lost something is a `failure`.
        """
        if self.is_known or self.failure is not None:
            return None
        return _UNSURE

    def _lag(self) -> str | None:
        """Return why nothing more may be recorded for now, or None."""
        if not self.is_known:
            return _UNSURE
        behind = self._log.size - self._signed
        now = self._clock.monotonic()
        if self.unwitnessed_for() > self._pace.unwitnessed_s:
            return "too few witnesses have cosigned for too long"
        if behind <= 0:
            self._news_since = None
        elif self._news_since is None:
            self._news_since = now
        since = now if self._news_since is None else self._news_since
        if behind > self._pace.unpublished or now - since > self._pace.stale_s:
            return "too much is recorded and not published"
        reasons = (lag() for lag in self._followers)
        return next((reason for reason in reasons if reason is not None), None)

    def unwitnessed_for(self) -> float:
        """Return for how many seconds there were not enough cosignatures; 0 if none."""
        since = self._unwitnessed_since
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def verifier(self) -> Verifier:
        """The key that checkpoints verify with."""
        return self._signer.verifier

    @property
    def published(self) -> int:
        """How many records stand under the published checkpoint, as last seen."""
        return self._size_of(self._shown)

    def publish(self) -> SignedHead | None:
        """Publish what is recorded; return the head, None while there is nothing.

        Of several replicas one leads, and the others look at what it has published.

        (1) Take new records into the tree, in chunks.
        (2) Before the first signature, ask the witnesses what they saw of this log. Who
            does not lead asks by itself, since it signs receipts.
        (3) Read the tiles back, and compute the roots from them: that of now, and
            that of the last checkpoint.
        (4) Sign the head, and put it in the place of the one that was read.
        (5) Have witnesses cosign it, and publish it once enough have.

        Raises:
            VerificationError: What is stored contradicts itself, or what a witness
                holds: nothing was signed.
            LogUnavailableError: It could not be stored.
        """
        head = self._reader.head()
        if not self._leads():
            return self._follow(head)
        # (1): every tile is a function of the records, so half a round does no harm.
        size, root = self._reader.tree() or (0, EMPTY_ROOT)
        target = self._reader.size()
        while size < target:
            end = min(target, size + self._pace.chunk)
            size, root = self._integrate(size, root, end)
        self._shown = self._reader.published()
        self._signed = self._size_of(head)
        # (2): a log that was rolled back must not sign a second history.
        if not self._is_compared:
            self._is_compared = self._compare()
        if not self._is_compared:
            # Not the publisher's own lag: `unwitnessed_for` counts it.
            self._signed = size
            return self._shown
        if size == 0:
            return None
        if self._is_due(head, size):
            # (3): what is signed is what is stored, not what was meant to be.
            for one in dict.fromkeys([(size, root), *self._known(head)]):
                self._checked_edge(*one)
            # (4): at most one publisher wins.
            checkpoint = Checkpoint(self._log.origin, size, root)
            head = self._sign(head, checkpoint)
            self._last, self._signed = checkpoint, size
        # (5): also when an earlier round could not.
        return self._publish(head)

    def _follow(self, head: SignedHead | None) -> SignedHead | None:
        """Look at what another one has signed, and return what it has published.

        Whether enough have cosigned is told by what it publishes: it asks them.
        """
        self._signed = self._size_of(head)
        before, self._shown = self._shown, self._reader.published()
        if not self.is_known:
            self._compare()
        elif self._witnesses is not None:
            is_waiting = head is not None and not _is_same(head, self._shown)
            is_enough = not is_waiting or self._shown != before
            self._wait_for_witnesses(is_enough=is_enough)
        return self._shown

    def _leads(self) -> bool:
        """Return whether this publisher leads.

        Whoever comes to lead asks the witnesses first: the server may be another one
        now, which lacks what the one before has confirmed.
        """
        before, self.is_leading = self.is_leading, self._lead.is_held()
        if self.is_leading and not before:
            self._is_compared = self._witnesses is None
        return self.is_leading

    @staticmethod
    def _size_of(head: SignedHead | None) -> int:
        return 0 if head is None else head.size

    def _compare(self) -> bool:
        """Compare the log with what witnesses saw; return whether enough have told.

        An empty log as well: it may be one whose keys alone were put back.

        Raises:
            VerificationError: A witness holds a head that the log does not contain.
        """
        if self._witnesses is None:
            return True
        enough = self._witnesses.compare(self._ours)
        self._wait_for_witnesses(is_enough=enough)
        if enough and not self.is_known:
            self.is_known = True
            self._log.hold(None)
        return enough

    def _ours(self) -> Ours:
        """Look at the log."""
        size, _ = self._reader.tree() or (0, EMPTY_ROOT)
        read = node_reader(reading_once(self._reader.tile))
        return Ours(self._reader.size(), size, lambda at: tree_root(read, at))

    def _publish(self, head: SignedHead | None) -> SignedHead | None:
        """Publish a head that was signed, with the cosignatures that it needs."""
        if head is None or self._witnesses is None:
            return head
        if _is_same(head, self._shown):
            return self._shown
        checkpoint = open_checkpoint(head.note.encode(), self._signer.verifier)
        read = node_reader(reading_once(self._reader.tile))
        cosigned = self._witnesses.collect(
            checkpoint,
            head.note,
            lambda old, new: consistency_proof(read, old, new),
        )
        self._wait_for_witnesses(is_enough=cosigned.is_enough)
        if not cosigned.is_enough:
            # Outsiders go on seeing the last one that enough have cosigned.
            return self._shown
        guard_ = head_guard(head.size, cosigned.note, head.signed_ms)
        public = SignedHead(head.size, cosigned.note, head.signed_ms, guard_)
        self._lead.write(Release(public))
        self._shown = public
        return public

    def _known(self, head: SignedHead | None) -> list[tuple[int, bytes]]:
        """Return sizes and roots that were signed, and that the tree goes on from."""
        known = [] if self._last is None else [self._last]
        if head is not None:
            known.append(open_checkpoint(head.note.encode(), self._signer.verifier))
        return [(one.size, one.root) for one in known]

    def _wait_for_witnesses(self, *, is_enough: bool) -> None:
        """Keep since when there have not been enough cosignatures."""
        if is_enough:
            self._unwitnessed_since = None
        elif self._unwitnessed_since is None:
            self._unwitnessed_since = self._clock.monotonic()

    def _checked_edge(self, size: int, root: bytes) -> Mapping[TileId, bytes]:
        """Return the stored tiles of the right edge, once they give this root."""
        edge = self._reader.edge(size)
        if tree_root(node_reader(_reading(edge)), size) != root:
            raise VerificationError(f"the tiles do not give the root of size {size}")
        return edge

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
        edge = self._checked_edge(size, root)
        hashes, begun, ended = self._take(size, end)
        changed = integrate(_reading(edge), size, hashes)
        reached = size + len(hashes)
        new_root = tree_root(node_reader(_reading({**edge, **changed})), reached)
        before, after = (size, root), (reached, new_root)
        self._lead.write(Integration(before, after, changed, begun, ended))
        return reached, new_root

    def _sign(self, head: SignedHead | None, checkpoint: Checkpoint) -> SignedHead:
        """Sign a head and store it in the place of `head`."""
        note = self._signer.sign(checkpoint.text)
        signed_ms = milliseconds(self._clock.now())
        check = head_guard(checkpoint.size, note, signed_ms)
        new = SignedHead(checkpoint.size, note, signed_ms, check)
        is_public = self._witnesses is None
        self._lead.write(Publication(head, new, is_public=is_public))
        if is_public:
            self._shown = new
        return new


def _is_same(head: SignedHead, published: SignedHead | None) -> bool:
    """Return whether a head is published: cosignatures may stand below it."""
    return published is not None and (published.size, published.signed_ms) == (
        head.size,
        head.signed_ms,
    )


def _reading(tiles: Mapping[TileId, bytes]) -> TileReader:
    """Return a reader of these tiles."""
    return lambda *tile: tiles.get(tile, b"")
