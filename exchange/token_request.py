"""A request for a token, and what it may ask for.

SOURCE: RFC 6749 (3.3, 4.4, 5.2), RFC 7521 and RFC 7523 (assertions).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from urllib.parse import parse_qsl

from schemas.directory import Requester, Scope
from schemas.errors import PurposeNotAllowedError, ScopeMissingError
from schemas.model import Slug

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""SOURCE: RFC 7523, section 2.2."""
MOST_FIELDS = 16
"""Parameters of a form, and scopes in one of them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what its token lets it do."""

    requester: Slug
    scopes: frozenset[Scope]
    purposes: frozenset[Slug]
    """What the token lets a portal open and follow cases for."""

    def require(self, scope: Scope) -> None:
        """Check that the token carries a scope.

        Raises:
            ScopeMissingError: It does not.
        """
        if scope not in self.scopes:
            raise ScopeMissingError(f"this takes a token with the scope `{scope}`")

    def require_purpose(self, purpose: Slug) -> None:
        """Check that the token is for a purpose.

        Raises:
            PurposeNotAllowedError: It is for others.
        """
        if purpose not in self.purposes:
            raise PurposeNotAllowedError("the token is for another purpose")


class TokenFault(StrEnum):
    """Why no token is given (RFC 6749, section 5.2), and the status of each."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    INVALID_SCOPE = "invalid_scope"
    SLOW_DOWN = "slow_down"
    """Too many assertions at once (RFC 8628, section 3.5): use the token you have."""

    @property
    def status(self) -> int:
        """The HTTP status it is answered with."""
        return {TokenFault.INVALID_CLIENT: 401, TokenFault.SLOW_DOWN: 429}.get(
            self, 400
        )


@dataclass(frozen=True, slots=True)
class TokenRefusal:
    """No token, and what to change: never a value that was sent."""

    fault: TokenFault
    description: str


class RefusedError(Exception):
    """Carries a refusal out of the checks, to whoever answers the request."""

    def __init__(self, fault: TokenFault, description: str) -> None:
        super().__init__(description)
        self.refusal = TokenRefusal(fault, description)


def refuse(fault: TokenFault, description: str) -> NoReturn:
    """Raise a refusal."""
    raise RefusedError(fault, description)


def read_form(body: bytes) -> Mapping[str, str]:
    """Return the form's parameters, when it asks for what is given here.

    Raises:
        RefusedError: It does not, or is no form.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError as error:
        what = "the body must be `application/x-www-form-urlencoded`"
        raise RefusedError(TokenFault.INVALID_REQUEST, what) from error
    form = dict(pairs)
    if len(form) != len(pairs):
        refuse(TokenFault.INVALID_REQUEST, "each parameter may be there once")
    if "grant_type" not in form:
        refuse(TokenFault.INVALID_REQUEST, "`grant_type` is missing")
    if form["grant_type"] != "client_credentials":
        what = "`grant_type` must be `client_credentials`"
        refuse(TokenFault.UNSUPPORTED_GRANT_TYPE, what)
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        what = f"`client_assertion_type` must be `{ASSERTION_TYPE}`"
        refuse(TokenFault.INVALID_CLIENT, what)
    return form


def scope_of(word: str, client: Requester) -> tuple[Scope, Slug | None]:
    """Return one scope that a client asks for, with its purpose where it has one.

    Raises:
        RefusedError: It is not the client's, or leaves the purpose open.
    """
    name, colon, purpose = word.partition(":")
    scope = next((one for one in client.scopes if one.value == name), None)
    if scope is None:
        refuse(TokenFault.INVALID_SCOPE, _not_of_the_client("scope", client.scopes))
    if scope is not Scope.PORTAL:
        if colon:
            refuse(TokenFault.INVALID_SCOPE, "only `portal` takes a purpose")
        return scope, None
    if not colon:
        if len(client.purposes) != 1:
            what = "the client has several purposes: name one, `portal:<purpose>`"
            refuse(TokenFault.INVALID_SCOPE, what)
        return scope, client.purposes[0]
    if purpose not in client.purposes:
        what = _not_of_the_client("purpose", client.purposes)
        refuse(TokenFault.INVALID_SCOPE, what)
    return scope, purpose


def _not_of_the_client(what: str, all_of_them: Iterable[str]) -> str:
    """Say what a client may ask for, which has proved by now who it is."""
    these = ", ".join(f"`{one}`" for one in sorted(all_of_them)) or "none"
    return f"a {what} is not one that the client has: it has {these}"


def scope_words(caller: Caller) -> list[str]:
    """Return what a caller may do, as the scopes of a token, in order."""
    words = [scope.value for scope in caller.scopes if scope is not Scope.PORTAL]
    words += [f"{Scope.PORTAL.value}:{purpose}" for purpose in caller.purposes]
    return sorted(words)
