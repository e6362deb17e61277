"""What pydantic finds wrong with a request, in the words of the contract.

Pydantic says where by a path of its own, in which the names of classes and the tags of
unions stand among those of members; and it may quote what was sent. Here a place
becomes a JSON Pointer (RFC 6901) into the request's own JSON, and the words are ours:
what would be right, told from the contract alone (rule 8).
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from schemas.errors import Complaint, Where
from schemas.model import FORMS

_OBJECT, _ARRAY = "must be an object", "must be an array"
_YES_OR_NO = "must be `true` or `false`"
_WHOLE = "must be a whole number, in digits alone"
_INSTANT = "must be an instant such as `2026-01-08T14:30:00+08:00`"
_DATE = "must be a date such as `2026-01-08`"

_WORDS: Mapping[str, str] = {
    "bool_parsing": _YES_OR_NO,
    "bool_type": _YES_OR_NO,
    "date_from_datetime_parsing": _DATE,
    "date_type": _DATE,
    "datetime_from_date_parsing": _INSTANT,
    "datetime_object_invalid": _INSTANT,
    "datetime_parsing": _INSTANT,
    "datetime_type": _INSTANT,
    "dict_type": _OBJECT,
    "enum": "must be one of {expected}",
    "extra_forbidden": "there is no such member",
    "frozen_set_type": _ARRAY,
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} at least",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} at most",
    "list_type": _ARRAY,
    "literal_error": "must be one of {expected}",
    "missing": "this is required",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "not_unique": "must not have a member twice",
    "string_too_long": "must have {max_length} characters at most",
    "string_too_short": "must have {min_length} or more characters",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "timezone_aware": _INSTANT,
    "too_long": "must have {max_length} members at most",
    "too_short": "must have {min_length} or more members",
    "tuple_type": _ARRAY,
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "member {discriminator} is missing",
    "value_error": "{error}",
}
"""Kinds of pydantic's errors → our words, filled in from what the contract asks for.
A `value_error` is said by our own checks, which quote nothing."""

_PRINTABLE = "printable ASCII characters without spaces"
_WORDS_OF_PATTERNS: Mapping[str, str] = {
    **FORMS,
    r"^[a-z][a-z0-9_]{0,63}@[1-9][0-9]{0,5}$": "an id and its version, such as "
    "`newborn@1`: see `GET /v1/matters` and `GET /v1/evidence-types`",
    r"^[a-z][a-z0-9_]{0,63}$": "an id, such as `newborn_registration`: small letters, "
    "digits and `_`",
    r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$": "a role and a fact, such as `mother.id`",
    r"^[A-Za-z][A-Za-z0-9_]{0,63}$": "the name of a field, such as `birth_date`",
    r"^[0-9]{6}([0-9]{3}){0,2}$": "a division code of 6, 9 or 12 digits",
    r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$": "an id that the exchange gave, "
    "such as `0198c0de-0000-7000-8000-000000000000`",
    r"^[\w.@:-]+$": "letters, digits and `_.@:-`",
    r"^[\x21-\x7e]{1,255}$": f"1 to 255 {_PRINTABLE}",
    r"^[\x21-\x7e]{1,64}$": f"1 to 64 {_PRINTABLE}",
    r"^(official|system|agent|person):[\x21-\x7e]{1,64}$": "a kind and an id, such as "
    "`official:window-3`",
    r"^[a-z_]{1,32}:[\x21-\x7e]{1,64}$": "a kind and an id, such as `citizen_id:...`",
    r"^[a-z_]{1,32}$": "up to 32 small letters and `_`",
    r"^[a-z_]{1,64}(\.[a-z_]{1,64})?$": "an outcome, such as `faulty.format`",
    r"^[0-9]{1,20}\.[0-9]{1,18}(@[0-9]{1,4})?$": "the `next` of the page before",
    r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$": "a file number: up to 64 letters, digits "
    "and `._:/-`",
    r"^[A-Za-z0-9_-]{22}$": "a reference of 22 characters, as records have it",
    r"^[a-z0-9][a-z0-9-]{0,31}$": "the name of a shard, such as `2026h2`",
    r"^(deployment|evidence-types|grants|matter|providers|services)$": "a kind of file "
    "with dashes, such as `evidence-types`",
}
"""Patterns of the contract → what they stand for."""

_UNKNOWN_PARAMETER = "there is no such parameter"
_OTHER_RULE = "is not what the contract asks for here"

_OF_A_NAME = "[key]"
"""What pydantic puts at the end of a path when a member's name is wrong."""
_IN_THE_HEADERS = ("header", "cookie")


