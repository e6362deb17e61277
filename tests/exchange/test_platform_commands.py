"""The command line: what people and programs get from each command."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import yaml

from audit.engine_sqlite import copy_log
from audit.keys import load_keys, make_keys
from connectors.jose import SigningKey
from exchange.__main__ import main
from tests.harness.application import (
    AUDITOR,
    FATHER,
    PACK,
    PORTAL,
    Site,
)
from tests.harness.commands import every_command

ORIGIN = "errand.example/990100/log"
_PROGRAM = (sys.executable, "-m", "exchange")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Errand = Callable[..., Done]


@pytest.fixture
def errand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Errand:
    """Run a command in this process, through the very entry of the program."""

    def run(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["errand", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


def test_every_command_says_what_it_does(errand: Errand) -> None:
    """The list has each command of the contract."""
    told = errand("--help").stdout

    for name in ("serve", "department", "audit", "explain", "demo", "pack", "keys"):
        assert name in told


def test_every_option_says_what_it_is() -> None:
    """Also the conditions of a search, which several commands have."""
    silent = [
        (*path, option.name)
        for path, command in every_command()
        for option in command.params
        if not getattr(option, "help", None)
    ]

    assert [] == silent


def test_a_help_does_not_wait_for_what_it_does_not_run() -> None:
    """Each command imports what it runs: all of it takes twice as long to start."""
    heavy = {"cryptography", "fastapi", "httpx", "nacl", "pydantic", "sqlalchemy"}
    code = f"import sys, exchange.__main__; print(*{heavy} & sys.modules.keys())"
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert "" == ran.stdout.strip()


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize("text", ["yesterday", "2026-07-01", "2026-07-01T00:00:00"])
def test_an_instant_that_is_none_is_refused_before_anybody_is_asked(
    errand: Errand, option: str, text: str
) -> None:
    """Not even for a token, which the client's key would be read for."""
    who = ("--client", AUDITOR, "--key-file", "none.pem", "--url", "http://127.0.0.1:9")
    done = errand("audit", "query", *who, option, text)

    assert 2 == done.returncode
    assert f"errand: `{option}` is an instant, as" in done.stderr


def test_a_pack_that_is_right_is_summed_up(errand: Errand) -> None:
    """What it declares is counted, and its digest named."""
    done = errand("pack", "check", PACK, "--json")
    told = orjson.loads(done.stdout)

    assert done.returncode == 0
    assert told["valid"] is True
    assert told["matters"] == ["newborn@1"]
    assert len(told["digest"]) == 43


def test_a_pack_that_is_wrong_names_every_place(errand: Errand, tmp_path: Path) -> None:
    """File, line and path, one a line, and an exit status for programs."""
    for file in PACK.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        (tmp_path / file.name).write_text(
            text.replace("mz_marriage", "MZ marriage"), encoding="utf-8"
        )
    done = errand("pack", "check", tmp_path)
    as_json = errand("pack", "check", tmp_path, "--json")

    assert done.returncode == as_json.returncode == 1
    assert "services.yaml:" in done.stderr
    assert orjson.loads(as_json.stdout)["places"] == done.stderr.splitlines()


def test_a_folder_that_is_not_there_is_named(errand: Errand, tmp_path: Path) -> None:
    """One line, and no traceback."""
    folder = tmp_path / "nothing"
    done = errand("pack", "check", folder)

    assert done.returncode == 2
    assert f"errand: there is no pack folder `{folder}`\n" == done.stderr


