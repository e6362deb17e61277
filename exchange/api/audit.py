"""The routes about records: auditors' questions, receipts and proofs.

A person is never named in a path or a query, which proxies and histories keep: whom a
question is about stands in a header.
"""

from collections.abc import Mapping
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import Field

from audit.query import PAGE_LIMIT, RecordQuery
from audit.record import Actor, Kind, Subject
from exchange.api.dependencies import (
    AnyCaller,
    AuditorCaller,
    Gateway,
    ThisGateway,
)
from exchange.api.forms import DIGITS, UUID, Uuid, wait_asked
from exchange.api.problems import NOT_PUBLISHED, problem
from exchange.api.strict import StrictRoute
from schemas.canonical import b64url
from schemas.errors import Complaint, InvalidRequestError, Where
from schemas.ids import CaseId, EventId
from schemas.model import Instant, Model, Slug, VersionedId

router = APIRouter(route_class=StrictRoute, tags=["log"])

_TEXT = "text/plain; charset=utf-8"
Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description="`wait=N`: seconds to wait for a checkpoint, 30 at most.",
    ),
]
EventUuid = Annotated[
    str, Path(alias="event", pattern=UUID, description="The record's event id.")
]
AboutHeader = Annotated[
    str | None,
    Header(
        alias="Errand-Subject",
        max_length=100,
        pattern=r"^[a-z_]{1,32}:[\x21-\x7e]{1,64}$",
        description="Whom the records are about, as `citizen_id:...`.",
    ),
]
ByHeader = Annotated[
    str | None,
    Header(
        alias="Errand-Official",
        max_length=100,
        pattern=r"^(official|system|agent|person):[\x21-\x7e]{1,64}$",
        description="Who acted, as `official:...` or `agent:...`.",
    ),
]


class Filters(Model):
    """Which records are wanted: those that meet every condition."""

    # FastAPI takes the fields of a query one by one, and never asks for its schema:
    # what they mean stands in them, not under them.
    requester: Slug | None = None
    provider: Slug | None = None
    matter: VersionedId | None = None
    case: Uuid | None = None
    outcome: (
        Annotated[str, Field(pattern=r"^[a-z_]{1,64}(\.[a-z_]{1,64})?$")] | None
    ) = Field(None, description="Such as `retrieved` or `denied.consent_withdrawn`.")
    kind: Kind | None = None
    since: Instant | None = Field(None, description="First instant that counts.")
    until: Instant | None = Field(
        None, description="First instant that no longer counts."
    )
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT), DIGITS] = 100
    after: (
        Annotated[str, Field(pattern=r"^[0-9]{1,20}\.[0-9]{1,18}(@[0-9]{1,4})?$")]
        | None
    ) = Field(None, description="`next` of the page before.")


class RecordView(Model):
    """One record, as far as it is open to search."""

    index: int
    """Where it stands in the log: with this it can be proved."""
    event: EventId
    at_ms: int
    """When it happened, in milliseconds since 1970."""
    kind: Kind
    outcome: str
    requester: str
    provider: str
    evidence_type: str
    correlation: str
    matter: str
    case: CaseId | None
    actor_ref: str | None
    """The official, under a stable name that tells nobody's id."""
    log: str
    """The shard that the record stands in."""


class LagView(Model):
    """How far the answer is behind what is recorded."""

    recorded: int
    indexed: int
    published: int


class RecordList(Model):
    """Records, newest first."""

    records: tuple[RecordView, ...]
    next: str | None
    """`after` of the next page; none when this is the last."""
    checkpoint: str | None
    """The signed head of the tree when this was answered."""
    lag: LagView
    unmatched: tuple[str, ...]
    """Of an empty answer: the conditions that no record at all meets, such as
    `provider`. Perhaps one is mistyped."""


class SectionView(Model):
    """A sealed section, opened; the leaf's commitment is HMAC-SHA256 over `section`."""

    opening: str
    """The key of the commitment, base64url."""
    section: str
    """The section's exact text."""


class OpenedRecord(Model):
    """One record with everything that an auditor may see."""

    leaf: str
    """The exact text whose hash stands in the tree."""
    sections: Mapping[str, SectionView]
    erased: EventId | None
    """The record of the erasure of somebody whom it is about: then nobody can open its
    sections any more."""


class ReceiptView(Model):
    """The promise and the proof that an event stands in the log."""

    event: EventId
    receipt: str
    """A signed note (C2SP): the log's promise, given at once."""
    proof: str | None
    """A `.tlog-proof` (C2SP) under the newest checkpoint; none until published."""


