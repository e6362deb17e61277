"""The department's service: what it answers, what it refuses, what it takes down."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from connectors.department.answering import Department, Reply
from connectors.department.app import build_app
from connectors.department.log import Head, read_log, verify_log
from connectors.department.register import Register
from connectors.department.signing import generate_key
from connectors.department.sources import MAX_ROWS
from connectors.jose import SigningKey, sign_compact
from connectors.kinds.http import lookup_claims
from connectors.lookup import LookupRequest
from connectors.problems import PROBLEM_MEDIA_TYPE, parse_problem
from connectors.protocol import (
    EVIDENCE_MEDIA_TYPE,
    LOOKUP_TYPE,
    MAX_LOOKUP,
    open_evidence,
    sign_lookup,
    subject_digest,
)
from schemas.canonical import Json, b64url, canonical_plain
from schemas.errors import SettingsError
from schemas.evidence import Mode
from tests.connectors.examples import (
    FATHER,
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    MOTHER,
    SALT,
    STRANGERS_KEY,
    FakeClock,
    a_config,
    a_request,
    a_source,
    pinned,
)
from tests.connectors.servers import serving


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    """A department over the example register."""
    made = Department(a_config(tmp_path), FakeClock())
    yield made
    made.close()


def token(
    request: LookupRequest | None = None,
    key: SigningKey = GATEWAY_KEY,
    **changes: object,
) -> str:
    """Return a signed look-up, right but for `changes`."""
    claims = lookup_claims(request or a_request(), GATEWAY)
    return sign_lookup(claims.model_copy(update=changes), key)


def problem_of(reply: Reply) -> str:
    """Return which problem a reply is."""
    assert PROBLEM_MEDIA_TYPE == reply.media_type
    return parse_problem(reply.body, reply.status).type.value


def values_of(reply: Reply) -> Mapping[str, Any]:
    """Return the fields of an evidence reply."""
    assert EVIDENCE_MEDIA_TYPE == reply.media_type
    opened = open_evidence(reply.body.decode(), pinned())
    return opened.disclosed.values


def test_gives_the_fields_asked_for_and_no_others(department: Department) -> None:
    """One field asked, one field told, whatever else the row holds."""
    reply = department.answer(token(a_request(fields=("status",))))

    assert {"status": "MARRIED"} == values_of(reply)
    assert 1 == reply.body.count(b"~") - 1


def test_gives_rows_of_another_table_as_a_list(department: Department) -> None:
    """A household's members and a child's doses are lists in their order."""
    fields = ("registered_on", "children")

    assert {
        "registered_on": "2019-05-20",
        "children": [
            {"name": "一诺", "born": "2019-09-09"},
            {"name": "子墨", "born": "2021-03-03"},
        ],
    } == values_of(department.answer(token(a_request(fields=fields))))


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        ({"status": "MARRIED"}, True),
        ({"status": "MARRIED", "spouse_id": FATHER}, True),
        ({"status": "MARRIED", "spouse_id": MOTHER}, False),
        ({"status": ""}, False),
    ],
)
def test_compares_every_stated_fact(
    department: Department, stated: dict[str, str], *, match: bool
) -> None:
    """One fact that differs and nothing matches; nothing is told."""
    reply = department.answer(token(a_request(mode=Mode.VERIFY, match=stated)))
    opened = open_evidence(reply.body.decode(), pinned())

    assert match is opened.claims.match
    assert {} == opened.disclosed.values


@pytest.mark.parametrize(
    ("person", "problem"),
    [
        ("nobody", "not-held"),
        ("x", "not-held"),
        ("twice", "declined"),
        ("outside", "not-covered"),
        ("odd", "declined"),
        ("undated", "declined"),
        ("before", "declined"),  # the first year begins eight hours later in UTC
    ],
)
def test_says_why_it_gives_nothing(
    department: Department, person: str, problem: str
) -> None:
    """Struck out is not held; several, or not in order, is for a person to see."""
    reply = department.answer(token(a_request(keys={"person_id": person})))

    assert problem == problem_of(reply)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aud": "another_department"}, "not-trusted"),
        ({"iss": "another-gateway"}, "not-trusted"),
        ({"iat": 1767853800 - 7200, "exp": 1767853800 - 7170}, "expired"),
        ({"iat": 1767853800 + 61, "exp": 1767853800 + 91}, "expired"),
        ({"exp": 1767853800 + 301}, "invalid-lookup"),
        ({"evidence_type": "marriage@2"}, "unknown-evidence-type"),
        ({"keys": {"cert_no": "1"}}, "invalid-lookup"),
        ({"keys": {"person_id": MOTHER, "more": "1"}}, "invalid-lookup"),
        ({"fields": ("status", "secret")}, "invalid-lookup"),
        ({"fields": ("status", "status")}, "invalid-lookup"),
        ({"fields": ()}, "invalid-lookup"),
        ({"match": {"status": "MARRIED"}}, "invalid-lookup"),
        ({"mode": Mode.VERIFY, "fields": ()}, "invalid-lookup"),
        (
            {"mode": Mode.VERIFY, "fields": (), "match": {"secret": "x"}},
            "invalid-lookup",
        ),
    ],
)
def test_refuses_a_lookup_that_is_not_for_it(
    department: Department, changes: dict[str, Any], problem: str
) -> None:
    """Audience, age, type, keys and fields are all the department's to check."""
    reply = department.answer(token(**changes))

    assert problem == problem_of(reply)
    assert MOTHER.encode() not in reply.body


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "a.b.c", token(key=STRANGERS_KEY), token()[:-1]],
    ids=["empty", "nonsense", "no JWS", "stranger", "cut"],
)
def test_refuses_what_no_gateway_signed(
    department: Department, tmp_path: Path, text: str
) -> None:
    """Nobody but a pinned gateway gets an answer, nor a line in the log."""
    reply = department.answer(text)

    assert "not-trusted" == problem_of(reply)
    assert Head(0, bytes(32)) == verify_log(tmp_path / "log.db")


