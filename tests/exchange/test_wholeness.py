"""A data folder of which a file is missing: nothing is made in its place."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from audit.keys import load_keys
from audit.places import open_sql
from audit.register import load_shards
from audit.shards import Shard
from audit.store import RECEIPTS, LogReader
from audit.subjects import SubjectDirectory
from audit.verify import verify_log
from exchange.keys import open_keys, shard_keys
from exchange.migrations.schema import Part, upgrade
from exchange.opening import opened
from exchange.recording import open_gateway_keys, open_log, open_sealer, open_shelf
from exchange.settings import Settings, parse_settings
from exchange.telemetry import Metrics
from exchange.wholeness import check_whole
from schemas.clock import SystemClock
from schemas.errors import SettingsError, VerificationError
from tests.exchange.test_sealing_outside import begun, seal
from tests.harness.application import PORTAL, a_site
from tests.harness.postgres import Databases

STORES = ("errand.db", "vault.db", "log.db", "subjects.db", "erasures.db")
KEYS = ("lookup.pem", "token.pem", "master.key", "log/log.key", "log/subjects.key")

FITTING = (
    "master.key",
    "log/log.key",
    "log/receipt.key",
    "log/shard.key",
    "log/subjects.key",
)
"""Keys with which something was locked or signed that is stored, or handed out."""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of a gateway that has run and has a case."""
    folder = tmp_path_factory.mktemp("used")
    with a_site(folder) as site:
        site.open_case(site.client(PORTAL))
    return folder / "data"


@pytest.fixture
def copied(used: Path, tmp_path: Path) -> Settings:
    """Return the settings of a copy of it."""
    shutil.copytree(used, tmp_path / "data")
    return settings_of(tmp_path)


def settings_of(folder: Path, more: str = "") -> Settings:
    """Return the settings of a data folder."""
    return parse_settings(f"data_dir: data\n{more}", {}, folder)


def opening(settings: Settings) -> None:
    """Open the keys as a gateway does when it starts."""
    open_gateway_keys(settings, load_shards(settings.shards_place()))


def files_of(settings: Settings) -> list[Path]:
    """Return all that is in a data folder, in order.

    Whoever opens a database to read it may leave a journal and an index of it behind.
    """
    found = settings.data_dir.rglob("*")
    return sorted(one for one in found if not one.name.endswith(("-wal", "-shm")))


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_missing_is_named_and_not_made_anew(
    copied: Settings, name: str, *, cut: bool
) -> None:
    """Gone, or cut to nothing: an empty one in its place would answer falsely."""
    file = copied.data_dir / name
    file.unlink()
    if cut:
        file.touch()
    with pytest.raises(SettingsError, match=f"lacks .*{name}`: put it back from the"):
        opening(copied)

    assert cut == file.exists()


@pytest.mark.parametrize("url", ["sqlite:///{}?timeout=30", "sqlite+pysqlite:///{}"])
def test_a_file_is_looked_for_where_its_url_has_it_opened(
    copied: Settings, url: str
) -> None:
    """However the URL is written: what is there is found, what is gone is missed."""
    tables, vault = (copied.data_dir / name for name in STORES[:2])
    more = f"database_url: {url.format(tables)}\nvault_url: {url.format(vault)}\n"
    named = settings_of(copied.data_dir.parent, more)
    opening(named)
    for file in (tables, vault):
        moved = file.rename(file.with_suffix(".away"))
        with pytest.raises(SettingsError, match=rf"lacks `{file}`: put it back"):
            opening(named)
        moved.rename(file)


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_missing_is_named_and_not_made_anew(
    copied: Settings, name: str
) -> None:
    """What the lost one locked would stay shut, and what it signed would be another's.

    It names the folder, which may be one that is not mounted.
    """
    (copied.keys_dir / name).unlink()
    with pytest.raises(SettingsError, match=f"`{copied.keys_dir}` lacks `{name}`"):
        opening(copied)

    assert not (copied.keys_dir / name).exists()


