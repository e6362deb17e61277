"""What pydantic finds wrong with a request, in the words of the contract.

Pydantic says where by a path of its own, in which the names of classes and the tags of
unions stand among those of members; and it may quote what was sent. Here a place
becomes a JSON Pointer (RFC 6901) into the request's own JSON, and of the words only
those are kept in which the request had no part (rule 8).
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from schemas.errors import Complaint, Where

_TELL_THE_CONTRACT_ALONE = frozenset(
    {
        "bool_parsing",
        "bool_type",
        "dict_type",
        "enum",
        "extra_forbidden",
        "frozen_set_type",
        "greater_than_equal",
        "int_from_float",
        "int_parsing",
        "int_type",
        "less_than_equal",
        "list_type",
        "literal_error",
        "missing",
        "model_attributes_type",
        "model_type",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "string_type",
        "timezone_aware",
        "too_long",
        "too_short",
        "tuple_type",
        "union_tag_not_found",
        "value_error",
    }
)
"""Kinds of pydantic's errors whose message is made of the contract and of lengths; a
`value_error` is said by our own checks, which quote nothing. Others may quote."""

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
        found = rules.setdefault((where, name, is_branch), [])
        if (rule := _rule(one)) not in found:
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
    kind, context = one["type"], one.get("ctx")
    if isinstance(context, Mapping):
        if kind == "union_tag_invalid":
            return f"must be one of {context['expected_tags']}"
        if kind == "union_tag_not_found":
            return f"member {context['discriminator']} is missing"
    if kind not in _TELL_THE_CONTRACT_ALONE:
        return _OTHER_RULE
    message = str(one["msg"])
    place = one["loc"]
    if isinstance(place, Sequence) and place and place[-1] == _OF_A_NAME:
        return f"the name: {message[:1].lower()}{message[1:]}"
    return message[:1].lower() + message[1:]
