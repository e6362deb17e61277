"""What cases append: the records of one case of five look-ups, as the flow writes them.

A case appends twice, and waits both times: its opening with five intents before any
department is asked, and five ends with five releases before anything is answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from audit.record import Actor, Event, Kind, Subject
from bench.asks import ASKS, MATTER, PURPOSE, REQUESTER, Ask
from schemas.canonical import Json, b64url
from schemas.ids import CaseId, EventId, LookupId, NewId

POLICY: Final = b64url(bytes(32))
"""As long as the digest of the packs."""
PER_CASE: Final = 1 + 3 * len(ASKS)
"""Records of one case."""


@dataclass(frozen=True, slots=True)
class CaseEvents:
    """The two appends of one case."""

    before: Sequence[Event]
    """The opening and the intents."""
    after: Sequence[Event]
    """The ends and the releases."""


def case_events(
    person: str, at: datetime, new_id: NewId, requester: str = REQUESTER
) -> CaseEvents:
    """Return what one case about one person appends.

    Args:
        person: The person's id.
        at: When all of it happens.
        new_id: Gives ids.
        requester: Who asks.
    """
    case = CaseId(new_id())
    who = (Subject("person", "citizen_id", person),)
    common: dict[str, object] = {
        "at": at,
        "requester": requester,
        "policy": POLICY,
        "subjects": who,
        "actor": Actor("system", "bench"),
        "case": case,
        "matter": MATTER,
    }
    asked = [(ask, LookupId(new_id())) for ask in ASKS]

    def event(kind: Kind, outcome: str, **own: object) -> Event:
        values = {**common, "id": EventId(new_id()), "kind": kind, "outcome": outcome}
        return Event(**{**values, **own})  # type: ignore[arg-type] # named above, one by one

    opened = event(Kind.CASE_OPENED, "opened", details={"purpose": PURPOSE})
    intents = [
        event(Kind.REQUEST_ACCEPTED, "accepted", **_of(*one), details=_intent(one[0]))
        for one in asked
    ]
    ends = [
        event(
            Kind.REQUEST_ENDED,
            "retrieved",
            **_of(*one),
            ends=intent.id,
            evidence=_evidence(one[1]),
        )
        for one, intent in zip(asked, intents, strict=True)
    ]
    releases = [
        event(
            Kind.EVIDENCE_RELEASED,
            "released",
            **_of(*one),
            details={"purpose": PURPOSE, "fields": {one[0].name: list(one[0].values)}},
            evidence=_evidence(one[1]),
        )
        for one in asked
    ]
    return CaseEvents([opened, *intents], [*ends, *releases])


def many_cases(
    persons: Sequence[str], count: int, at: datetime, new_id: NewId
) -> list[CaseEvents]:
    """Return cases about some persons, in turn."""
    return [
        case_events(persons[number % len(persons)], at, new_id)
        for number in range(count)
    ]


def _of(ask: Ask, lookup: LookupId) -> dict[str, object]:
    return {
        "provider": ask.provider,
        "evidence_type": ask.evidence_type,
        "correlation": lookup,
    }


def _intent(ask: Ask) -> dict[str, Json]:
    return {
        "requirements": [ask.name],
        "purpose": PURPOSE,
        "service": ask.service,
        "mode": "retrieve",
        "fields": list(ask.values),
        "grant": f"bench_{ask.name}@1",
        "rule": "granted",
        "basis": {"person": "statutory_duty"},
        "consents": [],
    }


def _evidence(lookup: LookupId) -> dict[str, Json]:
    """Return something as long as the digest of an issuer-signed JWT."""
    return {"evidence": b64url(lookup.encode()[:32])}
