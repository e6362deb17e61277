"""Who is calling: assertions, access tokens, scopes and purposes."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet
from nacl.bindings import crypto_sign_open

from connectors.jose import SigningKey, sign_compact
from exchange import assertions
from exchange.api import problems, tokens
from exchange.assertions import Assertion, check_assertion, client_assertion, spend
from exchange.database import Database
from exchange.identity import JWKS_PATH, METADATA_PATH, Identity, IssuedToken, Registrar
from exchange.token_request import ASSERTION_TYPE, Caller, TokenFault, TokenRefusal
from schemas.canonical import Json, b64url, canonical_plain
from schemas.clock import Clock, SystemClock
from schemas.directory import PublicKey, Requester, Scope
from schemas.errors import (
    PurposeNotAllowedError,
    ScopeMissingError,
    TooLargeError,
    UnauthenticatedError,
    VerificationError,
)
from schemas.ids import new_ids
from schemas.model import Name
from tests.fakes.clock import FakeClock

NOW = datetime(2026, 1, 8, 6, 30, tzinfo=UTC)
ISSUER = "https://gateway.example"
ENDPOINT = f"{ISSUER}/v1/token"
MINUTE = timedelta(minutes=1)
KEY = SigningKey.from_seed(bytes([1]) * 32)
STRANGER = SigningKey.from_seed(bytes([2]) * 32)
GATEWAY_KEY = SigningKey.from_seed(bytes([3]) * 32)
NEWBORN, STATISTICS = "newborn_registration", "statistics"


def a_requester(
    name: str = "portal",
    scopes: tuple[Scope, ...] = (Scope.PORTAL, Scope.AUDITOR),
    purposes: tuple[str, ...] = (NEWBORN, STATISTICS),
    keys: tuple[PublicKey, ...] = (KEY.pinned(NOW - timedelta(days=1)),),
) -> Requester:
    """Return a client of the pack."""
    both = Name(zh="平台", en="Portal")
    return Requester(id=name, name=both, scopes=scopes, purposes=purposes, keys=keys)


@dataclass
class World:
    """One gateway's identity on real tables, with a clock that obeys."""

    database: Database
    clock: Clock = field(default_factory=lambda: FakeClock(NOW))
    suspended: frozenset[str] = frozenset()
    requesters: tuple[Requester, ...] = (a_requester(),)
    issuer: str = ISSUER
    made: int = 0

    def identity(self, **changes: Any) -> Identity:  # noqa: ANN401 - any setting of it
        """Return what gives tokens here."""
        settings: dict[str, Any] = {
            "issuer": self.issuer,
            "requesters": {one.id: one for one in self.requesters},
            "key": GATEWAY_KEY,
            "lifetime": 10 * MINUTE,
        }
        return Identity(
            Registrar(**{**settings, **changes}),
            store=self.database,
            clock=self.clock,
            new_id=new_ids(self.clock),
            suspended=lambda: self.suspended,
        )

    def form(self, **changes: str | None) -> bytes:
        """Return a request for a token; None leaves a parameter out."""
        self.made += 1
        fields: dict[str, str | None] = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": an_assertion(jti=f"jti-{self.made}"),
            "scope": f"portal:{NEWBORN}",
        }
        kept = {k: v for k, v in {**fields, **changes}.items() if v is not None}
        return urlencode(kept).encode()

    def ask(self, identity: Identity | None = None, **changes: str | None) -> object:
        """Ask for a token; return what comes."""
        return asyncio.run((identity or self.identity()).issue(self.form(**changes)))

    def token(self, identity: Identity, scope: str = f"portal:{NEWBORN}") -> str:
        """Return a token for a scope."""
        answer = self.ask(identity, scope=scope)
        assert isinstance(answer, IssuedToken)
        return answer.access_token


