"""A log that has lost what it has shown: who goes on from it is named, and proved."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import copyfile, copytree

import pytest

from audit.engine_sqlite import copy_log
from audit.freezing import leave
from audit.keys import load_keys
from audit.ledger import Ledger
from audit.note import Signer, Verifier, b64, open_checkpoint
from audit.record import Event, Leaf
from audit.register import load_shards
from audit.shards import Lost, Shard, genesis_event, recovery_event, sign_list
from audit.sql import Place
from audit.store import LogReader, SignedHead
from audit.writer import Limits
from exchange.keys import open_keys
from exchange.migrations.schema import Part, upgrade
from exchange.recording import (
    current_shards,
    open_gateway_keys,
    open_log,
    open_sealer,
)
from exchange.rollover import recover_shard, seal_shard
from exchange.settings import Settings, parse_settings
from schemas.clock import SystemClock
from schemas.errors import LogUnavailableError, SettingsError, VerificationError
from schemas.ids import new_ids
from tests.audit.examples import an_event
from tests.exchange.sealing_child import LEAVING
from tests.exchange.test_sealing_outside import begun, publish
from tests.exchange.test_shards_on_postgres import CHILD, ROOT, a_replica, leaves
from tests.harness.application import a_site
from tests.harness.commands import Done, errand
from tests.harness.postgres import Databases

ORIGIN = "errand.example/990100/log"
NEXT = "2026h1-recovery"
STRANGE = Signer(ORIGIN, bytes(32))


def signer_of(settings: Settings) -> Signer:
    """Return the key that the log signs its heads with."""
    return load_keys(settings.keys_dir / "log").log


def a_lost_head(settings: Settings, size: int = 999) -> bytes:
    """Return a head that the log has signed, and does not contain."""
    return signer_of(settings).sign(f"{ORIGIN}\n{size}\n{b64(bytes(32))}\n").encode()


def serve(settings: Settings) -> None:
    """Open the log as a gateway does, take a look-up, and publish that."""
    with ExitStack() as stack:
        shards = current_shards(settings)
        keys = open_gateway_keys(settings, shards, None)
        sealer = open_sealer(settings, keys.log, stack)
        name = shards[-1].name
        opened = open_log(settings, keys, sealer, SystemClock(), name, stack)
        log, publisher, _ = opened
        asyncio.run(log.append([an_event()]))
        publisher.publish()


def put_back(backup: Path, log: Path) -> None:
    """Put a copy in the place of a log's file."""
    for ending in ("-wal", "-shm"):
        log.with_name(log.name + ending).unlink(missing_ok=True)
    copyfile(backup, log)