def complaints_of(
    errors: Iterable[Mapping[str, object]], body: JsonValue
) -> tuple[Complaint, ...]:
    """Return a request's errors as complaints, each place once for each rule.

    The branches of a union that all fail at one place are one complaint.

    Args:
        errors: As pydantic lists them; each place starts with the part of the request.
        body: The request's JSON.
    """
    rules: dict[tuple[Where, str, bool], list[str]] = {}
    for one in errors:
        place = one["loc"]
        part, *path = place if isinstance(place, Sequence) else ("body",)
        where, name, is_branch = Where.BODY, "", False
        if part == "body":
            name, is_branch = _pointer(path, body, one)
        else:
            where = Where.HEADER if part in _IN_THE_HEADERS else Where.PARAMETER
            name = str(path[0]) if path else ""
        is_unknown = one["type"] == "extra_forbidden" and where is Where.PARAMETER
        found = rules.setdefault((where, name, is_branch), [])
        rule = _UNKNOWN_PARAMETER if is_unknown else _rule(one)
        if rule not in found:
            found.append(rule)
    return tuple(
        Complaint(name, rule, where)
        for (where, name, is_branch), found in rules.items()
        for rule in ([", or ".join(found)] if is_branch else found)
    )


def _pointer(
    path: Sequence[str | int], body: JsonValue, error: Mapping[str, object]
) -> tuple[str, bool]:
    """Return the pointer to what is wrong, and whether it fails a union's branch.

    (1) Go down the body as far as it goes, passing over what is not in it: tags and
        classes of unions.
    (2) A tag may be called as a member is: go back up to the value complained about.
    (3) What is missing is named at the place where it belongs.
    """
    tokens: list[str] = []
    values, passed = [body], 0
    for part in path:  # (1)
        value = values[-1]
        if isinstance(value, Mapping) and part in value:
            values.append(value[str(part)])
        elif isinstance(value, list) and part in range(len(value)):
            values.append(value[int(part)])
        else:
            passed += 1
            continue
        tokens.append(str(part))
    kind, wrong = error["type"], error.get("input")
    ends = path[-1] if path else None
    if ends != _OF_A_NAME and any(value is wrong for value in values):  # (2)
        while values[-1] is not wrong:
            values.pop()
            tokens.pop()
            passed += 1
    if kind == "missing" and path:  # (3)
        tokens.append(str(ends))
        return _joined(tokens), False
    return _joined(tokens), passed > 0 and ends != _OF_A_NAME


def _joined(tokens: Iterable[str]) -> str:
    """Return members' names as a JSON Pointer (RFC 6901, section 3)."""
    return "".join(
        "/" + token.replace("~", "~0").replace("/", "~1") for token in tokens
    )


def _rule(one: Mapping[str, object]) -> str:
    """Return which rule was broken, in words that the request had no part in."""
    given = one.get("ctx")
    context = given if isinstance(given, Mapping) else {}
    words = _WORDS.get(str(one["type"]), _OTHER_RULE).format_map(context)
    if one["type"] == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        words = f"must be {_WORDS_OF_PATTERNS.get(pattern, f'as `{pattern}` says')}"
    place = one["loc"]
    if isinstance(place, Sequence) and place and place[-1] == _OF_A_NAME:
        return f"the name: {words}"
    return words
