"""The gateway's clients as the demo plays them: a portal, a citizen app, an auditor.

They know the gateway by its API alone: a token for a signed assertion (RFC 7523), and
JSON. What the portal does between the answers, filing steps at the departments'
counters, is what portals do.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from connectors.jose import SigningKey
from exchange.assertions import client_assertion
from exchange.demo.lines import NO_TLS
from exchange.demo.report import Awaited, Count, Line
from exchange.identity import TOKEN_PATH
from exchange.token_request import ASSERTION_TYPE
from schemas.clock import Clock
from schemas.errors import ErrandError
from schemas.ids import new_ids

_RENEW_S = 30
"""How long before its end a token is renewed, in seconds."""
_TIMEOUT_S = 40.0

Json = Any  # what the API answers: read here, and checked by what is done with it


class PortalError(ErrandError):
    """The gateway or a department answered what the demo can't go on with."""


@dataclass(slots=True)
class _Token:
    value: str = ""
    until: float = 0.0


class Client:
    """One client of the gateway: asks for its tokens itself.

    Of a fleet it knows every gateway's address, as a load balancer does: when one is
    gone it turns to the next.
    """

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        key: SigningKey,
        scope: str,
        clock: Clock,
        *,
        audience: str | None = None,
    ) -> None:
        """Take the gateways' addresses, the client's id and key, and what it may do.

        Args:
            urls: Where the gateway, or the gateways of one fleet, can be reached.
            name: The client's id.
            key: What it signs with.
            scope: What it asks for.
            clock: Tells the time.
            audience: The gateway's public URL; None for the first of `urls`.
        """
        self._http = httpx.Client(timeout=_TIMEOUT_S, verify=NO_TLS)
        self._urls = list(urls)
        self._url = audience or urls[0]
        self._name = name
        self._key = key
        self._scope = scope
        self._clock = clock
        self._new_id = new_ids(clock)
        self._token = _Token()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: str) -> Json:
        """Return the JSON at a path.

        Raises:
            PortalError: The gateway answers otherwise.
        """
        return self._json(self._send("GET", path, params=query))

    def text(self, path: str, headers: Mapping[str, str]) -> str:
        """Return the text at a path.

        Raises:
            PortalError: The gateway answers otherwise.
        """
        answer = self._send("GET", path, headers=headers)
        if not answer.is_success:
            self._json(answer)
        return answer.text

    def post(
        self, path: str, body: Json = None, headers: Mapping[str, str] | None = None
    ) -> Json:
        """Post JSON to a path, and return the answer.

        Raises:
            PortalError: The gateway answers otherwise.
        """
        return self._json(self._send("POST", path, json=body, headers=headers))

    def events(self, path: str, seconds: float) -> Iterator[Json]:
        """Yield the data of server-sent events, for so many seconds at most.

        Raises:
            PortalError: The gateway answers otherwise.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                with self._http.stream(
                    "GET", self._urls[0] + path, headers=self._headers(), timeout=left
                ) as answer:
                    if not answer.is_success:
                        answer.read()
                        self._json(answer)
                    for line in answer.iter_lines():
                        if line.startswith("data: "):
                            yield orjson.loads(line.removeprefix("data: "))
            except httpx.ReadTimeout:
                return
            except httpx.TransportError as error:
                self._turn_away(self._urls[0], error)

    def token(self) -> str:
        """Return an access token that still holds for a while."""
        if time.monotonic() > self._token.until:
            self._renew()
        return self._token.value

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Callable[[], Mapping[str, str]] | None = None,
        **options: Any,  # noqa: ANN401 - httpx's own
    ) -> httpx.Response:
        """Send a request to the first gateway that is there.

        A request that was under way when its gateway went is sent again: what it
        creates carries an idempotency key, and a form is made anew.

        Raises:
            PortalError: None is there.
        """
        # A request for a token is known by its form, and carries none.
        own = self._headers() if form is None else {}
        sent = {**own, **(headers or {})}
        tried = 0
        while True:
            url = self._urls[0]
            try:
                data = form() if form else None
                return self._http.request(
                    method, url + path, headers=sent, data=data, **options
                )
            except httpx.TransportError as error:
                tried += 1
                if tried > 2 * len(self._urls):
                    raise PortalError(f"{method} {path}: no gateway answers") from error
                self._turn_away(url, error)

    def _turn_away(self, url: str, error: httpx.TransportError) -> None:
        """Ask another gateway from now on, if there is one.

        Raises:
            PortalError: There is no other.
        """
        if len(self._urls) == 1:
            raise PortalError(f"{url}: {type(error).__name__}") from error
        if self._urls[0] == url:
            self._urls = [*self._urls[1:], url]

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token()}"}

    def _renew(self) -> None:
        """Get a token: client credentials with private_key_jwt (RFC 7523, 2.2)."""
        answer = self._json(self._send("POST", TOKEN_PATH, form=self._asking))
        until = time.monotonic() + answer["expires_in"] - _RENEW_S
        self._token = _Token(answer["access_token"], until)

    def _asking(self) -> Mapping[str, str]:
        """Return the form that asks for a token; its assertion is good for once."""
        return {
            "grant_type": "client_credentials",
            "scope": self._scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": client_assertion(
                self._name,
                self._key,
                self._url + TOKEN_PATH,
                jti=self._new_id(),
                now=self._clock.now(),
            ),
        }

    @staticmethod
    def _json(answer: httpx.Response) -> Json:
        if not answer.is_success:
            place = f"{answer.request.method} {answer.request.url.path}"
            raise PortalError(f"{place}: {answer.status_code}: {answer.text[:500]}")
        return orjson.loads(answer.content)


@dataclass(frozen=True, slots=True)
class Answer:
    """A case as the gateway answered it."""

    document: Json

    @property
    def id(self) -> str:
        """The case's id."""
        return str(self.document["id"])

    @property
    def status(self) -> str:
        """`open`, `settled` or `closed`."""
        return str(self.document["status"])

    @property
    def outcomes(self) -> dict[str, Json]:
        """Each requirement with its outcome, by id."""
        return {one["id"]: one for one in self.document["requirements"]}

    def outcome(self, requirement: str) -> str:
        """Return what came of a requirement."""
        return str(self.outcomes[requirement]["outcome"])

    def unsettled(self) -> dict[str, str]:
        """Return the outcome of each requirement that has a next step, by id."""
        return {
            name: one["outcome"]
            for name, one in self.outcomes.items()
            if one["next_step"] is not None
        }

    def lines(self) -> tuple[Line, ...]:
        """Return the requirements as they are shown."""
        return tuple(
            Line(
                id=one["id"],
                name=f"{one['name']['zh']} {one['name']['en']}",
                outcome=one["outcome"],
                detail=_detail(one),
                provider=one["provider"],
                ms=one["elapsed_ms"],
                fields=tuple(one["fields"]),
                reason=one.get("reason"),
                hint=one.get("hint"),
                waits_for=_awaited(one["next_step"]),
            )
            for one in self.document["requirements"]
        )

    def receipts(self) -> dict[str, str]:
        """Return the signed receipts of what was released in this answer, by event."""
        return {one["event"]: one["note"] for one in self.document["receipts"]}

    def saved(self, what: str) -> Count:
        """Return the accounting of `papers` or `trips`."""
        count = self.document["accounting"][what]
        return Count(count["before"], count["after"])

    def presentations(self, requirements: Sequence[str]) -> list[str]:
        """Return the evidence that was passed on for some requirements, as SD-JWTs."""
        return [
            shown["sd_jwt"]
            for evidence in self.document["evidence"].values()
            for requirement, shown in evidence["presentations"].items()
            if requirement in requirements
        ]

    def evidence_fields(self) -> dict[str, set[str]]:
        """Return the names of the fields that were passed on, by requirement."""
        fields: dict[str, set[str]] = {}
        for evidence in self.document["evidence"].values():
            for requirement, shown in evidence["presentations"].items():
                fields.setdefault(requirement, set()).update(shown["fields"])
        return fields


