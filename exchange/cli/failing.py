"""How a command that fails tells why: in one line, and without a person's value.

INVARIANT (rule 8): what was typed may be a person's id or name that slipped into the
wrong place, and what a command prints is kept by shells, schedulers and tickets. So no
argument is repeated that could be one, whoever wrote the message: one of ours, the
option parser, or the system. Nor is the password in the address of a database.
"""

import re
import traceback
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from exchange.cli.console import A_PLACE, Exit
from schemas.errors import ErrandError, VerificationError

_MANY_DIGITS = re.compile(r"(?:[^0-9]*[0-9]){6}")
"""As many as a date of birth has."""
_ORDINARY = re.compile(r"[A-Za-z0-9_.,:;@/+~%=?&*\[\]-]*")
"""What options, names, files and addresses are written in; a person's name is not."""
_FEWEST_HIDDEN = 3
"""ASCII characters: to hide a shorter piece would only spoil the message."""
_ID = re.compile(r"(?<![0-9Xx])[0-9Xx]{15,18}(?![0-9Xx])")
"""A run as long as an id is: of 15 (GB 11643-1989) to 18 characters."""
_SECRET = re.compile(rf"{_ID.pattern}|:[^/@]+@")
"""An id, or a password in an address: before the `@`, after a `:`."""
_SECRET_OR_NAME = re.compile(rf"{_SECRET.pattern}|[^\x00-\x7f]")


def tell(
    error: Exception, arguments: Sequence[str], command: object = None
) -> tuple[str, int]:
    """Return what is printed about an error, and the exit status.

    Args:
        error: What ended the command.
        arguments: What was typed after the program's name.
        command: What takes them, with all its groups.
    """
    places = places_of(command, arguments)
    status = Exit.UNUSABLE
    match error:
        case VerificationError():
            told, status = f"errand: {error}\n", Exit.WRONG
        case ErrandError():
            told = f"errand: {error}\n"
        case typer.TyperException():
            told = _usage(error)
        case OSError(filename=str(file), strerror=str(why)):
            told = f"errand: `{file}`: {why}\n"
            places.add(file)
        case _:
            told = "".join(traceback.format_exception(error))
    return without_values(told, arguments, places), status


def _usage(error: typer.TyperException) -> str:
    """Say what is wrong with the options, and where they are explained."""
    message = error.format_message().replace("Value error, ", "")  # pydantic's
    if not message:  # a group without a command has shown its help
        return ""
    context = getattr(error, "ctx", None)
    hint = f"errand: see `{context.command_path} --help`\n" if context else ""
    return f"errand: {message[:1].lower()}{message[1:].rstrip('.')}\n{hint}"


def without_values(
    text: str, arguments: Iterable[str], places: Collection[str] = ()
) -> str:
    """Return a text with `*` for each argument that could be a person's value.

    Args:
        text: What is printed.
        arguments: What was typed.
        places: Of these, what names a file or an address; there an id or a password
            alone is hidden.
    """
    found = {piece for one in arguments for piece in _hidden(one, places)}
    for piece in sorted(found, key=len, reverse=True):  # the longer may hold others
        text = text.replace(piece, "*")
    return text


def places_of(command: object, arguments: Sequence[str]) -> set[str]:
    """Return what was typed where a command takes a file or an address.

    Args:
        command: The whole command line's, with its groups.
        arguments: What was typed; it may be wrong.
    """
    words = deque(arguments)
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command = command.commands[words.popleft()]
    if not isinstance(command, TyperCommand):
        return set()
    # Read as the command reads it, as far as that goes: what is wrong ends it.
    context = command.context_class(command, resilient_parsing=True)
    values, *_ = command.make_parser(context).parse_args([*words])
    typed = (_texts(values.get(name)) for name in taking_places(command))
    return {text for texts in typed for text in texts if _ORDINARY.fullmatch(text)}


def taking_places(command: TyperCommand) -> Iterator[str]:
    """Yield the options and arguments that take a file, or are marked as a place."""
    hints = get_type_hints(command.callback, include_extras=True)
    for option in command.params:
        name = option.name or ""
        marks = getattr(hints.get(name), "__metadata__", ())
        typed = getattr(option, "type_descriptor", None)
        is_file = Path.__name__ in str(getattr(typed, "annotation", ""))
        if is_file or A_PLACE in marks:
            yield name


def _texts(value: object) -> Iterator[str]:
    """Yield what was typed for an option or argument that may take several words."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for one in value:
            yield from _texts(one)


def _hidden(argument: str, places: Collection[str]) -> Iterator[str]:
    """Yield what is not repeated of an argument: all, or what follows its `=`."""
    if argument in places:
        yield from _segments(argument, _SECRET)
        return
    name, *pieces = argument.split("=")
    for at in range(len(pieces)):
        value = "=".join(pieces[at:])
        if value in places:
            yield from _segments(value, _SECRET)
            return
        if _is_long_enough(value):
            yield value
        yield from _segments(value, _SECRET_OR_NAME)
    if "/" in name:
        yield from _segments(name, _SECRET_OR_NAME)
    elif _could_be_a_value(name):
        yield from (argument, name)


def _segments(path: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield those parts of a file's name or an address that have a pattern."""
    yield from (one for one in path.split("/") if pattern.search(one))


def _could_be_a_value(text: str) -> bool:
    """Tell what is no name of ours."""
    wrong = _MANY_DIGITS.match(text) or not _ORDINARY.fullmatch(text)
    return bool(wrong) and _is_long_enough(text)


def _is_long_enough(text: str) -> bool:
    """Tell what is hidden whole; of another script one character is enough."""
    return len(text) >= _FEWEST_HIDDEN or not text.isascii()
