"""A case office over in-memory departments, and the families that tests send there."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import sql
from pydantic import JsonValue
from sqlalchemy import Connection, text

from audit.keys import LogKeys, make_keys
from audit.record import Event
from audit.sealing import Sealer
from audit.store import Appended
from audit.subjects import SubjectDirectory
from audit.writer import AuditLog
from consent import store
from consent.artefact import Consent, ConsentScope
from consent.in_flight import InFlight
from exchange import cases
from exchange.case import Actor, AnyActor
from exchange.cases import StoredCase
from exchange.database import Database
from exchange.due import Due
from exchange.office import Parts, Terms, make_planner, make_resolver, read_pack
from exchange.owed_records import OwedRecords
from exchange.permission import Asking, Permissions
from exchange.resolver import Additions, Opening, Resolver
from exchange.token_request import Caller
from exchange.vault import Vault
from schemas.directory import Scope
from schemas.errors import LogUnavailableError
from schemas.ids import CaseId, ConsentId, new_ids
from schemas.validation import Pack
from tests.fakes.clock import FakeClock
from tests.fakes.connectors import InMemoryConnector
from tests.fakes.waiting import owed_to

PACK_FOLDER = Path(__file__).parents[2] / "schemas" / "packs" / "990100"
PORTAL = "portal_990100"
PORTAL_CALLER = Caller(
    PORTAL, frozenset({Scope.PORTAL}), frozenset({"newborn_registration"})
)
MOTHER = "990101199403120026"
FATHER = "990101199207250018"
NEWBORN = "99010120260108004X"
CERTIFICATE = "A000000001"
NOW = datetime(2026, 1, 10, 2, 0, tzinfo=UTC)
OFFICIAL = Actor(kind="official", id="window-3")
ANSWERS: Mapping[str, bool | str] = {
    "parents_married": True,
    "joins": "mother",
    "child_name": "林小溪",
    "bank_account": "6200000000000000001",
    "phone": "13000000000",
}
CERTIFICATE_FIELDS: Mapping[str, JsonValue] = {
    "CSYXZMBH": CERTIFICATE,
    "XSE_XM": "林小溪",
    "XSE_XBDM": "2",
    "XSE_CSSJ": "2026-01-08T06:30:00Z",
    "XSE_YZ": 39,
    "XSE_TZ": 3310,
    "CSD_QHDM": "990101",
    "ZCJGMC": "云溪市妇幼保健院",
    "MQ_XM": "林云",
    "MQ_SFZJHM": MOTHER,
    "FQ_XM": "陈溪",
    "FQ_SFZJHM": FATHER,
    "QF_RQ": "2026-01-09",
    "QF_LX": "1",
}
HOUSEHOLD_FIELDS: Mapping[str, JsonValue] = {
    "household_no": "H0001",
    "household_type": "FAMILY",
    "head_name": "林云",
    "relation_to_head": "01",
    "region": "990101",
}


@dataclass(slots=True)
class Office:
    """Everything that a case runs on, in one place for a test to look at."""

    resolver: Resolver
    departments: InMemoryConnector
    pack: Pack
    log: AuditLog
    database: Database
    vault: Vault
    in_flight: InFlight
    clock: FakeClock
    folder: Path

    async def open(
        self,
        *,
        answers: Mapping[str, bool | str] = ANSWERS,
        subjects: Mapping[str, Mapping[str, str]] | None = None,
        actor: AnyActor = OFFICIAL,
        wait_s: float = 5.0,
    ) -> dict[str, Any]:
        """Open a case of the mother and answer as the portal gets it."""
        opening = an_opening(answers, subjects, actor)
        _, answer = await self.resolver.open(opening, wait_s, None)
        return read(answer)

    async def open_and_be_killed(self, at: str) -> dict[str, Any]:
        """Open a case, be killed while a register is asked, and return its id alone.

        Args:
            at: The evidence type that is asked for; its register answers afterwards.
        """
        gate = self.departments.close_gate(at)
        ours = asyncio.all_tasks()
        opening = asyncio.create_task(self.open(wait_s=3.0))
        await gate.reached()
        killed = asyncio.all_tasks() - ours
        for task in killed:  # as a kill would: nothing runs to its end
            task.cancel()
        await asyncio.gather(*killed, return_exceptions=True)
        assert opening.cancelled()
        gate.opened.set()
        return await self.only_case()

    async def read(self, case: dict[str, Any]) -> dict[str, Any]:
        """Read a case again."""
        return read(await self.resolver.read(CaseId(case["id"]), PORTAL_CALLER))

    async def resolve(
        self,
        case: dict[str, Any],
        caller: Caller = PORTAL_CALLER,
        wait_s: float = 5.0,
    ) -> dict[str, Any]:
        """Resolve a case again."""
        return read(await self.resolver.resolve(CaseId(case["id"]), caller, wait_s))

    async def add(
        self,
        case: dict[str, Any],
        caller: Caller = PORTAL_CALLER,
        wait_s: float = 5.0,
        **said: object,
    ) -> dict[str, Any]:
        """Add to a case: `subjects`, `answers`, `commitments`, `supplied`."""
        values: dict[str, Any] = {"subjects": {}, "answers": {}, **said}
        body = Additions(**values)
        return read(await self.resolver.add(CaseId(case["id"]), caller, wait_s, body))

    async def close(self, case: dict[str, Any]) -> dict[str, Any]:
        """Close a case, as its portal."""
        return read(await self.resolver.close(CaseId(case["id"]), PORTAL_CALLER))

    async def attempt(self, case: dict[str, Any]) -> str:
        """Make the attempt that the case is owed now, as the dispatcher would."""
        owed = self.owed(case)
        assert owed is not None
        return await self.resolver.attempt(owed.id)

    async def give(self, consent: str, terms: store.Terms = store.AS_ASKED) -> Consent:
        """Give a consent that was asked for, as the person whom it was asked of."""
        now = self.clock.now()

        def give(connection: Connection) -> Consent:
            asked = store.get(connection, ConsentId(consent))
            person, version = asked.scope.person, asked.version
            store.give(connection, asked.id, person, version, now, terms)
            store.confirm(connection, asked.id)
            return store.get(connection, asked.id)

        return await self.database.write(give)

    async def consent_beforehand(self, person: str = FATHER) -> Consent:
        """Let the father consent to all cases of the matter before any is open."""
        now = self.clock.now()
        request = store.ConsentRequest(
            scope=ConsentScope(
                person=self.vault.person_ref("citizen_id", person),
                role="father",
                requester=PORTAL,
                matter="newborn",
                purpose="newborn_registration",
                case=None,
            ),
            asked_in=CaseId("00000000-0000-7000-8000-000000000000"),
            fields={"identity@1": None, "marriage@1": None, "household@1": None},
            expires_at=now + timedelta(days=30),
            uses=None,
        )
        new_id = new_ids(self.clock)
        asked = await self.database.write(lambda c: store.ask(c, request, now, new_id))
        return await self.give(asked.consent.id)

    def owed(self, case: dict[str, Any]) -> Due | None:
        """Return what a case is owed."""
        return self.database.read_now(lambda c: owed_to(c, CaseId(case["id"])))

    def owed_in(self, case: dict[str, Any]) -> float:
        """Return in how many seconds a case goes on by itself."""
        owed = self.owed(case)
        assert owed is not None
        return (owed.due_at - self.clock.now()).total_seconds()

    async def only_case(self) -> dict[str, Any]:
        """Return the one case that the office has, by its id alone."""
        found = self.database.read_now(
            lambda c: c.execute(text("SELECT id FROM case_file")).scalars().all()
        )
        assert 1 == len(found)
        return {"id": found[0]}

    def stored(self, case: Mapping[str, Any]) -> StoredCase:
        """Return a case as it lies in the tables, open or closed."""
        case_id = CaseId(case["id"])
        found = self.database.read_now(lambda c: cases.find_case(c, case_id))
        assert found is not None
        return found

    def kept(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and bytes of all it keeps: files, and tables of a server."""
        for file in self.folder.iterdir():
            if file.is_file():
                yield file.name, file.read_bytes()
        for database in (self.database, self.vault._database):
            yield from database.read_now(_tables_of_a_server)

    def leaves(self) -> list[dict[str, Any]]:
        """Return every leaf of the log that is on the disk."""
        with closing(
            sqlite3.connect(f"file:{self.folder / 'log.db'}?mode=ro", uri=True)
        ) as log:
            rows = log.execute("SELECT leaf FROM entry ORDER BY seq").fetchall()
        return [orjson.loads(leaf) for (leaf,) in rows]

    def records(self) -> list[tuple[str, str, str, str]]:
        """Return kind, outcome, provider and evidence type of every record."""
        return [(x["kind"], x["outcome"], x["prov"], x["etype"]) for x in self.leaves()]


