"""The demo's departments: the product's service beside each register, and a counter.

Each runs as a process of its own, with its own port, key, register and log:

    python -m exchange.demo.departments FOLDER --delay-ms 40 --seed 7

What answers look-ups is the product's department service, unchanged. Around it are
the delay that a register of its age would have, and the counter where the portal
files the department's own step (`exchange.demo.steps`).
"""

import argparse
import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson
import uvicorn
import yaml
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from connectors.department.app import build_app
from connectors.department.config import load_config
from connectors.department.signing import generate_key
from exchange.demo.steps import Facts, FilingError, perform, verify_filing
from schemas.clock import Clock, SystemClock
from schemas.directory import PublicKey
from schemas.errors import SettingsError
from schemas.model import Model

CONFIG = "department.yaml"
REGISTER = "register.db"
LOG = "log.db"
KEY = "key.pem"
PINNED = "departments.json"
"""The files of a department's folder; the last holds the keys of all of them."""

_BIRTH_FIELDS = {
    "CSYXZMBH": "zmbh",
    "XSE_XM": "xse_xm",
    "XSE_XBDM": "xse_xb",
    "XSE_CSSJ": "cssj",
    "XSE_YZ": "yz",
    "XSE_TZ": "tz",
    "XSE_SC": "sc",
    "CSDD_S": "csd_s",
    "CSDD_SD": "csd_sd",
    "CSDD_XQ": "csd_xq",
    "CSD_QHDM": "csd_qh",
    "ZCJGMC": "jg_mc",
    "ZCJGDM": "jg_dm",
    **{
        f"{parent}_{field}": f"{parent.lower()}_{column}"
        for parent in ("MQ", "FQ")
        for field, column in {
            "XM": "xm",
            "NL": "nl",
            "GJ": "gj",
            "MZ": "mz",
            "ZZ": "zz",
            "SFZJLX": "zjlx",
            "SFZJHM": "zjhm",
            "HJ": "hj",
        }.items()
    },
    "LZR_XM": "lzr_xm",
    "LZR_YXSEGX": "lzr_gx",
    "LZR_SFZJHM": "lzr_zjhm",
    "QFJG_MC": "qf_jg",
    "QFJG_QHDM": "qf_qh",
    "QFJG_ZZJGDM": "qf_dm",
    "QF_RQ": "qf_rq",
    "QF_LX": "qf_lx",
    "HFYY": "hfyy",
    "BFYY": "bfyy",
}

