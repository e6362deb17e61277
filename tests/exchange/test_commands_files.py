"""Every file that a command names: one line and status 2 where it is of no use."""

from pathlib import Path

import pytest

from audit.keys import make_keys, save_keys, write_secret
from audit.witness_app import make_cosigner
from connectors.jose import SigningKey
from tests.harness.commands import errand

KEYS = make_keys("log.example/of-files")
LOG = ("--vkey", KEYS.log.verifier.vkey)
BOTH = (*LOG, "--receipt-key", KEYS.receipt.verifier.vkey)
NOBODY = ("--client", "audit_office", "--url", "http://127.0.0.1:9")
ASK = (*NOBODY, "--key-file", "FILE")
LISTED = ("audit", "complete", "log", *LOG, "--list", "page")
SIGNED = (*NOBODY, "--key-file", "good.pem")

READ = [
    ("explain", "newborn@1", "--config", "FILE"),
    ("keys", "make", "--config", "FILE"),
    ("keys", "show", "--config", "FILE"),
    ("publish", "--config", "FILE"),
    ("serve", "--config", "FILE"),
    ("pack", "check", "FILE"),
    ("department", "serve", "--config", "FILE"),
    ("department", "try", "FILE"),
    ("token", "auditor", *ASK),
    ("witness", "serve", "--key", "FILE", "--logs", "policy", "--data", "w.db"),
    ("witness", "serve", "--key", "w.key", "--logs", "FILE", "--data", "w.db"),
    ("audit", "verify", "FILE", *LOG),
    ("audit", "verify", "log", *LOG, "--policy", "FILE"),
    ("audit", "verify", "log", *LOG, "--anchors", "FILE"),
    ("audit", "verify", "log", *BOTH, "--receipt", "FILE"),
    ("audit", "verify", "log", *LOG, "--token-file", "FILE"),
    ("audit", "verify", "log", *LOG, "--keys", "FILE"),
    ("audit", "fsck", "FILE", *LOG),
    ("audit", "fsck", "log", *LOG, "--token-file", "FILE"),
    ("audit", "prove", "log", *LOG, "--index", "0", "--token-file", "FILE"),
    ("audit", "prove", "FILE", *LOG, "--index", "0"),
    ("audit", "complete", "log", *LOG, "--list", "FILE", "--subject-key", "s.key"),
    (*LISTED, "--subject-key", "FILE"),
    (*LISTED, "--subject-key", "s.key", "--policy", "FILE"),
    (*LISTED, "--subject-key", "s.key", "--token-file", "FILE"),
    ("audit", "accuse", "FILE", *BOTH),
    ("audit", "accuse", "page", *BOTH, "--leaf", "FILE"),
    ("audit", "check", "FILE", *BOTH),
    ("audit", "check", "page", "FILE", *BOTH),
    ("audit", "shards", "FILE", *LOG),
    ("audit", "recover", "FILE"),
    ("audit", "recover", "page", "--config", "FILE"),
    ("audit", "seal-shard", "--config", "FILE"),
    ("audit", "export", "FILE", "out"),
    ("audit", "export", "FILE", "out", "--format", "ndjson"),
    ("audit", "show", "event", "--log", "FILE"),
    ("audit", "show", "event", *ASK),
    ("audit", "query", *ASK),
    ("audit", "receipt", "event", *ASK),
    ("audit", "erase", *ASK, "--reason", "file-7"),
    ("audit", "hold", *ASK, "--reason", "file-7"),
    ("audit", "holds", *ASK),
    ("audit", "release", "event", *ASK, "--reason", "file-7"),
    ("audit", "subject-key", "new.key", *ASK, "--reason", "file-7"),
]
"""Commands with the place of a file that they read."""

TAKE_FOLDERS = (("pack", "check"),)
"""To these an empty folder is one that is right."""

