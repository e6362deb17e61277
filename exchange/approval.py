"""A look-up that was decided and may be made, with all that making it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from consent.uses import Claim
from consent.verdict import LookupTerms, Permit
from exchange.catalogue import competent
from exchange.opened import OpenCase
from exchange.plan import Lookup
from schemas.canonical import Json
from schemas.directory import DataService
from schemas.validation import Pack


@dataclass(frozen=True, slots=True)
class Approved:
    """A look-up that was decided, and may be made.

    Where no consent bears it, it is the same for every case that asks for the same.
    """

    lookup: Lookup
    service: DataService
    permit: Permit
    claim: Claim
    details: Mapping[str, Json]
    """What the record of an intent says of it, beside whose it is."""


def approve(
    pack: Pack,
    lookup: Lookup,
    service: DataService,
    permit: Permit,
    terms: LookupTerms,
) -> Approved:
    """Return a permitted look-up, with all that its record and its uses need."""
    claim = Claim(
        permit=permit,
        service=service.id,
        provider=service.provider,
        requester=terms.requester,
        quota=pack.grants[permit.grant].quota,
    )
    details: dict[str, Json] = {
        "requirements": list(lookup.serves),
        "purpose": terms.purpose,
        "service": service.id,
        "mode": lookup.mode.value,
        "fields": [*lookup.fields, *lookup.match],
        "grant": f"{permit.grant}@{permit.grant_version}",
        "rule": permit.rule.value,
        "basis": permit.kinds,
        "consents": list(permit.consents),
    }
    return Approved(lookup, service, permit, claim, details)


def choose_service(
    case: OpenCase, lookup: Lookup, services: Mapping[str, DataService], on: date
) -> DataService | None:
    """Return the competent service of a look-up, or None: nobody covers the region."""
    offered = [services[service] for service in lookup.services]
    if lookup.region is None:
        return offered[0]
    found = competent(offered, case.text(lookup.region), on)
    return found[0] if found else None
