"""The routes of the directory: what there is, who holds it, and who may ask.

Matters, evidence types, providers with their keys, and the schemas of packs are public.
Services, grants and suspensions are for those who have a token.
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Annotated, TypeVar

import orjson
from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, JsonValue
from typing_extensions import override

from consent.rules import Suspendable
from exchange.api.dependencies import AnyCaller, OperatorCaller, ThisGateway
from exchange.api.strict import StrictRoute
from schemas.directory import DataService, PublicKey, SharingGrant
from schemas.errors import NotFoundError
from schemas.evidence import EvidenceType
from schemas.matter import Matter
from schemas.model import Model, Name, RegionCode, Sent, Slug, VersionedId

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["directory"])

T = TypeVar("T")

_SCHEMAS = ("deployment", "evidence-types", "grants", "matter", "providers", "services")

Ref = Annotated[VersionedId, Path(description="`id@version`.")]
Id = Annotated[Slug, Path()]


class SchemaResponse(JSONResponse):
    """A JSON Schema, given as its bytes."""

    media_type = "application/schema+json"

    @override
    def render(self, content: bytes) -> bytes:
        return content


class MatterHead(Model):
    """A matter in a list."""

    ref: VersionedId
    name: Name
    region: RegionCode
    purposes: Mapping[Slug, Name]


class Matters(Model):
    """Every matter that cases can be opened for."""

    matters: tuple[MatterHead, ...]


class EvidenceTypes(Model):
    """Every evidence type."""

    evidence_types: tuple[EvidenceType, ...]


class ProviderHead(Model):
    """A provider without its keys: these are at its JWKS."""

    id: Slug
    name: Name


class Providers(Model):
    """Every department that answers."""

    providers: tuple[ProviderHead, ...]


class KeySet(Model):
    """Public keys (RFC 7517), each with its validity."""

    keys: tuple[Mapping[str, JsonValue], ...]
    """JWKs; `nbf` and `exp`, in seconds since 1970, are the instants from which a key
    signs and no longer signs. What it signed before still verifies."""


class Services(Model):
    """Every data service."""

    services: tuple[DataService, ...]


class Grants(Model):
    """Every sharing grant."""

    grants: tuple[SharingGrant, ...]


class Suspensions(Model):
    """Everything that is suspended, as `kind:id`."""

    suspended: tuple[str, ...]


class SuspendRequest(Sent):
    """Why something may not be used for now."""

    reason: Annotated[str, Field(min_length=1, max_length=200)]
    """For the record; no person's name or id."""


@router.get("/matters", response_model=Matters)
async def list_matters(gateway: ThisGateway) -> Response:
    """Return every matter."""
    heads = (
        MatterHead(ref=ref, name=m.name, region=m.region, purposes=m.purposes)
        for ref, m in gateway.pack.matters.items()
    )
    return _json(Matters(matters=tuple(heads)))


@router.get("/matters/{ref}", response_model=Matter)
async def read_matter(ref: Ref, gateway: ThisGateway) -> Response:
    """Return one matter: its roles, questions, requirements and steps."""
    return _json(_one(gateway.pack.matters, ref))


@router.get("/evidence-types", response_model=EvidenceTypes)
async def list_evidence_types(gateway: ThisGateway) -> Response:
    """Return every evidence type."""
    found = tuple(gateway.pack.evidence_types.values())
    return _json(EvidenceTypes(evidence_types=found))


@router.get("/evidence-types/{ref}", response_model=EvidenceType)
async def read_evidence_type(ref: Ref, gateway: ThisGateway) -> Response:
    """Return one evidence type."""
    return _json(_one(gateway.pack.evidence_types, ref))


@router.get(
    "/evidence-types/{ref}/schema",
    response_model=dict[str, JsonValue],
    response_class=SchemaResponse,
)
async def evidence_type_schema(ref: Ref, gateway: ThisGateway) -> Response:
    """Return the JSON Schema (2020-12) of the fields of an evidence type."""
    found = _one(gateway.pack.evidence_types, ref)
    schema: dict[str, JsonValue] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{gateway.settings.public_url}/v1/evidence-types/{ref}/schema",
        "title": found.name.en,
        "type": "object",
        "properties": {
            name: {**field.json_schema, "title": field.name.en}
            for name, field in found.fields.items()
        },
        "additionalProperties": False,
    }
    return SchemaResponse(orjson.dumps(schema))


