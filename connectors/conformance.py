"""The conformance kit: does a department, in whatever language, speak the protocol?

Point it at a running department with one record that it holds. The kit signs look-ups
with a test key that the department has pinned, sends right and wrong ones, and judges
each answer by the same checks as the gateway. Every promise of
`docs/provider-protocol.md` that can be tried from outside is a check here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import orjson
from pydantic import JsonValue

from connectors.checking import FieldChecker, check_evidence
from connectors.client import ClientPolicy, HttpReply, ServiceClient
from connectors.jose import ALGORITHM, SigningKey, sign_compact, was_valid
from connectors.kinds.http import lookup_claims
from connectors.lookup import Evidence, IntentRef, LookupRequest
from connectors.problems import PROBLEM_MEDIA_TYPE, ProblemType, parse_problem
from connectors.protocol import (
    CLOCK_SKEW_S,
    EVIDENCE_MEDIA_TYPE,
    LOOKUP_TYPE,
    MAX_LOOKUP,
    LookupClaims,
    sign_lookup,
)
from connectors.target import Target, evidence_type_of
from schemas.canonical import b64url, b64url_decode
from schemas.clock import Clock
from schemas.directory import ConnectorKind, Coverage, DataService
from schemas.errors import ErrandError
from schemas.evidence import Mode
from schemas.ids import EventId, LookupId, NewId


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check."""

    check: str
    """What the department must do, in words."""
    passed: bool
    reason: str
    """Why it did not pass; "" when it did."""


_JWKS_PATH = "/.well-known/jwks.json"

_TIMES = 6
"""How often an answer is asked for whose digests may be in order by chance."""


class Kit:
    """One target, and what the checks need to ask it."""

    def __init__(
        self,
        target: Target,
        clock: Clock,
        new_id: NewId,
        entropy: Callable[[int], bytes],
    ) -> None:
        """Read the test key and what is published; nothing is sent yet.

        Raises:
            SettingsError: The key, the URL, a network or what is published is not
                usable.
        """
        self.target = target
        self.evidence_type = evidence_type_of(target)
        self.clock = clock
        self.key = SigningKey.from_file(target.signing_key)
        self.stranger = SigningKey.from_seed(entropy(32))
        self._new_id = new_id
        self._entropy = entropy
        policy = ClientPolicy.of(*target.networks)
        self._client = ServiceClient(target.url, policy, clock)
        self._checker = FieldChecker()

    def request(
        self,
        *,
        keys: Mapping[str, str] | None = None,
        fields: tuple[str, ...] | None = None,
        match: Mapping[str, str] | None = None,
    ) -> LookupRequest:
        """Return a look-up that is right: of the record held, for every field."""
        target = self.target
        fields = target.fields if fields is None else fields
        if match is None and not target.fields:
            match = target.facts
        return LookupRequest(
            id=LookupId(self._new_id()),
            service=_service(target),
            evidence_type=self.evidence_type,
            mode=Mode.RETRIEVE if match is None else Mode.VERIFY,
            keys=target.held if keys is None else keys,
            fields=fields if match is None else (),
            match=match or {},
            requester="conformance_kit",
            purpose="conformance",
            matter="conformance@1",
            basis={"subject": "statutory_duty"},
            grant="conformance",
            intent=IntentRef(
                event=EventId(self._new_id()),
                index=0,
                leaf_hash=bytes(32),
                log="conformance",
            ),
            subject_salt=self._entropy(16),
            issued_at=self.clock.now(),
            timeout_s=target.timeout_s,
        )

    def claims(
        self, request: LookupRequest | None = None, **changes: object
    ) -> LookupClaims:
        """Return the claims of a look-up, right but for `changes`."""
        claims = lookup_claims(request or self.request(), self.target.gateway)
        return claims.model_copy(update=changes)

    async def send(self, body: str) -> HttpReply:
        """Post any body, right or wrong."""
        return await self._client.post(body)

    async def read(self, path: str) -> HttpReply:
        """Read another path of the department's host."""
        return await self._client.get(path)

    def token(
        self,
        request: LookupRequest,
        claims: Mapping[str, JsonValue] = MappingProxyType({}),
        **header: JsonValue,
    ) -> str:
        """Return a look-up that is right, with these members besides or instead."""
        said = self.claims(request).model_dump(mode="json", exclude_defaults=True)
        named = {"alg": ALGORITHM, "kid": self.key.kid, "typ": LOOKUP_TYPE, **header}
        parts = [b64url(orjson.dumps(part)) for part in (named, {**said, **claims})]
        signed = ".".join(parts)
        return f"{signed}.{b64url(self.key.sign(signed.encode()))}"

    async def evidence(
        self, request: LookupRequest, token: str | None = None
    ) -> tuple[Evidence, bool | None]:
        """Ask, and return what the gateway's own checks let through."""
        token = token or sign_lookup(self.claims(request), self.key)
        reply = await self.send(token)
        assert reply.status == 200, f"status {reply.status}"  # noqa: PLR2004 - the status code
        assert reply.media_type == EVIDENCE_MEDIA_TYPE, f"type `{reply.media_type}`"
        return check_evidence(
            request,
            reply.body.decode("ascii"),
            self.target.keys,
            self.clock.now(),
            self._checker,
        )

    async def refused(self, body: str, *problems: ProblemType) -> None:
        """Send what must be refused, as one of `problems`."""
        reply = await self.send(body)
        assert reply.media_type == PROBLEM_MEDIA_TYPE, f"type `{reply.media_type}`"
        problem = parse_problem(reply.body, reply.status).type
        expected = " or ".join(problems)
        assert problem in problems, f"refused as `{problem}`, not as `{expected}`"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _service(target: Target) -> DataService:
    return DataService(
        id="conformance",
        provider=target.provider,
        evidence_type=target.evidence_type,
        connector=ConnectorKind.HTTP,
        endpoint=target.url,
        coverage=Coverage(regions=("000000",)),
    )


