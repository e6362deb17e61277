"""Runs the examples: Python blocks of every *.md, and doctests of every docstring."""

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

_documents = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"])
_docstrings = Sybil(
    parsers=[DocTestParser()],
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
