"""Who is calling: OAuth 2.0 client credentials with a signed assertion, and tokens.

A client is a requester of the pack; it proves who it is with a JWT signed by a key
that the pack pins (`private_key_jwt`), and gets a short access token for the scopes it
names. There are no shared secrets. A portal names the purpose in the scope itself,
`portal:<purpose>`, several where it needs several: any OAuth client library can say
that, and a token that leaks opens no other purpose. `portal` alone stands for the one
purpose of a requester that has exactly one.

SOURCE: RFC 6749 (4.4, 5.1, 5.2), RFC 7521 and RFC 7523 (assertions), RFC 8414
(metadata), RFC 9068 (access tokens), RFC 8725 (pinned types and algorithms).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import orjson
import structlog
from pydantic import JsonValue

from connectors.jose import (
    ACCEPTED_ALGORITHMS,
    SigningKey,
    sign_compact,
    verify_compact,
)
from consent.rules import Suspendable, Target, target
from exchange.assertions import check_assertion, spend
from exchange.database import Connection
from exchange.token_request import (
    MOST_FIELDS,
    Caller,
    RefusedError,
    TokenFault,
    TokenRefusal,
    read_form,
    refuse,
    scope_of,
    scope_words,
)
from schemas.canonical import Json, canonical_plain
from schemas.clock import Clock
from schemas.directory import PublicKey, Requester, Scope
from schemas.errors import TooLargeError, UnauthenticatedError, VerificationError
from schemas.ids import NewId
from schemas.model import Slug

T = TypeVar("T")

_log = structlog.get_logger(__name__)

TOKEN_PATH = "/v1/token"  # noqa: S105 - a path, not a secret
JWKS_PATH = "/.well-known/jwks.json"
METADATA_PATH = "/.well-known/oauth-authorization-server"

_TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068, section 2.1
_LONGEST_TOKEN = 4_096
_MOST_CACHED = 4_096


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token for one client."""

    access_token: str
    expires_in: int
    """Seconds that it holds."""
    scope: str
    """What it is for, as scopes in order."""


