"""The routes of a case: open, read, add to, resolve, follow, close."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Union

import orjson
from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, JsonValue, StringConstraints, create_model

from exchange import cases
from exchange.accounting import Accounting
from exchange.api.dependencies import Gateway, PortalCaller, ThisGateway
from exchange.api.documented import members_of
from exchange.api.forms import UUID, IdempotencyKey, repeat_key, wait_asked
from exchange.api.strict import StrictRoute
from exchange.case import AnyActor, CaseStatus
from exchange.intake import check_additions, check_opening
from exchange.resolver import Additions, Opening
from exchange.token_request import Caller
from schemas.clock import day_in_beijing
from schemas.errors import Complaint, ErrandError, InvalidRequestError
from schemas.ids import CaseId, EventId, EvidenceId
from schemas.matter import Matter, SupplyReason
from schemas.model import FROM_JSON, Model, Name, Sent, Slug, VersionedId
from schemas.outcome import OUTCOMES, NextStep

PATH = "/v1/cases"
router = APIRouter(route_class=StrictRoute, prefix=PATH, tags=["cases"])

_FOLLOW_EVERY_S = 0.25
"""How often a followed case is looked at, in seconds."""
_FOLLOW_MOST_S = 600.0
"""How long one stream lasts at most; the client connects again."""
_HEARTBEAT_S = 15.0
LAST_EVENT_MOST = 40
"""Characters of the longest `Last-Event-ID` that is read."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
Stated = Annotated[Mapping[Slug, Mapping[Slug, Text]], Field(max_length=32)]
Answers = Annotated[Mapping[Slug, bool | Text], Field(max_length=200)]
CaseUuid = Annotated[
    str,
    Path(
        alias="case",
        pattern=UUID,
        description="The case's id.",
    ),
]
PREFER_MOST = 200
"""Characters of the longest `Prefer` that is read."""
Prefer = Annotated[
    str | None,
    Header(
        max_length=PREFER_MOST,
        description="`wait=N`: seconds to wait for departments, 30 at most (RFC 7240).",
    ),
]

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=LAST_EVENT_MOST,
        description="The id of the last event that came: told is what is newer.",
    ),
]


class OpenCaseRequest(Sent):
    """What opens a case."""

    matter: VersionedId
    purpose: Slug
    actor: AnyActor
    """Who acts at the requester, or for the applicant under a mandate."""
    subjects: Stated
    """Facts by role: `{"mother": {"id": "...", "name": "..."}}`."""
    answers: Answers = Field(default_factory=dict)
    """Answers by question; those that are missing are asked for in the outcome."""


class AddRequest(Sent):
    """What is added to an open case."""

    subjects: Stated = Field(default_factory=dict)
    """Further facts about subjects; what was stated is never changed."""
    answers: Answers = Field(default_factory=dict)
    commitments: Annotated[tuple[Slug, ...], Field(max_length=200), FROM_JSON] = ()
    """Requirements for which a commitment (告知承诺) is given."""
    supplied: Annotated[
        Mapping[Slug, Annotated[SupplyReason, FROM_JSON]], Field(max_length=200)
    ] = {}
    """Requirements that the applicant handed in, and why."""


class RequirementHead(Model):
    """One requirement of the matter; the outcome's own members stand beside these."""

    id: Slug
    name: Name
    steps: tuple[Slug, ...]
    fields: tuple[str, ...]
    """Fields that were passed on for it."""


def _requirement_views() -> object:
    """Return the union of all outcomes, each with the head of its requirement."""
    views = [
        create_model(
            f"{kind.__name__}Requirement",
            __base__=RequirementHead,
            __doc__=None,
            **members_of(kind),
        )
        for kind in OUTCOMES
    ]
    return Annotated[Union[tuple(views)], Field(discriminator="outcome")]  # noqa: UP007 - made of a list


RequirementView = _requirement_views()


class Presentation(Model):
    """One evidence as one requirement gets it."""

    sd_jwt: str
    """RFC 9901; the department's signature verifies with its keys."""
    fields: Mapping[str, JsonValue]
    """The same values, readable."""


