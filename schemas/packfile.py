"""The kinds of file that a pack is made of, and their JSON Schemas (2020-12).

Every file says its `kind` first. The schemas under `schemas/json/` are made from the
types here, so that what editors check and what loading checks is one thing; a test
holds them equal.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import jsonschema_rs
from pydantic import Field, JsonValue
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import override

from schemas.canonical import canonical
from schemas.directory import (
    DataService,
    Provider,
    PublicKey,
    Requester,
    Scope,
    SharingGrant,
)
from schemas.evidence import EvidenceType
from schemas.matter import Matter
from schemas.model import FORMS, Model, Name, Once, OneOrMore, Slug
from schemas.packtext import pointer

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

BASE = "https://errand.example/schemas/"


class ProvidersFile(Model):
    """The departments that answer."""

    kind: Literal["providers"]
    providers: Annotated[tuple[Provider, ...], Field(min_length=1)]


class EvidenceTypesFile(Model):
    """The kinds of evidence there are."""

    kind: Literal["evidence_types"]
    evidence_types: Annotated[tuple[EvidenceType, ...], Field(min_length=1)]


class ServicesFile(Model):
    """Which department offers which evidence type, for which region."""

    kind: Literal["services"]
    services: Annotated[tuple[DataService, ...], Field(min_length=1)]


class GrantsFile(Model):
    """Who may ask for what, on which basis."""

    kind: Literal["grants"]
    requesters: tuple[Requester, ...] = ()
    """The organisations that ask; their keys may come from the deployment."""
    grants: Annotated[tuple[SharingGrant, ...], Field(min_length=1)]


class MatterFile(Matter):
    """One matter."""

    kind: Literal["matter"]


class ProviderDeployment(Model):
    """What a deployment adds to a provider."""

    keys: Once[PublicKey]
    """The keys that the department signs with: pinned."""


class ServiceDeployment(Model):
    """What a deployment says of a data service; None leaves it as it was."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    """Where look-ups are posted."""
    timeout_ms: Annotated[int, Field(gt=0, le=60_000)] | None = None
    concurrency: Annotated[int, Field(gt=0, le=1_000)] | None = None


class RequesterDeployment(Model):
    """What a deployment says of a requester."""

    name: Name | None = None
    """Given for a requester that no other file declares."""
    scopes: OneOrMore[Scope] | None = None
    """Given for a requester that no other file declares."""
    purposes: Once[Slug] = ()
    """Further purposes it may open cases for."""
    keys: Once[PublicKey] = ()
    """The keys that it signs its requests for tokens with."""


class DeploymentFile(Model):
    """What one installation adds to packs: keys, addresses, clients."""

    kind: Literal["deployment"]
    providers: Mapping[Slug, ProviderDeployment] = {}
    services: Mapping[Slug, ServiceDeployment] = {}
    requesters: Mapping[Slug, RequesterDeployment] = {}


PackFile: TypeAlias = (
    ProvidersFile
    | EvidenceTypesFile
    | ServicesFile
    | GrantsFile
    | MatterFile
    | DeploymentFile
)

KINDS: Mapping[str, type[PackFile]] = {
    "providers": ProvidersFile,
    "evidence_types": EvidenceTypesFile,
    "services": ServicesFile,
    "grants": GrantsFile,
    "matter": MatterFile,
    "deployment": DeploymentFile,
}
"""The type of file by the `kind` that it says."""


class _PublishedSchema(GenerateJsonSchema):
    """Makes a schema that closes what pydantic leaves open."""

    @override
    def dict_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a mapping, whose keys must all fit."""
        made = super().dict_schema(schema)
        if "patternProperties" in made:
            made["additionalProperties"] = False
        return made


def json_schema(kind: str) -> dict[str, Any]:
    """Return the published JSON Schema of a kind of file."""
    made = KINDS[kind].model_json_schema(schema_generator=_PublishedSchema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{BASE}{kind.replace('_', '-')}.schema.json",
        **made,
    }


@cache
def _checker(kind: str) -> jsonschema_rs.Draft202012Validator:
    """Return what says at once whether a file keeps to its schema, and no more."""
    return jsonschema_rs.Draft202012Validator(json_schema(kind), offline=True)


def complaints(kind: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Yield the JSON Pointer and the message of each way a file breaks its schema."""
    if _checker(kind).is_valid(value):
        return
    # Slow, and slow to import, but its errors can be put in words of ours.
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - as above

    for error in Draft202012Validator(json_schema(kind)).iter_errors(value):
        yield from _explain(_best(error))


def _best(error: "ValidationError") -> "ValidationError":
    """Return the error that says most: of a value or nothing, what the value lacks."""
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - see `complaints`

    about_value = [one for one in error.context or () if one.validator_value != "null"]
    if error.validator == "anyOf" and len(about_value) == 1:
        return _best(about_value[0])
    return best_match([error]) or error


def _explain(error: "ValidationError") -> Iterator[tuple[str, str]]:
    """Yield where and why, in words for whoever writes packs."""
    where = pointer(*error.absolute_path)
    found: Any = error.instance
    expected: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            yield from _unknown_keys(error, where)
        case "required":
            missing = [f"`{key}`" for key in expected if key not in found]
            yield where, f"{', '.join(missing)} missing"
        case "type":
            yield where, f"{_kind_of(found)} where {_kinds(expected)} is expected"
        case "enum" | "const":
            options = expected if error.validator == "enum" else [expected]
            listed = ", ".join(f"`{option}`" for option in options)
            yield where, f"must be one of {listed}"
        case "pattern":
            yield where, form_in_words(expected)
        case "uniqueItems":
            yield from _repeated(found, where)
        case _:
            yield where, _of_bounds(error)


def form_in_words(pattern: str) -> str:
    """Say what a text must be that has to match a pattern."""
    return (
        f"must be {FORMS[pattern]}" if pattern in FORMS else f"must match `{pattern}`"
    )


_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
}


def _of_bounds(error: "ValidationError") -> str:
    """Say what a bound is; a text itself may fill a page, and is left out."""
    found: Any = error.instance
    rule, expected = str(error.validator), error.validator_value
    if rule in _BOUNDS:
        return f"`{found}`, and must be {_BOUNDS[rule]} {expected}"
    if rule.startswith(("min", "max")):
        unit = "characters" if rule.endswith("Length") else "members"
        bound = "at least" if rule.startswith("min") else "at most"
        return f"has {len(found)} {unit}, and must have {bound} {expected}"
    return error.message[:200]


def _repeated(found: list[JsonValue], where: str) -> Iterator[tuple[str, str]]:
    """Yield each member of a list that has been there before."""
    first: dict[bytes, str] = {}
    for at, one in enumerate(found):
        here = where + pointer(at)
        before = first.setdefault(canonical(one), here)
        if before != here:
            yield here, f"is there twice: the same as {before}"


def _unknown_keys(error: "ValidationError", where: str) -> Iterator[tuple[str, str]]:
    """Yield each key that the schema does not know."""
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    patterns = list(schema.get("patternProperties", {}))
    known = schema.get("properties", {})
    found: Any = error.instance
    for key in found:
        if patterns:
            if not any(re.search(pattern, key) for pattern in patterns):
                yield where + pointer(key), f"the key must match `{patterns[0]}`"
        elif key not in known:
            yield where + pointer(key), f"`{key}` is not known here"


def _kinds(expected: str | list[str]) -> str:
    names = [expected] if isinstance(expected, str) else expected
    return " or ".join("text" if name == "string" else name for name in names)


def _kind_of(value: JsonValue) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number (quote it if it is text)"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"
