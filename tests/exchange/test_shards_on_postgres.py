"""Shards on PostgreSQL: sealed while replicas record, frozen by the server, linked."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from audit.engine_postgres import PostgresEngine
from audit.keys import load_keys
from audit.note import b64
from audit.places import open_sql
from audit.publisher import Publisher
from audit.record import Event, Kind, Leaf, read_leaf
from audit.register import load_shards, save_shards, sealing
from audit.sealing import Sealer
from audit.shards import Shard
from audit.sql import Place, Postgres
from audit.store import Appended, LogReader
from audit.subjects import SubjectDirectory
from audit.verify import verify_log
from audit.writer import AuditLog
from exchange.keys import open_keys, shard_keys
from exchange.moving import NextShard
from exchange.recording import open_log, open_sealer
from exchange.rollover import prepare_shard, recover_shard, seal_shard
from exchange.settings import Settings, parse_settings
from schemas.clock import SystemClock
from schemas.errors import LogUnavailableError, SettingsError
from schemas.ids import new_ids
from tests.audit.examples import an_event
from tests.harness.postgres import Databases

ORIGIN = "errand.example/990100/log"
NEXT = "2026h2"
CHILD = Path(__file__).with_name("sealing_child.py")
ROOT = Path(__file__).parents[2]


def seal(settings: Settings, name: str | None = NEXT) -> list[Shard]:
    """Seal the current shard."""
    clock = SystemClock()
    return list(asyncio.run(seal_shard(settings, clock, new_ids(clock), name)))


@dataclass(frozen=True, slots=True)
class Replica:
    """A gateway's part of a log: its own connections, and the keys of all."""

    log: AuditLog
    publisher: Publisher
    sealer: Sealer

    def append(self, *events: Event) -> list[Appended]:
        """Record events."""
        return asyncio.run(self.log.append(events))


@contextmanager
def a_replica(settings: Settings, shard: str = "") -> Iterator[Replica]:
    """Open a shard as one of several gateways."""
    keys = load_keys(shard_keys(settings.keys_dir, shard))
    directory = SubjectDirectory(settings.subjects_place(), keys.directory)
    sealer = Sealer(keys.origin, keys.shard, directory)
    log = AuditLog(settings.log_place(shard), sealer, keys.receipt)
    publisher = Publisher(log, keys.log, SystemClock())
    try:
        yield Replica(log, publisher, sealer)
    finally:
        publisher.stop()
        log.close()
        directory.close()


def leaves(place: Place) -> list[Leaf]:
    """Return the leaves of a log."""
    with closing(LogReader.open(place)) as reader:
        return [read_leaf(one.leaf) for one in reader.entries(0, reader.size())]


@pytest.fixture
def begun(tmp_path: Path, databases: Databases) -> Settings:
    """Return the settings of a fleet whose log has a few records."""
    text = f"data_dir: data\nlog_url: {databases.empty()}\n"
    (tmp_path / "settings.yaml").write_text(text, encoding="utf-8")
    settings = parse_settings(text, {}, tmp_path)
    open_keys(settings.keys_dir, ORIGIN, entropy=os.urandom)
    with a_replica(settings) as one:
        one.append(*[an_event(Kind.CASE_OPENED) for _ in range(3)])
        one.publisher.publish()
    return settings


def check_shards(settings: Settings) -> tuple[Shard, Shard]:
    """Check that there are two shards, which name each other, and return them."""
    sealed, current = load_shards(settings.shards_place())
    first, second = (
        leaves(settings.log_place(name)) for name in (sealed.name, current.name)
    )
    verified = verify_log(
        settings.log_place(),
        sealed.vkey,
        keys=load_keys(settings.keys_dir / "log"),
    )

    assert (len(first), verified.root) == (sealed.size, sealed.root)
    assert len(first) == verified.published
    assert 0 == verified.open_attempts
    assert [Kind.SHARD_FINAL] == [one.kind for one in first if "shard" in one.kind]
    assert [Kind.SHARD_GENESIS] == [one.kind for one in second if "shard" in one.kind]
    assert (Kind.SHARD_FINAL, Kind.SHARD_GENESIS) == (first[-1].kind, second[0].kind)
    assert f"{ORIGIN}#{sealed.size}#{sealed.root}" == second[0].correlation
    assert (current.origin, current.vkey) == (first[-1].correlation, first[-1].policy)
    return sealed, current


