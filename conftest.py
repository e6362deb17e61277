"""Runs the examples: Python blocks of every *.md, and doctests of every docstring."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

_documents = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()], patterns=["*.md"])
_docstrings = Sybil(
    parsers=[DocTestParser()],
    patterns=["*.py"],
    excludes=["tests/**", "tests/*", "bench/*", ".venv/**", "conftest.py"],
)

pytest_collect_file = (_documents + _docstrings).pytest()
