"""`errand department log verify`: a department checks what it kept."""

import sqlite3
from contextlib import closing
from pathlib import Path

from connectors.department.answering import Department
from connectors.kinds.http import lookup_claims
from connectors.protocol import sign_lookup
from tests.connectors.examples import (
    GATEWAY,
    GATEWAY_KEY,
    FakeClock,
    a_config,
    a_request,
)
from tests.harness.commands import errand

VERIFY = ("department", "log", "verify")


def a_kept_log(folder: Path, answers: int) -> Path:
    """Have a department answer so many look-ups; return its log."""
    config = a_config(folder)
    department = Department(config, FakeClock())
    for _ in range(answers):
        claims = lookup_claims(a_request(), GATEWAY)
        department.answer(sign_lookup(claims, GATEWAY_KEY))
    department.close()
    return config.log


def test_a_log_that_is_whole_is_told_with_its_head(tmp_path: Path) -> None:
    """The head that is printed can be given the next time, when the log has grown."""
    file = a_kept_log(tmp_path, 2)
    first = errand(*VERIFY, file, "--json").json
    a_kept_log(tmp_path, 1)
    again = errand(*VERIFY, file, "--head", first["head"])
    told = errand(*VERIFY, file, "--json").json

    assert (2, 3) == (first["entries"], told["entries"])
    assert 0 == again.status
    assert told["head"] in again.stdout


def test_a_log_that_was_changed_ends_with_one(tmp_path: Path) -> None:
    """The entry is named; so is a cut, to whoever kept a head."""
    file = a_kept_log(tmp_path, 3)
    head = errand(*VERIFY, file, "--json").json["head"]
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM entries WHERE seq = 3")
    cut = errand(*VERIFY, file, "--head", head)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE entries SET outcome = 'not-held' WHERE seq = 1")
    changed = errand(*VERIFY, file)

    assert (1, 1) == (cut.status, changed.status)
    assert "the head that was kept is not on it" in cut.stderr
    assert "entry 1 is not what it was" in changed.stderr


def test_without_a_log_there_is_no_verdict(tmp_path: Path) -> None:
    """A name that leads nowhere, a file of something else, a head that is none."""
    a_config(tmp_path)
    file = a_kept_log(tmp_path, 0)
    done = [
        errand(*VERIFY, tmp_path / "lost.db"),
        errand(*VERIFY, tmp_path / "register.db"),
        errand(*VERIFY, file, "--head", "3"),
    ]

    assert [2, 2, 2] == [one.status for one in done]
    assert not (tmp_path / "lost.db").exists()