_ANY = (
    st.none()
    | st.integers(-9, 9)
    | st.sampled_from([GATEWAY_KEY.kid, "Ed25519", LOOKUP_TYPE])
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.booleans(), max_size=2)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("alg", "kid", "typ", "crit"), _ANY)
    )
)
@example(header={"alg": "Ed25519", "kid": GATEWAY_KEY.kid, "typ": LOOKUP_TYPE})
@example(header={"alg": "Ed25519", "kid": "another", "typ": LOOKUP_TYPE})
@example(header={"alg": [], "kid": {}, "typ": []})
def test_tells_a_stranger_nothing_of_the_keys_that_are_pinned(
    department: Department, header: dict[str, Json]
) -> None:
    """Whatever an unsigned header holds, the refusal is the same, byte for byte."""
    head = b64url(canonical_plain(header))
    reply = department.answer(f"{head}.{b64url(b'{}')}.{b64url(bytes(64))}")

    assert department.answer(token(key=STRANGERS_KEY)) == reply


def test_tells_whom_it_does_not_trust_once_for_each_reason(
    department: Department,
) -> None:
    """A wrong pin shows in the output, and a stranger can't fill the disk with it."""
    with capture_logs() as logs:
        for _ in range(3):
            department.answer(token(key=STRANGERS_KEY))
            department.answer(token(aud="another_department"))
            department.answer(token() + "x")
        department.answer(token(key=SigningKey.from_seed(bytes(32), kid="a b\n")))
    told = [(line["event"], line["key"]) for line in logs]

    assert [
        ("not_trusted", STRANGERS_KEY.kid),
        ("not_trusted", GATEWAY_KEY.kid),
        ("not_trusted", GATEWAY_KEY.kid),
        ("not_trusted", "none"),
    ] == told


def test_tells_of_no_more_than_a_hundred_strangers(department: Department) -> None:
    """Whoever makes a key for each look-up is not told of for ever."""
    with capture_logs() as logs:
        for number in range(110):
            key = SigningKey.from_seed(bytes(32), kid=f"key-{number}")
            department.answer(token(key=key))

    assert 100 == len(logs)


def test_refuses_a_signed_lookup_without_claims(department: Department) -> None:
    """A signature over something else is not a look-up."""
    reply = department.answer(sign_compact(b"{}", LOOKUP_TYPE, GATEWAY_KEY))

    assert "invalid-lookup" == problem_of(reply)


def test_answers_a_lookup_once_and_also_after_a_restart(tmp_path: Path) -> None:
    """A replay gets nothing, however often the service is started again."""
    sent = token()
    config = a_config(tmp_path)
    outcomes = []
    for _ in range(3):
        department = Department(config, FakeClock())
        outcomes.append(department.answer(sent).outcome)
        department.close()

    assert ["answered", "replayed", "replayed"] == outcomes
    assert outcomes == [e.outcome for e in read_log(tmp_path / "log.db")]


def test_of_many_at_once_one_gets_the_answer(tmp_path: Path) -> None:
    """Two who send the same look-up at the same time do not both get it."""
    sent, department = token(), Department(a_config(tmp_path), FakeClock())
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        outcomes.append(department.answer(sent).outcome)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    department.close()

    assert ["answered", *["replayed"] * 7] == sorted(outcomes)
    assert 8 == verify_log(tmp_path / "log.db").count


