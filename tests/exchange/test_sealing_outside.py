"""Sealing in the sight of others: witnesses, a store of tiles, an authority's stamp."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from audit.cosigning import cosigned_by
from audit.keys import load_keys
from audit.note import Checkpoint, Signer, open_checkpoint, parse_vkey
from audit.objects import Objects, open_objects
from audit.policy import parse_policy
from audit.record import Event, Kind, Leaf, read_leaf
from audit.register import load_shards
from audit.served import CHECKPOINT
from audit.shards import Lost, Shard, final_event, genesis_event, recovery_event
from audit.store import LogReader
from audit.witness import Reply
from exchange.keys import open_keys
from exchange.rollover import prepare_shard, seal_shard
from exchange.settings import Settings, parse_settings
from schemas.clock import SystemClock
from schemas.errors import (
    LogUnavailableError,
    StoreMovedError,
    StoreUnavailableError,
    VerificationError,
)
from schemas.ids import EventId, new_ids
from tests.audit.examples import an_event, pieces_of_size
from tests.exchange.test_shards_on_postgres import a_replica
from tests.harness.application import a_site
from tests.harness.commands import errand
from tests.harness.postgres import Databases
from tests.harness.s3 import ENVIRONMENT, S3, s3_server
from tests.harness.tsa import Authority, an_authority
from tests.harness.witnesses import Served, a_witness, an_answerer

ORIGIN = "errand.example/990100/log"
NEXT = "2026h2"
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed: no authority"
)


def seal(settings: Settings) -> list[Shard]:
    """Seal the current shard, without waiting for anybody."""
    clock = SystemClock()
    sealing = seal_shard(settings, clock, new_ids(clock), NEXT, patience_s=0)
    return list(asyncio.run(sealing))


def begun(folder: Path, more: str = "") -> Settings:
    """Return the settings of a data folder whose log has a few records."""
    settings = parse_settings(f"data_dir: data\n{more}", {}, folder)
    open_keys(settings.keys_dir, ORIGIN, entropy=os.urandom)
    with a_replica(settings) as one:
        one.append(an_event(), an_event())
    return settings


def kinds(settings: Settings, shard: str = "") -> list[Kind]:
    """Return the kinds of the records in a shard."""
    with closing(LogReader.open(settings.log_place(shard))) as reader:
        entries = reader.entries(0, reader.size())
        return [read_leaf(one.leaf).kind for one in entries]


def check_not_moved(settings: Settings) -> None:
    """Check that the old shard is sealed, and that no next one was begun."""
    assert Kind.SHARD_FINAL == kinds(settings)[-1]
    assert () == load_shards(settings.shards_place())
    assert not (settings.data_dir / "shards").exists()


def a_policy(folder: Path, *witnesses: Served, quorum: str) -> str:
    """Write a policy that wants so many of these witnesses; return what names it."""
    lines = [one.line for one in witnesses]
    names = " ".join(one.name for one in witnesses)
    text = "\n".join([*lines, f"group enough {quorum} {names}", "quorum enough", ""])
    (folder / "our.policy").write_text(text, encoding="utf-8")
    return text


def test_a_shard_is_sealed_under_a_quorum_and_not_before(tmp_path: Path) -> None:
    """With too few who told what they saw, nothing is sealed.

    With too few who cosign it stays sealed and unfinished; then it is given again. The
    last head is cosigned by both, and the next shard's by those who know its key.
    """
    settings = begun(tmp_path, "witness_policy: our.policy\n")
    log = load_keys(settings.keys_dir / "log").log.verifier
    following = parse_vkey(prepare_shard(settings, SystemClock(), NEXT))
    with a_witness("one", tmp_path / "1.db", log, following) as one:
        with a_witness("two", tmp_path / "2.db", log) as two:
            policy = a_policy(tmp_path, one, two, quorum="all")
            port = int(two.url.rpartition(":")[2])
        with pytest.raises(LogUnavailableError, match="nothing is sealed"):
            seal(settings)
        assert Kind.SHARD_FINAL not in kinds(settings)
        with an_answerer(lambda _path, _body: Reply(404)) as url:
            a_policy(tmp_path, one, replace(two, url=url), quorum="all")
            with pytest.raises(LogUnavailableError, match="enough witnesses cosigned"):
                seal(settings)
        check_not_moved(settings)
        a_policy(tmp_path, one, two, quorum="all")
        with a_witness("two", tmp_path / "2.db", log, port=port):
            sealed, current = seal(settings)
    with closing(LogReader.open(settings.log_place())) as reader:
        head = reader.published()
    assert head is not None
    note = head.note.encode()
    verified = errand(
        *("audit", "verify", settings.data_dir, "--vkey", log.vkey),
        *("--policy", tmp_path / "our.policy", "--json"),
    )

    assert {"one", "two"} == set(cosigned_by(note, log, parse_policy(policy)))
    assert sealed.size == open_checkpoint(note, log).size == len(kinds(settings))
    assert (0, following.vkey) == (verified.status, current.vkey)
    assert 1 == kinds(settings).count(Kind.SHARD_FINAL)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """Run a server for all tests of this module."""
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def tiles(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return the settings of an empty store of either kind."""
    if request.param == "folder":
        return f"tiles_url: {(tmp_path / 'store').as_uri()}\n"
    server: S3 = request.getfixturevalue("s3")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return (
        f"tiles_url: {server.url(tmp_path.name)}\ntiles_endpoint: {server.endpoint}\n"
    )


