"""A case that is being worked on: opened with its key, changed, and put back.

What the case knows is in `content`; the evidence it holds is beside it. Work is done
by one at a time, who holds the lease of the case (`exchange.due`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from audit.record import Actor as RecordedActor
from audit.record import Event, Subject
from connectors.checking import restore_evidence
from connectors.lookup import Evidence
from exchange.case import (
    STATED,
    Agent,
    Attempt,
    CaseContent,
    CaseHead,
    CaseStatus,
    Disputed,
    Held,
    Repeated,
    read_content,
    to_json,
)
from exchange.cases import SealedEvidence, StoredCase
from exchange.catalogue import Catalogue
from exchange.plan import Lookup
from exchange.situation import Situation
from exchange.vault import CaseKey, Vault
from schemas.errors import NotFoundError, StateConflictError
from schemas.ids import EventId, EvidenceId, MandateId
from schemas.matter import FactType, Matter
from schemas.model import Concept

_CLOSED = "the case is closed"
_CONTENT = "content"
_EVIDENCE = "evidence/"
_FORMER_KEPT = 8
"""Most tries of one look-up with other values that are kept."""


@dataclass(slots=True)
class OpenCase:
    """One case in memory."""

    head: CaseHead
    key: CaseKey
    catalogue: Catalogue
    content: CaseContent
    evidence: dict[EvidenceId, Evidence] = field(default_factory=dict)
    fresh: dict[EvidenceId, datetime | None] = field(default_factory=dict)
    """Evidence that came in this run and is not stored yet → when it is stale."""
    unrecorded: list[Event] = field(default_factory=list)
    """What it does and how look-ups ended: goes to the log with the next append, before
    the case is stored."""
    owed: list[EventId] = field(default_factory=list)
    """Those of them that the tables owe the log: struck out when the case is stored."""
    is_outdated: bool = False
    """Whether a look-up has said something else than before: what is known may rest on
    that."""
    matter: Matter = field(init=False, repr=False)
    """The matter, in the version that the case was opened for."""
    _subjects: dict[tuple[str, ...], tuple[Subject, ...]] = field(
        default_factory=dict, init=False, repr=False
    )
    """Who is in some roles, once that is known of all of them; forgotten with facts."""
    actor: RecordedActor = field(init=False, repr=False)
    """Who acts, as a record names it."""
    mandate_id: MandateId | None = field(init=False)
    """The mandate under which it goes on; None where no agent acts."""
    mandate: Mapping[str, str] = field(init=False, repr=False)
    """The same, as the details of a record."""

    def __post_init__(self) -> None:
        # Worked out here: each of the sixteen records of a usual case names them.
        actor = self.content.actor
        self.matter = self.catalogue.matter
        self.actor = RecordedActor(actor.kind, actor.id)
        self.mandate_id = actor.mandate if isinstance(actor, Agent) else None
        self.mandate = {} if self.mandate_id is None else {"mandate": self.mandate_id}

    @property
    def is_first_run(self) -> bool:
        """Whether nothing was asked before: nothing is held, nothing is another's."""
        return self.content.run == 1

    def situation(self, barred: frozenset[str] = frozenset()) -> Situation:
        """Return what the case knows, for planning."""
        facts = self.content.facts
        return Situation(
            answers=self.content.answers,
            stated={c: f.value for c, f in facts.items() if f.source == STATED},
            learned={c: f.value for c, f in facts.items() if f.source != STATED},
            barred=barred,
        )

    def counting(self, requirement: str) -> tuple[int, ...]:
        """Return the places of a requirement's lists that count by what was stated.

        What registers tell may leave some of them out, and is not looked at: it tells
        how the evidence is found, not which the applicant's answers lead to.
        """
        known, programs = self.situation(), self.catalogue.programs
        environment = Situation(known.answers, known.stated).environment()
        lists = self.matter.requirements[requirement].lists
        return tuple(
            place
            for place, one in enumerate(lists)
            if one.when is None or programs[one.when].evaluate(environment) is not False
        )

    def known(self) -> frozenset[str]:
        """Return the concepts that look-ups may be made by."""
        return frozenset(c for c, fact in self.content.facts.items() if fact.is_kept)

    def text(self, concept: str) -> str:
        """Return a known concept's value, as it is written in a look-up."""
        return str(self.content.facts[concept].value)

    def person(self, role: str) -> str | None:
        """Return the id of the subject in a role, or None while it is not known."""
        fact = self.content.facts.get(f"{role}.id")
        return None if fact is None else str(fact.value)

    def concern(self, lookup: Lookup) -> tuple[Subject, ...]:
        """Note whom a look-up is about, concerns, or is made by; return who is known.

        The records of its end and of what it brings name the same roles.
        """
        self.content.concerned[lookup.id] = lookup.roles
        return self.subjects(lookup.roles)

    def concerned(self, lookup: str) -> tuple[Subject, ...]:
        """Return everybody whom a look-up concerned, as far as they are known."""
        return self.subjects(self.content.concerned.get(lookup, ()))

    def subjects(self, roles: tuple[str, ...]) -> tuple[Subject, ...]:
        """Return the subjects of roles, as far as they are known."""
        kept = self._subjects.get(roles)
        if kept is not None:
            return kept
        found = [self._subject(role) for role in roles]
        known = tuple([subject for subject in found if subject is not None])
        if len(known) == len(roles):
            self._subjects[roles] = known
        return known

    def _subject(self, role: str) -> Subject | None:
        person = self.person(role)
        return None if person is None else Subject(role, self.namespace(role), person)

    def inputs(self, lookup: Lookup) -> dict[str, str]:
        """Return what is known now of the concepts that a look-up takes."""
        facts = self.content.facts
        return {c: str(facts[c].value) for c in lookup.inputs if c in facts}

    def attempt(self, lookup: Lookup) -> Attempt | None:
        """Return the last try of a look-up with the values that it would have now."""
        attempt = self.content.attempts.get(lookup.id)
        if attempt is None:
            return None
        now = self.inputs(lookup)
        tries: list[Attempt] = [attempt, *self.content.former.get(lookup.id, ())]
        for one in tries:
            if all(one.made_by.get(c, value) == value for c, value in now.items()):
                return one
        return None

    def note(self, lookup: str, attempt: Attempt) -> None:
        """Note the last try of a look-up; evidence of another question stays held."""
        before = self.content.attempts.get(lookup)
        self.content.attempts[lookup] = attempt
        if before is None or before.made_by == attempt.made_by:
            return
        former = [before, *self.content.former.get(lookup, ())]
        self.content.former[lookup] = [
            one
            for one in former
            if one.made_by != attempt.made_by
            and isinstance(one.result, Held)
            and one.result.evidence in self.evidence
        ][:_FORMER_KEPT]

    def answered(self, lookup: Lookup) -> Attempt | None:
        """Return the last try of a look-up that answers the question as it is now.

        One that somebody was asked for answers none while what it takes is not known:
        the answers that it was found by may have been changed.
        """
        attempt = self.attempt(lookup)
        if attempt is None or attempt.lookup is None:
            return attempt
        return attempt if lookup.inputs <= self.content.facts.keys() else None

    def forget_learned(self) -> None:
        """Know no more than was stated: what the plan still wants is learned again.

        INVARIANT: what comes of a case depends on its present answers, and on what
        registers say now, not on what was answered or said before.
        """
        facts = self.content.facts
        self.content.facts = {c: f for c, f in facts.items() if f.source == STATED}
        self.content.outcomes = {}
        self._subjects.clear()
        self.is_outdated = False

    def take_back(self, lookup: str) -> None:
        """Know no more what a look-up said before: it has said something else."""
        facts = self.content.facts
        left = {c: f for c, f in facts.items() if f.source != lookup}
        if len(left) == len(facts):
            return
        self.content.facts = left
        self._subjects.clear()
        self.is_outdated = True

    def blanks(self, lookup: Lookup, attempt: Attempt) -> frozenset[Concept]:
        """Return the facts that the evidence of a look-up leaves blank, if unknown."""
        result, facts = attempt.result, self.content.facts
        if not isinstance(result, Held) or result.evidence not in self.evidence:
            return frozenset()
        values = self.evidence[result.evidence].disclosed.values
        return frozenset(
            concept
            for concept, name in lookup.shows.items()
            if concept not in facts and values.get(name) in (None, "")
        )

    def stop_waiting(self, now: datetime) -> None:
        """Let nothing wait for another try: all that is open is decided again now."""
        for lookup, attempt in self.content.attempts.items():
            result = attempt.result
            if isinstance(result, Repeated) and result.retry_at is not None:
                waited = replace(result, retry_at=now)
                self.content.attempts[lookup] = replace(attempt, result=waited)

    def stands(self, lookup: Lookup, attempt: Attempt, now: datetime) -> bool:
        """Tell whether an attempt brought all that a look-up asks for, still fresh."""
        return isinstance(attempt.result, Held) and self.is_there(lookup, attempt, now)

    def is_there(self, lookup: Lookup, attempt: Attempt, now: datetime) -> bool:
        """Tell whether fresh evidence with all that a look-up asks for is here."""
        result = attempt.result
        if not isinstance(result, Held | Disputed):
            return False
        evidence = self.evidence.get(result.evidence)
        if evidence is None or not evidence.disclosed.values.keys() >= {*lookup.fields}:
            return False
        expires = result.expires_at
        return expires is None or now < expires

    def put(self, evidence: Evidence, expires_at: datetime | None) -> None:
        """Keep evidence that came in this run, until it is stale."""
        self.evidence[evidence.id] = evidence
        self.fresh[evidence.id] = expires_at

    def step_on(self, status: CaseStatus) -> None:
        """Move the head on to the next version."""
        self.head = replace(self.head, status=status, version=self.head.version + 1)

    def sealed_content(self) -> bytes:
        """Return what the case knows, sealed under its key."""
        return self.key.seal(_CONTENT, to_json(self.content))

    def sealed_fresh(self) -> list[SealedEvidence]:
        """Return the evidence that came in this run, each sealed under the case key."""
        return [
            SealedEvidence(
                id=item,
                content=self.key.seal(_EVIDENCE + item, _kept(self.evidence[item])),
                expires_at=expires_at,
            )
            for item, expires_at in self.fresh.items()
        ]

    def namespace(self, role: str) -> str:
        """Return what kind of id the subjects of a role have."""
        declared = self.matter.roles.get(role)
        fact = None if declared is None else declared.facts.get("id")
        return (FactType.CITIZEN_ID if fact is None else fact.type).value


