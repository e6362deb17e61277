"""A case is followed by server-sent events, for as long as its portal may read it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson
from typing_extensions import override

from schemas.clock import SystemClock
from tests.harness.application import OPERATOR, OTHER_PORTAL, PORTAL, Site

_SUSPENSION = f"/v1/suspensions/requester/{OTHER_PORTAL}"


@dataclass(slots=True)
class _Clock(SystemClock):
    """The time, and what a test adds to it."""

    ahead: timedelta = timedelta(0)

    @override
    def now(self) -> datetime:
        return SystemClock.now(self) + self.ahead


@contextmanager
def followed(client: httpx.Client, case: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Follow a case while the block lasts: what each event holds, in order."""
    with client.stream("GET", f"/v1/cases/{case}/events") as stream:
        assert httpx.codes.OK == stream.status_code
        yield _told(stream)


def _told(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in stream.iter_lines():
        assert not line.startswith(":"), "nothing was told for a whole heartbeat"
        if line.startswith("data: "):
            yield orjson.loads(line.removeprefix("data: "))


def _change(site: Site, case: str) -> None:
    """Change a case as its next attempt would: by its version alone."""
    file = site.gateway.settings.data_dir / "errand.db"
    with closing(sqlite3.connect(file)) as tables, tables:
        tables.execute("UPDATE case_file SET version = version + 1 WHERE id=?", [case])


def test_a_change_of_a_case_is_told(site: Site) -> None:
    """The case is told at once, and again as soon as it is another version."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)
    with followed(portal, case["id"]) as told:
        first = next(told)
        _change(site, case["id"])
        second = next(told)

    assert case["id"] == first["id"] == second["id"]
    assert first["version"] < second["version"]


def test_closing_a_case_ends_the_stream(site: Site) -> None:
    """The last that is told is the closed case; who comes later is told that alone."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)["id"]
    with followed(portal, case) as told:
        next(told)
        portal.post(f"/v1/cases/{case}/close").raise_for_status()
        last = list(told)
    with followed(portal, case) as told:
        later = list(told)

    assert "closed" == last[-1]["status"]
    assert ["closed"] == [one["status"] for one in later]


def test_a_stranger_cannot_follow_a_case(site: Site) -> None:
    """To another portal the case is not there."""
    case = site.open_case(site.client(PORTAL))["id"]
    answer = site.client(OTHER_PORTAL).get(f"/v1/cases/{case}/events")

    assert 404 == answer.status_code


def test_a_suspended_requester_is_told_nothing_more(site: Site) -> None:
    """Rule 5: a suspension ends the streams that were open before it."""
    portal, operator = site.client(OTHER_PORTAL), site.client(OPERATOR)
    case = site.open_case(portal)["id"]
    with followed(portal, case) as told:
        next(told)
        operator.put(_SUSPENSION, json={"reason": "a test"}).raise_for_status()
        _change(site, case)
        more = list(told)
    operator.delete(_SUSPENSION).raise_for_status()

    assert [] == more


def test_a_token_that_runs_out_ends_the_stream(site: Site) -> None:
    """A stream lasts no longer than the token that opened it."""
    portal, clock = site.client(PORTAL), _Clock()
    case = site.open_case(portal)["id"]
    gateway = site.gateway
    site.app.state.gateway = replace(gateway, clock=clock)
    try:
        with followed(portal, case) as told:
            next(told)
            clock.ahead = timedelta(hours=1)
            _change(site, case)
            more = list(told)
    finally:
        site.app.state.gateway = gateway

    assert [] == more
