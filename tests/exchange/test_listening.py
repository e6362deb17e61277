"""A taken address is named in one line, with the setting to change."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from audit.keys import make_keys
from audit.witness_app import make_cosigner
from exchange.listening import check_certificate, check_free, free_address
from schemas.errors import SettingsError
from tests.connectors.examples import a_config
from tests.exchange.test_roots import issue
from tests.harness.commands import errand


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def expected_line(port: int, setting: str) -> str:
    """Return what the command says."""
    return (
        f"errand: `127.0.0.1:{port}` is taken: stop what listens there, or choose"
        f" another port with {setting}\n"
    )


def serve(file: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a gateway, with its settings in a file, until it has given up."""
    file.write_text(yaml.safe_dump({"data_dir": "data", **settings}))
    return subprocess.run(
        [sys.executable, "-m", "exchange", "serve", "--config", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_gateway_names_the_address_that_is_taken(tmp_path: Path, taken: int) -> None:
    """Before it makes a key or a table."""
    file = tmp_path / "errand.yaml"
    done = serve(file, listen_port=taken)

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr == expected_line(taken, "`listen_port`")
    assert [file] == list(tmp_path.iterdir())


def test_a_department_names_the_address_that_is_taken(
    tmp_path: Path, taken: int
) -> None:
    """It has a setting of another name."""
    document = a_config(tmp_path).model_dump(mode="json")
    file = tmp_path / "department.yaml"
    file.write_text(yaml.safe_dump({**document, "listen": {"port": taken}}))
    done = errand("department", "serve", "--config", file)

    assert 2 == done.status
    assert done.stderr == expected_line(taken, "`listen.port`")


def test_a_witness_names_the_address_that_is_taken(tmp_path: Path, taken: int) -> None:
    """It takes its port as an option."""
    make_cosigner(tmp_path / "w.key", "audit.example/w", os.urandom)
    vkey = make_keys("log.example", os.urandom).log.verifier.vkey
    (tmp_path / "logs").write_text(f"log {vkey}\nquorum none\n")
    done = errand(
        *("witness", "serve", "--port", str(taken), "--key", tmp_path / "w.key"),
        *("--logs", tmp_path / "logs", "--data", tmp_path / "w.db"),
    )

    assert 2 == done.status
    assert done.stderr == expected_line(taken, "`--port`")


def test_a_service_says_when_it_listens(tmp_path: Path) -> None:
    """Whoever started it need not try: it answers from that line on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    document = a_config(tmp_path).model_dump(mode="json")
    file = tmp_path / "department.yaml"
    file.write_text(yaml.safe_dump({**document, "listen": {"port": port}}))
    command = [sys.executable, "-m", "exchange", "department", "serve"]
    with subprocess.Popen(
        [*command, "--config", str(file)], stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        said = next((line for line in service.stdout if "listening" in line), "")
        try:
            health = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
        finally:
            service.terminate()

    assert str(port) in said
    assert 200 == health.status_code


def test_no_key_is_made_for_packs_that_are_not_there(tmp_path: Path) -> None:
    """A slip in a setting leaves nothing behind."""
    file = tmp_path / "errand.yaml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = serve(file, listen_port=port, packs=["nowhere"])

    assert 2 == done.returncode
    assert "nowhere" in done.stderr
    assert [file] == list(tmp_path.iterdir())


def test_an_address_of_another_machine_is_named_with_the_reason() -> None:
    """An address for documents (RFC 5737) is nobody's."""
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:1.*\(Cannot assign"):
        check_free("192.0.2.1", 1, "`listen_port`")


def test_what_is_taken_between_the_look_and_the_start_is_named_too() -> None:
    """The server ends with a status of its own; the address is looked at again."""
    with socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        with pytest.raises(SettingsError, match=f"{port}` is taken"):
            _fail_to_serve(late, port)


def _fail_to_serve(other: socket.socket, port: int) -> None:
    """Be a server that comes too late: another listens there just now."""
    with free_address("127.0.0.1", port, "`listen_port`"):
        other.listen()
        raise SystemExit(3)


def test_a_server_that_ends_for_another_reason_keeps_its_status() -> None:
    """Its address is free."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
    with pytest.raises(SystemExit), free_address("127.0.0.1", port, "`listen_port`"):
        raise SystemExit(3)


@pytest.mark.parametrize("port", [-1, 0, 65_536, 70_000])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    """The system would take its lower bits, and the service another's port."""
    with pytest.raises(SettingsError, match=r"from 1 to 65535.*`--port`"):
        check_free("127.0.0.1", port, "`--port`")


@pytest.mark.parametrize("port", ["0", "65536", "70000"])
def test_a_witness_takes_ports_that_there_are(tmp_path: Path, port: str) -> None:
    """Before anything is read or made."""
    done = errand(
        *("witness", "serve", "--port", port, "--key", tmp_path / "w.key"),
        *("--logs", tmp_path / "logs", "--data", tmp_path / "w.db"),
    )

    assert 2 == done.status
    assert "from 1 to 65535, choose one with `--port`" in done.stderr
    assert [] == list(tmp_path.iterdir())


NO_FAMILY = (socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("::1", 1, 0, 0))
"""An address of a family that this system makes no stream sockets of."""


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *found: object) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: list(found))


def test_a_family_without_sockets_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """As where IPv6 is off: the server starts on what is left, or that is taken."""
    here = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))
    _resolve_to(monkeypatch, NO_FAMILY, here)
    check_free("localhost", 1, "`listen_port`")
    full = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", taken))
    _resolve_to(monkeypatch, NO_FAMILY, full)

    with pytest.raises(SettingsError, match="is taken"):
        check_free("localhost", taken, "`listen_port`")


