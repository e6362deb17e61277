"""The department's service over registers as they are: old, odd, and partly wrong."""

# ruff: noqa: S608 - the registers are those of the tests

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as SQLiteDialect
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from connectors.checking import FieldChecker, check_evidence
from connectors.department.answering import Department, Reply
from connectors.department.app import build_app
from connectors.department.columns import _StrictDecimal
from connectors.kinds.http import lookup_claims
from connectors.lookup import LookupRequest
from connectors.problems import parse_problem
from connectors.protocol import open_evidence, sign_lookup, subject_digest
from schemas.errors import SettingsError
from schemas.evidence import Mode
from tests.connectors.examples import (
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    MOTHER,
    NOW,
    SALT,
    FakeClock,
    a_config,
    a_request,
    pinned,
)
from tests.connectors.servers import serving

KEY = {"person_id": MOTHER}
KEYS = [{"person_id": "person_id"}]


def on_sqlite(folder: Path, script: str) -> str:
    """Make a register of a script in a file; return its URL."""
    with closing(sqlite3.connect(folder / "odd.db")) as database, database:
        database.executescript(script)
    return f"sqlite:///{folder}/odd.db"


def on_postgres(url: str, script: str) -> str:
    """Make a register of a script on PostgreSQL; return its URL."""
    with psycopg.connect(url) as connection:
        connection.execute(script)
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def hers(columns: str, *rows: str) -> str:
    """Return a script of the table `t`: the mother's rows, each without her id."""
    filled = "".join(f"INSERT INTO t VALUES ('{MOTHER}', {row});" for row in rows)
    return f"CREATE TABLE t (person_id text, {columns});{filled}"


Make = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return what makes a register of a script, on each engine."""
    if request.param == "sqlite":
        return lambda script: on_sqlite(tmp_path, script)
    url: str = request.getfixturevalue("postgres_url")
    return lambda script: on_postgres(url, script)


@contextmanager
def a_department(folder: Path, url: str, **source: object) -> Iterator[Department]:
    """Run a department over the table `t` of a register."""
    whole = {"table": "t", "keys": KEYS, **source}
    config = a_config(folder, database=url, evidence_types={MARRIAGE.ref: whole})
    department = Department(config, FakeClock())
    try:
        yield department
    finally:
        department.close()


def ask(department: Department, **question: Any) -> Reply:  # noqa: ANN401 - of a request
    """Return the reply to one look-up."""
    claims = lookup_claims(a_request(**question), GATEWAY)
    return department.answer(sign_lookup(claims, GATEWAY_KEY))


def values_of(reply: Reply) -> object:
    """Return the fields of an evidence reply."""
    return open_evidence(reply.body.decode(), pinned()).disclosed.values


def code_of(reply: Reply) -> str | None:
    """Return the code of the rule by which a department declined."""
    problem = parse_problem(reply.body, reply.status)
    assert "declined" == problem.type.value
    return problem.code


SQLITE = f"""
CREATE TABLE t (person_id TEXT, ok TEXT, number DATE, empty DATE, slashed DATE,
    moment DATETIME, truth BOOLEAN, whole REAL, infinite DOUBLE, bytes BLOB,
    amount NUMERIC(10, 2), gbk TEXT, document TEXT);
INSERT INTO t VALUES ('{MOTHER}', 'yes', 20190520, '', '2019/05/20', 'soon', 'N', 1.9,
    9e999, x'00', 'much', CAST(x'D5C5' AS TEXT), '{{');
CREATE TABLE child (parent TEXT, born DATE);
INSERT INTO child VALUES ('{MOTHER}', '2019/05/20');
"""
POSTGRES = f"""
CREATE TABLE t (person_id text, ok text, endless date, ancient date, moment timestamp,
    whole numeric, nan numeric, infinite float8, bytes bytea, list text[],
    span interval, document text, truth char(1));
INSERT INTO t VALUES ('{MOTHER}', 'yes', 'infinity', '0044-03-15 BC', 'infinity', 1.9,
    'NaN', 'Infinity', '\\x00', '{{a}}', '1 day', '{{', 'N');
