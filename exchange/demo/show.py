"""How a run of the demo looks on a terminal: tables, a bar, a list of checks."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from exchange.demo.report import (
    NOT_APPLICABLE,
    OPEN,
    SETTLED,
    CaseReport,
    Check,
    Line,
    LogReport,
    tally,
)

_ROOMY = 110
"""From how many columns on each requirement has a line of its own."""


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
        waiting = [line for line in lines if line.outcome not in SETTLED]
        kinds = Counter(f"{line.outcome} {line.detail}".strip() for line in waiting)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        self.say(f"first answer: {_sum(lines)}{': ' if counts else ''}{counts}")

    def lines(self, lines: Sequence[Line]) -> None:
        """Print where a case stands, one requirement a row; nothing is cut off."""
        words = [
            word for line in lines for word in (line.outcome, *line.detail.split())
        ]
        table = Table(header_style="bold")
        table.add_column(
            "requirement", no_wrap=self._console.width >= _ROOMY, overflow="fold"
        )
        table.add_column("outcome", width=max(map(len, words)), overflow="fold")
        table.add_column("department", overflow="fold")
        table.add_column("ms", justify="right", no_wrap=True)
        table.add_column("fields", overflow="fold")
        for line in lines:
            style = _style(line.outcome)
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
        """Print how a case stands, and what it saved; until it is settled, so far."""
        self._console.print(f"  {_sum(case.lines)}", highlight=False)
        so_far = "" if case.is_final else " [yellow]so far[/yellow]"
        self._console.print(
            f"  papers [bold]{case.papers.before} → {case.papers.after}[/bold]{so_far}"
            f"   trips [bold]{case.trips.before} → {case.trips.after}[/bold]{so_far}"
            f"   first answer after [bold]{case.wall_ms:.0f} ms[/bold]"
            f" (departments: {case.departments_ms:.0f} ms in sum,"
            f" {case.together_ms:.0f} ms at the same time)",
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


def _style(outcome: str) -> str:
    if outcome == NOT_APPLICABLE:
        return "dim"
    if outcome in SETTLED:
        return "green"
    return "yellow" if outcome in OPEN else "red"


def _sum(lines: Sequence[Line]) -> str:
    """Say how many requirements stand how: the numbers make all of them."""
    found = tally(lines)
    left_out = f" ({found.not_applicable} not applicable)"
    failed = f", {found.failed} failed" if found.failed else ""
    return (
        f"{found.total} requirements: {found.settled} settled"
        f"{left_out if found.not_applicable else ''}, {found.open} open{failed}"
    )