@router.get("/providers", response_model=Providers)
async def list_providers(gateway: ThisGateway) -> Response:
    """Return every department that answers."""
    heads = (ProviderHead(id=p.id, name=p.name) for p in _all(gateway.pack.providers))
    return _json(Providers(providers=tuple(heads)))


@router.get("/providers/{provider}", response_model=ProviderHead)
async def read_provider(provider: Id, gateway: ThisGateway) -> Response:
    """Return one department."""
    found = _one(gateway.pack.providers, provider)
    return _json(ProviderHead(id=found.id, name=found.name))


@router.get("/providers/{provider}/jwks", response_model=KeySet)
async def provider_keys(provider: Id, gateway: ThisGateway) -> Response:
    """Return the keys with which a department's evidence verifies, old ones too."""
    found = _one(gateway.pack.providers, provider)
    return _json(KeySet(keys=tuple(_jwk(key) for key in found.keys)))


@router.get("/services", response_model=Services)
async def list_services(_caller: AnyCaller, gateway: ThisGateway) -> Response:
    """Return every data service."""
    return _json(Services(services=tuple(_all(gateway.pack.services))))


@router.get("/services/{service}", response_model=DataService)
async def read_service(
    service: Id, _caller: AnyCaller, gateway: ThisGateway
) -> Response:
    """Return one data service."""
    return _json(_one(gateway.pack.services, service))


@router.get("/grants", response_model=Grants)
async def list_grants(_caller: AnyCaller, gateway: ThisGateway) -> Response:
    """Return every sharing grant."""
    return _json(Grants(grants=tuple(_all(gateway.pack.grants))))


@router.get("/grants/{grant}", response_model=SharingGrant)
async def read_grant(grant: Id, _caller: AnyCaller, gateway: ThisGateway) -> Response:
    """Return one sharing grant."""
    return _json(_one(gateway.pack.grants, grant))


@router.get("/suspensions", response_model=Suspensions)
async def list_suspensions(_caller: AnyCaller, gateway: ThisGateway) -> Response:
    """Return everything that is suspended."""
    return _json(Suspensions(suspended=tuple(sorted(gateway.in_flight.suspended))))


@router.put("/suspensions/{kind}/{thing}", response_model=Suspensions)
async def suspend(
    kind: Suspendable,
    thing: Id,
    body: SuspendRequest,
    caller: OperatorCaller,
    gateway: ThisGateway,
) -> Response:
    """Suspend a grant, service, provider or requester.

    When this answers, no look-up rests on it any more.
    """
    await gateway.permissions.suspend(kind, thing, body.reason, caller.requester)
    return _json(Suspensions(suspended=tuple(sorted(gateway.in_flight.suspended))))


@router.delete("/suspensions/{kind}/{thing}", response_model=Suspensions)
async def resume(
    kind: Suspendable, thing: Id, caller: OperatorCaller, gateway: ThisGateway
) -> Response:
    """End a suspension."""
    await gateway.permissions.resume(kind, thing, caller.requester)
    return _json(Suspensions(suspended=tuple(sorted(gateway.in_flight.suspended))))


@router.get(
    "/schemas/{name}",
    response_model=dict[str, JsonValue],
    response_class=SchemaResponse,
)
async def pack_schema(
    name: Annotated[str, Path(pattern=f"^({'|'.join(_SCHEMAS)})$")],
) -> Response:
    """Return the JSON Schema of one kind of pack file."""
    text = files("schemas").joinpath("json", f"{name}.schema.json").read_bytes()
    return SchemaResponse(text)


def _one(things: Mapping[str, T], name: str) -> T:
    """Return a thing by its id.

    Raises:
        NotFoundError: There is none.
    """
    if name not in things:
        raise NotFoundError(
            "the directory has no such thing: the address without the name lists what"
            " there is"
        )
    return things[name]


def _all(things: Mapping[str, T]) -> Iterable[T]:
    """Return things in the order of their ids."""
    return (things[name] for name in sorted(things))


def _jwk(key: PublicKey) -> Mapping[str, JsonValue]:
    """Return a key with the instants between which it signs."""
    validity: dict[str, JsonValue] = {"nbf": int(key.valid_from.timestamp())}
    if key.valid_until is not None:
        validity["exp"] = int(key.valid_until.timestamp())
    return {**key.jwk, **validity}


def _json(body: BaseModel) -> Response:
    content = body.model_dump_json().encode()
    return Response(content, media_type="application/json")