CREATE TABLE child (parent text, born date);
INSERT INTO child VALUES ('{MOTHER}', 'infinity');
"""
BAD = {
    "sqlite": (
        "number empty slashed moment truth whole infinite bytes amount gbk document"
    ),
    "postgresql": (
        "endless ancient moment whole nan infinite bytes list span document truth"
    ),
}
TYPES = {"whole": "integer", "document": "json", "truth": "boolean"}


def test_one_bad_value_is_for_a_person_and_stands_in_no_other_s_way(
    make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is declined, its column is named to the department, and all else is told."""
    engine = request.node.callspec.params["make"]
    bad = [*BAD[engine].split(), "children"]
    fields: dict[str, Any] = {
        name: {"column": name, "type": TYPES.get(name)} for name in ("ok", *bad)
    }
    fields["children"] = {
        "rows": "child",
        "joined_by": {"parent": "person_id"},
        "columns": {"born": "born"},
    }
    url = make(SQLITE if engine == "sqlite" else POSTGRES)
    with a_department(tmp_path, url, fields=fields) as department:
        with capture_logs() as logs:
            codes = {code_of(ask(department, fields=(name,))) for name in bad}
        fine = ask(department, fields=("ok",))
    places = [line["place"] for line in logs]

    assert {"record_not_in_order"} == codes
    assert [*(f"t.{name}" for name in bad[:-1]), "child.born"] == places
    assert {MARRIAGE.ref} == {line["evidence_type"] for line in logs}
    assert {"ok": "yes"} == values_of(fine)


@pytest.mark.parametrize("moment", ["'soon'", "'20190520x'", "NULL"])
def test_an_as_of_that_is_no_time_is_for_a_person(tmp_path: Path, moment: str) -> None:
    """Nobody can say when the register held the record."""
    url = on_sqlite(tmp_path, hers("at text", moment))
    source = {"fields": {"id": "person_id"}, "as_of": {"column": "at"}}
    with a_department(tmp_path, url, **source) as department, capture_logs() as logs:
        reply = ask(department, fields=("id",))

    assert "record_not_in_order" == code_of(reply)
    assert ["t.at"] == [line["place"] for line in logs]


def test_an_endless_as_of_on_postgresql_is_for_a_person(
    postgres_url: str, tmp_path: Path
) -> None:
    """PostgreSQL has times that no calendar has."""
    url = on_postgres(postgres_url, hers("at timestamp", "'infinity'"))
    source = {"fields": {"id": "person_id"}, "as_of": {"column": "at"}}
    with a_department(tmp_path, url, **source) as department, capture_logs() as logs:
        reply = ask(department, fields=("id",))

    assert "record_not_in_order" == code_of(reply)
    assert ["t.at"] == [line["place"] for line in logs]


WRONG: dict[str, list[object]] = {
    "date": ["2019-02-30", "2019/05/20", "soon", "", 7, True],
    "integer": ["abc", "1.5", "", "01", str(2**63)],
    "real": ["abc", "", "inf"],
    "numeric(10, 2)": ["abc", ""],
    "boolean": ["Y", "", 2],
}


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind, values in WRONG.items() for value in values],
)
def test_a_where_that_no_row_can_hold_is_found_at_the_start(
    make: Make, tmp_path: Path, kind: str, value: object
) -> None:
    """A wrong constant is a wrong setting: nobody is said to be not held by it."""
    url = make(hers(f"held {kind}"))
    source = {"fields": {"id": "person_id"}, "where": {"held": value}}
    with (
        pytest.raises(SettingsError, match=r"`where`: `t\.held`"),
        a_department(tmp_path, url, **source),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", "2019-05-20"),
        ("datetime", "2019-05-20 15:00:00"),
        ("datetime", "2019-05-20T15:00"),
        ("integer", "1990"),
        ("bigint", 1990),
        ("real", "0.5"),
        ("numeric(10, 2)", "3.50"),
        ("string", "ACTIVE"),
        ("text", "01"),
    ],
)
def test_a_where_is_compared_as_sqlite_holds_it(
    tmp_path: Path, kind: str, value: object
) -> None:
    """A time in the form that was written, and text where a type means nothing."""
    url = on_sqlite(tmp_path, hers(f"held {kind}", f"'{value}'"))
    source = {"fields": {"id": "person_id"}, "where": {"held": value}}
    with a_department(tmp_path, url, **source) as department:
        reply = ask(department, fields=("id",))

    assert {"id": MOTHER} == values_of(reply)


def test_a_where_may_name_a_day(make: Make, tmp_path: Path) -> None:
    """It is written as keys are."""
    url = make(hers("day date", "'2019-05-20'"))
    source = {"fields": {"id": "person_id"}, "where": {"day": "2019-05-20"}}
    with a_department(tmp_path, url, **source) as department:
        reply = ask(department, fields=("id",))

    assert {"id": MOTHER} == values_of(reply)


