"""What every type of the domain is made of: frozen, closed, named in two languages."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Model(BaseModel):
    """A frozen value that refuses what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )


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
