"""The edge of the API: problems, limits, ids, and what is written about requests."""

import io
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import httpx
import orjson
import pytest
import structlog
from fastapi import FastAPI, Query
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from exchange.api import problems
from exchange.api.edge import Edge, Limits, _trace_of
from exchange.api.problems import PROBLEMS, of_error, problem
from exchange.api.strict import StrictRoute
from exchange.settings import parse_settings
from exchange.telemetry import Metrics, configure_logs
from schemas.errors import (
    Complaint,
    ConnectorFaultError,
    ErrandError,
    Fault,
    ForbiddenError,
    InvalidRequestError,
    LogUnavailableError,
    NotFoundError,
    PurposeNotAllowedError,
    ScopeMissingError,
    StoreUnavailableError,
    UnauthenticatedError,
)
from schemas.model import Model

PLANTED = "110101199003074258"
"""Stands for a person's value: it may come back nowhere."""

_JSON = {"content-type": "application/json"}

pytestmark = pytest.mark.anyio


class _Clock:
    def now(self) -> datetime:
        return datetime(2026, 1, 8, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def _never_right(_value: str) -> str:
    raise ValueError("must be something else")


class _Mother(Model):
    id: Annotated[str, Field(pattern=r"^[a-z]+$")]
    checked: Annotated[str, AfterValidator(_never_right)] | None = None
    kind: Literal["official", "system"] = "system"


class _Body(Model):
    mother: _Mother
    count: int = 0


@dataclass
class _Site:
    """A small application behind the edge."""

    metrics: Metrics = field(default_factory=Metrics)
    output: io.BytesIO = field(default_factory=io.BytesIO)
    error: Exception = field(default_factory=ErrandError)
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self.app.router.route_class = StrictRoute
        problems.install(self.app)

        @self.app.post("/things/{thing}")
        async def post_thing(
            thing: str, body: _Body, most: Annotated[int, Query(le=10)] = 1
        ) -> dict[str, object]:
            return {"thing": thing, "count": body.count + most}

        @self.app.get("/fails")
        async def fail() -> None:
            raise self.error

        self.app.add_middleware(
            Edge,
            limits=Limits(body_bytes=1_000, in_flight=1),
            metrics=self.metrics,
            clock=_Clock(),
            new_id=lambda: "0190c000-0000-7000-8000-000000000001",
        )

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open a client of the application."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x", headers=_JSON
        ) as made:
            yield made

    def log(self) -> list[dict[str, object]]:
        """Return the events that were written."""
        return [orjson.loads(line) for line in self.output.getvalue().splitlines()]


@pytest.fixture
def site() -> Iterator[_Site]:
    """An application whose log is kept."""
    made = _Site()
    configure_logs(parse_settings("log_level: debug", {}, _here()), made.output)
    yield made
    structlog.reset_defaults()


def _here() -> Path:
    return Path.cwd()


@pytest.mark.parametrize(
    ("error", "slug", "status"),
    [
        (NotFoundError("no case of that id"), "not-found", 404),
        (ForbiddenError("not yours"), "forbidden", 403),
        (ScopeMissingError("scope `portal` is missing"), "scope-missing", 403),
        (PurposeNotAllowedError("not for this"), "purpose-not-allowed", 403),
        (UnauthenticatedError("no token"), "unauthenticated", 401),
        (LogUnavailableError("disk full"), "log-unavailable", 503),
        (StoreUnavailableError("busy"), "store-unavailable", 503),
        (ConnectorFaultError(Fault.SCHEMA, "wrong"), "department-failed", 502),
        (ErrandError("?"), "internal-error", 500),
    ],
)
async def test_each_error_is_answered_with_its_type(
    site: _Site, error: ErrandError, slug: str, status: int
) -> None:
    """A program decides by the problem's type, whatever the words are."""
    site.error = error
    async with site.client() as client:
        answer = await client.get("/fails")

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"https://errand.example/problems/{slug}"
    assert answer.json()["status"] == status


async def test_a_fault_inside_is_not_told_to_the_caller(site: _Site) -> None:
    """What the exchange's own failure says stays inside."""
    site.error = LogUnavailableError(f"could not write {PLANTED}")
    async with site.client() as client:
        answer = await client.get("/fails")

    assert PLANTED not in answer.text
    assert answer.headers["retry-after"] == "5"


