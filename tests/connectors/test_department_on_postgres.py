"""The department's service over a register on PostgreSQL, in types of PostgreSQL."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from connectors.client import ClientPolicy, ServiceClient
from connectors.department.answering import Department
from connectors.department.app import build_app
from connectors.department.config import DepartmentConfig
from connectors.department.register import Register
from connectors.kinds.http import HttpConnector, lookup_claims
from connectors.lookup import Answered, LookupRequest, Matched, NothingHeld
from connectors.protocol import open_evidence, sign_lookup
from schemas.errors import SettingsError
from schemas.evidence import Mode
from tests.connectors.examples import (
    FATHER,
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    MOTHER,
    FakeClock,
    a_config,
    a_request,
    a_source,
    pinned,
)
from tests.connectors.servers import serving

_REGISTER = """
CREATE SCHEMA civil;
CREATE TYPE civil.state AS ENUM ('MARRIED', 'DIVORCED');
CREATE TABLE civil.marriage (
    person_id char(18), spouse_id char(18), state civil.state, reg_date date,
    region varchar(12), updated_at timestamptz, struck_out boolean DEFAULT false
);
CREATE TABLE civil.child (parent_id char(18), name text, born date);
"""
_MARRIED = """
INSERT INTO civil.marriage VALUES
    (%(mother)s, %(father)s, 'MARRIED', '2019-05-20', '990101',
     '2026-01-08T14:00:00+08:00', false),
    (%(mother)s, %(mother)s, 'DIVORCED', '2009-05-20', '990101', now(), true)
"""
_CHILDREN = """
INSERT INTO civil.child VALUES
    (%(mother)s, '子墨', '2021-03-03'), (%(mother)s, '一诺', '2019-09-09')
"""


@pytest.fixture
def register(postgres_url: str) -> str:
    """Make the marriage register on PostgreSQL; return its URL for psycopg."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute(_REGISTER)
        people = {"mother": MOTHER, "father": FATHER}
        connection.execute(_MARRIED, people)
        connection.execute(_CHILDREN, people)
    return postgres_url


@pytest.fixture
def config(register: str, tmp_path: Path) -> DepartmentConfig:
    """Return the configuration of a department over that register."""
    url = make_url(register).set(drivername="postgresql+psycopg")
    return a_config(
        tmp_path,
        database=url.render_as_string(hide_password=False),
        evidence_types={
            MARRIAGE.ref: a_source(db_schema="civil", where={"struck_out": False})
        },
    )


async def asked(url: str, request: LookupRequest) -> object:
    """Return what one look-up comes to, over HTTP and through every check."""
    clock = FakeClock()
    client = ServiceClient(f"{url}/lookups", ClientPolicy.of("127.0.0.0/8"), clock)
    connector = HttpConnector(GATEWAY, GATEWAY_KEY, client, lambda _: pinned(), clock)
    try:
        return await connector.fetch(request)
    finally:
        await connector.aclose()


@pytest.mark.anyio
async def test_a_register_on_postgresql_is_looked_up(config: DepartmentConfig) -> None:
    """Choices, fixed-length text, times with zones: each comes as it should."""
    with serving(build_app(config, clock=FakeClock())) as url:
        answer = await asked(url, a_request())
        nobody = await asked(url, a_request(keys={"person_id": FATHER}))

    assert isinstance(answer, Answered)
    values = answer.evidence.values(["status", "spouse_id"])
    assert {"status": "MARRIED", "spouse_id": FATHER} == values
    assert "2026-01-08T06:00:00+00:00" == answer.evidence.as_of.isoformat()
    assert isinstance(nobody, NothingHeld)


def test_dates_and_rows_of_another_table_come_from_postgresql(
    config: DepartmentConfig,
) -> None:
    """A date is written as ISO 8601 writes it, and the rows are in their order."""
    request = a_request(fields=("registered_on", "children"))
    token = sign_lookup(lookup_claims(request, GATEWAY), GATEWAY_KEY)
    department = Department(config, FakeClock())
    try:
        reply = department.answer(token)
    finally:
        department.close()
    opened = open_evidence(reply.body.decode(), pinned())

    assert {
        "registered_on": "2019-05-20",
        "children": [
            {"name": "一诺", "born": "2019-09-09"},
            {"name": "子墨", "born": "2021-03-03"},
        ],
    } == opened.disclosed.values


@pytest.mark.parametrize(("spouse", "match"), [(FATHER, True), (MOTHER, False)])
@pytest.mark.anyio
async def test_facts_are_compared_on_postgresql(
    config: DepartmentConfig,
    spouse: str,
    match: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Match or no match, and nothing else is told."""
    stated = {"status": "MARRIED", "spouse_id": spouse}
    with serving(build_app(config, clock=FakeClock())) as url:
        answer = await asked(url, a_request(mode=Mode.VERIFY, match=stated))

    assert isinstance(answer, Matched)
    assert match is answer.match


def test_a_session_on_postgresql_reads_only(config: DepartmentConfig) -> None:
    """Whatever the account may do, the service can't write the register."""
    register = Register(config.database, config.evidence_types)
    try:
        with (
            register._engine.connect() as connection,
            pytest.raises(DBAPIError, match="read-only"),
        ):
            connection.execute(text("DELETE FROM civil.marriage"))
    finally:
        register.close()


@pytest.mark.anyio
async def test_a_look_up_survives_a_database_that_was_restarted(
    config: DepartmentConfig, register: str
) -> None:
    """Connections that were cut meanwhile are replaced, and nobody is told."""
    with serving(build_app(config, clock=FakeClock())) as url:
        before = await asked(url, a_request())
        with psycopg.connect(register) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        after = await asked(url, a_request())

    assert isinstance(before, Answered)
    assert isinstance(after, Answered)


def test_a_server_that_refuses_an_account_is_named_without_it(
    postgres_url: str, tmp_path: Path
) -> None:
    """Where it was looked for, and nothing of who asked."""
    url = make_url(postgres_url).set(
        drivername="postgresql+psycopg",
        username="nobody_known",
        password="s3cret",  # noqa: S106 - of nobody
    )
    config = a_config(tmp_path, database=url.render_as_string(hide_password=False))
    with pytest.raises(SettingsError) as caught:
        Register(config.database, config.evidence_types)
    told = str(caught.value)

    assert "the register can't be read: `" in told
    assert told.endswith("the server refuses the account, or has no such database")
    assert not any(secret in told for secret in ("nobody_known", "s3cret", "://"))


def test_a_register_that_fails_is_told_by_its_sqlstate(
    config: DepartmentConfig, register: str
) -> None:
    """What the server said, the evidence type and the look-up, and no value."""
    request = a_request()
    token = sign_lookup(lookup_claims(request, GATEWAY), GATEWAY_KEY)
    department = Department(config, FakeClock())
    try:
        with psycopg.connect(register) as connection:
            connection.execute("DROP TABLE civil.marriage")
        with capture_logs() as logs:
            reply = department.answer(token)
    finally:
        department.close()

    assert "unavailable" == reply.outcome
    assert [
        {
            "event": "register_unavailable",
            "log_level": "warning",
            "reason": "SQLSTATE 42P01",
            "evidence_type": MARRIAGE.ref,
            "lookup": request.id,
        }
    ] == logs
