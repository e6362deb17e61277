"""Erasing people and shards from the log, holds against it, and keys given out.

What an operator or an auditor asks for by a person's id is done here by the person's
reference; the log's own part of it is `audit.erasure`. Nobody who stands in an open
case is erased: the case would go on recording what it does.
"""

from collections.abc import Awaitable, Callable, Sequence

from audit.erasure import Erasures, Recorded, Request
from audit.forgetting import Forgetting
from audit.keyed import SubjectKey
from audit.ledger import Line, What
from audit.record import Actor, Event, Kind, Subject
from audit.sealing import Sealer
from audit.store import Appended
from audit.writer import AuditLog
from exchange import cases
from exchange.database import Database
from exchange.oversight import Oversight
from schemas.clock import Clock
from schemas.codes import ID_KINDS
from schemas.errors import NotFoundError, StateConflictError
from schemas.ids import CaseId, EventId, NewId

_WAIT_S = 2.0
"""How long an answer waits until an erasure holds everywhere, in seconds."""


class Erasing:
    """Does what erasure needs to know of cases; belongs to the event loop's thread.

    Args:
        erasures: The log's part.
        forgetting: Knows in whose memory an erased key may still be.
        log: Where the issue of a key is recorded.
        sealer: Has the subject directory.
        oversight: Knows in which cases somebody stands.
        database: Knows which of them are open.
        record_owed: Records what acts of persons still owe the log.
        clock: Tells when.
        new_id: Makes ids of records.
    """

    def __init__(  # noqa: PLR0913 - it stands between the log and the cases
        self,
        erasures: Erasures,
        forgetting: Forgetting,
        log: AuditLog,
        sealer: Sealer,
        oversight: Oversight,
        database: Database,
        *,
        record_owed: Callable[[], Awaitable[object]],
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._erasures = erasures
        self._record_owed = record_owed
        self._forgetting = forgetting
        self._log = log
        self._sealer = sealer
        self._oversight = oversight
        self._database = database
        self._clock = clock
        self._new_id = new_id

    def known(self, subject: Subject | str) -> SubjectKey:
        """Return somebody by id or by reference.

        Raises:
            NotFoundError: The directory does not know them, or does not any more.
        """
        directory = self._sealer.directory
        found = (
            directory.by_ref(subject)
            if isinstance(subject, str)
            else directory.lookup(subject)
        )
        if found is None:
            if isinstance(subject, Subject) and subject.namespace not in ID_KINDS:
                kinds = ", ".join(f"`{kind}`" for kind in ID_KINDS)
                raise NotFoundError(f"there is no such kind of id: take one of {kinds}")
            raise NotFoundError("the subject directory knows nobody of this id")
        return found

    async def erase_subject(
        self, subject: Subject | str, request: Request
    ) -> tuple[str, Recorded]:
        """Destroy a person's key, for good; return their reference and the record.

        INVARIANT: what they did before is recorded before, under the key that goes:
        recorded later, it would make them known again, under a new one.

        Raises:
            NotFoundError: The directory does not know them.
            StateConflictError: They stand in an open case, or a hold forbids it.
            LogUnavailableError: It is not known to be done.
        """
        await self._record_owed()
        ref = self.known(subject).ref
        about = await self._oversight.cases_about(ref)
        still_open = await self._database.read(
            lambda connection: cases.find_open(connection, about)
        )
        if still_open:
            raise StateConflictError(
                f"a case about this person is open: close {_named(still_open)} first"
            )
        return ref, await self._erasures.erase(What.SUBJECT, ref, request)

    async def erase_shard(self, origin: str, request: Request) -> Recorded:
        """Destroy a sealed shard's key, and with it all its sections.

        Raises:
            StateConflictError: It is still written to, or a hold forbids it.
            LogUnavailableError: It is not known to be done.
        """
        return await self._erasures.erase(What.SHARD, origin, request)

    async def hold(self, what: What, name: str, request: Request) -> Recorded:
        """Forbid an erasure until the hold is released.

        Raises:
            NotFoundError: There is no such shard.
            StateConflictError: It is erased already.
            LogUnavailableError: It is not known to hold.
        """
        return await self._erasures.hold(what, name, request)

    async def release(self, hold: EventId, request: Request) -> Recorded:
        """End a hold.

        Raises:
            NotFoundError: There is no such hold.
            LogUnavailableError: It is not known to be released.
        """
        return await self._erasures.release(hold, request)

    async def holds(self) -> Sequence[Line]:
        """Return the holds that stand."""
        return await self._erasures.holds()

    async def found(self, event: EventId) -> tuple[Line, Recorded]:
        """Return an erasure by its record, and where that stands.

        Raises:
            NotFoundError: There is none, or it is not recorded yet.
        """
        return await self._erasures.found(event)

    async def waits_for(self, event: EventId) -> Sequence[str]:
        """Return the gateways that an erasure waits for; none once it holds everywhere.

        Args:
            event: The record of the erasure.
        """
        return await self._forgetting.awaited(event, _WAIT_S)

    async def issue_key(
        self, subject: Subject, request: Request
    ) -> tuple[SubjectKey, Appended]:
        """Give out a person's key, to test the log with; it is a record about them.

        Raises:
            NotFoundError: The directory does not know them.
            LogUnavailableError: It can't be recorded, so the key stays here.
        """
        self.known(subject)
        event = Event(
            id=EventId(self._new_id()),
            at=self._clock.now(),
            kind=Kind.KEY_ISSUED,
            outcome="issued",
            requester=request.by,
            subjects=(subject,),
            actor=Actor("system", request.by),
            details={"reason": request.reason},
        )
        # INVARIANT (rule 2): durable before the key leaves.
        [appended] = await self._log.append([event])
        return self.known(subject), appended


def _named(found: Sequence[CaseId]) -> str:
    shown = ", ".join(found[:3])
    return shown if len(found) <= 3 else f"{shown} and others"  # noqa: PLR2004 - as shown
