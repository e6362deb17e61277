"""The http connector against departments that are up to something."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

import orjson
import pytest
from typing_extensions import override

from connectors.client import ClientPolicy, ServiceClient
from connectors.department.app import build_app
from connectors.department.signing import Statement, sign_statement
from connectors.health import Health
from connectors.jose import SigningKey
from connectors.kinds.http import HttpConnector
from connectors.lookup import (
    Answered,
    Declined,
    Deferred,
    LookupRequest,
    NotCovered,
    NothingHeld,
    Reply,
)
from connectors.port import Connector
from connectors.problems import PROBLEM_STATUS, ProblemType, problem_body
from connectors.protocol import LookupClaims, open_lookup
from schemas.errors import ConnectorFaultError, ConnectorUnavailableError, Fault, Layer
from tests.connectors.examples import (
    DEPARTMENT_KEY,
    FATHER,
    GATEWAY,
    GATEWAY_KEY,
    MOTHER,
    NOW,
    STRANGERS_KEY,
    Entropy,
    FakeClock,
    a_config,
    a_request,
    pinned,
)
from tests.connectors.servers import Handle, misbehaving, reply, sending, serving

VALUES = {"status": "MARRIED", "spouse_id": FATHER}


def a_connector(url: str, health: Health | None = None) -> HttpConnector:
    """Return the connector of the department at `url`."""
    clock = FakeClock()
    client = ServiceClient(f"{url}/lookups", ClientPolicy.of("127.0.0.0/8"), clock)
    keys = pinned()
    return HttpConnector(
        GATEWAY, GATEWAY_KEY, client, lambda _: keys, clock, health=health
    )


def told(
    lookup: LookupClaims,
    key: SigningKey = DEPARTMENT_KEY,
    *,
    subject: str = MOTHER,
    fields: dict[str, object] | None = None,
    days_old: int = 0,
) -> bytes:
    """Return an answer that is right but for what is named."""
    statement = Statement(
        keys={"person_id": subject},
        as_of=NOW.replace(day=NOW.day - days_old),
        values=orjson.loads(orjson.dumps(VALUES if fields is None else fields)),
        match=None,
    )
    return sign_statement(statement, lookup, key, NOW, Entropy()).encode()


def department(answer: Callable[[LookupClaims], bytes]) -> Handle:
    """Return a department that reads the look-up and sends what `answer` makes."""

    def handle(connection: socket, request: bytes) -> None:
        token = request.partition(b"\r\n\r\n")[2].decode()
        connection.sendall(answer(open_lookup(token, pinned(GATEWAY_KEY))))

    return handle


async def asked(url: str, request: LookupRequest | None = None) -> object:
    """Return what one look-up at `url` comes to."""
    connector = a_connector(url)
    try:
        return await connector.fetch(request or a_request())
    finally:
        await connector.aclose()


@contextmanager
def a_department(folder: Path) -> Iterator[str]:
    """Run the real department service over the real register."""
    with serving(build_app(a_config(folder), clock=FakeClock())) as url:
        yield url


@pytest.mark.anyio
async def test_a_real_department_answers(tmp_path: Path) -> None:
    """From the register, over HTTP, through every check, to the portal's fields."""
    with a_department(tmp_path) as url:
        answer = await asked(url)

    assert isinstance(answer, Answered)
    assert VALUES == answer.evidence.values(["status", "spouse_id"])