async def _gives_evidence(kit: Kit) -> None:
    await kit.evidence(kit.request())


async def _gives_only_what_is_asked(kit: Kit) -> None:
    for field in kit.target.fields:
        try:
            await kit.evidence(kit.request(fields=(field,)))
        except (AssertionError, ErrandError) as failure:
            raise AssertionError(f"`{field}` alone: {failure}") from None


async def _tells_nothing_beside(kit: Kit) -> None:
    shown: list[str] = []
    for _ in range(_TIMES):
        evidence, _ = await kit.evidence(kit.request())
        claims = orjson.loads(b64url_decode(evidence.jwt.split(".")[1]))
        digests = claims.get("fields", {}).get("_sd", [])
        assert digests == sorted(digests), "the digests are not sorted"
        shown += [claims["jti"], *evidence.disclosed.encoded.values()]
    assert len(shown) == len(set(shown)), "a `jti` or a salt is not fresh"


async def _passes_over_new_claims(kit: Kit) -> None:
    request = kit.request()
    await kit.evidence(request, kit.token(request, {"newer": {"than": "this"}}))


async def _takes_the_old_name(kit: Kit) -> None:
    request = kit.request()
    await kit.evidence(request, kit.token(request, alg="EdDSA"))


async def _compares(kit: Kit) -> None:
    facts = kit.target.facts
    if not facts:
        return
    _, match = await kit.evidence(kit.request(match=facts))
    assert match is True, "facts that agree did not match"
    for name in facts:
        wrong = {**facts, name: facts[name] + "?"}
        _, match = await kit.evidence(kit.request(match=wrong))
        assert match is False, f"a wrong `{name}` matched"


async def _says_not_held(kit: Kit) -> None:
    claims = kit.claims(kit.request(keys=kit.target.absent))
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.NOT_HELD)


async def _knows_its_types(kit: Kit) -> None:
    claims = kit.claims(evidence_type="no_such_type@1")
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.UNKNOWN_EVIDENCE_TYPE)


async def _knows_its_keys(kit: Kit) -> None:
    claims = kit.claims(keys={"no_such_key": "x"})
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.INVALID_LOOKUP)