def test_takes_down_who_asked_what_and_what_was_answered(
    department: Department, tmp_path: Path
) -> None:
    """The log can show what was asked, and just as well what was not."""
    sent = token()
    department.answer(sent)
    department.answer(token(a_request(keys={"person_id": "nobody"})))
    answered, nothing = read_log(tmp_path / "log.db")

    assert ("marriage@1", "newborn_portal") == (
        answered.evidence_type,
        answered.requester,
    )
    assert ["answered", "not-held"] == [answered.outcome, nothing.outcome]
    assert sent == answered.lookup_jws


def test_sends_nothing_when_its_log_can_t_be_written(
    department: Department, tmp_path: Path
) -> None:
    """No entry, no evidence."""
    with closing(sqlite3.connect(tmp_path / "log.db")) as database, database:
        database.execute("DROP TABLE entries")

    assert "unavailable" == problem_of(department.answer(token()))


def test_says_that_its_register_is_down(department: Department, tmp_path: Path) -> None:
    """A register that fails is unavailable, which is not holding nothing."""
    with closing(sqlite3.connect(tmp_path / "register.db")) as database, database:
        database.execute("DROP TABLE marriage")
    reply = department.answer(token())

    assert "unavailable" == problem_of(reply)
    assert reply.retry_after_s


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(person=st.text(min_size=1, max_size=30))
def test_no_key_becomes_a_part_of_a_statement(
    department: Department, person: str
) -> None:
    """Whatever is asked for by name is a value and finds that record or none."""
    quoted = f"{person}' OR '1'='1"
    for key in (person, quoted, f"{quoted}'; DROP TABLE marriage; --"):
        reply = department.answer(token(a_request(keys={"person_id": key})))

        # No register's text has NUL in it, and PostgreSQL would not even look.
        expected = "invalid-lookup" if "\0" in key else "not-held"
        assert expected == problem_of(reply) or key in {MOTHER, FATHER}


def test_reads_its_register_and_can_t_write_it(tmp_path: Path) -> None:
    """The connection itself refuses to change anything."""
    config = a_config(tmp_path)
    register = Register(config.database, config.evidence_types)
    with register._engine.connect() as connection:
        with pytest.raises(SQLAlchemyError, match="readonly"):
            connection.exec_driver_sql("DELETE FROM marriage")
        connection.rollback()
    register.close()


def test_the_subject_is_that_of_the_register_and_not_of_the_question(
    tmp_path: Path,
) -> None:
    """A database that finds another spelling does not hide that it is another."""
    a_config(tmp_path)
    with closing(sqlite3.connect(tmp_path / "loose.db")) as database, database:
        database.executescript(
            "CREATE TABLE t (id TEXT COLLATE NOCASE);"
            "INSERT INTO t VALUES ('99010119881130003X');"
        )
    source = {"table": "t", "keys": [{"id": "id"}], "fields": {"id": "id"}}
    config = a_config(
        tmp_path,
        database=f"sqlite:///{tmp_path}/loose.db",
        evidence_types={MARRIAGE.ref: source},
    )
    department = Department(config, FakeClock())
    asked = a_request(keys={"id": "99010119881130003x"}, fields=("id",))
    reply = department.answer(token(asked))
    department.close()
    opened = open_evidence(reply.body.decode(), pinned())

    assert opened.claims.subject == subject_digest(SALT, {"id": "99010119881130003X"})


def test_the_newest_of_several_rows_counts_when_told_so(tmp_path: Path) -> None:
    """A register with a history says what holds now."""
    source = a_source(newest_by="reg_date")
    config = a_config(tmp_path, evidence_types={MARRIAGE.ref: source})
    department = Department(config, FakeClock())
    reply = department.answer(token(a_request(keys={"person_id": "twice"})))
    department.close()

    assert {"status": "MARRIED", "spouse_id": "b"} == values_of(reply)


def test_before_its_first_day_a_register_covers_nothing(tmp_path: Path) -> None:
    """Nothing found before the records begin means nothing, and is not said."""
    source = a_source(
        keys=[{"person_id": "person_id", "on_day": "reg_date"}],
        coverage={"from_date": "2019-05-21", "date_key": "on_day"},
    )
    config = a_config(tmp_path, evidence_types={MARRIAGE.ref: source})
    department = Department(config, FakeClock())
    seen = [
        department.answer(token(a_request(keys={"person_id": MOTHER, "on_day": day})))
        for day in ("2019-05-20", "2019-05-21", "2019-5-21", "x")
    ]
    department.close()

    assert ["not-covered", "not-held", "invalid-lookup", "invalid-lookup"] == [
        problem_of(reply) for reply in seen
    ]


def test_a_list_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    """A list that was cut would be a false statement: a person must look."""
    config = a_config(tmp_path)
    with closing(sqlite3.connect(tmp_path / "register.db")) as database, database:
        rows = [(FATHER, "child", "2020-01-01")] * (MAX_ROWS + 1)
        database.executemany("INSERT INTO child VALUES (?,?,?)", rows)
    department = Department(config, FakeClock())
    request = a_request(keys={"person_id": FATHER}, fields=("children",))
    reply = department.answer(token(request))
    department.close()

    assert "declined" == problem_of(reply)


