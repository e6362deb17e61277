"""Shards: sealed while the gateway is down, linked, frozen, and proved for good."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.engine_sqlite import copy_log
from audit.keys import load_keys
from audit.note import Checkpoint, Signer, b64, open_checkpoint, parse_vkey
from audit.proving import open_tree
from audit.publisher import Publisher
from audit.receipt import parse_proof, verify_proof, verify_receipt
from audit.record import Kind, read_leaf
from audit.register import load_shards
from audit.sealing import Sealer
from audit.shards import Shard, read_list, sign_list
from audit.store import LogReader
from audit.subjects import SubjectDirectory
from audit.verify import verify_log
from audit.writer import AuditLog
from exchange.keys import open_keys
from exchange.recording import data_folder
from exchange.rollover import prepare_shard, recover_shard, seal_shard
from exchange.settings import Settings, parse_settings
from schemas.clock import SystemClock
from schemas.errors import (
    LogUnavailableError,
    SettingsError,
    UnverifiableError,
    VerificationError,
)
from schemas.ids import new_ids
from tests.audit.examples import an_event, pieces_of_size
from tests.harness.application import AUDITOR, MOTHER, OPERATOR, PORTAL, Site, a_site

ORIGIN = "errand.example/990100/log"
NEXT = "2026h2"
BECAUSE = "file-2026-118"
WHO = {"errand-subject": f"citizen_id:{MOTHER}"}


def settings_in(folder: Path) -> Settings:
    """Return the settings of a data folder."""
    return parse_settings("data_dir: data", {}, folder)


def seal(folder: Path, name: str = NEXT) -> tuple[Shard, ...]:
    """Seal the current shard of a data folder."""
    clock = SystemClock()
    return tuple(
        asyncio.run(seal_shard(settings_in(folder), clock, new_ids(clock), name))
    )


def leaves(place: Path) -> list[Any]:
    """Return the leaves of a log."""
    with closing(LogReader.open(place)) as reader:
        return [read_leaf(one.leaf) for one in reader.entries(0, reader.size())]


@contextmanager
def a_log(folder: Path) -> Iterator[tuple[AuditLog, Publisher]]:
    """Open the first shard of a data folder without a gateway."""
    settings = settings_in(folder)
    keys = load_keys(settings.keys_dir / "log")
    directory = SubjectDirectory(settings.subjects_place(), keys.directory)
    sealer = Sealer(keys.origin, keys.shard, directory)
    log = AuditLog(settings.log_place(), sealer, keys.receipt)
    publisher = Publisher(log, keys.log, SystemClock())
    try:
        yield log, publisher
    finally:
        publisher.stop()
        log.close()
        directory.close()


def begun(folder: Path) -> Settings:
    """Return the settings of a data folder whose log has a few records."""
    settings = settings_in(folder)
    settings.data_dir.mkdir()
    open_keys(settings.keys_dir, ORIGIN, entropy=os.urandom)
    with a_log(folder) as (log, publisher):
        asyncio.run(log.append([an_event() for _ in range(3)]))
        publisher.publish()
    return settings


@dataclass(frozen=True, slots=True)
class Before:
    """What was there before the first shard was sealed."""

    folder: Path
    vkey: str
    receipt_vkey: str
    case: dict[str, Any]
    opened: str
    """The record of the case's opening."""
    receipt: str
    checkpoint: Checkpoint
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    """Run a gateway, open a case, stop it in the middle, and seal its shard."""
    folder = tmp_path_factory.mktemp("site")
    with a_site(folder) as site:
        case = site.open_case(site.client(PORTAL))
        rows = records(site)
        [opened] = [row["event"] for row in rows if row["kind"] == "case.opened"]
        receipt = site.client(AUDITOR).get(f"/v1/receipts/{opened}").json()["receipt"]
        vkey, receipt_vkey = site.client(None).get("/log/keys").text.split()
        (folder / "token").write_text(site.token(AUDITOR).json()["access_token"])
    with a_log(folder) as (log, _):
        # What a gateway leaves behind that was killed in the middle of a look-up.
        asyncio.run(log.append([an_event(case=case["id"])]))
    shards = seal(folder)
    sealed, _ = shards
    assert sealed.size is not None
    head = Checkpoint(ORIGIN, sealed.size, b"")
    return Before(folder, vkey, receipt_vkey, case, opened, receipt, head, rows)