async def test_an_unexpected_error_is_a_problem_and_an_event_without_its_message(
    site: _Site,
) -> None:
    """The log says what kind of error and where; neither it nor the answer quotes."""
    site.error = KeyError(PLANTED)
    async with site.client() as client:
        answer = await client.get("/fails")
    event = next(e for e in site.log() if e["event"] == "unexpected_error")

    assert answer.status_code == 500
    assert answer.json()["type"].endswith("/internal-error")
    assert event["error"] == "KeyError"
    assert event["request"] == answer.headers["x-request-id"]
    assert PLANTED not in answer.text
    assert PLANTED.encode() not in site.output.getvalue()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"mother": {"id": PLANTED}}, "/mother/id"),
        ({"mother": {"id": "a", "checked": PLANTED}}, "/mother/checked"),
        ({"mother": {"id": "a", "kind": PLANTED}}, "/mother/kind"),
        ({"mother": {"id": "a"}, "count": PLANTED + "x"}, "/count"),
        ({"mother": {"id": "a"}, "grandfather": {}}, "/grandfather"),
        ({"mother": {"id": "a"}, PLANTED: PLANTED}, "/*"),
        ({"mother": {"id": "a"}, "张三": PLANTED}, "/*"),
        ({}, "/mother"),
        ([PLANTED], ""),
    ],
)
async def test_a_wrong_part_is_named_and_its_value_is_not(
    site: _Site, body: object, pointer: str
) -> None:
    """The pointer says where; neither answer, log nor metrics repeat what was sent."""
    async with site.client() as client:
        answer = await client.post("/things/x", content=orjson.dumps(body))

    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert PLANTED not in answer.text
    assert PLANTED.encode() not in site.output.getvalue()
    assert PLANTED.encode() not in site.metrics.text()


async def test_a_wrong_query_is_named(site: _Site) -> None:
    """A part that is not in the body says where it is."""
    async with site.client() as client:
        answer = await client.post(
            "/things/x", params={"most": 11}, json={"mother": {"id": "a"}}
        )

    assert answer.json()["errors"] == [
        {"parameter": "most", "detail": "must be 10 at most"}
    ]


async def test_a_body_that_is_not_json_is_malformed(site: _Site) -> None:
    """Half a body can't be spoken about in parts."""
    async with site.client() as client:
        answer = await client.post(
            "/things/x", content=b'{"mother": ' + PLANTED.encode()
        )

    assert answer.status_code == 400
    assert answer.json()["type"].endswith("/malformed-request")
    assert PLANTED not in answer.text


async def test_a_body_of_another_type_is_malformed(site: _Site) -> None:
    """The answer says how to send it."""
    headers = {"content-type": "text/plain"}
    async with site.client() as client:
        answer = await client.post("/things/x", content=b"{}", headers=headers)

    assert answer.status_code == 400
    assert "application/json" in answer.json()["detail"]


def _coded(coding: str) -> dict[str, str]:
    return {"content-encoding": coding}


@pytest.mark.parametrize("coding", ["gzip", "identity, br", ""])
async def test_a_body_in_a_coding_is_malformed(site: _Site, coding: str) -> None:
    """It would be read as it stands, which is not what the client meant."""
    async with site.client() as client:
        answers = [
            await client.post(
                "/things/x", json={"mother": {"id": "a"}}, headers=_coded(one)
            )
            for one in (coding, "Identity ")
        ]

    assert [400, 200] == [one.status_code for one in answers]
    assert "without a `Content-Encoding`" in answers[0].json()["detail"]


async def test_an_unknown_route_and_method_are_problems(site: _Site) -> None:
    """What the router refuses has a type too, and its path is not written down."""
    async with site.client() as client:
        nothing = await client.get(f"/{PLANTED}")
        method = await client.delete("/fails")

    assert nothing.json()["type"].endswith("/not-found")
    assert method.json()["type"].endswith("/method-not-allowed")
    assert method.headers["allow"] == "GET"
    assert PLANTED.encode() not in site.output.getvalue() + site.metrics.text()


async def test_a_body_over_the_limit_is_refused_before_it_is_read(site: _Site) -> None:
    """A length that is announced is enough to refuse: not one piece is asked for."""
    read: list[Message] = []

    async def receive() -> Message:
        read.append({})
        return {"type": "http.request", "body": b"x" * 2_000, "more_body": False}

    status, _ = await _call(site.app, receive, length=2_000)

    assert status == 413
    assert read == []


async def test_a_body_without_a_length_is_cut_off_at_the_limit(site: _Site) -> None:
    """Pieces are read up to the limit and no further."""
    read: list[int] = []

    async def receive() -> Message:
        read.append(400)
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    status, body = await _call(site.app, receive, length=None)

    assert status == 413
    assert orjson.loads(body)["type"].endswith("/too-large")
    assert sum(read) == 1_200


@pytest.mark.parametrize("status", [400, 413])
async def test_the_words_of_others_are_not_passed_on(site: _Site, status: int) -> None:
    """Whatever is refused: a library's message could quote the request."""
    site.error = HTTPException(status, f"no such thing as {PLANTED}")
    async with site.client() as client:
        answer = await client.get("/fails")

    assert status == answer.status_code
    assert "detail" not in answer.json()


