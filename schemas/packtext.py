"""YAML as JSON values, with the line of every part: of packs, and of configurations.

Only plain data: no tags, anchors or aliases, no key twice, one document a file, and
bounded in size and depth. Scalars are read as in JSON: `true`, `false`, `null` and
numbers are what they say; all else is text (so `no`, `2026-01-08` and `P1D` are
texts), and what must be a text of digits is quoted: `"990100"`.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from pydantic import JsonValue

from schemas.errors import SettingsError

_MAX_CHARACTERS = 1 << 20  # of one file
_MAX_DEPTH = 24
_MAX_INTEGER = (1 << 53) - 1  # as RFC 8785 allows

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C where it was built
_NUMBER = re.compile(
    r"-?(?:0|[1-9][0-9]*)(?P<fraction>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
)
_IN_A_KEY = "while scanning a simple key"
"""What both loaders say where a line has no `:`; they notice it lines later."""
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|(?<!\S)#.*""")
_COLON = "\uff1a"
_CURLY = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
_WORDS: Mapping[str, JsonValue] = {
    "true": True,
    "false": False,
    "null": None,
    "~": None,
    "": None,
}


def pointer(*parts: str | int) -> str:
    """Return the JSON Pointer (RFC 6901) of a path.

    >>> pointer("fields", "a/b", 0)
    '/fields/a~1b/0'
    """
    return "".join(
        "/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts
    )


@dataclass(frozen=True, slots=True)
class Document:
    """One file of a pack."""

    file: str
    value: JsonValue
    lines: Mapping[str, int]
    """The line, from 1, on which the part at a JSON Pointer begins."""

    def place(self, where: str, message: str) -> str:
        """Return `file:line: pointer: message`, with the line of the nearest part."""
        nearest = where
        while nearest and nearest not in self.lines:
            nearest = nearest.rpartition("/")[0]
        return f"{self.file}:{self.lines.get(nearest, 1)}: {where}: {message}"


def read_yaml(file: str, text: str) -> tuple[Document, tuple[str, ...]]:
    """Return a file's content, and each place of it that is wrong.

    With places, the content is not to be used.
    """
    if len(text) > _MAX_CHARACTERS:
        empty = Document(file, None, {})
        return empty, (empty.place("", f"longer than {_MAX_CHARACTERS} characters"),)
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.read(event)
    except yaml.MarkedYAMLError as error:
        if error.context == _IN_A_KEY and error.context_mark:
            line = error.context_mark.line + 1
            inside = "".join(text.splitlines()[line - 1 : line])
            reader.wrong.append((line, "", _no_key(inside)))
        else:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            reader.complain(line, str(error.problem or error.context or "not YAML"))
    except (_StopReading, yaml.YAMLError) as error:
        if isinstance(error, yaml.YAMLError):
            reader.complain(1, "not YAML: a character that it does not allow")
    document = Document(file, reader.value, reader.lines)
    return document, tuple(
        f"{file}:{line}: {where}: {message}" for line, where, message in reader.wrong
    )


def read_settings_yaml(file: str, text: str) -> JsonValue:
    """Return what a file of settings holds.

    Raises:
        SettingsError: It is wrong; names every place as `file:line: /path: message`.
    """
    document, wrong = read_yaml(file, text)
    if wrong:
        raise SettingsError("\n".join(wrong))
    return document.value


def _no_key(line: str) -> str:
    """Say why a line is read as a key without a value."""
    if _COLON in _QUOTED.sub("", line):
        return f"not `key: value`: {full_width(_COLON)}"
    return "not `key: value`: there is no `:` with a space after it"


def full_width(sign: str) -> str | None:
    """Return what to write for a full-width sign or a curly quotation mark, in words.

    >>> full_width("\uff01")
    '`\uff01` is a full-width sign: write `!`'
    """
    if sign in _CURLY:
        return f"`{sign}` is a curly quotation mark: write `{_CURLY[sign]}`"
    if "\uff01" <= sign <= "\uff5e":
        plain = unicodedata.normalize("NFKC", sign)
        return f"`{sign}` is a full-width sign: write `{plain}`"
    return None