def records(site: Site, **params: str | int) -> list[dict[str, Any]]:
    """Return all rows about the mother, page by page."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while not found or after is not None:
        asked = {**params, **({} if after is None else {"after": after})}
        auditor = site.client(AUDITOR)
        page = auditor.get("/v1/audit/records", params=asked, headers=WHO).json()
        found += page["records"]
        after = page["next"]
    return found


@pytest.fixture(scope="module")
def site(before: Before) -> Iterator[Site]:
    """Run the gateway again, on the next shard."""
    for file in (before.folder / "deployment").iterdir():
        file.unlink()
    (before.folder / "deployment").rmdir()
    with a_site(before.folder) as running:
        yield running


def test_the_sealed_shard_names_the_next_and_is_named_by_it(before: Before) -> None:
    """Its last record has the next key, the next one's first its size and root."""
    settings = settings_in(before.folder)
    sealed, current = load_shards(settings.shards_file)
    first = leaves(settings.data_dir / "log.db")
    second = leaves(settings.data_dir / "shards" / NEXT / "log.db")
    final, genesis = first[-1], second[0]
    verified = verify_log(settings.data_dir / "log.db", before.vkey)

    assert (ORIGIN, f"{ORIGIN}/{NEXT}") == (sealed.origin, current.origin)
    assert (Kind.SHARD_FINAL, current.origin, current.vkey) == (
        final.kind, final.correlation, final.policy,
    )  # fmt: skip
    assert (Kind.SHARD_GENESIS, f"{ORIGIN}#{sealed.size}#{sealed.root}") == (
        genesis.kind, genesis.correlation,
    )  # fmt: skip
    assert len(first) == sealed.size == verified.published
    assert (sealed.root, 0) == (verified.root, verified.open_attempts)
    assert "interrupted" == first[-2].outcome
    place = settings.data_dir / "shards" / NEXT / "log.db"
    opened = verify_log(
        place, current.vkey, keys=load_keys(settings.keys_dir / "shards" / NEXT)
    )
    assert opened.sections == opened.sections_opened > 0


def test_a_sealed_shard_takes_no_record(tmp_path: Path) -> None:
    """Whoever opens its file can append nothing, and what was signed stays."""
    begun(tmp_path)
    seal(tmp_path)
    with a_log(tmp_path) as (log, publisher):
        size = log.size
        with pytest.raises(LogUnavailableError, match="sealed"):
            asyncio.run(log.append([an_event()]))
        publisher.publish()

        assert size == log.size == publisher.published


def test_a_receipt_of_the_sealed_shard_is_proved_as_before(
    before: Before, site: Site
) -> None:
    """The same receipt, and a proof under the sealed shard's own last checkpoint."""
    auditor = site.client(AUDITOR)
    again = auditor.get(f"/v1/receipts/{before.opened}").json()
    record = auditor.get(f"/v1/audit/records/{before.opened}").json()
    proof = parse_proof(again["proof"])
    promised = verify_receipt(
        again["receipt"].encode(), parse_vkey(before.receipt_vkey)
    )
    head = verify_proof(proof, record["leaf"].encode(), parse_vkey(before.vkey))

    assert before.receipt == again["receipt"]
    assert promised.index == proof.index
    assert before.checkpoint.size == head.size


def test_a_sealed_shard_is_served_for_good(before: Before, site: Site) -> None:
    """Every piece of it, under its name; the log's own address has the next one."""
    auditor, anyone = site.client(AUDITOR), site.client(None)
    note = anyone.get("/log/shards/first/checkpoint").content
    head = open_checkpoint(note, parse_vkey(before.vkey))
    now = anyone.get("/log/checkpoint").text

    assert before.checkpoint.size == head.size
    assert now.startswith(f"{ORIGIN}/{NEXT}\n")
    for piece in pieces_of_size(head.size):
        assert 200 == auditor.get(f"/log/shards/first/{piece.path}").status_code
    assert 404 == anyone.get("/log/shards/2031h1/checkpoint").status_code
    assert 404 == anyone.get("/log/shards/first/tile/0/001").status_code