def test_a_sealed_shard_stands_whole_in_its_store(tmp_path: Path, tiles: str) -> None:
    """Every piece that the last head implies, and that head: before the next begins."""
    settings = begun(tmp_path, tiles)
    sealed, _ = seal(settings)
    store = open_objects(settings.tiles_address(), settings.tiles_endpoint)
    head = open_checkpoint(store.read(CHECKPOINT) or b"", parse_vkey(sealed.vkey))

    assert sealed.size == head.size == len(kinds(settings))
    assert None not in [store.read(piece.path) for piece in pieces_of_size(head.size)]


def test_a_store_that_is_away_holds_up_the_next_shard(tmp_path: Path) -> None:
    """What was begun is ended by the same command once the store is there."""
    (tmp_path / "store").write_text("a file where a folder should be")
    settings = begun(tmp_path, f"tiles_url: {(tmp_path / 'store').as_uri()}\n")
    with pytest.raises(StoreUnavailableError):
        seal(settings)
    check_not_moved(settings)
    (tmp_path / "store").unlink()
    sealed, _ = seal(settings)
    verified = errand(
        "audit", "verify", tmp_path / "store", "--vkey", sealed.vkey, "--json"
    )

    assert (0, sealed.size) == (verified.status, verified.json["published"])


@pytest.mark.parametrize(
    ("failure", "tries"), [(StoreMovedError, 3), (StoreUnavailableError, 1)]
)
def test_a_store_is_tried_again_where_somebody_was_faster_and_only_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[StoreUnavailableError],
    tries: int,
) -> None:
    """A store that is away, or an authority that refuses, is not asked again."""
    settings = begun(tmp_path, f"tiles_url: {(tmp_path / 'store').as_uri()}\n")
    asked: list[Objects] = []

    def fail(_reader: LogReader, objects: Objects) -> int:
        asked.append(objects)
        raise failure("the checkpoint")

    monkeypatch.setattr("exchange.rollover.mirror", fail)
    with pytest.raises(failure):
        seal(settings)

    assert tries == len(asked)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """Run an authority for all tests of this module."""
    with an_authority(tmp_path_factory.mktemp("tsa")) as running:
        yield running


def stamped_by(authority: Authority, manner: str) -> str:
    """Return the settings of a log that an authority stamps."""
    return (
        f"anchor_url: {authority.at(manner)}\nanchor_certificates: {authority.root}\n"
    )


@needs_openssl
def test_the_last_head_is_stamped_before_the_next_shard_begins(
    tmp_path: Path, authority: Authority
) -> None:
    """An authority that answers wrongly holds it up; the stamp is over all records."""
    settings = begun(tmp_path, stamped_by(authority, "garbage"))
    with pytest.raises(StoreUnavailableError, match="authority"):
        seal(settings)
    check_not_moved(settings)
    settings = parse_settings(
        f"data_dir: data\n{stamped_by(authority, 'good')}", {}, tmp_path
    )
    sealed, _ = seal(settings)
    verified = errand(
        *("audit", "verify", settings.data_dir, "--vkey", sealed.vkey),
        *("--anchors", authority.root, "--json"),
    )

    assert (0, sealed.size) == (verified.status, verified.json["anchored"]["size"])


@needs_openssl
def test_anchors_of_a_fleet_stand_in_its_database_and_are_served_for_good(
    tmp_path: Path, authority: Authority, databases: Databases
) -> None:
    """`verify` finds them there, in a copy, and where the sealed shard is served."""
    url, root = databases.empty(), authority.root
    more = f"log_url: {url}\n{stamped_by(authority, 'good')}"
    settings = begun(tmp_path, more)
    sealed, _ = seal(settings)
    demand = ("--vkey", sealed.vkey, "--anchors", root, "--json")
    stored = errand("audit", "verify", url, *demand)
    errand("audit", "export", url, tmp_path / "copy")
    there = errand("audit", "verify", url, *demand, "--anchors-in", tmp_path / "copy")
    nowhere = errand("audit", "verify", url, *demand, "--anchors-in", tmp_path)
    with a_site(tmp_path, settings=f"{more}log_bundles: everybody\n") as site:
        log = f"{site.url}/log"
        served = errand("audit", "verify", log, "--shard", "first", *demand)
        listed = site.client(None).get("/log/shards/first/anchors/list")
        name = listed.text.splitlines()[0]
        stamp = site.client(None).get(f"/log/shards/first/anchors/{name}.tsr")
        strange = site.client(None).get("/log/shards/first/anchors/1.tsr")
        unknown = site.client(None).get("/log/shards/2031h1/anchors/list")
        linked = errand(
            "audit", "verify", log, "--vkey", sealed.vkey, "--shards", "--json"
        )

    assert [0, 0, 0] == [one.status for one in (stored, there, served)], served.stderr
    assert [sealed.size] * 3 == [
        one.json["anchored"]["size"] for one in (stored, there, served)
    ]
    assert (1, "anchors/list: missing") == (
        nowhere.status, nowhere.stderr.strip().removeprefix("errand: "),
    )  # fmt: skip
    assert "immutable" in stamp.headers["cache-control"]
    assert "application/timestamp-reply" == stamp.headers["content-type"]
    assert (404, 404) == (strange.status_code, unknown.status_code)
    assert [ORIGIN, f"{ORIGIN}/{NEXT}"] == [
        one["origin"] for one in linked.json["shards"]
    ]


