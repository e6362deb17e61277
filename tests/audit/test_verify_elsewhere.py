"""Verifying a log whose people, or ledger, are kept in another database."""

import asyncio
from contextlib import closing
from pathlib import Path

import psycopg

from audit.keys import LogKeys, make_keys, save_keys
from audit.ledger import ERASURES_SCHEMA, Act, Ledger, Line, What
from audit.publisher import Publisher
from audit.sealing import Sealer
from audit.sql import Postgres
from audit.store import LOG_SCHEMA
from audit.subjects import SUBJECTS_SCHEMA, SubjectDirectory
from audit.writer import AuditLog
from schemas.clock import SystemClock
from tests.audit.examples import FATHER, ORIGIN, an_event, an_id
from tests.harness.commands import errand
from tests.harness.postgres import Databases


def write_log(log_url: str, people_url: str, keys: LogKeys) -> str:
    """Write a log in one database and its people in another; erase the father."""
    directory = SubjectDirectory(Postgres(people_url, SUBJECTS_SCHEMA), keys.directory)
    sealer = Sealer(keys.origin, keys.shard, directory)
    log = AuditLog(Postgres(log_url, LOG_SCHEMA), sealer, keys.receipt)
    publisher = Publisher(log, keys.log, SystemClock())
    events = [an_event(), an_event(subjects=(FATHER,))]
    asyncio.run(log.append(events))
    publisher.publish()
    publisher.stop()
    log.close()
    father = directory.lookup(FATHER)
    assert father is not None
    with closing(Ledger(Postgres(people_url, ERASURES_SCHEMA))) as ledger:
        ledger.add(Line(1, Act.ERASE, What.SUBJECT, father.ref, an_id(), "x", "y"))
    directory.destroy(father.ref)
    directory.close()
    return str(events[0].id)


def schemas(url: str) -> set[str]:
    """Return which of our schemas a database has."""
    query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'errand%'"
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute(query).fetchall()}


def test_sections_are_opened_with_the_directory_that_is_named(
    tmp_path: Path, databases: Databases
) -> None:
    """Without its name it is missed, by name, and nothing is made in its place."""
    keys = make_keys(ORIGIN)
    save_keys(keys, tmp_path / "keys")
    log_url, people_url = databases.empty(), databases.empty()
    event = write_log(log_url, people_url, keys)
    vkey = keys.log.verifier.vkey
    verify: tuple[str | Path, ...] = ("audit", "verify", log_url, "--vkey", vkey)
    verify = (*verify, "--keys", tmp_path / "keys", "--json")
    missed = errand(*verify)
    gone = errand(*verify, "--subjects", people_url)
    opened = errand(*verify, "--subjects", people_url, "--erasures", people_url)
    show = ("audit", "show", event, "--log", log_url, "--keys", tmp_path / "keys")
    shown = [errand(*show), errand(*show, "--subjects", people_url)]

    assert (2, True) == (missed.status, "no subject directory" in missed.stderr)
    assert {"errand_log"} == schemas(log_url)
    assert (1, True) == (gone.status, "key of a subject" in gone.stderr)
    assert 0 == opened.status, opened.stderr
    assert opened.json["sections_opened"] > 0 < opened.json["sections_erased"]
    assert [2, 0] == [one.status for one in shown]
    assert shown[1].json["sections"]["subject"]