def _tables_of_a_server(connection: Connection) -> list[tuple[str, bytes]]:
    """Return each table as PostgreSQL sends it; on SQLite they are files."""
    if connection.dialect.name != "postgresql":
        return []
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    names = [name for (name,) in driver.execute(query)]
    found = []
    for name in names:
        copy = sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(sql.Identifier(name))
        with driver.cursor().copy(copy) as rows:
            found.append((name, b"".join(rows)))
    return found


def owed_by(office: Office, kind: type[OwedRecords] = OwedRecords) -> OwedRecords:
    """Return what keeps the office's records, or what a test makes of that."""
    return kind(
        database=office.database,
        vault=office.vault,
        log=office.log,
        clock=office.clock,
    )


def permissions(office: Office) -> Permissions:
    """Return what persons of an office answer to."""
    return Permissions(
        pack=office.pack,
        database=office.database,
        vault=office.vault,
        owed=owed_by(office),
        in_flight=office.in_flight,
        clock=office.clock,
        new_id=office.resolver.new_id,
        wake=lambda: None,
    )


def asking(case: Mapping[str, Any], **changes: object) -> Asking:
    """Return what a portal asks the father."""
    values: dict[str, object] = {
        "case": CaseId(case["id"]),
        "role": "father",
        "whole_matter": False,
        "fields": {"household@1": frozenset({"region"})},
        "expires_at": datetime(2026, 6, 1, tzinfo=UTC),
        "uses": None,
    }
    return Asking(**{**values, **changes})  # type: ignore[arg-type] # a test's own