def test_values_are_told_in_the_type_that_was_configured(tmp_path: Path) -> None:
    """Numbers, booleans, documents and money come out as JSON has them."""
    with closing(sqlite3.connect(tmp_path / "values.db")) as database, database:
        database.executescript(
            """
            CREATE TABLE t (k INTEGER, n TEXT, b INTEGER, j TEXT, m NUMERIC(10, 2),
                            d DATETIME, e TEXT);
            INSERT INTO t VALUES
                (7, '12', 1, '{"a":[1]}', 3.5, '2026-01-08 06:30:00', NULL);
            """
        )
    source: dict[str, Any] = {
        "table": "t",
        "keys": [{"number": "k"}],
        "fields": {
            "whole": {"column": "n", "type": "integer"},
            "half": {"column": "n", "type": "number"},
            "yes": {"column": "b", "type": "boolean"},
            "document": {"column": "j", "type": "json"},
            "money": "m",
            "instant": "d",
            "day": {"column": "d", "type": "date"},
            "text": {"column": "k", "type": "text"},
            "nothing": {"column": "e", "type": "integer"},
        },
    }
    a_config(tmp_path)
    config = a_config(
        tmp_path,
        database=f"sqlite:///{tmp_path}/values.db",
        evidence_types={MARRIAGE.ref: source},
    )
    department = Department(config, FakeClock())
    fields = tuple(source["fields"])
    reply = department.answer(token(a_request(keys={"number": "7"}, fields=fields)))
    department.close()

    assert {
        "whole": 12,
        "half": 12.0,
        "yes": True,
        "document": {"a": [1]},
        "money": "3.50",
        "instant": "2026-01-08T06:30:00",
        "day": "2026-01-08",
        "text": "7",
        "nothing": None,
    } == values_of(reply)


def test_over_http_a_lookup_beyond_its_size_is_not_read(tmp_path: Path) -> None:
    """The body is left alone as soon as it is too long."""
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 10_000:
            sent.append(1)
            yield b"a" * 8192

    with (
        serving(build_app(a_config(tmp_path), clock=FakeClock())) as url,
        httpx.Client(base_url=url) as client,
    ):
        declared = client.post("/lookups", content=b"a" * (MAX_LOOKUP + 1))
        try:
            dripped = client.post("/lookups", content=endless()).status_code
        except httpx.TransportError:
            dripped = 413

    assert (413, 413) == (declared.status_code, dripped)
    assert "too-large" == parse_problem(declared.content, 413).type.value
    assert len(sent) < 10_000


def test_over_http_it_shows_its_key_and_its_health(tmp_path: Path) -> None:
    """A gateway's operator reads the key, a machine reads the health."""
    config = a_config(tmp_path)
    with (
        serving(build_app(config, clock=FakeClock())) as url,
        httpx.Client(base_url=url) as client,
    ):
        keys = client.get("/.well-known/jwks.json").json()["keys"]
        well = client.get("/health")
        binary = client.post("/lookups", content=b"\xff")
        missing = [client.get(path).status_code for path in ("/docs", "/openapi.json")]

    assert [pinned()[0].jwk["x"]] == [key["x"] for key in keys]
    assert "d" not in keys[0]
    assert (200, {"status": "ok"}) == (well.status_code, well.json())
    assert "invalid-lookup" == parse_problem(binary.content, 400).type.value
    assert [404, 404] == missing


def test_over_http_too_many_at_once_are_turned_away(tmp_path: Path) -> None:
    """Beyond threads and queue a look-up is refused, and told to come back."""
    config = a_config(tmp_path, limits={"threads": 1, "waiting": 0})
    app = build_app(config, clock=FakeClock())
    replies: Queue[httpx.Response] = Queue()

    def send(url: str) -> None:
        replies.put(httpx.post(f"{url}/lookups", content=token(), timeout=20))

    with (
        closing(sqlite3.connect(config.log, isolation_level=None)) as database,
        serving(app) as url,
    ):
        # The log is locked, so that whichever look-up comes first stays inside.
        database.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=send, args=(url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        refused = replies.get(timeout=20)
        database.execute("COMMIT")
        answered = replies.get(timeout=20)

    assert "overloaded" == parse_problem(refused.content, 503).type.value
    assert "1" == refused.headers["retry-after"]
    assert 200 == answered.status_code


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """A key that may have signed is never written over, nor shown to others."""
    path = tmp_path / "own.pem"
    key = generate_key(path)

    assert key == SigningKey.from_file(path)
    assert 0o600 == path.stat().st_mode & 0o777
    with pytest.raises(SettingsError, match="File exists"):
        generate_key(path)
