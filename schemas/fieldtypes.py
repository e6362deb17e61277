"""What the JSON Schemas of an evidence type's fields allow."""

from collections.abc import Mapping

import jsonschema_rs
from pydantic import JsonValue

from schemas.evidence import EvidenceField, EvidenceType
from schemas.grammar import BOOLEAN, Kind, Scalar, ValueType
from schemas.packtext import pointer, walk

_META_SCHEMA = jsonschema_rs.Draft202012Validator(
    {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    validate_formats=True,
    offline=True,
)
"""Tells what is a JSON Schema, and nothing of what is wrong with one."""


def schema_fault(one: EvidenceField) -> tuple[str, str] | None:
    """Return where and why a field's JSON Schema can't be used; None if it can."""
    schema = dict(one.json_schema)
    if not _META_SCHEMA.is_valid(schema) and (fault := _fault_in_words(schema)):
        return fault
    for where, _ in walk(schema):
        if where.endswith(("/$ref", "/$dynamicRef")) or where == "/$id":
            return where, "references are not followed"
    if not {"type", "enum", "const"} & schema.keys():
        return "", "`type`, `enum` or `const` is needed"
    if one.concept is not None and value_type(one) is None:
        return "", "a concept's value must be text, an integer or true or false"
    return None


def _fault_in_words(schema: Mapping[str, JsonValue]) -> tuple[str, str] | None:
    """Return where and why this is no JSON Schema; None if it is one."""
    # Slow to import, and rarely needed: schemas of a pack that is in use are schemas.
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - as above
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - as above

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return pointer(*error.absolute_path), error.message[:200]
    return None


def value_type(one: EvidenceField) -> ValueType | None:
    """Return the type of a field's value for conditions; None if it can have none."""
    values = _values(one)
    if values is not None:
        kinds: set[Kind | None] = {_kind(value) for value in values}
    else:
        named = one.json_schema.get("type")
        names = named if isinstance(named, list) else [named]
        kinds = {_JSON_KINDS.get(str(name)) for name in names if name != "null"}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is Kind.BOOLEAN:
        return BOOLEAN
    return None if kind is None else ValueType(kind, values)


_JSON_KINDS: Mapping[str, Kind] = {
    "string": Kind.TEXT,
    "integer": Kind.INTEGER,
    "boolean": Kind.BOOLEAN,
}


def _values(one: EvidenceField) -> tuple[Scalar, ...] | None:
    """Return all values that a field's schema lists, or None when it lists none."""
    listed = one.json_schema.get("enum")
    if not isinstance(listed, list):
        listed = [one.json_schema["const"]] if "const" in one.json_schema else None
    if listed is None:
        return None
    return tuple(value for value in listed if isinstance(value, str | int))


def _kind(value: Scalar) -> Kind:
    """Return the kind of a value."""
    match value:
        case bool():
            return Kind.BOOLEAN
        case int():
            return Kind.INTEGER
        case str():
            return Kind.TEXT


def compile_fields(kind: EvidenceType) -> jsonschema_rs.Draft202012Validator:
    """Return the compiled schema of an evidence type's fields, any of which may come.

    Formats are checked, nothing is fetched, and patterns run in linear time.

    Raises:
        ValueError: A field's schema can't be compiled.
    """
    schema = {
        "type": "object",
        "properties": {n: dict(one.json_schema) for n, one in kind.fields.items()},
        "additionalProperties": False,
    }
    return jsonschema_rs.Draft202012Validator(
        schema,
        validate_formats=True,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
    )