SOURCES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ga": {
        "identity@1": {
            "table": "v_rk",
            "keys": [{"id": "gmsfhm"}],
            "fields": {
                "id": "gmsfhm",
                "name": "xm",
                "alive": "zt",
                "sex": "xbdm",
                "birth_date": "csrq",
                "nation": "mzdm",
                "expiry": "zjyxq",
            },
            "compare": {"name": "xm"},
        },
        "household@1": {
            "table": "v_hj",
            "keys": [{"id": "gmsfhm"}],
            "fields": {
                "household_no": "hh",
                "household_type": "hlb",
                "head_name": "hzxm",
                "relation_to_head": "yhzgx",
                "address": "dz",
                "region": "xzqh",
                "members": {
                    "rows": "t_czrk",
                    "joined_by": {"hh": "hh"},
                    "columns": {"id": "gmsfhm", "name": "xm", "relation": "yhzgx"},
                    "order_by": "yhzgx",
                },
            },
            "coverage": {"regions": ["990100"], "region_column": "xzqh"},
        },
        "child_registration@1": {
            "table": "v_csdj",
            "keys": [{"CSYXZMBH": "cszmbh"}],
            "fields": {
                "id": "gmsfhm",
                "name": "xm",
                "household_no": "hh",
                "relation_to_head": "yhzgx",
                "region": "xzqh",
                "police_station": "pcsdm",
                "registered_on": "djrq",
            },
        },
    },
    "mz": {
        "marriage@1": {
            "table": "v_hydj",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "spouse_id": "po_sfzh",
                "status": "hyzt",
                "cert_no": "djzh",
                "reg_date": "djrq",
                "reg_office": "djjg",
            },
            "compare": {"spouse_id": "po_sfzh", "status": "hyzt"},
            "newest_by": "djrq",
        },
    },
    "wj": {
        "birth_certificate@1": {
            "table": "t_cszm",
            "keys": [
                {"CSYXZMBH": "zmbh"},
                {"mother_id": "mq_zjhm", "birth_date": "csrq"},
            ],
            "fields": _BIRTH_FIELDS,
            "compare": {"CSYXZMBH": "zmbh", "MQ_SFZJHM": "mq_zjhm", "MQ_XM": "mq_xm"},
        },
        "parenting_file@1": {
            "table": "t_yezd",
            "keys": [{"CSYXZMBH": "zmbh"}],
            "fields": {"file_no": "dabh", "opened_on": "jdrq", "institution": "jdjg"},
        },
    },
    "jk": {
        "vaccination@1": {
            "table": "t_jzz",
            "keys": [{"CSYXZMBH": "zmbh"}],
            "fields": {
                "card_no": "jzzh",
                "opened_on": "jdrq",
                "doses": {
                    "rows": "t_jzjl",
                    "joined_by": {"jzzh": "jzzh"},
                    "columns": {"vaccine": "ymmc", "date": "jzrq", "unit": "jzdw"},
                    "order_by": "xh",
                },
            },
        },
    },
    "yb": {
        "medical_insurance@1": {
            "table": "v_cbxx",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "status": "zt",
                "scheme": "xz",
                "region": "cbdqh",
                "from": "qsrq",
            },
        },
        "enrolment@1": {
            "table": "v_cbxx",
            "keys": [{"id": "sfzh"}],
            "where": {"xz": "390"},
            "fields": {"status": "zt", "region": "cbdqh", "from": "qsrq"},
        },
        "maternity_claim@1": {
            "table": "v_syfy",
            "keys": [{"mother_id": "sfzh"}],
            "newest_by": "fmrq",
            "fields": {
                "settled": {"column": "yjs", "type": "boolean"},
                "amount": {"column": "zje", "type": "number"},
                "delivered_on": "fmrq",
            },
        },
    },
    "sw": {
        "premium@1": {
            "table": "v_yjfe",
            "keys": [{"id": "sfzh"}],
            "newest_by": "nd",
            "fields": {
                "year": "nd",
                "amount": {"column": "yjje", "type": "number"},
                "paid": {"column": "yj", "type": "boolean"},
                "due_on": "jzrq",
            },
        },
    },
    "rs": {
        "social_card@1": {
            "table": "v_sbk",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "status": "zt",
                "card_tail": "kh4",
                "bank": "yhmc",
            },
        },
    },
}
"""How each register's columns become the fields of evidence types, by provider."""

_MOST_DELAYS = 10_000
_PINNED = TypeAdapter(dict[str, list[PublicKey]])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one department of the demo is: its folder and its port."""

    provider: str
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def register(self) -> Path:
        """Its database."""
        return self.folder / REGISTER

    @property
    def log(self) -> Path:
        """Its own log of what it was asked and answered."""
        return self.folder / LOG


def make_keys(folders: Mapping[str, Path], now: datetime) -> dict[str, PublicKey]:
    """Make a key for each department in its folder, and pin all of them in each.

    Departments know each other's keys so that a step can rest on what another signed.

    Returns:
        The public keys, by provider.
    """
    pinned = {
        provider: generate_key(folder / KEY).pinned(now)
        for provider, folder in folders.items()
    }
    document = orjson.dumps({p: [k.model_dump(mode="json")] for p, k in pinned.items()})
    for folder in folders.values():
        (folder / PINNED).write_bytes(document)
    return pinned


def write_config(place: Place, gateway: str, gateway_key: PublicKey) -> None:
    """Write the configuration that `errand department serve` takes.

    Args:
        place: Where the department is.
        gateway: `iss` of the gateway's look-ups.
        gateway_key: The key that it signs them with.
    """
    config = {
        "provider": place.provider,
        "listen": {"host": "127.0.0.1", "port": place.port},
        "database": f"sqlite:///{REGISTER}",
        "key": KEY,
        "log": LOG,
        "gateways": [{"id": gateway, "keys": [gateway_key.model_dump(mode="json")]}],
        "evidence_types": SOURCES[place.provider],
    }
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (place.folder / CONFIG).write_text(text, encoding="utf-8")


class Filing(Model):
    """What the portal files at a department's counter."""

    step: str
    requester: str
    """Who files: the evidence must have been given to it."""
    presentations: tuple[str, ...]
    """SD-JWTs that the case returned."""


