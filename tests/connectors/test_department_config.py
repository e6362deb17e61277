"""The department's configuration: a stranger writes it, and is told what is wrong."""

from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from connectors.department.answering import Department
from connectors.department.config import config_schema, load_config, parse_config
from connectors.department.database import sqlite_file
from connectors.department.register import Register
from schemas.errors import SettingsError
from tests.connectors.examples import (
    GATEWAY,
    GATEWAY_KEY,
    LONG_AGO,
    MARRIAGE,
    STRANGERS_KEY,
    FakeClock,
    a_config,
    a_source,
)

PUBLISHED = Path("schemas/json/department-config.schema.json")


def test_the_published_schema_is_that_of_the_code() -> None:
    """Whoever writes a configuration against the schema writes it for the service."""
    assert config_schema() == orjson.loads(PUBLISHED.read_bytes())


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"provider": "Civil Affairs"}, "/provider"),
        ({"gateways": []}, "/gateways"),
        ({"surprise": 1}, "/surprise"),
        ({"limits": {"threads": 0}}, "/limits/threads"),
        ({"listen": {"certificate": "a.pem"}}, "/listen"),
        ({"evidence_types": {"marriage": a_source()}}, "/evidence_types"),
        (
            {"evidence_types": {MARRIAGE.ref: a_source(fields={}, compare={})}},
            "/evidence_types/marriage@1",
        ),
        (
            {"evidence_types": {MARRIAGE.ref: a_source(coverage={"regions": ["99"]})}},
            "/evidence_types/marriage@1/coverage/regions/0",
        ),
        (
            {
                "evidence_types": {
                    MARRIAGE.ref: a_source(coverage={"regions": ["990100"]})
                }
            },
            "/evidence_types/marriage@1/coverage",
        ),
        (
            {
                "evidence_types": {
                    MARRIAGE.ref: a_source(coverage={"from_date": "2020-01-01"})
                }
            },
            "/evidence_types/marriage@1/coverage",
        ),
    ],
    ids=str,
)
def test_each_mistake_is_named_by_its_path(
    tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    """The message says where, as a path into the document."""
    with pytest.raises(SettingsError) as caught:
        a_config(tmp_path, **change)

    assert f"config: {place}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"table": "no_table"}, "no_table"),
        ({"keys": [{"person_id": "no_column"}]}, "marriage.no_column"),
        ({"where": {"no_column": 1}}, "marriage.no_column"),
        ({"newest_by": "no_column"}, "marriage.no_column"),
        ({"as_of": {"column": "no_column"}}, "marriage.no_column"),
        (
            {
                "fields": {
                    "x": {
                        "rows": "child",
                        "joined_by": {"no_column": "person_id"},
                        "columns": {"a": "nor_this"},
                    }
                }
            },
            "child.nor_this",
        ),
        ({"fields": {"x": {"column": "state", "json_schema": {"type": 7}}}}, "`x`"),
    ],
    ids=str,
)
def test_what_the_register_has_not_is_found_at_the_start(
    tmp_path: Path, changes: dict[str, object], name: str
) -> None:
    """A service with a wrong table or column does not start."""
    config = a_config(tmp_path, evidence_types={MARRIAGE.ref: a_source(**changes)})
    with pytest.raises(SettingsError) as caught:
        Register(config.database, config.evidence_types)

    assert name in str(caught.value)


