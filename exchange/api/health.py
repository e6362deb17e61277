"""Whether the gateway lives and is ready, its metrics, and its contract."""

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

router = APIRouter(route_class=StrictRoute, tags=["operation"])


class Health(Model):
    """How the gateway is."""

    status: Literal["ok", "failing"]
    failing: tuple[str, ...] = ()
    """The parts that fail: `database`, `log`, `publisher`."""
    alarms: tuple[str, ...] = ()
    """What has failed for a while, and stops the log if it goes on: `witnesses`,
    `tiles`, `anchors`."""


@router.get("/health/live", response_model=Health)
async def live() -> Response:
    """Tell that the process runs and answers."""
    return _health((), ())


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
async def ready(gateway: ThisGateway) -> Response:
    """Tell whether cases can be worked on: the database and the log take writes."""
    return _health(failing_parts(gateway), alarms(gateway))


@router.get("/metrics", response_class=Response)
async def metrics(gateway: ThisGateway) -> Response:
    """Return the metrics, in Prometheus' text format."""
    return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def failing_parts(gateway: Gateway) -> tuple[str, ...]:
    """Return the parts without which no case can be worked on and that fail."""
    failing = []
    try:
        gateway.database.check()
    except StoreUnavailableError:
        failing.append("database")
    if gateway.log.fault is not None:
        failing.append("log")
    if gateway.publisher.failure is not None:
        failing.append("publisher")
    return tuple(failing)


def alarms(gateway: Gateway) -> tuple[str, ...]:
    """Return what an operator has to look at before it stops the log."""
    names = {one.name for one in gateway.followers if one.is_alarming}
    if gateway.publisher.unwitnessed_for() > _UNWITNESSED_S:
        names.add("witnesses")
    return tuple(sorted(names))


def _health(failing: tuple[str, ...], alarming: tuple[str, ...]) -> Response:
    health = Health(
        status="failing" if failing else "ok", failing=failing, alarms=alarming
    )
    return Response(
        orjson.dumps(health.model_dump(mode="json")),
        503 if failing else 200,
        media_type="application/json",
    )
