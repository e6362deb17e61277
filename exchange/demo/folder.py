"""The folder of a run: held while it runs, and emptied only when nothing runs in it.

The mark says that the demo made the folder and may empty it again. It is locked as
long as the run lasts, and says what runs, for whoever comes second.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exchange.locking import held, is_held
from exchange.settings import LOCK_FILE
from schemas.errors import SettingsError

MARK = ".errand-demo"
_GATEWAYS_LOCK = f"*data/{LOCK_FILE}"
"""What the gateway, or each of a fleet, holds."""
_MOST_MARK = 500
"""Bytes of a mark that are shown."""
_ANOTHER = "choose another with `--folder`"
_OTHERWISE = f"stop it first (Ctrl-C where it runs), or {_ANOTHER}"


@contextmanager
def held_folder(
    folder: Path | None, running: str, check: Callable[[], None]
) -> Iterator[Path]:
    """Hold an empty folder for a run.

    (1) Look whether it may be emptied at all.
    (2) Hold its mark, or say what runs there.
    (3) Look whether a gateway outlived a demo that was killed, and at all else that
        has to be free.
    (4) Empty it: only now.

    Args:
        folder: Made where there is none; None for one that is thrown away.
        running: Says what runs, for the mark: such as the gateway's address.
        check: Raises where something else stands against the run.

    Raises:
        SettingsError: Something else is in it, or something runs in it; nothing was
            touched.
    """
    if folder is None:
        check()
        with tempfile.TemporaryDirectory(prefix="errand-demo-") as made:
            yield Path(made)
        return
    folder = folder.absolute()
    _look_at(folder)  # (1)
    with ExitStack() as stack:
        mark = _hold(folder, stack)  # (2)
        _check_gateways(folder)  # (3)
        check()
        _empty(folder)  # (4)
        os.pwrite(mark, f"process {os.getpid()}, {running}".encode(), 0)
        yield folder


def _look_at(folder: Path) -> None:
    """Look whether a folder is one of ours, or empty, or not there yet."""
    try:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"`{folder}` is no folder: {_ANOTHER}")
        is_ours = not folder.exists() or (folder / MARK).exists()
        if not is_ours and any(folder.iterdir()):
            raise SettingsError(f"`{folder}` is not empty: {_ANOTHER}")
    except OSError as error:
        raise _unusable(folder, error) from None


def _hold(folder: Path, stack: ExitStack) -> int:
    """Hold the folder's mark, and return it empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = stack.enter_context(held(folder / MARK))
    except BlockingIOError:
        with (folder / MARK).open("rb") as told:
            runs = told.read(_MOST_MARK).decode(errors="replace")
        raise SettingsError(
            f"a demo runs in `{folder}` ({runs or 'it is just starting'}): {_OTHERWISE}"
        ) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    os.ftruncate(mark, 0)
    return mark


def _check_gateways(folder: Path) -> None:
    """Look whether a gateway holds its data folder in there."""
    try:
        is_running = any(is_held(lock) for lock in folder.glob(_GATEWAYS_LOCK))
    except OSError as error:
        raise _unusable(folder, error) from None
    if is_running:
        raise SettingsError(
            f"a gateway of an earlier demo still runs in `{folder}`: {_OTHERWISE}"
        )


def _empty(folder: Path) -> None:
    """Empty a folder but for its mark, which is held."""
    try:
        for one in folder.iterdir():
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            elif one.name != MARK:
                one.unlink()
    except OSError as error:
        raise _unusable(folder, error) from None


def _unusable(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(f"`{folder}` can't be used ({error.strerror}): {_ANOTHER}")
