"""What the JSON Schemas of an evidence type's fields allow."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import jsonschema_rs
from pydantic import JsonValue

from schemas.evidence import EvidenceField, EvidenceType
from schemas.grammar import BOOLEAN, Kind, Scalar, ValueType
from schemas.packtext import pointer

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
    if fault := next(_unfit("", schema), None):
        return fault
    if not {"type", "enum", "const"} & schema.keys():
        return "", "`type`, `enum` or `const` is needed"
    if one.concept is not None and value_type(one) is None:
        return "", "a concept's value must be text, an integer or true or false"
    return None


_ONE_WITHIN = frozenset(
    [
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_LISTS_WITHIN = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS_WITHIN = frozenset({"dependentSchemas", "patternProperties", "properties"})
_PLAIN = frozenset(
    [
        "$comment",
        "const",
        "contentEncoding",
        "contentMediaType",
        "default",
        "dependentRequired",
        "deprecated",
        "description",
        "enum",
        "examples",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "readOnly",
        "required",
        "title",
        "type",
        "uniqueItems",
        "writeOnly",
    ]
)
_KEYWORDS = _ONE_WITHIN | _LISTS_WITHIN | _MAPS_WITHIN | _PLAIN
"""SOURCE: JSON Schema 2020-12, Core 10 and 11, Validation 6 to 9."""
_LEFT_OUT = {
    "$anchor": "references are not followed",
    "$defs": "references are not followed",
    "$dynamicAnchor": "references are not followed",
    "$dynamicRef": "references are not followed",
    "$id": "references are not followed",
    "$ref": "references are not followed",
    "$schema": "every schema here is of JSON Schema 2020-12: leave it out",
    "$vocabulary": "every schema here is of JSON Schema 2020-12: leave it out",
}
"""Why a keyword can't be used here. SOURCE: JSON Schema 2020-12, Core 8."""
_FORMATS = frozenset(
    [
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "idn-email",
        "idn-hostname",
        "ipv4",
        "ipv6",
        "iri",
        "iri-reference",
        "json-pointer",
        "regex",
        "relative-json-pointer",
        "time",
        "uri",
        "uri-reference",
        "uri-template",
        "uuid",
    ]
)
"""SOURCE: JSON Schema 2020-12, Validation 7.3."""
_Over: TypeAlias = Callable[[float, float], bool]
_BOUNDS: Mapping[tuple[str, str], _Over] = {
    ("minimum", "maximum"): operator.gt,
    ("minLength", "maxLength"): operator.gt,
    ("minItems", "maxItems"): operator.gt,
    ("minProperties", "maxProperties"): operator.gt,
    ("minContains", "maxContains"): operator.gt,
    ("minimum", "exclusiveMaximum"): operator.ge,
    ("exclusiveMinimum", "maximum"): operator.ge,
    ("exclusiveMinimum", "exclusiveMaximum"): operator.ge,
}
"""When a lower and an upper bound leave nothing between them."""
_Schemas: TypeAlias = Iterator[tuple[str, Mapping[str, JsonValue]]]


def _unfit(where: str, schema: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Yield where and why a JSON Schema says what nobody can have meant."""
    for keyword in schema:
        if keyword not in _KEYWORDS:
            because = _LEFT_OUT.get(keyword, "no keyword of JSON Schema 2020-12")
            yield where + pointer(keyword), because
    if "format" in schema and schema["format"] not in _FORMATS:
        yield where + pointer("format"), "no format of JSON Schema 2020-12"
    for (low, high), over in _BOUNDS.items():
        if _is_empty(schema.get(low), schema.get(high), over):
            yield where + pointer(low), f"nothing can fulfil it and `{high}`"
    yield from _of_another_type(where, schema)
    for inner, part in _within(schema):
        yield from _unfit(where + inner, part)


def _is_empty(low: JsonValue, high: JsonValue, over: _Over) -> bool:
    """Tell whether nothing lies between two bounds, of which both may be missing."""
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return False
    return over(low, high)


def _of_another_type(
    where: str, schema: Mapping[str, JsonValue]
) -> Iterator[tuple[str, str]]:
    """Yield each listed value that the schema's own `type` excludes."""
    if "type" not in schema:
        return
    of_type = jsonschema_rs.Draft202012Validator({"type": schema["type"]}, offline=True)
    because = "is not of the schema's own `type`"
    if "const" in schema and not of_type.is_valid(schema["const"]):
        yield where + pointer("const"), because
    listed = schema.get("enum")
    for index, value in enumerate(listed if isinstance(listed, list) else ()):
        if not of_type.is_valid(value):
            yield where + pointer("enum", index), because


def _within(schema: Mapping[str, JsonValue]) -> _Schemas:
    """Yield the schemas that stand directly in another, each with its place there."""
    for keyword, value in schema.items():
        parts: Iterable[tuple[str, JsonValue]] = ()
        if keyword in _ONE_WITHIN:
            parts = [(pointer(keyword), value)]
        elif keyword in _LISTS_WITHIN and isinstance(value, list):
            parts = [(pointer(keyword, i), one) for i, one in enumerate(value)]
        elif keyword in _MAPS_WITHIN and isinstance(value, dict):
            parts = [(pointer(keyword, name), one) for name, one in value.items()]
        yield from ((at, one) for at, one in parts if isinstance(one, dict))


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
