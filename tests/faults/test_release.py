"""Rule 1 as a model: departments and the portal hear nothing that is not on the disk.

Requests are made, read, repeated and given up, while the log's commits fail, are stored
although they fail, or hang, and departments fail or hang. At the instant in which a
department is asked, and in which an answer reaches the portal, the log's file is read.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text
from typing_extensions import override

from audit.keys import make_keys
from audit.merkle import leaf_hash
from audit.receipt import verify_receipt
from audit.record import Kind
from audit.verify import verify_log
from connectors.lookup import LookupRequest, NothingHeld, Reply
from exchange.migrations.schema import Part
from schemas.canonical import b64url
from schemas.errors import (
    ConnectorUnavailableError,
    Layer,
    LogUnavailableError,
    StateConflictError,
)
from schemas.ids import CaseId
from tests.exchange.newborn import (
    PORTAL_CALLER,
    Office,
    an_office,
    an_opening,
    settle_in,
)
from tests.fakes.waiting import owed_to
from tests.faults.commits import FailingConnection, Failure, Hold, fail_commits
from tests.faults.machines import run_machine
from tests.harness.postgres import Files, migrated

PATIENCE_S = 30
DOWN = ConnectorUnavailableError("down", layer=Layer.SOURCE)

failures = st.builds(
    Failure,
    st.sampled_from((sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC)),
    st.booleans(),
)
"""How a commit fails."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong while a request is under way."""

    at: int
    """The commit of the log, counted from 0, that it happens to."""
    failure: Failure | None
    """How the commit fails; None when it does not."""
    hangs: bool
    """Whether it hangs before that."""
    is_given_up: bool
    """Whether the portal goes away while it hangs."""


troubles = st.builds(
    Trouble,
    st.sampled_from((0, 0, 1, 2, 3, 4)),
    st.none() | failures,
    st.booleans(),
    st.booleans(),
)
evidence_types = st.sampled_from(
    ("identity@1", "birth_certificate@1", "household@1", "medical_insurance@1")
)
replies: st.SearchStrategy[Reply | Exception | None] = st.sampled_from(
    (None, NothingHeld(), DOWN)
)


