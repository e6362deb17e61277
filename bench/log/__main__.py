"""`make bench-log`: what the access log takes, on both engines, and how it grows.

Each part is measured against its goal, and the first against bare group commit on the
same disk in the same run; what counts are ratios. Nothing here is a test: how fast a
shared machine is says nothing about whether the log is right.
"""

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
from rich.console import Console

from audit.keys import LogKeys, make_keys, save_keys
from bench.log import appending, fleet, querying, verifying
from bench.log.bulk import Bulk
from bench.log.events import PER_CASE
from bench.log.report import Result, show
from bench.log.room import ORIGIN, sealing
from bench.processes import BenchError
from exchange.demo.postgres import a_server
from schemas.errors import ErrandError

RESULTS = Path(__file__).parents[1] / "results" / "log.json"
DOCS = Path(__file__).parents[2] / "docs"
_QUIET = 1.5
"""A load average above this spoils the figures."""
_RECORD = 4_096
"""Bytes on the disk that a record takes at most, its rows in the index included."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 1.0
    """Of each append in each round, on SQLite."""
    cases: int = 2_000
    persons: int = 128
    requesters: tuple[int, ...] = (1, 8, 64)
    replicas: tuple[int, ...] = (1, 4)
    fleet_seconds: float = 3.0
    fleet_rounds: int = 2
    in_flight: int = 64
    """Cases under way in a fleet, all its replicas together."""
    steady: dict[str, int] = field(
        default_factory=lambda: {"sqlite": 2_000, "postgresql": 3_000}
    )
    """Records a second of the steady load, by engine."""
    whole: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000)
    """Sizes at which a log is checked whole."""
    updates: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000)
    """Records that are added, and then checked alone."""
    updated: tuple[int, ...] = (30_000, 300_000)
    """Sizes from which on updates are checked."""
    asked: tuple[int, ...] = (100_000, 1_000_000)
    """Sizes at which the log is asked."""
    times: int = 300
    """How often each question is asked."""


QUICK = Options(
    rounds=1,
    seconds=0.2,
    cases=40,
    persons=8,
    replicas=(1, 2),
    fleet_seconds=0.3,
    fleet_rounds=1,
    in_flight=8,
    steady={"sqlite": 320, "postgresql": 320},
    whole=(600, 1_200),
    updates=(200,),
    updated=(1_200,),
    asked=(1_200, 2_400),
    times=5,
)
"""Enough to see that everything works; its figures mean nothing."""


def measure(options: Options, console: Console) -> Result:
    """Run everything and return what was measured.

    (1) Appends to SQLite, variants by turns, in another order in each round.
    (2) A gateway's process on SQLite, and fleets on PostgreSQL, publishing meanwhile.
    (3) One log that grows: checked whole and by updates, then asked.
    (4) One on PostgreSQL, asked alike.

    Raises:
        BenchError: Something did not start, or answered wrongly.
    """
    result = Result(asdict(options), os.getloadavg()[0])
    keys = make_keys(ORIGIN)
    with tempfile.TemporaryDirectory(prefix="errand-bench-log-") as scratch:
        folder = Path(scratch)
        save_keys(keys, folder / "keys")
        for part in (_appends, _fleets, _growing, _served):
            began = time.monotonic()
            part(folder, keys, options, result, console)
            console.print(f"  {time.monotonic() - began:.0f} s")
    return result


def _appends(
    folder: Path, keys: LogKeys, options: Options, result: Result, console: Console
) -> None:
    """(1)."""
    with sealing(folder / "subjects.db", keys) as sealer:
        work = appending.make_cases(sealer, options.cases, options.persons)
        bench = appending.Bench(work, sealer, keys, options.seconds)
        result.bytes_per_record = work.bytes_per_record
        names = list(appending.VARIANTS)
        for turn in range(options.rounds):
            console.print(f"appends to SQLite, round {turn + 1} of {options.rounds}")
            order = names[turn % 3 :] + names[: turn % 3]
            shapes = itertools.product(order, appending.SHAPES, options.requesters)
            for run in shapes:
                with tempfile.TemporaryDirectory(dir=folder) as room:
                    found = bench.measure(Path(room, "log.db"), *run)
                result.appends.setdefault(run, []).append(found)


def _fleets(
    folder: Path, _keys: LogKeys, options: Options, result: Result, console: Console
) -> None:
    """(2)."""
    console.print("gateways on SQLite and PostgreSQL, publishing meanwhile")
    with a_server() as server:
        for turn in range(options.fleet_rounds):
            room = folder / f"gateway-{turn}"
            room.mkdir()
            orders = _orders(folder, options, str(room), "sqlite", 1)
            result.add_fleet("sqlite", 1, fleet.measure(orders, 1, None))
            for replicas in options.replicas:
                where = server.create_database(f"bench_{turn}_{replicas}")
                orders = _orders(folder, options, where, "postgresql", replicas)
                found = fleet.measure(orders, replicas, server.pid)
                result.add_fleet("postgresql", replicas, found)


def _orders(
    folder: Path, options: Options, where: str, engine: str, replicas: int
) -> fleet.Orders:
    """Return what each replica does: its share of the whole."""
    return fleet.Orders(
        where=where,
        keys=folder / "keys",
        requesters=max(1, options.in_flight // replicas),
        cases_per_s=options.steady[engine] / PER_CASE / replicas,
        cases=options.cases * 2 // replicas,
        persons=options.persons,
        seconds=options.fleet_seconds,
    )


def _growing(
    folder: Path, keys: LogKeys, options: Options, result: Result, console: Console
) -> None:
    """(3)."""
    room = folder / "growing"
    room.mkdir()
    log, index = room / "log.db", room / "index.db"
    if shutil.disk_usage(room).free < _RECORD * max(options.asked):
        raise BenchError("the temporary folder's disk has too little room")
    with ExitStack() as stack:
        sealer = stack.enter_context(sealing(room / "subjects.db", keys))
        bulk, checks = Bulk(log, sealer, keys), verifying.Checks(log, keys, room)
        asked: list[querying.Asked] = []
        for size in sorted({*options.whole, *options.updated, *options.asked}):
            console.print(f"a log of {size:,} records")
            bulk.grow(size)
            if size in options.whole:
                result.whole += [checks.whole(way, bulk.size) for way in verifying.WAYS]
            if size in options.asked:
                result.follows["sqlite"].append(querying.follow(index, log))
                asked.append(
                    querying.Asked.copied(bulk.about(), log, index, room / str(size))
                    if size < max(options.asked)
                    else querying.Asked(bulk.about(), log, index)
                )
            if size in options.updated:
                _updates(bulk, checks, options, result)
    result.asked["sqlite"] = querying.measure(asked, keys, options.times)


def _updates(
    bulk: Bulk, checks: verifying.Checks, options: Options, result: Result
) -> None:
    """Add some records, check them alone, and so on."""
    size = bulk.size
    for added in options.updates:
        bulk.grow(bulk.size + added)
        result.updates += [
            {**checks.update(way, bulk.size), "from": size} for way in verifying.RESUMED
        ]


def _served(
    folder: Path, keys: LogKeys, options: Options, result: Result, console: Console
) -> None:
    """(4)."""
    if shutil.disk_usage(folder).free < _RECORD * max(options.asked):
        raise BenchError("the temporary folder's disk has too little room")
    with sealing(folder / "served.db", keys) as sealer, a_server() as server:
        url = server.create_database("growing")
        log, index = querying.places(url)
        bulk = Bulk(log, sealer, keys)
        asked: list[querying.Asked] = []
        for size in sorted(options.asked):
            console.print(f"a log of {size:,} records on PostgreSQL")
            bulk.grow(size)
            followed = querying.follow(index, log, server.pid)
            result.follows["postgresql"].append(followed)
            if size < max(options.asked):  # which goes on growing
                where = server.create_database(f"of_{size}", "growing")
            else:
                where = url
            querying.settle_server(where)
            asked.append(querying.Asked(bulk.about(), *querying.places(where)))
        figures = querying.measure(asked, keys, options.times, server.pid)
        result.asked["postgresql"] = figures


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write `bench/results/log.json`, and draw the curves."""
    parser = argparse.ArgumentParser(prog="make bench-log", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write")
    parser.add_argument("--curves", type=Path, default=DOCS, help="where to draw")
    parser.add_argument("--draw", action="store_true", help="draw what was measured")
    given = parser.parse_args(arguments)
    console = Console()
    if not given.draw:
        if os.getloadavg()[0] > _QUIET:
            console.print("the machine is busy: trust ratios little, times less")
        try:
            result = measure(QUICK if given.quick else Options(), console)
        except ErrandError as error:
            sys.exit(f"bench-log: {error}")
        given.json.parent.mkdir(parents=True, exist_ok=True)
        document = orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2)
        given.json.write_bytes(document + b"\n")
    told = orjson.loads(given.json.read_bytes())
    show(told, console)
    # Only now: nothing that is measured shares its memory with a drawing library.
    from bench.log.curves import draw  # noqa: PLC0415 - as said above

    given.curves.mkdir(parents=True, exist_ok=True)
    draw(told, given.curves)


if __name__ == "__main__":
    main()
