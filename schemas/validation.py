"""Packs: matters, evidence types, providers, services and grants, loaded and checked.

Loading takes texts and does no I/O. It goes in four steps, and each names every place
that is wrong before the next begins:

(1) read each file's YAML,
(2) check each file against the JSON Schema of its kind,
(3) put the files together: a thing is declared once; deployments add to it, and come
    last wherever they stand, so that the order of files says nothing,
(4) check what names what (`schemas.crosscheck`), and compile conditions and schemas.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import jsonschema_rs
from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from schemas.canonical import canonical, sha256_b64url
from schemas.crosscheck import check
from schemas.declared import Catalogue, Declared
from schemas.directory import DataService, Provider, PublicKey, Requester, SharingGrant
from schemas.errors import PackError, VerificationError
from schemas.evidence import EvidenceType
from schemas.expressions import Program
from schemas.fieldtypes import compile_fields
from schemas.matter import Matter
from schemas.model import Expression, Model, Slug, VersionedId
from schemas.packfile import (
    KINDS,
    DeploymentFile,
    EvidenceTypesFile,
    GrantsFile,
    MatterFile,
    PackFile,
    ProvidersFile,
    RequesterDeployment,
    ServicesFile,
    complaints,
    form_in_words,
)
from schemas.packtext import Document, pointer, read_yaml

MAX_FILES: Final = 500
MAX_CHARACTERS: Final = 16 << 20
"""Of all files together."""

FieldsValidator: TypeAlias = Callable[[Mapping[str, JsonValue]], None]
"""Lets fields of an evidence type pass that fit it, and raises VerificationError."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Everything that packs declare, checked and compiled."""

    matters: Mapping[VersionedId, Matter]
    evidence_types: Mapping[VersionedId, EvidenceType]
    providers: Mapping[Slug, Provider]
    services: Mapping[Slug, DataService]
    grants: Mapping[Slug, SharingGrant]
    requesters: Mapping[Slug, Requester]
    digest: str
    """SHA-256 of the canonical content, base64url: two packs of one digest are one."""
    _programs: Mapping[tuple[VersionedId, Expression], Program] = field(repr=False)
    _validators: Mapping[VersionedId, FieldsValidator] = field(repr=False)

    def program(self, matter: VersionedId, text: Expression) -> Program:
        """Return the compiled condition `text` of a matter.

        Raises:
            KeyError: The matter does not state this condition.
        """
        return self._programs[matter, text]

    def validator(self, evidence_type: VersionedId) -> FieldsValidator:
        """Return the check of an evidence type's fields.

        It takes any of the type's fields, and refuses what is not one of them and a
        value that does not fit, with a VerificationError that names fields alone.

        Raises:
            KeyError: There is no such evidence type.
        """
        return self._validators[evidence_type]


def load_pack(texts: Mapping[str, str]) -> Pack:
    """Load packs: all files of one or more folders, in order.

    A file with the kind `deployment` adds keys, addresses and requesters to what all
    the other files declare.

    Args:
        texts: Each file's text by its name, as errors are to name it.

    Raises:
        PackError: Something is wrong; names every place as `file:line: path: message`.
    """
    _refuse_too_much(texts)
    # (1): a file that is not plain data can't be checked further.
    documents, wrong = _read_all(texts)
    _refuse(wrong)
    # (2): a file that is not of its kind can't be put together with others.
    files: list[tuple[Document, PackFile]] = []
    for document in documents:
        file, places = _check_file(document)
        wrong.extend(places)
        if file is not None:
            files.append((document, file))
    _refuse(wrong)
    # (3): deployments last, so that each finds what it adds to.
    catalogue = Catalogue()
    files.sort(key=lambda one: isinstance(one[1], DeploymentFile))
    for document, file in files:
        wrong.extend(_Merge(catalogue, document).file(file))
    # (4): across files.
    places, programs = check(catalogue)
    _refuse([*wrong, *places])
    return _pack(catalogue, programs)


def _refuse_too_much(texts: Mapping[str, str]) -> None:
    """Refuse packs that are larger than any pack has reason to be."""
    if len(texts) > MAX_FILES:
        raise PackError(f":1: : more than {MAX_FILES} files")
    if sum(map(len, texts.values())) > MAX_CHARACTERS:
        raise PackError(f":1: : more than {MAX_CHARACTERS} characters together")


def _refuse(places: Iterable[str]) -> None:
    """Raise if any place is wrong, each named once."""
    if named := tuple(dict.fromkeys(places)):
        raise PackError(*named)


def _read_all(texts: Mapping[str, str]) -> tuple[list[Document], list[str]]:
    """Read every file, and return every place that is not plain YAML."""
    documents = []
    wrong: list[str] = []
    for file, text in texts.items():
        document, places = read_yaml(file, text)
        documents.append(document)
        wrong.extend(places)
    return documents, wrong


def _check_file(document: Document) -> tuple[PackFile | None, list[str]]:
    """Return a file's content as its kind's type, or each place where it is not."""
    value = document.value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        listed = ", ".join(f"`{name}`" for name in KINDS)
        return None, [document.place("/kind", f"must be one of {listed}")]
    if broken := list(complaints(kind, value)):
        return None, [document.place(*complaint) for complaint in broken]
    try:
        return KINDS[kind].model_validate(value), []
    except ValidationError as error:
        found = {pointer(*one["loc"]): _why(one) for one in error.errors()}
        return None, [
            document.place(where, message)
            for where, message in found.items()
            # A list is also said to be too short when one of its items is wrong.
            if not any(other.startswith(f"{where}/") for other in found)
        ]


def _why(error: ErrorDetails) -> str:
    """Say why a value is not of its type: of a pattern what the schema's check says.

    That takes a text for one of a line which ends in a line break.
    """
    if error["type"] == "string_pattern_mismatch":
        return form_in_words(error["ctx"]["pattern"])
    return error["msg"]


