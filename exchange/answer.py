"""The answer about a case: outcomes, evidence, receipts; and its release records.

An answer is made in two moves. `draft` says what would leave, as one event for each
evidence; `compose` writes the answer, once these records are durable.

INVARIANT (rule 1): no evidence byte leaves before its release record is durable: an
answer cannot be composed without the receipts of its releases.
INVARIANT (rule 4): each requirement gets a presentation of its own, with the fields it
names and no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from audit.record import Event, Kind
from audit.store import Appended
from audit.writer import AuditLog
from exchange.accounting import Accounts, asked_now
from exchange.case import Shown, to_json
from exchange.cases import StoredCase
from exchange.opened import OpenCase
from schemas.clock import Clock, to_rfc3339_ms
from schemas.ids import EventId, EvidenceId, NewId
from schemas.matter import Matter
from schemas.model import Slug
from schemas.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer that may not leave yet."""

    case: OpenCase
    releases: tuple[Event, ...]
    """One for each evidence of the answer."""
    evidence: Mapping[EvidenceId, Mapping[Slug, Shown]]
    """The evidence of each release, in the same order → by requirement what of it is
    passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """Writes answers about cases."""

    log: AuditLog
    clock: Clock
    new_id: NewId
    policy: str
    """Digest of the packs in force."""
    accounts: Accounts = field(default_factory=Accounts, init=False)

    def draft(self, case: OpenCase) -> Draft:
        """Return what an answer would release."""
        uses: dict[EvidenceId, dict[Slug, Shown]] = {}
        for requirement, shown in case.content.shown.items():
            for part in shown:
                if part.evidence in case.evidence:
                    uses.setdefault(part.evidence, {})[requirement] = part
        now = self.clock.now()
        releases = [
            self._release(case, item, parts, now) for item, parts in uses.items()
        ]
        return Draft(case, tuple(releases), uses)

    def compose(self, draft: Draft, appended: Sequence[Appended]) -> bytes:
        """Return the answer as JSON.

        Args:
            draft: The answer as it was drafted.
            appended: The durable record of each release, in the draft's order.

        Raises:
            ValueError: There is not one record for each release.
        """
        case = draft.case
        receipts = [
            {
                "event": record.event,
                "index": record.index,
                "evidence": evidence,
                "note": self.log.sign(record),
            }
            for evidence, record in zip(draft.evidence, appended, strict=True)
        ]
        content, matter = case.content, case.matter
        mentioned = case.catalogue.mentioned
        answers = asked_now(matter, content.outcomes, content.answers, mentioned)
        counted = self.accounts.json(matter, content.outcomes, answers)
        return orjson.dumps(
            {
                **_head(case, matter),
                "requirements": orjson.Fragment(_requirements(case)),
                "evidence": {
                    item: _evidence(case, item, parts)
                    for item, parts in draft.evidence.items()
                },
                "receipts": receipts,
                "next_steps": orjson.Fragment(_next_steps(content.outcomes)),
                "accounting": orjson.Fragment(counted),
            }
        )

    def _release(
        self,
        case: OpenCase,
        evidence: EvidenceId,
        parts: Mapping[Slug, Shown],
        now: datetime,
    ) -> Event:
        """Say that evidence is about to leave, to whom, and for which requirements."""
        held = case.evidence[evidence]
        lookup = next(iter(parts.values())).lookup
        return Event(
            id=EventId(self.new_id()),
            at=now,
            kind=Kind.EVIDENCE_RELEASED,
            outcome="released",
            requester=case.head.requester,
            provider=held.provider,
            evidence_type=held.evidence_type,
            policy=self.policy,
            correlation=held.lookup,
            subjects=case.concerned(lookup),
            actor=case.actor,
            case=case.head.id,
            matter=case.head.matter,
            details={
                "purpose": case.head.purpose,
                "fields": {name: list(part.fields) for name, part in parts.items()},
                **case.mandate,
            },
            evidence={"evidence": evidence},
        )


def compose_closed(stored: StoredCase, matter: Matter) -> bytes:
    """Return the answer about a closed case: outcomes, and no evidence."""
    outcomes = orjson.loads(stored.summary or b"{}")
    head = stored.head
    return orjson.dumps(
        {
            "id": head.id,
            "matter": head.matter,
            "name": matter.name.model_dump(),
            "status": head.status.value,
            "purpose": head.purpose,
            "opened_at": to_rfc3339_ms(head.opened_at),
            "closed_at": None
            if head.closed_at is None
            else to_rfc3339_ms(head.closed_at),
            "version": head.version,
            "requirements": outcomes,
            "evidence": {},
            "receipts": [],
            "next_steps": [],
            "accounting": None,
        }
    )


def summary_of(case: OpenCase) -> bytes:
    """Return what is kept of a case when it is closed: its requirements' outcomes."""
    return _requirements(case)


def _head(case: OpenCase, matter: Matter) -> dict[str, object]:
    head = case.head
    return {
        "id": head.id,
        "matter": head.matter,
        "name": {"zh": matter.name.zh, "en": matter.name.en},
        "status": head.status.value,
        "purpose": head.purpose,
        "opened_at": to_rfc3339_ms(head.opened_at),
        "closed_at": None,
        "version": head.version,
    }


def _requirements(case: OpenCase) -> bytes:
    """Return the requirements of a case with their outcomes, as JSON."""
    heads, content = case.catalogue.heads, case.content
    written: list[bytes] = []
    for name, head in heads.items():
        outcome = content.outcomes.get(name)
        if outcome is None:
            continue
        fields = [
            field for part in content.shown.get(name, ()) for field in part.fields
        ]
        # One object of three parts: the head, its fields, and the outcome's members.
        members = to_json(outcome)[1:]
        written.append(b'%b,"fields":%b,%b' % (head, orjson.dumps(fields), members))
    return b"[%b]" % b",".join(written)


def _evidence(
    case: OpenCase, evidence: EvidenceId, parts: Mapping[Slug, Shown]
) -> dict[str, object]:
    held = case.evidence[evidence]
    return {
        "evidence_type": held.evidence_type,
        "provider": held.provider,
        "as_of": to_rfc3339_ms(held.as_of),
        "presentations": {
            requirement: {
                "sd_jwt": held.presentation(part.fields),
                "fields": held.values(part.fields),
            }
            for requirement, part in parts.items()
        },
    }


def _next_steps(outcomes: Mapping[Slug, Outcome]) -> bytes:
    """Return who must do what next, by requirement, as JSON."""
    steps = [
        b'{"requirement":%b,%b' % (orjson.dumps(requirement), to_json(step)[1:])
        for requirement, outcome in outcomes.items()
        if (step := outcome.next_step) is not None
    ]
    return b"[%b]" % b",".join(steps)