class EvidenceView(Model):
    """One evidence of the answer."""

    evidence_type: VersionedId
    provider: Slug
    as_of: datetime
    """When the register held it, cut to milliseconds; the JWT has it in full."""
    presentations: Mapping[Slug, Presentation]
    """By requirement, each with its own fields."""


class ReceiptView(Model):
    """The signed receipt of one release."""

    event: EventId
    index: int
    evidence: EvidenceId
    note: str
    """A C2SP signed note; `GET /v1/receipts/{event}` proves it."""


NextStepView = create_model(
    "NextStepView",
    __base__=Model,
    __doc__="Who must do what for one requirement.",
    **members_of(NextStep),
    requirement=Slug,
)


class CaseView(Model):
    """A case as it stands."""

    id: CaseId
    matter: VersionedId
    name: Name
    status: CaseStatus
    purpose: Slug
    opened_at: datetime
    closed_at: datetime | None
    version: int
    requirements: tuple[RequirementView, ...]  # type: ignore[valid-type] # a union made above
    evidence: Mapping[EvidenceId, EvidenceView]
    receipts: tuple[ReceiptView, ...]
    next_steps: tuple[NextStepView, ...]
    accounting: Accounting | None


@router.post(
    "",
    status_code=201,
    response_model=CaseView,
)
async def open_case(
    request: Request,
    body: OpenCaseRequest,
    caller: PortalCaller,
    gateway: ThisGateway,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Open a case, and answer with all that could be resolved in the time given."""
    raw = await request.body()
    return await answer_opening(
        gateway, caller, body, raw, prefer=prefer, idempotency_key=idempotency_key
    )


async def answer_opening(
    gateway: Gateway,
    caller: Caller,
    body: OpenCaseRequest,
    raw: bytes,
    *,
    prefer: str | None,
    idempotency_key: str | None,
) -> Response:
    """Open a case for a request that is well-formed: the route, and its shortcut."""
    caller.require_purpose(body.purpose)
    matter = _matter(gateway, body.matter)
    today = day_in_beijing(gateway.clock.now())
    check_opening(matter, body.purpose, body.subjects, body.answers, today)
    opening = Opening(
        caller=caller,
        matter=body.matter,
        purpose=body.purpose,
        actor=body.actor,
        subjects=body.subjects,
        answers=body.answers,
    )
    repeat = repeat_key(gateway, caller, idempotency_key, f"POST {PATH}", raw)
    wait_s = _wait_s(gateway, prefer)
    case_id, answer = await gateway.resolver.open(opening, wait_s, repeat)
    return Response(
        answer,
        status_code=201,
        media_type="application/json",
        headers={"location": f"{PATH}/{case_id}", **_applied(wait_s)},
    )


@router.get("/{case}", response_model=CaseView)
async def read_case(
    case: CaseUuid, caller: PortalCaller, gateway: ThisGateway
) -> Response:
    """Read a case as it stands, with the evidence it holds."""
    return _json(await gateway.resolver.read(CaseId(case), caller))


@router.post("/{case}/answers", response_model=CaseView)
async def add_to_case(
    case: CaseUuid,
    body: AddRequest,
    caller: PortalCaller,
    gateway: ThisGateway,
    prefer: Prefer = None,
) -> Response:
    """Add answers, facts, commitments or what was handed in, and resolve on."""
    case_id, wait_s = CaseId(case), _wait_s(gateway, prefer)
    matter, known = await gateway.resolver.stated(case_id, caller)
    check_additions(
        matter,
        body.subjects,
        known,
        body.answers,
        body.commitments,
        body.supplied,
        today=day_in_beijing(gateway.clock.now()),
    )
    additions = Additions(
        subjects=body.subjects,
        answers=body.answers,
        commitments=body.commitments,
        supplied=body.supplied,
    )
    answer = await gateway.resolver.add(case_id, caller, wait_s, additions)
    return _json(answer, _applied(wait_s))


@router.post("/{case}/resolve", response_model=CaseView)
async def resolve_case(
    case: CaseUuid, caller: PortalCaller, gateway: ThisGateway, prefer: Prefer = None
) -> Response:
    """Resolve a case again: what failed is asked anew, what is fresh is reused."""
    wait_s = _wait_s(gateway, prefer)
    answer = await gateway.resolver.resolve(CaseId(case), caller, wait_s)
    return _json(answer, _applied(wait_s))


@router.post("/{case}/close", response_model=CaseView)
async def close_case(
    case: CaseUuid, caller: PortalCaller, gateway: ThisGateway
) -> Response:
    """Close a case: its evidence and its key are destroyed, outcomes remain."""
    return _json(await gateway.resolver.close(CaseId(case), caller))


@router.get(
    "/{case}/events",
    response_class=StreamingResponse,
    responses={204: {"description": "It is closed, and that was told: stop asking."}},
)
async def follow_case(
    request: Request,
    case: CaseUuid,
    caller: PortalCaller,
    gateway: ThisGateway,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow a case as server-sent events: `case` now and after every change.

    Each event is the whole case, as `GET` answers it; its id is the case's version.
    Who comes again with `Last-Event-ID` is told the case only if it has changed since.
    The stream ends when the case is closed, when the token is not good any more, when
    a change can't be told now, or after ten minutes: connect again. `204` means that
    nothing more will come.
    """
    case_id = CaseId(case)
    head = await gateway.resolver.head(case_id, caller)
    # What was told is not released once more, nor recorded as if it were.
    is_told = last_event_id == str(head.version)
    if is_told and head.status is CaseStatus.CLOSED:
        return Response(status_code=204)  # SOURCE: HTML, section 9.2.3
    first = None if is_told else await gateway.resolver.read(case_id, caller)
    return StreamingResponse(
        _events(
            gateway, case_id, request.headers["authorization"], head.version, first
        ),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _events(
    gateway: Gateway,
    case: CaseId,
    authorization: str,
    version: int,
    first: bytes | None,
) -> AsyncIterator[bytes]:
    """Tell `first`, and then what is newer than it; without it, than `version`."""
    started = spoken = gateway.clock.monotonic()
    answer = first
    if answer is not None:
        version = _version(answer)
        yield _event(version, answer)
    while (
        not _is_closed(answer) and gateway.clock.monotonic() - started < _FOLLOW_MOST_S
    ):
        await asyncio.sleep(_FOLLOW_EVERY_S)
        try:
            newer = await _newer(gateway, case, authorization, version)
        except ErrandError:
            return  # who connects again is told what it is
        now = gateway.clock.monotonic()
        if newer is not None:
            answer, version, spoken = newer, _version(newer), now
            yield _event(version, newer)
        elif now - spoken >= _HEARTBEAT_S:
            spoken = now
            yield b": still here\n\n"


async def _newer(
    gateway: Gateway, case: CaseId, authorization: str, version: int
) -> bytes | None:
    """Return a case that is another version now; None while it is the same.

    Raises:
        ErrandError: It can't be told to this caller, or not now.
    """
    # INVARIANT: a suspension holds for streams opened before it (rule 5).
    caller = gateway.identity.authenticate(authorization, gateway.clock.now())
    newest = gateway.database.read_now(lambda c: cases.find_version(c, case))
    return None if newest == version else await gateway.resolver.read(case, caller)


def _event(version: int, answer: bytes) -> bytes:
    return b"event: case\nid: %d\ndata: %b\n\n" % (version, answer)


def _version(answer: bytes) -> int:
    version: int = orjson.loads(answer)["version"]
    return version


def _is_closed(answer: bytes | None) -> bool:
    return (
        answer is not None and orjson.loads(answer)["status"] == CaseStatus.CLOSED.value
    )


def _matter(gateway: Gateway, ref: str) -> Matter:
    matter = gateway.pack.matters.get(ref)
    if matter is None:
        known = ", ".join(f"`{m}`" for m in gateway.pack.matters)
        raise InvalidRequestError(
            Complaint("/matter", f"no such matter; there are {known}")
        )
    return matter


def _wait_s(gateway: Gateway, prefer: str | None) -> float:
    """Return how long an answer may wait, in seconds."""
    asked, settings = wait_asked(prefer), gateway.settings
    return (
        settings.wait_default_s if asked is None else min(asked, settings.wait_most_s)
    )


def _applied(wait_s: float) -> dict[str, str]:
    return {"preference-applied": f"wait={wait_s:g}"}


def _json(answer: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer, media_type="application/json", headers=headers)
