"""What a pack's parts say about each other, checked when the pack is loaded.

Matters and grants have checks of their own (`schemas.mattercheck`, `.grantcheck`).
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial

import jsonschema_rs
from pydantic import JsonValue

from schemas.canonical import b64url_decode, canonical_plain, sha256_b64url
from schemas.declared import Catalogue, Complain, Programs, complain_of
from schemas.directory import DataService, PublicKey
from schemas.endpoint import parse_endpoint
from schemas.errors import SettingsError
from schemas.evidence import EvidenceType
from schemas.fieldtypes import compile_fields, schema_fault
from schemas.grantcheck import check_grant
from schemas.mattercheck import MatterCheck

_KEY_BYTES = 32


def check(catalogue: Catalogue) -> tuple[list[str], Programs]:
    """Return every place that is wrong, and the compiled conditions of all matters."""
    wrong = _check_directory(catalogue)
    programs: Programs = {}
    sound: list[MatterCheck] = []
    for matter in catalogue.matters.values():
        before = len(wrong)
        checker = MatterCheck(matter.thing, catalogue, complain_of(wrong, matter))
        checker.check()
        for text, program in checker.programs.items():
            programs[matter.thing.ref, text] = program
        if len(wrong) == before:
            sound.append(checker)
    takes = {one.matter.ref: one.takes() for one in sound}
    for grant in catalogue.grants.values():
        check_grant(grant.thing, catalogue, takes, complain_of(wrong, grant))
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
