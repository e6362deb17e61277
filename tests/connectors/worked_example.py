"""The worked example of `docs/provider-protocol.md`: every byte from fixed inputs.

The keys are the published ones of RFC 8032, section 7.1: TEST 1 is the gateway, TEST 2
the department. Whoever implements the protocol can make the same bytes.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import orjson

from connectors.department.signing import Statement, sign_statement
from connectors.jose import SigningKey
from connectors.protocol import (
    IntentClaims,
    LookupClaims,
    sign_lookup,
    subject_digest,
)
from schemas.canonical import b64url, b64url_decode, canonical_plain
from schemas.evidence import Mode

GATEWAY = SigningKey.from_seed(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
DEPARTMENT = SigningKey.from_seed(
    bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
)
NOW = datetime(2026, 1, 8, 6, 30, tzinfo=UTC)
SALT = bytes(range(16))
PERSON = "990101199403120026"

LOOKUP = LookupClaims(
    iss="errand-990100",
    aud="civil_affairs",
    jti="019b9c2e-5a40-7000-8000-000000000001",
    iat=int(NOW.timestamp()),
    exp=int(NOW.timestamp()) + 35,
    service="marriage_register",
    evidence_type="marriage@1",
    mode=Mode.RETRIEVE,
    keys={"person_id": PERSON},
    fields=("status", "registered_on"),
    subject_salt=b64url(SALT),
    requester="newborn_portal",
    purpose="newborn_registration",
    matter="newborn@1",
    basis={"mother": "statutory_duty", "father": "consent"},
    grant="portal_marriage",
    intent=IntentClaims(
        event="019b9c2e-5a3f-7000-8000-000000000000",
        index=41,
        leaf_hash=b64url(bytes(32)),
        log="log.example/errand-990100",
    ),
)


def counting() -> Callable[[int], bytes]:
    """Return the source of what the example has in place of random bytes.

    10 11 12 ... at the first call, 20 21 22 ... at the second, and so on.
    """
    calls = count(1)

    def entropy(size: int) -> bytes:
        start = 0x10 * next(calls)
        return bytes(range(start, start + size))

    return entropy


def parts() -> dict[str, str]:
    """Return every text that the document shows, by the name it has there."""
    token = sign_lookup(LOOKUP, GATEWAY)
    statement = Statement(
        keys={"person_id": PERSON},
        as_of=NOW,
        values={"status": "MARRIED", "registered_on": "2019-05-20"},
        match=None,
    )
    sd_jwt = sign_statement(statement, LOOKUP, DEPARTMENT, NOW, counting())
    jwt, first, second, _ = sd_jwt.split("~")
    return {
        "look-up header": b64url_decode(token.split(".")[0]).decode(),
        "look-up payload": b64url_decode(token.split(".")[1]).decode(),
        "look-up": token,
        "canonical keys": canonical_plain({"person_id": PERSON}).decode(),
        "subject digest": subject_digest(SALT, {"person_id": PERSON}),
        "disclosure status": b64url_decode(first).decode(),
        "disclosure status encoded": first,
        "disclosure registered_on": b64url_decode(second).decode(),
        "disclosure registered_on encoded": second,
        "evidence header": b64url_decode(jwt.split(".")[0]).decode(),
        "evidence payload": b64url_decode(jwt.split(".")[1]).decode(),
        "evidence": sd_jwt,
        "presentation": f"{jwt}~{first}~",
        "gateway key": orjson.dumps(GATEWAY.public_jwk()).decode(),
        "department key": orjson.dumps(DEPARTMENT.public_jwk()).decode(),
    }
