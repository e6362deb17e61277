"""What a client sends has the type that the contract names: nothing is converted."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.routing import APIRoute
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from exchange.api import (
    audit,
    cases,
    consents,
    directory,
    erasures,
    explanations,
    mandates,
)
from exchange.api.cases import OpenCaseRequest
from exchange.api.strict import read_json
from tests.harness.application import CITIZEN, MOTHER, OPENING, PORTAL, Site

CONTRACT = orjson.loads(
    (Path(__file__).parents[2] / "docs" / "openapi.json").read_bytes()
)
ID = "0190a1b2-0000-7000-8000-000000000000"
MANDATE = {
    "principal": {"id": MOTHER},
    "role": "mother",
    "agent": {"id": MOTHER},
    "requester": PORTAL,
    "matters": ["newborn"],
    "powers": ["apply"],
    "valid_from": "2026-01-08T14:30:00+08:00",
    "valid_until": "2026-02-08T14:30:00.5z",
    "authentication": {"method": "face", "at": "2026-01-08t06:29:00Z"},
}
CONSENT = {
    "case": ID,
    "person": {"id": MOTHER},
    "role": "mother",
    "fields": {"birth_certificate@1": ["birth_date"], "marriage@1": None},
    "whole_matter": True,
    "lifetime_s": 3600,
    "uses": 3,
}
SAMPLES: Mapping[str, Any] = {
    "OpenCaseRequest": OPENING,
    "AddRequest": {
        "subjects": OPENING["subjects"],
        "answers": {"parents_married": False},
        "commitments": ["residence"],
        "supplied": {"residence": "not_held"},
    },
    "ExplainRequest": {
        name: OPENING[name] for name in ("matter", "purpose", "subjects", "answers")
    },
    "AskRequest": CONSENT,
    "GiveRequest": {
        "person": {"id": MOTHER},
        "version": 1,
        "fields": CONSENT["fields"],
        "expires_at": "2026-01-08T14:30:00-03:30",
        "uses": 1,
    },
    "PersonRequest": {"person": {"id": MOTHER}},
    "GiveMandateRequest": MANDATE,
    "Target": {"subject": {"namespace": "citizen_id", "id": MOTHER}, "reason": "f-1"},
    "ReleaseRequest": {"reason": "f-1"},
    "KeyRequest": {"subject": {"id": MOTHER}, "reason": "f-1"},
    "SuspendRequest": {"reason": "under review"},
}
"""A body of each kind that is right, with every member that can be wrong."""
OTHERS = (None, True, False, 0, 1, 1.0, 1e3, 1.5, "", "1", "1.0", "yes", "on", "true")
MORE: tuple[JsonValue, ...] = (
    1797000000,
    "1797000000",
    "2026-01-08",
    "2026-01-08 14:30:00Z",
    [],
    {},
    [[]],
)


def _models() -> dict[str, type[BaseModel]]:
    """Return the model of each body that the routes take, by its name."""
    rooms = (audit, cases, consents, directory, erasures, explanations, mandates)
    found: dict[str, type[BaseModel]] = {}
    for room in rooms:
        for route in room.router.routes:
            if isinstance(route, APIRoute) and route.body_field is not None:
                model = route.body_field.field_info.annotation
                assert isinstance(model, type)
                found[model.__name__] = model
    return found


MODELS = _models()


def _in_the_contract() -> set[str]:
    """Return the name of each schema that the contract has for a body of JSON."""
    bodies = (
        route["requestBody"]["content"].get("application/json")
        for routes in CONTRACT["paths"].values()
        for route in routes.values()
        if "requestBody" in route
    )
    return {body["schema"]["$ref"].rpartition("/")[2] for body in bodies if body}


def _changed(value: Any) -> Iterator[Any]:  # noqa: ANN401 - JSON, taken apart
    """Yield a value with one part of it, or all, as something else."""
    yield from (*OTHERS, *MORE)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {other: part for other, part in value.items() if other != name}
            yield from ({**value, name: changed} for changed in _changed(inner))
    if isinstance(value, list):
        yield value * 2
        yield from ([changed] for changed in _changed(value[0]))


def _is_taken(model: type[BaseModel], raw: bytes) -> bool:
    """Return whether a route takes a body, as the framework has it checked."""
    try:
        TypeAdapter(model).validate_python(read_json(raw), from_attributes=True)
    except ValidationError as error:
        # What no schema can say, such as a check digit, is the matter of other tests.
        return {"value_error"} == {one["type"] for one in error.errors()}
    return True


def _has_whole_floats(value: JsonValue) -> bool:
    """Return whether a number is written as `1.0`, which a schema takes for whole."""
    if isinstance(value, dict):
        return any(map(_has_whole_floats, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_floats, value))
    return isinstance(value, float) and value.is_integer()


def test_every_body_of_the_contract_has_its_sample() -> None:
    """So that none is left out of the test below."""
    assert set(SAMPLES) == set(MODELS) == _in_the_contract()


@pytest.mark.parametrize("name", SAMPLES)
def test_code_and_contract_take_the_same(name: str) -> None:
    """Whatever stands in a member's place; but for `1.0`, as the contract says."""
    schema = {**CONTRACT, "$ref": f"#/components/schemas/{name}"}
    contract = Draft202012Validator(schema, validate_formats=True)
    differing = [
        body
        for body in (SAMPLES[name], *_changed(SAMPLES[name]))
        if (contract.is_valid(body) and not _has_whole_floats(body))
        != _is_taken(MODELS[name], orjson.dumps(body))
    ]

    assert contract.is_valid(SAMPLES[name])
    assert [] == differing


