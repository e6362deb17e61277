"""The published protocol: the prose, the OpenAPI document and the service agree."""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import orjson
import pytest
import yaml
from cryptography.exceptions import InvalidSignature

from connectors.department.app import build_app
from connectors.department.config import parse_config
from connectors.jose import verify_compact
from connectors.kinds.http import lookup_claims
from connectors.problems import PROBLEM_BASE, PROBLEM_STATUS, ProblemType
from connectors.protocol import (
    CLOCK_SKEW_S,
    LOOKUP_TYPE,
    MAX_LIFETIME_S,
    EvidenceClaims,
    LookupClaims,
    open_evidence,
    open_lookup,
    sign_lookup,
)
from connectors.target import Target
from schemas.canonical import b64url_decode, sha256_b64url
from schemas.evidence import Mode
from tests.connectors.examples import (
    GATEWAY,
    GATEWAY_KEY,
    LONG_AGO,
    STRANGERS_KEY,
    FakeClock,
    a_config,
    a_request,
)
from tests.connectors.servers import serving
from tests.connectors.worked_example import (
    DEPARTMENT,
    LOOKUP,
    parts,
)
from tests.connectors.worked_example import GATEWAY as EXAMPLE_GATEWAY

PROSE = Path("docs/provider-protocol.md").read_text(encoding="utf-8")
OPENAPI: Any = yaml.safe_load(
    Path("docs/provider-protocol.openapi.yaml").read_text(encoding="utf-8")
)


def blocks(language: str) -> list[str]:
    """Return the contents of every fenced block of a language in the prose."""
    return re.findall(rf"^```{language}\n(.*?)\n```$", PROSE, re.DOTALL | re.MULTILINE)


def schema(name: str) -> dict[str, Any]:
    """Return a schema of the OpenAPI document, with what it refers to."""
    whole = orjson.dumps(OPENAPI["components"]["schemas"]).decode()
    local = orjson.loads(whole.replace("#/components/schemas/", "#/$defs/"))
    return {"$ref": f"#/$defs/{name}", "$defs": local}


