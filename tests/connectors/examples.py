"""Keys, an evidence type, a register and look-ups that the tests are not about."""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from pydantic import JsonValue

from connectors.department.config import DepartmentConfig, parse_config
from connectors.jose import SigningKey
from connectors.lookup import IntentRef, LookupRequest
from schemas.directory import ConnectorKind, Coverage, DataService, PublicKey
from schemas.evidence import (
    EvidenceField,
    EvidenceType,
    LookupKey,
    Mode,
    Sensitivity,
    SharingAttribute,
)
from schemas.ids import EventId, LookupId
from schemas.model import Name

GATEWAY = "errand-test"
PROVIDER = "civil_affairs"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 8, 6, 30, tzinfo=UTC)
MOTHER = "990101199403120026"
FATHER = "990101199207250018"
SALT = bytes(range(16))


def a_key(name: str) -> SigningKey:
    """Return the same key for the same name."""
    return SigningKey.from_seed(hashlib.sha256(name.encode()).digest())


def as_text(jwk: Mapping[str, JsonValue]) -> dict[str, str | list[str]]:
    """Return a JWK as joserfc types it."""
    return {name: str(value) for name, value in jwk.items()}


GATEWAY_KEY = a_key("gateway")
DEPARTMENT_KEY = a_key("department")
STRANGERS_KEY = a_key("stranger")


@dataclass
class FakeClock:
    """A clock that stands still until it is told to go on."""

    instant: datetime = NOW
    seconds: float = 0.0

    def now(self) -> datetime:
        """Return the instant."""
        return self.instant

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.instant += timedelta(seconds=seconds)
        self.seconds += seconds


@dataclass
class Entropy:
    """Bytes that differ from call to call and not from run to run."""

    serial: "count[int]" = field(default_factory=count)

    def __call__(self, size: int) -> bytes:
        """Return `size` bytes, at most 32."""
        return hashlib.sha256(str(next(self.serial)).encode()).digest()[:size]


def pinned(key: SigningKey = DEPARTMENT_KEY) -> tuple[PublicKey, ...]:
    """Return `key` as the pack pins it."""
    return (key.pinned(LONG_AGO),)


def _field(en: str, schema: Mapping[str, JsonValue]) -> EvidenceField:
    return EvidenceField(name=Name(zh=en, en=en), json_schema=schema)


MARRIAGE = EvidenceType(
    id="marriage",
    version=1,
    name=Name(zh="婚姻登记", en="marriage registration"),
    modes=(Mode.RETRIEVE, Mode.VERIFY),
    keys=((LookupKey(name="person_id", concept="self.id"),),),
    fields={
        "status": _field("status", {"enum": ["MARRIED", "DIVORCED"]}),
        "spouse_id": _field(
            "spouse", {"type": "string", "pattern": "^[0-9]{17}[0-9X]$"}
        ),
        "registered_on": _field(
            "registered on", {"type": ["string", "null"], "format": "date"}
        ),
        "children": _field("children", {"type": "array"}),
    },
    sharing=SharingAttribute.CONDITIONAL,
    sensitivity=Sensitivity.SENSITIVE,
    max_age=timedelta(days=1),
)

SERVICE = DataService(
    id="marriage_register",
    provider=PROVIDER,
    evidence_type=MARRIAGE.ref,
    connector=ConnectorKind.HTTP,
    endpoint="http://127.0.0.1:1/lookups",
    coverage=Coverage(regions=("990100",)),
)

_numbers = count(1)


def a_request(  # noqa: PLR0913 - each is what some test is about
    *,
    mode: Mode = Mode.RETRIEVE,
    keys: Mapping[str, str] | None = None,
    fields: tuple[str, ...] = ("status", "spouse_id"),
    match: Mapping[str, str] | None = None,
    issued_at: datetime = NOW,
    timeout_s: float = 5.0,
    evidence_type: EvidenceType = MARRIAGE,
) -> LookupRequest:
    """Return a look-up of the mother's marriage, with an id of its own."""
    return LookupRequest(
        id=LookupId(f"lookup-{next(_numbers):08}"),
        service=SERVICE,
        evidence_type=evidence_type,
        mode=mode,
        keys=keys or {"person_id": MOTHER},
        fields=() if mode is Mode.VERIFY else fields,
        match=match or {},
        requester="newborn_portal",
        purpose="newborn_registration",
        matter="newborn@1",
        basis={"mother": "statutory_duty"},
        grant="portal_marriage",
        intent=IntentRef(
            event=EventId("event-00000001"),
            index=7,
            leaf_hash=bytes(32),
            log="log.example/errand",
        ),
        subject_salt=SALT,
        issued_at=issued_at,
        timeout_s=timeout_s,
    )


