"""The API's documented shapes of values that are no models (`schemas.model.value`)."""

from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from pydantic import Field

from schemas.documented import said_under


def members_of(kind: type) -> dict[str, Any]:
    """Return the members of a class of values, as `pydantic.create_model` wants."""
    hints = get_type_hints(kind, include_extras=True)
    said = said_under(kind)
    members: dict[str, Any] = {}
    for one in fields(kind):
        about: dict[str, Any] = {"description": said.get(one.name)}
        if one.default is not MISSING:
            about["default"] = one.default
        elif one.default_factory is not MISSING:
            about["default_factory"] = one.default_factory
        members[one.name] = (hints[one.name], Field(**about))
    return members
