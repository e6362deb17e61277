"""No answer repeats what a request held, wherever in the body it stood (rule 8)."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import JsonValue

from exchange.intake import check_opening
from schemas.clock import SystemClock, day_in_beijing
from schemas.errors import InvalidRequestError
from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    FATHER,
    MOTHER,
    OPENING,
    OPERATOR,
    PORTAL,
    Site,
)

Json = dict[str, Any]

PLANTED = ("110101199003074258", "n110101199003074258", "欧阳慕容")
"""An id, an id that could be a name of a member, and a person's name."""

PYDANTICS_WORDS = re.compile(r"(?i)input should|field required|valid (dict|list|int)")

_WHO = {"person": {"id": FATHER}}
_FIELDS = {"household@1": ["household_no"]}
_NOW = SystemClock().now()
_TODAY = day_in_beijing(_NOW)
_AGENT = {
    "kind": "agent",
    "id": MOTHER,
    "mandate": "0" * 8 + "-0000-7000-8000-" + "0" * 12,
}

_ERASED = {
    "subject": {"namespace": "citizen_id", "id": MOTHER},
    "reason": "file-2026-118",
}

BODIES: dict[str, tuple[str, Json]] = {
    "/v1/cases": (PORTAL, OPENING),
    "/v1/cases?by=agent": (PORTAL, {**OPENING, "actor": _AGENT}),
    "/v1/cases/{case}/answers": (
        PORTAL,
        {
            "subjects": {"father": {"id": FATHER, "name": "林云"}},
            "answers": {"parents_married": True},
            "commitments": ["birth"],
            "supplied": {"birth": "not_held"},
        },
    ),
    "/v1/consents": (
        PORTAL,
        {
            "case": "{case}",
            **_WHO,
            "role": "father",
            "fields": _FIELDS,
            "whole_matter": False,
            "lifetime_s": 600,
            "uses": 1,
        },
    ),
    "/v1/consents/search": (CITIZEN, _WHO),
    "/v1/consents/{consent}/give": (
        CITIZEN,
        {
            **_WHO,
            "version": 7,
            "fields": _FIELDS,
            "expires_at": (_NOW + timedelta(hours=1)).isoformat(),
            "uses": 1,
        },
    ),
    "/v1/consents/{consent}/refuse": (CITIZEN, _WHO),
    "/v1/consents/{consent}/withdraw": (CITIZEN, _WHO),
    "/v1/mandates": (
        CITIZEN,
        {
            "principal": {"id": MOTHER},
            "role": "mother",
            "agent": {"id": FATHER},
            "requester": PORTAL,
            "matters": ["newborn"],
            "powers": ["commit"],
            "valid_from": _NOW.isoformat(),
            "valid_until": (_NOW + timedelta(days=2)).isoformat(),
            "authentication": {"method": "face", "at": _NOW.isoformat()},
        },
    ),
    "/v1/mandates/search": (CITIZEN, _WHO),
    "/v1/mandates/{mandate}/revoke": (CITIZEN, _WHO),
    "/v1/audit/erasures": (OPERATOR, _ERASED),
    "/v1/audit/erasures?of=shard": (
        OPERATOR,
        {"shard": "errand.example/2030h1", "reason": "file-2026-118"},
    ),
    "/v1/audit/holds": (AUDITOR, _ERASED),
    "/v1/audit/holds?on=shard": (
        AUDITOR,
        {"shard": "errand.example/2030h1", "reason": "file-2026-118"},
    ),
    "/v1/audit/holds/{hold}/release": (AUDITOR, {"reason": "file-2026-119"}),
    "/v1/audit/subject-keys": (AUDITOR, _ERASED),
    "/v1/explanations": (
        PORTAL,
        {name: part for name, part in OPENING.items() if name != "actor"},
    ),
}
"""A body for each operation that takes one, with every member that it may have."""


@pytest.fixture(scope="module")
def ids(site: Site) -> dict[str, str]:
    """Return the ids of a case, of a consent asked in it, and of no mandate."""
    portal = site.client(PORTAL)
    case = site.open_case(portal)["id"]
    body = {"case": case, **_WHO, "role": "father", "fields": _FIELDS}
    consent = portal.post("/v1/consents", json=body).json()["id"]
    return {
        "{case}": case,
        "{consent}": consent,
        "{mandate}": _AGENT["mandate"],
        "{hold}": _AGENT["mandate"],
    }


def planted_in(value: JsonValue, plant: str) -> Iterator[JsonValue]:
    """Give a document once for each leaf and each member's name, with the plant there.

    A member also comes in addition to the others, and a leaf also as what holds it.
    """
    yield plant
    if isinstance(value, dict):
        yield {**value, plant: plant}
        for name, part in value.items():
            others = {n: p for n, p in value.items() if n != name}
            yield {**others, plant: part}
            yield from ({**value, name: other} for other in planted_in(part, plant))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            for other in planted_in(part, plant):
                yield [*value[:place], other, *value[place + 1 :]]
    else:
        yield {plant: plant}
        yield [plant]