def test_the_shortcut_takes_what_the_route_takes() -> None:
    """It has the body checked as JSON, the route as what JSON was read as."""

    def is_short(raw: bytes) -> bool:
        try:
            OpenCaseRequest.model_validate_json(raw)
        except ValidationError:
            return False
        return True

    bodies = [orjson.dumps(body) for body in (OPENING, *_changed(OPENING))]

    assert [is_short(raw) for raw in bodies] == [
        _is_taken(OpenCaseRequest, raw) for raw in bodies
    ]


@pytest.mark.parametrize(
    ("client", "path", "body", "pointer"),
    [
        (PORTAL, "/v1/consents", {**CONSENT, "whole_matter": "yes"}, "/whole_matter"),
        (PORTAL, "/v1/consents", {**CONSENT, "whole_matter": 1}, "/whole_matter"),
        (PORTAL, "/v1/consents", {**CONSENT, "uses": "1"}, "/uses"),
        (PORTAL, "/v1/consents", {**CONSENT, "uses": True}, "/uses"),
        (PORTAL, "/v1/consents", {**CONSENT, "uses": 1.0}, "/uses"),
        (
            CITIZEN,
            "/v1/mandates",
            {**MANDATE, "valid_until": 1797000000},
            "/valid_until",
        ),
        (
            CITIZEN,
            "/v1/mandates",
            {**MANDATE, "valid_until": "1797000000"},
            "/valid_until",
        ),
        (CITIZEN, "/v1/mandates", {**MANDATE, "powers": ["apply"] * 2}, "/powers"),
        (
            PORTAL,
            "/v1/cases",
            {**OPENING, "answers": {"parents_married": 1}},
            "/answers/parents_married",
        ),
        (
            PORTAL,
            "/v1/cases",
            {**OPENING, "answers": {"parents_married": 0}},
            "/answers/parents_married",
        ),
        (
            PORTAL,
            "/v1/explanations",
            {**SAMPLES["ExplainRequest"], "answers": {"parents_married": 1.0}},
            "/answers/parents_married",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(
    site: Site, client: str, path: str, body: JsonValue, pointer: str
) -> None:
    """Where it stands, and what would be right; and nothing is recorded."""
    before = site.gateway.log.size
    answer = site.client(client).post(path, json=body)

    assert 422 == answer.status_code
    assert [pointer] == [one["pointer"] for one in answer.json()["errors"]]
    assert "is not what the contract" not in answer.text
    assert before == site.gateway.log.size