async def _knows_its_fields(kit: Kit) -> None:
    request = kit.request(fields=("no_such_field",), match=None)
    claims = kit.claims(
        request, mode=Mode.RETRIEVE, fields=("no_such_field",), match={}
    )
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.INVALID_LOOKUP)


async def _wants_every_claim(kit: Kit) -> None:
    whole = kit.claims().model_dump(mode="json")
    for name in ("jti", "exp", "keys", "purpose", "requester", "subject_salt"):
        part = {claim: value for claim, value in whole.items() if claim != name}
        token = sign_compact(orjson.dumps(part), LOOKUP_TYPE, kit.key)
        await kit.refused(token, ProblemType.INVALID_LOOKUP)


async def _refuses_strangers(kit: Kit) -> None:
    await kit.refused(sign_lookup(kit.claims(), kit.stranger), ProblemType.NOT_TRUSTED)
    impostor = SigningKey(kit.key.kid, kit.stranger.public, kit.stranger._secret)  # noqa: SLF001 - a name that lies
    await kit.refused(sign_lookup(kit.claims(), impostor), ProblemType.NOT_TRUSTED)


async def _refuses_altered_lookups(kit: Kit) -> None:
    head, _, mark = sign_lookup(kit.claims(), kit.key).split(".")
    _, body, _ = sign_lookup(kit.claims(), kit.key).split(".")
    await kit.refused(f"{head}.{body}.{mark}", ProblemType.NOT_TRUSTED)


async def _refuses_other_kinds_of_token(kit: Kit) -> None:
    payload = kit.claims().model_dump_json().encode()
    token = sign_compact(payload, "evidence+sd-jwt", kit.key)
    await kit.refused(token, ProblemType.NOT_TRUSTED)


async def _refuses_what_is_critical(kit: Kit) -> None:
    token = kit.token(kit.request(), crit=["newer"], newer=True)
    await kit.refused(token, ProblemType.NOT_TRUSTED)


async def _refuses_another_s_name(kit: Kit) -> None:
    token = kit.token(kit.request(), {"iss": "another-gateway"})
    await kit.refused(token, ProblemType.NOT_TRUSTED)


async def _refuses_what_is_for_others(kit: Kit) -> None:
    claims = kit.claims(aud="another_provider")
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.NOT_TRUSTED)


async def _refuses_what_has_expired(kit: Kit) -> None:
    # Just beyond the skew that is allowed: a test key may be a few minutes old.
    now = int(kit.clock.now().timestamp())
    exp = now - CLOCK_SKEW_S - 2
    claims = kit.claims(iat=exp - 3, exp=exp)
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.EXPIRED)


async def _refuses_what_is_to_come(kit: Kit) -> None:
    iat = int(kit.clock.now().timestamp()) + 2 * CLOCK_SKEW_S
    claims = kit.claims(iat=iat, exp=iat + 30)
    await kit.refused(sign_lookup(claims, kit.key), ProblemType.EXPIRED)


async def _allows_for_clocks(kit: Kit) -> None:
    # Half of the skew that is allowed, so that a slow line decides nothing.
    now, half = int(kit.clock.now().timestamp()), CLOCK_SKEW_S // 2
    for iat, exp in ((now + half, now + half + 30), (now - half - 3, now - half)):
        request = kit.request()
        claims = kit.claims(request, iat=iat, exp=exp)
        try:
            await kit.evidence(request, sign_lookup(claims, kit.key))
        except (AssertionError, ErrandError) as failure:
            when = "to come" if iat > now else "over"
            message = f"`{when}` by {half} s: {failure}"
            raise AssertionError(message) from None


async def _refuses_a_life_too_long(kit: Kit) -> None:
    claims = kit.claims()
    longer = claims.model_copy(update={"exp": claims.iat + 3600})
    await kit.refused(sign_lookup(longer, kit.key), ProblemType.INVALID_LOOKUP)