@contextmanager
def deaf(office: Office) -> Iterator[None]:
    """Let the log refuse whatever comes meanwhile."""
    office.log.hold("the disk is full")
    try:
        yield
    finally:
        office.log.hold(None)


@contextmanager
def deaf_to(office: Office, is_refused: Callable[[Event], bool]) -> Iterator[None]:
    """Let the log refuse, meanwhile, each append that has a record of some sort."""
    append = office.log.append

    async def refusing(events: Sequence[Event]) -> list[Appended]:
        if any(map(is_refused, events)):
            raise LogUnavailableError("the disk is full")
        return await append(events)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(office.log, "append", refusing)
        yield


def an_opening(
    answers: Mapping[str, bool | str] = ANSWERS,
    subjects: Mapping[str, Mapping[str, str]] | None = None,
    actor: AnyActor = OFFICIAL,
) -> Opening:
    """Return what a portal says to open a case of the mother."""
    return Opening(
        caller=PORTAL_CALLER,
        matter="newborn@1",
        purpose="newborn_registration",
        actor=actor,
        subjects=subjects or a_mother(),
        answers=answers,
    )


def a_mother() -> dict[str, dict[str, str]]:
    """Return what the portal states of the mother and the newborn."""
    return {
        "mother": {"id": MOTHER, "name": "林云"},
        "newborn": {"birth_date": "2026-01-08"},
    }


def read(answer: bytes) -> dict[str, Any]:
    """Return an answer, with outcomes by requirement beside it."""
    case: dict[str, Any] = orjson.loads(answer)
    case["by_id"] = {r["id"]: r for r in case["requirements"]}
    return case


def outcomes(case: dict[str, Any]) -> dict[str, str]:
    """Return each requirement's outcome."""
    return {name: r["outcome"] for name, r in case["by_id"].items()}


def settle_in(departments: InMemoryConnector, *, spouse: str = FATHER) -> None:
    """Fill the registers with the records that exist before any step is performed."""
    departments.hold("identity@1", {"id": MOTHER}, {"name": "林云"})
    departments.hold("identity@1", {"id": FATHER}, {"name": "陈溪"})
    certify(departments)
    departments.hold(
        "marriage@1", {"id": MOTHER}, {"status": "20", "spouse_id": spouse}
    )
    departments.hold("household@1", {"id": MOTHER}, HOUSEHOLD_FIELDS)
    departments.hold(
        "household@1", {"id": FATHER}, {**HOUSEHOLD_FIELDS, "household_no": "H0002"}
    )
    departments.hold(
        "medical_insurance@1", {"id": MOTHER}, {"status": "ACTIVE", "scheme": "310"}
    )
    departments.hold(
        "maternity_claim@1", {"mother_id": MOTHER}, {"settled": True, "amount": 3120.5}
    )