def test_an_address_without_any_socket_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No family is left to listen in."""
    _resolve_to(monkeypatch, NO_FAMILY)

    with pytest.raises(SettingsError, match="`localhost:1` can't be listened on"):
        check_free("localhost", 1, "`listen_port`")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two certificates, each with its key, and what is none."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("own", "other"):
        issue(folder / "root.pem", folder / f"{name}.pem")
    (folder / "none.pem").write_text("nothing that TLS knows")
    key = load_pem_private_key((folder / "own.pem").read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    (folder / "locked.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    return folder


def test_a_certificate_and_its_key_can_be_used(certificates: Path) -> None:
    """Both in one file, as authorities often send them."""
    check_certificate(certificates / "own.pem", certificates / "own.pem")


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("lost", "own", r"`listen\.certificate`: `\S*lost\.pem`: No such file"),
        ("own", "lost", r"`listen\.certificate_key`: `\S*lost\.pem`: No such file"),
        ("none", "own", r"`listen\.certificate` and .*none\.pem.*: no PEM"),
        ("own", "none", r"`listen\.certificate` and .*none\.pem.*: no PEM"),
        ("own", "locked", r"locked\.pem`: no PEM .* without a password"),
        ("own", "other", r"other\.pem`: the key is of another certificate"),
    ],
)
def test_a_certificate_that_can_t_be_used_is_named(
    certificates: Path, certificate: str, key: str, told: str
) -> None:
    """One line with the setting and the files, and no password is asked for."""
    with pytest.raises(SettingsError, match=told):
        check_certificate(
            certificates / f"{certificate}.pem", certificates / f"{key}.pem"
        )


def test_a_department_names_the_certificate_that_it_has_not(tmp_path: Path) -> None:
    """Before it makes its log."""
    listen = {"certificate": str(tmp_path / "lost.pem"), "certificate_key": "key.pem"}
    document = a_config(tmp_path, listen=listen).model_dump(mode="json")
    file = tmp_path / "department.yaml"
    file.write_text(yaml.safe_dump(document))
    done = errand("department", "serve", "--config", str(file))

    lost = tmp_path / "lost.pem"
    expected = f"errand: `listen.certificate`: `{lost}`: No such file or directory\n"
    assert (2, expected) == (done.status, done.stderr)
    assert not (tmp_path / "log.db").exists()
