"""What the files of a pack declare, and where: for errors that name the place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from schemas.directory import DataService, Provider, Requester, SharingGrant
from schemas.evidence import EvidenceType
from schemas.expressions import Program
from schemas.matter import Matter
from schemas.model import Expression, Model, Slug, VersionedId
from schemas.packtext import Document, pointer

T = TypeVar("T", bound=Model)
Programs = dict[tuple[VersionedId, Expression], Program]
"""Compiled conditions, by matter and text."""


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """A thing, and where it is declared."""

    thing: T
    document: Document
    where: str
    """Its JSON Pointer in the document."""
    added: Mapping[str, tuple[Document, str]] = field(default_factory=dict)
    """By JSON Pointer in the thing, the parts that another document added, each with
    that document and its JSON Pointer there."""

    def place(self, where: str, message: str) -> str:
        """Return the place of a part of it, as `file:line: path: message`."""
        whole = where
        while whole and whole not in self.added:
            whole = whole.rpartition("/")[0]
        if whole not in self.added:
            return self.document.place(self.where + where, message)
        document, there = self.added[whole]
        return document.place(there + where.removeprefix(whole), message)

    def changed(
        self, fields: Mapping[str, object], added: Mapping[str, tuple[Document, str]]
    ) -> "Declared[T]":
        """Return it with some fields changed, and where what was added stands."""
        changed = self.thing.model_copy(update=fields)
        return Declared(changed, self.document, self.where, {**self.added, **added})


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that the files of a pack declare, by id."""

    providers: dict[Slug, Declared[Provider]] = field(default_factory=dict)
    evidence_types: dict[VersionedId, Declared[EvidenceType]] = field(
        default_factory=dict
    )
    services: dict[Slug, Declared[DataService]] = field(default_factory=dict)
    requesters: dict[Slug, Declared[Requester]] = field(default_factory=dict)
    grants: dict[Slug, Declared[SharingGrant]] = field(default_factory=dict)
    matters: dict[VersionedId, Declared[Matter]] = field(default_factory=dict)


class Complain(Protocol):
    """Notes that a part of what is being checked is wrong."""

    def __call__(self, *path: str | int, because: str) -> None:
        """Note it, naming the part by its path."""
        ...


def complain_of(wrong: list[str], declared: Declared[Any]) -> Complain:
    """Return how to complain of a part of what is declared."""

    def complain(*path: str | int, because: str) -> None:
        wrong.append(declared.place(pointer(*path), because))

    return complain