def fits(name: str, value: object) -> None:
    """Check a value against a schema of the OpenAPI document."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema(name), format_checker=checker).validate(
        value
    )


def test_the_documents_code_opens_evidence_and_names_it_as_the_gateway_does() -> None:
    """With nothing of ours: claims, fields and id; a changed text is refused."""
    (block,) = blocks("python")
    code: dict[str, Any] = {}
    exec(block, code)  # noqa: S102 - our own document
    key = DEPARTMENT.public_jwk()
    whole, shown = parts()["evidence"], parts()["presentation"]
    claims, fields = code["opened"](shown, key)
    made = open_evidence(whole, [DEPARTMENT.pinned(LONG_AGO)])
    first = whole.split("~")[1]

    assert {"status": "MARRIED"} == fields
    assert made.claims.subject == claims["subject"]
    assert {"status", "registered_on"} == code["opened"](whole, key)[1].keys()
    assert sha256_b64url(made.jwt.encode()) == code["evidence_id"](shown)
    assert code["evidence_id"](whole) == code["evidence_id"](shown)
    for wrong in (shown[1:], f"{shown}{first}~", shown.replace("~W", "~X"), shown[:-1]):
        with pytest.raises((AssertionError, ValueError, InvalidSignature)):
            code["opened"](wrong, key)


@pytest.mark.parametrize("name", parts())
def test_the_worked_example_is_made_of_these_very_bytes(name: str) -> None:
    """Whoever makes the example again, from the inputs it names, gets the same."""
    assert parts()[name] in blocks("json") + blocks("text")


def test_the_worked_example_verifies() -> None:
    """What the prose shows is a look-up, its answer, and a part of the answer."""
    shown = parts()
    lookup = open_lookup(shown["look-up"], [EXAMPLE_GATEWAY.pinned(LONG_AGO)])
    whole = open_evidence(shown["evidence"], [DEPARTMENT.pinned(LONG_AGO)])
    part = open_evidence(shown["presentation"], [DEPARTMENT.pinned(LONG_AGO)])

    assert LOOKUP == lookup
    assert {"status", "registered_on"} == set(whole.disclosed.values)
    assert {"status"} == set(part.disclosed.values)
    assert whole.claims == part.claims


def test_the_worked_example_fits_the_openapi_document() -> None:
    """The two published halves describe the same bytes."""
    shown = parts()
    fits("CompactJws", shown["look-up"])
    fits("LookupClaims", orjson.loads(shown["look-up payload"]))
    fits("SdJwt", shown["evidence"])
    fits("EvidenceClaims", orjson.loads(shown["evidence payload"]))

    with pytest.raises(jsonschema.ValidationError):
        fits("EvidenceClaims", {**orjson.loads(shown["evidence payload"]), "name": 1})


def test_the_configurations_in_the_prose_are_valid() -> None:
    """A stranger who copies them starts from something that works."""
    target, department = (yaml.safe_load(block) for block in blocks("yaml"))

    assert "marriage@1" == Target.model_validate(target).evidence_type
    assert "civil_affairs" == parse_config(department).provider


def test_every_problem_is_in_the_prose_and_in_the_openapi_document() -> None:
    """The closed list is the same list in all three places."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9]{3}) \|", PROSE, re.MULTILINE)
    listed = OPENAPI["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    answers = OPENAPI["paths"]["/lookups"]["post"]["responses"]

    assert {p.value: str(s) for p, s in PROBLEM_STATUS.items()} == dict(rows)
    assert [PROBLEM_BASE + problem for problem in ProblemType] == listed
    assert {str(status) for status in PROBLEM_STATUS.values()} == {
        status for status in answers if status >= "400"
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [(LookupClaims, "LookupClaims"), (EvidenceClaims, "EvidenceClaims")],
)
def test_every_claim_is_in_the_prose_and_in_the_openapi_document(
    model: type[LookupClaims | EvidenceClaims], name: str
) -> None:
    """No claim is known to the code alone."""
    claims = {field.alias or key for key, field in model.model_fields.items()}
    documented = set(OPENAPI["components"]["schemas"][name]["properties"])
    rows = re.findall(r"^\| (`[^|]+`) \|", PROSE, re.MULTILINE)
    named = {claim for row in rows for claim in re.findall(r"`([a-z_]+)`", row)}

    assert claims == documented
    assert claims <= named


def test_every_limit_in_the_prose_is_that_of_the_code() -> None:
    """Numbers that a stranger builds on are the ones that are enforced."""
    assert f"at most {MAX_LIFETIME_S} s apart" in PROSE
    assert f"at most {CLOCK_SKEW_S} s in the future" in PROSE


def _tokens() -> Mapping[str, tuple[int, str]]:
    """Return a look-up for each kind of answer that the real service gives."""

    def token(**changes: object) -> str:
        claims = lookup_claims(a_request(), GATEWAY)
        return sign_lookup(claims.model_copy(update=changes), GATEWAY_KEY)

    stranger = sign_lookup(lookup_claims(a_request(), GATEWAY), STRANGERS_KEY)
    verify = a_request(mode=Mode.VERIFY, match={"status": "MARRIED"})
    replayed = token()
    return {
        "evidence": (200, replayed),
        "match": (200, sign_lookup(lookup_claims(verify, GATEWAY), GATEWAY_KEY)),
        "replayed": (409, replayed),
        "invalid-lookup": (400, token(fields=("none",))),
        "not-trusted": (401, stranger),
        "expired": (401, token(iat=1767846600, exp=1767846635)),
        "declined": (403, token(keys={"person_id": "twice"})),
        "not-held": (404, token(keys={"person_id": "nobody"})),
        "not-covered": (404, token(keys={"person_id": "outside"})),
        "unknown-evidence-type": (404, token(evidence_type="other@1")),
        "too-large": (413, "a" * 20_000),
    }


def test_the_real_service_answers_as_the_openapi_document_says(tmp_path: Path) -> None:
    """Status, content type and body of each kind of answer are the documented ones."""
    documented = OPENAPI["paths"]["/lookups"]["post"]["responses"]
    with (
        serving(build_app(a_config(tmp_path), clock=FakeClock())) as url,
        httpx.Client(base_url=url) as client,
    ):
        for name, (status, token) in _tokens().items():
            answer = client.post("/lookups", content=token)
            _agrees(documented, name, status, answer)
        fits("JwkSet", client.get("/.well-known/jwks.json").json())
        fits("Health", client.get("/health").json())


def test_the_real_service_is_down_as_the_openapi_document_says(tmp_path: Path) -> None:
    """The answers of a register that fails are documented too."""
    documented = OPENAPI["paths"]["/lookups"]["post"]["responses"]
    (_, token) = _tokens()["evidence"]
    with (
        serving(build_app(a_config(tmp_path), clock=FakeClock())) as url,
        httpx.Client(base_url=url) as client,
    ):
        with closing(sqlite3.connect(tmp_path / "register.db")) as database, database:
            database.execute("DROP TABLE marriage")
        _agrees(documented, "unavailable", 503, client.post("/lookups", content=token))


def _agrees(
    documented: Mapping[str, Any], name: str, status: int, answer: httpx.Response
) -> None:
    described = documented[str(answer.status_code)]
    if "$ref" in described:
        described = OPENAPI["components"]["responses"]["Problem"]
    media_type = answer.headers["content-type"].partition(";")[0]
    reference = described["content"][media_type]["schema"]["$ref"]
    body: Any = answer.text if media_type == "application/sd-jwt" else answer.json()
    fits(reference.rpartition("/")[2], body)

    assert status == answer.status_code
    assert status == 200 or PROBLEM_BASE + name == body["type"]
    if status == 200:
        claims = orjson.loads(b64url_decode(body.split(".")[1]))
        fits("EvidenceClaims", claims)


def test_the_look_ups_that_the_gateway_sends_fit_the_openapi_document() -> None:
    """What is published is what is sent, in both modes."""
    for request in (a_request(), a_request(mode=Mode.VERIFY, match={"status": "x"})):
        token = sign_lookup(lookup_claims(request, GATEWAY), GATEWAY_KEY)
        keys = [GATEWAY_KEY.pinned(LONG_AGO)]
        fits("CompactJws", token)
        fits(
            "LookupClaims",
            orjson.loads(verify_compact(token, LOOKUP_TYPE, keys).payload),
        )
