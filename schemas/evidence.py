"""Evidence types: what kinds of evidence there are, and what they say."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated

from pydantic import Field, JsonValue, StringConstraints

from schemas.model import (
    Concept,
    Model,
    Name,
    OneOrMore,
    Slug,
    Span,
    Version,
    VersionedId,
)

FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
"""A field's name as the register has it, such as `MQ_SFZJHM` or `household_no`."""


class Mode(StrEnum):
    """How a data service is asked."""

    RETRIEVE = "retrieve"
    """The fields come."""
    VERIFY = "verify"
    """Stated facts are compared at the source: match or no match, and no payload."""


class Sensitivity(StrEnum):
    """How much harm an evidence type can do in the wrong hands (PIPL 28)."""

    ORDINARY = "ordinary"
    SENSITIVE = "sensitive"


class SharingAttribute(StrEnum):
    """How a register may be shared (Decree 809, article 15)."""

    UNCONDITIONAL = "unconditional"
    CONDITIONAL = "conditional"
    NOT_SHARED = "not_shared"


class EvidenceField(Model):
    """One field of an evidence type."""

    name: Name
    json_schema: Mapping[str, JsonValue]
    """JSON Schema (2020-12) of the field's value."""
    concept: Concept | None = None
    """The fact that the field states, or None when nothing is looked up by it."""
    sensitive: bool = False
    """Whether the field alone is sensitive, as health data are (PIPL 28)."""
    comparison_only: bool = False
    """Whether the field may be compared at the exchange and never be passed on."""


class LookupKey(Model):
    """One value that a record is found by."""

    name: FieldName
    """The key's name in the look-up."""
    concept: Concept
    """The fact that is given for it."""


KeySet = Annotated[tuple[LookupKey, ...], Field(min_length=1)]
"""Keys that find a record together."""


class EvidenceType(Model):
    """A published, versioned kind of evidence (CCCEV EvidenceType)."""

    id: Slug
    version: Version
    name: Name
    modes: OneOrMore[Mode]
    """How it may be asked for, the preferred mode first."""
    keys: OneOrMore[KeySet]
    """Sets of keys; any one set finds the record. The order is a preference."""
    fields: Annotated[Mapping[FieldName, EvidenceField], Field(min_length=1)]
    sharing: SharingAttribute
    sensitivity: Sensitivity
    max_age: Span | None
    """How old `as_of` may be when the evidence is used, at most a hundred years; None
    when it does not age."""

    @cached_property
    def ref(self) -> VersionedId:
        """The evidence type as `id@version`."""
        return f"{self.id}@{self.version}"