def _awaited(step: Json) -> Awaited | None:
    """Return whom a next step waits for."""
    if step is None:
        return None
    return Awaited(step["owner"], step["owner_id"], step["action"])


def _detail(one: Json) -> str:
    """Return what an outcome says beside its kind."""
    parts = [
        str(one[member])
        for member in ("reason", "step", "hint", "concept", "fault", "role", "rule")
        if one.get(member)
    ]
    return " ".join(parts)


def file_step(
    counter: str, step: str, requester: str, presentations: Sequence[str]
) -> httpx.Response:
    """File a step at a department's counter; return its answer."""
    filing = {"step": step, "requester": requester, "presentations": presentations}
    return httpx.post(
        f"{counter}/demo/steps", json=filing, timeout=_TIMEOUT_S, verify=NO_TLS
    )


@dataclass(frozen=True, slots=True)
class Delays:
    """How long departments took: each one's delay, and all of them at once."""

    sum_ms: float
    """One after the other."""
    together_ms: float
    """As they were: what ran at the same time counts once."""


def delays_since(counters: Iterable[str], since_ms: float) -> Delays:
    """Return how long departments took since an instant of the monotonic clock.

    A department that is down tells nothing.
    """
    found: list[tuple[float, float]] = []
    for counter in counters:
        try:
            told = httpx.get(
                f"{counter}/demo/delays", timeout=_TIMEOUT_S, verify=NO_TLS
            ).json()
        except httpx.TransportError:
            continue
        found += [(at, ms) for at, ms in told["delays"] if at >= since_ms]
    return add_up(found)


def add_up(delays: Iterable[tuple[float, float]]) -> Delays:
    """Add delays up, each with its begin, in milliseconds.

    >>> add_up([(0, 40), (10, 40), (100, 20)])
    Delays(sum_ms=100.0, together_ms=70.0)
    """
    total = together = end = 0.0
    for begin, length in sorted(delays):
        total += length
        together += max(0.0, begin + length - max(begin, end))
        end = max(end, begin + length)
    return Delays(total, together)
