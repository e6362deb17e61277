"""Whether the gateway lives and is ready, its metrics, and its contract."""

from collections.abc import Mapping
from typing import Literal

import orjson
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from exchange.api.dependencies import Gateway, ThisGateway
from exchange.api.strict import StrictRoute
from schemas.errors import StoreUnavailableError
from schemas.model import Model

_UNWITNESSED_S = 900.0
"""Seconds without a quorum from which an operator has to look."""

_OVERDUE_S = 300.0
"""Seconds for which something due is not taken up from which an operator has to look:
longer than an attempt that hangs holds its place, or a dead gateway its work."""

router = APIRouter(route_class=StrictRoute, tags=["operation"])


class Health(Model):
    """How the gateway is."""

    status: Literal["ok", "failing"]
    failing: tuple[str, ...] = ()
    """The parts that fail: `database` (of the tables, or of the keys of cases), `log`,
    `publisher`; `witnesses` while too few have told since the start what they saw."""
    alarms: tuple[str, ...] = ()
    """What has failed for a while. `witnesses`, `tiles` and `anchors` stop the log if
    it goes on; with `waiting` no case goes on by itself."""
    reasons: Mapping[str, str] = {}
    """Why, by the name of the part or alarm: what was refused, or the kind of error;
    nothing of a request."""


@router.get("/health/live", response_model=Health)
async def live() -> Response:
    """Tell that the process runs and answers."""
    return _health({}, {})


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def ready(gateway: ThisGateway) -> Response:
    """Tell whether cases can be worked on: the database and the log take writes."""
    return _health(failing_parts(gateway), alarms(gateway))


@router.get("/metrics", response_class=Response)
async def metrics(gateway: ThisGateway) -> Response:
    """Return the metrics, in Prometheus' text format."""
    return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def failing_parts(gateway: Gateway) -> Mapping[str, str]:
    """Return the parts without which no case can be worked on and that fail, and why.

    INVARIANT (rule 8): a reason is in our words, or the name of a class.
    """
    failing = {}
    try:
        gateway.database.check()
        gateway.vault.check()
    except StoreUnavailableError as error:
        failing["database"] = str(error)
    # Each is read once: its own thread may clear it meanwhile.
    told = {
        "log": gateway.log.fault or gateway.log.opening,
        "publisher": gateway.publisher.failure,
        "witnesses": gateway.publisher.unsure,
    }
    return failing | {part: why for part, why in told.items() if why is not None}


def alarms(gateway: Gateway) -> Mapping[str, str]:
    """Return what an operator has to look at before it stops more, and why."""
    found = {
        one.name: one.failure or "" for one in gateway.followers if one.is_alarming
    }
    if gateway.publisher.unwitnessed_for() > _UNWITNESSED_S:
        found["witnesses"] = "too few have cosigned"
    if gateway.waiting.overdue_s() > _OVERDUE_S:
        found["waiting"] = gateway.waiting.failure or "what is due is not taken up"
    return dict(sorted(found.items()))


def _health(failing: Mapping[str, str], alarming: Mapping[str, str]) -> Response:
    health = Health(
        status="failing" if failing else "ok",
        failing=tuple(failing),
        alarms=tuple(alarming),
        reasons={**alarming, **failing},
    )
    return Response(
        orjson.dumps(health.model_dump(mode="json")),
        503 if failing else 200,
        media_type="application/json",
    )
