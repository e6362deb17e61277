"""The routes of mandates: a person lets another act for them, and ends it.

A client with the scope `citizen` gives a mandate for the principal whom it has
authenticated, and says how; that is the signature (Civil Code 165). Persons stand in
the body, never in a path, and no answer says whose a mandate is.
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from consent.mandates import Authentication, Mandate, MandateState, Power
from exchange.api.dependencies import AnyCaller, CitizenCaller, Gateway, ThisGateway
from exchange.api.forms import (
    IdempotencyKey,
    Person,
    PersonRequest,
    Uuid,
    answer,
    repeat_key,
)
from exchange.api.strict import StrictRoute
from exchange.giving import Giving
from schemas.directory import Scope
from schemas.errors import NotFoundError
from schemas.ids import MandateId
from schemas.model import FROM_JSON, ONCE, Instant, Model, Sent, Slug

PATH = "/v1/mandates"
router = APIRouter(route_class=StrictRoute, prefix=PATH, tags=["mandates"])

MandateUuid = Annotated[Uuid, Path(alias="mandate", description="The mandate's id.")]


class Authenticated(Sent):
    """How the client made sure that the principal signs."""

    method: Annotated[Authentication, FROM_JSON]
    at: Instant
    """When: within the last day."""


class GiveMandateRequest(Sent):
    """What a principal signs (Civil Code 165)."""

    principal: Person
    role: Slug
    """The principal's role in the matters: that of the applicant."""
    agent: Person
    requester: Slug | None = None
    """The portal where the agent may act; none for any."""
    matters: Annotated[
        frozenset[Slug], Field(min_length=1, max_length=20), FROM_JSON, ONCE
    ]
    """Ids of matters, without versions."""
    powers: Annotated[
        frozenset[Annotated[Power, FROM_JSON]], Field(min_length=1), FROM_JSON, ONCE
    ]
    valid_from: Instant | None = None
    """First instant at which it holds; none for now."""
    valid_until: Instant
    """First instant at which it no longer holds: 366 days ahead at most."""
    authentication: Authenticated


class SignatureView(Model):
    """The evidence that the principal signed."""

    client: Slug
    """The client that authenticated the principal."""
    method: Authentication
    at: datetime


class MandateView(Model):
    """A mandate as it stands; it does not say whose it is."""

    id: MandateId
    state: MandateState
    role: Slug
    requester: Slug | None
    matters: tuple[Slug, ...]
    powers: tuple[Power, ...]
    valid_from: datetime
    valid_until: datetime
    given_at: datetime
    revoked_at: datetime | None
    signature: SignatureView


class MandateList(Model):
    """The mandates that a person gave or holds, the newest first."""

    mandates: tuple[MandateView, ...]


@router.post("", status_code=201, response_model=MandateView)
async def give_mandate(
    request: Request,
    body: GiveMandateRequest,
    caller: CitizenCaller,
    gateway: ThisGateway,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Give a mandate for a person whom the client has authenticated."""
    raw = await request.body()
    repeat = repeat_key(gateway, caller, idempotency_key, f"POST {PATH}", raw)
    giving = Giving(
        principal=body.principal.id,
        role=body.role,
        agent=body.agent.id,
        requester=body.requester,
        matters=body.matters,
        powers=body.powers,
        valid_from=body.valid_from or gateway.clock.now(),
        valid_until=body.valid_until,
        method=body.authentication.method,
        authenticated_at=body.authentication.at,
    )
    given = await gateway.mandates.give(caller.requester, giving, repeat)
    headers = {"location": f"{PATH}/{given.id}"}
    return answer(_view(gateway, given), 201, headers)


@router.get("/{mandate}", response_model=MandateView)
async def read_mandate(
    mandate: MandateUuid, caller: AnyCaller, gateway: ThisGateway
) -> Response:
    """Read a mandate: a portal where it may be used, or an app that shows it."""
    found = await gateway.mandates.read(MandateId(mandate))
    if Scope.CITIZEN not in caller.scopes:
        caller.require(Scope.PORTAL)
        if found.requester not in (None, caller.requester):
            raise NotFoundError("there is no such mandate")
    return answer(_view(gateway, found))


@router.post("/search", response_model=MandateList)
async def find_mandates(
    body: PersonRequest, _caller: CitizenCaller, gateway: ThisGateway
) -> Response:
    """Return the mandates that a person gave or holds, the newest first."""
    found = await gateway.mandates.of_person(body.person.id)
    return answer(MandateList(mandates=tuple(_view(gateway, one) for one in found)))


@router.post("/{mandate}/revoke", response_model=MandateView)
async def revoke_mandate(
    mandate: MandateUuid,
    body: PersonRequest,
    caller: CitizenCaller,
    gateway: ThisGateway,
) -> Response:
    """End a mandate, as its principal or its agent; ending it twice is once."""
    ended = await gateway.mandates.revoke(
        caller.requester, MandateId(mandate), body.person.id
    )
    return answer(_view(gateway, ended))


def _view(gateway: Gateway, mandate: Mandate) -> MandateView:
    return MandateView(
        id=mandate.id,
        state=mandate.state_at(gateway.clock.now()),
        role=mandate.role,
        requester=mandate.requester,
        matters=tuple(sorted(mandate.matters)),
        powers=tuple(sorted(mandate.powers)),
        valid_from=mandate.valid_from,
        valid_until=mandate.valid_until,
        given_at=mandate.given_at,
        revoked_at=mandate.revoked_at,
        signature=SignatureView(
            client=mandate.signature.client,
            method=mandate.signature.method,
            at=mandate.signature.at,
        ),
    )