class Delay:
    """Answers look-ups as slowly as an old register would (ASGI)."""

    def __init__(
        self, app: ASGIApp, mean_ms: float, random: Random, clock: Clock
    ) -> None:
        """Take what is delayed, by how much on average, and where chance comes from."""
        self._app = app
        self._clock = clock
        self._mean_ms = mean_ms
        self._random = random
        self.delays: deque[tuple[float, float]] = deque(maxlen=_MOST_DELAYS)
        """When each began, on the machine's monotonic clock, and how long it was, in
        milliseconds; the newest."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delay a look-up by the mean, half more or less; pass on the rest."""
        if scope["type"] == "http" and scope["path"] == "/lookups":
            delay_ms = self._mean_ms * self._random.uniform(0.5, 1.5)
            self.delays.append((self._clock.monotonic() * 1000, delay_ms))
            await asyncio.sleep(delay_ms / 1000)
        await self._app(scope, receive, send)


class Counter:
    """The department's counter, where its step is filed; all else goes on (ASGI)."""

    def __init__(self, delay: Delay, folder: Path, clock: Clock) -> None:
        """Take what is behind the counter, and the department's folder."""
        self._behind = delay
        self._provider = load_config(folder / CONFIG).provider
        self._folder = folder
        self._pinned = _PINNED.validate_json((folder / PINNED).read_bytes())
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a filing at `/demo/steps`, tell the delays at `/demo/delays`."""
        match scope["type"], scope.get("path"):
            case "http", "/demo/steps":
                response = await self._step(Request(scope, receive))
            case "http", "/demo/delays":
                response = JSONResponse({"delays": list(self._behind.delays)})
            case _:
                await self._behind(scope, receive, send)
                return
        await response(scope, receive, send)

    async def _step(self, request: Request) -> Response:
        """Verify what is filed, and perform the step."""
        try:
            filing = Filing.model_validate_json(await request.body())
            verified = await run_in_threadpool(self._perform, filing)
        except (ValueError, FilingError) as error:
            detail = str(error) if isinstance(error, FilingError) else "not a filing"
            return JSONResponse({"performed": False, "detail": detail}, 422)
        return JSONResponse({"performed": True, "verified": verified})

    def _perform(self, filing: Filing) -> int:
        proved = verify_filing(filing.presentations, filing.requester, self._pinned)
        facts = Facts(proved, self._folder / LOG)
        today = self._clock.now().date()
        perform(self._provider, filing.step, self._folder / REGISTER, facts, today)
        return len(proved)


def build_department(
    folder: Path, *, delay_ms: float, seed: int, clock: Clock
) -> ASGIApp:
    """Return a department of the demo as an ASGI app.

    Raises:
        SettingsError: Its folder does not hold what `write_config` and `make_keys`
            write there.
    """
    app = build_app(load_config(folder / CONFIG), clock=clock)
    random = Random(f"{seed} {folder.name}")  # noqa: S311 - a delay, no secret
    return Counter(Delay(app, delay_ms, random, clock), folder, clock)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one department until it is told to stop."""
    parser = argparse.ArgumentParser(prog="exchange.demo.departments")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-ms", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(arguments)
    try:
        listen = load_config(chosen.folder / CONFIG).listen
        app = build_department(
            chosen.folder,
            delay_ms=chosen.delay_ms,
            seed=chosen.seed,
            clock=SystemClock(),
        )
    except SettingsError as error:
        parser.error(str(error))
    uvicorn.run(
        app,
        host=listen.host,
        port=listen.port,
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
