"""The tables of the document are those of the results that lie beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.log.report import ENGINES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "performance.md").read_text("utf-8")
RESULTS = ROOT / "bench" / "results" / "log.json"
TOLD: dict[str, Any] = orjson.loads(RESULTS.read_bytes())
SHAPES = {"one": "one record", "case": "a case", "steady": "steady"}
CHECKS = {
    "fsck": "fsck",
    "served": "verify, as served",
    "stored": "verify, the log's own file",
}
QUESTIONS = {
    "subject": "a subject's list of 100",
    "subject, one case": "a subject's list, one case",
    "requester": "a requester's list of 100",
    "proof": "a proof, verified before it goes",
}


def appends() -> Iterator[str]:
    """Return the rows of appends to SQLite."""
    for shape, variants in TOLD["appends"].items():
        over = TOLD["over_bare"][shape]
        for n, bare in variants["bare"].items():
            writer, whole = variants["writer"][n], variants["append"][n]
            cells = [
                f"{SHAPES[shape]}, {n}",
                *(f"{one['per_second']:,.0f}" for one in (bare, writer, whole)),
                *(
                    f"{over[name][n]['rate']:.2f}, {over[name][n]['cpu']:.2f}"
                    for name in ("writer", "append")
                ),
                f"{whole['cpu_us']:.0f}",
                waits(writer),
                waits(whole),
            ]
            yield row(cells)


def gateways() -> Iterator[str]:
    """Return the rows of gateways' processes."""
    for name, found in TOLD["gateways"].items():
        engine, replicas, pace = name.split()
        lag = TOLD["publish_lag_s"][name]
        yield row(
            [
                f"{ENGINES[engine]}, {replicas}, {SHAPES[pace]}",
                *(f"{found[key]:,.0f}" for key in ("per_second", "cpu_us")),
                *(f"{found[key]:.1f}" for key in ("p50_ms", "p99_ms")),
                f"{lag['p50']:.1f}, {lag['p99']:.1f}",
            ]
        )


def checks() -> Iterator[str]:
    """Return the rows of checks of the whole log."""
    for way, name in CHECKS.items():
        rates = [
            one["added"] / one["cpu_s"] for one in TOLD["checks"] if one["way"] == way
        ]
        yield row([name, *(f"{rate:,.0f}" for rate in rates)])


def questions() -> Iterator[str]:
    """Return the rows of questions."""
    for engine, (few, many) in (
        (engine, sizes.values()) for engine, sizes in TOLD["questions"].items()
    ):
        for question, name in QUESTIONS.items():
            both = few[question], many[question]
            yield row(
                [
                    f"{ENGINES[engine]}: {name}",
                    *map(waits, both),
                    f"{both[1]['cpu_times']:.2f}",
                ]
            )


def waits(found: dict[str, float]) -> str:
    """Return the middle of how long something took, and its end."""
    return f"{found['p50_ms']:.1f}, {found['p99_ms']:.1f}"


def row(cells: list[str]) -> str:
    """Return cells as the document writes a row."""
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("rows", [appends, gateways, checks, questions])
def test_a_table_of_the_document_is_the_results(
    rows: Callable[[], Iterator[str]],
) -> None:
    """Every row, rounded once."""
    lines = DOCUMENT.splitlines()

    assert [] == [one for one in rows() if one not in lines]


def test_goals_are_documented_as_the_results_have_them() -> None:
    """In their order, each found as measured, and reached or not."""
    table = DOCUMENT.partition("### Goals")[2].partition("###")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    shown = [tuple(one[1:]) for one in rows if one[-1] in {"yes", "no"}]
    found = [
        (figure(one["found"]), "yes" if one["reached"] else "no")
        for one in TOLD["goals"].values()
    ]

    assert found == shown


def figure(value: float) -> str:
    """Return a figure as the goals write it: three places where it has few."""
    return f"{value:.2f}" if value < 9.995 else f"{value:,.0f}"
