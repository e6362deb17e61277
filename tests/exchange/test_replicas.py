"""Two gateways on one PostgreSQL that do the same thing at the same instant."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import psycopg
import pytest
from sqlalchemy import Connection, text

from audit.record import Kind
from consent import mandate_store, store, uses
from exchange import cases, due, idempotency, registration
from exchange.assertions import Assertion, spend
from exchange.case import CaseHead, CaseStatus
from exchange.database import Database
from exchange.due import Due, Lease
from exchange.registration import Registered
from schemas.errors import StateConflictError, VerificationError
from schemas.ids import CaseId, DueId, EvidenceId, KeyId
from tests.consent.examples import LEASE, a_quota, a_request, a_scope, a_use
from tests.consent.test_mandates import a_mandate
from tests.harness.postgres import ask_until

T = TypeVar("T")
pytestmark = pytest.mark.anyio
NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PATIENCE_S = 20.0
CASE = CaseId("case-1")


async def race(
    url: str, first: Callable[[Connection], T], second: Callable[[Connection], T]
) -> tuple[T | BaseException, T | BaseException]:
    """Do both in two replicas at once: the second waits for the first to commit.

    It is seen in PostgreSQL itself that it waits for a lock, and only then does the
    first one commit.
    """
    done = threading.Event()

    def holding(connection: Connection) -> T:
        result = first(connection)
        done.set()
        _until_locked_out(url)
        return result

    def behind(connection: Connection) -> T:
        assert done.wait(PATIENCE_S)
        return second(connection)

    with Database(url) as one, Database(url) as other:
        begun = asyncio.gather(
            one.write(holding), other.write(behind), return_exceptions=True
        )
        came = await begun
    return came[0], came[1]


def _until_locked_out(url: str) -> None:
    """Return once a transaction on this database waits for another's lock."""
    query = """SELECT count(*) FROM pg_stat_activity
               WHERE wait_event_type = 'Lock' AND datname = current_database()"""
    with psycopg.connect(url, autocommit=True) as connection:
        ask_until(connection, query, lambda found: found != [(0,)])


async def test_a_key_claimed_twice_makes_one_thing(postgres_tables: str) -> None:
    """The same request at two gateways is answered with one resource."""
    repeat = idempotency.RepeatKey("portal", "key", "request")
    works = [
        partial(idempotency.claim, repeat=repeat, resource=name, now=NOW)
        for name in ("case-1", "case-2")
    ]

    assert ("case-1", "case-1") == await race(postgres_tables, *works)


async def test_an_assertion_is_spent_once(postgres_tables: str) -> None:
    """One token for one assertion, whichever gateway it is shown to."""
    one = Assertion("portal", "jti", NOW + MINUTE)
    work = partial(spend, assertion=one, now=NOW)
    first, second = await race(postgres_tables, work, work)

    assert first is None
    assert isinstance(second, VerificationError)


async def test_a_person_is_asked_once(postgres_tables: str) -> None:
    """Two gateways that ask the same of a person open one request."""
    names = iter(("c1", "c2"))

    def ask(connection: Connection) -> str:
        return store.ask(connection, a_request(), NOW, lambda: next(names)).consent.id

    assert ("c1", "c1") == await race(postgres_tables, ask, ask)


async def test_a_mandate_given_twice_is_one(postgres_tables: str) -> None:
    """The same mandate at two gateways is stored once."""
    give = partial(mandate_store.give, mandate=a_mandate())
    first, second = await race(postgres_tables, give, give)

    assert first == second == a_mandate()


async def test_two_gateways_may_start_together(postgres_tables: str) -> None:
    """Both note what is registered, and neither fails."""
    now = {"pack": Registered(Kind.POLICY_CHANGED, "digest")}
    store_it = partial(registration._store, now=now)

    assert (None, None) == await race(postgres_tables, store_it, store_it)


async def test_a_quota_is_one_for_all_replicas(postgres_tables: str) -> None:
    """A grant of one look-up a day bears one, whoever makes it."""

    def take(connection: Connection, lookup: str) -> int:
        use = a_use(lookup, [], a_quota(1))
        return len(uses.take_uses(connection, [use], NOW, LEASE))

    works = [partial(take, lookup=name) for name in ("l1", "l2")]

    assert (0, 1) == await race(postgres_tables, *works)


async def test_one_replica_works_on_a_case(postgres_tables: str) -> None:
    """Of a request and an attempt in two gateways one gets the lease."""
    owed = Due(DueId("due-1"), CASE, NOW, 0, NOW)

    def begin(connection: Connection, holder: str) -> bool:
        lease = Lease(f"lease-{holder}", CASE, holder, NOW + MINUTE)
        return due.begin(connection, owed, lease, NOW)

    works = [partial(begin, holder=name) for name in ("gateway-1", "gateway-2")]

    assert (True, False) == await race(postgres_tables, *works)


async def test_what_a_case_asks_while_it_is_closed_ends_with_it(
    postgres_tables: str,
) -> None:
    """Whichever of the two gateways comes first, nobody is asked for a closed case."""
    head = CaseHead(
        id=CASE,
        requester="portal",
        matter="newborn@1",
        purpose="newborn_registration",
        status=CaseStatus.OPEN,
        opened_at=NOW,
    )
    request = a_request(a_scope(case=CASE), asked_in=CASE)

    def ask(connection: Connection) -> int:
        cases.keep_open(connection, CASE)
        store.ask(connection, request, NOW, lambda: "c1")
        return 0

    def close(connection: Connection) -> int:
        cases.close_case(connection, CASE, b"", NOW)
        return len(store.end_requests(connection, CASE, NOW))

    for works, expected in (((ask, close), [0, 1]), ((close, ask), [0, None])):
        with Database(postgres_tables) as database:
            insert = partial(cases.insert_case, key=KeyId("key"), content=b"0")
            await database.write(partial(insert, head=head))
        came = await race(postgres_tables, *works)
        with Database(postgres_tables) as database:
            await database.write(lambda c: c.execute(text("DELETE FROM case_file")))

        assert expected == [
            None if isinstance(x, StateConflictError) else x for x in came
        ]


async def test_a_case_is_never_overwritten(postgres_tables: str) -> None:
    """Who comes second with the same version is refused, and stores nothing."""
    head = CaseHead(
        id=CASE,
        requester="portal",
        matter="newborn@1",
        purpose="newborn_registration",
        status=CaseStatus.OPEN,
        opened_at=NOW,
    )
    with Database(postgres_tables) as database:
        insert = partial(cases.insert_case, head=head, key=KeyId("key"), content=b"0")
        await database.write(insert)
    after = replace(head, version=head.version + 1)

    def save(connection: Connection, content: bytes) -> None:
        held = cases.SealedEvidence(EvidenceId(content.decode()), content, None)
        cases.put_evidence(connection, CASE, [held])
        cases.save_case(connection, after, content)

    works = [partial(save, content=content) for content in (b"1", b"2")]
    first, second = await race(postgres_tables, *works)
    with Database(postgres_tables) as database:
        stored = await database.read(partial(cases.find_case, case=CASE))
        held = await database.read(partial(cases.find_evidence, case=CASE))

    assert first is None
    assert isinstance(second, StateConflictError)
    assert stored is not None
    assert b"1" == stored.content
    assert {"1": b"1"} == held