@pytest.mark.parametrize("command", [("serve",), ("keys", "make")])
def test_no_command_makes_keys_where_the_folder_is_not_there(
    copied: Settings, command: tuple[str, ...]
) -> None:
    """An unmounted volume: one line says so, and no more; status 2, nothing is made."""
    shutil.rmtree(copied.keys_dir)
    config = copied.data_dir.parent / "errand.yaml"
    config.write_text("data_dir: data\nlisten_port: 1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "exchange", *command, "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    [told] = done.stderr.splitlines()
    assert 2 == done.returncode
    assert "lacks `lookup.pem`" in told
    assert not (copied.keys_dir / "lookup.pem").exists()


@pytest.mark.parametrize("name", ["log-index.db", "work.db"])
def test_what_can_be_made_anew_is_not_missed(copied: Settings, name: str) -> None:
    """The index follows the log, and waiting work stands in due rows."""
    (copied.data_dir / name).unlink()
    before = files_of(copied)
    opening(copied)

    assert before == files_of(copied)


def make_tables(settings: Settings) -> None:
    """Make the tables of cases."""
    upgrade(settings.tables_url(), Part.TABLES)


def make_vault(settings: Settings) -> None:
    """Make the tables of keys of cases."""
    upgrade(settings.vault_tables_url(), Part.VAULT)


def make_subjects(settings: Settings) -> None:
    """Make the subject directory."""
    keys = open_keys(settings.keys_dir, settings.log_origin, entropy=None)
    SubjectDirectory(settings.subjects_place(), keys.log.directory).close()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_first_start_that_was_killed_goes_on(tmp_path: Path, count: int) -> None:
    """However many of the stores it has made, and of the keys: all are empty."""
    settings = settings_of(tmp_path)
    (tmp_path / "data").mkdir()
    opening(settings)
    made: list[Callable[[Settings], None]] = [make_tables, make_vault, make_subjects]
    for make in made[:count]:
        make(settings)
    (settings.keys_dir / "token.pem").unlink()
    opening(settings)

    assert (settings.keys_dir / "token.pem").exists()


def test_a_log_that_is_not_at_its_server_any_more_is_not_begun_anew(
    copied: Settings, databases: Databases
) -> None:
    """Under the same keys it would sign a second history; its people would be new."""
    for part in ("log", "subjects", "erasures"):
        moved = settings_of(copied.data_dir.parent, f"{part}_url: {databases.empty()}")
        with pytest.raises(SettingsError, match=f"lacks `errand_{part}`: put it back"):
            opening(moved)


def test_a_server_that_has_nothing_yet_is_a_first_start(
    tmp_path: Path, databases: Databases
) -> None:
    """Nothing is missing while nothing is there."""
    settings = settings_of(tmp_path, f"log_url: {databases.empty()}")
    opening(settings)

    assert (settings.keys_dir / "token.pem").exists()


def test_a_shard_whose_file_or_key_is_missing_is_not_begun_anew(
    copied: Settings,
) -> None:
    """Neither the sealed ones nor the current one, with the keys of that."""
    shards = (Shard("log.example", "", ""), Shard("log.example/2027", "2027", ""))
    later = copied.data_dir / "shards" / "2027"
    with pytest.raises(SettingsError, match=r"lacks .*shards/2027/log\.db`"):
        check_whole(copied, shards)
    later.mkdir(parents=True)
    (copied.data_dir / "log.db").rename(later / "log.db")
    with pytest.raises(SettingsError, match=r"lacks `[^`]*data/log\.db`"):
        check_whole(copied, shards)
    shutil.copy(later / "log.db", copied.data_dir / "log.db")
    with pytest.raises(SettingsError, match=r"lacks `shards/2027/log\.key`"):
        check_whole(copied, shards)


def test_no_key_is_made_beside_keys_of_cases_whatever_the_log_holds(
    copied: Settings,
) -> None:
    """Keys of cases may be there before the first record: they need the master key."""
    with closing(open_sql(copied.data_dir / "log.db")) as sql, sql.transaction() as one:
        one.change("DROP TRIGGER entry_is_never_removed")
        one.change("DELETE FROM entry")
    (copied.keys_dir / "master.key").unlink()
    with pytest.raises(SettingsError, match=r"lacks `master\.key`"):
        opening(copied)


def test_what_can_not_be_read_is_told_by_whoever_opens_it(copied: Settings) -> None:
    """It is there, and may hold anything: nothing is made beside it."""
    damaged = copied.data_dir / "errand.db"
    damaged.write_bytes(b"no database" * 400)
    opening(copied)
    for name in STORES[1:]:
        (copied.data_dir / name).unlink()
    with pytest.raises(SettingsError, match=r"has `errand\.db` and lacks"):
        opening(copied)


def test_on_a_server_too_keys_and_directory_are_not_made_anew(
    tmp_path: Path, databases: Databases
) -> None:
    """The log has records: neither may its keys be others, nor its people nobody."""
    settings = begun(tmp_path, f"log_url: {databases.empty()}\n")
    kept = tmp_path / "kept.key"
    shutil.move(settings.keys_dir / "master.key", kept)
    with pytest.raises(SettingsError, match=r"lacks `master\.key`"):
        opening(settings)
    shutil.move(kept, settings.keys_dir / "master.key")
    with closing(open_sql(settings.subjects_place())) as sql, sql.transaction() as one:
        one.change("DROP TABLE subject")
    with pytest.raises(SettingsError, match="no `subject` in `errand_subjects`"):
        opening(settings)


def started(settings: Settings) -> None:
    """Start a gateway, and stop it again."""

    async def start() -> None:
        async with opened(settings, SystemClock(), Metrics()):
            pass

    asyncio.run(start())


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the keys of another installation of the same name."""
    folder = tmp_path_factory.mktemp("others") / "keys"
    open_keys(folder, Settings().log_origin, entropy=os.urandom)
    return folder


@pytest.mark.parametrize("name", FITTING)
def test_a_key_of_another_installation_is_refused_by_its_name(
    copied: Settings, others: Path, name: str
) -> None:
    """It would find nobody, lock under itself, or sign what is another log's."""
    shutil.copy(others / name, copied.keys_dir / name)
    with pytest.raises(SettingsError, match=f"with this `{Path(name).name}`: put back"):
        started(copied)


def test_with_its_own_keys_a_gateway_starts_again(copied: Settings) -> None:
    """Also when nobody is left whom the directory knows: all of them were erased."""
    before = files_of(copied)
    started(copied)
    with closing(open_sql(copied.subjects_place())) as sql, sql.transaction() as one:
        one.change("DELETE FROM subject")
    started(copied)

    assert before == files_of(copied)


@pytest.mark.parametrize("name", ["log/subjects.key", "log/shard.key"])
def test_on_a_server_too_a_key_of_another_installation_is_refused(
    tmp_path: Path, databases: Databases, others: Path, name: str
) -> None:
    """The same rows are opened there."""
    settings = begun(tmp_path, f"log_url: {databases.empty()}\n")
    shutil.copy(others / name, settings.keys_dir / name)
    with pytest.raises(SettingsError, match=f"with this `{Path(name).name}`: put back"):
        started(settings)


def change_log(settings: Settings, statement: str) -> None:
    """Change a log behind its gateway's back."""
    with closing(open_sql(settings.log_place(""))) as sql, sql.transaction() as one:
        one.change(statement)


def logged(settings: Settings) -> None:
    """Open the log as a gateway does when it starts, and close it again."""
    shards = load_shards(settings.shards_place())
    keys = open_gateway_keys(settings, shards, None)
    shard = shards[-1].name if shards else ""
    with ExitStack() as stack:
        sealer = open_sealer(settings, keys.log, stack)
        open_shelf(settings, shards, sealer, stack)
        open_log(settings, keys, sealer, SystemClock(), shard, stack)


def receipts_of(settings: Settings, shard: str = "") -> tuple[str, int]:
    """Return the key of receipts that a log knows, and how many records it has."""
    with closing(LogReader.open(settings.log_place(shard))) as reader:
        return reader.meta()[RECEIPTS], reader.size()


def check_taken(settings: Settings, others: Path) -> None:
    """Check that a log that knows no key of receipts takes the one it starts with."""
    change_log(settings, "DELETE FROM meta WHERE name = 'receipts'")
    logged(settings)
    shutil.copy(others / "log/receipt.key", settings.keys_dir / "log/receipt.key")
    with pytest.raises(SettingsError, match=r"with this `receipt\.key`: put"):
        logged(settings)


def test_a_log_that_does_not_say_whose_its_receipts_are_takes_the_key_it_has(
    copied: Settings, tmp_path: Path, databases: Databases, others: Path
) -> None:
    """One from before it said so, at its first start; from then on it knows."""
    check_taken(copied, others)
    on_server = tmp_path / "on_server"
    on_server.mkdir()
    check_taken(begun(on_server, f"log_url: {databases.empty()}\n"), others)


@pytest.mark.parametrize("name", ["log/log.key", "log/shard.key"])
def test_a_log_takes_no_key_of_receipts_beside_another_one_of_its_own(
    copied: Settings, others: Path, name: str
) -> None:
    """A whole folder of another installation is refused, and leaves no trace."""
    change_log(copied, "DELETE FROM meta WHERE name = 'receipts'")
    kept = shutil.copytree(copied.keys_dir / "log", copied.data_dir.parent / "kept")
    for file in (name, "log/receipt.key"):
        shutil.copy(others / file, copied.keys_dir / file)
    with pytest.raises(SettingsError, match=f"with this `{Path(name).name}`: put back"):
        logged(copied)
    shutil.copytree(kept, copied.keys_dir / "log", dirs_exist_ok=True)
    logged(copied)


def test_before_the_first_record_any_key_of_receipts_is_the_right_one(
    tmp_path: Path, databases: Databases, others: Path
) -> None:
    """A first start that was killed goes on, whichever keys are made by then."""
    for more in "", f"log_url: {databases.empty()}\n":
        settings = settings_of(tmp_path, more)
        opening(settings)
        logged(settings)
        shutil.copy(others / "log/receipt.key", settings.keys_dir / "log/receipt.key")
        logged(settings)
        keys = load_keys(settings.keys_dir / "log")

        assert (keys.receipt.verifier.vkey, 0) == receipts_of(settings)


def test_a_sealed_shard_knows_its_receipts_and_so_does_the_next(
    copied: Settings, others: Path
) -> None:
    """They are signed again when somebody asks for one; the next has a key of its own.

    It knows that from its first record on.
    """
    *_, shard = seal(copied)
    keys = load_keys(shard_keys(copied.keys_dir, shard.name))
    known, _ = receipts_of(copied, shard.name)
    shutil.copy(others / "log/receipt.key", copied.keys_dir / "log/receipt.key")
    with pytest.raises(
        SettingsError, match=r"receipts of `.*log` are not .*receipt\.key"
    ):
        logged(copied)

    assert keys.receipt.verifier.vkey == known


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE checkpoint SET note = replace(note, 'errand', 'erranD')",
        "UPDATE checkpoint SET size = size + 1",
    ],
)
def test_a_damaged_last_head_is_told_as_damage(copied: Settings, change: str) -> None:
    """No key would verify it: whoever looked for another one would look in vain."""
    change_log(copied, change)
    with pytest.raises(SettingsError, match="last head is damaged: restore") as refused:
        logged(copied)

    assert "log.key" not in str(refused.value)


