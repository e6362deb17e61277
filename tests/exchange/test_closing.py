"""Closing a case while others read it, add to it and ask persons about it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from audit.record import read_leaf
from audit.store import LogReader
from exchange.database import Database
from exchange.vault import Vault
from schemas.errors import LogUnavailableError, NotFoundError, StateConflictError
from schemas.ids import CaseId, EventId
from tests.exchange.newborn import PORTAL_CALLER, Office

pytestmark = pytest.mark.anyio
Act: TypeAlias = Callable[[Office, dict[str, Any]], Awaitable[object]]


async def add(office: Office, case: dict[str, Any]) -> object:
    """Add an answer to a case."""
    return await office.add(case, wait_s=0.0, answers={"phone": "13000000001"})


async def stated(office: Office, case: dict[str, Any]) -> object:
    """Return what was stated in a case."""
    return await office.resolver.stated(CaseId(case["id"]), PORTAL_CALLER)


def closed_just_before(
    office: Office,
    case: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """Let the case be closed just before the tables are next read, or written."""
    real = getattr(Database, method)
    tables, is_first = office.database, True

    async def meddled(database: Database, work: object) -> object:
        nonlocal is_first
        if database is tables and is_first:
            is_first = False
            await office.close(case)
        return await real(database, work)

    monkeypatch.setattr(Database, method, meddled)


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("write", Office.resolve),
        ("write", add),
        ("read", Office.resolve),
        ("read", add),
        ("read", stated),
    ],
)
async def test_what_meets_the_closing_of_its_case_is_told_so(
    office: Office,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    act: Act,
) -> None:
    """What was read as open and is closed by now is a conflict: nothing is owed."""
    case = await office.open(wait_s=0.0)
    closed_just_before(office, case, monkeypatch, method)

    with pytest.raises(StateConflictError, match="closed"):
        await act(office, case)

    assert office.owed(case) is None


async def test_a_case_that_is_closed_while_it_is_read_is_answered_as_closed(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is gone when it is to be opened: its outcomes are there all the same."""
    case = await office.open()
    closed_just_before(office, case, monkeypatch, "read")
    found = await office.read(case)

    assert ("closed", {}) == (found["status"], found["evidence"])


async def test_answers_resolving_and_closing_at_once_are_done_or_are_a_conflict(
    office: Office,
) -> None:
    """Nobody is told that the case is not there, or that something broke."""
    case = await office.open(wait_s=0.0)
    acts: list[Act] = [add, add, Office.close, Office.resolve, add]
    came = await asyncio.gather(
        *[act(office, case) for act in acts], return_exceptions=True
    )

    failed = [one for one in came if isinstance(one, BaseException)]
    assert all(isinstance(one, StateConflictError) for one in failed), failed
    if office.owed(case) is not None:  # a run was under way when it was closed
        await office.attempt(case)
    assert office.owed(case) is None


async def test_a_key_that_closing_left_is_destroyed_though_the_log_is_down(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 7 waits for no record: what was cut off is owed until the log has it."""
    case = await office.open_and_be_killed("household@1")
    stored = office.stored(case)
    office.log.hold("the disk is full")
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "destroy_key", _refuse)
        with pytest.raises(LogUnavailableError):
            await office.close(case)
    office.vault.key(stored.key, stored.head.id)  # it is left, and still found
    office.clock.advance(timedelta(minutes=5))
    with pytest.raises(LogUnavailableError):
        await office.attempt(case)

    with pytest.raises(NotFoundError):
        office.vault.key(stored.key, stored.head.id)
    assert office.owed(case) is not None


@pytest.mark.parametrize("is_closed", [True, False])
async def test_how_a_look_up_ended_stands_in_the_list_of_whom_it_was_about(
    office: Office, *, is_closed: bool
) -> None:
    """Also where it was cut off, and its case closed: the log knows who they are."""
    case = await office.open_and_be_killed("household@1")
    if is_closed:
        await office.close(case)
    office.clock.advance(timedelta(minutes=5))
    await office.attempt(case)
    with closing(LogReader.open(office.folder / "log.db")) as reader:
        records = list(reader.entries(0, reader.size()))
    about = {one.event_id: one.subject_refs for one in records}
    leaves = {one.event_id: read_leaf(one.leaf) for one in records}
    ends = [one for one in records if leaves[one.event_id].outcome == "interrupted"]

    assert len(ends) > 1
    for one in ends:
        end, begun = leaves[one.event_id], leaves[EventId(one.ends or "")]
        assert about[begun.id] == one.subject_refs != ""
        assert (begun.provider, begun.correlation) == (end.provider, end.correlation)


async def _refuse(*_: object) -> None:
    raise LogUnavailableError("the disk is full")