@dataclass(frozen=True, slots=True)
class _Merge:
    """Adds one file to what was declared so far."""

    catalogue: Catalogue
    document: Document
    wrong: list[str] = field(default_factory=list)

    def file(self, file: PackFile) -> list[str]:
        """Add a file, and return every place that can't be added."""
        match file:
            case ProvidersFile():
                self.declare_all("providers", file.providers)
            case EvidenceTypesFile():
                self.declare_all("evidence_types", file.evidence_types)
            case ServicesFile():
                self.declare_all("services", file.services)
            case GrantsFile():
                self.declare_all("requesters", file.requesters)
                self.declare_all("grants", file.grants)
            case MatterFile():
                # As a matter, without the `kind` that only its file needs.
                matter = Matter.model_construct(**_fields(file, but="kind"))
                self.declare("matters", matter.ref, matter, "")
            case DeploymentFile():
                self.deployment(file)
        return self.wrong

    def declare_all(
        self,
        kind: str,
        things: Sequence[
            Provider | EvidenceType | DataService | Requester | SharingGrant
        ],
    ) -> None:
        """Note things that must not have been declared before."""
        for index, thing in enumerate(things):
            name = thing.ref if isinstance(thing, EvidenceType) else thing.id
            self.declare(kind, name, thing, pointer(kind, index))

    def declare(self, kind: str, name: str, thing: Model, where: str) -> None:
        """Note a thing that must not have been declared before."""
        found: dict[str, Declared[Any]] = getattr(self.catalogue, kind)
        if name in found:
            first = found[name].place("", "").rstrip(": ")
            self.complain(where, f"`{name}` is declared already, at {first}")
            return
        found[name] = Declared(thing, self.document, where)

    def complain(self, where: str, message: str) -> None:
        """Note a place that is wrong."""
        self.wrong.append(self.document.place(where, message))

    def deployment(self, file: DeploymentFile) -> None:
        """Add keys, addresses and clients to what is declared."""
        for name, provider in file.providers.items():
            where = pointer("providers", name)
            if (old := self.catalogue.providers.get(name)) is None:
                self.complain(where, f"no provider `{name}` is declared")
                continue
            keys, added = self.keys(old.thing.keys, provider.keys, where)
            self.catalogue.providers[name] = old.changed({"keys": keys}, added)
        for name, service in file.services.items():
            where = pointer("services", name)
            if (offer := self.catalogue.services.get(name)) is None:
                self.complain(where, f"no service `{name}` is declared")
                continue
            said = service.model_dump(exclude_none=True)
            added = {
                pointer(one): (self.document, where + pointer(one)) for one in said
            }
            self.catalogue.services[name] = offer.changed(said, added)
        for name, requester in file.requesters.items():
            self.requester(name, requester, pointer("requesters", name))

    def keys(
        self, old: tuple[PublicKey, ...], more: tuple[PublicKey, ...], where: str
    ) -> tuple[tuple[PublicKey, ...], Mapping[str, tuple[Document, str]]]:
        """Return all keys together, and where in this file each new one stands."""
        added = {
            pointer("keys", len(old) + index): (
                self.document,
                where + pointer("keys", index),
            )
            for index in range(len(more))
        }
        return (*old, *more), added

    def requester(self, name: Slug, said: RequesterDeployment, where: str) -> None:
        """Add keys to a requester, or declare a new one."""
        old = self.catalogue.requesters.get(name)
        if old is not None:
            if said.name is not None or said.scopes is not None:
                self.complain(where, f"`{name}` has a name and scopes already")
            purposes = dict.fromkeys((*old.thing.purposes, *said.purposes))
            keys, added = self.keys(old.thing.keys, said.keys, where)
            changed = {"keys": keys, "purposes": tuple(purposes)}
            self.catalogue.requesters[name] = old.changed(changed, added)
        elif said.name is None or said.scopes is None:
            self.complain(where, f"`{name}` is new: it needs a name and scopes")
        else:
            requester = Requester(
                id=name,
                name=said.name,
                scopes=said.scopes,
                purposes=said.purposes,
                keys=said.keys,
            )
            self.catalogue.requesters[name] = Declared(requester, self.document, where)


def _fields(model: Model, *, but: str) -> dict[str, Any]:
    """Return a model's own fields as they are, without one."""
    return {name: value for name, value in model if name != but}


def _pack(
    catalogue: Catalogue, programs: Mapping[tuple[VersionedId, Expression], Program]
) -> Pack:
    """Return the pack of a catalogue that has been checked."""
    parts = {
        kind: {name: one.thing for name, one in getattr(catalogue, kind).items()}
        for kind in (
            *("matters", "evidence_types", "providers"),
            *("services", "grants", "requesters"),
        )
    }
    content = {
        kind: {name: thing.model_dump(mode="json") for name, thing in part.items()}
        for kind, part in parts.items()
    }
    return Pack(
        **parts,
        digest=sha256_b64url(canonical(content)),
        _programs=programs,
        _validators={
            ref: _fields_validator(kind)
            for ref, kind in parts["evidence_types"].items()
        },
    )


def _fields_validator(evidence_type: EvidenceType) -> FieldsValidator:
    """Return the compiled check of an evidence type's fields."""
    compiled = compile_fields(evidence_type)

    def validate(fields: Mapping[str, JsonValue]) -> None:
        try:
            compiled.validate(dict(fields))
        except jsonschema_rs.ValidationError as error:
            named = error.instance_path[:1]
            part = f"field `{named[0]}`" if named else "a field"
            # Not chained: the library's message holds the value.
            raise VerificationError(
                f"{part} does not fit `{evidence_type.ref}`"
            ) from None

    return validate
