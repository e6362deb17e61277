"""The hot route answers as the route behind it does, whatever is sent."""

from typing import Any

import httpx
import orjson
import pytest

from exchange.resolver import Resolver
from tests.harness.application import OPENING, PORTAL, Site

THE_ROUTE = {"content-type": "application/json; charset=utf-8"}
"""With this the shortcut is passed by."""
SHORT = {"content-type": "application/json"}

_BODY: dict[str, Any] = dict(OPENING)
CASES: dict[str, tuple[bytes, dict[str, str]]] = {
    "well-formed": (orjson.dumps(_BODY), {}),
    "no time to wait": (orjson.dumps(_BODY), {"prefer": "wait=0"}),
    "a longer wait than there is": (orjson.dumps(_BODY), {"prefer": "wait=0010000"}),
    "a preference in capitals": (orjson.dumps(_BODY), {"prefer": 'WAIT = "0"'}),
    "a long preference": (orjson.dumps(_BODY), {"prefer": "wait=0;" + "x" * 300}),
    "a bad key": (orjson.dumps(_BODY), {"idempotency-key": "k\tk"}),
    "a long key": (orjson.dumps(_BODY), {"idempotency-key": "k" * 300}),
    "another purpose": (orjson.dumps({**_BODY, "purpose": "other"}), {}),
    "no such matter": (orjson.dumps({**_BODY, "matter": "other@1"}), {}),
    "no matter": (orjson.dumps({"purpose": "newborn_registration"}), {}),
    "an unknown member": (orjson.dumps({**_BODY, "more": 1}), {}),
    "a list": (b"[]", {}),
    "no JSON": (b"{", {}),
    "nothing": (b"", {}),
    "a wrong token": (orjson.dumps(_BODY), {"authorization": "Bearer x"}),
    "another scheme": (orjson.dumps(_BODY), {"authorization": "Basic x"}),
    "too much": (b'{"matter":"' + b"x" * 300_000 + b'"}', {}),
}


@pytest.mark.parametrize("name", CASES)
def test_both_ways_answer_alike(site: Site, name: str) -> None:
    """Status, headers and body are the same but for what is made anew."""
    body, headers = CASES[name]
    portal = site.client(PORTAL)
    expected, actual = (
        portal.post("/v1/cases", content=body, headers={**way, **headers})
        for way in (THE_ROUTE, SHORT)
    )

    assert expected.status_code == actual.status_code
    assert sorted(expected.headers) == sorted(actual.headers)
    applied = "preference-applied"
    assert expected.headers.get(applied) == actual.headers.get(applied)
    assert _lasting(expected) == _lasting(actual)


def test_the_same_key_is_the_same_case_both_ways(site: Site) -> None:
    """A repetition is recognised whichever way either request came."""
    portal, body = site.client(PORTAL), orjson.dumps(_BODY)
    opened = [
        portal.post(
            "/v1/cases", content=body, headers={**way, "idempotency-key": "both-ways"}
        ).json()["id"]
        for way in (SHORT, THE_ROUTE, SHORT)
    ]

    assert 1 == len(set(opened))


@pytest.mark.parametrize("way", [THE_ROUTE, SHORT], ids=["the route", "the shortcut"])
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("Authorization", ["Bearer x"]),
        ("Content-Type", ["application/json"]),
        ("Idempotency-Key", ["key-1", "key-2"]),
    ],
)
def test_a_header_that_comes_twice_is_refused_either_way(
    site: Site, way: dict[str, str], name: str, others: list[str]
) -> None:
    """Of two tokens, types or keys none is chosen, wherever the other stands."""
    portal = site.client(PORTAL)
    sent = [("authorization", portal.headers["authorization"]), *way.items()]
    again = [(name.lower(), other) for other in others]
    for headers in (sent + again, again + sent):
        request = httpx.Request(
            "POST", f"{site.url}/v1/cases", headers=headers, content=orjson.dumps(_BODY)
        )
        answer = portal.send(request)

        assert 422 == answer.status_code
        assert [{"header": name, "detail": "must come once"}] == answer.json()["errors"]


@pytest.mark.parametrize("way", [THE_ROUTE, SHORT], ids=["the route", "the shortcut"])
def test_preferences_on_several_lines_are_one_list(
    site: Site, way: dict[str, str]
) -> None:
    """As RFC 7240 has it: whichever line says how long to wait."""
    portal = site.client(PORTAL)
    sent = [("authorization", portal.headers["authorization"]), *way.items()]
    preferred = [("prefer", "respond-async"), ("prefer", "wait=0")]
    request = httpx.Request(
        "POST",
        f"{site.url}/v1/cases",
        headers=sent + preferred,
        content=orjson.dumps(_BODY),
    )

    assert "wait=0" == portal.send(request).headers["preference-applied"]


def test_both_ways_are_counted_as_one_route(site: Site) -> None:
    """The access log and the metrics name the route, not the way."""
    portal = site.client(PORTAL)
    for way in (THE_ROUTE, SHORT):
        portal.post("/v1/cases", content=orjson.dumps(_BODY), headers=way)
    lines = [orjson.loads(line) for line in site.output.getvalue().splitlines()]
    told = [line for line in lines if line.get("route") == "/v1/cases"][-2:]

    assert [(PORTAL, 201)] * 2 == [(line["client"], line["status"]) for line in told]


@pytest.mark.parametrize("way", [THE_ROUTE, SHORT], ids=["the route", "the shortcut"])
def test_an_unexpected_error_is_a_problem_either_way(
    site: Site, monkeypatch: pytest.MonkeyPatch, way: dict[str, str]
) -> None:
    """Whoever meets it, it is answered as a problem and logged once, without words."""

    async def fail(*_args: object) -> None:
        raise KeyError(PORTAL)

    monkeypatch.setattr(Resolver, "open", fail)
    portal = site.client(PORTAL)
    answer = portal.post("/v1/cases", content=CASES["well-formed"][0], headers=way)
    portal.get("/health/live")  # the line before was written when this is answered
    lines = [orjson.loads(line) for line in site.output.getvalue().splitlines()]
    request = answer.headers["x-request-id"]
    told = [line for line in lines if line.get("request") == request]

    assert 500 == answer.status_code
    assert answer.json()["type"].endswith("/internal-error")
    assert "no-store" == answer.headers["cache-control"]
    assert ["unexpected_error", "request"] == [line["event"] for line in told]
    assert "KeyError" == told[0]["error"]


def _lasting(answer: httpx.Response) -> object:
    """Return the part of an answer that another case would share."""
    document = answer.json()
    if "requirements" not in document:
        return document
    return [
        (one["id"], one["outcome"], one["fields"]) for one in document["requirements"]
    ]
