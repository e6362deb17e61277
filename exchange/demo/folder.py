"""The folder of a run: held while it runs, and emptied only when nothing runs in it.

The mark says that the demo made the folder and may empty it again. It is locked as
long as the run lasts, and says what runs, for whoever comes second.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exchange.demo.children import StageError
from exchange.settings import Settings

MARK = ".errand-demo"
_GATEWAYS_LOCK = f"*data/{Settings().lock_file.name}"
"""What the gateway, or each of a fleet, holds."""
_MOST_MARK = 500
"""Bytes of a mark that are shown."""
_OTHERWISE = "stop it first (Ctrl-C where it runs), or choose another with `--folder`"


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
        StageError: Something else is in it, or something runs in it; nothing was
            touched.
    """
    if folder is None:
        check()
        with tempfile.TemporaryDirectory(prefix="errand-demo-") as made:
            yield Path(made)
        return
    folder = folder.absolute()
    _look_at(folder)  # (1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(folder, error) from None
    try:
        _hold(mark, folder)  # (2)
        for lock in folder.glob(_GATEWAYS_LOCK):  # (3)
            _check_gateway(lock, folder)
        check()
        _empty(folder)  # (4)
        os.pwrite(mark, f"process {os.getpid()}, {running}".encode(), 0)
        yield folder
    finally:
        os.close(mark)  # and with it the lock


def _look_at(folder: Path) -> None:
    """Look whether a folder is one of ours, or empty, or not there yet."""
    try:
        if folder.exists() and not folder.is_dir():
            raise StageError(f"`{folder}` is no folder: choose another with `--folder`")
        is_ours = not folder.exists() or (folder / MARK).exists()
        if not is_ours and any(folder.iterdir()):
            raise StageError(f"`{folder}` is not empty: choose another with `--folder`")
    except OSError as error:
        raise _unusable(folder, error) from None


def _hold(mark: int, folder: Path) -> None:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        runs = os.pread(mark, _MOST_MARK, 0).decode(errors="replace")
        raise StageError(
            f"a demo runs in `{folder}` ({runs or 'it is just starting'}): {_OTHERWISE}"
        ) from None
    os.ftruncate(mark, 0)


def _check_gateway(lock: Path, folder: Path) -> None:
    """Look whether a gateway holds its data folder in there."""
    held = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StageError(
            f"a gateway of an earlier demo still runs in `{folder}`: {_OTHERWISE}"
        ) from None
    finally:
        os.close(held)


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


def _unusable(folder: Path, error: OSError) -> StageError:
    return StageError(
        f"`{folder}` can't be used ({error.strerror}): choose another with `--folder`"
    )
