"""Changes of keys, registrations and packs between two starts are records."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.keys import make_keys
from audit.record import Kind, read_leaf
from audit.sealing import Sealer
from audit.store import LogReader
from audit.subjects import SubjectDirectory
from audit.writer import AuditLog
from connectors.jose import SigningKey
from exchange.database import Database
from exchange.keys import GatewayKeys, open_keys
from exchange.office import read_pack
from exchange.registration import Registered, record_changes, registered
from schemas.directory import Provider
from schemas.ids import new_ids
from schemas.validation import Pack
from tests.fakes.clock import FakeClock
from tests.harness.application import PACK

NOW = datetime(2026, 1, 8, 12, tzinfo=UTC)
ORIGIN = "errand.example/test/log"

pytestmark = pytest.mark.anyio


@contextmanager
def a_log(folder: Path) -> Iterator[AuditLog]:
    """Open a log in a folder."""
    keys = make_keys(ORIGIN)
    directory = SubjectDirectory(folder / "subjects.db", keys.directory)
    log = AuditLog(
        folder / "log.db", Sealer(ORIGIN, keys.shard, directory), keys.receipt
    )
    try:
        yield log
    finally:
        log.close()
        directory.close()


def told(folder: Path) -> list[tuple[str, str, str]]:
    """Return kind, outcome and thing of each record, in order."""
    reader = LogReader.open(folder / "log.db")
    leaves = [read_leaf(leaf) for leaf in reader.leaves(0, reader.size())]
    reader.close()
    return [(leaf.kind.value, leaf.outcome, leaf.correlation) for leaf in leaves]


async def start(folder: Path, url: str, now: Mapping[str, Registered]) -> int:
    """Start once with what is registered; return how many changes were recorded."""
    with Database(url) as database, a_log(folder) as log:
        return await record_changes(
            database, log, now, NOW, new_ids(FakeClock(NOW), os.urandom)
        )


@pytest.fixture
def pack() -> Pack:
    """The region's pack."""
    return read_pack((PACK,))


@pytest.fixture
def keys(tmp_path: Path) -> GatewayKeys:
    """A gateway's keys."""
    return open_keys(tmp_path / "keys", ORIGIN, entropy=os.urandom)


async def test_the_first_start_records_all_there_is(
    tmp_path: Path, tables_url: str, pack: Pack, keys: GatewayKeys
) -> None:
    """Every department, service, client and key begins with a record."""
    now = registered(pack, keys)
    changed = await start(tmp_path, tables_url, now)

    assert changed == len(now)
    assert {outcome for _, outcome, _ in told(tmp_path)} == {"added"}
    assert {thing for _, _, thing in told(tmp_path)} == set(now)


async def test_a_start_with_nothing_new_records_nothing(
    tmp_path: Path, tables_url: str, pack: Pack, keys: GatewayKeys
) -> None:
    """A restart is no change."""
    await start(tmp_path, tables_url, registered(pack, keys))
    again = await start(tmp_path, tables_url, registered(pack, keys))

    assert again == 0


async def test_a_departments_new_key_is_a_record(
    tmp_path: Path, tables_url: str, pack: Pack, keys: GatewayKeys
) -> None:
    """The key alone has changed, and the record says whose."""
    before = registered(pack, keys)
    await start(tmp_path, tables_url, before)
    provider = pack.providers["ga"]
    key = SigningKey.from_seed(bytes(32)).pinned(NOW)
    changed = provider.model_copy(update={"keys": (key,)})
    now = {
        **before,
        **_of_provider(registered(_with(pack, changed.id, changed), keys), changed.id),
    }
    await start(tmp_path, tables_url, now)

    assert told(tmp_path)[len(before) :] == [
        (Kind.KEY_CHANGED.value, "changed", "keys:provider:ga")
    ]


def _of_provider(now: Mapping[str, Registered], name: str) -> dict[str, Registered]:
    return {thing: what for thing, what in now.items() if thing.endswith(f":{name}")}


def _with(pack: Pack, name: str, provider: Provider) -> Pack:
    """Return a pack in which one provider is another."""
    return replace(pack, providers={**pack.providers, name: provider})


async def test_a_service_that_goes_is_a_record(
    tmp_path: Path, tables_url: str, pack: Pack, keys: GatewayKeys
) -> None:
    """So is one that comes back."""
    whole = registered(pack, keys)
    without = {t: w for t, w in whole.items() if t != "service:mz_marriage"}
    await start(tmp_path, tables_url, whole)
    await start(tmp_path, tables_url, without)
    await start(tmp_path, tables_url, whole)

    assert told(tmp_path)[len(whole) :] == [
        ("registration.changed", "removed", "service:mz_marriage"),
        ("registration.changed", "added", "service:mz_marriage"),
    ]