def test_a_matter_is_explained_without_any_person(errand: Errand) -> None:
    """The unmarried route never comes near the marriage register."""
    done = errand("explain", "newborn@1", "--answer", "parents_married=false", "--json")
    told = orjson.loads(done.stdout)
    services = {
        service["id"]
        for wave in told["waves"]
        for lookup in wave
        for service in lookup["services"]
    }

    assert done.returncode == 0
    assert "mz_marriage" not in services
    assert "wj_birth_certificate" in services


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("newborn@9",), "no such matter; there are `newborn@1`"),
        (("newborn@1", "--requester", "nobody"), "no such requester; there are `p"),
        (("newborn@1", "--answer", "nope=1"), "no such question"),
        (("newborn@1", "--answer", "parents_married=maybe"), "`true` or `false`"),
        (("newborn@1", "--answer", "joins"), "/answers: write `question=answer`"),
        (
            ("newborn@1", "--answer", "joins=aunt"),
            "/answers/joins: must be one of `m",
        ),
        (
            ("newborn@1", "--answer", "joins=mother", "--answer", "joins=father"),
            "/answers/joins: is answered twice",
        ),
        (("newborn@1", "--answer", "joins="), "/answers/joins: must be one of `mot"),
        (("newborn@1", "--answer", f"phone={'1' * 21}"), "phone: must have 20 chara"),
        (("newborn@1", "--stated", "uncle.id"), "no such fact; without values, there"),
    ],
)
def test_what_cannot_be_explained_is_said(
    errand: Errand, arguments: tuple[str, ...], says: str
) -> None:
    """What would be right is named."""
    done = errand("explain", *arguments)

    assert done.returncode == 2
    assert says in done.stderr


