"""The conformance kit: passes our own department, and fails one that does not check."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from fastapi import FastAPI, Request, Response

from connectors.conformance import CHECKS, Kit, Result, run
from connectors.department.app import build_app
from connectors.department.signing import Statement, sign_statement
from connectors.jose import sign_compact
from connectors.problems import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_STATUS,
    ProblemType,
    problem_body,
)
from connectors.protocol import (
    CLOCK_SKEW_S,
    EVIDENCE_MEDIA_TYPE,
    EVIDENCE_TYPE,
    LookupClaims,
)
from connectors.target import Target, load_target
from schemas.canonical import b64url_decode
from schemas.errors import SettingsError
from tests.connectors.examples import (
    DEPARTMENT_KEY,
    FATHER,
    GATEWAY,
    GATEWAY_KEY,
    MARRIAGE,
    MOTHER,
    NOW,
    PROVIDER,
    Entropy,
    FakeClock,
    a_config,
    a_source,
    pinned,
)
from tests.connectors.servers import serving

FIRST = "gives signed evidence for a record that it holds"
EACH = "gives each field alone when it alone is asked for"


def a_target(folder: Path, url: str) -> Path:
    """Write the file that tells the kit whom to try; return its path."""
    (folder / "gateway.pem").write_bytes(GATEWAY_KEY.to_pem())
    document = {
        "url": f"{url}/lookups",
        "provider": PROVIDER,
        "keys": [pinned()[0].model_dump(mode="json")],
        "gateway": GATEWAY,
        "signing_key": "gateway.pem",
        "evidence_type": MARRIAGE.ref,
        "held": {"person_id": MOTHER},
        "absent": {"person_id": "990101198801010000"},
        "fields": ["status", "spouse_id", "registered_on"],
        "facts": {"status": "MARRIED", "spouse_id": FATHER},
        "published": "marriage.json",
    }
    (folder / "marriage.json").write_text(MARRIAGE.model_dump_json(), encoding="utf-8")
    path = folder / "target.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


async def results(target: Target) -> dict[str, Result]:
    """Return what came of every check."""
    serial = count(1)
    kit = Kit(target, FakeClock(), lambda: f"conformance-{next(serial)}", Entropy())
    try:
        return {result.check: result for result in await run(kit)}
    finally:
        await kit.aclose()


@pytest.mark.anyio
async def test_our_own_department_passes_every_check(tmp_path: Path) -> None:
    """The service that is shipped keeps every promise of the protocol."""
    with serving(build_app(a_config(tmp_path), clock=FakeClock())) as url:
        seen = await results(load_target(a_target(tmp_path, url)))

    assert [] == [result for result in seen.values() if not result.passed]
    assert list(CHECKS) == list(seen)


@pytest.mark.anyio
async def test_a_test_key_of_two_minutes_passes_every_check(tmp_path: Path) -> None:
    """Whoever has just made a key, and pinned it, can try at once."""
    key = GATEWAY_KEY.pinned(NOW - timedelta(minutes=2)).model_dump(mode="json")
    config = a_config(tmp_path, gateways=[{"id": GATEWAY, "keys": [key]}])
    with serving(build_app(config, clock=FakeClock())) as url:
        seen = await results(load_target(a_target(tmp_path, url)))

    assert [] == [result for result in seen.values() if not result.passed]


def a_gullible_department(entropy: Callable[[int], bytes] = Entropy()) -> FastAPI:  # noqa: B008 - as good for all
    """Return a department that believes everybody and tells everything."""
    app = FastAPI()
    held: Mapping[str, Any] = {"status": "MARRIED", "spouse_id": FATHER}

    @app.post("/lookups")
    async def lookups(request: Request) -> Response:
        parts = (await request.body()).decode().split(".")
        lookup = LookupClaims.model_validate_json(b64url_decode(parts[1]))
        statement = Statement(lookup.keys, NOW, held, None)
        body = sign_statement(statement, lookup, DEPARTMENT_KEY, NOW, entropy)
        return Response(body, media_type=EVIDENCE_MEDIA_TYPE)

    return app


@pytest.mark.anyio
async def test_a_department_that_checks_nothing_fails_every_refusal(
    tmp_path: Path,
) -> None:
    """Whoever answers everything passes no check but, at most, the first."""
    with serving(a_gullible_department()) as url:
        seen = await results(load_target(a_target(tmp_path, url)))

    assert {result.passed for name, result in seen.items() if "refuses" in name} == {
        False
    }
    assert not seen["gives each field alone when it alone is asked for"].passed
    assert not seen["answers each look-up once"].passed


@pytest.mark.anyio
async def test_a_department_without_chance_does_not_conform(tmp_path: Path) -> None:
    """Salts that are all the same protect no field, and the kit says so."""
    with serving(a_gullible_department(bytes)) as url:
        target = load_target(a_target(tmp_path, url))
        target = target.model_copy(update={"fields": ("status", "spouse_id")})
        seen = await results(target)

    first = seen["gives signed evidence for a record that it holds"]
    assert not first.passed
    assert "salt" in first.reason


def _reversed(sd_jwt: str) -> str:
    """Return evidence with its digests the other way round, signed anew."""
    token, *disclosures = sd_jwt.split("~")
    claims = orjson.loads(b64url_decode(token.split(".")[1]))
    if "fields" in claims:
        claims["fields"]["_sd"].reverse()
    return "~".join(
        [
            sign_compact(orjson.dumps(claims), EVIDENCE_TYPE, DEPARTMENT_KEY),
            *disclosures,
        ]
    )


def a_narrow_department() -> FastAPI:
    """Return a department that takes no more than it must, and has no chance."""
    app = FastAPI()
    held: Mapping[str, Any] = {"status": "MARRIED", "spouse_id": FATHER}

    @app.post("/lookups")
    async def lookups(request: Request) -> Response:
        head, body, _ = (await request.body()).decode().split(".")
        told = orjson.loads(b64url_decode(body))
        old = orjson.loads(b64url_decode(head))["alg"] != "Ed25519"
        if old or told.keys() - LookupClaims.model_fields.keys():
            problem = ProblemType.NOT_TRUSTED if old else ProblemType.INVALID_LOOKUP
            answer, status = problem_body(problem, ""), PROBLEM_STATUS[problem]
            return Response(answer, status, media_type=PROBLEM_MEDIA_TYPE)
        lookup = LookupClaims.model_validate(told, strict=False)
        values = {name: held[name] for name in lookup.fields}
        statement = Statement(lookup.keys, NOW, values, None)
        evidence = sign_statement(statement, lookup, DEPARTMENT_KEY, NOW, Entropy())
        return Response(_reversed(evidence), media_type=EVIDENCE_MEDIA_TYPE)

    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "check", "why"),
    [
        (("status",), "gives sorted digests", "a `jti` or a salt is not fresh"),
        (("status", "spouse_id"), "gives sorted digests", "the digests are not sorted"),
        (("status",), "passes over a claim", "status 400"),
        (("status",), "takes the old name", "status 401"),
    ],
)
async def test_a_department_that_takes_too_little_does_not_conform(
    tmp_path: Path, fields: tuple[str, ...], check: str, why: str
) -> None:
    """What tomorrow's gateway says, and what a portal could learn, is tried as well."""
    with serving(a_narrow_department()) as url:
        target = load_target(a_target(tmp_path, url))
        seen = await results(target.model_copy(update={"fields": fields}))

    (result,) = (one for name, one in seen.items() if name.startswith(check))
    assert seen[FIRST].passed
    assert result.reason.startswith(why)