def reopen(
    stored: StoredCase,
    sealed: Mapping[EvidenceId, bytes],
    vault: Vault,
    catalogue: Catalogue,
) -> OpenCase:
    """Open a stored case with its key.

    Raises:
        StateConflictError: It is closed, or was closed since it was read.
        VerificationError: What was stored was changed.
    """
    key, content = _unlocked(stored, vault)
    return OpenCase(
        head=stored.head,
        key=key,
        catalogue=catalogue,
        content=read_content(content),
        evidence={
            item: _restored(key.open(_EVIDENCE + item, content))
            for item, content in sealed.items()
        },
    )


def known_person(stored: StoredCase, vault: Vault, role: str) -> str | None:
    """Return the id of the subject in a role of a stored case; None: not known.

    Raises:
        StateConflictError: The case is closed.
        VerificationError: What was stored was changed.
    """
    _, content = _unlocked(stored, vault)
    fact = read_content(content).facts.get(f"{role}.id")
    return None if fact is None else str(fact.value)


def known_mandate(stored: StoredCase, vault: Vault) -> MandateId | None:
    """Return the mandate under which a stored case goes on; None: no agent acts.

    Raises:
        StateConflictError: The case is closed.
        VerificationError: What was stored was changed.
    """
    _, content = _unlocked(stored, vault)
    actor = read_content(content).actor
    return actor.mandate if isinstance(actor, Agent) else None


def _unlocked(stored: StoredCase, vault: Vault) -> tuple[CaseKey, bytes]:
    """Return the key of a stored case, and what the case knows."""
    if stored.content is None:
        raise StateConflictError(_CLOSED)
    try:
        key = vault.key(stored.key, stored.head.id)
    except NotFoundError:  # only closing destroys a key
        raise StateConflictError(_CLOSED) from None
    return key, key.open(_CONTENT, stored.content)


def _kept(evidence: Evidence) -> bytes:
    """Return what is stored of evidence: its service, and all that was disclosed."""
    presentation = evidence.presentation(evidence.disclosed.encoded)
    return f"{evidence.service}~{presentation}".encode()


def _restored(kept: bytes) -> Evidence:
    service, _, presentation = kept.decode().partition("~")
    return restore_evidence(presentation, service)
