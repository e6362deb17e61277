"""Client assertions: made by clients, checked by the gateway, used once.

An assertion is a JWT with which a client proves that it holds a key that the pack pins
(`private_key_jwt`). It names one audience, lives five minutes at most, and its `jti`
works once.

SOURCE: RFC 7521, RFC 7523 (section 3), RFC 8725 (pinned algorithms).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from joserfc.errors import InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwt import JWTClaimsRegistry
from sqlalchemy import BigInteger, Column, Connection, delete, func, select
from sqlmodel import Field, SQLModel

from connectors.jose import (
    ACCEPTED_ALGORITHMS,
    SigningKey,
    check_signature,
    sign_compact,
    was_valid,
)
from consent.rows import insert_or_ignore
from schemas.canonical import Json, b64url, b64url_decode, canonical_plain
from schemas.directory import PublicKey, Requester
from schemas.errors import TooLargeError, VerificationError
from schemas.model import Slug

LONGEST = 4_096
"""Characters of the longest assertion that is looked at."""
MOST_OF_A_CLIENT = 10_000
"""Assertions of one client that can be alive at once: some thirty a second."""

_TYPES = frozenset({"jwt", "client-authentication+jwt"})
_LONGEST_LIFE = timedelta(minutes=5)
_LEEWAY = timedelta(seconds=30)
"""How far a client's clock may be off."""
_LONGEST_JTI = 256
_NO_CLIENTS = SigningKey.from_seed(bytes(32)).pinned(datetime.max.replace(tzinfo=UTC))
"""What the assertion of an unknown client is checked with, and refused whatever comes
of it."""


class AssertionRow(SQLModel, table=True):
    """One assertion that was used."""

    __tablename__ = "assertion_jti"  # type: ignore[mutable-override] # SQLModel's own way

    client: str = Field(primary_key=True)
    jti: str = Field(primary_key=True)
    """SHA-256 of the assertion's `jti`, base64url."""
    expires_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


_ROW = AssertionRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table


@dataclass(frozen=True, slots=True)
class Assertion:
    """What is kept of one assertion until it expires."""

    client: Slug
    jti: str
    """SHA-256 of the `jti`, base64url."""
    expires_at: datetime
    """First instant at which it is surely refused for its age."""


def client_assertion(
    client: Slug,
    key: SigningKey,
    audience: str,
    *,
    jti: str,
    now: datetime,
    lifetime: timedelta = timedelta(minutes=1),
) -> str:
    """Return an assertion with which a client asks for a token.

    Args:
        client: The client's id, as the pack has it.
        key: The client's own key, pinned in the pack.
        audience: The gateway's token endpoint, or its issuer.
        jti: An id of its own: an assertion works once.
        now: When it is made.
        lifetime: How long it may be used, up to five minutes.
    """
    issued = int(now.timestamp())
    claims: Json = {
        "iss": client,
        "sub": client,
        "aud": audience,
        "jti": jti,
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
    }
    return sign_compact(canonical_plain(claims), "JWT", key)


def check_assertion(
    token: str,
    requesters: Mapping[Slug, Requester],
    audiences: tuple[str, ...],
    now: datetime,
) -> Assertion:
    """Return the assertion of a known client; it has yet to be used up.

    (1) Take it apart.
    (2) Find the client whose key signed it. Up to here there is one message, so that
        nobody learns whether client, key or signature was wrong.
    (3) Check what it says; the client is known, so it is told what to change.

    Args:
        token: The JWT.
        requesters: The clients, by id.
        audiences: What `aud` may be; the first one is recommended.
        now: The instant.

    Raises:
        VerificationError: It is not good; the message says why, and quotes nothing.
    """
    if not 0 < len(token) <= LONGEST:
        raise VerificationError(f"the assertion must have up to {LONGEST} characters")
    jwt = _take_apart(token)  # (1)
    name = jwt.claims.get("sub")
    client = requesters.get(name) if isinstance(name, str) else None
    # How long it takes tells no more than the message does.
    keys = (_NO_CLIENTS,) if client is None else client.keys
    signed = [was_valid(key, now) for key in keys if _has_signed(key, jwt)]
    if client is None or not any(signed):  # (2)
        raise VerificationError(
            "no known client signed the assertion with a key that is valid now"
        )
    _check_claims(jwt.claims, client.id, now)  # (3)
    # One audience, ours: one that names several could be used elsewhere first.
    audience = jwt.claims["aud"]
    named = audience if isinstance(audience, list) else [audience]
    if len(named) != 1 or named[0] not in audiences:
        raise VerificationError(
            f"the assertion's `aud` must be `{audiences[0]}` and no other"
        )
    # A second more, for what the whole seconds of the check cut off.
    dies = datetime.fromtimestamp(jwt.claims["exp"], UTC) + _LEEWAY
    digest = hashlib.sha256(jwt.claims["jti"].encode()).digest()
    return Assertion(client.id, b64url(digest), dies + timedelta(seconds=1))


