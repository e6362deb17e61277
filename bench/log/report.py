"""What a run of `make bench-log` came to: medians, ratios, goals; JSON and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from bench.log.appending import SHAPES, VARIANTS
from bench.log.figures import medians, percentile
from bench.log.fleet import Fleet
from bench.report import machine
from schemas.clock import SystemClock, to_rfc3339_ms

ENGINES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
"""What readers call them."""
GOALS: Final[Mapping[str, tuple[str, float]]] = {
    "writer_over_bare": (">=", 0.5),
    "writer_p99_ms": ("<=", 25.0),
    "append_over_bare": (">=", 0.5),
    "append_p99_ms": ("<=", 25.0),
    "gateway_steady_p99_ms": ("<=", 25.0),
    "fleet_per_second": (">=", 3_000.0),
    "fleet_p99_ms": ("<=", 40.0),
    "fleet_steady_p99_ms": ("<=", 40.0),
    "fsck_leaves_per_cpu_s": (">=", 100_000.0),
    "subject_list_p99_ms": ("<=", 20.0),
    "subject_list_growth": ("<=", 1.3),
    "proof_p99_ms": ("<=", 5.0),
    "proof_growth": ("<=", 1.3),
    "postgresql_subject_list_p99_ms": ("<=", 20.0),
    "postgresql_subject_list_growth": ("<=", 1.3),
    "postgresql_proof_p99_ms": ("<=", 5.0),
    "postgresql_proof_growth": ("<=", 1.3),
    "publish_lag_p99_s": ("<=", 2.0),
}
"""What each figure has to be."""


@dataclass(slots=True)
class Result:
    """Everything that was measured in one run."""

    options: Mapping[str, Any]
    load_before: float
    bytes_per_record: float = 0.0
    appends: dict[tuple[str, str, int], list[dict[str, float]]] = field(
        default_factory=dict
    )
    """By variant, shape and requesters, the figures of each round."""
    fleets: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    """By engine, replicas and pace: `postgresql 4 steady`."""
    lags: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from append to published head, as above."""
    whole: list[dict[str, float | str]] = field(default_factory=list)
    updates: list[dict[str, float | str]] = field(default_factory=list)
    follows: dict[str, list[dict[str, float]]] = field(
        default_factory=lambda: {"sqlite": [], "postgresql": []}
    )
    """By engine."""
    asked: dict[str, dict[int, dict[str, dict[str, float]]]] = field(
        default_factory=dict
    )
    """By engine, size and question."""

    def add_fleet(self, engine: str, replicas: int, found: Mapping[str, Fleet]) -> None:
        """Note one round of a fleet, at each pace."""
        for pace, run in found.items():
            name = f"{engine} {replicas} {pace}"
            self.fleets.setdefault(name, []).append(run.figures)
            self.lags.setdefault(name, []).extend(run.lags)

    def as_json(self) -> dict[str, JsonValue]:
        """Return the result: medians over rounds, ratios of these, and the goals.

        Nothing is rounded here: who shows a figure rounds it, once.
        """
        appends = {shape: self._appends(shape) for shape in SHAPES}
        document: dict[str, Any] = {
            "at": to_rfc3339_ms(SystemClock().now()),
            "bytes_per_record": round(self.bytes_per_record),
            "appends": appends,
            "over_bare": {
                shape: {name: _over_bare(rows, name) for name in VARIANTS}
                for shape, rows in appends.items()
            },
            "gateways": {name: medians(rows) for name, rows in self.fleets.items()},
            "publish_lag_s": {name: _lag(lags) for name, lags in self.lags.items()},
            "checks": self.whole,
            "updates": self.updates,
            "index_follows": self.follows,
            "questions": {
                engine: {str(size): rows for size, rows in sizes.items()}
                for engine, sizes in self.asked.items()
            },
        }
        document["goals"] = _goals(document)
        document["options"] = dict(self.options)
        document["machine"] = machine(self.load_before)
        return document

    def _appends(self, shape: str) -> dict[str, dict[str, dict[str, float]]]:
        """Return the medians of one shape, by variant and requesters."""
        return {
            variant: {
                str(n): medians(rows)
                for (name, of, n), rows in self.appends.items()
                if (name, of) == (variant, shape)
            }
            for variant in VARIANTS
        }


def _over_bare(appends: Mapping[str, Any], variant: str) -> dict[str, JsonValue]:
    """Return how a variant's rate compares with the floor's, by requesters."""
    return {
        n: {
            "rate": row["per_second"] / appends["bare"][n]["per_second"],
            "cpu": appends["bare"][n]["cpu_us"] / row["cpu_us"],
        }
        for n, row in appends[variant].items()
    }


def _lag(lags: Sequence[float]) -> dict[str, JsonValue]:
    """Return the distribution of lags: twenty steps, for the curve."""
    return {
        "p50": percentile(lags, 0.5),
        "p99": percentile(lags, 0.99),
        "max": max(lags),
        "steps": [percentile(lags, step / 20) for step in range(21)],
    }