@pytest.mark.anyio
async def test_nobody_there_fails_every_check(tmp_path: Path) -> None:
    """A department that is down conforms to nothing."""
    seen = await results(load_target(a_target(tmp_path, "http://127.0.0.1:9")))

    assert not any(result.passed for result in seen.values())


@pytest.mark.anyio
async def test_comparison_alone_is_enough_to_conform(tmp_path: Path) -> None:
    """A department may offer nothing but comparison."""
    config = a_config(tmp_path)
    source = config.evidence_types[MARRIAGE.ref].model_copy(update={"fields": {}})
    config = config.model_copy(update={"evidence_types": {MARRIAGE.ref: source}})
    with serving(build_app(config, clock=FakeClock())) as url:
        target = load_target(a_target(tmp_path, url))
        seen = await results(target.model_copy(update={"fields": ()}))

    assert [] == [result for result in seen.values() if not result.passed]


ODD = {
    "status": "spouse_id",
    "spouse_id": "spouse_id",
    "registered_on": "state",
}
"""Fields of which two say what the published evidence type does not allow."""


async def tried(folder: Path, **changes: object) -> Mapping[str, Result]:
    """Return what came of every check of a department that tells odd values."""
    source = a_source(fields=ODD)
    config = a_config(folder, evidence_types={MARRIAGE.ref: source})
    with serving(build_app(config, clock=FakeClock())) as url:
        target = load_target(a_target(folder, url))
        return await results(target.model_copy(update=changes))


