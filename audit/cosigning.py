"""Asking witnesses: cosignatures for a new head, and what they saw of us before.

SOURCE: C2SP tlog-witness, the client's side. Witnesses are asked all at once, each for
a bounded time. One that fails, lies or loops costs its own cosignature alone: only
something that carries our own signature can stop the log.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, TypeVar

import structlog

from audit.bounded import Answer, Bounds, Exchanges
from audit.note import (
    Checkpoint,
    Verifier,
    b64,
    cosigned_at,
    decimal,
    open_checkpoint,
    open_note,
    signature_line,
)
from audit.policy import Policy
from audit.witness import SIZE_TYPE, origin_path, submission_text
from schemas.errors import (
    RolledBackError,
    StoreUnavailableError,
    VerificationError,
)

_log = structlog.get_logger(__name__)

_TRIES = 3
"""How often one witness is asked about one head: it may correct us twice."""
_ANSWER_LIMIT = 65_536
"""Largest answer that is read, in bytes."""

_T = TypeVar("_T")
Prove = Callable[[int, int], Sequence[bytes]]
"""Gives the consistency proof between two sizes of our tree."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Our log, as it is when the witnesses have answered."""

    recorded: int
    """How many records there are."""
    size: int
    """How many of them are in the tree."""
    root_of: Callable[[int], bytes]
    """Gives the root of the tree at a size that it has reached."""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A head with the cosignatures that were collected."""

    note: str
    """The checkpoint with the log's signature and those of witnesses."""
    by: frozenset[str]
    """Who has cosigned, by their names in the policy."""
    is_enough: bool
    """Whether they make a quorum."""


class Cosigning:
    """Collects cosignatures for one log."""

    def __init__(
        self, policy: Policy, log: Verifier, *, timeout_s: float = 2.0
    ) -> None:
        """Make ready to ask.

        Args:
            policy: Whom to ask, and who suffices.
            log: The log's own key.
            timeout_s: How long one answer may take, in seconds.
        """
        self._policy = policy
        self._log = log
        self.timeout_s = timeout_s
        """How long one answer may take, in seconds."""
        self._asked = {
            name: witness.url
            for name, witness in policy.witnesses.items()
            if witness.url is not None
        }
        self._last: dict[str, int] = {}
        """The size that each witness has cosigned last, as far as we know."""
        bounds = Bounds(timeout_s, timeout_s, _ANSWER_LIMIT)
        self._exchanges = Exchanges(bounds)
        self._threads = ThreadPoolExecutor(
            max(1, len(self._asked)), thread_name_prefix="audit-witness"
        )
        self._waiting: dict[str, Future[Any]] = {}
        """What each witness was asked last; it is asked again when that has ended."""
        self._proving = threading.Lock()

    def close(self) -> None:
        """Let go of connections."""
        self._exchanges.close()
        self._threads.shutdown(wait=True)

    def compare(self, look: Callable[[], Ours]) -> bool:
        """Compare our log with what the witnesses saw of it last.

        INVARIANT: a log that was rolled back, or that tells another history than the
        one it has signed before, signs nothing.

        Args:
            look: Looks at our log; called when the witnesses have answered, since
                others may publish meanwhile.

        Returns:
            Whether those that answered make a quorum: else nobody can be sure yet. One
            that saw records which are here, and not in the tree yet, is asked again.

        Raises:
            RolledBackError: A witness holds a head with our own signature that our
                tree does not contain.
        """
        heads = self._ask_all(self._seen_by)
        ours = look()
        compared = set()
        for name, head in heads.items():
            if isinstance(head, Checkpoint):
                if not _is_reached(name, head, ours):
                    continue
                self._last[name] = head.size
            if head is not _Nothing.TOLD:
                compared.add(name)
        return self._policy.is_met(frozenset(compared))

    def _seen_by(self, name: str) -> "Checkpoint | _Nothing":
        """Return the head of our log that a witness shows."""
        url = f"{self._asked[name]}/{origin_path(self._log.name)}"
        try:
            answer = self._exchanges.ask("GET", url)
            if answer.status == HTTPStatus.NOT_FOUND:
                return _Nothing.SEEN
            return open_checkpoint(answer.content, self._log)
        except (StoreUnavailableError, VerificationError):
            # What we did not sign says nothing about us.
            return _Nothing.TOLD

    def collect(self, checkpoint: Checkpoint, note: str, prove: Prove) -> Cosigned:
        """Ask all witnesses to cosign a head, and return it with what came.

        Args:
            checkpoint: The head.
            note: The head, signed by the log.
            prove: Proves that it continues earlier ones.

        Raises:
            RolledBackError: A witness holds a larger head with our own signature.
        """
        late = threading.Event()

        def ask(name: str) -> str | VerificationError | None:
            try:
                return self._ask(_Asking(name, checkpoint, note, late), prove)
            except VerificationError as error:
                return error

        answers = self._ask_all(ask)
        with self._proving:
            late.set()
        lines: dict[str, str] = {}
        for name, line in answers.items():
            if isinstance(line, VerificationError):
                raise line
            if line is not None:
                lines[name] = line
                self._last[name] = checkpoint.size
        by = frozenset(lines)
        cosigned = note + "".join(lines.values())
        return Cosigned(cosigned, by, self._policy.is_met(by))

    def _ask_all(self, ask: Callable[[str], _T]) -> dict[str, _T]:
        """Ask all witnesses at once, by name; return what came in time.

        Each exchange is bounded, but for the search for a witness's address: whose is
        long in coming is left alone until that has come to an end.

        INVARIANT: whatever goes wrong with one witness costs its own answer alone.

        Raises:
            VerificationError: One of them holds what our tree does not contain.
        """
        futures = {
            name: self._threads.submit(ask, name)
            for name in self._asked
            if name not in self._waiting or self._waiting[name].done()
        }
        self._waiting.update(futures)
        done, _ = wait(futures.values(), timeout=(_TRIES + 1) * self.timeout_s)
        answers: dict[str, _T] = {}
        for name in [name for name, one in futures.items() if one in done]:
            try:
                answers[name] = futures[name].result()
            except VerificationError:
                raise
            except Exception as error:  # noqa: BLE001 - that witness's alone
                _log.warning(
                    "witness_failed", witness=name, reason=type(error).__name__
                )
        return answers

    def _ask(self, asking: "_Asking", prove: Prove) -> str | None:
        """Ask one witness, and return its cosignature line; None without one.

        A witness that is behind or ahead of what we believe says so (409), and is
        asked again with a proof from there; but not for ever.
        """
        size = asking.checkpoint.size
        old = min(self._last.get(asking.name, 0), size)
        url = f"{self._asked[asking.name]}/add-checkpoint"
        for _ in range(_TRIES):
            with self._proving:
                # Who comes too late finds the log's reader in other hands.
                if asking.late.is_set():
                    return None
                proof = prove(old, size) if old else ()
            text = submission_text(old, [b64(one) for one in proof], asking.note)
            try:
                answer = self._exchanges.ask("POST", url, content=text)
            except StoreUnavailableError:
                return None
            if answer.status == HTTPStatus.OK:
                return self._line(asking, answer.content)
            told = _size_of(answer)
            if told is None:
                return None
            if told > size:
                self._check_ahead(asking)
                return None
            old = told
        return None

    def _line(self, asking: "_Asking", lines: bytes) -> str | None:
        """Return the witness's own cosignature among the lines that it sent."""
        verifier = self._policy.witnesses[asking.name].verifier
        try:
            signed = f"{asking.checkpoint.text}\n".encode() + lines
            note = open_note(signed, (verifier,))
        except VerificationError:
            return None
        return signature_line(note.verified[0])

    def _check_ahead(self, asking: "_Asking") -> None:
        """Believe that a witness is ahead of us only by our own signature.

        Raises:
            RolledBackError: It shows a larger head that we have signed.
        """
        head = self._seen_by(asking.name)
        if isinstance(head, Checkpoint) and head.size > asking.checkpoint.size:
            raise RolledBackError(
                f"witness `{asking.name}` has cosigned {head.size} records,"
                f" here are {asking.checkpoint.size}"
            )


