"""The provider protocol on the wire: look-ups and evidence, for both sides.

`docs/provider-protocol.md` is the contract; this is its one implementation, used by
the gateway's connector, by the department service and by the conformance kit. A
look-up is a compact JWS of the gateway. Evidence is an SD-JWT (RFC 9901) of the
department with one disclosure a field, all under the claim `fields`, so that no field
name can collide with a claim. What is refused is refused with a problem of a closed
list: `connectors.problems`.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import orjson
from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
)

from connectors.jose import SigningKey, sign_compact, verify_compact, was_valid
from schemas.canonical import (
    b64url,
    b64url_decode,
    canonical_plain,
    check_members,
    sha256_b64url,
)
from schemas.directory import PublicKey
from schemas.documented import Documented
from schemas.errors import ConnectorFaultError, Fault, VerificationError
from schemas.evidence import FieldName, Mode
from schemas.model import Instant, Slug, VersionedId

LOOKUP_TYPE = "lookup+jwt"
EVIDENCE_TYPE = "evidence+sd-jwt"
LOOKUP_MEDIA_TYPE = "application/jwt"
EVIDENCE_MEDIA_TYPE = "application/sd-jwt"
DEFERRED_MEDIA_TYPE = "application/json"

MAX_LOOKUP = 16 * 1024  # bytes
MAX_LIFETIME_S = 300
"""How long a look-up may live, from `iat` to `exp`."""
CLOCK_SKEW_S = 60
"""How far the clocks of two parties may differ."""
MAX_VALUE = 400
"""Characters of a value that a record is found by or compared with."""
_SALT_BYTES = 16
_SALT = re.compile(r"[A-Za-z0-9_-]{22,}")
"""A disclosure's salt: 16 bytes or more in base64url."""


Seconds = Annotated[int, Field(ge=0, lt=253_402_300_800)]
"""Whole seconds since 1970 (RFC 7519 NumericDate), before the year 10000."""
TokenId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""32 bytes in base64url."""
Salt = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22}$")]
"""16 bytes in base64url."""
PartyId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ShortText = Annotated[str, StringConstraints(max_length=MAX_VALUE)]


class _Wire(Documented):
    """What is on the wire has the types of the contract: `"true"` is no `true`."""

    model_config = ConfigDict(frozen=True, strict=True)


class IntentClaims(_Wire):
    """The log record that a look-up rests on: the department's receipt for it."""

    event: TokenId
    index: Annotated[int, Field(ge=0, lt=2**53)]
    leaf_hash: Digest
    log: PartyId


class LookupClaims(_Wire):
    """What a look-up says; claims that are not named here are passed over."""

    iss: PartyId
    """The gateway."""
    aud: Slug
    """The provider who is asked."""
    jti: TokenId
    iat: Seconds
    exp: Seconds
    service: Slug
    evidence_type: VersionedId
    mode: Mode
    keys: Annotated[Mapping[FieldName, ShortText], Field(min_length=1, max_length=8)]
    """The values that the record is found by: one whole set of keys."""
    fields: Annotated[tuple[FieldName, ...], Field(max_length=256)] = ()
    """The fields that are asked for; empty in verify mode."""
    match: Annotated[Mapping[FieldName, ShortText], Field(max_length=64)] = {}
    """The facts to compare, by field; empty in retrieve mode."""
    subject_salt: Salt
    """The key of the subject digest, known to gateway and department only."""
    requester: Slug
    """For whom the evidence is: it becomes `aud` of the evidence."""
    purpose: Slug
    matter: VersionedId
    basis: Annotated[Mapping[Slug, Slug], Field(max_length=32)]
    """The kind of lawful basis, by role."""
    grant: Slug
    intent: IntentClaims


class DisclosedFields(_Wire):
    """The digests of the disclosures (RFC 9901, 4.2.4.1)."""

    model_config = ConfigDict(extra="forbid")

    sd: Annotated[tuple[Digest, ...], Field(alias="_sd", max_length=256)]


class EvidenceClaims(_Wire):
    """What the department signs. Any further claim would be an unasked field."""

    model_config = ConfigDict(extra="forbid")

    TEXTS: ClassVar = frozenset(
        ["iss", "aud", "jti", "lookup", "evidence_type", "subject", "as_of", "sd_alg"]
    )
    """The claims that are texts: never null, and without a quotation mark."""

    iss: Slug
    """The provider."""
    aud: Slug
    """The requester."""
    jti: TokenId
    iat: Seconds
    lookup: TokenId
    """`jti` of the look-up that this answers."""
    evidence_type: VersionedId
    subject: Digest
    """`subject_digest` of the keys as the register has them."""
    as_of: Instant
    """When the register held this."""
    sd_alg: Annotated[Literal["sha-256"], Field(alias="_sd_alg")] = "sha-256"
    fields: DisclosedFields | None = None
    """Retrieve mode; absent in verify mode."""
    match: bool | None = None
    """Verify mode: whether every stated fact agrees; absent in retrieve mode."""