def a_register(path: Path) -> Path:
    """Make the marriage register as a SQLite database at `path`."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            """
            CREATE TABLE marriage (
                person_id TEXT, spouse_id TEXT, state TEXT, reg_date DATE,
                region TEXT, updated_at TEXT, struck_out INTEGER DEFAULT 0,
                fee NUMERIC(10, 2), secret TEXT DEFAULT 'never asked'
            );
            CREATE TABLE child (parent_id TEXT, name TEXT, born DATE);
            """
        )
        rows = [
            (MOTHER, FATHER, "MARRIED", "2019-05-20", "990101", "2026-01-08T14:00:00"),
            (FATHER, MOTHER, "MARRIED", "2019-05-20", "990101", "2026-01-08T14:00:00"),
            ("twice", "a", "DIVORCED", "2009-01-01", "990101", "2026-01-08T14:00:00"),
            ("twice", "b", "MARRIED", "2021-01-01", "990101", "2026-01-08T14:00:00"),
            ("outside", "c", "MARRIED", "2021-01-01", "880101", "2026-01-08T14:00:00"),
            ("odd", "x", "ENGAGED", None, "990101", "2026-01-08T14:00:00"),
            ("undated", "x", "MARRIED", None, "990101", None),
            ("before", "x", "MARRIED", None, "990101", "0001-01-01T00:00:00"),
        ]
        database.executemany(
            "INSERT INTO marriage (person_id, spouse_id, state, reg_date, region,"
            " updated_at) VALUES (?,?,?,?,?,?)",
            rows,
        )
        database.execute("INSERT INTO marriage (person_id, struck_out) VALUES ('x', 1)")
        database.executemany(
            "INSERT INTO child VALUES (?,?,?)",
            [(MOTHER, "子墨", "2021-03-03"), (MOTHER, "一诺", "2019-09-09")],
        )
    return path


def a_config(
    folder: Path, *, gateway_key: SigningKey = GATEWAY_KEY, **changes: object
) -> DepartmentConfig:
    """Return the configuration of a department whose files lie in `folder`."""
    register, key = folder / "register.db", folder / "key.pem"
    if not register.exists():
        a_register(register)
    if not key.exists():
        key.write_bytes(DEPARTMENT_KEY.to_pem())
    document: dict[str, object] = {
        "provider": PROVIDER,
        "database": f"sqlite:///{register}",
        "key": str(key),
        "log": str(folder / "log.db"),
        "gateways": [
            {
                "id": GATEWAY,
                "keys": [gateway_key.pinned(LONG_AGO).model_dump(mode="json")],
            }
        ],
        "evidence_types": {MARRIAGE.ref: a_source()},
    }
    return parse_config({**document, **changes})


def a_source(**changes: object) -> dict[str, object]:
    """Return how the marriage register becomes the evidence type."""
    source: dict[str, object] = {
        "table": "marriage",
        "keys": [{"person_id": "person_id"}],
        "fields": {
            "status": {
                "column": "state",
                "json_schema": {"enum": ["MARRIED", "DIVORCED"]},
            },
            "spouse_id": "spouse_id",
            "registered_on": "reg_date",
            "children": {
                "rows": "child",
                "joined_by": {"parent_id": "person_id"},
                "columns": {"name": "name", "born": {"column": "born"}},
                "order_by": "born",
            },
        },
        "compare": {"status": "state", "spouse_id": "spouse_id"},
        "as_of": {"column": "updated_at", "utc_offset": "+08:00"},
        "where": {"struck_out": 0},
        "coverage": {"regions": ["990100"], "region_column": "region"},
    }
    return {**source, **changes}