@pytest.mark.parametrize("key", ["a\0b", "\0"])
def test_a_key_with_nul_is_refused(make: Make, tmp_path: Path, key: str) -> None:
    """PostgreSQL can't be asked so, and no database holds it."""
    url = make("CREATE TABLE t (person_id text)")
    with a_department(tmp_path, url, fields={"id": "person_id"}) as department:
        reply = ask(department, keys={"person_id": key}, fields=("id",))

    assert "invalid-lookup" == parse_problem(reply.body, reply.status).type.value


def test_an_integer_beyond_its_column_is_no_key(make: Make, tmp_path: Path) -> None:
    """A number of twenty digits makes no database fail."""
    url = make("CREATE TABLE t (person_id bigint)")
    with a_department(tmp_path, url, fields={"id": "person_id"}) as department:
        replies = [
            ask(department, keys={"person_id": key}, fields=("id",))
            for key in (str(2**63), str(2**63 - 1))
        ]

    assert ["invalid-lookup", "not-held"] == [
        parse_problem(reply.body, reply.status).type.value for reply in replies
    ]


def test_the_blanks_that_fill_a_column_say_nothing(make: Make, tmp_path: Path) -> None:
    """CHAR(20) with ids of 18 is the same person, and its words fit their schema."""
    url = make(
        f"CREATE TABLE t (person_id char(20), state char(10), note varchar(10));"
        f"INSERT INTO t VALUES ('{MOTHER}', 'MARRIED', 'kept  ')"
    )
    status = {"column": "state", "json_schema": {"enum": ["MARRIED"]}}
    source: dict[str, Any] = {"fields": {"status": status, "note": "note"}}
    asked = a_request(fields=("status",))
    stated = a_request(mode=Mode.VERIFY, match={"status": "MARRIED"})
    compare = {"status": "state"}
    with a_department(tmp_path, url, **source, compare=compare) as department:
        told, match = [checked(department, request) for request in (asked, stated)]
        note = values_of(ask(department, fields=("note",)))

    assert ({"status": "MARRIED"}, None) == told
    assert ({}, True) == match
    assert {"note": "kept  "} == note


def checked(department: Department, request: LookupRequest) -> tuple[object, object]:
    """Return fields and match of what the gateway's own checks let through."""
    token = sign_lookup(lookup_claims(request, GATEWAY), GATEWAY_KEY)
    body = department.answer(token).body.decode()
    evidence, match = check_evidence(request, body, pinned(), NOW, FieldChecker())
    return evidence.disclosed.values, match


@pytest.mark.parametrize("stated", ["", " ", "None", "x"])
def test_nothing_agrees_with_what_a_register_does_not_know(
    make: Make, tmp_path: Path, stated: str
) -> None:
    """NULL is no empty text, and matches no statement."""
    url = make(hers("state text", "NULL"))
    with a_department(tmp_path, url, compare={"status": "state"}) as department:
        reply = ask(department, mode=Mode.VERIFY, match={"status": stated})

    assert open_evidence(reply.body.decode(), pinned()).claims.match is False