class _StopReading(Exception):  # noqa: N818 - not an error: a signal within this module
    """What follows can't be made sense of."""


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    value: dict[str, JsonValue] | list[JsonValue]
    where: str
    key: str | None = None
    """The key whose value comes next; None when a key comes next."""


@dataclass(slots=True)
class _Reader:
    """Builds one document from YAML's events."""

    value: JsonValue = None
    lines: dict[str, int] = field(default_factory=dict)
    wrong: list[tuple[int, str, str]] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def read(self, event: yaml.Event) -> None:
        """Take in one event."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.NodeEvent):
            self.refuse_features(event, line)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.complain(line, "a second document: one file holds one")
                raise _StopReading
        elif isinstance(event, yaml.MappingStartEvent):
            self.open({}, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.open([], line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
        elif isinstance(event, yaml.ScalarEvent):
            self.scalar(event, line)

    def refuse_features(self, event: yaml.NodeEvent, line: int) -> None:
        """Complain of what plain data has no need of."""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.complain(line, "anchors and aliases are not read")
            raise _StopReading
        if getattr(event, "tag", None) is not None:
            self.complain(line, "tags are not read")

    def complain(self, line: int, message: str) -> None:
        """Note what is wrong with the part that is being read."""
        where = ""
        if self.stack:
            innermost = self.stack[-1]
            named = () if innermost.key is None else (innermost.key,)
            where = innermost.where + pointer(*named)
        self.wrong.append((line, where, message))

    def open(self, value: dict[str, JsonValue] | list[JsonValue], line: int) -> None:
        """Begin a mapping or a list."""
        if len(self.stack) >= _MAX_DEPTH:
            self.complain(line, f"nested deeper than {_MAX_DEPTH}")
            raise _StopReading
        if self.awaits_key():
            self.complain(line, "a key must be text")
            raise _StopReading
        self.stack.append(_Open(value, self.put(value, line)))

    def awaits_key(self) -> bool:
        """Tell whether the next node is a key."""
        if not self.stack:
            return False
        innermost = self.stack[-1]
        return isinstance(innermost.value, dict) and innermost.key is None

    def scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        """Take in a key or a single value."""
        if self.awaits_key():
            self.begin_entry(str(event.value), line)
        elif event.implicit[0]:
            self.put(self.plain(str(event.value), line), line)
        else:
            self.put(str(event.value), line)

    def begin_entry(self, key: str, line: int) -> None:
        """Take in a key of the innermost mapping."""
        innermost = self.stack[-1]
        innermost.key = key
        where = innermost.where + pointer(key)
        if where in self.lines:
            message = f"`{key}` is there twice, first on line {self.lines[where]}"
            self.wrong.append((line, where, message))
        self.lines.setdefault(where, line)

    def put(self, value: JsonValue, line: int) -> str:
        """Put a value where it belongs, and return its pointer."""
        if not self.stack:
            self.value = value
            self.lines[""] = line
            return ""
        innermost = self.stack[-1]
        if isinstance(innermost.value, list):
            where = innermost.where + pointer(len(innermost.value))
            innermost.value.append(value)
            self.lines[where] = line
            return where
        key, innermost.key = innermost.key or "", None
        innermost.value[key] = value
        return innermost.where + pointer(key)

    def plain(self, text: str, line: int) -> JsonValue:
        """Return the value of a scalar without quotation marks."""
        if text in _WORDS:
            return _WORDS[text]
        number = _NUMBER.fullmatch(text)
        if number is None:
            return text
        value = float(text) if number["fraction"] else int(text[:20])
        if abs(value) > _MAX_INTEGER or not math.isfinite(value):
            self.complain(line, "a number too large: quote it if it is text")
            return None
        return value