def an_assertion(
    *, key: SigningKey = KEY, header: dict[str, Json] | None = None, **claims: Json
) -> str:
    """Return a signed assertion; a claim that is None is left out."""
    usual: dict[str, Json] = {
        "iss": "portal",
        "sub": "portal",
        "aud": ENDPOINT,
        "jti": "jti",
        "iat": int(NOW.timestamp()),
        "exp": int((NOW + MINUTE).timestamp()),
    }
    kept = {k: v for k, v in {**usual, **claims}.items() if v is not None}
    if header is None:
        return sign_compact(canonical_plain(kept), "JWT", key)
    segments = [b64url(canonical_plain(part)) for part in (header, kept)]
    signed = ".".join(segments)
    return f"{signed}.{b64url(key.sign(signed.encode()))}"


@pytest.fixture
def database(tables_url: str) -> Iterator[Database]:
    """Open tables of one's own."""
    with Database(tables_url) as database:
        yield database


@pytest.fixture
def world(database: Database) -> World:
    """Make a gateway's identity."""
    return World(database)


# Giving tokens.


def test_a_client_gets_a_token_for_what_it_names(world: World) -> None:
    """The token names its client, scopes and purposes, and its time."""
    identity = world.identity()
    answer = world.ask(identity, scope=f"auditor portal:{NEWBORN}")

    assert isinstance(answer, IssuedToken)
    assert answer.expires_in == 600
    assert answer.scope == f"auditor portal:{NEWBORN}"
    assert identity.caller(answer.access_token, NOW) == Caller(
        "portal", frozenset({Scope.PORTAL, Scope.AUDITOR}), frozenset({NEWBORN})
    )


def test_a_token_is_an_rfc_9068_token_that_the_published_key_verifies(
    world: World,
) -> None:
    """An ordinary library reads it with the published keys."""
    identity = world.identity()
    token = world.token(identity)
    opened = jwt.decode(token, KeySet.import_key_set(identity.jwks()), ["Ed25519"])  # type: ignore[arg-type] # plain JSON

    assert opened.header["typ"] == "at+jwt"
    assert {"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"} == set(
        opened.claims
    )
    assert (opened.claims["iss"], opened.claims["aud"]) == (ISSUER, ISSUER)


@pytest.mark.parametrize(
    ("scope", "purposes"),
    [
        (f"portal:{NEWBORN}", {NEWBORN}),
        (f"portal:{NEWBORN} portal:{STATISTICS}", {NEWBORN, STATISTICS}),
        ("auditor", set()),
    ],
)
def test_a_token_carries_the_purposes_it_was_asked_for(
    world: World, scope: str, purposes: set[str]
) -> None:
    """No purpose is added, and none is lost."""
    identity = world.identity()

    assert purposes == identity.caller(world.token(identity, scope), NOW).purposes


def test_portal_alone_is_the_only_purpose_of_a_client_that_has_one(
    world: World,
) -> None:
    """A client with one purpose need not name it."""
    world.requesters = (a_requester(purposes=(NEWBORN,)),)
    identity = world.identity()

    assert identity.caller(world.token(identity, "portal"), NOW).purposes == {NEWBORN}


