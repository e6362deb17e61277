"""What a requirement came to: pure judgement of what the look-ups brought.

Nothing here asks, waits or stores. An outcome that is adverse to a person is never
a decision: it names who looks at it next, and how it is contested.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeAlias, TypedDict, assert_never

from consent.mandates import MANDATE_RULES
from consent.rules import Rule
from exchange.case import (
    Attempt,
    Barred,
    Disputed,
    Down,
    Held,
    Later,
    Nothing,
    Unconsented,
    Unmatched,
    Unmet,
    Wrong,
)
from exchange.plan import Part
from schemas.errors import Fault, Layer
from schemas.evidence import Mode
from schemas.ids import CaseId, EvidenceId
from schemas.matter import Ask, Matter, QuestionType, SupplyReason
from schemas.outcome import (
    AnswerNeeded,
    Assist,
    Conflict,
    ConflictHint,
    ConsentNeeded,
    Derived,
    Faulty,
    Mismatch,
    NextStep,
    NotHeld,
    OpenFact,
    OpenQuestion,
    Outcome,
    OutOfCoverage,
    Pending,
    RecordRef,
    Refused,
    Retrieved,
    Reused,
    StepOwner,
    Supplied,
    SupplyNeeded,
    Unavailable,
    Verified,
)

LOOK_AGAIN = timedelta(hours=24)
"""How often a case that waits for people alone is looked at by itself."""

AMBIGUOUS = "provider.ambiguous"
"""The rule by which a department refuses to pick one of several records that fit."""
_GRAVITY = (
    Refused,
    Conflict,
    Mismatch,
    Faulty,
    NotHeld,
    OutOfCoverage,
    Unavailable,
    SupplyNeeded,
    ConsentNeeded,
    AnswerNeeded,
    Assist,
    Pending,
)
"""Where several pieces of evidence are open, the first of these speaks for all."""


_NO_CONSENT = frozenset((Rule.CONSENT_REFUSED.value, Rule.CONSENT_WITHDRAWN.value))
"""Refusals that come from the person: the applicant may hand it in instead."""
_NO_MANDATE = frozenset(rule.value for rule in MANDATE_RULES)
"""Refusals that come from a mandate that has ended: somebody applies anew."""
_ANEW = NextStep(owner=StepOwner.APPLICANT, action="apply", link="/v1/cases")


Supply: TypeAlias = tuple[SupplyReason, ...]
"""The reasons for which the matter lets the applicant hand something in."""


Attempts: TypeAlias = Mapping[str, Attempt]
"""Tries by look-up."""


class _Basis(TypedDict):
    """What every outcome says about the look-up it rests on."""

    service: str | None
    provider: str | None
    record: RecordRef | None
    elapsed_ms: float | None


class Judge:
    """Judges the requirements of one case at one instant.

    Args:
        case: Whose links the next steps carry.
        matter: The matter of the case.
        attempts: The tries that answer its look-ups as they would be made now.
        now: The instant.
        reused_before: The run from which on evidence no longer reads as `reused`.
    """

    def __init__(
        self,
        case: CaseId,
        matter: Matter,
        attempts: Attempts,
        now: datetime,
        *,
        reused_before: int = 0,
    ) -> None:
        self._case = case
        self._matter = matter
        self._attempts = attempts
        self._now = now
        self._reused_before = reused_before
        # INVARIANT (rule 10): what only people can end has a clock as well.
        self._next_look = now + LOOK_AGAIN

    def evidence(
        self,
        supply: Supply,
        parts: Sequence[Part],
        unasked: Callable[[str], Outcome],
    ) -> Outcome:
        """Judge a requirement by the evidence that its list needs.

        Args:
            supply: The reasons for which the applicant may hand it in.
            parts: What its list needs.
            unasked: Says of a look-up that could not be made yet what it waits for.
        """
        if len(parts) == 1:
            return self._part(supply, parts[0], unasked)
        outcomes = [self._part(supply, part, unasked) for part in parts]
        open_ones = [o for o in outcomes if not o.is_settled]
        if open_ones:
            return min(open_ones, key=_gravity)
        return _united(outcomes)

    def missing(
        self,
        questions: Iterable[str],
        facts: Iterable[str] = (),
        found: Outcome | None = None,
    ) -> Outcome:
        """Say which answers, and which facts about subjects, it waits for.

        Args:
            questions: Of the matter.
            facts: Concepts that the portal may state.
            found: What a look-up came to that has to be made by them instead.
        """
        needed = AnswerNeeded(
            questions=tuple(_question(self._matter, name) for name in questions),
            facts=tuple(_fact(self._matter, concept) for concept in facts),
            next_step=self._asked_of_applicant("answer"),
        )
        return needed if found is None else replace(needed, **_basis_of(found))

    def uncovered(self, supply: Supply) -> Outcome:
        """Say that no registered service covers what a requirement needs."""
        return self._fallen_back(
            supply,
            SupplyReason.OUT_OF_COVERAGE,
            OutOfCoverage(next_step=_step("report", StepOwner.OPERATOR)),
        )

    def chained(self, upstream: Outcome | None = None) -> Outcome:
        """Say that a fact which the requirement turns on is still open.

        INVARIANT (rule 10): whoever has to move for that fact has to move for this.
        What the applicant may hand in instead is asked for, with the reason.

        Args:
            upstream: How that stands which would tell the fact, where it is known.
        """
        if isinstance(upstream, SupplyNeeded):
            return upstream
        step = None if upstream is None else upstream.next_step
        if step is None:
            step = _wait(StepOwner.EXCHANGE, None, self._next_look)
        elif step.due_at is None:
            step = replace(step, due_at=self._next_look)
        return Pending(reason="chained", next_step=step)

    def untold(self, provider: str, supply: Supply) -> Outcome:
        """Say that a record came without a fact which the requirement turns on."""
        contest = NextStep(
            owner=StepOwner.PROVIDER,
            owner_id=provider,
            action="contest",
            due_at=self._next_look,
        )
        waiting = Pending(provider=provider, reason="chained", next_step=contest)
        return self._fallen_back(supply, SupplyReason.NOT_HELD, waiting)

    def ended(self, outcome: Outcome, rule: Rule) -> Outcome:
        """Refuse what waits, since the mandate of the case holds no more.

        INVARIANT (rule 10): nobody is sent where an agent without a mandate is turned
        away: what still waits, for whomever, waits for a case of its own.
        """
        match outcome:
            case AnswerNeeded() | SupplyNeeded() | ConsentNeeded() | Pending():
                return Refused(
                    **_basis_of(outcome),
                    rule=rule.value,
                    layer=Layer.GATEWAY,
                    next_step=_ANEW,
                )
            case _:
                return outcome

    def derived(self, expression: str, slowest_ms: float | None) -> Outcome:
        """Say that evidence held shows it."""
        return Derived(expression=expression, elapsed_ms=slowest_ms)

    def criterion_failed(self, outcome: Outcome) -> Outcome:
        """Say that the evidence is there, and does not show what it must."""
        return Mismatch(
            **_basis_of(outcome),
            next_step=_step("contest", StepOwner.PROVIDER, outcome.provider),
        )

    def supplied(self, reason: SupplyReason) -> Outcome:
        """Say that the applicant handed it in."""
        return Supplied(reason=reason)

    def _part(
        self,
        supply: Supply,
        part: Part,
        unasked: Callable[[str], Outcome],
    ) -> Outcome:
        attempt = self._attempts.get(part.lookup)
        if attempt is None:
            return unasked(part.lookup)
        ask, result = self._matter.asks[part.ask], attempt.result
        if isinstance(result, Held):
            return self._held(ask, attempt, result.evidence)
        return self._unmet(supply, ask, attempt, result)

    def _unmet(  # noqa: C901, PLR0911, PLR0912 - a branch for each member of a union
        self, supply: Supply, ask: Ask, attempt: Attempt, result: Unmet
    ) -> Outcome:
        """Judge an attempt that brought no evidence to pass on."""
        basis = _basis(attempt)
        contest = _step("contest", StepOwner.PROVIDER, attempt.provider)
        match result:
            case Disputed(hint=ConflictHint.NONE, against="stated") as disputed:
                return Mismatch(
                    **basis,
                    concept=disputed.concept,
                    layer=Layer.SOURCE,
                    next_step=contest,
                )
            case Disputed(concept=concept, hint=hint):
                return Conflict(
                    **basis,
                    concept=concept,
                    hint=hint,
                    layer=Layer.SOURCE,
                    next_step=contest,
                )
            case Unmatched():
                return Mismatch(**basis, layer=Layer.SOURCE, next_step=contest)
            case Nothing() as nothing:
                return self._nothing(ask, supply, attempt, nothing)
            case Later(retry_at=retry_at):
                return Pending(
                    **basis,
                    reason="deferred",
                    retry_at=retry_at,
                    can_retry=True,
                    next_step=_wait(StepOwner.PROVIDER, attempt.provider, retry_at),
                )
            case Down() as down:
                return self._down(supply, attempt, down)
            case Wrong(fault=fault):
                return self._faulty(attempt, fault)
            case Barred(rule=rule):
                return self._barred(supply, attempt, rule)
            case Unconsented() as unconsented:
                return self._unconsented(attempt, unconsented)
            case _:
                assert_never(result)

    def _held(self, ask: Ask, attempt: Attempt, evidence: EvidenceId) -> Outcome:
        kind: type[Retrieved | Reused | Verified] = Retrieved
        if attempt.run < self._reused_before:
            kind = Reused
        elif ask.mode is Mode.VERIFY:
            kind = Verified
        return kind(
            service=attempt.service,
            provider=attempt.provider,
            evidence=(evidence,),
            record=attempt.record,
            elapsed_ms=attempt.elapsed_ms,
        )

    def _nothing(
        self, ask: Ask, supply: Supply, attempt: Attempt, result: Nothing
    ) -> Outcome:
        basis = _basis(attempt)
        if not result.covered:
            return self._fallen_back(
                supply,
                SupplyReason.OUT_OF_COVERAGE,
                OutOfCoverage(**basis, next_step=_step("report", StepOwner.OPERATOR)),
            )
        if ask.output_of is not None:
            step = self._matter.steps[ask.output_of]
            return Pending(
                **basis,
                reason="step",
                step=ask.output_of,
                retry_at=result.retry_at,
                can_retry=True,
                next_step=NextStep(
                    owner=StepOwner.PROVIDER,
                    owner_id=step.provider,
                    action="perform_step",
                    due_at=result.retry_at or self._next_look,
                ),
            )
        return self._fallen_back(
            supply,
            SupplyReason.NOT_HELD,
            NotHeld(
                **basis,
                layer=Layer.SOURCE,
                next_step=_step("contest", StepOwner.PROVIDER, attempt.provider),
            ),
        )

    def _down(self, supply: Supply, attempt: Attempt, down: Down) -> Outcome:
        """INVARIANT (rule 10): a source that is down is `pending`, up to the limit."""
        basis = _basis(attempt)
        if down.retry_at is not None:
            return Pending(
                **basis,
                reason="deadline" if down.deadline else "source_down",
                layer=down.layer,
                retry_at=down.retry_at,
                can_retry=True,
                next_step=_wait(StepOwner.EXCHANGE, None, down.retry_at),
            )
        return self._fallen_back(
            supply,
            SupplyReason.SOURCE_DOWN,
            Unavailable(
                **basis,
                layer=down.layer,
                can_retry=True,
                next_step=_step("report", StepOwner.OPERATOR),
            ),
        )

    def _faulty(self, attempt: Attempt, fault: Fault) -> Outcome:
        """Say that the source answered wrongly, and by when it should be right."""
        return Faulty(
            **_basis(attempt),
            fault=fault,
            layer=Layer.SOURCE,
            can_retry=True,
            next_step=NextStep(
                owner=StepOwner.PROVIDER,
                owner_id=attempt.provider,
                # A stale record is the source's own to look up by hand.
                action="assist" if fault is Fault.STALE else "report",
                due_at=attempt.at + self._matter.source_limit,
            ),
        )

    def _barred(self, supply: Supply, attempt: Attempt, rule: str) -> Outcome:
        refused = Refused(
            **_basis(attempt),
            rule=rule,
            layer=Layer.GATEWAY,
            next_step=_step("report", StepOwner.OPERATOR),
        )
        if rule in _NO_MANDATE:
            return replace(refused, next_step=_ANEW)
        if rule not in _NO_CONSENT:
            return refused
        return self._fallen_back(supply, SupplyReason.NO_CONSENT, refused)

    def _unconsented(self, attempt: Attempt, result: Unconsented) -> Outcome:
        link = None if result.consent is None else f"/v1/consents/{result.consent}"
        return ConsentNeeded(
            **_basis(attempt),
            role=result.role,
            consent=result.consent,
            next_step=NextStep(
                owner=StepOwner.PERSON,
                owner_id=result.role,
                action="give_consent",
                link=link,
                due_at=result.expires_at or self._next_look,
            ),
        )

    def _fallen_back(
        self, supply: Supply, reason: SupplyReason, otherwise: Outcome
    ) -> Outcome:
        """Let the applicant hand it in where the matter allows it for this reason."""
        if reason not in supply:
            return otherwise
        return SupplyNeeded(
            **_basis_of(otherwise),
            reason=reason,
            layer=otherwise.layer,
            can_retry=otherwise.can_retry,
            next_step=self._asked_of_applicant("supply"),
        )

    def _asked_of_applicant(self, action: str) -> NextStep:
        return NextStep(
            owner=StepOwner.APPLICANT,
            action=action,
            link=f"/v1/cases/{self._case}/answers",
            due_at=self._next_look,
        )


def reason_found(outcome: Outcome) -> SupplyReason | None:  # noqa: C901, PLR0911, PLR0912 - a branch for each reason
    """Return the reason for which evidence that is still open may be handed in.

    None where nothing was found that would be a reason, and for a `mismatch`: what is
    handed in stands against a register's word, and a person decides.
    """
    match outcome:
        case SupplyNeeded(reason=reason):
            return reason
        # No register tells a fact that it is looked up by.
        case NotHeld() | AnswerNeeded(questions=(), facts=(_, *_)):
            return SupplyReason.NOT_HELD
        case OutOfCoverage():
            return SupplyReason.OUT_OF_COVERAGE
        case Conflict():
            return SupplyReason.DISPUTED
        case Unavailable() | Pending(reason="source_down"):
            return SupplyReason.SOURCE_DOWN
        case Faulty():
            return SupplyReason.SOURCE_FAULTY
        # It waits for a record that is contested, or for an answer that came wrongly.
        case Pending(reason="chained", next_step=NextStep(action="contest")):
            return SupplyReason.DISPUTED
        case Pending(
            reason="chained",
            next_step=NextStep(owner=StepOwner.PROVIDER, action="report" | "assist"),
        ):
            return SupplyReason.SOURCE_FAULTY
        case _:
            return None


def _question(matter: Matter, name: str) -> OpenQuestion:
    """Return a question of a matter as it is put."""
    declared = matter.questions[name]
    is_text = declared.type is QuestionType.TEXT
    return OpenQuestion(
        id=name,
        name=declared.name,
        type=declared.type,
        choices=declared.choices,
        max_length=declared.max_length if is_text else None,
    )


def _fact(matter: Matter, concept: str) -> OpenFact:
    """Return a fact of a matter's role as it is asked for."""
    role, _, fact = concept.partition(".")
    declared = matter.roles[role]
    named = declared.facts[fact]
    return OpenFact(id=concept, role=declared.name, name=named.name, type=named.type)


def _step(action: str, owner: StepOwner, owner_id: str | None = None) -> NextStep:
    return NextStep(owner=owner, owner_id=owner_id, action=action)


def _wait(owner: StepOwner, owner_id: str | None, due_at: datetime) -> NextStep:
    return NextStep(owner=owner, owner_id=owner_id, action="wait", due_at=due_at)


def _basis(attempt: Attempt) -> _Basis:
    return _Basis(
        service=attempt.service,
        provider=attempt.provider,
        record=attempt.record,
        elapsed_ms=attempt.elapsed_ms,
    )


def _basis_of(outcome: Outcome) -> _Basis:
    return _Basis(
        service=outcome.service,
        provider=outcome.provider,
        record=outcome.record,
        elapsed_ms=outcome.elapsed_ms,
    )


def _gravity(outcome: Outcome) -> int:
    return _GRAVITY.index(type(outcome))


def _united(outcomes: Sequence[Outcome]) -> Outcome:
    """Let one settled outcome speak for all, with the evidence of all."""
    slowest = max(outcomes, key=lambda o: o.elapsed_ms or 0.0)
    evidence = tuple(dict.fromkeys(e for o in outcomes for e in o.evidence))
    return replace(slowest, evidence=evidence)