def _pin(**changes: object) -> dict[str, Any]:
    """Return a gateway's pin, right but for `changes` of its JWK or thumbprint."""
    pin = GATEWAY_KEY.pinned(LONG_AGO).model_dump(mode="json")
    pinned = changes.pop("thumbprint", pin["thumbprint"])
    return {**pin, "jwk": {**pin["jwk"], **changes}, "thumbprint": pinned}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"thumbprint": "kPrK"}, "thumbprint"),
        ({"thumbprint": ""}, "thumbprint"),
        ({"x": STRANGERS_KEY.public_jwk()["x"]}, "thumbprint"),
        ({"x": "AAAA"}, "jwk/x"),
        ({"x": "å"}, "jwk/x"),
        ({"x": 7}, "jwk/x"),
        ({"kty": "RSA"}, "jwk/crv"),
        ({"crv": "P-256"}, "jwk/crv"),
        ({"kid": None}, "jwk/kid"),
    ],
    ids=str,
)
def test_a_pin_that_no_signature_fits_is_found_at_the_start(
    tmp_path: Path, changes: dict[str, Any], place: str
) -> None:
    """Every look-up would be refused: the message names the key and the member."""
    gateways = [{"id": GATEWAY, "keys": [_pin(), _pin(**changes)]}]
    with pytest.raises(SettingsError) as caught:
        a_config(tmp_path, gateways=gateways)

    assert str(caught.value).startswith(f"config: /gateways/0/keys/1/{place}: ")


def test_a_key_names_one_gateway(tmp_path: Path) -> None:
    """Of two that pin one `kid` nobody could tell whose look-up it is."""
    own = {"id": GATEWAY, "keys": [_pin()]}
    other = {"id": "gateway.elsewhere", "keys": [_pin()]}
    with pytest.raises(SettingsError, match=r"`gateways`: .* by one `kid`"):
        a_config(tmp_path, gateways=[own, other])

    assert a_config(tmp_path, gateways=[own, own]).gateways[1].id == GATEWAY


def test_a_sqlite_register_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A mistyped name leaves no empty file, which would be a register of nobody."""
    a_config(tmp_path)
    before = set(tmp_path.iterdir())
    for url in (
        f"sqlite:///{tmp_path}/nope.db",
        f"sqlite+pysqlite:///{tmp_path}/nope.db",
        f"sqlite:///file:{tmp_path}/nope.db?uri=true",
    ):
        config = a_config(tmp_path, database=url)
        with pytest.raises(SettingsError, match=r"nope\.db`: no such file"):
            Register(config.database, config.evidence_types)

    assert before == set(tmp_path.iterdir())


def test_a_sqlite_register_that_is_a_folder_is_told_to_be_one(tmp_path: Path) -> None:
    """Whoever forgot the file's name does not look for a folder that is there."""
    config = a_config(tmp_path, database=f"sqlite:///{tmp_path}")
    with pytest.raises(SettingsError, match="`: a folder, and no file"):
        Register(config.database, config.evidence_types)


def test_a_sqlite_register_that_went_away_is_not_made_either(tmp_path: Path) -> None:
    """A file that is being replaced is unavailable meanwhile."""
    config = a_config(tmp_path)
    register = Register(config.database, config.evidence_types)
    register.close()
    (tmp_path / "register.db").unlink()
    with pytest.raises(FileNotFoundError):
        register.ping()

    assert not (tmp_path / "register.db").exists()


@pytest.mark.parametrize("query", ["mode=ro&uri=true", "uri=true"])
def test_a_sqlite_register_may_be_named_by_a_uri(tmp_path: Path, query: str) -> None:
    """SQLite's own way to say that a file is only read."""
    url = f"sqlite:///file:{tmp_path}/register.db?{query}"
    config = a_config(tmp_path, database=url)
    Register(config.database, config.evidence_types).close()

    assert tmp_path / "register.db" == sqlite_file(url)


