"""What every type of the domain is made of: frozen, closed, named in two languages."""

from dataclasses import dataclass, field
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import dataclass_transform

_T = TypeVar("_T")


class Model(BaseModel):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(field,)
)
def value(cls: type[_T]) -> type[_T]:
    """Make a class of values that the exchange itself makes, by the dozen for a case.

    A value is frozen for the type checker, which refuses to set a field of it. At run
    time it is a plain dataclass: `frozen` there costs a call for each field, `slots`
    makes writing it as JSON four times slower, and parsing what comes from our own
    code five times as much again. Where a stored value is read back, pydantic parses
    it strictly, by the settings that are put on it here.
    """
    made = dataclass(kw_only=True)(cls)
    made.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined] # pydantic's own way for dataclasses
        extra="forbid", strict=True, use_attribute_docstrings=True
    )
    return made


class Name(Model):
    """What people call a thing, in both languages."""

    zh: Annotated[str, StringConstraints(min_length=1)]
    en: Annotated[str, StringConstraints(min_length=1)]


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""The id of a thing that a pack declares."""

Concept = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
]
"""One named fact: `<role>.<fact>`, such as `mother.id` (CCCEV InformationConcept).

In an evidence type the role `self` is the person whom the evidence is about.
"""

MOST_PORT: Final = 65_535
"""The largest port there is (RFC 9293, section 3.1: 16 bits)."""
Port = Annotated[int, Field(ge=1, le=MOST_PORT)]
"""A port that a service listens on."""

Version = Annotated[int, Field(ge=1, le=999_999)]
"""The version of a thing: a new one where what it means changes."""

VersionedId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}@[1-9][0-9]{0,5}$")
]
"""`id@version`, such as `newborn@1`."""

Expression = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
"""A condition in CEL over the answers and concepts of a matter."""

RegionCode = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}([0-9]{3}){0,2}$")]
"""Division code (GB/T 2260), with township and village (GB/T 10114) where known."""