@pytest.mark.parametrize(
    "scope",
    [
        None,
        "",
        "portal",
        "operator",
        "portal:other",
        "portal:",
        "auditor:statistics",
        f"portal:{NEWBORN} operator",
        f"portal:{NEWBORN}  auditor",
        "nothing",
        " ".join(["auditor"] * 17),
    ],
)
def test_what_the_client_may_not_have_is_refused_whole(
    world: World, scope: str | None
) -> None:
    """One scope or purpose too many, and there is no token at all."""
    answer = world.ask(scope=scope)

    assert isinstance(answer, TokenRefusal)
    assert TokenFault.INVALID_SCOPE is answer.fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"grant_type": None}, TokenFault.INVALID_REQUEST),
        ({"grant_type": "password"}, TokenFault.UNSUPPORTED_GRANT_TYPE),
        ({"client_assertion_type": None}, TokenFault.INVALID_CLIENT),
        ({"client_assertion_type": "secret"}, TokenFault.INVALID_CLIENT),
        ({"client_assertion": None}, TokenFault.INVALID_CLIENT),
        ({"client_assertion": "a" * 4_097}, TokenFault.INVALID_CLIENT),
        ({"client_id": "another"}, TokenFault.INVALID_CLIENT),
    ],
)
def test_a_wrong_form_is_refused(
    world: World, changes: dict[str, str | None], fault: TokenFault
) -> None:
    """Each fault has its code of RFC 6749."""
    answer = world.ask(world.identity(), **changes)

    assert isinstance(answer, TokenRefusal)
    assert fault is answer.fault


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"grant_type",
        b"\xff\xfe",
        b"grant_type=a&grant_type=client_credentials",
        b"&".join(b"a%d=1" % number for number in range(40)),
        b"grant_type=%ff",
    ],
)
def test_a_body_that_is_no_form_is_refused(world: World, body: bytes) -> None:
    """Parameters come once, decoded strictly, and not in hundreds."""
    answer = asyncio.run(world.identity().issue(body))

    assert isinstance(answer, TokenRefusal)
    assert TokenFault.INVALID_REQUEST is answer.fault


def _check(token: str, now: datetime = NOW) -> Assertion:
    return check_assertion(token, {"portal": a_requester()}, (ENDPOINT, ISSUER), now)


@pytest.mark.parametrize(
    "token",
    [
        an_assertion(),
        an_assertion(aud=ISSUER),
        an_assertion(aud=[ENDPOINT]),
        an_assertion(iat=None),
        an_assertion(header={"alg": "EdDSA"}),
        an_assertion(header={"alg": "Ed25519", "kid": KEY.kid, "typ": "jwt"}),
        an_assertion(
            header={"alg": "Ed25519", "typ": "application/client-authentication+jwt"}
        ),
    ],
)
def test_a_good_assertion_is_accepted(token: str) -> None:
    """Libraries differ in header and audience; all of these are right."""
    assert _check(token).client == "portal"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (an_assertion(key=STRANGER), "no known client"),
        (an_assertion(sub="another", iss="another"), "no known client"),
        (an_assertion(sub=None), "no known client"),
        (an_assertion(sub=7), "no known client"),
        (an_assertion(header={"alg": "none"}), "no known client"),
        (an_assertion(header={"alg": "HS256"}), "no known client"),
        (an_assertion(header={"alg": "Ed25519", "kid": "other"}), "no known client"),
        (an_assertion(header={"alg": "Ed25519", "typ": "at+jwt"}), "no known client"),
        (an_assertion(header={"alg": "Ed25519", "crit": ["b64"]}), "no known client"),
        (an_assertion(iss="another"), "`iss` and `sub`"),
        (an_assertion(iss=None), "lacks `iss`"),
        (an_assertion(aud=None), "lacks `aud`"),
        (an_assertion(exp=None), "lacks `exp`"),
        (an_assertion(jti=None), "lacks `jti`"),
        (an_assertion(aud="https://elsewhere.example"), "`aud` must be"),
        (an_assertion(aud=[ENDPOINT, "https://elsewhere.example"]), "`aud` must be"),
        (an_assertion(aud=[]), "`aud` must be"),
        (an_assertion(aud=7), "`aud` must be"),
        (an_assertion(aud=f"{ENDPOINT}/"), "`aud` must be"),
        (an_assertion(exp=int(NOW.timestamp()) - 30), "has expired"),
        (an_assertion(exp=int(NOW.timestamp()) + 331), "five minutes"),
        (an_assertion(exp="soon"), "`exp` must be"),
        (an_assertion(exp=True), "`exp` must be"),
        (an_assertion(iat=int(NOW.timestamp()) + 31), "`iat` lies ahead"),
        (an_assertion(nbf=int(NOW.timestamp()) + 31), "`nbf` lies ahead"),
        (an_assertion(jti=7), "`jti` must be"),
        (an_assertion(jti="j" * 257), "256 characters"),
        ("", "characters"),
        ("a" * 4_097, "characters"),
        ("a.b.c", "must be a JWT"),
        ("a.b", "must be a JWT"),
        (an_assertion() + ".x", "must be a JWT"),
        ("W10.W10.AAAA", "JSON maps"),
    ],
)
def test_a_wrong_assertion_is_refused_with_the_reason(token: str, why: str) -> None:
    """Whoever proved to be the client is told what to change; nobody else is."""
    with pytest.raises(VerificationError, match=why):
        _check(token)


