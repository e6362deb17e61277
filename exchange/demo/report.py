"""What a run of the demo found: cases, the log, and each claim with its proof.

`Report.to_json` is the form that `errand demo --json FILE` writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Line:
    """What came of one requirement."""

    id: str
    name: str
    outcome: str
    detail: str
    """What the outcome says beside its kind: a hint, a reason; without any value."""
    provider: str | None
    ms: float | None
    fields: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the line as it stands under `requirements`."""
        return {
            "id": self.id,
            "outcome": self.outcome,
            "provider": self.provider,
            "ms": self.ms,
            "fields": list(self.fields),
        }


@dataclass(frozen=True, slots=True)
class Count:
    """Papers or trips, before and with Errand."""

    before: int
    after: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return both numbers."""
        return {"before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class CaseReport:
    """One case, as it stood in the end."""

    name: str
    lines: tuple[Line, ...]
    papers: Count
    trips: Count
    wall_ms: float
    """How long the portal waited for the case's first answer."""
    departments_ms: float
    """The sum of the departments' delays in that answer."""
    together_ms: float
    """The same, where what ran at the same time counts once."""
    open_count: int
    """Requirements that are not settled."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the case as it stands under `cases`."""
        return {
            "name": self.name,
            "requirements": [line.to_json() for line in self.lines],
            "papers": self.papers.to_json(),
            "trips": self.trips.to_json(),
            "wall_ms": round(self.wall_ms, 1),
            "departments_ms": round(self.departments_ms, 1),
        }

    def outcomes(self) -> Mapping[str, str]:
        """Return the outcome of each requirement, by id."""
        return {line.id: line.outcome for line in self.lines}


@dataclass(frozen=True, slots=True)
class LogReport:
    """What the offline verification of the copied log said."""

    records: int
    verified: bool
    receipts: int = 0
    """Receipts that the portal had, and that the log keeps."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, and whether it held."""

    claim: str
    held: bool
    detail: str = ""


@dataclass(slots=True)
class Report:
    """Everything that a run found, filled as it goes."""

    cases: list[CaseReport] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    log: LogReport = LogReport(0, verified=False)
    receipts: dict[str, str] = field(default_factory=dict)
    """The receipts that the portal was given, by event."""
    killed: list[str] = field(default_factory=list)
    """The processes of a fleet that were killed in mid-run."""

    def check(self, claim: str, held: bool, detail: str = "") -> None:  # noqa: FBT001 - reads as a sentence
        """Note a claim and whether it held."""
        self.checks.append(Check(claim, held, detail))

    @property
    def held(self) -> bool:
        """Whether every claim held, and there was at least one."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the report as `--json` writes it."""
        found: dict[str, JsonValue] = {
            "cases": [case.to_json() for case in self.cases],
            "log": {"records": self.log.records, "verified": self.log.verified},
        }
        return {**found, "killed": list(self.killed)} if self.killed else found