def spend(connection: Connection, assertion: Assertion, now: datetime) -> None:
    """Use an assertion up, inside a transaction that the caller owns.

    (1) Forget those that have expired: they are refused for their age.
    (2) Refuse it when it was used, or when its client has too many alive.
    (3) Remember it.

    Raises:
        VerificationError: It was used before.
        TooLargeError: The client must wait until some have expired.
    """
    # (1): each spending sweeps, so that the table holds five minutes and no more.
    connection.execute(delete(_ROW).where(_ROW.c.expires_at <= _micros(now)))
    # (2): of two replicas that are given the same one, the primary key chooses (3).
    mine = _ROW.c.client == assertion.client
    if connection.scalar(select(_ROW.c.jti).where(mine, _ROW.c.jti == assertion.jti)):
        raise VerificationError("the assertion's `jti` was used before")
    alive = connection.scalar(select(func.count()).select_from(_ROW).where(mine)) or 0
    if alive >= MOST_OF_A_CLIENT:
        raise TooLargeError("use the token you have until it expires")
    # (3): committed before anything rests on it.
    values = {
        "client": assertion.client,
        "jti": assertion.jti,
        "expires_at": _micros(assertion.expires_at),
    }
    if not insert_or_ignore(connection, _ROW, values):
        raise VerificationError("the assertion's `jti` was used before")


@dataclass(frozen=True, slots=True)
class _Jwt:
    """A JWT taken apart; nothing about it has been checked yet."""

    header: Mapping[str, Any]
    claims: dict[str, Any]
    signed: bytes
    """What the signature is over."""
    signature: bytes


def _take_apart(token: str) -> _Jwt:
    """Return the parts of a compact JWS whose header and payload are maps."""
    head, _, rest = token.partition(".")
    body, _, mark = rest.partition(".")
    try:
        signature = b64url_decode(mark)
        header, claims = (orjson.loads(b64url_decode(part)) for part in (head, body))
    except ValueError as error:
        raise VerificationError(
            "the assertion must be a JWT: three parts in base64url, with JSON"
        ) from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise VerificationError("the assertion's parts must be JSON maps")
    return _Jwt(header, claims, f"{head}.{body}".encode(), signature)


def _has_signed(key: PublicKey, jwt: _Jwt) -> bool:
    """Return whether a pinned key signed the assertion.

    `typ` and `kid` may be absent, as many libraries leave them out. The header's
    algorithm chooses nothing: the key is an Ed25519 key or none (RFC 8725, 3.1).
    """
    header, kid = jwt.header, key.jwk.get("kid")
    alg, typ = header.get("alg"), header.get("typ", "JWT")
    # Nobody has signed this yet: a member may be any JSON.
    if not isinstance(alg, str) or not isinstance(typ, str):
        return False
    if (
        alg not in ACCEPTED_ALGORITHMS
        or typ.removeprefix("application/").lower() not in _TYPES
        or header.get("kid", kid) not in (kid, key.thumbprint)
        or "crit" in header
    ):
        return False
    try:
        check_signature(jwt.signature, jwt.signed, key)
    except VerificationError:
        return False
    return True


def _check_claims(claims: dict[str, Any], client: Slug, now: datetime) -> None:
    """Check whose claims they are and when they hold.

    Raises:
        VerificationError: Something is missing or wrong; says what.
    """
    rules = JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=int(_LEEWAY.total_seconds()),
        iss={"essential": True, "value": client},
        aud={"essential": True},
        exp={"essential": True},
        jti={"essential": True},
    )
    try:
        rules.validate(claims)
    except MissingClaimError as error:
        raise VerificationError(f"the assertion lacks `{error.claim}`") from error
    except InvalidClaimError as error:
        hint = _HINTS.get(error.claim, "a claim of the assertion is wrong")
        raise VerificationError(hint) from error
    except JoseError as error:
        raise VerificationError(
            "the assertion has expired: compare the clocks"
        ) from error
    if claims["exp"] > (now + _LONGEST_LIFE + _LEEWAY).timestamp():
        raise VerificationError(
            "the assertion's `exp` may lie at most five minutes ahead"
        )
    if len(claims["jti"]) > _LONGEST_JTI:
        raise VerificationError(
            f"the assertion's `jti` may have up to {_LONGEST_JTI} characters"
        )


_HINTS = {
    "iss": "the assertion's `iss` and `sub` must both be the client's id",
    "aud": "the assertion's `aud` must be the token endpoint and no other",
    "iat": "the assertion's `iat` lies ahead: compare the clocks",
    "nbf": "the assertion's `nbf` lies ahead: compare the clocks",
    "exp": "the assertion's `exp` must be a number of seconds since 1970",
    "jti": "the assertion's `jti` must be a text of its own",
}


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