CHILDREN = {
    "rows": "child",
    "joined_by": {"parent": "person_id"},
    "columns": {"born": "born"},
}
BROKEN = ["ALTER TABLE t RENAME TO former", "DROP TABLE child"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_table_that_is_gone_shows_in_the_health(
    make: Make, tmp_path: Path, broken: str
) -> None:
    """The database answers, and the register can't be read all the same."""
    url = make(
        "CREATE TABLE t (person_id text); CREATE TABLE child (parent text, born date)"
    )
    with a_department(tmp_path, url, fields={"children": CHILDREN}) as department:
        department.register.ping()
        make(broken)
        with pytest.raises(SQLAlchemyError):
            department.register.ping()


def test_a_register_that_is_locked_shows_in_the_health(tmp_path: Path) -> None:
    """Whoever watches the service hears that nobody is answered meanwhile."""
    url = on_sqlite(tmp_path, "CREATE TABLE t (person_id TEXT)")
    config = a_config(
        tmp_path,
        database=f"{url}?timeout=0",
        evidence_types={
            MARRIAGE.ref: {"table": "t", "keys": KEYS, "fields": {"id": "person_id"}}
        },
    )
    with (
        serving(build_app(config, clock=FakeClock())) as at,
        httpx.Client(base_url=at) as client,
        closing(sqlite3.connect(tmp_path / "odd.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        locked = client.get("/health")
        other.execute("ROLLBACK")
        free = client.get("/health")

    assert (503, {"status": "register unavailable"}) == (
        locked.status_code,
        locked.json(),
    )
    assert 200 == free.status_code


def a_word(path: Path, state: str) -> Path:
    """Make a register that says one word of the mother."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (person_id TEXT, state TEXT)")
        database.execute("INSERT INTO t VALUES (?, ?)", (MOTHER, state))
    return path


def test_a_register_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """The night's extract is moved over the former one, and counts from then on."""
    told = []
    url = f"sqlite:///{a_word(tmp_path / 'now.db', 'first')}"
    with a_department(tmp_path, url, fields={"state": "state"}) as department:
        for state in ("second", "third"):
            told.append(values_of(ask(department, fields=("state",))))
            a_word(tmp_path / "next.db", state).replace(tmp_path / "now.db")
        told.append(values_of(ask(department, fields=("state",))))

    assert [{"state": word} for word in ("first", "second", "third")] == told


@pytest.mark.parametrize("gone", ["removed", "replaced by nothing", "emptied"])
def test_a_register_that_is_gone_tells_nothing_more(tmp_path: Path, gone: str) -> None:
    """What was read before is not signed as what is held now."""
    file = a_word(tmp_path / "now.db", "first")
    url = f"sqlite:///{file}"
    with a_department(tmp_path, url, fields={"state": "state"}) as department:
        before = ask(department, fields=("state",))
        if gone == "emptied":
            file.write_bytes(b"")
        else:
            file.unlink()
        if gone == "replaced by nothing":
            file.touch()
        after = ask(department, fields=("state",))
        is_there = file.exists()

    assert {"state": "first"} == values_of(before)
    assert "unavailable" == parse_problem(after.body, after.status).type.value
    assert (gone != "removed") is is_there


DATES = {"d": "date", "n": "integer", "t": "text", "b": "boolean"}


@pytest.mark.parametrize(
    ("column", "rows", "told"),
    [
        ("d", ["'2019-05-20'", "'2021-01-01'", "'2020-01-01'"], "1"),
        ("d", ["'2021-01-01'", "'2021-01-01'", "'2020-01-01'"], None),
        ("d", ["'2020-01-01'", "'2020-01-01'", "'2021-01-01'"], "2"),
        ("d", ["NULL", "'2020-01-01'", "NULL"], "1"),
        ("d", ["NULL", "NULL"], None),
        ("d", ["NULL"], "0"),
        ("n", ["10", "9", "NULL"], "0"),
        ("n", ["10", "10"], None),
        ("t", ["'a'", "'b'"], "1"),
        ("b", ["true", "false", "NULL"], "0"),
    ],
)
def test_the_newest_row_is_never_guessed(
    make: Make, tmp_path: Path, column: str, rows: list[str], told: str | None
) -> None:
    """Of two that are as new a person must see which holds; NULL is never newer."""
    held = [f"'{number}', {row}" for number, row in enumerate(rows)]
    url = make(
        hers(f"state text, {column} {DATES[column]}", *held)
        + f"INSERT INTO t VALUES ('another', 'x', {rows[0]})"
    )
    source = {"fields": {"state": "state"}, "newest_by": column}
    with a_department(tmp_path, url, **source) as department:
        reply = ask(department, fields=("state",))

    if told is None:
        assert "ambiguous" == code_of(reply)
    else:
        assert {"state": told} == values_of(reply)


def test_what_is_newest_is_asked_of_the_rows_that_count(
    make: Make, tmp_path: Path
) -> None:
    """A newer row that was struck out, or is another person's, is in nobody's way."""
    held = ("'told', '2019-05-20', 0", "'struck out', '2021-05-20', 1")
    url = make(
        hers("state text, d date, out integer", *held)
        + "INSERT INTO t VALUES ('another', 'of another', '2022-05-20', 0)"
    )
    source = {"fields": {"state": "state"}, "newest_by": "d", "where": {"out": 0}}
    with a_department(tmp_path, url, **source) as department:
        reply = ask(department, fields=("state",))

    assert {"state": "told"} == values_of(reply)


def test_a_date_without_end_may_be_the_newest(
    postgres_url: str, tmp_path: Path
) -> None:
    """PostgreSQL compares it, and nobody reads it: what is in force has no end."""
    held = ("'old', '2019-05-20'", "'new', 'infinity'")
    url = on_postgres(postgres_url, hers("state text, until date", *held))
    source = {"fields": {"state": "state"}, "newest_by": "until"}
    with a_department(tmp_path, url, **source) as department:
        reply = ask(department, fields=("state",))

    assert {"state": "new"} == values_of(reply)


@pytest.mark.parametrize(
    ("kind", "held", "told"),
    [
        ("numeric(10, 2)", "3.5", "3.50"),
        ("numeric(10, 2)", "-0.1", "-0.10"),
        ("numeric(10, 2)", "7", "7.00"),
        ("numeric(12, 8)", "0.0000001", "0.00000010"),
        ("numeric(12, 8)", "0", "0.00000000"),
        ("decimal(18, 0)", MOTHER, MOTHER),
        ("decimal(38, 10)", "12345", "12345.0000000000"),
        ("numeric", "12.5", "12.5"),
    ],
)
def test_an_exact_decimal_is_told_as_it_is(
    make: Make, tmp_path: Path, kind: str, held: str, told: str
) -> None:
    """Money has its places, a long number all digits, and none an exponent."""
    url = make(hers(f"amount {kind}", held))
    with a_department(tmp_path, url, fields={"amount": "amount"}) as department:
        reply = ask(department, fields=("amount",))

    assert {"amount": told} == values_of(reply)


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("numeric(10, 2)", "12.345"),
        ("numeric(10, 2)", "0.125"),
        ("numeric(10, 2)", "1e-7"),
        ("numeric(10, 2)", "0.1 + 0.2"),
        ("numeric(20, 2)", "123456789012345678.25"),
        ("decimal(20)", "18446744073709551617"),
        ("numeric", "9e999"),
        ("numeric", "'much'"),
    ],
)
def test_a_decimal_that_sqlite_has_otherwise_is_not_rounded(
    tmp_path: Path, kind: str, held: str
) -> None:
    """More places than the column has, or digits than a float: a person must look."""
    url = on_sqlite(tmp_path, hers(f"amount {kind}", held))
    with a_department(tmp_path, url, fields={"amount": "amount"}) as department:
        reply = ask(department, fields=("amount",))

    assert "record_not_in_order" == code_of(reply)


def test_a_key_in_a_column_of_decimals_is_compared_in_all_its_digits(
    make: Make, tmp_path: Path
) -> None:
    """A float has sixteen of them, and would find somebody else or nobody."""
    other = MOTHER[:-2] + "00"
    url = make(
        f"CREATE TABLE t (person_id decimal(18, 0), state text);"
        f"INSERT INTO t VALUES ({MOTHER}, 'hers'), ({other}, 'of another')"
    )
    with a_department(tmp_path, url, fields={"state": "state"}) as department:
        reply = ask(department, fields=("state",))
    opened = open_evidence(reply.body.decode(), pinned())

    assert {"state": "hers"} == opened.disclosed.values
    assert subject_digest(SALT, KEY) == opened.claims.subject


BIRTHS: dict[str, Any] = {
    "keys": [{"mother": "mother", "born": "born"}],
    "fields": {"cert": "cert"},
}


def births(folder: Path, kind: str, *held: object) -> str:
    """Make a register of births of one mother on SQLite; return its URL."""
    url = on_sqlite(folder, f"CREATE TABLE t (mother text, born {kind}, cert text)")
    with closing(sqlite3.connect(folder / "odd.db")) as database, database:
        database.executemany(
            "INSERT INTO t VALUES ('m', ?, 'C')", [(one,) for one in held]
        )
    return url


def told_of(department: Department, born: str) -> tuple[str, str | None]:
    """Return the outcome of a look-up by mother and day, and the code with it."""
    reply = ask(department, keys={"mother": "m", "born": born}, fields=("cert",))
    problem = reply.status != 200 and parse_problem(reply.body, reply.status)
    return reply.outcome, problem.code if problem else None


ODD_DAYS: list[object] = [
    "2026-01-08 00:00:00",
    "2026-01-08T00:00:00",
    "2026/01/08",
    "20260108",
    "2026-W02-4",
    "2026-1-8",
    "",
    1767830400,
    2461048.5,
    b"2026-01-08",
]


@pytest.mark.parametrize("held", ODD_DAYS)
@pytest.mark.parametrize("born", ["2026-01-08", "2026-01-09"])
def test_a_day_that_sqlite_has_in_another_form_is_for_a_person(
    tmp_path: Path, held: object, born: str
) -> None:
    """It may be the day that is meant: nobody is said to be not held by it."""
    url = births(tmp_path, "DATE", held)
    with a_department(tmp_path, url, **BIRTHS) as department:
        told = told_of(department, born)

    assert ("declined", "record_not_in_order") == told


def test_a_day_is_found_where_it_is_written_as_days_are(tmp_path: Path) -> None:
    """Another day, or none, is not it; and a row of another mother is not read."""
    url = births(tmp_path, "DATE", "2026-01-08", "2024-02-29", None)
    on_sqlite(tmp_path, "INSERT INTO t VALUES ('other', '2026/01/08', 'D')")
    with a_department(tmp_path, url, **BIRTHS) as department:
        told = [told_of(department, day) for day in ("2026-01-08", "2026-01-09")]

    assert [("answered", None), ("not-held", None)] == told


@pytest.mark.parametrize("kind", ["DATETIME", "TIMESTAMP", "TIME"])
@pytest.mark.parametrize("joined", [False, True])
def test_sqlite_s_times_are_refused_as_keys_at_the_start(
    tmp_path: Path, kind: str, *, joined: bool
) -> None:
    """`2026-01-08 14:30:00` and `2026-01-08T14:30` are one time, and two texts."""
    url = births(tmp_path, kind)
    on_sqlite(tmp_path, "CREATE TABLE child (at text, name text)")
    source: dict[str, Any] = {**BIRTHS}
    if joined:
        rows = {"rows": "child", "joined_by": {"at": "born"}, "columns": {"n": "name"}}
        source = {"keys": [{"mother": "mother"}], "fields": {"children": rows}}
    with (
        pytest.raises(SettingsError, match=r"`t\.born` is a column of times"),
        a_department(tmp_path, url, **source),
    ):
        pass


def test_a_view_makes_a_key_of_sqlite_s_times(tmp_path: Path) -> None:
    """As the refusal says."""
    url = births(tmp_path, "DATETIME", "2026-01-08 14:30:00")
    on_sqlite(
        tmp_path, "CREATE VIEW v AS SELECT mother, date(born) AS born, cert FROM t"
    )
    with a_department(tmp_path, url, **{**BIRTHS, "table": "v"}) as department:
        told = [told_of(department, day) for day in ("2026-01-08", "2026-01-09")]

    assert [("answered", None), ("not-held", None)] == told


def test_a_postgresql_time_is_found_in_any_form(
    postgres_url: str, tmp_path: Path
) -> None:
    """There a time is a time."""
    url = on_postgres(
        postgres_url,
        "CREATE TABLE t (mother text, born timestamp, cert text);"
        "INSERT INTO t VALUES ('m', '2026-01-08 14:30', 'C')",
    )
    with a_department(tmp_path, url, **BIRTHS) as department:
        told = told_of(department, "2026-01-08T14:30:00")

    assert ("answered", None) == told


ROWS = {"rows": "child", "joined_by": {"home": "home"}, "columns": {"name": "name"}}


def test_what_a_register_does_not_know_joins_nothing(
    make: Make, tmp_path: Path
) -> None:
    """Whoever has no household is not in one with all others who have none."""
    url = make(
        hers("home text", "NULL")
        + "CREATE TABLE child (home text, name text);"
        + "INSERT INTO child VALUES (NULL, 'of somebody else')"
    )
    with a_department(tmp_path, url, fields={"children": ROWS}) as department:
        reply = ask(department, fields=("children",))

    assert {"children": []} == values_of(reply)


def test_a_list_joined_by_a_day_in_another_form_is_for_a_person(
    tmp_path: Path,
) -> None:
    """Nobody can tell whether it lacks a row."""
    url = on_sqlite(
        tmp_path,
        hers("home date", "'2026-01-08'")
        + "CREATE TABLE child (home date, name text);"
        + "INSERT INTO child VALUES ('2026-01-08', 'a'), ('2026-01-08 00:00', 'b')",
    )
    with a_department(tmp_path, url, fields={"children": ROWS}) as department:
        reply = ask(department, fields=("children",))

    assert "record_not_in_order" == code_of(reply)


@given(number=st.decimals(-(10**9), 10**9, places=4, allow_nan=False))
def test_every_decimal_that_a_float_tells_apart_comes_back(number: Decimal) -> None:
    """What was written in so many places is read in them, and is the same."""
    strict, dialect = _StrictDecimal(4), SQLiteDialect()
    as_kept = float(number)

    assert f"{number:f}" == f"{strict.process_result_value(as_kept, dialect):f}"
