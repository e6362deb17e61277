"""The routes of erasure: a person or a shard is forgotten, or held against it.

Whom it is about stands in the body, never in a path or a query, which proxies and
histories keep. A hold is set and a key given out by oversight (scope `auditor`), an
erasure is made by whoever runs the exchange (scope `operator`).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import orjson
from fastapi import APIRouter, Path, Response
from pydantic import AfterValidator, Field, model_validator

from audit.erasure import Recorded, Request
from audit.ledger import What
from audit.record import Subject
from exchange.api.dependencies import (
    AuditorCaller,
    Gateway,
    OperatorCaller,
    ThisGateway,
)
from exchange.api.forms import UUID
from exchange.api.strict import StrictRoute
from schemas.canonical import b64url
from schemas.ids import EventId
from schemas.model import Model, Sent

router = APIRouter(route_class=StrictRoute, prefix="/v1/audit", tags=["erasure"])

_NO_STORE = {"cache-control": "no-store"}

_MOST_DIGITS = re.compile(r"[0-9]{9}")


def _no_id(reason: str) -> str:
    """Refuse what looks like somebody's id."""
    if _MOST_DIGITS.search(reason):
        raise ValueError("a file number has no nine digits in a row")
    return reason


Reason = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$"),
    AfterValidator(_no_id),
]
"""Where the reason is kept, as a file number: nobody's name or id."""
HoldUuid = Annotated[
    str, Path(alias="hold", pattern=UUID, description="The record that set the hold.")
]
ErasureUuid = Annotated[
    str, Path(alias="event", pattern=UUID, description="The record of the erasure.")
]


class Somebody(Sent):
    """A person or company, as records name them."""

    namespace: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")] = "citizen_id"
    id: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,64}$")]


class Target(Sent):
    """What is to be erased or held: exactly one of these."""

    subject: Somebody | None = None
    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22}$")] | None = None
    """A subject's reference, as records have it."""
    shard: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None
    """A shard's origin."""
    reason: Reason

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = (self.subject, self.ref, self.shard)
        if sum(one is not None for one in named) != 1:
            raise ValueError("name one of `subject`, `ref` and `shard`")
        return self


class ReleaseRequest(Sent):
    """Why a hold ends."""

    reason: Reason


class KeyRequest(Sent):
    """Whose key is wanted, and why."""

    subject: Somebody
    reason: Reason


class ActView(Model):
    """What was done, and the record that says so."""

    what: Literal["subject", "shard"]
    name: str
    """The subject's reference, or the shard's origin."""
    event: EventId
    log: str
    """The shard in which the record stands."""
    index: int
    """Where it stands there."""


class ErasureView(ActView):
    """What was erased, and whether any gateway may still have the key in memory."""

    waits_for: tuple[str, ...]
    """The gateways (`executor_id`) that have yet to forget it: each does within a
    second, or ten when it can't be reached. None: it holds everywhere."""


class HoldView(Model):
    """A hold that stands."""

    hold: EventId
    """The record that set it."""
    what: Literal["subject", "shard"]
    name: str
    reason: str
    by: str
    """The client that set it."""
    at_ms: int
    """When, in milliseconds since 1970."""


class HoldList(Model):
    """The holds that stand, the oldest first."""

    holds: tuple[HoldView, ...]


class IssuedKey(Model):
    """A subject's key: whoever has it can find every record about the subject."""

    ref: str
    key: str
    """32 bytes, base64url."""
    origin: str
    """The log in whose leaves it finds the subject."""
    event: EventId
    index: int


@router.post("/erasures", status_code=201, response_model=ErasureView)
async def erase(body: Target, caller: OperatorCaller, gateway: ThisGateway) -> Response:
    """Make what the log keeps about a person, or in a shard, unreadable for good."""
    request = Request(caller.requester, body.reason)
    if body.shard is not None:
        what, name = What.SHARD, body.shard
        done = await gateway.erasing.erase_shard(name, request)
    else:
        what = What.SUBJECT
        name, done = await gateway.erasing.erase_subject(_subject(body), request)
    waits_for = await gateway.erasing.waits_for(done.event)
    return _json({**_act(what, name, done), "waits_for": waits_for}, 201)


@router.get("/erasures/{event}", response_model=ErasureView)
async def find_erasure(
    event: ErasureUuid, _caller: OperatorCaller, gateway: ThisGateway
) -> Response:
    """Return an erasure, and which gateways it waits for."""
    line, done = await gateway.erasing.found(EventId(event))
    waits_for = await gateway.erasing.waits_for(line.event)
    return _json({**_act(line.what, line.name, done), "waits_for": waits_for}, 200)


@router.get("/holds", response_model=HoldList)
async def list_holds(_caller: AuditorCaller, gateway: ThisGateway) -> Response:
    """Return the holds that stand."""
    holds = [
        {
            "hold": line.event,
            "what": line.what.value,
            "name": line.name,
            "reason": line.reason,
            "by": line.by,
            "at_ms": line.at_ms,
        }
        for line in await gateway.erasing.holds()
    ]
    return _json({"holds": holds}, 200)


@router.post("/holds", status_code=201, response_model=ActView)
async def set_hold(
    body: Target, caller: AuditorCaller, gateway: ThisGateway
) -> Response:
    """Forbid the erasure of a person or a shard until the hold is released."""
    what, name = _named(body, gateway)
    request = Request(caller.requester, body.reason)
    done = await gateway.erasing.hold(what, name, request)
    return _json(_act(what, name, done), 201)


@router.post("/holds/{hold}/release", status_code=201, response_model=ActView)
async def release_hold(
    hold: HoldUuid, body: ReleaseRequest, caller: AuditorCaller, gateway: ThisGateway
) -> Response:
    """End a hold."""
    held = [line for line in await gateway.erasing.holds() if line.event == hold]
    request = Request(caller.requester, body.reason)
    done = await gateway.erasing.release(EventId(hold), request)
    return _json(_act(held[0].what, held[0].name, done), 201)


@router.post("/subject-keys", status_code=201, response_model=IssuedKey)
async def issue_key(
    body: KeyRequest, caller: AuditorCaller, gateway: ThisGateway
) -> Response:
    """Give out a person's key, to prove a list of accesses complete with."""
    subject = Subject("", body.subject.namespace, body.subject.id)
    request = Request(caller.requester, body.reason)
    known, done = await gateway.erasing.issue_key(subject, request)
    return _json(
        {
            "ref": known.ref,
            "key": b64url(known.key),
            "origin": gateway.log.origin,
            "event": done.event,
            "index": done.index,
        },
        201,
    )


def _subject(body: Target) -> Subject | str:
    if body.subject is not None:
        return Subject("", body.subject.namespace, body.subject.id)
    return body.ref or ""


def _named(body: Target, gateway: Gateway) -> tuple[What, str]:
    """Return what is to be held, by the name that the ledger knows it under."""
    if body.shard is not None:
        return What.SHARD, body.shard
    return What.SUBJECT, gateway.erasing.known(_subject(body)).ref


def _act(what: What, name: str, done: Recorded) -> Mapping[str, object]:
    return {
        "what": what.value,
        "name": name,
        "event": done.event,
        "log": done.log,
        "index": done.index,
    }


def _json(body: Mapping[str, object], status: int) -> Response:
    return Response(orjson.dumps(body), status, _NO_STORE, "application/json")