@pytest.mark.parametrize(
    ("shift", "is_good"),
    [
        (timedelta(0), True),
        (-timedelta(microseconds=1), False),
        (timedelta(hours=1) - timedelta(microseconds=1), True),
        (timedelta(hours=1), False),
    ],
)
def test_a_key_signs_from_its_first_to_its_last_instant(
    shift: timedelta, *, is_good: bool
) -> None:
    """The first instant counts, the last does not."""
    pinned = KEY.pinned(NOW).model_copy(
        update={"valid_until": NOW + timedelta(hours=1)}
    )
    at = NOW + shift
    token = client_assertion("portal", KEY, ENDPOINT, jti="j", now=at)
    clients = {"portal": a_requester(keys=(pinned,))}
    try:
        check_assertion(token, clients, (ENDPOINT,), at)
    except VerificationError:
        assert not is_good
    else:
        assert is_good


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_garbage_gets_through(noise: bytes) -> None:
    """Whatever is sent, it is refused, and by the right error."""
    text = noise.decode("utf-8", errors="replace")
    for token in (text, f"{text}.{text}.{text}", f"{an_assertion()}{text or 'x'}"):
        with pytest.raises(VerificationError):
            _check(token)


@given(st.data())
def test_no_changed_assertion_gets_through(data: st.DataObject) -> None:
    """One changed character anywhere breaks it."""
    token = an_assertion()
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("AZaz09-_.").filter(lambda c: c != token[place]))
    with pytest.raises(VerificationError):
        _check(token[:place] + other + token[place + 1 :])


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["portal", "Ed25519", "JWT", KEY.kid, ENDPOINT])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner),
    max_leaves=3,
)


