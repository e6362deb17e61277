"""Stores of objects: where the log's pieces are kept for whoever serves them.

A piece is a pure function of its path, so it is written once: the same bytes again are
a success, and other bytes stop everything. Only the checkpoint and the list of anchors
are ever replaced, and only by who knows what stood there.

A folder is written by hand here, since no library syncs it as it must be; S3-compatible
storage through `obstore`, with conditional puts.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from audit.keys import sync_folder
from schemas.errors import (
    SettingsError,
    StoreMovedError,
    StoreUnavailableError,
    VerificationError,
)


class Objects(Protocol):
    """A store of objects, each at a path; used from any thread.

    Every method raises StoreUnavailableError where the store can't be reached, is
    full, or refuses us.
    """

    def read(self, path: str) -> bytes | None:
        """Return an object; None for nothing."""

    def write_once(self, path: str, content: bytes) -> None:
        """Write an object that never changes, durably.

        Raises:
            VerificationError: There is another one.
        """

    def swap(self, path: str, before: bytes | None, after: bytes) -> None:
        """Put an object in the place of the one that was read, durably.

        Raises:
            StoreMovedError: Something else stands there: somebody was faster.
        """


def open_objects(url: str, endpoint: str | None = None) -> Objects:
    """Return the store at an address.

    Args:
        url: `file:///folder`, or `s3://bucket/prefix`; credentials stand in the
            environment (`AWS_...`), never here.
        endpoint: The server, for S3-compatible storage that is not Amazon's.

    Raises:
        SettingsError: It is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderObjects(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Objects(url, endpoint)
    raise SettingsError("a store is `file:///folder` or `s3://bucket/prefix`")


class FolderObjects:
    """A folder of files, each whole and on the disk before it has its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        """Return an object; None for nothing."""
        with _unavailable():
            file = self._folder / path
            return file.read_bytes() if file.is_file() else None

    def write_once(self, path: str, content: bytes) -> None:
        """Write an object that never changes, durably."""
        target = self._folder / path
        with _unavailable():
            _make_folder(target.parent)
            with _beside(target, content) as beside:
                try:
                    # A link takes no other's place, as a rename would.
                    os.link(beside, target)
                except FileExistsError:
                    _check_same(path, target.read_bytes(), content)
            # Also when it was there: who wrote it may not have come so far.
            sync_folder(target.parent)

    def swap(self, path: str, before: bytes | None, after: bytes) -> None:
        """Put an object in the place of the one that was read, durably."""
        target = self._folder / path
        with _unavailable():
            _make_folder(target.parent)
            with (
                _locked(target.parent),
                _beside(target, after) as beside,
            ):
                if self.read(path) != before:
                    raise StoreMovedError(f"`{path}` was replaced meanwhile")
                beside.replace(target)
            sync_folder(target.parent)


@contextmanager
def _unavailable() -> Iterator[None]:
    """Name what a file system refuses, without the path."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(f"the folder: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that their names are on the disk too."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def _beside(target: Path, content: bytes) -> Iterator[Path]:
    """Write a file beside its place, on the disk; what is left of it is removed."""
    who = f"{os.getpid()}-{threading.get_ident()}"
    beside = target.with_name(f".{target.name}.{who}.new")
    # Of an earlier process with this number, which died: nobody else writes it.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others out of a folder; the lock goes with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_same(path: str, kept: bytes, content: bytes) -> None:
    # INVARIANT: what was published once is never another thing (write-once).
    if kept != content:
        raise VerificationError(f"{path}: the store holds something else")


_RETRIES: Mapping[str, Any] = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
}
"""A round that fails is tried again by whoever called, who counts for how long."""
_TIMEOUTS: Mapping[str, Any] = {"timeout": "20s", "connect_timeout": "5s"}


class S3Objects:
    """A bucket of S3-compatible storage, by conditional puts."""

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        # Only where it is used: a gateway on a folder never loads it.
        from obstore.store import S3Store  # noqa: PLC0415 - as said above

        config: Any = {} if endpoint is None else {"endpoint": endpoint}
        is_plain = endpoint is not None and endpoint.startswith("http://")
        self._store = S3Store.from_url(
            url,
            config=config,
            client_options=cast("Any", {**_TIMEOUTS, "allow_http": is_plain}),
            retry_config=cast("Any", _RETRIES),
        )

    def read(self, path: str) -> bytes | None:
        """Return an object; None for nothing."""
        return self._read(path)[0]

    def _read(self, path: str) -> tuple[bytes | None, str | None]:
        """Return an object and the e-tag of its version."""
        import obstore  # noqa: PLC0415 - as above
        from obstore.exceptions import BaseError  # noqa: PLC0415 - as above

        try:
            found = obstore.get(self._store, path)
            return bytes(found.bytes()), found.meta["e_tag"]
        except FileNotFoundError:
            return None, None
        except BaseError as error:
            raise _failed(error) from None

    def write_once(self, path: str, content: bytes) -> None:
        """Write an object that never changes, durably."""
        if not self._put(path, content, "create"):
            # Perhaps our own, whose answer was lost.
            _check_same(path, self.read(path) or b"", content)

    def swap(self, path: str, before: bytes | None, after: bytes) -> None:
        """Put an object in the place of the one that was read, durably."""
        kept, e_tag = self._read(path)
        # The e-tag alone: a version of None would be sent as one.
        mode = "create" if e_tag is None else {"e_tag": e_tag}
        if kept != before or not self._put(path, after, mode):
            raise StoreMovedError(f"`{path}` was replaced meanwhile")

    def _put(self, path: str, content: bytes, mode: Any) -> bool:  # noqa: ANN401 - of obstore's own
        """Put an object under a condition, and return whether that was met."""
        import obstore  # noqa: PLC0415 - as above
        from obstore.exceptions import (  # noqa: PLC0415 - as above
            AlreadyExistsError,
            BaseError,
            PreconditionError,
        )

        try:
            obstore.put(self._store, path, content, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        except BaseError as error:
            raise _failed(error) from None
        return True


def _failed(error: Exception) -> StoreUnavailableError:
    """Return what a failure means: its kind alone, since its text quotes addresses."""
    return StoreUnavailableError(f"the object store: {type(error).__name__}")