async def _call(
    app: FastAPI, receive: Receive, length: int | None
) -> tuple[int, bytes]:
    """Post to the application as a server does; return status and body."""
    headers = [(b"content-type", b"application/json")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/things/x",
        "raw_path": b"/things/x",
        "query_string": b"",
        "headers": headers,
        "root_path": "",
        "scheme": "http",
        "server": ("x", 80),
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


async def test_more_requests_than_the_limit_are_refused(site: _Site) -> None:
    """One more than is worked on at once is told to come back."""

    @site.app.get("/nested")
    async def nested() -> int:
        async with site.client() as inner:
            answer = await inner.get("/fails")
        assert answer.json()["type"].endswith("/too-busy")
        return answer.status_code

    async with site.client() as client:
        answer = await client.get("/nested")

    assert answer.json() == 503


async def test_every_answer_has_an_id_and_is_not_kept_by_others(site: _Site) -> None:
    """The id in the answer is the one in the log; no cache keeps what is answered."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with site.client() as client:
        answer = await client.post(
            "/things/secret",
            json={"mother": {"id": "a"}},
            headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
    (event,) = site.log()

    assert answer.json() == {"thing": "secret", "count": 1}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == event["request"]
    assert event["trace"] == trace
    assert event["route"] == "/things/{thing}"
    assert event["status"] == 200


TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "sent",
    [
        [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01-{PLANTED}"],
        [f"00-{TRACE}-{PARENT}-01-"],
        [f"01-{TRACE}-{PARENT}-01more"],
        [f"ff-{TRACE}-{PARENT}-01-more"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{PLANTED}-{PARENT}-01"],
        [PLANTED],
        [""],
    ],
)
async def test_a_trace_that_is_wrong_or_comes_twice_is_not_taken_up(
    site: _Site, sent: Sequence[str]
) -> None:
    """It is no error either: the request begins a trace of its own."""
    headers = [("traceparent", one) for one in sent]
    async with site.client() as client:
        answer = await client.post(
            "/things/secret", json={"mother": {"id": "a"}}, headers=headers
        )
    (event,) = site.log()

    assert 200 == answer.status_code
    assert str(event["request"]).replace("-", "") == event["trace"]
    assert PLANTED not in str(event)


async def test_the_log_has_nothing_of_what_a_client_sends_but_a_trace(
    site: _Site,
) -> None:
    """Neither what stands beside it, nor any other header, path, query or body."""
    names = ("tracestate", "baggage", "x-request-id", "user-agent", "referer", "x-b3")
    async with site.client() as client:
        await client.post(
            f"/things/{PLANTED}?q={PLANTED}",
            json={"mother": {"id": PLANTED}},
            headers={
                "traceparent": f"00-{TRACE}-{PARENT}-01",
                **dict.fromkeys(names, PLANTED),
            },
        )
    (event,) = site.log()

    assert TRACE == event["trace"]
    assert PARENT not in str(event)
    assert PLANTED not in str(event)


@given(
    st.text("0123456789abcdefABCDEFg-\n ", max_size=60)
    | st.from_regex(
        r"\A(00|[0-9a-f]{2})-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[^z]*|[0-9a-f])?\Z"
    )
)
@example(f"cc-{TRACE}-{PARENT}-01-what the future will be like")
def test_a_trace_is_taken_up_exactly_when_it_is_one(sent: str) -> None:
    """55 characters, lower case, of a version that there can be, and no zero id.

    What a later version writes behind them, after a dash, is not looked at.
    """
    parts = sent.split("-", 4)
    known = parts[:4]
    hexadecimal = all(set(part) <= set("0123456789abcdef") for part in known)
    is_one = (
        [2, 32, 16, 2] == [len(part) for part in known]
        and hexadecimal
        and parts[0] != "ff"
        and (parts[0] != "00" or len(parts) == 4)
        and {"0"} not in (set(parts[1]), set(parts[2]))
    )

    assert (parts[1] if is_one else None) == _trace_of([sent.encode()])


async def test_metrics_count_by_route_and_never_by_path(site: _Site) -> None:
    """What a caller puts into a path or a method makes no label."""
    async with site.client() as client:
        await client.post(f"/things/{PLANTED}", json={"mother": {"id": "a"}})
        await client.request(f"X{PLANTED}", "/fails")
    text = site.metrics.text().decode()

    assert (
        'errand_requests_total{method="POST",route="/things/{thing}",status="200"} 1.0'
        in text
    )
    assert 'method="OTHER"' in text
    assert PLANTED not in text


def test_every_error_of_the_tree_has_a_problem() -> None:
    """Whatever is raised on purpose is answered with a listed type."""

    def tree(kind: type[ErrandError]) -> list[type[ErrandError]]:
        return [kind, *(one for sub in kind.__subclasses__() for one in tree(sub))]

    found = {of_error(kind.__new__(kind)) for kind in tree(ErrandError)}

    assert found <= set(PROBLEMS)


def test_problem_types_are_distinct() -> None:
    """No two problems share a type."""
    assert len({kind.uri for kind in PROBLEMS}) == len(PROBLEMS)


@given(st.text(max_size=80))
def test_a_pointer_never_repeats_what_could_be_a_value(token: str) -> None:
    """Digits as in an id, or other scripts, as a member's name come out as a star."""
    path = f"/mother/{PLANTED}{token}".replace("~", "~0")
    answer = problem(
        of_error(InvalidRequestError(Complaint(path, "wrong"))),
        complaints=[Complaint(path, "wrong")],
    )

    assert PLANTED.encode() not in bytes(answer.body)