WRITTEN = [
    ("department", "keygen", "FILE"),
    ("witness", "keygen", "FILE", "--name", "w.example/witness"),
    ("witness", "serve", "--key", "w.key", "--logs", "policy", "--data", "FILE"),
    ("audit", "verify", "log", *LOG, "--state", "FILE"),
    ("audit", "export", "data", "FILE", "--format", "ndjson"),
    ("audit", "export", "data", "FILE", "--format", "parquet"),
    ("audit", "show", "event", "--log", "data", "--leaf", "FILE"),
    ("audit", "show", "event", *SIGNED, "--leaf", "FILE"),
    ("audit", "subject-key", "FILE", *SIGNED, "--reason", "file-7"),
]
"""Commands with the place of a file that they write."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one of each file that commands take."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("log", "data", "folder"):
        (folder / name).mkdir()
    (folder / "data" / "log.db").touch()
    (folder / "policy").write_text(f"log {KEYS.log.verifier.vkey}\nquorum none\n")
    (folder / "page").write_text('{"records": [], "next": null}')
    (folder / "good.pem").write_bytes(SigningKey.from_seed(bytes(32)).to_pem())
    write_secret(folder / "s.key", "A" * 43)
    make_cosigner(folder / "w.key", "w.example/w", bytes)
    (folder / "log" / "checkpoint").write_text("a note that nobody has signed")
    (folder / "file").write_bytes("密钥\n".encode("gb18030"))
    save_keys(KEYS, folder / "keys" / "log")
    return folder


@pytest.fixture(autouse=True)
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run commands in that folder."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("ERRAND_DATA_DIR", str(made / "data"))
    return made


def _with(command: tuple[str, ...], name: str) -> list[str]:
    return [name if one == "FILE" else one for one in command]


def _id(command: object) -> str:
    words = command if isinstance(command, tuple) else (str(command),)
    return "_".join(one.strip("-") for one in words if len(one) < 20)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        pytest.param(command, name, id=f"{_id(command)}-{name}")
        for command in READ
        for name in ("不在.txt", "file/below", "folder")
        if name != "folder" or command[:2] not in TAKE_FOLDERS
    ],
)
def test_what_can_t_be_read_is_one_line(command: tuple[str, ...], name: str) -> None:
    """Missing, below a file, or a folder: no traceback, and never "it is wrong"."""
    done = errand(*_with(command, name), stdin="990101199403120026\n")

    assert (2, "") == (done.status, done.stdout)
    assert done.stderr.startswith("errand: ")
    assert 1 == done.stderr.count("\n")
    assert not (name.isascii() and done.stderr.startswith("errand: `*`"))


@pytest.mark.parametrize("command", READ, ids=_id)
def test_what_is_of_another_kind_is_no_traceback(command: tuple[str, ...]) -> None:
    """Bytes that are no text, let alone what the command reads."""
    done = errand(*_with(command, "file"), stdin="990101199403120026\n")

    assert done.status in (1, 2)
    assert done.stderr.startswith("errand: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["不在/new", "file/below", "folder"])
@pytest.mark.parametrize("command", WRITTEN, ids=_id)
def test_what_can_t_be_written_is_one_line(command: tuple[str, ...], name: str) -> None:
    """And it is told before anything is asked or verified."""
    done = errand(*_with(command, name), stdin="990101199403120026\n")

    assert (2, "") == (done.status, done.stdout)
    assert done.stderr.startswith("errand: ")
    assert 1 == done.stderr.count("\n")
    assert "reached" not in done.stderr


def test_a_folder_of_all_keys_is_told_from_the_logs_own() -> None:
    """The log's own keys stand in a folder of the gateway's: its name is said."""
    command = ("audit", "verify", "data", *LOG, "--keys")
    done = errand(*command, "keys")
    right = errand(*command, Path("keys", "log"))

    assert (2, "the log's own are in `keys/log`") == (
        done.status,
        done.stderr[-32:].strip("\n"),
    )
    assert "the log's own" not in right.stderr