def test_a_log_in_a_file_needs_no_publisher(tmp_path: Path) -> None:
    """Its one gateway publishes it: the command says so, and what it is for."""
    config = tmp_path / "errand.yaml"
    config.write_text("data_dir: data\n", encoding="utf-8")

    # In a process of its own, as it sets up logs and signals.
    done = subprocess.run(
        [*_PROGRAM, "publish", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert 2 == done.returncode
    assert "the gateway that holds it publishes it" in done.stderr
    assert "`log_url`, `database_url`" in done.stderr
    assert not (tmp_path / "data").exists()


def test_keys_are_made_once_and_shown(errand: Errand, tmp_path: Path) -> None:
    """Making twice shows the same keys; nothing secret is printed."""
    (tmp_path / "errand.yaml").write_text("data_dir: data\n")
    made = errand("keys", "make", "--config", tmp_path / "errand.yaml")
    again = errand("keys", "make", "--config", tmp_path / "errand.yaml")
    shown = errand("keys", "show", "--config", tmp_path / "errand.yaml", "--json")
    kept = load_keys(tmp_path / "data" / "keys" / "log")

    assert made.stdout == again.stdout
    assert orjson.loads(shown.stdout)["log"] == kept.log.verifier.vkey
    assert kept.log.skey not in made.stdout + shown.stdout
    assert '"d"' not in shown.stdout


def test_without_keys_showing_says_how_to_make_them(
    errand: Errand, tmp_path: Path
) -> None:
    """A command that shows makes nothing."""
    (tmp_path / "errand.yaml").write_text("data_dir: data\n")
    done = errand("keys", "show", "--config", tmp_path / "errand.yaml")

    assert done.returncode == 2
    assert "errand keys make" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_department_gets_a_key_and_what_packs_pin(
    errand: Errand, tmp_path: Path
) -> None:
    """The printed part is what a deployment declares, and fits the file."""
    done = errand("department", "keygen", tmp_path / "key.pem")
    (pinned,) = yaml.safe_load(done.stdout)
    key = SigningKey.from_file(tmp_path / "key.pem")
    twice = errand("department", "keygen", tmp_path / "key.pem")

    assert pinned["thumbprint"] == key.kid
    assert pinned["jwk"]["x"] == key.public_jwk()["x"]
    assert twice.returncode == 2


def test_a_wrong_setting_stops_the_gateway_with_one_line(
    errand: Errand, tmp_path: Path
) -> None:
    """The operator reads which key and what to do."""
    (tmp_path / "errand.yaml").write_text("listen_prot: 1\n")
    done = errand("serve", "--config", tmp_path / "errand.yaml")

    assert done.returncode == 2
    assert "no setting `listen_prot`: do you mean `listen_port`?" in done.stderr
    assert "Traceback" not in done.stderr


def _key_file(site: Site, client: str, folder: Path) -> Path:
    file = folder / f"{client}.pem"
    file.write_bytes(site.keys[client].to_pem())
    return file


def test_a_token_is_got_and_printed(errand: Errand, site: Site, tmp_path: Path) -> None:
    """It opens the API for curl."""
    key = _key_file(site, PORTAL, tmp_path)
    done = errand(
        *("token", "portal:newborn_registration", "--client", PORTAL),
        *("--key-file", key, "--url", site.url),
    )
    answer = site.client(None).get(
        "/v1/grants", headers={"authorization": f"Bearer {done.stdout.strip()}"}
    )

    assert answer.status_code == 200


def test_an_address_that_is_not_the_gateway_s_own_is_told_from_a_wrong_key(
    errand: Errand, site: Site, tmp_path: Path
) -> None:
    """What was given is `--url`, and not the claim that the command makes of it."""
    key = _key_file(site, PORTAL, tmp_path)
    by_another_name = site.url.replace("127.0.0.1", "localhost")
    done = errand(
        *("token", "portal:newborn_registration", "--client", PORTAL),
        *("--key-file", key, "--url", by_another_name),
    )

    assert by_another_name != site.url
    assert 2 == done.returncode
    assert "give the gateway's public address with `--url`" in done.stderr


def test_an_auditor_asks_about_a_person_from_standard_input(
    errand: Errand, site: Site, tmp_path: Path
) -> None:
    """The id is never an argument, and the answer has the records about the person."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)
    asked = portal.post(
        "/v1/consents",
        json={
            "case": case["id"],
            "person": {"id": FATHER},
            "role": "father",
            "fields": {"household@1": None},
        },
    ).json()
    key = _key_file(site, AUDITOR, tmp_path)
    common = ("--client", AUDITOR, "--key-file", key, "--url", site.url)
    found = errand("audit", "query", *common, "--subject", "--json", stdin=FATHER)
    table = errand("audit", "query", *common, "--kind", "consent.changed")
    records = orjson.loads(found.stdout)["records"]
    record = next(one for one in records if one["kind"] == "consent.changed")
    receipt = errand("audit", "receipt", record["event"], *common)
    shown = errand("audit", "show", record["event"], *common)

    assert record["event"] == orjson.loads(shown.stdout)["leaf"]["id"]
    assert FATHER in shown.stdout
    assert record["correlation"] == asked["id"]
    assert "asked" in table.stdout
    assert orjson.loads(receipt.stdout)["event"] == record["event"]


def test_a_copied_log_is_verified_by_its_key_alone(
    errand: Errand, site: Site, tmp_path: Path
) -> None:
    """Another process, a copied file and a public key: that is all it takes."""
    site.open_case(site.client(PORTAL))
    copy_log(site.gateway.settings.log_file, tmp_path / "log.db")
    key = site.gateway.keys.log.log.verifier.vkey
    verify = (*_PROGRAM, "audit", "verify", str(tmp_path / "log.db"), "--key", key)
    done = subprocess.run([*verify, "--json"], capture_output=True, check=False)
    strange = _another_key()
    refused = errand("audit", "verify", tmp_path / "log.db", "--key", strange)

    assert done.returncode == 0
    assert orjson.loads(done.stdout)["verified"] is True
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def _another_key() -> str:
    """Return the public key of another log of the same name."""
    return make_keys(ORIGIN).log.verifier.vkey


def test_a_gateway_that_is_not_there_is_one_line(
    errand: Errand, tmp_path: Path
) -> None:
    """No traceback, and an exit status that a program can tell."""
    (tmp_path / "key.pem").write_bytes(SigningKey.from_seed(bytes(32)).to_pem())
    done = errand(
        *("token", "auditor", "--client", AUDITOR, "--key-file", tmp_path / "key.pem"),
        *("--url", "http://127.0.0.1:9"),
    )

    assert done.returncode == 2
    assert done.stderr == (
        "errand: no answer came from http://127.0.0.1:9/v1/token (ConnectError)\n"
    )
