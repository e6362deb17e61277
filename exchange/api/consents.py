"""The routes of consents: asked for by portals, answered by the person concerned.

A client with the scope `citizen` speaks for a person whom it has authenticated, and
names that person in the body, never in a path. Only that person's own consents answer.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from joserfc.jwk import OKPKey
from pydantic import Field

from consent.artefact import Consent, ConsentState
from consent.receipts import ConsentNotice, consent_receipt
from consent.store import Terms
from exchange.api.dependencies import (
    AnyCaller,
    CitizenCaller,
    Gateway,
    PortalCaller,
    ThisGateway,
)
from exchange.api.forms import (
    IdempotencyKey,
    Person,
    PersonRequest,
    Uuid,
    answer,
    repeat_key,
)
from exchange.api.strict import StrictRoute
from exchange.permission import Asking
from schemas.directory import LegalReference, Scope
from schemas.errors import NotFoundError
from schemas.evidence import FieldName
from schemas.ids import CaseId, ConsentId
from schemas.matter import Matter
from schemas.model import FROM_JSON, ONCE, Instant, Model, Name, Sent, Slug, VersionedId

PATH = "/v1/consents"
router = APIRouter(route_class=StrictRoute, prefix=PATH, tags=["consents"])

_MOST_FIELDS = 100


ConsentUuid = Annotated[Uuid, Path(alias="consent", description="The consent's id.")]
Fields = Annotated[
    Mapping[
        VersionedId,
        Annotated[frozenset[FieldName], Field(max_length=_MOST_FIELDS), FROM_JSON, ONCE]
        | None,
    ],
    Field(min_length=1, max_length=20),
]
"""Evidence types → their fields; null for every field that a grant allows."""


class AskRequest(Sent):
    """What a person is asked to allow."""

    case: Uuid
    """The case that needs it."""
    person: Person
    role: Slug
    """The person's role in the case."""
    fields: Fields
    whole_matter: bool = False
    """Whether it is to hold in later cases of the matter too."""
    lifetime_s: Annotated[int, Field(ge=60, le=366 * 86_400)] | None = None
    """How long it holds, asked for or given, in seconds."""
    uses: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Look-ups that may rest on it; none for any number."""


class GiveRequest(Sent):
    """What a person allows: what was shown, or less."""

    person: Person
    version: Annotated[int, Field(ge=1)]
    """The version that was shown."""
    fields: Fields | None = None
    """Fewer fields than were asked for."""
    expires_at: Instant | None = None
    """An earlier end than was asked for."""
    uses: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Fewer uses than were asked for."""


class AskedType(Model):
    """One evidence type of a consent, as a person reads it."""

    evidence_type: VersionedId
    name: Name
    fields: Mapping[FieldName, Name]
    """Each field with its name; all that a grant allows where none was picked."""


class ConsentView(Model):
    """A consent as it stands; it does not say whose it is."""

    id: ConsentId
    state: ConsentState
    requester: Slug
    requester_name: Name
    matter: Slug
    matter_name: Name
    purpose: Slug
    purpose_name: Name
    role: Slug
    case: CaseId
    """The case that asked."""
    whole_matter: bool
    evidence_types: tuple[AskedType, ...]
    asked_at: datetime
    given_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime
    uses_left: int | None
    version: int


class AnsweredView(Model):
    """A consent after its person spoke, with the receipt to keep."""

    consent: ConsentView
    receipt: str
    """A signed record (ISO/IEC TS 27560) as compact JWS; the gateway's published keys
    verify it."""


class ConsentList(Model):
    """A person's consents, the newest first."""

    consents: tuple[ConsentView, ...]