@pytest.mark.anyio
async def test_a_value_that_does_not_fit_what_is_published_fails(
    tmp_path: Path,
) -> None:
    """A code of the register's own is `faulty` at the gateway, and here."""
    seen = await tried(tmp_path)

    told = "what it says does not fit the schema of"
    assert f"{told} `registered_on`, `status`" == seen[FIRST].reason
    assert f"`status` alone: {told} `status`" == seen[EACH].reason
    assert seen["compares stated facts, and sees one that is wrong"].passed


@pytest.mark.anyio
async def test_an_answer_older_than_what_is_published_allows_fails(
    tmp_path: Path,
) -> None:
    """Last night's extract is too old where the evidence type says an hour."""
    with serving(build_app(a_config(tmp_path), clock=FakeClock())) as url:
        path = a_target(tmp_path, url)
        hour = MARRIAGE.model_copy(update={"max_age": timedelta(minutes=29)})
        (tmp_path / "marriage.json").write_text(hour.model_dump_json(), "utf-8")
        seen = await results(load_target(path))

    assert "`as_of` is older than allowed" == seen[FIRST].reason


@pytest.mark.anyio
async def test_without_what_is_published_values_are_not_judged(
    tmp_path: Path,
) -> None:
    """A department may try its protocol before its evidence type is agreed upon."""
    seen = await tried(tmp_path, published=None)

    assert [] == [result for result in seen.values() if not result.passed]


async def with_keys(folder: Path, body: bytes, status: int = 200) -> Result:
    """Return what came of the check of a department that publishes this."""
    app = a_gullible_department()

    @app.get("/.well-known/jwks.json")
    async def keys() -> Response:
        return Response(body, status, media_type="application/json")

    with serving(app) as url:
        seen = await results(load_target(a_target(folder, url)))
    return seen["publishes its key, and no secret part"]


OWN = dict(DEPARTMENT_KEY.pinned(NOW).jwk)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([GATEWAY_KEY.pinned(NOW).jwk, OWN], ""),
        ([GATEWAY_KEY.pinned(NOW).jwk], "no key of `keys`"),
        ([], "no key of `keys`"),
        ([{**OWN, "d": "secret"}], "a key is there with its secret part `d`"),
        (OWN, "what is there is no JWK Set"),
        (["key"], "what is there is no JWK Set"),
    ],
)
async def test_a_department_publishes_the_key_that_it_signs_with(
    tmp_path: Path, keys: object, why: str
) -> None:
    """Whoever checks its evidence must be able to find the key, and only that."""
    seen = await with_keys(tmp_path, orjson.dumps({"keys": keys}))

    assert seen.reason.startswith(why)
    assert seen.passed is not bool(why)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "status", "why"),
    [(b"<html>", 200, "what is there is no JWK Set"), (b"{}", 404, "status 404")],
)
async def test_what_is_no_key_set_is_told(
    tmp_path: Path, body: bytes, status: int, why: str
) -> None:
    """A page of a proxy is none."""
    assert (await with_keys(tmp_path, body, status)).reason == why


