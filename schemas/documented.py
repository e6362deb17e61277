"""What is written under the fields of a class, for the JSON Schemas that are published.

Pydantic reads it by itself where `use_attribute_docstrings` is set, each time that a
class is made: that was a third of the time that any command took to start. Here it is
read when somebody asks for a schema, each module once.
"""

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import override


def said_under(kind: type) -> dict[str, str]:
    """Return the docstrings under the fields of a class and of those it is made of.

    A class that `create_model` made has no source, and says what its bases say.
    """
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not BaseModel and _has_fields(base) and _is_written(base):
            said |= _in_module(base.__module__).get(base.__name__, {})
    return said


def describe(
    kind: type, core: CoreSchema, handler: GetJsonSchemaHandler
) -> JsonSchemaValue:
    """Return the JSON Schema of a class, its members described by what stands there."""
    made = handler(core)
    members: dict[str, Any] = handler.resolve_ref_schema(made).get("properties", {})
    for name, text in said_under(kind).items():
        if name in members:
            members[name].setdefault("description", text)
    return made


class Documented(BaseModel):
    """A model whose JSON Schema says what is written under its fields."""

    @classmethod
    @override
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Return the schema (pydantic asks for it by this name)."""
        return describe(cls, core, handler)


def _has_fields(kind: type) -> bool:
    return is_dataclass(kind) or issubclass(kind, BaseModel)


def _is_written(kind: type) -> bool:
    """Return whether a class is the one that its module has under its name."""
    return getattr(sys.modules[kind.__module__], kind.__name__, None) is kind


@cache
def _in_module(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return what stands under the fields of a module's classes, by class."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        one.name: _in_class(one) for one in tree.body if isinstance(one, ast.ClassDef)
    }


def _in_class(node: ast.ClassDef) -> dict[str, str]:
    """Return the docstrings right under annotated names, by name."""
    said: dict[str, str] = {}
    for field, under in zip(node.body, node.body[1:], strict=False):
        match field, under:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                said[name] = inspect.cleandoc(text)
            case _:
                pass
    return said
