"""What several routes ask for and answer in the same form: ids, headers, persons."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Header, Response
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from exchange.api.dependencies import Gateway
from exchange.idempotency import RepeatKey
from exchange.token_request import Caller
from schemas.codes import CitizenId
from schemas.model import Model, Sent

UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""Pattern of every id of the exchange's own."""
Uuid = Annotated[str, Field(pattern=UUID)]


def _in_digits(sent: object) -> object:
    """Let a text pass that is a whole number: pydantic takes `1_0` and `1.0` too."""
    if isinstance(sent, str) and not (sent.isascii() and sent.isdigit()):
        raise PydanticKnownError("int_parsing")
    return sent


DIGITS: Final = BeforeValidator(_in_digits)
"""Takes a number of a query as digits alone."""

KEY_MOST = 255
"""Characters of the longest `Idempotency-Key`."""
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=KEY_MOST,
        description="Makes a repeated request lead to what the first one made.",
    ),
]

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PREFERENCES = re.compile(rf'(?:[^",]|{_QUOTED})+')
_PREFERENCE = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*"
    rf"(?:=[ \t]*({_QUOTED}|[^ \t;]*))?[ \t]*(?:;|$)"
)
"""SOURCE: RFC 7240, section 2: name and value, before any parameters."""
_SECONDS = re.compile(r'"?([0-9]+)"?')


class Person(Sent):
    """A person whom the client has authenticated, or means."""

    id: CitizenId
    """公民身份号码 (GB 11643)."""


class PersonRequest(Sent):
    """Who speaks: authenticated by the client that says so."""

    person: Person


def wait_asked(prefer: str | None) -> float | None:
    """Return the seconds that a `Prefer` header asks to wait; None when it doesn't.

    SOURCE: RFC 7240, sections 2 and 4.3. Names have no case, a value may be quoted, and
    of a preference that comes twice the first counts.
    """
    for one in _PREFERENCES.findall(prefer or ""):
        preference = _PREFERENCE.match(one)
        if preference is not None and preference[1].lower() == "wait":
            asked = _SECONDS.fullmatch(preference[2] or "")
            return None if asked is None else float(asked[1])
    return None


def repeat_key(
    gateway: Gateway, caller: Caller, key: str | None, operation: str, body: bytes
) -> RepeatKey | None:
    """Return what tells a repeated request; None when it carries no key.

    Args:
        gateway: Whose secret the digests are made with.
        caller: Who asks.
        key: The `Idempotency-Key`.
        operation: Method and path.
        body: The body's bytes.

    Raises:
        InvalidRequestError: The key is empty or not printable ASCII.
    """
    if key is None:
        return None
    return gateway.repeat_keys.of(caller.requester, key, operation, body)


def answer(
    body: Model, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a model as an answer."""
    content = body.model_dump_json().encode()
    return Response(content, status, headers, media_type="application/json")
