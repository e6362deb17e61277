"""What a route of the API can ask for: the gateway's parts, and who is calling."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from audit.publisher import Publisher
from audit.writer import AuditLog
from consent.in_flight import InFlight
from exchange.database import Database
from exchange.idempotency import RepeatKeys
from exchange.keys import GatewayKeys
from exchange.settings import Settings
from exchange.telemetry import Metrics
from exchange.vault import Vault
from schemas.clock import Clock
from schemas.ids import NewId


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything that runs, opened and ready: made by `exchange.app.opened`."""

    settings: Settings
    clock: Clock
    new_id: NewId
    keys: GatewayKeys
    metrics: Metrics
    database: Database
    vault: Vault
    log: AuditLog
    publisher: Publisher
    in_flight: InFlight
    repeat_keys: RepeatKeys


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that an application runs."""
    gateway: Gateway = request.app.state.gateway
    return gateway


ThisGateway = Annotated[Gateway, Depends(gateway_of)]
