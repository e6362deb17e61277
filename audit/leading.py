"""Who of several publishers leads: a matter of liveness, never of safety.

On SQLite the one gateway that holds the file leads. On PostgreSQL a session holds an
advisory lock: it goes with the session, which the server ends when nothing was heard
of it for a while. That two lead at once does no harm: see `swaps`.
"""

from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from audit.sql import Postgres
from audit.store import Work
from audit.writer import AuditLog
from schemas.errors import LogUnavailableError

if TYPE_CHECKING:
    import psycopg

    from audit.sql import Row

_WRITE_TIMEOUT_S: Final = 60.0
"""How long a transaction of the publisher may wait for the writer, in seconds."""


class Lead(Protocol):
    """The right to publish; of the publisher's thread."""

    def is_held(self) -> bool:
        """Return whether this publisher leads; take the lead when nobody does.

        Raises:
            LogUnavailableError: The server can't be reached.
        """

    def write(self, work: Work) -> None:
        """Do something in a transaction, and return once it is durable.

        Raises:
            LogUnavailableError: It could not be stored, or another one leads.
        """

    def close(self) -> None:
        """Give the lead up."""


class _Only:
    """Leads a log in a file: its writer writes for the publisher as well."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def is_held(self) -> bool:
        """Return that it leads."""
        return True

    def write(self, work: Work) -> None:
        """Have the writer do it, and wait until it is durable."""
        try:
            self._log.write(work).result(_WRITE_TIMEOUT_S)
        except FutureTimeoutError:
            raise LogUnavailableError("the writer does not answer") from None

    def close(self) -> None:
        """Do nothing."""


class _Session:
    """Leads by a lock of a session on PostgreSQL, and writes in that session alone."""

    def __init__(self, place: Postgres, silent_s: float) -> None:
        from audit.postgres import PostgresSql  # noqa: PLC0415 - on PostgreSQL alone

        self._sql = PostgresSql(place)
        self._name = f"errand-publisher {place.schema}"
        self._silent_ms = str(int(silent_s * 1000))
        self._locked: psycopg.Connection[Row] | None = None
        """The session that holds the lock: on no other one it is held."""

    def is_held(self) -> bool:
        """Return whether the lock is held, or could be taken now."""
        # This is the sign of life as well.
        self._sql.rows("SELECT 1")
        if self._locked is self._sql.connected():
            return True
        lock = "SELECT pg_try_advisory_lock(hashtextextended(?, 0))"
        [[is_taken]] = self._sql.rows(lock, (self._name,))
        if is_taken:
            # A leader that was frozen must not keep the others waiting for ever.
            limit = "SELECT set_config('idle_session_timeout', ?, false)"
            self._sql.rows(limit, (self._silent_ms,))
            limit = "SELECT set_config('idle_in_transaction_session_timeout', ?, false)"
            self._sql.rows(limit, (self._silent_ms,))
        self._locked = self._sql.connected() if is_taken else None
        return bool(is_taken)

    def write(self, work: Work) -> None:
        """Do it in the session that holds the lock."""
        if self._locked is None or self._sql.connected() is not self._locked:
            raise LogUnavailableError("another publisher leads now")
        with self._sql.transaction() as changes:
            work(changes)

    def close(self) -> None:
        """Let go of the lock with its session."""
        self._sql.close()


def open_lead(log: AuditLog, silent_s: float) -> Lead:
    """Return what may lead the publishing of a log.

    Args:
        log: The log.
        silent_s: Seconds without a sign of life after which a leader has lost it.
    """
    if isinstance(log.place, Path):
        return _Only(log)
    return _Session(log.place, silent_s)