def test_the_server_freezes_a_shard_that_replicas_have_open(begun: Settings) -> None:
    """Both are refused for good, what was under way is ended, and the next one goes on.

    What was stored before the seal is found again, as after a commit in doubt.
    """
    with a_replica(begun) as one, a_replica(begun) as other:
        asked = an_event()
        [accepted] = one.append(asked)
        place = begun.log_place()
        assert isinstance(place, Postgres)
        engine = PostgresEngine(place, ORIGIN, resolve_s=1)
        stored = one.sealer.seal_all(
            [asked], [one.sealer.directory.meet(asked.subjects)]
        )
        seal(begun)
        size = len(leaves(begun.log_place()))
        for replica in (one, other):
            with pytest.raises(LogUnavailableError, match="sealed shard"):
                replica.append(an_event())
            with pytest.raises(LogUnavailableError, match="sealed shard"):
                replica.append(an_event())
            assert "sealed shard" in (replica.log.fault or "")
        again = engine.append(stored)
        engine.close()
        one.publisher.publish()

    sealed, current = check_shards(begun)
    assert "interrupted" == leaves(begun.log_place())[-2].outcome
    assert [accepted.index] == [place.index for place in again]
    assert size == sealed.size == len(leaves(begun.log_place()))
    with a_replica(begun, current.name) as one, a_replica(begun, NEXT) as other:
        places = [*one.append(an_event()), *other.append(an_event())]
    assert [1, 2] == [place.index for place in places]


def test_whoever_records_while_a_shard_is_sealed_keeps_each_promise(
    begun: Settings,
) -> None:
    """Of replicas that never stop, each record stands before the last or is refused."""
    enough, refusals = asyncio.Event(), set[str]()

    async def record(replica: Replica, kept: list[Appended]) -> None:
        for _ in range(10_000):
            asked = an_event()
            ended = an_event(Kind.REQUEST_ENDED, ends=asked.id)
            try:
                kept += await replica.log.append([asked])
                kept += await replica.log.append([ended])
            except LogUnavailableError as error:
                refusals.add(str(error))
                return
            if len(kept) >= 40:
                enough.set()
        pytest.fail("nobody sealed it")

    async def run(one: Replica, other: Replica) -> list[Appended]:
        kept: list[Appended] = []
        callers = [
            asyncio.create_task(record(replica, kept))
            for replica in (one, other)
            for _ in range(4)
        ]
        await asyncio.wait(
            [asyncio.create_task(enough.wait()), *callers],
            return_when=asyncio.FIRST_COMPLETED,
        )
        clock = SystemClock()
        await seal_shard(begun, clock, new_ids(clock), NEXT)
        await asyncio.gather(*callers)
        return kept

    with a_replica(begun) as one, a_replica(begun) as other:
        kept = asyncio.run(run(one, other))
    first = leaves(begun.log_place())
    check_shards(begun)

    assert {"the log is a sealed shard: go on with the next one"} == refusals
    assert 40 <= len(kept) < len(first)
    assert {place.index: place.event for place in kept}.items() <= {
        index: leaf.id for index, leaf in enumerate(first)
    }.items()


