"""Waiting work that is not taken up: an operator is told, whatever the cause is."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx

from exchange import due as dues
from exchange.connecting import connected
from exchange.due import Due
from schemas.clock import SystemClock
from schemas.ids import CaseId, DueId
from tests.harness.application import Site, a_site
from tests.harness.patience import until

FULL = """
CREATE TRIGGER is_full BEFORE INSERT ON workflow_status
BEGIN SELECT RAISE(ABORT, 'as if the disk were full'); END
"""


def change_work(site: Site, statement: str) -> None:
    """Change the tables of the engine behind its back."""
    file = site.gateway.settings.data_dir / "work.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)


def owe_since(site: Site, minutes: int, attempt: int = 0) -> None:
    """Owe a case an attempt for so long, by a gateway that has run all the time."""
    ago = SystemClock().now() - timedelta(minutes=minutes)
    site.gateway.waiting._since = ago
    name = f"since-{minutes}"
    row = Due(DueId(name), CaseId(name), due_at=ago, attempt=attempt, made_at=ago)
    with connected(site.gateway.settings.tables_url(), read_only=False) as connection:
        dues.owe(connection, row)
        connection.commit()


def alarms(anyone: httpx.Client) -> Sequence[str]:
    """Return the alarms of a gateway that can be used."""
    ready = anyone.get("/health/ready")
    assert 200 == ready.status_code
    found: Sequence[str] = ready.json()["alarms"]
    return found


def test_work_that_can_not_be_begun_is_an_alarm_until_it_can(tmp_path: Path) -> None:
    """It says why; it is told once in the output; and it goes on by itself.

    Before five minutes it is none: an attempt that hangs, or a gateway that dies, ends
    by itself by then.
    """
    with a_site(tmp_path) as site:
        anyone = site.client(None)
        change_work(site, FULL)
        owe_since(site, 4)
        until(lambda: site.gateway.waiting.failure is not None, "a failure")
        waited, before = site.gateway.waiting.overdue_s(), alarms(anyone)
        owe_since(site, 6)
        until(lambda: list(alarms(anyone)) == ["waiting"], "an alarm")
        reasons = anyone.get("/health/ready").json()["reasons"]
        overdue = anyone.get("/metrics").text.partition("\nerrand_overdue_seconds ")
        change_work(site, "DROP TRIGGER is_full")
        until(lambda: not alarms(anyone), "no alarm")
        until(lambda: b"dispatch_works_again" in site.output.getvalue(), "it works")

    assert [] == before
    assert 240 <= waited < 300
    assert {"waiting"} == reasons.keys()
    assert reasons["waiting"].endswith("Error")
    assert 360 <= float(overdue[2].splitlines()[0]) < 420
    assert 1 == site.output.getvalue().count(b"dispatch_failed")


def owed(site: Site) -> list[str]:
    """Return to which cases something is owed."""
    with connected(site.gateway.settings.tables_url(), read_only=True) as connection:
        now = SystemClock().now()
        return [row.case for row in dues.rows_due(connection, now, 10)]


def test_what_was_tried_before_waits_while_the_log_takes_nothing(
    tmp_path: Path,
) -> None:
    """It goes on as soon as the log does; what was not tried yet is, meanwhile."""
    with a_site(tmp_path) as site:
        site.gateway.log.open_later("as if no witness had told yet")
        owe_since(site, 2, attempt=1)
        owe_since(site, 1)
        until(lambda: "since-1" not in owed(site), "the untried one is over")
        left = owed(site)
        site.gateway.log.open_later(None)
        until(lambda: not owed(site), "the other one is over, too")

    assert ["since-2"] == left