@pytest.mark.parametrize("name", ["register.db", "link.db"])
def test_the_log_is_no_part_of_the_register(tmp_path: Path, name: str) -> None:
    """The register stays as it is, by whatever name the log calls it."""
    config = a_config(tmp_path, log=str(tmp_path / name))
    (tmp_path / "link.db").symlink_to(tmp_path / "register.db")
    before = (tmp_path / "register.db").read_bytes()
    with pytest.raises(SettingsError, match="the register's own file"):
        Department(config, FakeClock())

    assert before == (tmp_path / "register.db").read_bytes()


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("@127.0.0.1:9/register", "`127.0.0.1:9`: no connection"),
        ("@/register?host=/no/such/folder", "`/no/such/folder`: no connection"),
    ],
)
def test_a_server_that_is_down_is_named_without_its_account(
    tmp_path: Path, place: str, named: str
) -> None:
    """Host, port and reason: enough to mend it, and no password."""
    url = f"postgresql+psycopg://reader:secret{place}"
    config = a_config(tmp_path, database=url)
    with pytest.raises(SettingsError) as caught:
        Register(config.database, config.evidence_types)

    assert f"the register can't be read: {named}" == str(caught.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "nodialect://x", "sqlite:////no/such/dir/x"]
)
def test_a_database_that_is_not_there_is_a_wrong_setting(
    tmp_path: Path, url: str
) -> None:
    """A URL that leads nowhere is found at the start too."""
    config = a_config(tmp_path, database=url)
    with pytest.raises(SettingsError):
        Register(config.database, config.evidence_types)


def test_a_file_is_read_and_its_paths_are_its_own(tmp_path: Path) -> None:
    """The folder of the file is where its relative paths begin."""
    document = a_config(tmp_path).model_dump(mode="json")
    document |= {"key": "key.pem", "log": "log.db", "database": "sqlite:///register.db"}
    document["listen"] |= {"certificate": "c.pem", "certificate_key": "k.pem"}
    path = tmp_path / "department.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    config = load_config(path)

    assert tmp_path / "key.pem" == config.key
    assert tmp_path / "c.pem" == config.listen.certificate
    assert f"sqlite:///{tmp_path / 'register.db'}" == config.database


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql+psycopg://h/d"]
)
def test_a_url_without_file_stays_as_it_is(tmp_path: Path, url: str) -> None:
    """Only the file of a SQLite database is looked for beside the configuration."""
    path = tmp_path / "department.yaml"
    document = a_config(tmp_path, database=url).model_dump(mode="json")
    path.write_text(yaml.safe_dump(document), encoding="utf-8")

    assert url == load_config(path).database


@pytest.mark.parametrize("content", ["a: [", "just text", ""])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str) -> None:
    """Neither broken YAML nor an empty file gets further than its name."""
    path = tmp_path / "department.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"department\.yaml"):
        load_config(path)


def test_what_is_given_twice_is_refused(tmp_path: Path) -> None:
    """Nobody can tell which of two counts: the place is named, with its first line."""
    path = tmp_path / "department.yaml"
    text = yaml.safe_dump(a_config(tmp_path).model_dump(mode="json"))
    again = "limits:\n  threads: 1\n  waiting: 2\n  threads: 3\nprovider: another\n"
    path.write_text(text.replace("limits:", "former:") + again, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_config(path)
    told = str(caught.value)

    assert "/limits/threads: `threads` is there twice, first on line" in told
    assert "/provider: `provider` is there twice, first on line" in told


def test_a_bare_yes_is_a_text(tmp_path: Path) -> None:
    """As in packs: a word of a register is itself, and a day needs no quotation."""
    path = tmp_path / "department.yaml"
    document = a_config(tmp_path).model_dump(mode="json")
    source = a_source(
        where={"state": "WORD"}, coverage={"from_date": "DAY", "date_key": "a"}
    )
    document["evidence_types"] = {MARRIAGE.ref: source}
    text = yaml.safe_dump(document).replace("WORD", "yes").replace("DAY", "2020-01-01")
    path.write_text(text, encoding="utf-8")
    read = load_config(path).evidence_types[MARRIAGE.ref]

    assert ({"state": "yes"}, date(2020, 1, 1)) == (read.where, read.coverage.from_date)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The system says which one leads nowhere."""
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_a_mistake_is_named_without_its_value() -> None:
    """A password in a database URL is not repeated by an error."""
    with pytest.raises(SettingsError) as caught:
        parse_config({"database": ["postgresql://u:secret@h/d"]})

    assert "/database" in str(caught.value)
    assert "secret" not in str(caught.value)