@pytest.mark.parametrize(
    "step",
    [
        "before the last record is committed",
        "before the last checkpoint",
        "before the next shard",
        "before the register",
    ],
)
def test_a_kill_at_any_step_is_taken_up_again(begun: Settings, step: str) -> None:
    """Until the register changes the old shard is current; the same command ends it."""
    with a_replica(begun) as one:
        one.append(an_event())
    config = begun.data_dir.parent / "settings.yaml"
    killed = subprocess.run(
        [sys.executable, CHILD, config, step, "2031h1"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    listed = load_shards(begun.shards_place())
    is_frozen = step != "before the last record is committed"
    kinds = [leaf.kind for leaf in leaves(begun.log_place())]
    if is_frozen:
        with pytest.raises(SettingsError, match=r"sealed for the shard `.*/2031h1`"):
            seal(begun, NEXT)
    name = None if is_frozen else "2031h1"
    again = seal(begun, name)
    sealed, current = check_shards(begun)

    assert -signal.SIGKILL == killed.returncode
    assert () == listed
    assert is_frozen == (Kind.SHARD_FINAL in kinds)
    assert (again, "2031h1") == ([sealed, current], current.name)


def test_a_seal_under_a_running_gateway_is_no_alarm(begun: Settings) -> None:
    """It is told once that the shard is sealed, and what to do if no next one opens."""
    with a_replica(begun) as one, capture_logs() as told:
        seal(begun)
        for _ in range(3):
            with pytest.raises(LogUnavailableError, match="sealed shard"):
                one.append(an_event())
        one.publisher.tick()
        failure = one.publisher.failure
    [event] = told

    assert failure is None
    assert ("info", "shard_sealed") == (event["log_level"], event["event"])
    assert "errand audit seal-shard" in event["remedy"]


def test_a_gateway_that_starts_between_two_shards_says_when_to_start_again(
    begun: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed, and the register not changed yet."""

    def crash(*_: object) -> None:
        raise OSError("the power went")

    monkeypatch.setattr("exchange.rollover.save_shards", crash)
    with pytest.raises(OSError, match="power"):
        seal(begun)
    keys = open_keys(begun.keys_dir, ORIGIN, entropy=None)
    clock = SystemClock()
    with ExitStack() as stack:
        sealer = open_sealer(begun, keys.log, stack)
        with pytest.raises(SettingsError, match="start again when `errand audit seal"):
            open_log(begun, keys, sealer, clock, "", stack)


def test_one_alone_seals_a_shard(begun: Settings) -> None:
    """Another one is refused meanwhile, wherever it runs."""
    place = begun.shards_place()
    assert isinstance(place, Postgres)
    with sealing(place), pytest.raises(SettingsError, match="somebody else"):
        seal(begun)


def test_a_replica_goes_on_once_the_register_names_the_next_and_its_keys_are_there(
    begun: Settings,
) -> None:
    """Not before: it would have nothing to sign with."""
    folder = begun.data_dir.parent
    elsewhere = parse_settings(
        f"data_dir: other\nlog_url: {begun.log_url}\n", {}, folder
    )
    with (
        closing(NextShard(begun, ORIGIN)) as here,
        closing(NextShard(elsewhere, ORIGIN)) as there,
        closing(NextShard(begun, f"{ORIGIN}/{NEXT}")) as gone_on,
    ):
        prepare_shard(begun, SystemClock(), NEXT)
        before = [one.is_open() for one in (here, there, gone_on)]
        seal(begun)
        after = [one.is_open() for one in (here, there, gone_on)]

    assert [False, False, False] == before
    assert [True, False, False] == after


def test_the_register_on_a_server_only_grows(begun: Settings) -> None:
    """A shard is added or sealed; what is sealed, or another log's, stays as it is.

    Whoever was to write something else is told.
    """
    place = begun.shards_place()
    first, second = (Shard(f"log.example/{n}", str(n), f"key-{n}") for n in (1, 2))
    sealed = Shard("log.example/1", "1", "key-1", 7, "root")
    save_shards(place, (first,))
    with pytest.raises(SettingsError, match=r"`log.example/1` where `other.example`"):
        save_shards(place, (Shard("other.example", "", "key-3", 7, "root"), second))
    assert (first,) == load_shards(place)
    for _ in range(2):
        save_shards(place, (sealed, second))
    with pytest.raises(SettingsError, match="another end"):
        save_shards(place, (Shard("log.example/1", "1", "key-1", 9, "other"), second))
    found = load_shards(place)
    with (
        closing(open_sql(place)) as sql,
        pytest.raises(Exception, match="one_is_written_to"),
        sql.transaction() as changes,
    ):
        changes.change("INSERT INTO shard VALUES (3, 'o', 'n', 'k', NULL, NULL)")

    assert (sealed, second) == found == load_shards(place)


def test_a_lost_head_is_recovered_from_while_replicas_run(begun: Settings) -> None:
    """The old shard is frozen as it is; the next one's first record cites both."""
    clock = SystemClock()
    signer = load_keys(begun.keys_dir / "log").log
    lost = signer.sign(f"{ORIGIN}\n999\n{b64(bytes(32))}\n").encode()
    with a_replica(begun) as one:
        args = (begun, clock, new_ids(clock), lost, "2026h1-recovery")
        old, current = asyncio.run(recover_shard(*args)).shards
        with pytest.raises(LogUnavailableError, match="sealed shard"):
            one.append(an_event())
    [genesis, *_] = leaves(begun.log_place(current.name))
    said = (genesis.outcome, genesis.policy.rpartition("#")[0])

    assert ("recovered", f"999#{b64(bytes(32))}") == said
    assert f"{ORIGIN}#{old.size}#{old.root}" == genesis.correlation