def filled_in(value: JsonValue, ids: dict[str, str]) -> JsonValue:
    """Return a document with the ids that its leaves stand for."""
    if isinstance(value, dict):
        return {name: filled_in(part, ids) for name, part in value.items()}
    return ids.get(value, value) if isinstance(value, str) else value


def leads_somewhere(error: dict[str, str], document: JsonValue) -> bool:
    """Tell whether a pointer leads to a part of a document, or to where one belongs."""
    if "pointer" not in error:
        return False
    *above, last = ["", *error["pointer"].split("/")[1:]]
    value = document
    for part in above[1:]:
        if part == "*":
            return True  # what it stands for is not told
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
    if isinstance(value, dict):
        return last in {"", "*", *value} or "required" in error["detail"]
    return last in {"", "*"} or (isinstance(value, list) and last.isdigit())


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("path", BODIES)
def test_nothing_that_is_planted_in_a_body_comes_back(
    site: Site, ids: dict[str, str], path: str, plant: str
) -> None:
    """In no leaf and under no name, whatever else is wrong with the request."""
    name, body = BODIES[path]
    client, where = site.client(name), path
    for stands_for, given in ids.items():
        where = where.replace(stands_for, given)
    answers = [
        client.post(where, json=sent, headers={"prefer": "wait=0"})
        for sent in planted_in(filled_in(body, ids), plant)
    ]

    documents = list(planted_in(filled_in(body, ids), plant))
    for sent, one in zip(documents, answers, strict=True):
        errors = [] if one.is_success else one.json().get("errors", [])
        assert [e for e in errors if not leads_somewhere(e, sent)] == []
    assert [one.text for one in answers if plant in one.text] == []
    assert [one.status_code for one in answers if one.status_code >= 500] == []
    assert {400, 403, 404, 409, 422} & {one.status_code for one in answers}
    assert [] == [one.text for one in answers if PYDANTICS_WORDS.search(one.text)]


def test_a_complaint_about_a_name_with_many_digits_holds_a_star(site: Site) -> None:
    """A role, a fact and a question that there are not: none is repeated inside."""
    matter = site.gateway.pack.matters["newborn@1"]
    subjects = {
        "mother": {"id": MOTHER},
        "newborn": {"f199001": "x"},
        "n199001": {"id": "x"},
    }
    with pytest.raises(InvalidRequestError) as caught:
        check_opening(
            matter, "newborn_registration", subjects, {"q199001": "x"}, _TODAY
        )
    paths = [one.path for one in caught.value.complaints]

    assert {"/subjects/*", "/subjects/newborn/*", "/answers/*"} <= set(paths)
    assert "199001" not in str(caught.value)


def test_every_operation_with_a_body_is_planted_in(site: Site) -> None:
    """A new operation has to be added above."""
    paths = site.app.openapi()["paths"]
    takes_json = {
        path
        for path, methods in paths.items()
        if "application/json"
        in methods.get("post", {}).get("requestBody", {}).get("content", {})
    }

    assert {path.partition("?")[0] for path in BODIES} == takes_json


@pytest.mark.parametrize(
    "outcome", ["faulty.format", "unavailable.source", "denied.consent_withdrawn"]
)
def test_outcomes_of_two_words_can_be_asked_for(site: Site, outcome: str) -> None:
    """Every outcome that a record may hold is one that an auditor may ask for."""
    answer = site.client(AUDITOR).get("/v1/audit/records", params={"outcome": outcome})

    assert answer.status_code == 200, answer.text


def test_a_kind_of_actor_that_there_is_not_is_answered_with_those_there_are(
    site: Site,
) -> None:
    """Which are right is said; which was sent is not."""
    body = {**OPENING, "actor": {"kind": PLANTED[0], "id": "window-3"}}
    answer = site.client(PORTAL).post("/v1/cases", json=body)
    [error] = answer.json()["errors"]

    assert error["pointer"] == "/actor"
    assert error["detail"].startswith("must be one of 'official'")


@pytest.mark.parametrize(
    ("more", "errors"),
    [
        ({"answers": {"phone": 7}}, {"/answers/phone": "`true` or `false`, or"}),
        ({"answers": {"bool": {"bool": "x"}}}, {"/answers/bool": "`true` or `false`"}),
        ({"actor": {"kind": "system", "id": "a b"}}, {"/actor/id": "letters, digits"}),
        ({"actor": {"kind": "system"}}, {"/actor/id": "required"}),
        ({"actor": {"id": "window-3"}}, {"/actor": "'kind' is missing"}),
        ({"subjects": {"mother": {"i-d": "x"}}}, {"/subjects/mother/i-d": "the name"}),
        ({"subjects": {"mother": {"a/b~": 1}}}, {"/subjects/mother/*": "the name"}),
    ],
)
def test_a_pointer_leads_into_the_request_s_own_json(
    site: Site, more: Json, errors: dict[str, str]
) -> None:
    """No name of a class and no tag of a union stands in it."""
    answer = site.client(PORTAL).post("/v1/cases", json={**OPENING, **more})
    found = {one["pointer"]: one["detail"] for one in answer.json()["errors"]}

    assert set(errors) == set(found)
    for pointer, words in errors.items():
        assert words in found[pointer] or pointer.endswith("*")
