"""The published contract: the OpenAPI document of the API.

What FastAPI derives from the routes is completed here: every answer that is not a
success is a problem (RFC 9457), of one schema. `docs/openapi.json` is this document,
and a test compares the two.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import Field

from exchange.api.problems import MEDIA_TYPE, PROBLEMS
from schemas.model import Model

DESCRIPTION = (
    "What a request says has to have the type that stands here; nothing is converted. "
    "A whole number is written as one: `1.0` is refused, which JSON Schema takes."
)
"""What the document says of itself: what JSON Schema has no words for."""
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")
_METHODS = ("get", "post", "put", "delete")


class WrongPart(Model):
    """One part of a request that is wrong: where, in one of three ways, and how."""

    pointer: str | None = None
    """A JSON Pointer (RFC 6901) into the body."""
    header: str | None = None
    """The name of a header."""
    parameter: str | None = None
    """The name of a parameter of the path or the query."""
    detail: str
    """The rule that it breaks; never the value that was sent."""


class Problem(Model):
    """What went wrong (RFC 9457)."""

    type: str = Field(json_schema_extra={"enum": [kind.uri for kind in PROBLEMS]})
    title: str
    status: int
    detail: str | None = None
    errors: tuple[WrongPart, ...] = ()


def operation_id(route: APIRoute) -> str:
    """Return the name of an operation: that of the function behind it."""
    return route.name


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _make(app)
    return app.openapi_schema


def _make(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
    )
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = made["components"]["schemas"]
    schemas.update(schema.pop("$defs"))
    schemas["Problem"] = schema
    for name in _OF_FASTAPI:
        schemas.pop(name, None)
    for operations in made["paths"].values():
        for method in _METHODS:
            if method in operations:
                _answer_with_problems(operations[method]["responses"])
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    return made


def _answer_with_problems(responses: dict[str, Any]) -> None:
    """Say what an operation answers when it does not succeed."""
    responses.pop("422", None)
    for status, title in (("4XX", "The request is at fault"), ("5XX", "We are")):
        responses[status] = {
            "description": f"{title}: a problem.",
            "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
        }