def test_where_the_next_shard_is_shown_the_sealed_ones_key_verifies_nothing(
    before: Before, site: Site
) -> None:
    """Nobody broke a promise: the command ends with 2, and says what to name."""
    head = site.client(None).get("/log/checkpoint").content
    verifier = parse_vkey(before.vkey)
    with pytest.raises(UnverifiableError, match="--shard first"):
        open_tree({"checkpoint": head}.get, verifier)


def test_the_list_of_shards_is_signed_with_each_key(before: Before, site: Site) -> None:
    """Whoever knows one shard's key learns the others; a strange key learns none."""
    note = site.client(None).get("/log/shards").content
    current = parse_vkey(site.client(None).get("/log/keys").text.split()[0])
    told = read_list(note, parse_vkey(before.vkey))

    assert told == read_list(note, current)
    assert [ORIGIN, f"{ORIGIN}/{NEXT}"] == [shard.origin for shard in told]
    assert [before.checkpoint.size, None] == [shard.size for shard in told]
    with pytest.raises(VerificationError):
        read_list(note, Signer(ORIGIN, bytes(32)).verifier)
    with pytest.raises(VerificationError):
        read_list(note.replace(b" - -", b" 9 9"), current)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_question_goes_over_all_shards(
    before: Before, site: Site, limit: int
) -> None:
    """Page by page, the newest first, and nothing twice or left out."""
    found = [(row["log"], row["index"]) for row in records(site, limit=limit)]
    earlier = [one for one in found if one[0] == ORIGIN]

    assert len(found) == len(set(found))
    assert found == sorted(found, key=lambda one: (len(one[0]), one[1]), reverse=True)
    assert {(ORIGIN, row["index"]) for row in before.rows} <= set(earlier)
    assert len(found) > len(earlier)


def test_a_case_goes_on_over_the_boundary(before: Before, site: Site) -> None:
    """What was cut off is ended in the sealed shard; new attempts are in the next."""
    portal = site.client(PORTAL)
    path = f"/v1/cases/{before.case['id']}"
    portal.headers["authorization"] = (
        f"Bearer {site.token(PORTAL).json()['access_token']}"
    )
    answer = portal.post(f"{path}/resolve", headers={"prefer": "wait=0"})

    assert answer.is_success, answer.text
    assert before.case["id"] == answer.json()["id"]
    assert 204 >= portal.post(f"{path}/close").status_code


def test_destroying_a_shards_key_closes_all_of_it_at_once(
    before: Before, site: Site
) -> None:
    """A hold forbids it; then one file goes, and proofs and questions stay."""
    auditor, operator = site.client(AUDITOR), site.client(OPERATOR)
    body = {"shard": ORIGIN, "reason": BECAUSE}
    current = {**body, "shard": f"{ORIGIN}/{NEXT}"}
    path = f"/v1/audit/records/{before.opened}"
    readable = auditor.get(path).json()["sections"]
    key = before.folder / "data" / "keys" / "log" / "shard.key"
    secret = key.read_text("ascii").strip()
    hold = auditor.post("/v1/audit/holds", json=body).json()["event"]
    held = operator.post("/v1/audit/erasures", json=body)
    auditor.post(f"/v1/audit/holds/{hold}/release", json={"reason": BECAUSE})
    statuses = [
        operator.post("/v1/audit/erasures", json=one).status_code
        for one in (current, {**body, "shard": "nobody.example/log"}, body)
    ]
    record = auditor.get(path).json()
    proved = auditor.get(f"/v1/receipts/{before.opened}.tlog-proof")
    files = [file for file in before.folder.rglob("*") if file.is_file()]

    assert {"subject", "matter"} <= readable.keys()
    assert 409 == held.status_code
    assert [409, 404, 201] == statuses
    assert not key.exists()
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert ({}, 200) == (record["sections"], proved.status_code)
    assert record["erased"] is not None
    assert records(site)