def _maps(*members: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return JSON maps with any of these members, whatever their type."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(members, _JSON))


def _token(header: dict[str, Any], claims: dict[str, Any], sign: Any = None) -> str:  # noqa: ANN401 - a key's `sign`
    """Return a JWT of any header and claims, signed by `sign` or by nobody."""
    signed = ".".join(b64url(orjson.dumps(one)) for one in (header, claims))
    return f"{signed}.{b64url(sign(signed.encode()) if sign else bytes(64))}"


@settings(max_examples=50)
@given(
    header=_maps("alg", "kid", "typ", "crit"),
    claims=_maps("iss", "sub", "aud", "exp"),
    known=st.booleans(),
)
@example(header={"alg": []}, claims={}, known=True)
@example(header={"alg": {}}, claims={}, known=True)
@example(header={"alg": "Ed25519", "typ": {}}, claims={}, known=True)
@example(header={"alg": "Ed25519", "kid": []}, claims={}, known=True)
@example(header={"alg": "Ed25519"}, claims={}, known=True)
@example(header={"alg": "Ed25519"}, claims={"sub": []}, known=False)
def test_what_nobody_signed_is_refused_in_one_way(
    header: dict[str, Any], claims: dict[str, Any], *, known: bool
) -> None:
    """Any JSON as header and claims: it does not tell which clients there are."""
    who = {"iss": "portal", "sub": "portal"} if known else {}
    token = _token(header, {**claims, **who})
    with pytest.raises(VerificationError) as refused:
        _check(token)

    assert _UNSIGNED == str(refused.value)


_UNSIGNED = "no known client signed the assertion with a key that is valid now"


@pytest.mark.parametrize("client", ["portal", "another"])
def test_a_client_that_is_unknown_costs_as_much_as_one_that_is_not(client: str) -> None:
    """One signature is verified either way: the time does not tell them apart."""
    claims = {"sub": client, "iss": client}
    token = an_assertion(key=STRANGER, header={"alg": "Ed25519"}, **claims)
    verified: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is crypto_sign_open.__code__:
            verified.append(event)

    sys.setprofile(note)
    try:
        with pytest.raises(VerificationError, match=_UNSIGNED):
            _check(token)
    finally:
        sys.setprofile(None)

    assert ["call"] == verified


@settings(max_examples=50)
@given(claims=_maps("iss", "aud", "exp", "nbf", "iat", "jti"))
@example(claims={"iss": "portal", "aud": [[]], "exp": 1e300, "jti": "j"})
def test_whatever_a_client_signs_is_refused_by_the_right_error(
    claims: dict[str, Any],
) -> None:
    """A client that is known may claim any JSON as well."""
    with pytest.raises(VerificationError):
        _check(_token({"alg": "Ed25519"}, {**claims, "sub": "portal"}, KEY.sign))


@settings(max_examples=20)
@given(extra=st.binary(min_size=1, max_size=40))
def test_a_signature_is_over_the_whole_assertion_and_nothing_else(
    extra: bytes,
) -> None:
    """A signature over more than header and claims is none of the assertion."""
    signed = an_assertion().rpartition(".")[0]
    longer = KEY.sign(extra + signed.encode()) + extra
    with pytest.raises(VerificationError, match="no known client"):
        _check(f"{signed}.{b64url(longer)}")


def test_an_assertion_works_once(world: World) -> None:
    """The second use is refused, from whatever gateway process it comes."""
    assertion = an_assertion(jti="once")
    first = world.ask(client_assertion=assertion)
    second = world.ask(client_assertion=assertion)

    assert isinstance(first, IssuedToken)
    assert isinstance(second, TokenRefusal)
    assert "used before" in second.description


def test_an_assertion_is_used_up_even_when_the_scope_is_refused(world: World) -> None:
    """Nobody can try scopes with an assertion that was seen on the way."""
    assertion = an_assertion(jti="once")
    world.ask(client_assertion=assertion, scope="operator")
    second = world.ask(client_assertion=assertion)

    assert isinstance(second, TokenRefusal)
    assert TokenFault.INVALID_CLIENT is second.fault


def test_racing_uses_of_one_assertion_give_one_token(world: World) -> None:
    """However many come at once, one is first."""
    identity = world.identity()
    form = world.form(client_assertion=an_assertion(jti="once"))

    async def race() -> list[object]:
        return list(await asyncio.gather(*(identity.issue(form) for _ in range(8))))

    answers = asyncio.run(race())

    assert sum(isinstance(answer, IssuedToken) for answer in answers) == 1


async def _spend(database: Database, one: Assertion, now: datetime) -> None:
    await database.write(lambda connection: spend(connection, one, now))


def test_spent_assertions_are_kept_as_long_as_they_would_be_accepted(
    database: Database,
) -> None:
    """At the last instant of acceptance the memory still holds; later it is gone."""
    token = an_assertion(jti="once")
    one = _check(token)

    async def run() -> None:
        await _spend(database, one, NOW)
        late = NOW + MINUTE + timedelta(seconds=30) - timedelta(microseconds=1)
        assert _check(token, late) == one
        with pytest.raises(VerificationError, match="used before"):
            await _spend(database, one, late)
        with pytest.raises(VerificationError, match="expired"):
            _check(token, one.expires_at)
        await _spend(database, one, one.expires_at)

    asyncio.run(run())


def test_a_client_has_a_bounded_number_of_assertions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that keeps asking is slowed down, until some have expired."""
    monkeypatch.setattr(assertions, "MOST_OF_A_CLIENT", 2)
    clock = FakeClock(NOW)
    world.clock = clock
    answers = [world.ask() for _ in range(3)]
    clock.advance(2 * MINUTE)
    later = int((NOW + 3 * MINUTE).timestamp())
    again = world.ask(client_assertion=an_assertion(jti="later", exp=later))

    assert [type(answer) for answer in answers[:2]] == [IssuedToken, IssuedToken]
    assert isinstance(answers[2], TokenRefusal)
    assert TokenFault.SLOW_DOWN is answers[2].fault
    assert isinstance(again, IssuedToken)


# Knowing callers.


def test_a_token_expires_at_its_last_instant(world: World) -> None:
    """Ten minutes, and not a moment more, cached or not."""
    identity = world.identity()
    token = world.token(identity)
    end = NOW + 10 * MINUTE

    last = end - timedelta(microseconds=1)
    assert identity.caller(token, last).requester == "portal"
    for fresh in (identity, world.identity()):
        with pytest.raises(UnauthenticatedError, match="expired"):
            fresh.caller(token, end)


def test_a_suspension_holds_for_tokens_given_before(world: World) -> None:
    """A suspended client's cached token stops at once, and goes on when resumed."""
    identity = world.identity()
    token = world.token(identity)
    identity.caller(token, NOW)
    world.suspended = frozenset({"requester:portal"})
    with pytest.raises(UnauthenticatedError, match="suspended"):
        identity.caller(token, NOW)
    refused = world.ask(identity)
    world.suspended = frozenset({"grant:portal"})

    assert isinstance(refused, TokenRefusal)
    assert TokenFault.UNAUTHORIZED_CLIENT is refused.fault
    assert identity.caller(token, NOW).requester == "portal"


@pytest.mark.parametrize(
    "requesters",
    [
        (),
        (a_requester(scopes=(Scope.AUDITOR,)),),
        (a_requester(purposes=(STATISTICS,)),),
    ],
    ids=["client", "scope", "purpose"],
)
def test_what_the_pack_no_longer_allows_no_older_token_allows(
    world: World, requesters: tuple[Requester, ...]
) -> None:
    """After a restart with another pack, older tokens are asked for again."""
    token = world.token(world.identity())
    world.requesters = requesters
    with pytest.raises(UnauthenticatedError):
        world.identity().caller(token, NOW)


def test_tokens_of_an_older_key_are_known_while_it_is_listed(world: World) -> None:
    """A change of the gateway's key breaks no token that is alive."""
    token = world.token(world.identity())
    other = SigningKey.from_seed(bytes([9]) * 32)
    older = (GATEWAY_KEY.pinned(NOW),)

    known = world.identity(key=other, older_keys=older).caller(token, NOW)

    assert known.requester == "portal"
    with pytest.raises(UnauthenticatedError):
        world.identity(key=other).caller(token, NOW)


def test_a_key_that_was_changed_gives_no_token_afterwards(world: World) -> None:
    """Its tokens expire a token's life after the change; later ones are forged."""
    other = SigningKey.from_seed(bytes([9]) * 32)
    pin = GATEWAY_KEY.pinned(NOW - MINUTE).model_copy(update={"valid_until": NOW})
    identity = world.identity(key=other, older_keys=(pin,))
    end = int((NOW + 10 * MINUTE).timestamp())
    last, forged = (_signed(GATEWAY_KEY, "at+jwt", exp=when) for when in (end, end + 1))

    assert identity.caller(last, NOW).requester == "portal"
    with pytest.raises(UnauthenticatedError, match="its key is gone"):
        identity.caller(forged, NOW)


def _signed(key: SigningKey, kind: str, **changes: Json) -> str:
    claims: dict[str, Json] = {
        "iss": ISSUER,
        "aud": ISSUER,
        "client_id": "portal",
        "exp": int((NOW + MINUTE).timestamp()),
        "scope": "auditor",
    }
    return sign_compact(canonical_plain({**claims, **changes}), kind, key)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "é.é.é",
        "a" * 4_097,
        _signed(STRANGER, "at+jwt"),
        _signed(GATEWAY_KEY, "consent-receipt+jwt"),
        _signed(GATEWAY_KEY, "JWT"),
        _signed(GATEWAY_KEY, "at+jwt", iss="https://elsewhere.example"),
        _signed(GATEWAY_KEY, "at+jwt", aud="https://elsewhere.example"),
        an_assertion(),
    ],
)
def test_what_is_no_token_of_ours_is_refused(world: World, token: str) -> None:
    """Neither strangers' tokens nor other things we sign are access tokens."""
    with pytest.raises(UnauthenticatedError):
        world.identity().caller(token, NOW)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic x", "token"])
