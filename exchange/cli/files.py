"""Files that a command's arguments and options name.

One rule for all of them: what can't be read or written is one line that names it, and
status 2 (`exchange.cli.failing` says so of the system's own errors); and what will be
written in the end is looked at before the work.
"""

import os
from pathlib import Path
from typing import Final

from schemas.errors import SettingsError

MOST_BYTES: Final = 64 << 20
"""Largest file that is read whole, in bytes."""


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


def check_writable(file: Path) -> None:
    """Raise unless a file can be written here, as far as that can be told before.

    Raises:
        SettingsError: Its folder is not there, or takes no file.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise SettingsError(f"`{file}` can't be written: there is no such folder")
    if file.is_dir():
        raise SettingsError(f"`{file}` can't be written: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"`{file}` can't be written: its folder takes no file")