def test_damaged_records_are_no_sign_of_another_key(copied: Settings) -> None:
    """However many: a head that was signed with the key says that it is the one."""
    change_log(copied, "UPDATE entry SET sealed = zeroblob(length(sealed))")
    logged(copied)


def test_a_damaged_key_of_receipts_is_told_as_damage(copied: Settings) -> None:
    """The one in the log: the key's file is the right one."""
    change_log(copied, "UPDATE meta SET value = 'x' || value WHERE name = 'receipts'")
    with pytest.raises(
        SettingsError, match="`receipts` of the log's `meta` is damaged"
    ):
        logged(copied)
    vkey = load_keys(copied.keys_dir / "log").log.verifier.vkey
    with pytest.raises(VerificationError, match="meta: `receipts` is no key"):
        verify_log(copied.log_file, vkey)


@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize("name", [*STORES, "work.db"])
def test_a_store_that_is_damaged_is_named_with_what_helps(
    copied: Settings, name: str, *, is_cut: bool
) -> None:
    """Its beginning overwritten, or its end gone: one line, and nothing is begun."""
    file = copied.data_dir / name
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = file.read_bytes()
    half = content[: len(content) // 2]
    file.write_bytes(half if is_cut else bytes(64) + content[64:])
    with pytest.raises(SettingsError, match=rf"{name}` .*(damaged|can't be opened)"):
        started(copied)