def test_a_call_without_a_bearer_token_is_not_authenticated(
    world: World, header: str | None
) -> None:
    """There is one way to show a token."""
    with pytest.raises(UnauthenticatedError):
        world.identity().authenticate(header, NOW)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_name_of_the_scheme_has_no_case(world: World, scheme: str) -> None:
    """RFC 9110, section 11.1."""
    identity = world.identity()
    caller = identity.authenticate(f"{scheme} {world.token(identity)}", NOW)

    assert caller.requester == "portal"


def test_a_caller_has_what_its_token_says_and_no_more() -> None:
    """A missing scope and another purpose are told apart."""
    caller = Caller("portal", frozenset({Scope.PORTAL}), frozenset({NEWBORN}))
    caller.require(Scope.PORTAL)
    caller.require_purpose(NEWBORN)
    with pytest.raises(ScopeMissingError, match="auditor"):
        caller.require(Scope.AUDITOR)
    with pytest.raises(PurposeNotAllowedError):
        caller.require_purpose(STATISTICS)


def test_the_cache_of_tokens_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest makes room, and is verified anew when it comes again."""
    monkeypatch.setattr("exchange.identity._MOST_CACHED", 2)
    identity = world.identity()
    made = [_signed(GATEWAY_KEY, "at+jwt", jti=f"t{number}") for number in range(5)]
    for token in [*made, *made]:
        assert identity.caller(token, NOW).requester == "portal"
        assert len(identity._cache) <= 2


# Over HTTP.


@dataclass(frozen=True)
class Running:
    """What the application hands to the routes, and where it listens."""

    identity: Identity
    url: str


@pytest.fixture
def running(database: Database, tmp_path: Path) -> Iterator[Running]:
    """Serve the token routes on a real port, with a portal whose key is a file."""
    (tmp_path / "portal.pem").write_bytes(KEY.to_pem())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # so that whoever comes early waits
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        keys = (KEY.pinned(datetime(2020, 1, 1, tzinfo=UTC)),)
        client = a_requester(name="portal_990100", keys=keys)
        world = World(database, SystemClock(), requesters=(client,), issuer=url)
        running = Running(world.identity(), url)
        app = FastAPI()
        problems.install(app)
        app.include_router(tokens.router)
        app.state.gateway = running
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        sockets = {"sockets": [listening]}
        thread = threading.Thread(target=server.run, kwargs=sockets)
        thread.start()
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)


def _post(running: Running, **changes: str | bytes) -> httpx.Response:
    now = datetime.now(UTC)  # noqa: TID251 - the server reads the real clock too
    endpoint = f"{running.url}/v1/token"
    assertion = client_assertion(
        "portal_990100", KEY, endpoint, jti=now.isoformat(), now=now
    )
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
        "scope": f"portal:{NEWBORN}",
    }
    return httpx.post(endpoint, data={**form, **changes}, trust_env=False)


def test_the_token_endpoint_answers_as_rfc_6749_wants(running: Running) -> None:
    """Success and refusals have the form, status and headers of sections 5.1, 5.2."""
    good = _post(running)
    unknown = _post(running, client_assertion=an_assertion(key=STRANGER))
    wrong = _post(running, scope="operator")
    elsewhere = _post(running, scope="portal:tax_return")

    assert (good.status_code, good.headers["cache-control"]) == (200, "no-store")
    assert set(good.json()) == {"access_token", "token_type", "expires_in", "scope"}
    assert "Bearer" in good.json().values()
    assert unknown.status_code == 401
    assert unknown.json()["error"] == "invalid_client"
    assert "www-authenticate" in unknown.headers
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_scope")
    assert wrong.json()["error_description"].endswith("it has `auditor`, `portal`")
    assert f"it has `{NEWBORN}`, " in elsewhere.json()["error_description"]


@pytest.mark.parametrize("client", ["portal_990100", "nobody"])
def test_the_token_endpoint_tells_nobody_which_clients_there_are(
    running: Running, client: str
) -> None:
    """A header of the wrong types is no failure of ours, and tells nothing."""
    token = _token({"alg": []}, {"iss": client, "sub": client})
    refused = _post(running, client_assertion=token)

    assert 401 == refused.status_code
    assert _UNSIGNED == refused.json()["error_description"]


def test_the_token_endpoint_takes_forms_of_a_bounded_size(running: Running) -> None:
    """JSON is refused, and so is a form that doesn't end."""
    endpoint = f"{running.url}/v1/token"
    as_json = httpx.post(endpoint, json={}, trust_env=False)
    too_long = _post(running, scope="x" * 20_000)

    assert (as_json.status_code, as_json.json()["error"]) == (400, "invalid_request")
    assert too_long.status_code == 413


