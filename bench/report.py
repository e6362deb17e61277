"""What a run came to: medians over its rounds, ratios, the machine; table and JSON."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from bench.stage import VARIANTS
from schemas.clock import SystemClock, to_rfc3339_ms

_LIBRARIES = (
    *("cryptography", "fastapi", "httptools", "httpx", "orjson", "pydantic", "pynacl"),
    *("pyreqwest", "sniffio", "uvicorn", "uvloop"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one number in flight, in one round."""

    variant: str
    in_flight: int
    cases: int
    cpu_ms: float
    """CPU milliseconds of the gateway's process tree, a case."""
    wall_ms: float
    """Wall milliseconds a case: 1000 divided by the cases a second."""
    p50_ms: float
    p99_ms: float
    departments_load: float
    """Share of their core that the departments took."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """S: CPU milliseconds of signatures alone."""

    floor: float
    """Of five verifications and one signature."""
    whole: float
    """Of all that one case makes and verifies: five verifications, ten signatures."""


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one run."""

    rows: Sequence[Row]
    signatures: Sequence[Signatures]
    """S, by round."""
    idle: Mapping[str, float]
    """CPU seconds a second that each variant takes while nobody asks."""
    load_before: float
    """Load average of the machine before the run, over one minute."""
    options: Mapping[str, JsonValue]

    def middle(self, variant: str, in_flight: int) -> dict[str, float]:
        """Return the medians of a variant's rounds."""
        rows = [
            r for r in self.rows if r.variant == variant and r.in_flight == in_flight
        ]
        wall = median(r.wall_ms for r in rows)
        return {
            "cpu_ms": median(r.cpu_ms for r in rows),
            "wall_ms": wall,
            "per_second": 1_000 / wall,
            "p50_ms": median(r.p50_ms for r in rows),
            "p99_ms": median(r.p99_ms for r in rows),
            "departments_load": median(r.departments_load for r in rows),
            "cases": sum(r.cases for r in rows),
        }

    def signatures_ms(self) -> tuple[float, float]:
        """Return the medians of the floor, and of all signatures of a case."""
        floor = median(one.floor for one in self.signatures)
        return floor, median(one.whole for one in self.signatures)

    def counts(self) -> list[int]:
        """Return the numbers in flight that were measured."""
        return sorted({row.in_flight for row in self.rows})

    def as_json(self) -> dict[str, JsonValue]:
        """Return the result with its ratios; CPU time decides them."""
        floor, whole = self.signatures_ms()
        cpu = {
            (variant, n): self.middle(variant, n)["cpu_ms"]
            for variant in VARIANTS
            for n in self.counts()
        }
        return {
            "at": to_rfc3339_ms(SystemClock().now()),
            "b_over_a": {
                str(n): round(cpu["B", n] / cpu["A", n], 3) for n in self.counts()
            },
            "b_over_limit": {
                str(n): round(cpu["B", n] / (cpu["D", n] + floor), 3)
                for n in self.counts()
            },
            "b_over_limit_with_all_signatures": {
                str(n): round(cpu["B", n] / (cpu["D", n] + whole), 3)
                for n in self.counts()
            },
            "signatures_cpu_ms": round(floor, 4),
            "all_signatures_cpu_ms": round(whole, 4),
            "idle_cpu_ms_per_s": {
                variant: round(1_000 * share, 2) for variant, share in self.idle.items()
            },
            "variants": {
                variant: {
                    str(n): {k: round(v, 3) for k, v in self.middle(variant, n).items()}
                    for n in self.counts()
                }
                for variant in VARIANTS
            },
            "options": dict(self.options),
            "machine": machine(self.load_before),
        }


def machine(load_before: float) -> dict[str, JsonValue]:
    """Return what it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(load_before, 2),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line for line in lines if line.startswith("model name")]
    return named[0].partition(":")[2].strip() if named else platform.processor()


_RATIOS = {
    "b_over_a": "B/A",
    "b_over_limit": "B/(D+S)",
    "b_over_limit_with_all_signatures": "B/(D+S')",
}
"""Which ratios are shown, and how they are called."""


def show(result: Result, console: Console) -> None:
    """Print the table and the ratios."""
    table = Table(title="One case of five look-ups", title_justify="left")
    columns = ("", "in flight", "CPU ms", "p50 ms", "p99 ms", "cases/s", "departments")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    for variant, what in VARIANTS.items():
        for n in result.counts():
            m = result.middle(variant, n)
            table.add_row(
                f"{variant} {what}" if n == result.counts()[0] else variant,
                str(n),
                f"{m['cpu_ms']:.2f}",
                f"{m['p50_ms']:.1f}",
                f"{m['p99_ms']:.1f}",
                f"{m['per_second']:.0f}",
                f"{m['departments_load']:.0%}",
            )
        table.add_section()
    floor, whole = result.signatures_ms()
    table.add_row("S verify 5, sign 1", "", f"{floor:.2f}")
    table.add_row("S' verify 5, sign 10", "", f"{whole:.2f}")
    console.print(table)
    told = result.as_json()
    ratios = Table(title="Ratios of CPU time", title_justify="left")
    ratios.add_column("in flight")
    for n in result.counts():
        ratios.add_column(str(n), justify="right")
    for key, name in _RATIOS.items():
        values = told[key]
        if isinstance(values, dict):
            ratios.add_row(name, *(f"{value:.3f}" for value in values.values()))
    console.print(ratios)
