"""What would be decided of a plan's look-ups in mere circumstances: no case is needed.

Pure; the decision is the one that a case goes through.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from consent.artefact import Consent, Person
from consent.decision import decide
from consent.rules import Target
from consent.verdict import Decision, ProposedLookup
from exchange.plan import Lookup, Plan
from schemas.directory import DataService
from schemas.ids import CaseId
from schemas.model import Slug
from schemas.validation import Pack


class Judged(Protocol):
    """A look-up's service and the decision about it."""

    @property
    def service(self) -> DataService:
        """The service that would be asked first."""
        ...

    @property
    def decision(self) -> Decision:
        """What was decided."""
        ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """A look-up's service and the decision about it."""

    service: DataService
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Who would ask, for what, and what bears on the decision."""

    requester: Slug
    purpose: Slug
    case: CaseId
    """The case; a fresh id where there is none, so that no consent is for it."""
    persons: Mapping[Slug, Person] = field(default_factory=dict, repr=False)
    """Role → person ref, for the roles whose person is known."""
    consents: tuple[Consent, ...] = ()
    suspended: frozenset[Target] = frozenset()
    used: Mapping[Slug, int] = field(default_factory=dict)
    """Look-ups made in the current period under each grant with a quota."""


def judge(
    pack: Pack, plan: Plan, circumstances: Circumstances, now: datetime
) -> Mapping[str, Judgement]:
    """Decide every look-up of a plan, as a case would before its first wave.

    A look-up whose region is not known yet is decided for its first service.
    """
    matter = plan.matter.partition("@")[0]
    judged: dict[str, Judgement] = {}
    for lookup in plan.lookups.values():
        service = pack.services[lookup.services[0]]
        decision = decide(
            propose(lookup, matter, service, circumstances),
            pack.grants.values(),
            circumstances.consents,
            circumstances.suspended,
            circumstances.used,
            now,
        )
        judged[lookup.id] = Judgement(service, decision)
    return judged


def propose(
    lookup: Lookup, matter: Slug, service: DataService, circumstances: Circumstances
) -> ProposedLookup:
    """Return a planned look-up as it is put to the decision."""
    persons = circumstances.persons
    return ProposedLookup(
        evidence_type=lookup.evidence_type,
        mode=lookup.mode,
        fields=frozenset([*lookup.fields, *lookup.match]),
        subjects={role: persons.get(role) for role in (lookup.about, *lookup.concerns)},
        requester=circumstances.requester,
        matter=matter,
        purpose=circumstances.purpose,
        case=circumstances.case,
        service=service.id,
        provider=service.provider,
    )