def test_metadata_and_keys_are_published(running: Running) -> None:
    """Software finds the endpoint and the keys by itself (RFC 8414)."""
    metadata = httpx.get(running.url + METADATA_PATH, trust_env=False).json()
    keys = httpx.get(metadata["jwks_uri"], trust_env=False).json()
    token = _post(running).json()["access_token"]

    assert metadata["issuer"] == running.url
    assert metadata["token_endpoint"] == f"{running.url}/v1/token"
    assert f"portal:{NEWBORN}" in metadata["scopes_supported"]
    assert metadata["jwks_uri"] == running.url + JWKS_PATH
    assert "d" not in keys["keys"][0]
    opened = jwt.decode(token, KeySet.import_key_set(keys), ["Ed25519"])
    assert opened.claims["sub"] == "portal_990100"


_DOCUMENT = Path(__file__).parents[2] / "docs" / "tokens.md"
_TEXT = _DOCUMENT.read_text(encoding="utf-8")
_BLOCKS = re.findall(r"```sh\n(.*?)```", _TEXT, re.DOTALL)
_TOOLS = [tool for tool in ("sh", "openssl", "curl") if shutil.which(tool) is None]


def _run(script: str, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(bool(_TOOLS), reason=f"not installed here: {_TOOLS}")
def test_a_token_can_be_had_with_openssl_and_curl(
    running: Running, tmp_path: Path
) -> None:
    """The document's shell block gets a token that the gateway knows."""
    printed = _run(_BLOCKS[1], tmp_path, GATEWAY=running.url, CLIENT="portal_990100")
    token = orjson.loads(printed)["access_token"]

    now = datetime.now(UTC)  # noqa: TID251 - the server reads the real clock too
    assert running.identity.caller(token, now).purposes == {NEWBORN}


@pytest.mark.skipif(bool(_TOOLS), reason=f"not installed here: {_TOOLS}")
def test_a_key_made_with_openssl_has_the_thumbprint_that_is_pinned(
    tmp_path: Path,
) -> None:
    """The document's first block prints what the operator has to register."""
    printed = _run(_BLOCKS[0], tmp_path)
    key = SigningKey.from_file(tmp_path / "portal.pem")
    pinned = key.pinned(NOW)

    expected = f"x: {pinned.jwk['x']}\nthumbprint: {pinned.thumbprint}\n"
    assert expected == printed


def test_too_many_assertions_are_told_apart_from_spent_ones(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit raises its own error, and leaves other clients alone."""
    monkeypatch.setattr(assertions, "MOST_OF_A_CLIENT", 1)
    later = NOW + MINUTE

    async def run() -> None:
        await _spend(database, Assertion("portal", "a", later), NOW)
        with pytest.raises(TooLargeError):
            await _spend(database, Assertion("portal", "b", later), NOW)
        await _spend(database, Assertion("auditor", "b", later), NOW)

    asyncio.run(run())