class Releasing(RuleBasedStateMachine):
    """An office on real files; `sequence` is what departments and portal saw."""

    files: Files

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="errand-release-"))
        self.keys = make_keys("errand.test/log")
        self.urls = (
            self.files.copy_of("tables", partial(migrated, Part.TABLES), self.folder),
            self.files.copy_of("vault", partial(migrated, Part.VAULT), self.folder),
        )
        self.runner = asyncio.Runner()
        self.notes: list[bytes] = []
        self.broken: list[str] = []
        self.runner.run(self._open())

    # What can happen.

    @initialize(trouble=troubles)
    def opens_the_first_case(self, trouble: Trouble) -> None:
        """Send a family to the office."""
        self.opens_a_case(trouble)

    @rule(trouble=troubles)
    def opens_a_case(self, trouble: Trouble) -> None:
        """Send it once more."""
        opening = an_opening()

        async def ask() -> bytes:
            return (await self.office.resolver.open(opening, 5.0, None))[1]

        self.runner.run(self._request(ask, trouble))

    @rule(which=st.integers(0, 5), trouble=troubles)
    def reads_a_case(self, which: int, trouble: Trouble) -> None:
        """Read a case, also one whose opening went wrong."""
        case = self._case(which)
        if case is not None:
            ask = partial(self.office.resolver.read, case, PORTAL_CALLER)
            self.runner.run(self._request(ask, trouble))

    @rule(which=st.integers(0, 5), trouble=troubles)
    def resolves_a_case(self, which: int, trouble: Trouble) -> None:
        """Resolve a case again."""
        case = self._case(which)
        if case is not None:
            ask = partial(self.office.resolver.resolve, case, PORTAL_CALLER, 5.0)
            self.runner.run(self._request(ask, trouble))

    @rule(which=st.integers(0, 5), trouble=troubles)
    def attempts_what_is_owed(self, which: int, trouble: Trouble) -> None:
        """Do what the dispatcher does; nothing of it is an answer."""
        case = self._case(which)
        if case is not None:
            self.runner.run(self._request(partial(self._attempt, case), trouble))

    @rule(evidence_type=evidence_types, reply=replies)
    def a_department_changes_its_mind(
        self, evidence_type: str, reply: Reply | Exception | None
    ) -> None:
        """From now on it fails, holds nothing, or answers."""
        self.office.departments.reply(evidence_type, reply)

    @rule(minutes=st.sampled_from((1, 90, 2_000)))
    def time_passes(self, minutes: int) -> None:
        """What was fresh gets old, and what was planned falls due."""
        self.office.clock.advance(timedelta(minutes=minutes))

    @rule()
    def is_restarted(self) -> None:
        """The gateway comes back; what its log refused is over."""
        now = self.office.clock.instant
        self.runner.run(self.stack.aclose())
        self.runner.run(self._open())
        self.office.clock.instant = now

    @invariant()
    def nothing_was_told_before_it_was_durable(self) -> None:
        """Whatever departments and portal have heard stood on the disk."""
        assert [] == self.broken

    @override
    def teardown(self) -> None:
        """Verify the whole log, with every receipt that the portal got."""
        self.runner.run(self.stack.aclose())
        self.runner.close()
        try:
            verify_log(
                self.folder,
                self.keys.log.verifier.vkey,
                receipts=self.notes,
                receipt_vkey=self.keys.receipt.verifier.vkey,
                keys=self.keys,
            )
        finally:
            shutil.rmtree(self.folder)

    # How it happens, and what is looked at.

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.office: Office = await self.stack.enter_async_context(
            an_office(self.folder, *self.urls, self.keys)
        )
        settle_in(self.office.departments)
        self.office.departments.on_asked = self._asked
        self.disk: FailingConnection = fail_commits(self.office.log)

    def _case(self, which: int) -> CaseId | None:
        """Return one of the cases; None before the first."""
        query = text("SELECT id FROM case_file ORDER BY opened_at, id")
        found = self.office.database.read_now(
            lambda c: c.execute(query).scalars().all()
        )
        return CaseId(found[which % len(found)]) if found else None

    async def _attempt(self, case: CaseId) -> bytes:
        """Make the attempt that a case is owed, if any."""
        owed = self.office.database.read_now(lambda c: owed_to(c, case))
        if owed is not None:
            await self.office.resolver.attempt(owed.id)
        return b""

    async def _request(
        self, ask: Callable[[], Awaitable[bytes]], trouble: Trouble
    ) -> None:
        """Make a request while something goes wrong, and look at what comes of it."""
        hold = Hold()
        self.disk.planned.clear()
        self.disk.planned.extend([None] * trouble.at)
        self.disk.planned.append(hold if trouble.hangs else trouble.failure)
        request = asyncio.ensure_future(ask())
        if trouble.hangs:
            await self._hang(request, hold, trouble)
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._answered(await request)
        except (LogUnavailableError, StateConflictError):
            pass
        except asyncio.CancelledError:
            assert request.cancelled()
        await self._until_quiet()

    async def _hang(
        self, request: "asyncio.Future[bytes]", hold: Hold, trouble: Trouble
    ) -> None:
        """Wait for the commit that hangs; let it go, or have the portal go before."""
        reached = asyncio.ensure_future(
            asyncio.to_thread(hold.reached.wait, PATIENCE_S)
        )
        either: set[asyncio.Future[Any]] = {request, reached}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        asked = len(self.office.departments.asked)
        if reached.done():
            # Whatever else can go on, goes on; what hangs holds it up.
            for _ in range(20):
                await asyncio.sleep(0)
            if not request.done() and asked != len(self.office.departments.asked):
                self.broken.append("a department was asked in mid-commit")
        if trouble.is_given_up:
            request.cancel()
            await asyncio.wait({request})
        if trouble.failure is not None:
            self.disk.planned.appendleft(trouble.failure)
        hold.reached.set()
        hold.released.set()
        await reached

    async def _until_quiet(self) -> None:
        """Wait for work that goes on although its portal went away."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=PATIENCE_S)

    def _stored(self) -> dict[str, tuple[str, str]]:
        """Return kind and leaf hash of each event that is in the log's file."""
        with sqlite3.connect(f"file:{self.folder / 'log.db'}?mode=ro", uri=True) as log:
            leaves = [leaf for (leaf,) in log.execute("SELECT leaf FROM entry")]
        log.close()
        read = [(orjson.loads(leaf), leaf_hash(leaf)) for leaf in leaves]
        return {one["id"]: (one["kind"], b64url(digest)) for one, digest in read}

    def _asked(self, request: LookupRequest) -> None:
        """A department is asked: its intent is on the disk."""
        kind, _ = self._stored().get(request.intent.event, ("", ""))
        if kind != Kind.REQUEST_ACCEPTED.value:
            self.broken.append(f"{request.evidence_type.ref} was asked too early")

    def _answered(self, answer: bytes) -> None:
        """An answer reaches the portal: each evidence in it is recorded as released."""
        if not answer:
            return
        case, stored = orjson.loads(answer), self._stored()
        recorded = set()
        for one in case["receipts"]:
            note = one["note"].encode()
            receipt = verify_receipt(note, self.keys.receipt.verifier)
            released = (Kind.EVIDENCE_RELEASED.value, b64url(receipt.leaf_hash))
            if stored.get(receipt.event) == released:
                recorded.add(one["evidence"])
            self.notes.append(note)
        if not case["evidence"].keys() <= recorded:
            self.broken.append("evidence left without its record")


def test_nothing_is_asked_or_released_before_its_record_is_durable(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, hangs or is given up, in any order."""
    monkeypatch.setattr(Releasing, "files", files, raising=False)
    run_machine(Releasing, examples=15, steps=14, deep=300)