@pytest.mark.parametrize(
    ("engine", "wrong"),
    [
        ("files", None),
        ("files", "root"),
        ("files", "size"),
        ("files", "first record"),
        ("files", "last record's key"),
        ("files", "last record's origin"),
        ("postgres", None),
        ("postgres", "root"),
    ],
)
def test_shards_that_do_not_name_each_other_are_found_out(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    wrong: str | None,
) -> None:
    """Each of them verifies by itself; that they are one log is another question."""
    url = request.getfixturevalue("databases").empty() if engine == "postgres" else None
    settings = begun(tmp_path, "" if url is None else f"log_url: {url}\n")

    def genesis(last: Leaf, at: datetime, before: Checkpoint) -> Event:
        if wrong == "root":
            before = replace(before, root=bytes(32))
        if wrong == "size":
            before = replace(before, size=before.size - 1)
        made = genesis_event(last, at, before)
        return made._replace(kind=Kind.CASE_OPENED) if wrong == "first record" else made

    def final(event: EventId, at: datetime, following: Signer) -> Event:
        made = final_event(event, at, following)
        if wrong == "last record's key":
            return final_event(event, at, Signer(following.name, bytes(32)))
        is_other = wrong == "last record's origin"
        return made._replace(correlation="log.example") if is_other else made

    monkeypatch.setattr("exchange.rollover.genesis_event", genesis)
    monkeypatch.setattr("audit.freezing.final_event", final)
    sealed, current = seal(settings)
    publish(settings, current.name)
    where = url or settings.data_dir
    each = [
        errand("audit", "verify", where, "--vkey", one.vkey, "--shard", name)
        for one, name in ((sealed, "first"), (current, NEXT))
    ]
    linked = errand(
        "audit", "verify", where, "--vkey", sealed.vkey, "--shards", "--json"
    )

    assert [0, 0] == [one.status for one in each]
    assert (0 if wrong is None else 1) == linked.status
    if wrong is None:
        assert [sealed.origin, current.origin] == [
            one["origin"] for one in linked.json["shards"]
        ]


@pytest.mark.parametrize("engine", ["files", "postgres"])
def test_a_next_shard_that_begins_with_something_else_is_never_current(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str
) -> None:
    """Whoever has written to it before its time: people have to look."""
    url = request.getfixturevalue("databases").empty() if engine == "postgres" else None
    settings = begun(tmp_path, "" if url is None else f"log_url: {url}\n")
    prepare_shard(settings, SystemClock(), NEXT)
    place = settings.log_place(NEXT)
    if isinstance(place, Path):
        place.parent.mkdir(parents=True)
    with a_replica(settings, NEXT) as one:
        one.append(an_event())
    with pytest.raises(VerificationError, match="does not begin with"):
        seal(settings)

    assert () == load_shards(settings.shards_place())


def test_the_first_record_of_a_shard_is_the_same_whoever_makes_it(
    tmp_path: Path,
) -> None:
    """So that of two runs one alone records it; for another head it is another one."""
    settings = begun(tmp_path)
    with closing(LogReader.open(settings.log_place())) as reader:
        [entry] = reader.entries(0, 1)
    last, clock = read_leaf(entry.leaf), SystemClock()
    head = Checkpoint(ORIGIN, 7, bytes(32))
    heads = (head, head, replace(head, size=8), replace(head, root=b"1" * 32))
    ids = [genesis_event(last, clock.now(), one).id for one in heads]
    lost, key = Lost(head, heads[2]), Signer(ORIGIN, bytes(32))
    recovered = {
        recovery_event(last, clock.now(), lost, key, key.verifier).id for _ in range(2)
    }

    assert ids[0] == ids[1]
    assert 4 == len({*ids, *recovered})


def publish(settings: Settings, shard: str) -> None:
    """Publish what a shard holds."""
    with a_replica(settings, shard) as one:
        one.publisher.publish()