def certify(departments: InMemoryConnector, **changed: JsonValue) -> None:
    """Let the birth certificate be there, with some fields changed."""
    keys = {"mother_id": MOTHER, "birth_date": "2026-01-08", "CSYXZMBH": CERTIFICATE}
    departments.drop("birth_certificate@1")
    departments.hold("birth_certificate@1", keys, {**CERTIFICATE_FIELDS, **changed})


def leave_the_father_blank(departments: InMemoryConnector) -> None:
    """Let the birth certificate name no father."""
    certify(departments, FQ_XM=None, FQ_SFZJHM=None)


def perform_steps(departments: InMemoryConnector) -> None:
    """Let the departments perform their steps: what they make can be looked up."""
    by_certificate = {"CSYXZMBH": CERTIFICATE}
    by_id = {"id": NEWBORN}
    opened = {"opened_on": "2026-01-10"}
    departments.hold("vaccination@1", by_certificate, {"card_no": "V1", **opened})
    departments.hold("parenting_file@1", by_certificate, {"file_no": "P1", **opened})
    departments.hold(
        "child_registration@1",
        by_certificate,
        {
            "id": NEWBORN,
            "name": "林小溪",
            "household_no": "H0001",
            "region": "990101",
            "registered_on": "2026-01-10",
        },
    )
    departments.hold(
        "enrolment@1",
        by_id,
        {"status": "ACTIVE", "region": "990101", "from": "2026-01-08"},
    )
    departments.hold(
        "premium@1",
        by_id,
        {"year": "2026", "amount": 400, "paid": False, "due_on": "2026-04-08"},
    )
    departments.hold(
        "social_card@1",
        by_id,
        {"status": "MADE", "card_tail": "0042", "bank": "云溪银行"},
    )


@cache
def the_pack() -> Pack:
    """Return the pack of the region, loaded once for all tests."""
    return read_pack((PACK_FOLDER,))


@asynccontextmanager
async def an_office(
    folder: Path,
    tables_url: str,
    vault_url: str,
    log_keys: LogKeys | None = None,
    *,
    pack: Pack | None = None,
) -> AsyncIterator[Office]:
    """Open an office over in-memory departments.

    Args:
        folder: Where it keeps its log.
        tables_url: The database of its tables, which are there and empty.
        vault_url: The database of its vault, likewise.
        log_keys: The keys of its log, when it is opened again.
        pack: Another one than the region's.
    """
    clock = FakeClock(NOW)
    pack = pack or the_pack()
    async with AsyncExitStack() as stack:
        database = stack.enter_context(Database(tables_url))
        keys = stack.enter_context(Database(vault_url))
        log_keys = log_keys or make_keys("errand.test/log")
        directory = SubjectDirectory(folder / "subjects.db", log_keys.directory)
        stack.callback(directory.close)
        sealer = Sealer(log_keys.origin, log_keys.shard, directory)
        log = AuditLog(folder / "log.db", sealer, log_keys.receipt)
        stack.callback(log.close)
        departments = InMemoryConnector(clock)
        connectors = dict.fromkeys(pack.services, departments)
        in_flight = InFlight()
        vault = Vault(keys, bytes(32), "gateway-1", new_ids(clock))
        parts = Parts(
            pack=pack,
            connectors=connectors,
            database=database,
            vault=vault,
            log=log,
            in_flight=in_flight,
            clock=clock,
            new_id=new_ids(clock),
            random_bytes=os.urandom,
            jitter=lambda: 0.0,
        )
        terms = Terms(
            waits=(5.0, 15.0, 60.0),
            consent_lifetime=timedelta(days=30),
            executor_id="gateway-1",
            lease_margin=timedelta(seconds=30),
        )
        resolver = make_resolver(
            parts, terms, make_planner(pack, connectors), lambda _: None
        )
        yield Office(
            resolver, departments, pack, log, database, vault, in_flight, clock, folder
        )
