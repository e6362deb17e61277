"""A department to try: which one, a record that it holds, and what is published of it.

Two files: `target.yaml`, which an engineer of the department writes, and the evidence
type as the exchange publishes it, which nobody writes twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from schemas.directory import PublicKey
from schemas.errors import SettingsError
from schemas.evidence import (
    EvidenceField,
    EvidenceType,
    FieldName,
    LookupKey,
    Mode,
    Sensitivity,
    SharingAttribute,
)
from schemas.fieldtypes import compile_fields
from schemas.model import Model, Name, Slug, VersionedId
from schemas.packtext import read_settings_yaml


class Target(Model):
    """A department to try, and a record that it holds."""

    url: str
    """Where look-ups are posted."""
    networks: Annotated[tuple[str, ...], Field(min_length=1)] = ("127.0.0.0/8",)
    """Networks in CIDR form where it may be."""
    provider: Slug
    keys: Annotated[tuple[PublicKey, ...], Field(min_length=1)]
    """The department's keys."""
    gateway: str
    """`iss` of the look-ups."""
    signing_key: Path
    """PEM of the test gateway's key, which the department has pinned."""
    evidence_type: VersionedId
    published: Path | None = None
    """The evidence type as the gateway publishes it (`GET /v1/evidence-types/{ref}`),
    or a pack's file of evidence types: values and `as_of` are held to it. None where
    it is not published yet: then neither is judged."""
    held: Annotated[Mapping[FieldName, str], Field(min_length=1)]
    """The keys of a record that it holds."""
    absent: Annotated[Mapping[FieldName, str], Field(min_length=1)]
    """The same keys, of a record that it does not hold."""
    fields: tuple[FieldName, ...] = ()
    """Fields that it offers; empty where it offers comparison alone."""
    facts: Mapping[FieldName, str] = {}
    """What the record says, for comparison; empty where it offers none."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0


def load_target(path: Path) -> Target:
    """Return the target in a YAML file; the paths in it are relative to it.

    Raises:
        OSError: The file can't be read.
        SettingsError: It is wrong; names every place.
    """
    try:
        target = Target.model_validate(_document(path))
    except ValidationError as error:
        raise _misfit(path, error) from None
    folder = path.resolve().parent
    published = target.published and folder / target.published
    return target.model_copy(
        update={"signing_key": folder / target.signing_key, "published": published}
    )


def evidence_type_of(target: Target) -> EvidenceType:
    """Return the evidence type that a target's answers are held to.

    Raises:
        SettingsError: The target names neither fields nor facts; or what is published
            can't be read, is another evidence type, or has not the target's keys and
            fields; names every place.
    """
    if not (target.fields or target.facts):
        message = "`fields`, `facts`: one of them is needed, or nothing is asked for"
        raise SettingsError(message)
    if target.published is None:
        return _unpublished(target)
    evidence_type = _published(target.published, target.evidence_type)
    wrong = []
    unknown = {*target.fields, *target.facts} - evidence_type.fields.keys()
    if unknown:
        named = ", ".join(f"`{name}`" for name in sorted(unknown))
        wrong.append(f"`{evidence_type.ref}` has no field {named}")
    sets = [sorted(key.name for key in keys) for keys in evidence_type.keys]
    listed = " or ".join("{" + ", ".join(keys) + "}" for keys in sets)
    for member, given in (("held", target.held), ("absent", target.absent)):
        if sorted(given) not in sets:
            wrong.append(f"`{member}`: `{evidence_type.ref}` is found by {listed}")
    if wrong:
        raise SettingsError("\n".join(wrong))
    return evidence_type


def _published(path: Path, ref: VersionedId) -> EvidenceType:
    """Return one evidence type of a file: of a list, or the one that is there."""
    try:
        document = _document(path)
    except OSError as error:
        raise SettingsError(f"`published`: `{path}`: {error.strerror}") from None
    listed = document.get("evidence_types") if isinstance(document, dict) else None
    every = listed if isinstance(listed, list) else [document]
    one = next((one for one in every if _ref(one) == ref), None)
    if one is None:
        raise SettingsError(f"`published`: `{path}` does not hold `{ref}`")
    try:
        found = EvidenceType.model_validate(one)
        compile_fields(found)
    except ValidationError as error:
        raise _misfit(path, error) from None
    except ValueError:
        message = f"`published`: `{path}`: a field's `json_schema` is not usable"
        raise SettingsError(message) from None
    return found


def _ref(document: JsonValue) -> str | None:
    """Return which evidence type a document says that it is."""
    if not isinstance(document, dict):
        return None
    return f"{document.get('id')}@{document.get('version')}"


def _unpublished(target: Target) -> EvidenceType:
    """Return an evidence type that allows any value, of any age."""
    name = Name(zh="符合性测试", en="conformance test")
    slug, _, version = target.evidence_type.partition("@")
    field = EvidenceField(name=name, json_schema={})
    keys = tuple(LookupKey(name=key, concept="self.key") for key in target.held)
    return EvidenceType(
        id=slug,
        version=int(version),
        name=name,
        modes=(Mode.RETRIEVE, Mode.VERIFY),
        keys=(keys,),
        fields=dict.fromkeys((*target.fields, *target.facts), field),
        sharing=SharingAttribute.CONDITIONAL,
        sensitivity=Sensitivity.SENSITIVE,
        max_age=None,
    )


def _document(path: Path) -> JsonValue:
    """Return what a YAML or JSON file holds."""
    try:
        return read_settings_yaml(str(path), path.read_text("utf-8"))
    except UnicodeDecodeError:
        raise SettingsError(f"`{path}` is not YAML: it is not UTF-8") from None


def _misfit(path: Path, error: ValidationError) -> SettingsError:
    """Return the places at which a file is not what it must be."""
    places = error.errors(include_input=False, include_url=False)
    lines = [f"{path}: /{'/'.join(map(str, p['loc']))}: {p['msg']}" for p in places]
    return SettingsError("\n".join(lines))
