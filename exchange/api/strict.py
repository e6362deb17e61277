"""JSON as requests may have it: RFC 8259 in UTF-8, and no member twice (RFC 7493).

The framework's own parser takes `NaN`, and of a member that comes twice the last one:
whoever reads the same bytes with another parser would read another request.
"""

import json
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import JsonValue
from typing_extensions import override

from exchange.api.problems import WordedError
from schemas.errors import RequestError

_MOST_DIGITS = 1_000
"""Characters of a whole number: more than any that is taken has."""
_TOO_LARGE = "a number in the body is too large"


class _StrictRequest(Request):
    """A request whose body is read as JSON in one way only."""

    @override
    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except RequestError as error:
            raise WordedError(400, str(error)) from None


class StrictRoute(APIRoute):
    """A route that takes no JSON which another parser would read otherwise."""

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


def read_json(raw: bytes) -> JsonValue:
    """Return the value of a body.

    Raises:
        RequestError: It is no JSON of this kind; says why, and quotes nothing.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    try:
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_fraction,
        )
    except RecursionError:
        raise RequestError("the body is nested too deep") from None
    except ValueError:
        raise RequestError("the body is not JSON") from None
    return value


def _once(members: Sequence[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """Return the members of one object."""
    found = dict(members)
    if len(found) != len(members):
        raise RequestError("the body has an object with a member twice")
    return found


def _whole(text: str) -> int:
    """Return a whole number, unless Python would not read so many digits."""
    if len(text) > _MOST_DIGITS:
        raise RequestError(_TOO_LARGE)
    return int(text)


def _fraction(text: str) -> float:
    """Return a number with a fraction or an exponent, if it is finite."""
    value = float(text)
    if math.isinf(value):
        raise RequestError(_TOO_LARGE)
    return value


def _refuse_constant(_name: str) -> None:
    """Refuse `NaN` and the infinities (RFC 8259, section 6)."""
    raise RequestError("the body is not JSON: numbers are finite")