async def _answers_once(kit: Kit) -> None:
    token = sign_lookup(kit.claims(), kit.key)
    first = await kit.send(token)
    assert first.status == 200, f"status {first.status}"  # noqa: PLR2004 - the status code
    await kit.refused(token, ProblemType.REPLAYED)


async def _refuses_nonsense(kit: Kit) -> None:
    for body in ("", "nonsense", "a.b.c", "{}"):
        await kit.refused(body, ProblemType.NOT_TRUSTED, ProblemType.INVALID_LOOKUP)


async def _publishes_its_keys(kit: Kit) -> None:
    reply = await kit.read(_JWKS_PATH)
    assert reply.status == 200, f"status {reply.status}"  # noqa: PLR2004 - the status code
    shown = _key_set(reply.body)
    told = any("d" in key for key in shown)
    assert not told, "a key is there with its secret part `d`: have it replaced"
    published = {(key.get("kty"), key.get("crv"), key.get("x")) for key in shown}
    now = kit.clock.now()
    signing = [key.jwk for key in kit.target.keys if was_valid(key, now)]
    known = {(jwk.get("kty"), jwk.get("crv"), jwk.get("x")) for jwk in signing}
    assert published & known, "no key of `keys` that is valid now is among them"


def _key_set(body: bytes) -> Sequence[Mapping[str, JsonValue]]:
    """Return the keys of a JWK Set (RFC 7517, section 5)."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        message = "what is there is no JWK Set"
        raise AssertionError(message)
    return keys


async def _bounds_what_it_reads(kit: Kit) -> None:
    await kit.refused("a" * (MAX_LOOKUP + 1), ProblemType.TOO_LARGE)


Check = Callable[[Kit], Awaitable[None]]

CHECKS: Mapping[str, Check] = {
    "publishes its key, and no secret part": _publishes_its_keys,
    "gives signed evidence for a record that it holds": _gives_evidence,
    "gives each field alone when it alone is asked for": _gives_only_what_is_asked,
    "gives sorted digests, and all that is random anew": _tells_nothing_beside,
    "passes over a claim that it does not know": _passes_over_new_claims,
    "takes the old name of the algorithm, `EdDSA`": _takes_the_old_name,
    "compares stated facts, and sees one that is wrong": _compares,
    "says not-held for a record that it does not hold": _says_not_held,
    "refuses an evidence type that it does not offer": _knows_its_types,
    "refuses a set of keys that it does not know": _knows_its_keys,
    "refuses a field that it does not offer": _knows_its_fields,
    "refuses a look-up that lacks a claim": _wants_every_claim,
    "refuses a key that it has not pinned": _refuses_strangers,
    "refuses a look-up that was altered": _refuses_altered_lookups,
    "refuses a signed token of another type": _refuses_other_kinds_of_token,
    "refuses a header with `crit`": _refuses_what_is_critical,
    "refuses a look-up in another gateway's name": _refuses_another_s_name,
    "refuses a look-up for another provider": _refuses_what_is_for_others,
    "refuses a look-up that has expired": _refuses_what_has_expired,
    "refuses a look-up of the time to come": _refuses_what_is_to_come,
    "takes a look-up of a clock that is not quite right": _allows_for_clocks,
    "refuses a look-up that lives too long": _refuses_a_life_too_long,
    "answers each look-up once": _answers_once,
    "refuses what is no look-up": _refuses_nonsense,
    "refuses a body that is too large": _bounds_what_it_reads,
}
"""Every check, by what the department must do."""


async def run(kit: Kit) -> tuple[Result, ...]:
    """Run every check in order, also those after one that fails."""
    return tuple([await _run(name, check, kit) for name, check in CHECKS.items()])


async def _run(name: str, check: Check, kit: Kit) -> Result:
    try:
        await check(kit)
    except (AssertionError, ErrandError) as failure:
        return Result(name, passed=False, reason=str(failure))
    except TimeoutError:
        return Result(name, passed=False, reason="no answer in time")
    except UnicodeDecodeError:
        return Result(name, passed=False, reason="the answer is not ASCII")
    return Result(name, passed=True, reason="")
