"""The bench of the log runs: not how fast, but that it measures what it says."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.keys import make_keys
from audit.record import Kind
from audit.verify import verify_log
from bench.asks import people
from bench.log.__main__ import RESULTS
from bench.log.bare import BareCommit
from bench.log.bulk import Bulk
from bench.log.closed import shaped
from bench.log.curves import draw
from bench.log.events import PER_CASE, case_events
from bench.log.figures import percentile
from bench.log.lag import Lags
from bench.log.report import GOALS
from bench.log.room import ORIGIN, sealing
from schemas.ids import uuid7

NOW = datetime(2026, 7, 1, tzinfo=UTC)


_numbers = count()


def a_new_id() -> str:
    """Return an id that no other one equals."""
    return str(uuid7(NOW, next(_numbers).to_bytes(10, "big")))


def times(told: Any, factor: float) -> Any:  # noqa: ANN401 - JSON
    """Return JSON with each measured number times a factor."""
    match told:
        case dict():
            return {name: times(one, factor) for name, one in told.items()}
        case list():
            return [times(one, factor) for one in told]
        case float():
            return told * factor
        case _:
            return told


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [0.001, 1.0, 1_000.0])
def test_curves_have_room_on_any_machine(tmp_path: Path, factor: float) -> None:
    """A goal that is far from what was measured is still in the picture."""
    told = orjson.loads(RESULTS.read_bytes())
    draw(times(told, factor), tmp_path)

    assert 3 == len([one for one in tmp_path.iterdir() if one.stat().st_size > 10_000])


def test_a_quick_run_measures_everything_and_draws_it(tmp_path: Path) -> None:
    """A tiny run of both engines ends well, and writes every figure and picture."""
    file = tmp_path / "log.json"
    command = (sys.executable, "-m", "bench.log", "--quick", "--json", str(file))
    done = subprocess.run(
        [*command, "--curves", str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=300,
    )

    assert (0, b"") == (done.returncode, done.stderr[-2000:])
    told = orjson.loads(file.read_bytes())
    assert {"one", "case"} == told["appends"].keys()
    for variants in told["appends"].values():
        assert {"bare", "writer", "append"} == variants.keys()
        for rows in variants.values():
            assert {"1", "8", "64"} == rows.keys()
            for row in rows.values():
                assert row["records"] >= PER_CASE
                assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert {"rate": 1.0, "cpu": 1.0} == told["over_bare"]["one"]["bare"]["64"]
    writer, bare = (told["appends"]["one"][name]["64"] for name in ("writer", "bare"))
    # As it was measured: who rounds a ratio twice shows another one.
    assert {
        "rate": writer["per_second"] / bare["per_second"],
        "cpu": bare["cpu_us"] / writer["cpu_us"],
    } == told["over_bare"]["one"]["writer"]["64"]
    gateways = {
        f"{fleet} {pace}"
        for fleet in ("sqlite 1", "postgresql 1", "postgresql 2")
        for pace in ("one", "case", "steady")
    }
    assert gateways == told["gateways"].keys() == told["publish_lag_s"].keys()
    assert {"fsck", "served", "stored"} == {row["way"] for row in told["checks"]}
    assert {208} == {row["added"] for row in told["updates"]}
    assert {"sqlite", "postgresql"} == told["questions"].keys()
    for questions in told["questions"].values():
        assert {"1200", "2400"} == questions.keys()
    for rows in told["index_follows"].values():
        assert [1200, 1200] == [row["records"] for row in rows]
    assert GOALS.keys() == told["goals"].keys()
    assert {"log-append.png", "log-questions.png", "log-verify.png"} == {
        picture.name for picture in tmp_path.glob("*.png")
    }


def test_a_case_appends_what_the_flow_does() -> None:
    """An opening and five intents; then an end and a release for each of them."""
    case = case_events(people(1)[0], NOW, a_new_id)
    before, after = ([e.kind for e in events] for events in (case.before, case.after))

    assert [Kind.CASE_OPENED, *[Kind.REQUEST_ACCEPTED] * 5] == before
    assert [Kind.REQUEST_ENDED] * 5 + [Kind.EVIDENCE_RELEASED] * 5 == after
    assert [e.id for e in case.before[1:]] == [e.ends for e in case.after[:5]]
    assert PER_CASE == len({e.id for e in (*case.before, *case.after)})


def test_one_record_at_a_time_is_the_same_records() -> None:
    """A shape changes what is appended together, and neither records nor order."""
    cases = [[[1, 2], [3]], [[4]]]

    assert cases == shaped(cases, "case")
    assert [[[1], [2], [3]], [[4]]] == shaped(cases, "one")


def test_a_log_that_grew_in_bulk_verifies(tmp_path: Path) -> None:
    """The rows that the bench writes quickly are those of a right log."""
    keys, log = make_keys(ORIGIN), tmp_path / "log.db"
    with sealing(tmp_path / "subjects.db", keys) as sealer:
        bulk = Bulk(log, sealer, keys)
        bulk.grow(400)
        bulk.grow(800)
    found = verify_log(log, keys.log.verifier.vkey)

    assert 800 == bulk.size == found.records == found.published
    assert 0 == found.open_attempts
    assert 800 // PER_CASE == found.by_kind["case.opened"]


def test_the_floor_stores_every_row_that_it_confirmed(tmp_path: Path) -> None:
    """What bare group commit is compared as does what it is compared for."""
    path = tmp_path / "bare.db"

    async def append() -> None:
        with closing(BareCommit(path, most=4, wal_rows=8)) as bare:
            await asyncio.gather(
                *(bare.append([bytes([n]), bytes([n, n])]) for n in range(20))
            )

    asyncio.run(append())
    with closing(sqlite3.connect(path)) as rows:
        found = [body for (body,) in rows.execute("SELECT body FROM row ORDER BY seq")]

    assert [row for n in range(20) for row in (bytes([n]), bytes([n, n]))] == found


@given(st.lists(st.integers(0, 50), min_size=1, unique=True), st.integers(0, 60))
def test_a_lag_ends_with_the_head_that_holds_the_record(
    indexes: list[int], size: int
) -> None:
    """A head of some size ends the wait of what stands below it, and no other."""
    lags = Lags()
    for index in indexes:
        lags.note(index)
    lags.see(size)

    assert sum(index < size for index in indexes) == len(lags.seconds)
    lags.see(51)
    assert len(indexes) == len(lags.seconds)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_with_that_share_below_it(
    values: list[float], share: float
) -> None:
    """No more than the share of the values is smaller than its percentile."""
    found = percentile(values, share)

    assert found in values
    assert sum(value < found for value in values) <= share * len(values)


def test_nothing_has_no_percentile() -> None:
    """A run that measured nothing is not told as zero."""
    with pytest.raises(ValueError, match="no value"):
        percentile([], 0.5)
