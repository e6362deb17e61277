"""The conformance kit: passes our own department, and fails one that does not check."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI, Request, Response

from connectors.conformance import CHECKS, Kit, Result, Target, load_target, run
from connectors.department.app import build_app
from connectors.department.signing import Statement, sign_statement
from connectors.protocol import EVIDENCE_MEDIA_TYPE, LookupClaims
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
    pinned,
)
from tests.connectors.servers import serving


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
    }
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
