"""What a grant names, and whether it can permit anything in the matters it is for.

A look-up is decided under each grant alone (`consent.decision`): what one lacks, no
other adds. So a grant that can permit nothing in a matter is a mistake.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from schemas.declared import Catalogue, Complain
from schemas.directory import SharingGrant
from schemas.evidence import EvidenceType, FieldName
from schemas.matter import Ask, Matter
from schemas.model import Slug, VersionedId

Takes: TypeAlias = Mapping[Slug, tuple[frozenset[FieldName], ...]]
"""Ask → sets of fields: every look-up by it takes all fields of one of them."""


def check_grant(
    grant: SharingGrant,
    catalogue: Catalogue,
    takes: Mapping[VersionedId, Takes],
    complain: Complain,
) -> None:
    """Check whom and what a grant names, and that it can permit something.

    Args:
        grant: The grant.
        catalogue: All that is declared.
        takes: What look-ups take, of each matter with which nothing is wrong.
        complain: Notes a place that is wrong.
    """
    if grant.requester not in catalogue.requesters:
        complain("requester", because=f"no requester `{grant.requester}` is declared")
    if grant.valid_until <= grant.valid_from:
        complain("valid_until", because="must be later than `valid_from`")
    if (kind := catalogue.evidence_types.get(grant.evidence_type)) is None:
        because = f"no evidence type `{grant.evidence_type}` is declared"
        complain("evidence_type", because=because)
    else:
        _check_granted(grant, kind.thing, complain)
    for role, basis in grant.bases.items():
        if not basis.kind.is_supported:
            remedy = "state another basis, or leave the role out"
            because = f"nothing is permitted on `{basis.kind}` yet: {remedy}"
            complain("bases", role, "kind", because=because)
    _check_granted_for(grant, catalogue, takes, complain)


def _check_granted(grant: SharingGrant, kind: EvidenceType, complain: Complain) -> None:
    """Check that what is granted can be asked for."""
    for index, name in enumerate(grant.fields):
        if name not in kind.fields:
            because = f"`{kind.ref}` has no field `{name}`"
            complain("fields", index, because=because)
    for index, mode in enumerate(grant.modes):
        if mode not in kind.modes:
            because = f"`{kind.ref}` can't be asked for in this mode"
            complain("modes", index, because=because)


def _check_granted_for(
    grant: SharingGrant,
    catalogue: Catalogue,
    takes: Mapping[VersionedId, Takes],
    complain: Complain,
) -> None:
    """Check the matters, purposes and roles that a grant is for."""
    matters = (one.thing for one in catalogue.matters.values())
    named = [matter for matter in matters if matter.id in grant.matters]
    purposes = {purpose for matter in named for purpose in matter.purposes}
    roles = {role for matter in named for role in matter.roles}
    for index, name in enumerate(grant.matters):
        versions = [matter for matter in named if matter.id == name]
        if not versions:
            complain("matters", index, because=f"no matter `{name}` is declared")
        elif grant.evidence_type in catalogue.evidence_types:
            _check_asks(grant, versions, index, complain)
            _check_fields(grant, versions, takes, complain)
    for index, purpose in enumerate(grant.purposes):
        if purpose not in purposes:
            complain("purposes", index, because="no matter of this grant has it")
    for role in grant.bases:
        if role not in roles:
            complain("bases", role, because="no matter of this grant has this role")


def _check_asks(
    grant: SharingGrant, versions: list[Matter], index: int, complain: Complain
) -> None:
    """Check that a grant has purpose, mode and roles of some ask of one matter."""
    name = versions[0].id
    asks = [
        (ask, _roles(matter, ask))
        for matter in versions
        for ask in matter.asks.values()
        if ask.evidence_type == grant.evidence_type
    ]
    lacking = [roles - grant.bases.keys() for a, roles in asks if a.mode in grant.modes]
    if not asks:
        because = f"`{name}` never asks for `{grant.evidence_type}`"
        complain("matters", index, because=because)
    elif not lacking:
        complain("modes", because=f"`{name}` asks in none of these modes")
    elif all(lacking):
        complain("bases", because=_nothing(name, lacking))
    if all(one.purposes.keys().isdisjoint(grant.purposes) for one in versions):
        because = f"`{name}` has none of this grant's purposes"
        complain("matters", index, because=because)


def _check_fields(
    grant: SharingGrant,
    versions: list[Matter],
    takes: Mapping[VersionedId, Takes],
    complain: Complain,
) -> None:
    """Check that a grant has all fields that some look-up of one matter takes."""
    if any(matter.ref not in takes for matter in versions):
        return  # what is wrong there comes first
    lacking = [
        fields - set(grant.fields)
        for matter in versions
        for name, ask in matter.asks.items()
        if ask.evidence_type == grant.evidence_type
        and ask.mode in grant.modes
        and _roles(matter, ask) <= grant.bases.keys()
        for fields in takes[matter.ref][name]
    ]
    if lacking and all(lacking):
        complain("fields", because=_nothing(versions[0].id, lacking))


def _roles(matter: Matter, ask: Ask) -> set[Slug]:
    """Return the roles that need a basis for an ask."""
    return {ask.about, *ask.concerns} & matter.roles.keys()


def _nothing(matter: Slug, lacking: Iterable[frozenset[str] | set[str]]) -> str:
    """Say what a grant lacks that allows nothing in a matter: the least it may be."""
    missing = ", ".join(f"`{one}`" for one in sorted(min(lacking, key=len)))
    return f"allows nothing in `{matter}`: {missing} missing"
