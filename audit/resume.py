"""Where a verification stands: kept in a file, so that it can go on from there.

INVARIANT: what was verified is not verified again, and nothing is taken for verified
that was not. The head that was seen last stays in the state: a log that shows less
afterwards, or another history, is convicted by it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import orjson

from audit.growing import Edge, Vouched
from audit.keys import sync_folder
from audit.note import Checkpoint, Verifier, b64, b64_decode, open_checkpoint
from audit.tiles import TileId
from schemas.canonical import Json, canonical_plain
from schemas.errors import SettingsError, VerificationError

STATE_LIMIT = 16 << 20
"""Largest state file that is read, in bytes."""
SAVE_EVERY = 65_536
"""Entries between two savings."""

_FORMAT = 1
_LOOK_EVERY = 4_096
"""Entries between two moments to which an interrupted run can go back."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a log is verified."""

    seen: str
    """The newest checkpoint that was seen: a note that the log has signed."""
    what: str
    """What was looked at: a state of another thoroughness is no use."""
    edge: Edge = field(default_factory=Edge)
    """The tree up to where everything is verified."""
    tally: Mapping[str, Json] = field(default_factory=dict)
    """What was counted so far."""


def load_state(path: Path, verifier: Verifier, what: str) -> State | None:
    """Return what an earlier run has kept; None where there is nothing.

    Raises:
        SettingsError: The file holds something else, is damaged, or is of another
            log, key or kind of verification.
    """
    if not path.exists():
        return None
    try:
        state = _parse(path.read_bytes())
        open_checkpoint(state.seen.encode(), verifier)
    except (VerificationError, ValueError, KeyError, TypeError, OSError):
        raise SettingsError(
            f"`{path.name}` is no state of a verification with this key: remove it"
        ) from None
    if state.what != what:
        raise SettingsError(f"`{path.name}` is of another verification: {state.what}")
    return state


def save_state(path: Path, state: State) -> None:
    """Keep a state: whole or not at all, whatever ends the process."""
    document: dict[str, Json] = {
        "format": _FORMAT,
        "seen": state.seen,
        "what": state.what,
        "size": state.edge.size,
        "root": b64(state.edge.root()),
        "edge": [
            [level, index, b64(content)]
            for (level, index), content in sorted((state.edge.tiles or {}).items())
        ],
        "tally": dict(state.tally),
    }
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(canonical_plain(document))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.absolute().parent)


def _parse(data: bytes) -> State:
    """Return the state in a file; whatever is wrong with it raises."""
    if len(data) > STATE_LIMIT:
        raise ValueError
    document = orjson.loads(data)
    if document["format"] != _FORMAT:
        raise ValueError
    tiles: dict[TileId, bytes] = {
        (int(level), int(index)): b64_decode(content)
        for level, index, content in document["edge"]
    }
    edge = Edge(int(document["size"]), tiles)
    if b64(edge.root()) != document["root"]:
        raise ValueError
    return State(
        seen=str(document["seen"]),
        what=str(document["what"]),
        edge=edge,
        tally=cast("Mapping[str, Json]", dict(document["tally"])),
    )


class Keeper:
    """Keeps how far one verification is, where that is wanted."""

    def __init__(self, file: Path | None, verifier: Verifier, what: str) -> None:
        """Read what an earlier run has kept.

        Args:
            file: Where it is kept; None keeps nothing.
            verifier: The log's key.
            what: What is looked at, as in `State`.

        Raises:
            SettingsError: The file is of something else.
        """
        self._file = file
        self._what = what
        self._verifier = verifier
        self._note: str | None = None
        self._before = None if file is None else load_state(file, verifier, what)
        self._seen: Checkpoint | None = None
        if self._before is not None:
            self._seen = open_checkpoint(self._before.seen.encode(), verifier)

    @property
    def tally(self) -> Mapping[str, Json]:
        """What earlier runs have counted."""
        return {} if self._before is None else self._before.tally

    @property
    def vouched(self) -> tuple[Vouched, ...]:
        """The root that was seen last: the log must still grow through it."""
        seen = self._seen
        if seen is None:
            return ()
        return (Vouched("the checkpoint seen before", seen.size, seen.root),)

    def start(self, note: str | None) -> Edge:
        """Return where to go on from, after comparing a head with the one seen last.

        Args:
            note: The head that is verified now; None for a log without any.

        Raises:
            VerificationError: The log shows less than it did, or another root for as
                much: two heads that it has signed contradict each other.
        """
        self._note = note
        if self._before is None or self._seen is None:
            return Edge()
        if note is None:
            raise VerificationError("checkpoint: there was one before, and none now")
        _check_grown(self._seen, open_checkpoint(note.encode(), self._verifier))
        return self._before.edge

    @contextmanager
    def keeping(
        self, edge: Callable[[], Edge], tally: Callable[[], Mapping[str, Json]]
    ) -> Iterator[Callable[[int], None]]:
        """Keep how far it is, now and then, and however it ends.

        Yields what is told after each step up to where everything is verified: at no
        other moment do edge and tally belong together.
        """
        last: State | None = None
        looked = saved = edge().size

        def reached(size: int) -> None:
            nonlocal last, looked, saved
            if size - looked < _LOOK_EVERY:
                return
            last, looked = self._state(edge(), tally()), size
            if size - saved >= SAVE_EVERY:
                self._save(last)
                saved = size

        try:
            yield reached
            last = self._state(edge(), tally())
        finally:
            self._save(last)

    def _state(self, edge: Edge, tally: Mapping[str, Json]) -> State | None:
        """Return what to keep; None before the first head."""
        if self._note is None:
            return None
        return State(self._note, self._what, edge, tally)

    def _save(self, state: State | None) -> None:
        if self._file is not None and state is not None:
            save_state(self._file, state)


def _check_grown(seen: Checkpoint, now: Checkpoint) -> None:
    """Verify that a head can come after another."""
    if now.size < seen.size:
        raise VerificationError(
            f"checkpoint: the log showed {seen.size} entries before, and {now.size} now"
        )
    if now.size == seen.size and now.root != seen.root:
        raise VerificationError("checkpoint: another root than before, of one size")
