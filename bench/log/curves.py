"""Draws the curves of a run as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.log.report import ENGINES

_COLOURS: Final = {
    "bare": "#8d99ae",
    "writer": "#2a9d8f",
    "append": "#1d3557",
    "fsck": "#8d99ae",
    "served": "#2a9d8f",
    "stored": "#1d3557",
    "goal": "#c1121f",
}
_BARS: Final = {
    "bare": "bare group commit of the same bytes",
    "writer": "the log's writer, records sealed before",
    "append": "whole append, sealing included",
}
_CHECKS: Final = {
    "fsck": "fsck: tree alone",
    "served": "verify, as served",
    "stored": "verify, the log's own file",
}
_SHAPES: Final = {
    "one": "one record at a time",
    "case": "6, then 10 records at a time",
}
_OF_PACE: Final = {"one": "stored", "case": "bare", "steady": "served"}
_PACES: Final = {
    "one": "one record at a time",
    "case": "6, then 10 at a time",
    "steady": "steady load of cases",
}
_STYLE: Final[dict[Any, Any]] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 9,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "savefig.dpi": 130,
}


def draw(told: Mapping[str, Any], folder: Path) -> None:
    """Draw what a run told, as `log-*.png` in a folder."""
    mpl.use("agg")
    with plt.rc_context(_STYLE):
        for name, figure in (
            ("append", _appends(told)),
            ("verify", _checks(told)),
            ("questions", _questions(told)),
        ):
            figure.savefig(folder / f"log-{name}.png")
            plt.close(figure)


def _appends(told: Mapping[str, Any]) -> Figure:
    """Appends: rate and latency on SQLite, gateways on both engines, lag."""
    figure, places = plt.subplots(3, 2, figsize=(11, 12), layout="constrained")
    for (rates, waits), (shape, what) in zip(places, _SHAPES.items(), strict=False):
        unit = "records a second (figures: times the bare rate)"
        _append_bars(rates, told, shape, "per_second", unit)
        rates.set_title(f"SQLite, {what}")
        rates.set_ylim(top=1.4 * rates.dataLim.ymax)
        rates.legend(loc="upper left")
        _append_bars(waits, told, shape, "p99_ms", "ms")
        waits.set_title(f"99th percentile, {what}")
    _goal(places[0][1], 25, "goal 25 ms")
    _gateways(places[2][0], told)
    _lags(places[2][1], told)
    return figure


def sorted_by_number(rows: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return rows in the order of the numbers that name them."""
    return sorted(rows.items(), key=lambda item: int(item[0]))


def _append_bars(
    axes: Axes, told: Mapping[str, Any], shape: str, figure: str, unit: str
) -> None:
    rows: list[tuple[str, Any]] = []
    for at, (variant, name) in enumerate(_BARS.items()):
        rows = sorted_by_number(told["appends"][shape][variant])
        bars = axes.bar(
            [n + (at - 1) * 0.27 for n in range(len(rows))],
            [row[figure] for _, row in rows],
            width=0.25,
            color=_COLOURS[variant],
            label=name,
        )
        if figure == "per_second":
            over = [told["over_bare"][shape][variant][n]["rate"] for n, _ in rows]
            labels = [f"{ratio:.2f}" for ratio in over]
        else:
            labels = [f"{row[figure]:.1f}" for _, row in rows]
        axes.bar_label(bars, labels, padding=2, fontsize=8)
    axes.set_xticks(range(len(rows)), [n for n, _ in rows])
    axes.set_xlabel("requesters, each with one append at a time")
    axes.set_ylabel(unit)
    axes.yaxis.set_major_formatter(_thousands)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)


def _thousands(value: float, _place: float) -> str:
    return f"{value:,.0f}"