@contextmanager
def the_power_goes(monkeypatch: pytest.MonkeyPatch, step: str) -> Iterator[None]:
    """Have a recovery end at a step of it, for good."""

    def crash(*_: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(f"exchange.rollover.{step}", crash)
        with pytest.raises(OSError, match="power"):
            yield


def verify_shards(log: str | Path | Settings, vkey: str, *more: str) -> Done:
    """Verify all shards from the key of the first on, wherever they are."""
    if isinstance(log, Settings):
        log = log.log_url or log.data_dir
    return errand("audit", "verify", log, "--vkey", vkey, "--shards", *more)


def recover(
    settings: Settings, seen: bytes, name: str | None = NEXT
) -> tuple[Shard, Shard]:
    """Leave the log for another one."""
    clock = SystemClock()
    args = (settings, clock, new_ids(clock), seen, name)
    old, current = asyncio.run(recover_shard(*args)).shards
    return old, current


def head_of(settings: Settings) -> SignedHead:
    """Return the head that the log has signed last."""
    with closing(LogReader.open(settings.log_place())) as reader:
        head = reader.head()
    assert head is not None
    return head


@pytest.fixture(params=["files", "postgres"])
def where(request: pytest.FixtureRequest) -> str:
    """Return the setting of where a log is kept, on one engine after the other."""
    if request.param == "files":
        return ""
    return f"log_url: {request.getfixturevalue('databases').empty()}\n"


def published(folder: Path, where: str) -> Settings:
    """Return the settings of a log with a few published records."""
    settings = begun(folder, where)
    publish(settings, "")
    return settings


def make_the_rest(settings: Settings) -> None:
    """Make the other stores of a log that was begun without a gateway.

    A gateway makes none beside a log in a file that has records.
    """
    upgrade(settings.tables_url(), Part.TABLES)
    upgrade(settings.vault_tables_url(), Part.VAULT)
    Ledger(settings.erasures_place()).close()


def test_who_goes_on_from_a_lost_head_is_verified_and_named(
    tmp_path: Path, where: str
) -> None:
    """With the key of the first alone: in its own place, as served, and in a copy."""
    settings = published(tmp_path, where)
    old, current = recover(settings, a_lost_head(settings))
    publish(settings, NEXT)
    stored = verify_shards(settings, old.vkey, "--json")
    shown = verify_shards(settings, old.vkey)
    make_the_rest(settings)
    with a_site(tmp_path, settings=f"{where}log_bundles: everybody\n") as site:
        served = verify_shards(f"{site.url}/log", old.vkey, "--json")
        listed = site.client(None).get("/log/shards").content
    kept, copy = settings.log_url or settings.data_dir, tmp_path / "copy"
    for shard, folder in (("first", copy), (NEXT, copy / NEXT)):
        errand("audit", "export", kept, folder, "--shard", shard)
    ended = verify_shards(copy, old.vkey, "--json")
    (copy / "shards").write_bytes(listed)
    copied = verify_shards(copy, old.vkey, "--json")

    told = (stored, shown, served, ended, copied)
    assert [0] * 5 == [one.status for one in told], [one.stderr for one in told]
    assert [old.origin] == [one["origin"] for one in ended.json["shards"]]
    for found in (one.json["shards"] for one in (stored, served, copied)):
        assert [old.origin, current.origin] == [one["origin"] for one in found]
        assert [
            None,
            {"from": ORIGIN, "left": old.size, "seen": 999},
        ] == [one.get("recovered") for one in found]
    assert "recovered" in shown.stdout


@pytest.mark.parametrize(
    "wrong", ["signed by another", "of another key", "another loss", "nothing lost"]
)
def test_who_is_not_named_by_the_log_does_not_go_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """A register can say anything: the first record has the log's own signature."""
    settings = published(tmp_path, "")

    def begins(
        last: Leaf, at: datetime, lost: Lost, signer: Signer, following: Verifier
    ) -> Event:
        made = recovery_event(last, at, lost, signer, following)
        match wrong:
            case "signed by another":
                return recovery_event(last, at, lost, STRANGE, following)
            case "of another key":
                return recovery_event(last, at, lost, signer, STRANGE.verifier)
            case "another loss":
                return made._replace(policy=made.policy.replace("999#", "998#"))
            case _:
                return genesis_event(last, at, lost.left)

    monkeypatch.setattr("exchange.rollover.recovery_event", begins)
    old, current = recover(settings, a_lost_head(settings))
    publish(settings, NEXT)
    each = [
        errand(
            *("audit", "verify", settings.data_dir, "--vkey", one.vkey),
            *("--shard", name),
        )
        for one, name in ((old, "first"), (current, NEXT))
    ]
    linked = verify_shards(settings, old.vkey)

    assert [0, 0] == [one.status for one in each]
    assert 1 == linked.status


def test_a_log_that_was_left_signs_nothing_more(
    tmp_path: Path, databases: Databases
) -> None:
    """What is cited is what there is for good, whichever gateways are running."""
    settings = begun(tmp_path, f"log_url: {databases.empty()}\n")
    with a_replica(settings) as one:
        one.publisher.publish()
        before = head_of(settings)
        one.append(an_event())
        old, _ = recover(settings, a_lost_head(settings))
        with pytest.raises(LogUnavailableError, match="sealed shard"):
            one.publisher.publish()
    left = open_checkpoint(before.note.encode(), signer_of(settings).verifier)

    assert before == head_of(settings)
    assert (left.size, b64(left.root)) == (old.size, old.root)


def test_a_head_that_is_signed_before_the_log_is_left_is_the_one_that_is_cited(
    tmp_path: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may record and publish until the server refuses it."""
    settings = published(tmp_path, f"log_url: {databases.empty()}\n")
    with a_replica(settings) as one:

        def leave_late(
            place: Place, look: Callable[[LogReader], tuple[str, object]]
        ) -> object:
            one.append(an_event())
            one.publisher.publish()
            return leave(place, look)

        monkeypatch.setattr("exchange.rollover.leave", leave_late)
        old, _ = recover(settings, a_lost_head(settings))

    assert head_of(settings).size == old.size == 3


def test_a_log_that_has_lost_nothing_is_not_left(tmp_path: Path, where: str) -> None:
    """Its server goes on taking records and heads."""
    settings = published(tmp_path, where)
    with pytest.raises(SettingsError, match="nothing is lost"):
        recover(settings, head_of(settings).note.encode())
    with a_replica(settings) as one:
        [place] = one.append(an_event())
        one.publisher.publish()

    assert () == load_shards(settings.shards_place())
    assert head_of(settings).size == place.index + 1 == 3


def test_a_recovery_that_was_cut_off_is_taken_up_again(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One next shard is begun, once, and cites the same heads."""
    settings = published(tmp_path, where)
    seen = a_lost_head(settings)

    with the_power_goes(monkeypatch, "save_shards"):
        recover(settings, seen)
    assert () == load_shards(settings.shards_place())
    with pytest.raises(SettingsError, match=f"`{NEXT}` was begun"):
        recover(settings, seen, "another")
    old, _ = recover(settings, seen)
    publish(settings, NEXT)
    linked = verify_shards(settings, old.vkey, "--json")

    assert 0 == linked.status, linked.stderr
    # Its first record, and the ends of two look-ups that were under way.
    assert [2, 3] == [one["published"] for one in linked.json["shards"]]


def test_a_recovery_that_is_done_is_done_however_often_it_is_asked_for(
    tmp_path: Path, where: str
) -> None:
    """Nothing changes: not the register, nor what either shard holds.

    Each time it says how many records of the one that was left are unpublished.
    """
    settings = published(tmp_path, where)
    unpublished(settings, 3)
    config, head = tmp_path / "settings.yaml", tmp_path / "head"
    config.write_text(f"data_dir: data\n{where}", encoding="utf-8")
    head.write_bytes(a_lost_head(settings))
    done = recover(settings, head.read_bytes())
    told = errand("audit", "recover", head, "--config", config, "--json")
    again = [
        recover(settings, a_lost_head(settings, size), name)
        for size, name in ((999, NEXT), (998, None))
    ]
    with pytest.raises(SettingsError, match=f"goes on with the shard `{NEXT}`"):
        recover(settings, head.read_bytes(), "another")
    forged = STRANGE.sign(f"{ORIGIN}\n999\n{b64(bytes(32))}\n")
    with pytest.raises(VerificationError, match="no signature"):
        recover(settings, forged.encode())
    with closing(LogReader.open(settings.log_place(NEXT))) as reader:
        size = reader.size()

    assert 0 == told.status, told.stderr
    assert [ORIGIN, f"{ORIGIN}/{NEXT}"] == [one["origin"] for one in told.json]
    assert [3, None] == [one.get("unpublished") for one in told.json]
    assert [done, done] == again
    assert done == load_shards(settings.shards_place())
    # Its first record, and the ends of two look-ups that were under way.
    assert 3 == size


def test_a_recovery_tells_people_how_many_records_nobody_can_prove(
    tmp_path: Path,
) -> None:
    """They were acknowledged, and no published head covers them: a column says so."""
    settings = published(tmp_path, "")
    unpublished(settings, 3)
    config, head = tmp_path / "settings.yaml", tmp_path / "head"
    config.write_text("data_dir: data\n", encoding="utf-8")
    head.write_bytes(a_lost_head(settings))
    told = errand("audit", "recover", head, "--name", NEXT, "--config", config)

    assert 0 == told.status, told.stderr
    assert "unpublished" == cells(told.stdout, "origin")[3]
    assert "3" == cells(told.stdout, ORIGIN)[3]
    assert "" == cells(told.stdout, f"{ORIGIN}/{NEXT}")[3]


def unpublished(settings: Settings, number: int) -> None:
    """Record some events that begin no look-up, and publish none of them."""
    with a_replica(settings) as one:
        one.append(*[an_event(subjects=(), case=None) for _ in range(number)])


def cells(table: str, first: str) -> list[str]:
    """Return the cells of the row of a printed table that begins with a word."""
    rows = [re.split("[│┃]", line) for line in table.split("\n")]
    found = [[cell.strip() for cell in row[1:]] for row in rows if len(row) > 1]
    return next(row for row in found if row[0] == first)


@pytest.mark.parametrize("step", LEAVING)
def test_a_kill_at_any_step_of_a_recovery_is_taken_up_again(
    tmp_path: Path, where: str, step: str
) -> None:
    """Whoever serves the log meanwhile records, or is told what to do: never half.

    Once the log is marked, another head changes nothing, and the name need not be said.
    """
    settings = published(tmp_path, where)
    config, head = tmp_path / "settings.yaml", tmp_path / "head"
    config.write_text(f"data_dir: data\n{where}", encoding="utf-8")
    head.write_bytes(a_lost_head(settings))
    killed = subprocess.run(
        [sys.executable, CHILD, config, step, NEXT, head],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert -signal.SIGKILL == killed.returncode
    assert () == load_shards(settings.shards_place())
    is_marked = step not in {
        "before the log is looked at",
        "before the mark is committed",
    }
    if is_marked:
        with pytest.raises(SettingsError, match="give `errand audit recover` again"):
            serve(settings)
        with pytest.raises(SettingsError, match=NEXT):
            recover(settings, a_lost_head(settings), "another")
    else:
        serve(settings)
    old, current = recover(
        settings, a_lost_head(settings, 998), None if is_marked else NEXT
    )
    publish(settings, NEXT)
    linked = verify_shards(settings, old.vkey, "--json")
    count, seen = (2, 999) if is_marked else (3, 998)

    assert 0 == linked.status, linked.stderr
    assert (NEXT, None) == (current.name, current.size)
    # Its first record, and the ends of the look-ups that were under way, once each.
    assert [count, 1 + count] == [one["published"] for one in linked.json["shards"]]
    assert {"from": ORIGIN, "left": count, "seen": seen} == (
        linked.json["shards"][1]["recovered"]
    )


def test_a_log_that_is_being_left_takes_nothing_and_is_not_sealed(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key would sign a last record over a place that a witness has seen."""
    settings, clock = published(tmp_path, where), SystemClock()

    with the_power_goes(monkeypatch, "_open_next"):
        recover(settings, a_lost_head(settings))
    with (
        a_replica(settings) as one,
        pytest.raises(LogUnavailableError, match="sealed shard"),
    ):
        one.append(an_event())
    for name in (None, NEXT, "2026h2"):
        with pytest.raises(SettingsError, match="give `errand audit recover` again"):
            asyncio.run(seal_shard(settings, clock, new_ids(clock), name))
    old, _ = recover(settings, a_lost_head(settings))

    assert 2 == old.size


def test_a_file_without_the_mark_goes_on_with_the_shard_that_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy was put back, served, and published more: what was cited stands."""
    settings = published(tmp_path, "")
    log, backup = settings.log_file, tmp_path / "backup.db"
    copy_log(log, backup)

    with the_power_goes(monkeypatch, "save_shards"):
        recover(settings, a_lost_head(settings))
    put_back(backup, log)
    serve(settings)
    with pytest.raises(SettingsError, match=f"`{NEXT}` was begun"):
        recover(settings, a_lost_head(settings), "another")
    old, _ = recover(settings, a_lost_head(settings, 998))
    publish(settings, NEXT)
    linked = verify_shards(settings, old.vkey, "--json")
    told = {"from": ORIGIN, "left": 2, "seen": 999, "lost_first": 2, "lost_last": 2}

    assert 0 == linked.status, linked.stderr
    assert [3, 4] == [one["published"] for one in linked.json["shards"]]
    assert told == linked.json["shards"][1]["recovered"]


def test_a_next_shard_without_a_table_is_begun(tmp_path: Path) -> None:
    """The power went when its file was made."""
    settings = published(tmp_path, "")
    file = settings.log_place(NEXT)
    assert isinstance(file, Path)
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as made:
        made.execute("PRAGMA journal_mode=WAL")
    _, current = recover(settings, a_lost_head(settings))

    assert NEXT == current.name


def test_more_look_ups_than_the_writer_takes_at_once_are_ended(tmp_path: Path) -> None:
    """However many were under way, the next shard says of each how it ended."""
    settings = published(tmp_path, "")
    count = Limits().outstanding
    with a_replica(settings) as one:
        for _ in range(0, count, 1024):
            one.append(*[an_event() for _ in range(1024)])
    recover(settings, a_lost_head(settings))

    assert 1 + 2 + count == len(leaves(settings.log_place(NEXT)))


@dataclass(frozen=True, slots=True)
class Before:
    """A log that has lost two of four records, and copies from before."""

    folder: Path
    vkey: str
    shards: str
    """The signed list."""

    def follow(self, copy: Path, *more: str) -> Done:
        """Verify all shards, of a copy that has the next one, and the list."""
        if not (copy / NEXT).exists():
            copytree(self.folder / "next", copy / NEXT)
        (copy / "shards").write_text(self.shards, encoding="utf-8")
        return verify_shards(copy, self.vkey, *more)


def grow(settings: Settings, size: int) -> None:
    """Bring a log to a size, and publish it."""
    with a_replica(settings) as one:
        while one.log.size < size:
            one.append(an_event())
        one.publisher.publish()


def export(settings: Settings, copy: Path, shard: str = "first") -> None:
    """Copy the pieces of a shard."""
    done = errand("audit", "export", settings.data_dir, copy, "--shard", shard)
    assert 0 == done.status, done.stderr


@pytest.fixture
def before(tmp_path: Path) -> Before:
    """Copy a log at each size, have it lose two records, and recover it.

    And copy two other histories: from the first record on, and from the second.
    """
    settings = parse_settings("data_dir: data\n", {}, tmp_path)
    keys = open_keys(settings.keys_dir, ORIGIN, entropy=os.urandom)
    for size in range(1, 5):
        grow(settings, size)
        export(settings, tmp_path / f"copy-{size}")
        copy_log(settings.log_file, tmp_path / f"{size}.db")
    seen = head_of(settings).note.encode()
    for size in (1, 2):
        put_back(tmp_path / f"{size}.db", settings.log_file)
        grow(settings, 4)
        export(settings, tmp_path / f"other-{size}")
    put_back(tmp_path / "2.db", settings.log_file)
    shards = recover(settings, seen)
    publish(settings, NEXT)
    export(settings, tmp_path / "next", NEXT)
    export(settings, tmp_path / "copy-left")
    following = load_keys(settings.keys_dir / "shards" / NEXT)
    note = sign_list(shards, [keys.log.log, following.log])
    return Before(tmp_path, keys.log.log.verifier.vkey, note)


def test_whoever_has_a_copy_from_before_the_loss_follows_and_is_told_what_is_lost(
    before: Before,
) -> None:
    """It begins with what is left, and has what was seen as far as it reaches."""
    copies = [before.folder / f"copy-{one}" for one in ("left", "2", "3", "4")]
    found = [before.follow(one, "--json") for one in copies]
    shown = before.follow(copies[-1])
    signed = ("prove", copies[-1], "--vkey", before.vkey, "--recovered", "--json")
    proved = errand("audit", *signed)
    lost = {"from": ORIGIN, "left": 2, "seen": 4}

    assert [0] * 4 == [one.status for one in found], [one.stderr for one in found]
    assert [
        lost,
        lost,
        {**lost, "lost_first": 2, "lost_last": 2},
        {**lost, "lost_first": 2, "lost_last": 3},
    ] == [one.json["shards"][1]["recovered"] for one in found]
    assert "lost_last" in shown.stdout
    assert (0, 2, 4) == (proved.status, proved.json["left"], proved.json["seen"])


def test_a_copy_that_does_not_reach_what_is_left_says_so(before: Before) -> None:
    """It can't be told whether the next shard goes on from it."""
    found = before.follow(before.folder / "copy-1")

    assert 1 == found.status
    assert "1 are here of the 2 records" in found.stderr


@pytest.mark.parametrize(("since", "cited"), [(1, 2), (2, 4)])
def test_a_copy_of_another_history_does_not_follow(
    before: Before, since: int, cited: int
) -> None:
    """It contradicts what is left, or what was seen: one log, two histories."""
    found = before.follow(before.folder / f"other-{since}")

    assert 1 == found.status
    assert f"contradicts the head of {cited} records" in found.stderr


def test_a_log_that_goes_on_twice_is_convicted_by_what_it_shows(tmp_path: Path) -> None:
    """Whoever sees one of the two shards gets a note; both notes together accuse it."""
    settings = published(tmp_path, "")
    keys = load_keys(settings.keys_dir / "log")
    twin = settings.model_copy(update={"data_dir": tmp_path / "twin"})
    copytree(settings.data_dir, twin.data_dir)
    told = []
    for number, one in enumerate((settings, twin)):
        name, note = f"shard-{number}", tmp_path / f"note-{number}"
        recover(one, a_lost_head(one), name)
        publish(one, name)
        made = ("prove", one.data_dir, "--vkey", keys.log.verifier.vkey, "--recovered")
        shown = errand("audit", *made)
        note.write_text(shown.stdout, encoding="utf-8")
        told.append((shown.status, note, errand("audit", *made, "--json").json))
    forged = tmp_path / "forged"
    forged.write_bytes(told[0][1].read_bytes().replace(b"999#", b"998#"))
    with_keys = (
        *("--key", keys.log.verifier.vkey),
        *("--receipt-key", keys.receipt.verifier.vkey),
    )
    (_, first, one_json), (_, second, other_json) = told
    convicted = errand("audit", "accuse", first, second, *with_keys)
    alone = errand("audit", "accuse", first, first, *with_keys)
    refused = errand("audit", "accuse", first, forged, *with_keys)

    assert [0, 0] == [status for status, _, _ in told]
    assert (1, "") == (convicted.status, convicted.stderr)
    assert one_json["vkey"] != other_json["vkey"]
    for shown in (one_json, other_json):
        assert (2, 999) == (shown["left"], shown["seen"])
        assert f"{shown['vkey']}" in convicted.stdout
    assert "two shards that go on from it after a loss: " in convicted.stdout
    assert (2, "") == (alone.status, alone.stdout)
    assert (2, "") == (refused.status, refused.stdout)
    assert "the signature of `errand.example/990100/log` does not hold" in (
        refused.stderr
    )


def test_a_log_that_lost_nothing_has_no_note_of_it(tmp_path: Path) -> None:
    """Neither while it is written to, nor when it was sealed in the open."""
    settings, clock = published(tmp_path, ""), SystemClock()
    key = signer_of(settings).verifier.vkey
    asked = ("audit", "prove", settings.data_dir, "--vkey", key, "--recovered")
    written = errand(*asked)
    asyncio.run(seal_shard(settings, clock, new_ids(clock), "2026h2"))
    publish(settings, "2026h2")
    sealed = errand(*asked)

    assert (2, 2) == (written.status, sealed.status)
    assert "no shard goes on from a loss of it" in written.stderr
    assert written.stderr == sealed.stderr
