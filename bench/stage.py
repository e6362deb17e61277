"""What the bench runs: the departments, and the three gateways A, B and D.

Everything is written down as for any other installation: keys, a deployment over the
pack of the bench, and settings with everything on.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import orjson
import yaml
from pydantic import JsonValue

from bench.asks import ASKS, MATTER, PURPOSE, REQUESTER, people
from bench.load import Target
from bench.processes import BenchError, Cores, free_port, serving
from connectors.department.signing import generate_key
from connectors.jose import SigningKey
from connectors.protocol import open_evidence
from exchange.assertions import client_assertion
from exchange.identity import TOKEN_PATH
from exchange.keys import open_keys
from exchange.settings import Settings
from exchange.token_request import ASSERTION_TYPE
from schemas.clock import SystemClock
from schemas.directory import PublicKey
from schemas.ids import new_ids

PACK = Path(__file__).parent / "pack"
VARIANTS = {
    "A": "plain FastAPI + httpx, ungoverned",
    "B": "Errand, everything on",
    "D": "bare ASGI + the product's client, ungoverned",
}


@dataclass(frozen=True, slots=True)
class Running:
    """Everything that runs."""

    departments: int
    """Process id."""
    gateways: Mapping[str, int]
    """Process id by variant."""
    targets: Mapping[str, Target]
    """By variant."""


@contextmanager
def running(folder: Path, cores: Cores, persons: int) -> Iterator[Running]:
    """Run everything while the block lasts; B's token is fetched once.

    Raises:
        BenchError: Something did not start, or a first answer was wrong.
    """
    ports = {name: free_port() for name in ("departments", *VARIANTS)}
    keys = _write(folder, ports)
    url = f"http://127.0.0.1:{ports['departments']}"
    commands = {
        "departments": ("bench.department", str(ports["departments"]), str(folder)),
        "A": ("bench.ungoverned", str(ports["A"]), url),
        "B": ("exchange", "serve", "--config", str(folder / "errand.yaml")),
        "D": ("bench.floor", str(ports["D"]), url),
    }
    with ExitStack() as stack:
        pids = {
            name: stack.enter_context(
                serving(
                    name,
                    cores.others if name == "departments" else cores.gateway,
                    ports[name],
                    ("-m", *command),
                    folder,
                )
            )
            for name, command in commands.items()
        }
        token = _token(ports["B"], SigningKey.from_file(folder / "client.pem"))
        targets = _targets(ports, token, people(persons))
        for name in VARIANTS:
            check_first(name, targets[name], keys)
        departments = pids.pop("departments")
        yield Running(departments, pids, targets)


def check_first(
    name: str, target: Target, keys: Mapping[str, tuple[PublicKey, ...]]
) -> None:
    """Ask once, and verify the answer whole: five pieces of evidence, well signed.

    Raises:
        BenchError: It is not right.
    """
    head, _, body = next(target.requests).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    answer = httpx.post(
        f"http://127.0.0.1:{target.port}{first.split()[1]}",
        content=body,
        headers=dict(line.split(": ", 1) for line in lines),
        timeout=30,
    )
    if not target.check(answer.status_code, answer.content):
        raise BenchError(f"{name} answers wrongly: {answer.status_code} {answer.text}")
    shown = _shown(orjson.loads(answer.content))
    for ask in ASKS:
        opened = open_evidence(shown[ask.evidence_type], keys[ask.provider])
        if opened.disclosed.values != ask.values:
            raise BenchError(f"{name} answers other values than were held")


def _shown(answer: JsonValue) -> dict[str, str]:
    """Return the SD-JWTs of an answer by evidence type, whichever variant gave it."""
    match answer:
        case {"receipts": [_, _, _, _, _], "evidence": dict(evidence)}:
            return {
                one["evidence_type"]: shown["sd_jwt"]  # type: ignore[misc,call-overload,index] # as B's OpenAPI says
                for one in evidence.values()
                for shown in one["presentations"].values()  # type: ignore[union-attr,call-overload,index] # as above
            }
        case {"evidence": dict(evidence)}:
            return {f"{name}@1": str(sd_jwt) for name, sd_jwt in evidence.items()}
        case _:
            raise BenchError("an answer holds no evidence, or not five receipts")


def _write(
    folder: Path, ports: Mapping[str, int]
) -> Mapping[str, tuple[PublicKey, ...]]:
    """Write keys, deployment and settings; return the departments' keys."""
    since = SystemClock().now().replace(microsecond=0) - timedelta(minutes=1)
    client = generate_key(folder / "client.pem")
    providers = {
        ask.provider: generate_key(folder / f"{ask.provider}.pem").pinned(since)
        for ask in ASKS
    }
    open_keys(folder / "data" / "keys", _origin(), entropy=os.urandom)
    departments = f"http://127.0.0.1:{ports['departments']}"
    deployment: JsonValue = {
        "kind": "deployment",
        "providers": {
            provider: {"keys": [key.model_dump(mode="json")]}
            for provider, key in providers.items()
        },
        "services": {a.service: {"endpoint": departments + a.path} for a in ASKS},
        "requesters": {
            REQUESTER: {"keys": [client.pinned(since).model_dump(mode="json")]}
        },
    }
    settings: JsonValue = {
        "data_dir": "data",
        "packs": [str(PACK), "packs"],
        "listen_port": ports["B"],
        "public_url": f"http://127.0.0.1:{ports['B']}",
        "networks": ["127.0.0.1/32"],
        "token_lifetime_s": 3_600,
    }
    (folder / "packs").mkdir()
    _dump(folder / "packs" / "deployment.yaml", deployment)
    _dump(folder / "errand.yaml", settings)
    return {provider: (key,) for provider, key in providers.items()}