@pytest.mark.anyio
async def test_a_department_that_allows_for_no_clock_does_not_conform(
    tmp_path: Path,
) -> None:
    """The gateway's clock may be half a minute behind or ahead of its own."""
    for drift, told in ((-3, "to come"), (3, "over")):
        clock = FakeClock(NOW + timedelta(seconds=drift * CLOCK_SKEW_S // 4))
        with serving(build_app(a_config(tmp_path), clock=clock)) as url:
            seen = await results(load_target(a_target(tmp_path, url)))
        result = seen["takes a look-up of a clock that is not quite right"]
        assert result.reason == f"`{told}` by {CLOCK_SKEW_S // 2} s: status 401"


def _kit(target: Path) -> Kit:
    return Kit(load_target(target), FakeClock(), lambda: "conformance-1", Entropy())


@pytest.mark.anyio
@pytest.mark.parametrize("many", [False, True])
async def test_what_is_published_is_a_pack_s_file_or_the_gateway_s_answer(
    tmp_path: Path, *, many: bool
) -> None:
    """Whoever has written the pack, and whoever asks the gateway, writes nothing."""
    other = MARRIAGE.model_copy(update={"version": 2})
    listed = [one.model_dump(mode="json") for one in (other, MARRIAGE)]
    document = {"kind": "evidence_types", "evidence_types": listed}
    path = a_target(tmp_path, "http://127.0.0.1:9")
    if many:
        text = yaml.safe_dump(document, allow_unicode=True)
        (tmp_path / "marriage.json").write_text(text, encoding="utf-8")
    kit = _kit(path)
    await kit.aclose()

    assert MARRIAGE == kit.evidence_type


@pytest.mark.parametrize(
    ("member", "value", "told"),
    [
        ("published", "none.json", "none.json`: No such file"),
        ("evidence_type", "marriage@7", "marriage.json` does not hold `marriage@7`"),
        ("fields", ["state", "status"], "`marriage@1` has no field `state`"),
        ("facts", {"state": "M"}, "`marriage@1` has no field `state`"),
        ("held", {"cert_no": "1"}, "`held`: `marriage@1` is found by {person_id}$"),
        ("held", {}, "/held: .* at least 1 item"),
        ("absent", {}, "/absent: .* at least 1 item"),
        ("absent", {"cert_no": "1"}, "`absent`: `marriage@1` is found by"),
    ],
)
def test_a_target_that_is_not_as_published_is_refused(
    tmp_path: Path, member: str, value: object, told: str
) -> None:
    """The gateway would never ask so: the file is wrong, and not the department."""
    path = a_target(tmp_path, "http://127.0.0.1:9")
    document = yaml.safe_load(path.read_text("utf-8"))
    path.write_text(yaml.safe_dump({**document, member: value}), encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        _kit(path)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (7, "fields/status/json_schema"),
        ({"type": "txt"}, "`json_schema` is not usable"),
    ],
)
def test_what_is_published_and_wrong_is_named(
    tmp_path: Path, schema: object, told: str
) -> None:
    """The file, and the place in it as far as it is known."""
    path = a_target(tmp_path, "http://127.0.0.1:9")
    document = MARRIAGE.model_dump(mode="json")
    document["fields"]["status"]["json_schema"] = schema
    (tmp_path / "marriage.json").write_text(yaml.safe_dump(document), "utf-8")
    with pytest.raises(SettingsError, match=told) as caught:
        _kit(path)

    assert "marriage.json" in str(caught.value)


@pytest.mark.parametrize("published", ["marriage.json", None])
def test_a_target_that_asks_for_nothing_is_refused(
    tmp_path: Path, published: str | None
) -> None:
    """Every check would be about a look-up that the gateway never sends."""
    path = a_target(tmp_path, "http://127.0.0.1:9")
    document = yaml.safe_load(path.read_text("utf-8"))
    document |= {"fields": [], "facts": {}, "published": published}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(SettingsError, match="`fields`, `facts`: one of them"):
        _kit(path)


@pytest.mark.parametrize("content", ["url: [", "url: 7", ""])
def test_a_target_that_is_wrong_is_named(tmp_path: Path, content: str) -> None:
    """The file and the place are named."""
    path = tmp_path / "target.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"target\.yaml"):
        load_target(path)


def test_a_target_that_names_something_twice_is_refused(tmp_path: Path) -> None:
    """Nobody would know which department was tried."""
    path = a_target(tmp_path, "http://127.0.0.1:9")
    path.write_text(path.read_text() + "provider: another\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="`provider` is there twice"):
        load_target(path)


def test_a_missing_target_is_named(tmp_path: Path) -> None:
    """The system says which one leads nowhere."""
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_target(tmp_path / "none.yaml")