class ConsistencyView(Model):
    """The proof that a later tree only added to an earlier one (RFC 6962)."""

    size1: int
    root1: str
    size2: int
    root2: str
    hashes: tuple[str, ...]


@router.get("/v1/audit/records", response_model=RecordList)
async def find_records(
    filters: Annotated[Filters, Query()],
    caller: AuditorCaller,
    gateway: ThisGateway,
    about: AboutHeader = None,
    by: ByHeader = None,
) -> Response:
    """Return records, newest first; the question itself becomes a record."""
    query = RecordQuery(**dict(filters))
    _check_span(query)
    subject = None if about is None else Subject("", *_split(about))
    official = None if by is None else Actor(*_split(by))
    page = await gateway.oversight.records(caller.requester, query, subject, official)
    return _json(
        {
            "records": [dict(row.as_json()) for row in page.rows],
            "next": page.next,
            "checkpoint": page.checkpoint,
            "lag": {
                "recorded": page.lag.recorded,
                "indexed": page.lag.indexed,
                "published": page.lag.published,
            },
            "unmatched": [*page.unmatched],
        }
    )


@router.get("/v1/audit/records/{event}", response_model=OpenedRecord)
async def read_record(
    event: EventUuid, caller: AuditorCaller, gateway: ThisGateway
) -> Response:
    """Return one record with its sections; the look itself becomes a record."""
    leaf, sections, erased = await gateway.oversight.record(
        caller.requester, EventId(event)
    )
    opened = {
        name.value: SectionView(
            opening=b64url(one.opening), section=one.content.decode()
        )
        for name, one in sections.items()
    }
    content = OpenedRecord(leaf=leaf, sections=opened, erased=erased).model_dump_json()
    return Response(content, media_type="application/json")


@router.get("/v1/receipts/{event}.tlog-proof", response_class=Response)
async def read_proof(
    event: EventUuid, _caller: AnyCaller, gateway: ThisGateway, prefer: Prefer = None
) -> Response:
    """Return the proof that a record stands in the log (C2SP tlog-proof)."""
    wait_s = _wait_s(gateway, prefer)
    proof = await gateway.oversight.proof(EventId(event), wait_s)
    if proof is None:
        return problem(NOT_PUBLISHED, headers={"cache-control": "no-store"})
    return Response(proof.as_text(), headers=_applied(wait_s), media_type=_TEXT)


@router.get("/v1/receipts/{event}", response_model=ReceiptView)
async def read_receipt(
    event: EventUuid, _caller: AnyCaller, gateway: ThisGateway, prefer: Prefer = None
) -> Response:
    """Return the receipt of a record and, once it is published, its proof."""
    receipt = await gateway.oversight.receipt(EventId(event))
    wait_s = _wait_s(gateway, prefer)
    proof = await gateway.oversight.proof(EventId(event), wait_s)
    text = None if proof is None else proof.as_text()
    body = {"event": event, "receipt": receipt, "proof": text}
    return _json(body, _applied(wait_s))


@router.get("/v1/audit/proofs", response_model=ConsistencyView)
async def read_consistency(
    size1: Annotated[int, Query(ge=1, lt=1 << 53), DIGITS],
    size2: Annotated[int, Query(ge=1, lt=1 << 53), DIGITS],
    _caller: AnyCaller,
    gateway: ThisGateway,
) -> Response:
    """Return the proof that the tree of `size2` continues that of `size1`."""
    if size1 > size2:
        raise InvalidRequestError(
            Complaint("size1", "must not be more than `size2`", Where.PARAMETER)
        )
    proof = await gateway.oversight.consistency(size1, size2)
    return _json(dict(proof.as_json()))


def _check_span(query: RecordQuery) -> None:
    """Refuse a time in which nothing can have happened.

    Raises:
        InvalidRequestError: It ends before it begins.
    """
    if query.since is None or query.until is None or query.since < query.until:
        return
    raise InvalidRequestError(
        Complaint("since", "must be before `until`", Where.PARAMETER),
        Complaint("until", "must be after `since`", Where.PARAMETER),
    )


def _split(header: str) -> tuple[str, str]:
    kind, _, name = header.partition(":")
    return kind, name


def _wait_s(gateway: Gateway, prefer: str | None) -> float:
    """Return how long an answer may wait for a checkpoint, in seconds."""
    return min(wait_asked(prefer) or 0.0, gateway.settings.wait_most_s)


def _applied(wait_s: float) -> dict[str, str]:
    return {"preference-applied": f"wait={wait_s:g}"} if wait_s else {}


def _json(
    body: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> Response:
    sent = None if headers is None else dict(headers)
    return Response(orjson.dumps(body), 200, sent, "application/json")