def test_a_crash_in_between_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done before it stands, and the same command goes on."""
    settings = begun(tmp_path)

    def crash(*_: object) -> None:
        raise OSError("the power went")

    monkeypatch.setattr("exchange.rollover.save_shards", crash)
    with pytest.raises(OSError, match="power"):
        seal(tmp_path)
    size = len(leaves(settings.log_file))
    assert () == load_shards(settings.shards_file)
    monkeypatch.undo()
    sealed, current = seal(tmp_path)

    assert size == sealed.size
    assert 1 == len(leaves(settings.data_dir / "shards" / NEXT / "log.db"))
    assert (
        f"{sealed.origin}#{size}#{sealed.root}"
        == leaves(settings.data_dir / "shards" / NEXT / "log.db")[0].correlation
    )
    with pytest.raises(SettingsError, match="already"):
        seal(tmp_path)
    assert ["2027h1", NEXT] == [shard.name for shard in seal(tmp_path, "2027h1")][:0:-1]
    assert current.origin == load_shards(settings.shards_file)[1].origin


def test_no_shard_is_sealed_under_a_running_gateway(tmp_path: Path) -> None:
    """Its data folder is held."""
    settings = begun(tmp_path)
    taken = pytest.raises(SettingsError, match="another gateway")
    with data_folder(settings), taken:
        seal(tmp_path)


def test_a_prepared_key_is_the_next_shards(tmp_path: Path) -> None:
    """So that witnesses can add it before the shard is sealed."""
    settings, clock = begun(tmp_path), SystemClock()
    told = prepare_shard(settings, clock, NEXT)
    again = prepare_shard(settings, clock, NEXT)
    _, current = seal(tmp_path)

    assert told == again == current.vkey


def test_a_log_that_lost_what_a_witness_saw_is_recovered_in_the_open(
    tmp_path: Path,
) -> None:
    """The recovery shard's first record cites what is left and what was seen."""
    settings, clock = begun(tmp_path), SystemClock()
    copy_log(settings.log_file, tmp_path / "backup.db")
    with a_log(tmp_path) as (log, publisher):
        asyncio.run(log.append([an_event()]))
        head = publisher.publish()
    assert head is not None
    seen = head.note.encode()
    args = (settings, clock, new_ids(clock), seen, "2026h1-recovery")
    with pytest.raises(SettingsError, match="nothing is lost"):
        asyncio.run(recover_shard(*args))
    for file in settings.data_dir.glob("log.db*"):
        file.unlink()
    (tmp_path / "backup.db").rename(settings.log_file)
    lost, current = asyncio.run(recover_shard(*args)).shards
    [genesis, *_] = leaves(settings.data_dir / "shards" / current.name / "log.db")
    vkey = parse_vkey(lost.vkey)
    checkpoint = open_checkpoint(seen, vkey)

    assert (Kind.SHARD_GENESIS, "recovered") == (genesis.kind, genesis.outcome)
    assert f"{ORIGIN}#{lost.size}#{lost.root}" == genesis.correlation
    assert (
        f"{checkpoint.size}#{b64(checkpoint.root)}" == genesis.policy.rpartition("#")[0]
    )
    assert lost.size is not None
    assert lost.size < checkpoint.size


def test_a_list_is_read_as_it_was_signed() -> None:
    """Sealed shards with size and root, the current one without."""
    keys = [Signer(f"log.example/{n}", bytes([n]) * 32) for n in (1, 2)]
    shards = (
        Shard("log.example/1", "", keys[0].verifier.vkey, 7, b64(bytes(32))),
        Shard("log.example/2", "", keys[1].verifier.vkey),
    )
    note = sign_list(shards, keys).encode()

    assert shards == read_list(note, keys[0].verifier)
    assert shards == read_list(note, keys[1].verifier)
