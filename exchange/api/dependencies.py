"""What a route of the API can ask for: the gateway's parts, and who is calling."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.openapi.models import OAuth2, OAuthFlowClientCredentials, OAuthFlows
from fastapi.security.base import SecurityBase

from audit.following import Follower
from audit.objects import Objects
from audit.publisher import Publisher
from audit.writer import AuditLog
from consent.in_flight import InFlight
from exchange.database import Database
from exchange.erasing import Erasing
from exchange.idempotency import RepeatKeys
from exchange.identity import TOKEN_PATH, Identity
from exchange.keys import GatewayKeys
from exchange.mandating import Mandates
from exchange.oversight import Oversight
from exchange.permission import Permissions
from exchange.planner import Planner
from exchange.resolver import Resolver
from exchange.settings import Settings
from exchange.telemetry import Metrics
from exchange.token_request import Caller
from exchange.vault import Vault
from exchange.waiting import Waiting
from schemas.clock import Clock
from schemas.directory import Scope
from schemas.errors import ScopeMissingError
from schemas.ids import NewId
from schemas.validation import Pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Everything that runs, opened and ready: made by `exchange.app.opened`."""

    settings: Settings
    clock: Clock
    new_id: NewId
    keys: GatewayKeys
    metrics: Metrics
    pack: Pack
    planner: Planner
    database: Database
    vault: Vault
    log: AuditLog
    publisher: Publisher
    shards: str
    """The signed list of the log's shards."""
    followers: tuple[Follower, ...]
    public: Objects
    """What is given away and stands in no table: anchors."""
    in_flight: InFlight
    identity: Identity
    permissions: Permissions
    mandates: Mandates
    oversight: Oversight
    erasing: Erasing
    resolver: Resolver
    waiting: Waiting
    repeat_keys: RepeatKeys


async def gateway_of(request: Request) -> Gateway:
    """Return the gateway that an application runs."""
    gateway: Gateway = request.app.state.gateway
    return gateway


ThisGateway = Annotated[Gateway, Depends(gateway_of)]


class _AccessToken(SecurityBase):
    """How callers prove themselves, as the OpenAPI document states it."""

    def __init__(self) -> None:
        scopes = {scope.value: f"What a client as `{scope}` may do." for scope in Scope}
        flow = OAuthFlowClientCredentials(tokenUrl=TOKEN_PATH, scopes=scopes)
        self.model = OAuth2(flows=OAuthFlows(clientCredentials=flow))
        self.scheme_name = "oauth2"

    async def __call__(self, request: Request) -> str | None:
        """Return the `Authorization` header, unread."""
        return request.headers.get("authorization")


_access_token = _AccessToken()
Authorization = Annotated[str | None, Security(_access_token)]


async def any_caller(
    request: Request, gateway: ThisGateway, authorization: Authorization
) -> Caller:
    """Return who calls, whatever the token lets them do.

    Raises:
        UnauthenticatedError: There is no token, or it is not good now.
    """
    caller = gateway.identity.authenticate(authorization, gateway.clock.now())
    request.state.client = caller.requester  # for the access log
    return caller


def caller_with(*scopes: Scope) -> Callable[..., Awaitable[Caller]]:
    """Return the dependency of a route that takes any one of these scopes."""

    async def caller(who: Annotated[Caller, Depends(any_caller)]) -> Caller:
        if who.scopes.isdisjoint(scopes):
            named = " or ".join(f"`{scope.value}`" for scope in scopes)
            raise ScopeMissingError(f"this takes a token with the scope {named}")
        return who

    return caller


AnyCaller = Annotated[Caller, Depends(any_caller)]
PortalCaller = Annotated[
    Caller, Security(caller_with(Scope.PORTAL), scopes=[Scope.PORTAL.value])
]
CitizenCaller = Annotated[
    Caller, Security(caller_with(Scope.CITIZEN), scopes=[Scope.CITIZEN.value])
]
AuditorCaller = Annotated[
    Caller, Security(caller_with(Scope.AUDITOR), scopes=[Scope.AUDITOR.value])
]
OperatorCaller = Annotated[
    Caller, Security(caller_with(Scope.OPERATOR), scopes=[Scope.OPERATOR.value])
]