@dataclass(frozen=True, slots=True)
class Disclosed:
    """The fields of one evidence, as the department disclosed them, by field name."""

    encoded: Mapping[str, str] = field(repr=False)
    """base64url(JSON([salt, name, value])), RFC 9901, 4.2: what is digested."""
    values: Mapping[str, JsonValue] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenedEvidence:
    """An SD-JWT whose signature and digests hold; what it says is not yet judged."""

    claims: EvidenceClaims
    issued_at: datetime
    """`iat`."""
    jwt: str
    disclosed: Disclosed


def subject_digest(salt: bytes, keys: Mapping[str, str]) -> str:
    """Return HMAC-SHA-256 of the canonical keys under `salt`, in base64url.

    The salt is not in the evidence: an id has too few possible values to be hidden
    by a digest whose salt everybody can read.
    """
    mac = hmac.new(salt, canonical_plain(dict(keys)), hashlib.sha256)
    return b64url(mac.digest())


def sign_lookup(claims: LookupClaims, key: SigningKey) -> str:
    """Return the look-up as a compact JWS."""
    payload = claims.model_dump_json(exclude_defaults=True).encode()
    return sign_compact(payload, LOOKUP_TYPE, key)


def open_lookup(token: str, keys: Sequence[PublicKey]) -> LookupClaims:
    """Return what a look-up says, which one of `keys` signed while it was valid.

    Raises:
        VerificationError: The signature does not hold.
        ValueError: It is signed, and does not say what a look-up must say, or says
            something twice; the message names the claims, without values.
    """
    verified = verify_compact(token, LOOKUP_TYPE, keys)
    try:
        claims = LookupClaims.model_validate_json(verified.payload)
    except ValidationError as error:
        raise ValueError(_places(error)) from None
    check_members(verified.payload)
    if not was_valid(verified.key, from_seconds(claims.iat)):
        raise VerificationError("the key was not valid when the look-up was signed")
    return claims


def seal_evidence(
    claims: EvidenceClaims,
    values: Mapping[str, JsonValue] | None,
    key: SigningKey,
    entropy: Callable[[int], bytes],
) -> str:
    """Return the SD-JWT of a department: `values` in retrieve mode, else None.

    The digests are sorted, so that their order says nothing about the fields.
    """
    payload = claims.model_dump(mode="json", by_alias=True, exclude_none=True)
    disclosures: list[str] = []
    if values is not None:
        disclosures = [
            b64url(orjson.dumps([b64url(entropy(_SALT_BYTES)), name, value]))
            for name, value in values.items()
        ]
        digests = sorted(sha256_b64url(d.encode()) for d in disclosures)
        payload["fields"] = {"_sd": digests}
    token = sign_compact(orjson.dumps(payload), EVIDENCE_TYPE, key)
    return "~".join([token, *disclosures, ""])


def open_evidence(sd_jwt: str, keys: Sequence[PublicKey]) -> OpenedEvidence:
    """Return an SD-JWT's claims and disclosures, once they are proved the signer's.

    SOURCE: RFC 9901, 7.1.

    (1) It has the form `<JWT>~<disclosure>~...~`, without key binding.
    (2) One of `keys` signed it, and was valid at `iat`.
    (3) It says what evidence must say, and nothing beside.
    (4) The digest of each disclosure is among the signed ones, once.
    (5) Nobody can guess a field that is withheld: each has a long salt of its own.

    Raises:
        ConnectorFaultError: Any of this does not hold.
    """
    jwt, *disclosures = sd_jwt.split("~")
    if not disclosures or disclosures.pop() != "":  # (1)
        raise ConnectorFaultError(Fault.FORMAT, "not an SD-JWT without key binding")
    try:
        verified = verify_compact(jwt, EVIDENCE_TYPE, keys)  # (2)
    except VerificationError as error:
        raise ConnectorFaultError(Fault.SIGNATURE, str(error)) from None
    claims = _evidence_claims(verified.payload)  # (3)
    issued_at = from_seconds(claims.iat)
    if not was_valid(verified.key, issued_at):
        raise ConnectorFaultError(Fault.SIGNATURE, "the key was not valid at `iat`")
    digests = claims.fields.sd if claims.fields is not None else ()
    _check_digests(disclosures, digests)  # (4)
    disclosed, salts = parse_disclosures(disclosures)
    if not all(map(_SALT.fullmatch, salts)) or len(set(salts)) != len(salts):  # (5)
        message = "a disclosure's salt is not 16 bytes of its own in base64url"
        raise ConnectorFaultError(Fault.FORMAT, message)
    return OpenedEvidence(claims, issued_at, jwt, disclosed)