FAULTY: dict[str, tuple[Fault, Handle]] = {
    "a wrong signature": (
        Fault.SIGNATURE,
        department(lambda c: reply(told(c, STRANGERS_KEY))),
    ),
    "another person's evidence": (
        Fault.SUBJECT,
        department(lambda c: reply(told(c, subject=FATHER))),
    ),
    "stale evidence": (Fault.STALE, department(lambda c: reply(told(c, days_old=2)))),
    "unasked fields": (
        Fault.UNASKED_FIELD,
        department(lambda c: reply(told(c, fields={**VALUES, "children": []}))),
    ),
    "too few fields": (
        Fault.MISSING_FIELD,
        department(lambda c: reply(told(c, fields={"status": "MARRIED"}))),
    ),
    "a misshapen field": (
        Fault.SCHEMA,
        department(lambda c: reply(told(c, fields={**VALUES, "status": 7}))),
    ),
    "an answer to another look-up": (
        Fault.LOOKUP,
        department(
            lambda c: reply(told(c.model_copy(update={"jti": "another-lookup"})))
        ),
    ),
    "ten megabytes": (
        Fault.TOO_LARGE,
        department(lambda c: reply(told(c) + b"A" * 10_000_000)),
    ),
    "an empty reply": (Fault.FORMAT, sending(reply(b""))),
    "half an SD-JWT, sent whole": (
        Fault.FORMAT,
        department(lambda c: reply(told(c)[:-20])),
    ),
    "half a problem, sent whole": (
        Fault.FORMAT,
        sending(
            reply(
                b'{"type":"https://errand.ex',
                status="404 No",
                media_type="application/problem+json",
            )
        ),
    ),
    "bytes that are no text": (Fault.FORMAT, sending(reply(b"\xff\xfe"))),
    "a redirect": (
        Fault.FORMAT,
        sending(reply(b"", "location: http://127.0.0.1:9/", status="302 There")),
    ),
    "a packed bomb": (
        Fault.FORMAT,
        sending(reply(gzip.compress(bytes(50_000_000)), "content-encoding: gzip")),
    ),
    "a wrong content type": (
        Fault.FORMAT,
        department(lambda c: reply(told(c), media_type="text/plain")),
    ),
    "a page in place of a problem": (
        Fault.FORMAT,
        sending(reply(b"<html>", status="404 No", media_type="text/html")),
    ),
    "a problem of its own": (
        Fault.FORMAT,
        sending(
            reply(b'{"type":"about:blank","status":404}', status="404 No").replace(
                b"application/sd-jwt", b"application/problem+json"
            )
        ),
    ),
    "a deferral of another look-up": (
        Fault.LOOKUP,
        sending(
            reply(
                b'{"lookup":"another-lookup","retry_at":"2026-01-09T00:00:00Z"}',
                status="202 Later",
                media_type="application/json",
            )
        ),
    ),
    "a deferral to two times": (
        Fault.FORMAT,
        department(
            lambda c: reply(
                b'{"lookup":"%s","retry_at":"2026-01-09T00:00:00Z",'
                b'"retry_at":"2026-02-09T00:00:00Z"}' % c.jti.encode(),
                status="202 Accepted",
                media_type="application/json",
            )
        ),
    ),
    "a deferral to no time of ours": (
        Fault.FORMAT,
        sending(
            reply(
                b'{"lookup":"another-lookup","retry_at":"0001-01-01T00:00:00+14:00"}',
                status="202 Later",
                media_type="application/json",
            )
        ),
    ),
    "a deferral without time": (
        Fault.FORMAT,
        sending(reply(b"{}", status="202 Later", media_type="application/json")),
    ),
}


@pytest.mark.parametrize("what", FAULTY)
@pytest.mark.anyio
async def test_a_wrong_answer_is_faulty(what: str) -> None:
    """Each way of answering wrongly has its own fault, and no value in its words."""
    fault, handle = FAULTY[what]
    with misbehaving(handle) as url, pytest.raises(ConnectorFaultError) as caught:
        await asked(url)

    assert fault is caught.value.fault
    assert MOTHER not in str(caught.value)
    assert FATHER not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "seconds"), [("502 Bad", None), ("503 No", 7.0), ("429 Many", 7.0)]
)
@pytest.mark.anyio
async def test_a_proxy_s_error_page_means_that_the_source_is_down(
    status: str, seconds: float | None
) -> None:
    """Whatever stands before the department speaks for it when it is down."""
    headers = [] if seconds is None else ["retry-after: 7"]
    page = reply(b"<html>", *headers, status=status, media_type="text/html")
    with (
        misbehaving(sending(page)) as url,
        pytest.raises(ConnectorUnavailableError) as caught,
    ):
        await asked(url)

    assert (Layer.SOURCE, seconds) == (caught.value.layer, caught.value.retry_after_s)


@pytest.mark.anyio
async def test_silence_is_unavailable() -> None:
    """A department that hangs up without a word can be asked again."""

    def hang_up(_connection: socket, _request: bytes) -> None:
        pass

    with (
        misbehaving(hang_up) as url,
        pytest.raises(ConnectorUnavailableError) as caught,
    ):
        await asked(url)

    assert Layer.SOURCE is caught.value.layer


@pytest.mark.anyio
async def test_a_reply_that_the_line_cuts_off_is_unavailable() -> None:
    """Half of what was announced is no wrong answer: the source is asked again."""
    with (
        misbehaving(department(lambda c: reply(told(c))[:-20])) as url,
        pytest.raises(ConnectorUnavailableError) as caught,
    ):
        await asked(url)

    assert Layer.SOURCE is caught.value.layer


@pytest.mark.anyio
async def test_a_department_that_never_answers_is_left_at_the_limit() -> None:
    """The time limit of the look-up holds, whatever the department does."""
    over = threading.Event()

    def hold(_connection: socket, _request: bytes) -> None:
        over.wait(30)

    with misbehaving(hold) as url:
        with pytest.raises(ConnectorUnavailableError, match="within") as caught:
            await asked(url, a_request(timeout_s=0.05))
        over.set()

    assert Layer.SOURCE is caught.value.layer


@pytest.mark.anyio
async def test_a_department_that_drips_is_left_at_the_limit() -> None:
    """One byte now and then does not keep a look-up alive."""
    over = threading.Event()

    def drip(connection: socket, _request: bytes) -> None:
        connection.sendall(reply(b"a" * 1000)[:-990])
        while not over.wait(0.01):
            connection.sendall(b"a")

    with misbehaving(drip) as url:
        with pytest.raises(ConnectorUnavailableError, match="within"):
            await asked(url, a_request(timeout_s=0.05))
        over.set()


