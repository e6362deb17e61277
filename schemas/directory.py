"""Who answers and who asks: providers, data services, requesters and grants."""

from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, assert_never

from pydantic import Field, JsonValue

from schemas.evidence import FieldName, Mode
from schemas.model import (
    Model,
    Moment,
    Name,
    Once,
    OneOrMore,
    Period,
    RegionCode,
    Shown,
    Slug,
    Version,
    VersionedId,
)


class LegalReference(Model):
    """The rule that something rests on."""

    law: Name
    article: Shown
    """Article and paragraph, such as `13(1)(3)`."""


class LawfulBasisKind(StrEnum):
    """Why data about a person may be processed (PIPL 13)."""

    STATUTORY_DUTY = "statutory_duty"
    CONSENT = "consent"
    MANDATE = "mandate"
    EMERGENCY = "emergency"

    @property
    def is_supported(self) -> bool:
        """Whether anything can be permitted on this basis today."""
        match self:
            case LawfulBasisKind.STATUTORY_DUTY | LawfulBasisKind.CONSENT:
                return True
            case LawfulBasisKind.MANDATE | LawfulBasisKind.EMERGENCY:
                # Fails closed: a mandate needs a checked artefact, an emergency a
                # review afterwards, and neither exists yet.
                return False
            case _:
                assert_never(self)


class LawfulBasis(Model):
    """The basis on which a grant covers one role."""

    kind: LawfulBasisKind
    reference: LegalReference


class PublicKey(Model):
    """A pinned Ed25519 key of a provider, a requester or the gateway."""

    jwk: Mapping[str, JsonValue]
    """The public key as a JWK (RFC 8037) with `kid`."""
    thumbprint: str
    """SHA-256 JWK thumbprint (RFC 7638), base64url; must be that of `jwk`."""
    valid_from: Moment
    valid_until: Moment | None = None
    """First instant at which the key no longer signs; old signatures still verify."""


class Provider(Model):
    """A department that answers."""

    id: Slug
    name: Name
    keys: Once[PublicKey] = ()


class Coverage(Model):
    """What a data service can speak about: outside it, nothing found means nothing."""

    regions: OneOrMore[RegionCode]
    """Regions whose records it holds, with all that lies inside them."""
    from_date: date | None = None
    """The first day whose records it holds; None for all."""


class ConnectorKind(StrEnum):
    """Which code speaks to a data service."""

    HTTP = "http"
    """The provider protocol of `docs/provider-protocol.md`."""


class DataService(Model):
    """One provider's offer of one evidence type."""

    id: Slug
    provider: Slug
    evidence_type: VersionedId
    connector: ConnectorKind
    endpoint: str | None = None
    """Where look-ups are posted; None until the deployment says where."""
    coverage: Coverage
    timeout_ms: Annotated[int, Field(gt=0, le=60_000)] = 5_000
    """How long one look-up may take, in milliseconds."""
    concurrency: Annotated[int, Field(gt=0, le=1_000)] = 32
    """How many look-ups may be under way at once."""


class Scope(StrEnum):
    """What a client may do: one role each."""

    PORTAL = "portal"
    CITIZEN = "citizen"
    """An app that has authenticated the person for whom it gives or refuses consent."""
    DEPARTMENT = "department"
    AUDITOR = "auditor"
    OPERATOR = "operator"


class Requester(Model):
    """An organisation that asks, and signs its requests for tokens."""

    id: Slug
    name: Name
    scopes: OneOrMore[Scope]
    purposes: Once[Slug] = ()
    """What it may open cases for."""
    keys: Once[PublicKey] = ()


class Quota(Model):
    """How often a grant may be used."""

    lookups: Annotated[int, Field(gt=0, le=1_000_000_000)]
    per: Period
    """The period, at most 366 days: `P1D` is a day, `P7D` a week, in Beijing."""


class SharingGrant(Model):
    """Who may ask which fields of which evidence type, for what, on which basis."""

    id: Slug
    version: Version
    requester: Slug
    evidence_type: VersionedId
    modes: OneOrMore[Mode]
    fields: OneOrMore[FieldName]
    """Fields that may be asked for and passed on, or compared and not passed on."""
    matters: OneOrMore[Slug]
    purposes: OneOrMore[Slug]
    bases: Annotated[Mapping[Slug, LawfulBasis], Field(min_length=1)]
    """The basis for each role of the matter that a look-up may be about or concern."""
    valid_from: Moment
    valid_until: Moment
    """First instant at which the grant no longer holds."""
    quota: Quota | None = None