@router.post("", status_code=201, response_model=ConsentView)
async def ask_consent(
    request: Request,
    body: AskRequest,
    caller: PortalCaller,
    gateway: ThisGateway,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Ask a person's consent for a case; what is asked for already is added to."""
    raw = await request.body()
    repeat = repeat_key(gateway, caller, idempotency_key, f"POST {PATH}", raw)
    lifetime = body.lifetime_s or gateway.settings.consent_lifetime_s
    asking = Asking(
        case=CaseId(body.case),
        role=body.role,
        whole_matter=body.whole_matter,
        fields=body.fields,
        expires_at=gateway.clock.now() + timedelta(seconds=lifetime),
        uses=body.uses,
    )
    asked = await gateway.permissions.ask(caller, body.person.id, asking, repeat)
    headers = {"location": f"{PATH}/{asked.id}"}
    return answer(_view(gateway, asked), 201, headers)


@router.post("/search", response_model=ConsentList)
async def find_consents(
    body: PersonRequest, _caller: CitizenCaller, gateway: ThisGateway
) -> Response:
    """Return what a person was asked and has said, the newest first."""
    found = await gateway.permissions.of_person(body.person.id)
    return answer(ConsentList(consents=tuple(_view(gateway, one) for one in found)))


@router.get("/{consent}", response_model=ConsentView)
async def read_consent(
    consent: ConsentUuid, caller: AnyCaller, gateway: ThisGateway
) -> Response:
    """Read a consent: the portal that asked, or an app that shows it to the person."""
    if Scope.CITIZEN in caller.scopes:
        requester = None
    else:
        caller.require(Scope.PORTAL)
        requester = caller.requester
    found = await gateway.permissions.read(ConsentId(consent), requester)
    return answer(_view(gateway, found))


@router.post("/{consent}/give", response_model=AnsweredView)
async def give_consent(
    consent: ConsentUuid,
    body: GiveRequest,
    _caller: CitizenCaller,
    gateway: ThisGateway,
) -> Response:
    """Give a consent as it was shown, or narrower; giving it twice is once."""
    terms = Terms(fields=body.fields, expires_at=body.expires_at, uses=body.uses)
    given = await gateway.permissions.give(
        ConsentId(consent), body.person.id, body.version, terms
    )
    return answer(_answered(gateway, given))


@router.post("/{consent}/refuse", response_model=AnsweredView)
async def refuse_consent(
    consent: ConsentUuid,
    body: PersonRequest,
    _caller: CitizenCaller,
    gateway: ThisGateway,
) -> Response:
    """Refuse what was asked; refusing twice is once."""
    refused = await gateway.permissions.refuse(ConsentId(consent), body.person.id)
    return answer(_answered(gateway, refused))


@router.post("/{consent}/withdraw", response_model=AnsweredView)
async def withdraw_consent(
    consent: ConsentUuid,
    body: PersonRequest,
    _caller: CitizenCaller,
    gateway: ThisGateway,
) -> Response:
    """Withdraw a consent; when this answers, no look-up rests on it any more."""
    gone = await gateway.permissions.withdraw(ConsentId(consent), body.person.id)
    return answer(_answered(gateway, gone))


def _matter(gateway: Gateway, matter: Slug) -> Matter:
    """Return the newest version of a matter.

    Raises:
        NotFoundError: The packs have none any more.
    """
    versions = [m for m in gateway.pack.matters.values() if m.id == matter]
    if not versions:
        raise NotFoundError("the matter of this consent is gone")
    return max(versions, key=lambda m: m.version)


def _purpose(matter: Matter, purpose: Slug) -> Name:
    """Return a purpose as a person reads it; its id where the packs have it no more."""
    return matter.purposes.get(purpose) or Name(zh=purpose, en=purpose)


def _view(gateway: Gateway, consent: Consent) -> ConsentView:
    scope, pack, now = consent.scope, gateway.pack, gateway.clock.now()
    requester = pack.requesters.get(scope.requester)
    unnamed = Name(zh=scope.requester, en=scope.requester)
    matter = _matter(gateway, scope.matter)
    return ConsentView(
        id=consent.id,
        state=consent.state_at(now),
        requester=scope.requester,
        requester_name=unnamed if requester is None else requester.name,
        matter=scope.matter,
        matter_name=matter.name,
        purpose=scope.purpose,
        purpose_name=_purpose(matter, scope.purpose),
        role=scope.role,
        case=consent.asked_in,
        whole_matter=scope.case is None,
        evidence_types=tuple(
            _asked_type(gateway, consent, ref) for ref in consent.evidence_types
        ),
        asked_at=consent.asked_at,
        given_at=consent.given_at,
        ended_at=consent.ended_by(now),
        expires_at=consent.expires_at,
        uses_left=consent.uses_left,
        version=consent.version,
    )


def _asked_type(gateway: Gateway, consent: Consent, ref: VersionedId) -> AskedType:
    """Return an evidence type of a consent with its names."""
    declared = gateway.pack.evidence_types.get(ref)
    if declared is None:
        return AskedType(evidence_type=ref, name=Name(zh=ref, en=ref), fields={})
    picked = consent.fields[ref]
    if picked is None:
        picked = frozenset(
            name
            for grant in gateway.pack.grants.values()
            if grant.requester == consent.scope.requester and grant.evidence_type == ref
            for name in grant.fields
        )
    return AskedType(
        evidence_type=ref,
        name=declared.name,
        fields={n: f.name for n, f in declared.fields.items() if n in picked},
    )


def _answered(gateway: Gateway, consent: Consent) -> AnsweredView:
    """Return a consent with its receipt."""
    key = gateway.keys.token
    receipt = consent_receipt(
        consent,
        _notice(gateway, consent),
        issuer=gateway.settings.public_url,
        key=OKPKey.import_key(key.to_pem(), {"kid": key.kid}),
        issued_at=gateway.clock.now(),
    )
    return AnsweredView(consent=_view(gateway, consent), receipt=receipt)


def _notice(gateway: Gateway, consent: Consent) -> ConsentNotice:
    """Return what the person was told.

    Raises:
        NotFoundError: The packs no longer hold what it was about.
    """
    scope, pack = consent.scope, gateway.pack
    requester = pack.requesters.get(scope.requester)
    if requester is None or any(
        ref not in pack.evidence_types for ref in consent.evidence_types
    ):
        raise NotFoundError("what this consent was about is gone")
    matter = _matter(gateway, scope.matter)
    link = f"{gateway.settings.public_url}/v1/consents/{consent.id}"
    return ConsentNotice(
        requester=requester,
        matter=matter.name,
        purpose=_purpose(matter, scope.purpose),
        evidence_types=pack.evidence_types,
        basis=_basis(gateway, consent),
        language="zh-CN",
        jurisdiction="CN",
        notice_url=link,
        withdraw_url=f"{link}/withdraw",
    )


def _basis(gateway: Gateway, consent: Consent) -> LegalReference:
    """Return the rule on which the grants rest this role's consent."""
    for grant in gateway.pack.grants.values():
        basis = grant.bases.get(consent.scope.role)
        if (
            grant.requester == consent.scope.requester
            and grant.evidence_type in consent.fields
            and basis is not None
        ):
            return basis.reference
    raise NotFoundError("the grants that this consent was for are gone")