def _problem(problem: ProblemType, code: str | None = None) -> bytes:
    body = problem_body(problem, "detail", code)
    status = f"{PROBLEM_STATUS[problem]} Problem"
    return reply(body, status=status, media_type="application/problem+json")


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ProblemType.NOT_HELD, NothingHeld()),
        (ProblemType.NOT_COVERED, NotCovered()),
        (ProblemType.DECLINED, Declined("sealed_file")),
    ],
)
@pytest.mark.anyio
async def test_what_a_department_says_is_an_answer(
    problem: ProblemType, expected: Reply
) -> None:
    """Nothing held, not covered and declined are answers, not errors."""
    code = "sealed_file" if problem is ProblemType.DECLINED else None
    with misbehaving(sending(_problem(problem, code))) as url:
        assert expected == await asked(url)


@pytest.mark.parametrize(
    ("problem", "layer"),
    [
        (ProblemType.OVERLOADED, Layer.SOURCE),
        (ProblemType.UNAVAILABLE, Layer.SOURCE),
        (ProblemType.UNKNOWN_EVIDENCE_TYPE, Layer.CONNECTOR),
        (ProblemType.INVALID_LOOKUP, Layer.GATEWAY),
        (ProblemType.NOT_TRUSTED, Layer.GATEWAY),
        (ProblemType.EXPIRED, Layer.GATEWAY),
        (ProblemType.REPLAYED, Layer.GATEWAY),
        (ProblemType.TOO_LARGE, Layer.GATEWAY),
    ],
)
@pytest.mark.anyio
async def test_what_a_department_can_t_answer_names_the_layer(
    problem: ProblemType, layer: Layer
) -> None:
    """Somebody has to look, and the layer says who."""
    with (
        misbehaving(sending(_problem(problem))) as url,
        pytest.raises(ConnectorUnavailableError) as caught,
    ):
        await asked(url)

    assert layer is caught.value.layer


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("2026-01-09T00:00:00Z", "2026-01-09T00:00:00+00:00"),
        ("2020-01-01T00:00:00Z", "2026-01-08T06:30:00+00:00"),
        ("9999-01-01T00:00:00Z", "2026-02-07T06:30:00+00:00"),
    ],
)
@pytest.mark.anyio
async def test_a_deferred_answer_says_when_within_reason(said: str, kept: str) -> None:
    """Never before now, and no later than in thirty days."""

    def later(lookup: LookupClaims) -> bytes:
        body = orjson.dumps({"lookup": lookup.jti, "retry_at": said})
        return reply(body, status="202 Later", media_type="application/json")

    with misbehaving(department(later)) as url:
        answer = await asked(url)

    assert isinstance(answer, Deferred)
    assert kept == answer.retry_at.isoformat()


@pytest.mark.anyio
async def test_a_service_that_is_down_is_not_hammered() -> None:
    """After five failures in a row the sixth look-up is not even sent."""
    seen: list[bytes] = []

    def count(_connection: socket, request: bytes) -> None:
        seen.append(request)

    health = Health()
    with misbehaving(count) as url:
        connector = a_connector(url, health)
        for _ in range(5):
            with pytest.raises(ConnectorUnavailableError):
                await connector.fetch(a_request())
        with pytest.raises(ConnectorUnavailableError) as caught:
            await connector.fetch(a_request())
        await connector.aclose()

    assert 5 == len(seen)
    assert 5.0 == caught.value.retry_after_s
    assert {"unavailable:source": 5, "held_back": 1} == (
        health.services["marriage_register"].outcomes
    )


@pytest.mark.anyio
async def test_a_wrong_answer_does_not_close_a_service() -> None:
    """One broken record is no reason to ask nothing of the register."""
    health = Health()
    with misbehaving(sending(reply(b"nonsense"))) as url:
        connector = a_connector(url, health)
        for _ in range(7):
            with pytest.raises(ConnectorFaultError):
                await connector.fetch(a_request())
        await connector.aclose()

    assert {"fault:format": 7} == health.services["marriage_register"].outcomes


class _Broken(Connector):
    """A kind that fails in a way that nobody foresaw."""

    @override
    async def _fetch(self, request: LookupRequest) -> Reply:
        raise RuntimeError(f"while asking about {request.keys}")

    @override
    async def aclose(self) -> None:
        """Close nothing."""


@pytest.mark.anyio
async def test_only_connector_errors_leave_the_port() -> None:
    """What a kind raises becomes the port's error, and its words stay inside."""
    connector = _Broken(lambda _: (), FakeClock())
    with pytest.raises(ConnectorUnavailableError, match="RuntimeError") as caught:
        await connector.fetch(a_request())

    assert Layer.CONNECTOR is caught.value.layer
    assert caught.value.__cause__ is None
    assert MOTHER not in str(caught.value)