def _origin() -> str:
    origin: str = Settings.model_fields["log_origin"].default
    return origin


def _dump(path: Path, document: JsonValue) -> None:
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")


def _token(port: int, key: SigningKey) -> str:
    """Return an access token, which is used for the whole run."""
    clock, url = SystemClock(), f"http://127.0.0.1:{port}{TOKEN_PATH}"
    form = {
        "grant_type": "client_credentials",
        "scope": f"portal:{PURPOSE}",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": client_assertion(
            REQUESTER, key, url, jti=new_ids(clock)(), now=clock.now()
        ),
    }
    answer = httpx.post(url, data=form, timeout=30)
    if not answer.is_success:
        raise BenchError(f"no token: {answer.text}")
    return str(answer.json()["access_token"])


def _targets(
    ports: Mapping[str, int], token: str, persons: list[str]
) -> dict[str, Target]:
    plain = [_request("/cases", orjson.dumps({"person": person})) for person in persons]
    governed = [_request("/v1/cases", _case(p), token) for p in persons]
    return {
        name: Target(
            port=ports[name],
            requests=itertools.cycle(governed if name == "B" else plain),
            check=_is_settled if name == "B" else _is_merged,
        )
        for name in VARIANTS
    }


def _case(person: str) -> bytes:
    return orjson.dumps(
        {
            "matter": MATTER,
            "purpose": PURPOSE,
            "actor": {"kind": "system", "id": "bench"},
            "subjects": {"person": {"id": person}},
        }
    )


def _request(path: str, body: bytes, token: str | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    if token is not None:
        lines += [f"authorization: Bearer {token}", "prefer: wait=20"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _is_settled(status: int, body: bytes) -> bool:
    """Tell whether a case was opened with all five requirements `retrieved`."""
    return (
        status == 201
        and body.count(b'"outcome":"retrieved"') == len(ASKS)
        and b'"status":"settled"' in body[:400]
    )


def _is_merged(status: int, body: bytes) -> bool:
    return status == 201 and all(f'"{a.name}":"ey'.encode() in body for a in ASKS)
