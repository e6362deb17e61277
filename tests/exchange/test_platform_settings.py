"""Settings and the gateway's keys: what is read, and what is refused."""

import os
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.sql import Postgres
from exchange.keys import open_keys
from exchange.settings import Settings, parse_settings, read_settings
from schemas.errors import SettingsError

ORIGIN = "errand.example/test/log"


def test_defaults_serve_one_machine() -> None:
    """Without any setting the gateway keeps all it has in one folder, on loopback."""
    settings = parse_settings("", {}, Path("/srv"))

    assert settings.data_dir == Path("/srv/data")
    assert settings.tables_url() == "sqlite:////srv/data/errand.db"
    assert settings.vault_tables_url() == "sqlite:////srv/data/vault.db"
    assert settings.listen_host == "127.0.0.1"
    assert settings.networks == ()


def test_the_environment_outweighs_the_file() -> None:
    """A variable replaces the file's value; a list is written with commas."""
    environment = {
        "ERRAND_LISTEN_PORT": "9000",
        "ERRAND_NETWORKS": "127.0.0.0/8, ::1/128",
        "ERRAND_RETRY_S": "1,2.5",
        "HOME": "/root",
    }
    settings = parse_settings(
        "listen_port: 1\nbody_limit: 2048", environment, Path("/srv")
    )

    assert settings.listen_port == 9000
    assert settings.body_limit == 2048
    assert [str(network) for network in settings.networks] == ["127.0.0.0/8", "::1/128"]
    assert settings.retry_s == (1.0, 2.5)