class Store(Protocol):
    """Where used assertions are remembered: `exchange.database.Database`."""

    def write(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """Run `work` in a transaction, and return once it is durable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Whom the gateway knows, and under which name and key it gives tokens."""

    issuer: str
    """The gateway's public URL, without a slash at the end."""
    requesters: Mapping[Slug, Requester]
    key: SigningKey
    older_keys: tuple[PublicKey, ...] = ()
    """Keys that have signed until they were changed: they stay published, and their
    tokens hold until they expire."""
    lifetime: timedelta = timedelta(minutes=10)
    """How long an access token holds."""


class Identity:
    """Gives tokens, and knows whose they are.

    Args:
        registrar: Names and keys.
        store: Where used assertions are remembered.
        clock: What time it is when a token is asked for.
        new_id: Ids of tokens.
        suspended: Tells what is suspended now; asked at every use of a token.
    """

    def __init__(
        self,
        registrar: Registrar,
        *,
        store: Store,
        clock: Clock,
        new_id: NewId,
        suspended: Callable[[], frozenset[Target]],
    ) -> None:
        self._registrar = registrar
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._suspended = suspended
        start = datetime.fromtimestamp(0, UTC)
        self._keys = (registrar.key.pinned(start), *registrar.older_keys)
        self._audiences = (registrar.issuer + TOKEN_PATH, registrar.issuer)
        # Only what we signed gets in, and the oldest make room: nobody can fill it.
        self._cache: OrderedDict[bytes, tuple[Caller, datetime]] = OrderedDict()

    # Giving tokens.

    async def issue(self, body: bytes) -> IssuedToken | TokenRefusal:
        """Answer one request for a token.

        (1) Read the form: every parameter once, and the right kind of grant.
        (2) Find the client by its assertion, and use that up, so that it works once,
            whatever comes of it.
        (3) Check that the client may have what it asks for.
        (4) Sign the token.

        Args:
            body: The request's body, form-encoded; its size is the caller's business.

        Raises:
            StoreUnavailableError: The assertion can't be remembered, so it can't be
                accepted.
        """
        now = self._clock.now()
        try:
            form = read_form(body)  # (1)
            client = await self._authenticated(form, now)  # (2)
            caller = self._allowed(client, form.get("scope", ""))  # (3)
        except RefusedError as error:
            _log.info("token_refused", fault=error.refusal.fault, why=str(error))
            return error.refusal
        issued = self._sign(caller, now)  # (4)
        _log.info("token_issued", client=caller.requester, scope=issued.scope)
        return issued

    async def _authenticated(self, form: Mapping[str, str], now: datetime) -> Requester:
        """Return the client that signed the assertion, which is used up by this."""
        requesters = self._registrar.requesters
        try:
            assertion = check_assertion(
                form.get("client_assertion", ""), requesters, self._audiences, now
            )
            # Durable before anything rests on it.
            await self._store.write(lambda c: spend(c, assertion, now))
        except VerificationError as error:
            raise RefusedError(TokenFault.INVALID_CLIENT, str(error)) from error
        except TooLargeError as error:
            raise RefusedError(TokenFault.SLOW_DOWN, str(error)) from error
        if form.get("client_id", assertion.client) != assertion.client:
            refuse(TokenFault.INVALID_CLIENT, "`client_id` and `sub` must be the same")
        return requesters[assertion.client]

    def _allowed(self, client: Requester, wanted: str) -> Caller:
        """Return what a client may do of what it asks for; all of it or nothing."""
        if self._is_suspended(client.id):
            refuse(TokenFault.UNAUTHORIZED_CLIENT, "the client is suspended")
        words = wanted.split(" ") if wanted else []
        if not 0 < len(words) <= MOST_FIELDS:
            what = "name at least one scope, such as `portal:<purpose>`"
            refuse(TokenFault.INVALID_SCOPE, what)
        scopes: set[Scope] = set()
        purposes: set[Slug] = set()
        for word in words:
            scope, purpose = scope_of(word, client)
            scopes.add(scope)
            if purpose is not None:
                purposes.add(purpose)
        return Caller(client.id, frozenset(scopes), frozenset(purposes))

    def _sign(self, caller: Caller, now: datetime) -> IssuedToken:
        """Return a caller's token, in the form of RFC 9068."""
        scope = " ".join(scope_words(caller))
        issued = int(now.timestamp())
        lifetime = int(self._registrar.lifetime.total_seconds())
        claims: Json = {
            "iss": self._registrar.issuer,
            "aud": self._registrar.issuer,
            "sub": caller.requester,
            "client_id": caller.requester,
            "jti": self._new_id(),
            "iat": issued,
            "exp": issued + lifetime,
            "scope": scope,
        }
        payload = canonical_plain(claims)
        token = sign_compact(payload, _TOKEN_TYPE, self._registrar.key)
        return IssuedToken(token, lifetime, scope)

    # Knowing callers.

    def authenticate(self, authorization: str | None, now: datetime) -> Caller:
        """Return who sends an `Authorization` header (RFC 6750, section 2.1).

        Raises:
            UnauthenticatedError: There is none, or its token is not good now.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("send `Authorization: Bearer` with a token")
        return self.caller(token.strip(), now)

    def caller(self, token: str, now: datetime) -> Caller:
        """Return whose token it is.

        A token that was verified once is known by its SHA-256 until it expires, so
        looking it up compares no secret. Its expiry and whether the client is
        suspended are checked at every use.

        Raises:
            UnauthenticatedError: The token is not ours, has expired, or its client is
                suspended.
        """
        if len(token) > _LONGEST_TOKEN:
            raise UnauthenticatedError("the token is too long to be ours")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._cache.get(digest)
        if known is None:
            known = self._verified(token)
            self._cache[digest] = known
            if len(self._cache) > _MOST_CACHED:
                self._cache.popitem(last=False)
        caller, expires_at = known
        if now >= expires_at:
            del self._cache[digest]
            raise UnauthenticatedError("the token has expired; ask for a new one")
        # INVARIANT: a suspension holds for tokens given before it (rule 5).
        if self._is_suspended(caller.requester):
            raise UnauthenticatedError("the client is suspended")
        return caller

    def _verified(self, token: str) -> tuple[Caller, datetime]:
        """Return whose token it is and until when, if we signed it.

        What the pack no longer allows the client, its older tokens no longer allow:
        a token that outlived a change of the pack is asked for again.
        """
        not_ours = (
            "the token is not ours, or its key is gone, or it was changed on the way:"
            " ask for a new one"
        )
        try:
            verified = verify_compact(token, _TOKEN_TYPE, self._keys)
            claims = orjson.loads(verified.payload)
        except (VerificationError, ValueError) as error:
            raise UnauthenticatedError(not_ours) from error
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        ended = verified.key.valid_until
        # Whoever finds a key that was changed long ago can do nothing with it.
        if ended is not None and expires_at > ended + self._registrar.lifetime:
            raise UnauthenticatedError(not_ours)
        issuer = self._registrar.issuer
        client = self._registrar.requesters.get(claims["client_id"])
        if (claims["iss"], claims["aud"]) != (issuer, issuer) or client is None:
            raise UnauthenticatedError(not_ours)
        try:
            pairs = [scope_of(word, client) for word in claims["scope"].split(" ")]
        except RefusedError as error:
            raise UnauthenticatedError("the client may no longer do this") from error
        caller = Caller(
            client.id,
            frozenset(scope for scope, _ in pairs),
            frozenset(purpose for _, purpose in pairs if purpose is not None),
        )
        return caller, expires_at

    def _is_suspended(self, client: Slug) -> bool:
        return target(Suspendable.REQUESTER, client) in self._suspended()

    # What others may know.

    def metadata(self) -> Mapping[str, JsonValue]:
        """Return the server's metadata (RFC 8414, section 2)."""
        issuer = self._registrar.issuer
        algorithms: list[JsonValue] = [*sorted(ACCEPTED_ALGORITHMS)]
        purposes = {p for r in self._registrar.requesters.values() for p in r.purposes}
        scopes = [scope.value for scope in Scope if scope is not Scope.PORTAL]
        scopes += [f"{Scope.PORTAL.value}:{purpose}" for purpose in sorted(purposes)]
        return {
            "issuer": issuer,
            "token_endpoint": issuer + TOKEN_PATH,
            "jwks_uri": issuer + JWKS_PATH,
            "scopes_supported": [*sorted(scopes)],
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
        }

    def jwks(self) -> Mapping[str, JsonValue]:
        """Return the public keys of tokens and receipts (RFC 7517, section 5)."""
        return {"keys": [dict(key.jwk) for key in self._keys]}
