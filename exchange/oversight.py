"""Looking into the log: for auditors, and for whoever holds a receipt.

INVARIANT (rule 2): whoever looks into who asked what is recorded as well, durably,
before the answer leaves.

The index and the proofs are read in a thread of their own, so that a large question
never holds up a case.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeVar

from audit.indexing import IndexFollower
from audit.ledger import Line
from audit.objects import Objects
from audit.publisher import Publisher
from audit.query import (
    AccessIndex,
    RecordPage,
    RecordQuery,
    RecordRow,
    each_alone,
    open_entry,
    query_event,
)
from audit.receipt import Consistency, Proof, prove_consistency, prove_event
from audit.record import Actor, Audience, Section, Subject
from audit.sealing import Sealer
from audit.sections import OpenedSection
from audit.served import read_piece
from audit.shelf import SealedShard, Shelf
from audit.sql import Place
from audit.store import Entry, LogReader
from audit.tiles import Piece
from audit.writer import AuditLog
from schemas.clock import Clock
from schemas.errors import (
    Complaint,
    InvalidRequestError,
    NotFoundError,
    VerificationError,
    Where,
)
from schemas.ids import CaseId, EventId, NewId
from schemas.model import Slug

T = TypeVar("T")

_LATEST = f"{(1 << 63) - 1}.0"
"""A cursor before the newest record."""

_LOOK_EVERY_S = 0.02
"""How often a waiting answer looks whether more is published, in seconds."""


class Oversight:
    """Answers questions about the log.

    Args:
        log: The log.
        sealer: Opens sections.
        index: Where the search index is kept; it may be deleted when it is closed.
        publisher: Publishes the log.
        clock: Tells when a question was asked.
        new_id: Makes ids of records.
        erased: Returns what erased a record's sections, given shard and subjects.
        shelf: Has the sealed shards, for the thread of its own.
    """

    def __init__(  # noqa: PLR0913 - what a question about the log goes through
        self,
        log: AuditLog,
        sealer: Sealer,
        index: Place,
        publisher: Publisher,
        *,
        clock: Clock,
        new_id: NewId,
        erased: Callable[[str, str], Awaitable[Line | None]],
        shelf: Shelf,
    ) -> None:
        self._log = log
        self._sealer = sealer
        self._publisher = publisher
        self._clock = clock
        self._new_id = new_id
        self._erased = erased
        self._shelf = shelf
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="errand-oversight")
        with ExitStack() as undone:
            # Sections are opened on the loop, whose thread the subject directory is of.
            self._reader = undone.enter_context(closing(LogReader.open(log.place)))
            self._proofs = undone.enter_context(closing(LogReader.open(log.place)))
            self._index = AccessIndex(index, LogReader.open(log.place))
            undone.callback(self._index.close)
            self._follower = IndexFollower(index, log.place)
            undone.pop_all()
        self._follower.start()

    def close(self) -> None:
        """Let go of the index and the log's file."""
        self._follower.stop()
        self._thread.shutdown(wait=True)
        self._index.close()
        self._proofs.close()
        self._reader.close()

    async def records(
        self,
        auditor: Slug,
        query: RecordQuery,
        subject: Subject | None = None,
        official: Actor | None = None,
    ) -> RecordPage:
        """Return records, newest first; the question becomes a record before.

        INVARIANT (rule 2): it is a record about whom it asks for, also about somebody
        unknown, who enters the subject directory by it. Otherwise ids could be tried
        without a trace, and who comes to be known later could not prove from the log
        who had looked for them.

        Args:
            auditor: Who asks.
            query: Which records.
            subject: The person or company whom they are about; None for any.
            official: Who acted; None for anybody.

        Raises:
            InvalidRequestError: The limit, the cursor or the id is not of its form.
            LogUnavailableError: The question can't be recorded, so it isn't answered.
        """
        if official is not None:
            ref = self._sealer.directory.actor_ref(official.kind, official.id)
            query = replace(query, actor_ref=ref)
        subjects = () if subject is None else (subject,)
        if subject is not None:
            query = replace(query, subject_ref=self._ref_of(subject))
        await self._record(auditor, query, subjects)
        return await self._run(lambda: self._page(query))

    def _ref_of(self, subject: Subject) -> str:
        """Return somebody's reference; "" for nobody that the log knows.

        Raises:
            InvalidRequestError: The log knows nobody of this id, nor could it.
        """
        try:
            return self._sealer.directory.ref_to_ask_for(subject)
        except ValueError as error:
            complaint = Complaint("Errand-Subject", str(error), Where.HEADER)
            raise InvalidRequestError(complaint) from None

    def _page(self, query: RecordQuery) -> RecordPage:
        """Return a page, which may go over from a shard to those before it.

        A cursor says after `@` in which shard it goes on, counted from the oldest.
        """
        indexes = [self._index, *[shard.index for shard in self._shelf.shards]]
        after, _, place = (query.after or "").partition("@")
        number = int(place) if place else len(indexes) - 1
        if number >= len(indexes):
            raise InvalidRequestError(Complaint("/after", "is not a cursor of a page"))
        newest: RecordPage | None = None
        following: str | None = None
        rows: list[RecordRow] = []
        for at in range(number, -1, -1):
            left = replace(query, limit=query.limit - len(rows), after=after or None)
            page = indexes[len(indexes) - 1 - at].query(left)
            newest, after = newest or page, ""
            rows += page.rows
            if page.next is not None:
                following = f"{page.next}@{at}"
                break
            if len(rows) == query.limit and at:
                following = f"{_LATEST}@{at - 1}"
                break
        if newest is None or number < len(indexes) - 1:
            newest = self._index.query(replace(query, limit=1, after=None))
        unmatched: list[str] = []
        if not rows and query.after is None:
            alone = each_alone(query)
            unmatched = [name for name, one in alone.items() if _is_unmet(one, indexes)]
        return replace(newest, rows=rows, next=following, unmatched=unmatched)

    async def record(
        self, auditor: Slug, event: EventId
    ) -> tuple[str, Mapping[Section, OpenedSection], EventId | None]:
        """Return the leaf of a record and its sections; a record of its own.

        Of a record about somebody who was erased there are no sections, but the
        record of the erasure.

        Raises:
            NotFoundError: The log has no record of the event.
            LogUnavailableError: The look can't be recorded, so nothing is shown.
        """
        entry, shard = self._reader.entry_of(event), None
        if entry is None:
            shard, entry = await self._sealed(event)
        await self._record(auditor, RecordQuery(limit=1), correlation=event)
        origin = self._log.origin if shard is None else shard.origin
        erased = await self._erased(origin, entry.subject_refs)
        if erased is not None:
            return entry.leaf.decode(), {}, erased.event
        sealer = self._sealer if shard is None else shard.sealer
        if sealer is None:
            raise VerificationError("the key of the shard is gone")
        sections = open_entry(Audience.AUDITOR, entry, sealer)
        return entry.leaf.decode(), sections, None

    async def _sealed(self, event: EventId) -> tuple[SealedShard, Entry]:
        """Return a record of a sealed shard.

        Raises:
            NotFoundError: None of them has it.
        """
        found = await self._run(lambda: self._shelf.find(event))
        if found is None:
            raise NotFoundError("the log has no record of this event")
        return found

    async def cases_about(self, subject_ref: str) -> list[CaseId]:
        """Return the cases that have a record about a subject."""

        def find() -> list[CaseId]:
            indexes = [self._index, *[shard.index for shard in self._shelf.shards]]
            return [
                case for index in indexes for case in index.cases_about(subject_ref)
            ]

        return await self._run(find)

    async def receipt(self, event: EventId) -> str:
        """Return the signed receipt of a record.

        Raises:
            NotFoundError: The log has no record of the event.
        """
        if await self._log.find(event) is not None:
            return await self._log.receipt(event)
        shard, entry = await self._sealed(event)
        return shard.receipt(entry)

    async def proof(self, event: EventId, wait_s: float = 0.0) -> Proof | None:
        """Return the proof that a record stands in the log; None until published.

        Args:
            event: Whose record.
            wait_s: How long to wait for a checkpoint that holds it, in seconds.

        Raises:
            NotFoundError: The log has no record of the event.
            VerificationError: The proof does not hold, so it is not handed out.
        """
        if await self._log.find(event) is None:
            shard, _ = await self._sealed(event)
            return await self._run(lambda: shard.prove(event))
        verifier = self._publisher.verifier
        deadline = self._clock.monotonic() + wait_s
        while True:
            before = self._publisher.published
            proof = await self._run(lambda: prove_event(self._proofs, event, verifier))
            if proof is not None or self._clock.monotonic() >= deadline:
                return proof
            await self._more_than(before, deadline)

    async def _more_than(self, published: int, deadline: float) -> None:
        """Wait until more is published than that, or the deadline has passed."""
        while self._publisher.published <= published:
            if self._clock.monotonic() >= deadline:
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def consistency(self, size1: int, size2: int) -> Consistency:
        """Return the proof that a later tree continues an earlier one.

        Raises:
            NotFoundError: Not `0 < size1 <= size2`, or not so much is published.
        """
        return await self._run(lambda: prove_consistency(self._proofs, size1, size2))

    async def checkpoint(self) -> str:
        """Return the signed head of the log's tree.

        Raises:
            NotFoundError: Nothing is published yet.
        """
        head = await self._run(self._proofs.published)
        if head is None:
            raise NotFoundError("nothing is published yet")
        return head.note

    async def piece(self, piece: Piece, shard: str | None = None) -> bytes | None:
        """Return a hash tile or a bundle; None when no checkpoint implies it.

        Args:
            piece: Which.
            shard: The folder or the origin of a sealed shard; None for the current one.

        Raises:
            NotFoundError: There is no such shard.
            VerificationError: The log has lost it.
        """
        if shard is None:
            return await self._run(lambda: read_piece(self._proofs, piece))
        one = self._shelf.named(shard)
        return await self._run(lambda: one.piece(piece))

    def anchors(self, shard: str) -> Objects:
        """Return where the anchors of a sealed shard are kept.

        Raises:
            NotFoundError: There is no such shard.
        """
        return self._shelf.named(shard).files.public

    async def last_checkpoint(self, shard: str) -> str:
        """Return the last head of a sealed shard.

        Raises:
            NotFoundError: There is no such shard.
        """
        one = self._shelf.named(shard)
        head = await self._run(one.reader.published)
        if head is None:
            raise NotFoundError("nothing was published in this shard")
        return head.note

    async def _record(
        self,
        auditor: Slug,
        query: RecordQuery,
        subjects: tuple[Subject, ...] = (),
        correlation: str = "",
    ) -> None:
        """Record a look into the log, durably."""
        event = query_event(
            EventId(self._new_id()),
            self._clock.now(),
            Actor("system", auditor),
            query,
            subjects,
        )
        asked = event._replace(requester=auditor, correlation=correlation)
        await self._log.append([asked])

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _is_unmet(query: RecordQuery, indexes: Iterable[AccessIndex]) -> bool:
    """Tell whether no record of any shard is wanted."""
    return not any(index.query(query).rows for index in indexes)
