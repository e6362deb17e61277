"""Runs the examples: Python blocks of every *.md, and doctests of every docstring."""

from pathlib import Path

import pytest
from sybil import Document, Sybil
from sybil.document import PythonDocStringDocument
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.typing import Parser
from typing_extensions import override


class _Docstrings(PythonDocStringDocument):
    """A module's docstrings, which are read only where there can be an example."""

    @classmethod
    @override
    def parse(cls, path: str, *parsers: Parser, encoding: str = "utf-8") -> Document:
        """Return a document without examples for a module that has no prompt in it."""
        text = Path(path).read_text(encoding)
        if ">>>" not in text:
            return cls(text, path)
        return super().parse(path, *parsers, encoding=encoding)


_documents = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"])
_docstrings = Sybil(
    parsers=[DocTestParser()],
    document_types={".py": _Docstrings},
    patterns=["*.py"],
    excludes=["tests/**", "tests/*", "bench/*", ".venv/**", "conftest.py"],
)

pytest_collect_file = (_documents + _docstrings).pytest()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the examples of each document back in order: one may need those before it."""
    places = [place for place, item in enumerate(items) if isinstance(item, SybilItem)]
    examples = [item for item in items if isinstance(item, SybilItem)]
    examples.sort(key=lambda item: (str(item.path), item.example.line))
    for place, example in zip(places, examples, strict=True):
        items[place] = example