def _evidence_claims(payload: bytes) -> EvidenceClaims:
    try:
        claims = EvidenceClaims.model_validate_json(payload)
    except ValidationError as error:
        kinds = {place["type"] for place in error.errors(include_input=False)}
        # A value beside the disclosures can't be dropped again: it is a field that
        # nobody asked for, and its name may itself say something.
        if "extra_forbidden" in kinds:
            message = "the signed part holds more than the claims of evidence"
            raise ConnectorFaultError(Fault.UNASKED_FIELD, message) from None
        raise ConnectorFaultError(Fault.FORMAT, _places(error)) from None
    if payload.count(b'"') != _quotes(claims):
        raise ConnectorFaultError(Fault.FORMAT, "a claim comes twice")
    return claims


def _quotes(claims: EvidenceClaims) -> int:
    """Return how many quotation marks the JSON of claims has, however it is written.

    No value of a claim holds one, so a member more is two of them more. To count them
    takes a small part of the time of parsing the payload again.
    """
    told = claims.model_fields_set
    texts = len(told) + len(told & claims.TEXTS)
    if claims.fields is not None:
        texts += 1 + len(claims.fields.sd)  # `_sd`, and the digests
    return 2 * texts


def _check_digests(disclosures: Sequence[str], signed: Sequence[str]) -> None:
    """Hold disclosures against the signed digests, before any of them is read."""
    shown = {sha256_b64url(encoded.encode()) for encoded in disclosures}
    # RFC 9901, 7.1: a digest that comes twice, on either side, is not to be trusted.
    once = len(shown) == len(disclosures) and len(set(signed)) == len(signed)
    if not (once and shown.issubset(signed)):
        message = "a disclosure is not among the signed digests, or comes twice"
        raise ConnectorFaultError(Fault.SIGNATURE, message)


def parse_disclosures(disclosures: Sequence[str]) -> tuple[Disclosed, list[str]]:
    """Return the fields in disclosures whose digests were checked, and the salts.

    Raises:
        ConnectorFaultError: One is not base64url of a JSON array of salt, name, value;
            or a field is disclosed twice.
    """
    encoded: dict[str, str] = {}
    values: dict[str, JsonValue] = {}
    salts: list[str] = []
    for text in disclosures:
        try:
            decoded = b64url_decode(text)
            parts = orjson.loads(decoded)
            if b"{" in decoded:
                check_members(decoded)
        except ValueError:  # not chained: it holds the text, and with it the value
            message = "a disclosure is not JSON, or a member in it comes twice"
            raise ConnectorFaultError(Fault.FORMAT, message) from None
        if not (
            type(parts) is list
            and len(parts) == 3  # noqa: PLR2004 - salt, name, value
            and type(parts[0]) is type(parts[1]) is str
        ):
            message = "a disclosure is not [salt, name, value]"
            raise ConnectorFaultError(Fault.FORMAT, message)
        encoded[parts[1]], values[parts[1]] = text, parts[2]
        salts += (parts[0],)  # no call
    if len(encoded) != len(disclosures):
        raise ConnectorFaultError(Fault.FORMAT, "a field is disclosed twice")
    return Disclosed(encoded, values), salts


class DeferredBody(_Wire):
    """The body of a `202`: the department will know later."""

    lookup: TokenId
    """`jti` of the look-up that this answers."""
    retry_at: Instant
    """When to ask again, by a new look-up."""


def from_seconds(seconds: int) -> datetime:
    """Return the instant of a NumericDate (RFC 7519, section 2)."""
    return datetime.fromtimestamp(seconds, UTC)


def _places(error: ValidationError) -> str:
    """Name what is wrong, by JSON Pointer and rule, without any value."""
    complaints = error.errors(include_input=False, include_context=False)
    return "; ".join(
        f"/{'/'.join(str(part) for part in c['loc'])}: {c['msg']}"
        for c in complaints[:8]
    )
