"""A gateway whose log is under a witness of its own process: `errand witness serve`."""

import re
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from audit.cosigning import cosigned_by
from audit.keys import make_keys, save_keys
from audit.note import Cosigner, parse_vkey
from audit.policy import parse_policy
from exchange import opening
from exchange.demo.building import free_ports
from exchange.recording import open_witnesses
from exchange.registration import record_changes
from exchange.settings import parse_settings
from schemas.errors import LogUnavailableError, SettingsError
from tests.harness.application import AUDITOR, a_site
from tests.harness.commands import errand
from tests.harness.patience import until
from tests.harness.witnesses import a_witness_process

ORIGIN = "errand.example/990100/log"


def test_the_published_log_carries_a_witness_of_another_process(
    tmp_path: Path,
) -> None:
    """Key, policy and service from the command line; the gateway asks over HTTP."""
    keys = make_keys(ORIGIN)
    save_keys(keys, tmp_path / "data" / "keys" / "log")
    with a_witness_process(tmp_path, keys.log.verifier) as line:
        policy = f"{line}\nquorum audit\n"
        (tmp_path / "our.policy").write_text(policy, encoding="utf-8")
        with a_site(tmp_path, settings="witness_policy: our.policy") as site:
            site.client(AUDITOR).get("/v1/audit/records")
            anyone = site.client(None)
            by = cosigned_by(
                _first_checkpoint(anyone),
                parse_vkey(keys.log.verifier.vkey),
                parse_policy(policy),
            )
            metrics = anyone.get("/metrics").text
    vkey, policy_file = keys.log.verifier.vkey, tmp_path / "our.policy"
    where = ("--vkey", vkey, "--policy", policy_file)
    shown = errand("audit", "verify", tmp_path / "data", *where).stdout
    told = (tmp_path / "w.err").read_text(encoding="utf-8")

    assert told.startswith("w.db: nothing was cosigned yet")
    assert 0o600 == (tmp_path / "w.key").stat().st_mode & 0o777
    assert {"audit"} == set(by)
    assert "errand_log_unwitnessed_seconds 0.0" in metrics
    assert re.search(r" audit +│ 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", shown)
    assert re.search(r" anchored +│ no ", shown)


def test_what_a_start_has_to_record_is_tried_again_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before all else, so that a gateway that gave up would record nothing."""
    witness = Cosigner("audit.example/w", bytes(32)).verifier.vkey
    policy = f"witness audit {witness} http://127.0.0.1:1/\nquorum audit\n"
    (tmp_path / "our.policy").write_text(policy, encoding="utf-8")
    failures = [LogUnavailableError("the disk is full"), LookupError()]

    async def failing(*what: Any) -> int:  # noqa: ANN401 - whatever it takes
        if failures:
            raise failures.pop()
        return await record_changes(*what)

    monkeypatch.setattr(opening, "record_changes", failing)
    monkeypatch.setattr(opening, "_AGAIN_S", 0.0)
    with a_site(tmp_path, settings="witness_policy: our.policy") as site:
        before = site.gateway.log.opening
        site.gateway.publisher.is_known = True  # as when the witness has told
        until(lambda: site.gateway.log.opening is None, "it is recorded")
        lines = [orjson.loads(line) for line in site.output.getvalue().splitlines()]

    assert before is not None
    assert ["LookupError", "LogUnavailableError"] == [
        line["error"] for line in lines if line["event"] == "catching_up_failed"
    ]


def _first_checkpoint(anyone: httpx.Client) -> bytes:
    """Return the published head, once there is one."""
    for _ in range(3_000):
        answer = anyone.get("/log/checkpoint")
        if answer.status_code == 200:
            return answer.content
    pytest.fail("nothing was published")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (None, "can't be read"),
        ("quorum nobody\n", "line 1 of the policy"),
        ("witness w {vkey}\nquorum w\n", "too few witnesses have an address"),
    ],
)
def test_a_policy_that_can_never_be_met_stops_the_start(
    tmp_path: Path, policy: str | None, why: str
) -> None:
    """One line says which file and why, before anything is signed."""
    made = errand("witness", "keygen", tmp_path / "w.key", "--name", "audit.example/w")
    if policy is not None:
        text = policy.format(vkey=made.stdout.strip())
        (tmp_path / "our.policy").write_text(text, encoding="utf-8")
    settings = parse_settings("witness_policy: our.policy", {}, tmp_path)

    with pytest.raises(SettingsError, match=why):
        open_witnesses(settings, None)  # type: ignore[arg-type] # not reached


def test_a_witness_is_told_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    """Each is named in one line: a key that others may read, logs that are none."""
    key, logs = tmp_path / "w.key", tmp_path / "logs.policy"
    named = errand("witness", "keygen", key, "--name", "a name")
    errand("witness", "keygen", key, "--name", "audit.example/w")
    again = errand("witness", "keygen", key, "--name", "audit.example/w")
    logs.write_text("quorum none\n", encoding="utf-8")
    [port] = free_ports(1)
    files = ("--key", key, "--logs", logs, "--data", tmp_path / "d")
    serve = ("witness", "serve", *files, "--port", str(port))
    empty = errand(*serve)
    key.chmod(0o644)
    readable = errand(*serve)

    assert [2, 2, 2, 2] == [one.status for one in (named, again, empty, readable)]
    assert "is there already" in again.stderr
    assert "`logs.policy` must name logs" in empty.stderr
    assert "chmod 600" in readable.stderr