def test_a_path_starts_at_the_settings_file(tmp_path: Path) -> None:
    """Relative paths mean the same from wherever the command is run."""
    file = tmp_path / "errand.yaml"
    file.write_text("data_dir: kept\npacks: [packs/one, /srv/two]\n")
    settings = read_settings(file, {})

    assert settings.data_dir == tmp_path / "kept"
    assert settings.packs == (tmp_path / "packs/one", Path("/srv/two"))


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    """`ERRAND_CONFIG` is read when no file is given."""
    file = tmp_path / "errand.yaml"
    file.write_text("log_level: debug\n")
    settings = read_settings(None, {"ERRAND_CONFIG": str(file)})

    assert settings.log_level == "debug"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen_prot: 3", "no setting `listen_prot`: do you mean `listen_port`"),
        ("listen_port: x", "setting `listen_port`: input should be a valid integer"),
        ("zebra: 3", "no setting `zebra`: see docs/settings.md"),
        ("listen_port: 0", "setting `listen_port`: input should be greater than"),
        ("listen_port: 70000", "setting `listen_port`: input should be less than"),
        ("networks: [10.0.0.1/8]", "setting `networks.0`: input is not a valid IPv4"),
        ("packs: []", "setting `packs`"),
        ("retry_s: [5, 1]", "setting `retry_s`: no wait may be"),
        ("wait_default_s: 20\nwait_most_s: 10", "`wait_default_s` is longer"),
        ("- a", "must be a mapping"),
        ("a: [", "settings:2: /a: "),
        (
            "body_limit: 2048\nbody_limit: 4096",
            "settings:2: /body_limit: `body_limit` is",
        ),
        ("public_url: ftp://host", "setting `public_url`"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(text: str, says: str) -> None:
    """The message names the key and what would be right."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, {}, Path("/srv"))

    assert says in str(caught.value)


@pytest.mark.parametrize("span", ["1e300", ".inf", "31622401"])
@pytest.mark.parametrize(
    "key", [key for key in Settings.model_fields if key.endswith("_s")]
)
def test_no_time_is_longer_than_a_year(key: str, span: str) -> None:
    """What is added to an instant stays within the calendar."""
    text = f"{key}: [{span}]" if key == "retry_s" else f"{key}: {span}"
    with pytest.raises(SettingsError, match=f"(setting `|settings:1: /){key}"):
        parse_settings(text, {}, Path("/srv"))


def test_a_settings_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    """With the line, as a pack's files are."""
    file = tmp_path / "errand.yaml"
    file.write_text("log_level: debug\npacks: [\n")

    with pytest.raises(SettingsError, match=f"^{file}:[23]: /packs: "):
        read_settings(file, {})


def test_a_settings_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """What stands at the end of one that is too long does not go missing."""
    file = tmp_path / "errand.yaml"
    file.write_text("#" * 1_048_576 + "\nlog_level: debug\n")

    with pytest.raises(SettingsError, match="longer than 1048576 characters"):
        read_settings(file, {})


def test_an_unknown_variable_is_refused() -> None:
    """A variable with a slip in its name is not silently ignored."""
    with pytest.raises(SettingsError, match="do you mean `database_url`"):
        parse_settings("", {"ERRAND_DATABASE_ULR": "x"}, Path("/srv"))


def test_a_settings_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The message names the file and the option."""
    with pytest.raises(SettingsError, match="--config"):
        read_settings(tmp_path / "nothing.yaml", {})


@given(st.text(max_size=40))
def test_no_value_is_repeated_in_a_refusal(secret: str) -> None:
    """A database URL holds a password, so a refusal names the key alone."""
    planted = f"planted{secret}"
    with pytest.raises(SettingsError) as caught:
        _with_a_wrong_port(planted)

    assert "planted" not in str(caught.value)


WRONG_URLS = (
    "postgresq://u:{}@127.0.0.1/x",
    "postgresql:/u:{}@127.0.0.1/x",
    "postgres//u:{}@127.0.0.1/x",
    "postgresql://u:{}%@127.0.0.1/x",
    "postgresql://u:{}/1@127.0.0.1/x",
    "postgresql://u:{}@127.0.0.1:notaport/x",
    "postgresql://u:{}@127.0.0.1:70000/x",
    "postgresql://u:{}@127.0.0.1/x?foo=bar",
    "mysql://u:{}@127.0.0.1/x",
    "x{}",
    "",
)
"""URLs with a slip, and where a password stands in each."""
WRONG_FILES = ("sqlite://", "sqlite:///:memory:", "sqlite:///a?{}=1", "sqlite:/{}")


POSTGRES_KEYS = ("log_url", "subjects_url", "erasures_url")
URL_KEYS = ("database_url", "vault_url", *POSTGRES_KEYS)


@pytest.mark.parametrize(
    ("key", "url"),
    [(key, url) for key in URL_KEYS for url in (*WRONG_URLS, *WRONG_FILES)]
    + [(key, "sqlite:///{}.db") for key in POSTGRES_KEYS],
)
def test_an_url_with_a_slip_is_refused_by_its_key_and_its_password_is_not_told(
    key: str, url: str
) -> None:
    """Before anything is opened: a driver's own words would repeat all of it."""
    environment = {f"ERRAND_{key.upper()}": url.format("planted")}
    with pytest.raises(SettingsError, match=f"^setting `{key}`: .*write `") as caught:
        parse_settings("", environment, Path("/srv"))
    told = "".join(traceback.format_exception(caught.value))

    assert "planted" not in told


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%25%40@db.example:5432/x?sslmode=require",
        "postgresql+psycopg://u@/x?host=%2Frun%2Fpg",
        "postgresql:///x",
    ],
)
def test_an_url_that_both_libraries_can_read_is_taken(url: str) -> None:
    """By every key; the log's parts are given it without the driver's name."""
    environment = {f"ERRAND_{key.upper()}": url for key in URL_KEYS}
    settings = parse_settings("", environment, Path("/srv"))
    plain = url.replace("+psycopg", "")

    assert url == settings.tables_url() == settings.vault_tables_url()
    assert Postgres(plain, "errand_subjects") == settings.subjects_place()
    assert Postgres(plain, "errand_log") == settings.log_place()


