"""Files that a command's arguments and options name.

One rule for all of them: what can't be read or written is one line that names it, and
status 2 (`exchange.cli.failing` says so of the system's own errors); and what will be
written in the end is looked at before the work.
"""

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from schemas.errors import SettingsError

MOST_BYTES: Final = 64 << 20
"""Largest file that is read whole, in bytes."""
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def read_file(file: Path) -> bytes:
    """Return the content of a file that is named.

    Raises:
        OSError: It can't be read.
        SettingsError: It is too large.
    """
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise SettingsError(f"`{file}` has more than {MOST_BYTES} bytes")
    return content


def read_text(file: Path) -> str:
    """Return the text of a file that is named.

    Raises:
        OSError: It can't be read.
        SettingsError: It is too large, or not UTF-8.
    """
    try:
        return read_file(file).decode("utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"`{file}` is not UTF-8") from None


def check_writable(
    file: Path, option: str | None = None, *, is_replaced: bool = False
) -> None:
    """Raise unless a file can be written, found out by opening it; it stays as it is.

    Args:
        file: What will be written in the end.
        option: What it is named with, for the message.
        is_replaced: Whether it is written beside first, and put in its place whole.

    Raises:
        SettingsError: It can't be.
    """
    try:
        if is_replaced:
            _replace_nothing(file)
        else:
            _write_nothing(file)
    except OSError as error:
        other = "another" if option is None else f"another with `{option}`"
        raise SettingsError(
            f"`{file}` can't be written ({error.strerror}): name {other}"
        ) from None


def _replace_nothing(file: Path) -> None:
    """Make a file without a name beside a file, and let it go."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    TemporaryFile(dir=file.absolute().parent).close()


def _write_nothing(file: Path) -> None:
    """Open a file as it is; one that is not there is made, and removed again."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        return  # whoever reads a pipe would take its closing for the end
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    except FileNotFoundError:
        made = file.resolve()  # what a link leads to, where that is not there yet
        os.close(os.open(made, _NEW, 0o600))
        made.unlink()
