"""JSON as requests may have it: RFC 8259 in UTF-8, and no member twice (RFC 7493).

The framework's own parser takes `NaN`, and of a member that comes twice the last one:
whoever reads the same bytes with another parser would read another request.
"""

import json
from collections.abc import Sequence

from pydantic import JsonValue

from schemas.errors import RequestError


def check_json(raw: bytes) -> None:
    """Check a body.

    Raises:
        RequestError: It is no JSON of this kind; says why, and quotes nothing.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    try:
        json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except ValueError:
        raise RequestError("the body is not JSON") from None


def _once(members: Sequence[tuple[str, JsonValue]]) -> None:
    """Check the members of one object; what they hold is not kept."""
    if len(dict(members)) != len(members):
        raise RequestError("the body has an object with a member twice")


def _refuse_constant(_name: str) -> None:
    """Refuse `NaN` and the infinities (RFC 8259, section 6)."""
    raise RequestError("the body is not JSON: numbers are finite")
