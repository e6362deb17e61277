"""What a pack's parts say about each other, checked when the pack is loaded.

Matters have a check of their own (`schemas.mattercheck`).
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial

import jsonschema_rs
from pydantic import JsonValue

from schemas.canonical import b64url_decode, canonical_plain, sha256_b64url
from schemas.declared import Catalogue, Complain, Programs, complain_of
from schemas.directory import DataService, PublicKey, SharingGrant
from schemas.endpoint import parse_endpoint
from schemas.errors import SettingsError
from schemas.evidence import EvidenceType
from schemas.fieldtypes import compile_fields, schema_fault
from schemas.matter import Matter
from schemas.mattercheck import MatterCheck

_KEY_BYTES = 32


def check(catalogue: Catalogue) -> tuple[list[str], Programs]:
    """Return every place that is wrong, and the compiled conditions of all matters."""
    wrong = _check_directory(catalogue)
    programs: Programs = {}
    for matter in catalogue.matters.values():
        checker = MatterCheck(matter.thing, catalogue, complain_of(wrong, matter))
        checker.check()
        for text, program in checker.programs.items():
            programs[matter.thing.ref, text] = program
    for grant in catalogue.grants.values():
        _check_grant(grant.thing, catalogue, complain_of(wrong, grant))
    return wrong, programs


def _check_directory(catalogue: Catalogue) -> list[str]:
    """Check providers, requesters, evidence types and services."""
    wrong: list[str] = []
    for provider in catalogue.providers.values():
        _check_keys(provider.thing.keys, complain_of(wrong, provider))
    for requester in catalogue.requesters.values():
        _check_keys(requester.thing.keys, complain_of(wrong, requester))
    for kind in catalogue.evidence_types.values():
        _check_evidence_type(kind.thing, complain_of(wrong, kind))
    for service in catalogue.services.values():
        _check_service(service.thing, catalogue, complain_of(wrong, service))
    return wrong


def _check_keys(keys: Iterable[PublicKey], complain: Complain) -> None:
    """Check that pinned keys are public Ed25519 keys with their own thumbprints."""
    for index, key in enumerate(keys):
        here = partial(complain, "keys", index)
        jwk = key.jwk
        if "d" in jwk:
            here("jwk", "d", because="a private key: it must not be here")
        if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
            here("jwk", because="must be an Ed25519 key (RFC 8037)")
            continue
        if not _is_key(jwk.get("x")):
            here("jwk", "x", because="must be 32 bytes in base64url")
        if not isinstance(jwk.get("kid"), str):
            here("jwk", because="`kid` missing")
        named = {"crv": "Ed25519", "kty": "OKP", "x": str(jwk.get("x"))}
        if sha256_b64url(canonical_plain(named)) != key.thumbprint:
            here("thumbprint", because="is not that of `jwk` (RFC 7638)")
        if key.valid_until is not None and key.valid_until <= key.valid_from:
            here("valid_until", because="must be later than `valid_from`")


def _is_key(x: JsonValue) -> bool:
    """Tell whether `x` is a public key's 32 bytes in base64url."""
    try:
        return isinstance(x, str) and len(b64url_decode(x)) == _KEY_BYTES
    except ValueError:
        return False


def _check_evidence_type(kind: EvidenceType, complain: Complain) -> None:
    """Check how it is asked for, and its fields' schemas."""
    _check_key_sets(kind, complain)
    sound = True
    for name, one in kind.fields.items():
        if fault := schema_fault(one):
            where, because = fault
            inner = [part for part in where.split("/") if part]
            complain("fields", name, "json_schema", *inner, because=because)
            sound = False
    if sound:
        try:
            compile_fields(kind)
        except jsonschema_rs.ValidationError as error:
            # What JSON Schema allows, and linear time does not: to look ahead.
            _, name, *inner = map(str, error.instance_path)
            because = f"can't be compiled: {error.message[:200]}"
            complain("fields", name, "json_schema", *inner, because=because)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            complain("fields", because=f"can't be compiled: {str(error)[:200]}")


def _check_key_sets(kind: EvidenceType, complain: Complain) -> None:
    """Check that each key stands once in its set."""
    for index, key_set in enumerate(kind.keys):
        for name, count in Counter(key.name for key in key_set).items():
            if count > 1:
                complain("keys", index, because=f"key `{name}` is there twice")


def _check_service(
    service: DataService, catalogue: Catalogue, complain: Complain
) -> None:
    """Check whom and what a data service names."""
    if service.provider not in catalogue.providers:
        complain("provider", because=f"no provider `{service.provider}` is declared")
    if service.evidence_type not in catalogue.evidence_types:
        because = f"no evidence type `{service.evidence_type}` is declared"
        complain("evidence_type", because=because)
    if service.endpoint is not None:
        try:
            parse_endpoint(service.endpoint)
        except SettingsError as error:
            complain("endpoint", because=str(error))


def _check_grant(grant: SharingGrant, catalogue: Catalogue, complain: Complain) -> None:
    """Check whom and what a grant names."""
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
    _check_granted_for(grant, catalogue, complain)


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
    grant: SharingGrant, catalogue: Catalogue, complain: Complain
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
            _check_permits(grant, versions, index, complain)
    for index, purpose in enumerate(grant.purposes):
        if purpose not in purposes:
            complain("purposes", index, because="no matter of this grant has it")
    for role in grant.bases:
        if role not in roles:
            complain("bases", role, because="no matter of this grant has this role")


def _check_permits(
    grant: SharingGrant, versions: list[Matter], index: int, complain: Complain
) -> None:
    """Check that a grant can permit some look-up of one of its matters.

    A look-up is decided under each grant alone: what this one lacks, no other adds.
    """
    name = versions[0].id
    asks = [
        (ask, {ask.about, *ask.concerns} & matter.roles.keys())
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
        fewest = min(lacking, key=len)
        missing = ", ".join(f"`{role}`" for role in sorted(fewest))
        because = f"allows nothing in `{name}`: {missing} missing"
        complain("bases", because=because)
    if all(one.purposes.keys().isdisjoint(grant.purposes) for one in versions):
        because = f"`{name}` has none of this grant's purposes"
        complain("matters", index, because=because)
