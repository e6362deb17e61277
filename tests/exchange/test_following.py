"""A case is followed by server-sent events, for as long as its portal may read it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson
from typing_extensions import override

from exchange.resolver import Resolver
from exchange.token_request import Caller
from schemas.clock import SystemClock
from schemas.errors import LogUnavailableError
from schemas.ids import CaseId
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
def followed(
    client: httpx.Client, case: str, last: object = None
) -> Iterator[Iterator[dict[str, Any]]]:
    """Follow a case while the block lasts: what each event holds, in order.

    With `last` as one who was told that version and comes again.
    """
    headers = {} if last is None else {"last-event-id": str(last)}
    with client.stream("GET", f"/v1/cases/{case}/events", headers=headers) as stream:
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


def test_who_comes_again_is_told_what_is_newer(site: Site) -> None:
    """A version that was told is not told twice; any other id is told at once."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)["id"]
    with followed(portal, case) as told:
        version = next(told)["version"]
    with followed(portal, case, last=version) as told:
        _change(site, case)
        newer = next(told)["version"]
    firsts = []
    for other in (version, "no version", ""):
        with followed(portal, case, last=other) as told:
            firsts.append(next(told)["version"])

    assert newer > version
    assert [newer] * 3 == firsts


def test_who_was_told_that_a_case_is_closed_need_not_come_again(site: Site) -> None:
    """204 ends the reconnecting of clients (HTML, 9.2.3)."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)["id"]
    version = portal.post(f"/v1/cases/{case}/close").json()["version"]
    headers = {"last-event-id": str(version)}
    answer = portal.get(f"/v1/cases/{case}/events", headers=headers)

    assert (204, b"") == (answer.status_code, answer.content)


def test_a_stream_ends_whole_when_a_change_cannot_be_told(site: Site) -> None:
    """The log is down: the stream is not torn off, and who comes again hears why."""
    portal, down = site.client(PORTAL), list[bool]()

    class Interrupted(Resolver):
        @override
        async def read(self, case_id: CaseId, caller: Caller) -> bytes:
            if down:
                raise LogUnavailableError("the disk is full")
            return await Resolver.read(self, case_id, caller)

    case = site.open_case(portal)["id"]
    gateway = site.gateway
    parts = {
        f.name: getattr(gateway.resolver, f.name) for f in fields(Resolver) if f.init
    }
    site.app.state.gateway = replace(gateway, resolver=Interrupted(**parts))
    try:
        with followed(portal, case) as told:
            next(told)
            down.append(True)
            _change(site, case)
            more = list(told)
        again = portal.get(f"/v1/cases/{case}/events")
    finally:
        site.app.state.gateway = gateway

    assert [] == more
    assert 503 == again.status_code
    assert b"unexpected_error" not in site.output.getvalue()


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
