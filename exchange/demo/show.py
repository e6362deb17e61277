"""How a run of the demo looks on a terminal: tables, a bar, a list of checks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from exchange.demo.report import CaseReport, Check, Line, LogReport

_STYLES = {
    "retrieved": "green",
    "verified": "green",
    "reused": "green",
    "derived": "green",
    "declared": "green",
    "committed": "green",
    "supplied": "green",
    "not_applicable": "dim",
    "consent_needed": "yellow",
    "answer_needed": "yellow",
    "pending": "yellow",
    "assist": "yellow",
    "supply_needed": "yellow",
}
"""Settled, set aside and open; what is in neither failed, and is red."""


class Show:
    """Prints a run as it goes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def seeding(self, registers: int) -> Iterator[Callable[[str], None]]:
        """Show a bar while registers are written; call what it gives after each."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("writing the registers", total=registers)
            yield lambda provider: progress.update(
                task, advance=1, description=f"wrote the register of {provider}"
            )

    def say(self, text: str) -> None:
        """Print one line of what happens."""
        self._console.print(f"  [dim]·[/dim] {text}", highlight=False)

    def heading(self, text: str) -> None:
        """Begin a part of the run."""
        self._console.print()
        self._console.rule(f"[bold]{text}[/bold]", align="left")

    def first(self, lines: Sequence[Line]) -> None:
        """Print in short what the first answer says."""
        waiting = [line for line in lines if _STYLES.get(line.outcome) == "yellow"]
        kinds = Counter(f"{line.outcome} {line.detail}".strip() for line in waiting)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        done = sum(_STYLES.get(line.outcome) == "green" for line in lines)
        self.say(f"first answer: {done} settled; open: {counts or 'none'}")

    def lines(self, lines: Sequence[Line]) -> None:
        """Print where a case stands, one requirement a row."""
        table = Table(header_style="bold")
        table.add_column("requirement", no_wrap=True)
        table.add_column("outcome")
        table.add_column("department")
        table.add_column("ms", justify="right")
        table.add_column("fields", overflow="fold")
        for line in lines:
            style = _STYLES.get(line.outcome, "red")
            outcome = f"[{style}]{line.outcome}[/{style}]"
            table.add_row(
                line.name,
                f"{outcome} [dim]{line.detail}[/dim]" if line.detail else outcome,
                line.provider or "",
                "" if line.ms is None else f"{line.ms:.0f}",
                ", ".join(line.fields),
            )
        self._console.print(table)

    def case(self, case: CaseReport) -> None:
        """Print what a case saved."""
        self._console.print(
            f"  papers [bold]{case.papers.before} → {case.papers.after}[/bold]"
            f"   trips [bold]{case.trips.before} → {case.trips.after}[/bold]"
            f"   first answer after [bold]{case.wall_ms:.0f} ms[/bold]"
            f" (departments: {case.departments_ms:.0f} ms in sum,"
            f" {case.together_ms:.0f} ms at the same time)"
            + (
                f"   [yellow]{case.open_count} open[/yellow]" if case.open_count else ""
            ),
            highlight=False,
        )

    def cases(self, cases: Sequence[CaseReport]) -> None:
        """Print how several cases ended, one a row."""
        table = Table(header_style="bold")
        for column in ("case", "outcomes", "papers", "trips", "first answer"):
            table.add_column(column, justify="left" if column == "case" else "right")
        for case in cases:
            kinds = Counter(line.outcome for line in case.lines)
            table.add_row(
                case.name,
                ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
                f"{case.papers.before} → {case.papers.after}",
                f"{case.trips.before} → {case.trips.after}",
                f"{case.wall_ms:.0f} ms",
            )
        self._console.print(table)

    def log(self, log: LogReport) -> None:
        """Print what the offline verification said."""
        word = "[green]verified[/green]" if log.verified else "[red]NOT verified[/red]"
        self._console.print(
            f"  the log: {log.records} records, {word} by another process;"
            f" all {log.receipts} receipts of the portal are kept",
            highlight=False,
        )

    def checks(self, checks: Sequence[Check]) -> None:
        """Print every claim and whether it held."""
        for check in checks:
            mark = "[green]✓[/green]" if check.held else "[red]✗[/red]"
            detail = f" [dim]({check.detail})[/dim]" if check.detail else ""
            self._console.print(f"  {mark} {check.claim}{detail}", highlight=False)
        failed = sum(not check.held for check in checks)
        self._console.print(
            f"\n[bold red]{failed} of {len(checks)} claims did not hold[/bold red]"
            if failed
            else f"\n[bold green]all {len(checks)} claims held[/bold green]"
        )
