"""What a run of the demo found: cases, the log, and each claim with its proof.

`Report.to_json` is the form that `errand demo --json FILE` writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from pydantic import JsonValue

from schemas.outcome import Failed, NotApplicable, Open, Settled


def _words(union: object) -> frozenset[str]:
    """Return the words for the outcomes of a union."""
    kinds = get_args(union)
    return frozenset(kind.__dataclass_fields__["outcome"].default for kind in kinds)


SETTLED, OPEN, FAILED = _words(Settled), _words(Open), _words(Failed)
"""Every outcome is in one of them (README, "What an outcome can be")."""
NOT_APPLICABLE = NotApplicable.outcome


@dataclass(frozen=True, slots=True)
class Awaited:
    """Who has to move before a requirement can be settled."""

    owner: str
    """`person`, `applicant`, `provider`, `exchange` or `operator`."""
    who: str | None
    """The person's role, or the provider; None where the owner says it all."""
    action: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as it stands under `waits_for`."""
        return {"owner": self.owner, "who": self.who, "action": self.action}


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
    reason: str | None = None
    """Why it is `pending`, or has to be handed in."""
    hint: str | None = None
    """What kind of difference a `conflict` is."""
    waits_for: Awaited | None = None
    """None when it is settled."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the line as it stands under `requirements`."""
        return {
            "id": self.id,
            "outcome": self.outcome,
            "provider": self.provider,
            "ms": self.ms,
            "fields": list(self.fields),
            "reason": self.reason,
            "hint": self.hint,
            "waits_for": self.waits_for.to_json() if self.waits_for else None,
        }


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requirements stand how; the three make all of them."""

    settled: int
    not_applicable: int
    """Those among the settled that the situation leaves out."""
    open: int
    failed: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the numbers by name."""
        return {
            "settled": self.settled,
            "not_applicable": self.not_applicable,
            "open": self.open,
            "failed": self.failed,
        }

    @property
    def total(self) -> int:
        """How many requirements there are."""
        return self.settled + self.open + self.failed


def tally(lines: Iterable[Line]) -> Tally:
    """Count the requirements of a case."""
    outcomes = [line.outcome for line in lines]
    return Tally(
        settled=sum(one in SETTLED for one in outcomes),
        not_applicable=outcomes.count(NOT_APPLICABLE),
        open=sum(one in OPEN for one in outcomes),
        failed=sum(one in FAILED for one in outcomes),
    )


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
    first: tuple[Line, ...]
    """The requirements as the first answer had them."""

    @property
    def is_final(self) -> bool:
        """Whether nothing is open: until then more papers may be asked for."""
        return tally(self.lines).settled == len(self.lines)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the case as it stands under `cases`."""
        return {
            "name": self.name,
            "requirements": [line.to_json() for line in self.lines],
            "papers": self.papers.to_json(),
            "trips": self.trips.to_json(),
            "final": self.is_final,
            "wall_ms": round(self.wall_ms, 1),
            "departments_ms": round(self.departments_ms, 1),
            "together_ms": round(self.together_ms, 1),
            "tally": tally(self.lines).to_json(),
            "first_answer": {
                "tally": tally(self.first).to_json(),
                "waiting": [
                    line.to_json() for line in self.first if line.outcome not in SETTLED
                ],
            },
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

    def to_json(self) -> dict[str, JsonValue]:
        """Return the claim as it stands under `claims`."""
        return {"text": self.claim, "held": self.held, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proved of one release, from the portal's receipt."""

    record: int
    """Its index in the log."""
    size: int
    """How many records stand under the head."""
    hashes: int
    holds: bool
    witnesses: tuple[str, ...]
    """Who cosigned the head."""
    cosigned: bool
    """Whether those are as many as the policy wants."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as it stands under `proof`."""
        return {
            "record": self.record,
            "size": self.size,
            "hashes": self.hashes,
            "holds": self.holds,
            "witnesses": list(self.witnesses),
            "cosigned": self.cosigned,
        }


@dataclass(slots=True)
class Report:
    """Everything that a run found, filled as it goes."""

    cases: list[CaseReport] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    log: LogReport = LogReport(0, verified=False)
    receipts: dict[str, str] = field(default_factory=dict)
    """The receipts that the portal was given, by event."""
    proof: Proof | None = None
    """None with a fleet, whose log no witness cosigns."""
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
            "claims": [check.to_json() for check in self.checks],
            "proof": None if self.proof is None else self.proof.to_json(),
        }
        return {**found, "killed": list(self.killed)} if self.killed else found
