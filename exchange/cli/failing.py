"""How a command that fails tells why: in one line, and without a person's value.

INVARIANT (rule 8): what was typed may be a person's id or name that slipped into the
wrong place, and what a command prints is kept by shells, schedulers and tickets. So no
argument is repeated that could be one, whoever wrote the message: one of ours, the
option parser, or the system.
"""

import re
import traceback
from collections.abc import Iterable, Iterator, Sequence

import typer

from exchange.cli.console import Exit
from schemas.errors import ErrandError, VerificationError

_MANY_DIGITS = re.compile(r"(?:[^0-9]*[0-9]){6}")
"""As many as a date of birth has."""
_ORDINARY = re.compile(r"[A-Za-z0-9_.,:;@/+~%=?&*\[\]-]*")
"""What options, names, files and addresses are written in; a person's name is not."""
_FEWEST_HIDDEN = 3
"""Characters: to hide a shorter piece would only spoil the message."""


def tell(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """Return what is printed about an error, and the exit status.

    Args:
        error: What ended the command.
        arguments: What was typed after the program's name.
    """
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
        case _:
            told = "".join(traceback.format_exception(error))
    return without_values(told, arguments), int(status.value)


def _usage(error: typer.TyperException) -> str:
    """Say what is wrong with the options, and where they are explained."""
    message = error.format_message()
    if not message:  # a group without a command has shown its help
        return ""
    context = getattr(error, "ctx", None)
    hint = f"errand: see `{context.command_path} --help`\n" if context else ""
    return f"errand: {message[:1].lower()}{message[1:].rstrip('.')}\n{hint}"


def without_values(text: str, arguments: Iterable[str]) -> str:
    """Return a text with `*` for each argument that could be a person's value."""
    found = {piece for one in arguments for piece in _hidden(one)}
    for piece in sorted(found, key=len, reverse=True):  # the longer may hold others
        text = text.replace(piece, "*")
    return text


def _hidden(argument: str) -> Iterator[str]:
    """Yield what is not repeated of an argument: all, or what follows its `=`."""
    name, *pieces = argument.split("=")
    values = ["=".join(pieces[at:]) for at in range(len(pieces))]
    yield from (one for one in values if len(one) >= _FEWEST_HIDDEN)
    if _could_be_a_value(name):
        yield from (argument, name)


def _could_be_a_value(text: str) -> bool:
    """Tell what is no name of ours, no file and no address."""
    if len(text) < _FEWEST_HIDDEN or "/" in text:
        return False
    return bool(_MANY_DIGITS.match(text)) or not _ORDINARY.fullmatch(text)