def _gateways(axes: Axes, told: Mapping[str, Any]) -> None:
    names = list(told["gateways"])
    rates = [told["gateways"][name]["per_second"] for name in names]
    colours = [_COLOURS[_OF_PACE[name.split()[2]]] for name in names]
    axes.barh(range(len(names)), rates, color=colours, height=0.6)
    for place, name in enumerate(names):
        text = f" p99 {told['gateways'][name]['p99_ms']:.0f} ms"
        axes.text(rates[place], place, text, fontsize=8, va="center")
    axes.set_yticks(range(len(names)), [_gateway(name) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(3_000, color=_COLOURS["goal"], linestyle="--", linewidth=1)
    at = (3_000, len(names) - 0.55)
    axes.text(*at, " goal of the fleet", color=_COLOURS["goal"], fontsize=8)
    axes.set_xlim(0, max(1.2 * axes.dataLim.xmax, 3_300))
    axes.set_xlabel("records a second, sealing and publishing included")
    axes.xaxis.set_major_formatter(_thousands)
    axes.set_title("Gateways' processes on two cores\n")


def _gateway(name: str) -> str:
    """Return how a fleet is called: `PostgreSQL, 4 replicas, steady load`."""
    engine, replicas, pace = name.split()
    engine = ENGINES[engine]
    many = "1 process" if replicas == "1" else f"{replicas} processes"
    return f"{engine}, {many}\n{_PACES[pace]}"


def _lags(axes: Axes, told: Mapping[str, Any]) -> None:
    for name, lag in told["publish_lag_s"].items():
        if "steady" not in name:
            shares = [step * 5 for step in range(21)]
            label = _gateway(name).replace("\n", ", ")
            axes.plot(lag["steps"], shares, label=label, linewidth=1.8)
    axes.axvline(2, color=_COLOURS["goal"], linestyle="--", linewidth=1)
    axes.text(2.02, 98, "goal 2 s", color=_COLOURS["goal"], fontsize=8)
    axes.set_xlim(left=0)
    axes.set_xlim(right=max(2.4, axes.dataLim.xmax))
    axes.set_ylim(0, 103)
    axes.set_xlabel("seconds from the append to the published head that holds it")
    axes.set_ylabel("% of appends")
    axes.set_title("Publish lag while appending as fast as it goes")
    axes.legend(loc="lower right", fontsize=8)


def _goal(axes: Axes, at: float, text: str) -> None:
    # What is written outside of the axes would leave no room for them.
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.2 * at))
    axes.axhline(at, color=_COLOURS["goal"], linestyle="--", linewidth=1)
    axes.text(
        -0.45, at, text, color=_COLOURS["goal"], fontsize=8, va="bottom", ha="left"
    )


def _checks(told: Mapping[str, Any]) -> Figure:
    """Checks: whole over the log's size, updates over what was added."""
    figure, (whole, updates) = plt.subplots(
        1, 2, figsize=(11, 4.2), layout="constrained"
    )
    for way, name in _CHECKS.items():
        rows = [row for row in told["checks"] if row["way"] == way]
        last = rows[-1]
        label = f"{name}: {last['added'] / last['cpu_s'] / 1000:.0f},000/s"
        _line(whole, rows, "size", way, label)
    _edges(whole, "records in the log", "Checking a log whole")
    for way in ("served", "stored"):
        for place, size in enumerate(sorted({row["from"] for row in told["updates"]})):
            rows = [
                row
                for row in told["updates"]
                if row["way"] == way and row["from"] == size
            ]
            label = f"{_CHECKS[way]}, log of {size:,}"
            _line(updates, rows, "added", way, label, "-" if place == 0 else "--")
    _edges(updates, "records added since the kept state", "Checking what was added")
    return figure


def _line(
    axes: Axes,
    rows: list[dict[str, Any]],
    over: str,
    way: str,
    label: str,
    style: str = "-",
) -> None:
    axes.plot(
        [row[over] for row in rows],
        [row["cpu_s"] for row in rows],
        style,
        marker="o",
        markersize=4,
        color=_COLOURS[way],
        label=label,
    )


def _edges(axes: Axes, over: str, title: str) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    axes.xaxis.set_major_formatter(_thousands)
    axes.set_xlabel(over)
    axes.set_ylabel("CPU seconds")
    axes.set_title(title)
    axes.legend(loc="upper left")


def _questions(told: Mapping[str, Any]) -> Figure:
    """Questions and proofs at two sizes, side by side, on each engine."""
    engines: Mapping[str, Any] = told["questions"]
    figure, places = plt.subplots(
        1,
        len(engines),
        figsize=(2 + 5.5 * len(engines), 5.4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, (engine, questions) in zip(places[0], engines.items(), strict=True):
        _asked(axes, questions)
        axes.set_title(f"Lists of 100 records, and proofs: {ENGINES[engine]}")
    places[0][0].invert_yaxis()
    return figure


def _asked(axes: Axes, questions: Mapping[str, Any]) -> None:
    (small, few), (large, many) = sorted_by_number(questions)
    names = list(many)
    for offset, rows, size, colour in (
        (-0.2, few, small, _COLOURS["bare"]),
        (0.2, many, large, _COLOURS["append"]),
    ):
        bars = axes.barh(
            [n + offset for n in range(len(names))],
            [rows[name]["cpu_ms"] for name in names],
            height=0.36,
            color=colour,
            label=f"{int(size):,} records",
        )
        if rows is many:
            labels = [f"{rows[name]['cpu_times']:.2f} times" for name in names]
            axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.set_xlabel("CPU ms a question (goal: at most 1.3 times)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