def _goals(told: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return each figure that has a goal, and whether it is reached."""
    over, ones = told["over_bare"]["one"], told["appends"]["one"]
    most = max(over["append"], key=int)
    gateways, lags = told["gateways"], told["publish_lag_s"]
    replicas = max(int(name.split()[1]) for name in gateways)
    on_server = f"postgresql {replicas}"
    fsck = [row for row in told["checks"] if row["way"] == "fsck"][-1]
    found = {
        "writer_over_bare": over["writer"][most]["rate"],
        "writer_p99_ms": ones["writer"][most]["p99_ms"],
        "append_over_bare": over["append"][most]["rate"],
        "append_p99_ms": ones["append"][most]["p99_ms"],
        "gateway_steady_p99_ms": gateways["sqlite 1 steady"]["p99_ms"],
        "fleet_per_second": gateways[f"{on_server} one"]["per_second"],
        "fleet_p99_ms": gateways[f"{on_server} one"]["p99_ms"],
        "fleet_steady_p99_ms": gateways[f"{on_server} steady"]["p99_ms"],
        "fsck_leaves_per_cpu_s": fsck["size"] / fsck["cpu_s"],
        **_asked(told["questions"]["sqlite"]),
        **{
            f"postgresql_{name}": figure
            for name, figure in _asked(told["questions"]["postgresql"]).items()
        },
        "publish_lag_p99_s": max(lag["p99"] for lag in lags.values()),
    }
    return {
        name: {
            "goal": f"{sign} {goal:g}",
            "found": found[name],
            "reached": found[name] >= goal if sign == ">=" else found[name] <= goal,
        }
        for name, (sign, goal) in GOALS.items()
    }


def _asked(questions: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one engine's questions that have a goal."""
    large = questions[max(questions, key=int)]
    return {
        f"{goal}_{figure}": value
        for goal, name in (("subject_list", "subject"), ("proof", "proof"))
        for figure, value in (
            ("p99_ms", large[name]["p99_ms"]),
            ("growth", large[name]["cpu_times"]),
        )
    }


def show(told: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    _show_appends(told, console)
    _show_gateways(told, console)
    _show_growth(told, console)
    table = _table("Goals", "", "goal", "found", "reached")
    for name, row in told["goals"].items():
        reached = "yes" if row["reached"] else "no"
        table.add_row(name, row["goal"], f"{row['found']:,.2f}", reached)
    console.print(table)


def _show_appends(told: Mapping[str, Any], console: Console) -> None:
    columns = ("requesters", "records/s", "over bare", "CPU µs", "p50 ms", "p99 ms")
    for variant, what in VARIANTS.items():
        console.print(f"{variant}: {what}")
    for shape, what in SHAPES.items():
        title = f"Appends to SQLite, synchronous=FULL: {what}"
        table = _table(title, "", *columns)
        for variant, rows in told["appends"][shape].items():
            for n, row in rows.items():
                table.add_row(
                    variant if n == next(iter(rows)) else "",
                    n,
                    f"{row['per_second']:,.0f}",
                    f"{told['over_bare'][shape][variant][n]['rate']:.2f}",
                    f"{row['cpu_us']:.1f}",
                    f"{row['p50_ms']:.2f}",
                    f"{row['p99_ms']:.2f}",
                )
            table.add_section()
        console.print(table)


def _show_gateways(told: Mapping[str, Any], console: Console) -> None:
    columns = ("records/s", "CPU µs", "p50 ms", "p99 ms", "lag p50 s", "lag p99 s")
    table = _table("Gateways' processes, publishing meanwhile", "", *columns)
    for name, row in told["gateways"].items():
        lag = told["publish_lag_s"][name]
        table.add_row(
            name,
            f"{row['per_second']:,.0f}",
            f"{row['cpu_us']:.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{lag['p50']:.2f}",
            f"{lag['p99']:.2f}",
        )
    console.print(table)


def _show_growth(told: Mapping[str, Any], console: Console) -> None:
    table = _table("Checks", "", "records", "CPU s", "wall s", "records/CPU s")
    for row in [*told["checks"], *told["updates"]]:
        what = row["way"]
        if "from" in row:
            what += f", an update of {row['size']:,}"
        rate = row["added"] / row["cpu_s"]
        table.add_row(
            what,
            f"{row['added']:,}",
            f"{row['cpu_s']:.3f}",
            f"{row['wall_s']:.3f}",
            f"{rate:,.0f}",
        )
    for engine, row in (
        (engine, row) for engine, rows in told["index_follows"].items() for row in rows
    ):
        rate = row["records"] / row["cpu_s"]
        table.add_row(
            f"index follows to {row['size']:,}, {ENGINES[engine]}",
            f"{row['records']:,}",
            f"{row['cpu_s']:.3f}",
            f"{row['wall_s']:.3f}",
            f"{rate:,.0f}",
        )
    console.print(table)
    for engine, questions in told["questions"].items():
        _show_questions(engine, questions, console)


def _show_questions(
    engine: str, questions: Mapping[str, Any], console: Console
) -> None:
    sizes = sorted(questions, key=int)
    small, large = (questions[size] for size in sizes)
    title = "Questions to logs of {:,} and {:,} records, ms, ".format(*map(int, sizes))
    title += ENGINES[engine]
    columns = ("p50", "p99", "CPU")
    table = _table(title, "", *columns, *columns, "CPU times")
    for name, row in large.items():
        cells = [
            f"{one[figure]:.2f}"
            for one in (small[name], row)
            for figure in ("p50_ms", "p99_ms", "cpu_ms")
        ]
        table.add_row(name, *cells, f"{row['cpu_times']:.2f}")
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table
