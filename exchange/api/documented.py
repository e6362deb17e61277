"""The API's documented shapes of values that are no models (`schemas.model.value`)."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import Field, TypeAdapter


def members_of(kind: type) -> dict[str, Any]:
    """Return the members of a class of values, as `pydantic.create_model` wants."""
    hints = get_type_hints(kind, include_extras=True)
    said = _descriptions(kind)
    members: dict[str, Any] = {}
    for one in fields(kind):
        about: dict[str, Any] = {"description": said.get(one.name)}
        if one.default is not MISSING:
            about["default"] = one.default
        elif one.default_factory is not MISSING:
            about["default_factory"] = one.default_factory
        members[one.name] = (hints[one.name], Field(**about))
    return members


def _descriptions(kind: type) -> dict[str, str]:
    """Return what the docstrings under the fields say.

    Class by class, since pydantic reads those of a dataclass itself alone.
    """
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            properties = TypeAdapter(base).json_schema().get("properties", {})
            own = base.__annotations__.keys() & properties.keys()
            said |= {n: d for n in own if (d := properties[n].get("description"))}
    return said