def _with_a_wrong_port(database_url: str) -> Settings:
    """Read settings of which another key is wrong."""
    environment = {"ERRAND_DATABASE_URL": database_url, "ERRAND_LISTEN_PORT": "planted"}
    return parse_settings("", environment, Path("/srv"))


def test_keys_are_made_once_and_then_loaded(tmp_path: Path) -> None:
    """A second start finds the keys of the first, readable by their owner alone."""
    made = open_keys(tmp_path / "keys", ORIGIN, entropy=os.urandom)
    loaded = open_keys(tmp_path / "keys", ORIGIN, entropy=None)
    files = [file for file in (tmp_path / "keys").rglob("*") if file.is_file()]

    assert made.lookup.public_jwk() == loaded.lookup.public_jwk()
    assert made.master == loaded.master
    assert made.log.log.skey == loaded.log.log.skey
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_each_key_is_another(tmp_path: Path) -> None:
    """No key can stand in for another."""
    keys = open_keys(tmp_path, ORIGIN, entropy=os.urandom)
    secrets = {
        keys.lookup.kid,
        keys.token.kid,
        keys.log.log.skey,
        keys.log.receipt.skey,
    }

    assert len(secrets) == 4


def test_without_entropy_no_key_is_made(tmp_path: Path) -> None:
    """A command that only reads says how keys are made, and makes none."""
    with pytest.raises(SettingsError, match="errand keys make"):
        open_keys(tmp_path, ORIGIN, entropy=None)

    assert list(tmp_path.iterdir()) == []


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The message says what to do about it."""
    open_keys(tmp_path, ORIGIN, entropy=os.urandom)
    (tmp_path / "token.pem").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        open_keys(tmp_path, ORIGIN, entropy=os.urandom)


@pytest.mark.parametrize("name", ["lookup.pem", "master.key"])
def test_a_damaged_key_is_refused_and_never_replaced(tmp_path: Path, name: str) -> None:
    """A key that can't be read is not made anew: what it locked would be lost."""
    open_keys(tmp_path, ORIGIN, entropy=os.urandom)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(SettingsError, match=name):
        open_keys(tmp_path, ORIGIN, entropy=os.urandom)

    assert (tmp_path / name).read_bytes() == b"damaged"


def test_keys_of_another_log_are_refused(tmp_path: Path) -> None:
    """The log's name can't be changed under its keys."""
    open_keys(tmp_path, ORIGIN, entropy=os.urandom)
    with pytest.raises(SettingsError, match="log_origin"):
        open_keys(tmp_path, "errand.example/other", entropy=os.urandom)


def test_a_crash_while_keys_are_made_leaves_nothing_half_made(tmp_path: Path) -> None:
    """What an interrupted start left is made anew, whole."""

    def failing(size: int) -> bytes:
        drawn.append(size)
        if len(drawn) > 4:
            raise InterruptedError
        return os.urandom(size)

    drawn: list[int] = []
    with pytest.raises(InterruptedError):
        open_keys(tmp_path, ORIGIN, entropy=failing)
    lookup = (tmp_path / "lookup.pem").read_bytes()
    keys = open_keys(tmp_path, ORIGIN, entropy=os.urandom)

    assert keys.lookup.to_pem() == lookup
    assert keys.log.origin == ORIGIN


@pytest.mark.parametrize(
    ("text", "named"), [("a,b", "01"), ("1,b", "1"), ("1,2,-3", "2"), ("", "")]
)
def test_a_wrong_item_of_a_list_is_named_and_nothing_else(
    text: str, named: str
) -> None:
    """That a list of wrong items is too short as well helps nobody."""
    with pytest.raises(SettingsError) as caught:
        parse_settings("", {"ERRAND_RETRY_S": text}, Path("/srv"))
    complaints = str(caught.value).split("; ")
    places = [one.partition("`: ")[0] for one in complaints]

    assert (
        [f"setting `retry_s.{at}" for at in named] or ["setting `retry_s"]
    ) == places
    assert ("at least 1 item" in str(caught.value)) == (not named)