def _is_reached(name: str, head: Checkpoint, ours: Ours) -> bool:
    """Return whether our tree has come to a head that a witness holds.

    Raises:
        RolledBackError: It never will, or has another root there.
    """
    if head.size > ours.recorded:
        raise RolledBackError(
            f"witness `{name}` has cosigned {head.size} records,"
            f" here are {ours.recorded}"
        )
    if head.size > ours.size:
        return False
    if head.size and ours.root_of(head.size) != head.root:
        raise RolledBackError(
            f"witness `{name}` has cosigned another root at size {head.size}"
        )
    return True


class _Nothing(Enum):
    """Why there is no head of ours to compare with."""

    SEEN = "the witness has cosigned none yet"
    TOLD = "the witness did not answer with anything that we have signed"


@dataclass(frozen=True, slots=True)
class _Asking:
    """One head, for one witness."""

    name: str
    """The witness's, in the policy."""
    checkpoint: Checkpoint
    note: str
    late: threading.Event
    """Set when nobody waits for the answer any more."""


def _size_of(answer: Answer) -> int | None:
    """Return which size a witness says it has cosigned last; None if it says none."""
    is_size = answer.media_type.startswith(SIZE_TYPE)
    if answer.status != HTTPStatus.CONFLICT or not is_size:
        return None
    try:
        return decimal(answer.content.removesuffix(b"\n").decode("ascii", "replace"))
    except VerificationError:
        return None


def cosigned_by(note: bytes, log: Verifier, policy: Policy) -> Mapping[str, int]:
    """Return who has cosigned a log's checkpoint, by name in the policy, and when.

    Times are in seconds since 1970.

    Raises:
        VerificationError: The log's signature, or a known witness's, does not hold.
    """
    keys = {(w.verifier.name, w.verifier.key_id): w for w in policy.witnesses.values()}
    note_of = open_note(note, (log, *(w.verifier for w in keys.values())))
    return {
        keys[one.name, one.key_id].name: cosigned_at(one)
        for one in note_of.verified
        if (one.name, one.key_id) in keys
    }
