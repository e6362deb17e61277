"""What is no JSON of a request is refused, and each refusal says what to do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from exchange.api.complaints import _WORDS_OF_PATTERNS
from exchange.identity import TOKEN_PATH
from tests.harness.application import MOTHER, OPENING, PORTAL, Site

DOCS = Path(__file__).parents[2] / "docs"
CONTRACT = orjson.loads((DOCS / "openapi.json").read_bytes())
BODY = orjson.dumps(OPENING)
PATHS = ("/v1/cases", "/v1/explanations", "/v1/consents")
TYPES = ("application/json", "Application/JSON; charset=utf-8", "application/x+json")
MALFORMED = {
    b'{"matter": ' + MOTHER.encode(): "the body is not JSON",
    b'{"a": "' + b"\xff" + b'"}': "the body is not UTF-8",
    b"[" * 100_000: "the body is nested too deep",
    BODY.replace(b"true", b"NaN"): "the body is not JSON: numbers are finite",
    BODY.replace(b"true", b"-Infinity"): "the body is not JSON: numbers are finite",
    BODY.replace(b"true", b"9" * 5_000): "a number in the body is too large",
    BODY.replace(b"true", b"-1e999"): "a number in the body is too large",
    BODY[:-1]
    + b',"purpose":"statistics"}': "the body has an object with a member twice",
    BODY.replace(b'"name":', b'"id" :"x","name":'): (
        "the body has an object with a member twice"
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sent_as", TYPES)
@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
def test_what_another_parser_would_read_otherwise_is_refused(
    site: Site, path: str, raw: bytes, sent_as: str
) -> None:
    """Wherever it is sent, whatever it is called, with the reason, nothing of it."""
    before = site.gateway.log.size
    headers = {"content-type": sent_as}
    answer = site.client(PORTAL).post(path, content=raw, headers=headers)

    assert 400 == answer.status_code
    assert MALFORMED[raw] == answer.json()["detail"]
    assert before == site.gateway.log.size


def _taking_json() -> Iterator[tuple[str, str]]:
    """Yield method and path of each route of the contract that takes JSON."""
    for path, routes in CONTRACT["paths"].items():
        for method, route in routes.items():
            if "application/json" in route.get("requestBody", {}).get("content", ()):
                yield method, path


@pytest.mark.parametrize(("method", "path"), list(_taking_json()))
def test_every_route_reads_json_in_one_way_only(
    site: Site, method: str, path: str
) -> None:
    """None is made without it: the framework's own would take the second member."""
    place = re.sub(r"\{[a-z_]+\}", "0190a1b2-0000-7000-8000-000000000000", path)
    headers = {"content-type": "application/json"}
    answer = site.client(PORTAL).request(
        method, place, content=b'{"a": 1, "a": 2}', headers=headers
    )

    assert 400 == answer.status_code
    assert "the body has an object with a member twice" == answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/nosuch", 404), ("PUT", "/v1/cases", 405), ("POST", TOKEN_PATH, 400)],
)
def test_a_body_is_looked_at_where_it_is_wanted(
    site: Site, method: str, path: str, status: int
) -> None:
    """Before that, whoever asks is told what is wrong with the way there."""
    headers = {"content-type": "application/json"}
    answer = site.client(PORTAL).request(method, path, content=b"{", headers=headers)
    problem = answer.json()

    assert status == answer.status_code
    assert "not JSON" not in str(problem)
    assert ("error" in problem) == (path == TOKEN_PATH)


def test_a_text_with_colons_is_not_taken_for_a_member(site: Site) -> None:
    """The quick check hands it on, and the thorough one lets it pass."""
    body = {**OPENING, "actor": {"kind": "official", "id": "hall:window:3"}}
    answer = site.client(PORTAL).post(
        "/v1/cases", json=body, headers={"prefer": "wait=0"}
    )

    assert 201 == answer.status_code


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ([], {"": "must be an object"}),
        ({**OPENING, "subjects": []}, {"/subjects": "must be an object"}),
        (
            {**OPENING, "matter": "newborn"},
            {
                "/matter": "must be an id and its version, such as `newborn@1`: see "
                "`GET /v1/matters` and `GET /v1/evidence-types`"
            },
        ),
        ({**OPENING, "more": 1}, {"/more": "there is no such member"}),
        (
            {**OPENING, "purpose": None, "actor": {"kind": "system", "id": ""}},
            {
                "/purpose": "must be text",
                "/actor/id": "must have 1 or more characters",
            },
        ),
    ],
)
def test_each_complaint_says_what_would_be_right(
    site: Site, body: object, errors: dict[str, str]
) -> None:
    """In our own words: no library's."""
    answer = site.client(PORTAL).post("/v1/cases", json=body)
    found = {one["pointer"]: one["detail"] for one in answer.json()["errors"]}

    assert 422 == answer.status_code
    assert errors == found


def test_every_pattern_of_the_contract_has_its_words() -> None:
    """A regular expression is no help to whoever reads an answer."""
    contract = (DOCS / "openapi.json").read_text("utf-8")
    shown = set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', contract))

    assert {orjson.loads(one) for one in shown} <= set(_WORDS_OF_PATTERNS)


def test_a_body_over_the_limit_is_told_the_limit(site: Site) -> None:
    """In bytes, as it is set."""
    most = site.gateway.settings.body_limit
    answer = site.client(PORTAL).post("/v1/cases", content=b" " * (most + 1))

    assert 413 == answer.status_code
    assert f"the body may have {most} bytes at most" == answer.json()["detail"]


def test_the_example_of_a_problem_is_a_real_answer(site: Site) -> None:
    """`docs/problems.md` shows what the gateway says of a wrong check digit."""
    text = (DOCS / "problems.md").read_text("utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    mother = {"id": MOTHER[:-1] + "5", "name": "林云"}
    subjects = {"mother": mother, "newborn": {"birth_date": "2026-01-08"}}
    answer = site.client(PORTAL).post(
        "/v1/cases", json={**OPENING, "subjects": subjects}
    )

    assert json.loads(example) == answer.json()
