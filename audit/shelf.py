"""Sealed shards: read, proved and promised as ever, and never written to again."""

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from audit.keys import SHARD_FILE, load_shard_secret, shred_file
from audit.note import Signer, Verifier
from audit.objects import Objects
from audit.query import AccessIndex
from audit.receipt import Proof, Receipt, prove_event, sign_receipt
from audit.record import milliseconds, read_leaf
from audit.sealing import Sealer
from audit.served import read_piece
from audit.shards import Shard
from audit.sql import Place
from audit.store import Entry, LogReader
from audit.subjects import SubjectDirectory
from audit.tiles import Piece
from schemas.errors import NotFoundError, SettingsError
from schemas.ids import EventId


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Where a sealed shard lies."""

    shard: Shard
    log: Place
    index: Place
    keys: Path
    """The folder of its keys."""
    public: Objects
    """Its anchors."""


class SealedShard:
    """One sealed shard, open for reading; of one thread at a time but for `find`.

    Args:
        files: Where it lies.
        signer: The key of its checkpoints; it signs the list of shards alone.
        receipts: Signs its receipts, which always come out the same.
        directory: Knows the subjects.
    """

    def __init__(
        self,
        files: ShardFiles,
        signer: Signer,
        receipts: Signer,
        directory: SubjectDirectory,
    ) -> None:
        self.files = files
        self.signer = signer
        self._receipts = receipts
        self._finding = Lock()
        self.sealer: Sealer | None = None
        """Opens sections; None once the shard's key is destroyed."""
        with suppress(SettingsError):
            secret = load_shard_secret(files.keys)
            self.sealer = Sealer(files.shard.origin, secret, directory)
        with ExitStack() as undone:
            self.reader = undone.enter_context(closing(LogReader.open(files.log)))
            self._events = undone.enter_context(closing(LogReader.open(files.log)))
            self.index = AccessIndex(files.index, LogReader.open(files.log))
            undone.pop_all()

    @property
    def origin(self) -> str:
        """The shard's name."""
        return self.files.shard.origin

    @property
    def verifier(self) -> Verifier:
        """The key that its checkpoints verify with."""
        return self.signer.verifier

    def close(self) -> None:
        """Let go of its files."""
        self.index.close()
        self.reader.close()
        with self._finding:
            self._events.close()

    def find(self, event: EventId) -> Entry | None:
        """Return one of its records, on any thread; None when it has none of this id.

        Raises:
            LogUnavailableError: Its server can't be reached.
        """
        with self._finding:
            return self._events.entry_of(event)

    def receipt(self, entry: Entry) -> str:
        """Return the receipt of one of its records: the one that was given out."""
        at_ms = milliseconds(read_leaf(entry.leaf).at)
        promised = Receipt(entry.event_id, entry.seq, entry.leaf_hash, at_ms)
        return sign_receipt(self._receipts, promised)

    def prove(self, event: EventId) -> Proof | None:
        """Return the proof of one of its records under its last checkpoint."""
        return prove_event(self.reader, event, self.verifier)

    def piece(self, piece: Piece) -> bytes | None:
        """Return a piece of it; None when its last checkpoint does not imply it."""
        return read_piece(self.reader, piece)

    def shred(self) -> bool:
        """Destroy its key, on the disk and in memory; return whether it was there."""
        self.sealer = None
        return shred_file(self.files.keys / SHARD_FILE)


class Shelf:
    """All sealed shards, the newest first."""

    def __init__(self, shards: Sequence[SealedShard] = ()) -> None:
        self.shards = tuple(shards)

    def find(self, event: EventId) -> tuple[SealedShard, Entry] | None:
        """Return a record and its shard, on any thread; None when none of them has it.

        Raises:
            LogUnavailableError: Their server can't be reached.
        """
        for shard in self.shards:
            entry = shard.find(event)
            if entry is not None:
                return shard, entry
        return None

    def named(self, name: str) -> SealedShard:
        """Return the shard of this origin, or in a folder of this name.

        Raises:
            NotFoundError: None of the sealed ones is.
        """
        for shard in self.shards:
            if name in (shard.origin, shard.files.shard.name or "first"):
                return shard
        raise NotFoundError("no sealed shard has this name")

    def forget(self, ref: str) -> None:
        """Drop from memory what a subject's key takes part in, for good."""
        for shard in self.shards:
            if shard.sealer is not None:
                shard.sealer.forget(ref)

    def forget_all(self) -> None:
        """Drop from memory what any subject's key takes part in."""
        for shard in self.shards:
            if shard.sealer is not None:
                shard.sealer.forget_all()

    def shred(self, origin: str) -> bool:
        """Destroy the key of a shard; return whether it was there.

        Raises:
            NotFoundError: None of the sealed ones has this origin.
        """
        return self.named(origin).shred()
