"""The flow of a case: what applies, who holds it, may we ask, ask, check, judge.

`Flow.run` numbers the steps as the house does; each is one floor down: (1) and (2)
`exchange.planner`, (3) `exchange.deciding`, (4) to (6) `exchange.asking`. Steps (7) and
(8), the release and the answer, are `exchange.answer`. It works on a case in memory;
opening, storing and answering it are `exchange.resolver`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from audit.record import Event, Kind
from consent.rules import Rule
from consent.verdict import ConsentNeeded, Permit, Provisional, Refuse
from exchange.approval import Approved
from exchange.asking import Asker
from exchange.case import (
    Attempt,
    Barred,
    Disputed,
    Down,
    Held,
    KnownFact,
    Later,
    Nothing,
    Unconsented,
    earlier,
)
from exchange.deciding import AskedConsent, Decided, Decider
from exchange.judgement import judge_case
from exchange.mandating import Mandates
from exchange.opened import OpenCase
from exchange.outcomes import LOOK_AGAIN
from exchange.plan import Lookup, Plan, Planned, ready
from exchange.planner import Planner
from schemas.clock import Clock, day_in_beijing
from schemas.errors import Layer
from schemas.expressions import UNKNOWN
from schemas.ids import EventId, NewId
from schemas.model import Concept, Slug


@dataclass(slots=True)
class _Run:
    """How far one run of a case has come."""

    plans: dict[frozenset[str], Plan] = field(default_factory=dict)
    """By the asks that were known to be of no use."""
    planned_with: dict[str, KnownFact] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()
    tried: set[str] = field(default_factory=set)
    """Look-ups that were asked or given up."""
    lost: set[str] = field(default_factory=set)
    """Those whose use went to another once."""
    compared: set[str] = field(default_factory=set)
    """Those whose evidence was compared with what the case knows."""

    def learn_anew(self) -> None:
        """Plan, and compare what is held, from the beginning; ask nobody twice."""
        self.plans.clear()
        self.compared.clear()
        self.barred = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Resolves cases in memory, as far as their time allows."""

    planner: Planner
    mandates: Mandates
    decider: Decider
    asker: Asker
    clock: Clock
    new_id: NewId
    policy: str
    """Digest of the packs in force."""
    waits: Sequence[float]
    """Seconds after each failed try; the last one repeats."""
    on_outcome: Callable[[OpenCase], None]
    """Told of each run that ended: counts outcomes."""

    def judge(self, case: OpenCase) -> None:
        """Judge a case as it stands, without asking anybody."""
        plan = self._plan(case, frozenset(), self.clock.now())
        self._judge(case, [plan], renewed=False)

    async def run(self, case: OpenCase, deadline: float, *, renew: bool) -> None:
        """Resolve a case as far as its time allows, in memory.

        (1) See which requirements apply, in this situation.
        (2) Plan: lists, services, chained look-ups.
        (3) Decide every look-up before any is made.
        (4) Record the intents, (5) ask, (6) check: wave by wave.
        Then judge every requirement by what came.

        Args:
            case: Changed in place.
            deadline: Instant of the monotonic clock at which the run must end.
            renew: Whether what failed for good is asked again, and what is held reads
                as `reused`.
        """
        case.content.run += 1
        if self.mandates.rule(case) is not None:
            case.stop_waiting(self.clock.now())
        run = _Run()
        while True:
            now = self.clock.now()
            # (1), (2): again after each wave that told something.
            plan = self._next_plan(case, run, now)
            # What is held teaches in the place in which it would be asked for.
            held = [] if case.is_first_run else _untaught(case, plan, run, now)
            # (3): all that is left of the plan, so that nothing is asked before.
            approved = await self._decided(case, plan, run.tried, now, renew=renew)
            wave = _in_order(plan, approved, held)
            if not wave:
                if useless := self._useless(case, plan) - run.barred:
                    run.barred |= useless
                    continue
                break
            run.tried.update(one.lookup.id for one in approved)
            run.compared.update(lookup.id for lookup in wave)
            if approved and self.clock.monotonic() >= deadline:
                self._out_of_time(case, approved, now)
                approved = []
            # (4), (5), (6): one wave; its answers may make the next one possible.
            await self.asker.ask(case, approved, wave, deadline)
            run.tried -= self._to_decide_again(case, approved, run.lost)
            if case.is_outdated:
                case.forget_learned()
                run.learn_anew()
        self._judge(case, list(run.plans.values()), renewed=renew)
        self.on_outcome(case)

    def _next_plan(self, case: OpenCase, run: _Run, now: datetime) -> Plan:
        """Return the plan by what the case knows now."""
        plan = run.plans.get(run.barred)
        if plan is None or run.planned_with != case.content.facts:
            run.planned_with = {**case.content.facts}
            plan = run.plans[run.barred] = self._plan(case, run.barred, now)
        return plan

    def _plan(self, case: OpenCase, barred: frozenset[str], now: datetime) -> Plan:
        """Return what is to be asked as far as the case knows its situation."""
        situation, today = case.situation(barred), day_in_beijing(now)
        return self.planner.plan(case.head.matter, situation, today)

    def _judge(self, case: OpenCase, plans: Sequence[Plan], *, renewed: bool) -> None:
        """Judge every requirement by what came, while the case may go on."""
        ended = self.mandates.rule(case)
        judge_case(case, plans, self.clock.now(), ended, renewed=renewed)

    async def _decided(
        self,
        case: OpenCase,
        plan: Plan,
        tried: set[str],
        now: datetime,
        *,
        renew: bool,
    ) -> list[Approved]:
        """Return the look-ups of the next wave; note why others are not made."""
        open_ones = [
            lookup
            for lookup in plan.lookups.values()
            if lookup.id not in tried
            and self._is_wanted(case, plan, lookup, now, renew=renew)
        ]
        if not open_ones:
            return []
        decided = self.decider.decide(case, open_ones, now)
        asked = await self.decider.ask_consents(
            case, [one for one in decided.values() if one is not None]
        )
        permitted: dict[str, Approved] = {}
        for lookup in open_ones:
            one = decided[lookup.id]
            if one is None:
                tried.add(lookup.id)
                self._note(case, lookup, Nothing(covered=False))
                continue
            match one.decision:
                case Permit() as permit:
                    permitted[lookup.id] = self.decider.approve(one, permit)
                case Provisional():
                    pass
                case ConsentNeeded(missing=missing):
                    tried.add(lookup.id)
                    role = missing[0].role
                    self._note(case, lookup, _unconsented(role, asked[lookup.id]))
                case Refuse(rule=rule):
                    tried.add(lookup.id)
                    self._note(case, lookup, Barred(rule=rule.value))
                    case.unrecorded.append(self._denied(case, one, rule.value))
        settled = set(plan.lookups) - set(permitted)
        # Where none of them could be made so, what is known has to do.
        wave = ready(plan, _reliable(case, permitted), settled) or ready(
            plan, case.known(), settled
        )
        return [permitted[lookup.id] for lookup in wave]

    def _is_wanted(
        self, case: OpenCase, plan: Plan, lookup: Lookup, now: datetime, *, renew: bool
    ) -> bool:
        """Tell whether a look-up has to be made, or decided again, in this run.

        INVARIANT (rule 10): evidence is fresh, and something waits for a fact that it
        leaves blank: who has had the register mended need not wait until it is stale.
        """
        attempt = case.attempt(lookup)
        if attempt is None:
            return True
        match attempt.result:
            case Held():
                if not case.stands(lookup, attempt, now):
                    return True
                is_due = renew or attempt.at + LOOK_AGAIN <= now
                return is_due and _waits_for(
                    case, plan, lookup, case.blanks(lookup, attempt)
                )
            case Barred() | Unconsented():
                return True
            case Later(retry_at=at) | Down(retry_at=at) | Nothing(retry_at=at):
                return renew or (at is not None and at <= now)
            case _:
                return renew

    def _useless(self, case: OpenCase, plan: Plan) -> frozenset[str]:
        """Return asks that came to nothing, where another list is left to try."""
        useless: set[str] = set()
        for name, state in plan.requirements.items():
            lists = case.matter.requirements[name].lists
            if not isinstance(state, Planned) or state.list + 1 >= len(lists):
                continue
            for part in state.parts:
                attempt = case.attempt(plan.lookups[part.lookup])
                is_output = case.matter.asks[part.ask].output_of is not None
                if (
                    attempt is not None
                    and isinstance(attempt.result, Nothing)
                    and not is_output
                ):
                    useless.add(part.ask)
        return frozenset(useless)

    def _to_decide_again(
        self, case: OpenCase, wave: Iterable[Approved], lost: set[str]
    ) -> set[str]:
        """Return the look-ups of a wave whose use went to another: decided once more.

        INVARIANT (rule 10): a consent that no longer reaches is asked for anew at once.
        Where the second decision finds it again and its use is lost again, others are
        at it: the case's next attempt, which is owed within seconds, goes on.

        Args:
            case: Changed in place.
            wave: Look-ups that were permitted, and what came of them noted.
            lost: Those of this run that have lost a use before; added to.
        """
        losers = [one for one in wave if _lost_its_use(case, one.lookup.id)]
        again = {one.lookup.id for one in losers} - lost
        lost.update(again)
        twice = [one for one in losers if one.lookup.id not in again]
        self._out_of_time(case, twice, self.clock.now())
        return again

    def _out_of_time(
        self, case: OpenCase, approved: Sequence[Approved], now: datetime
    ) -> None:
        """Note that there was no time left to ask: it goes on by itself at once."""
        for one in approved:
            before = case.attempt(one.lookup)
            at = earlier(now + timedelta(seconds=self.waits[0]), before, now)
            since = now
            if before is not None and isinstance(before.result, Down):
                since = before.result.since
            down = Down(layer=Layer.GATEWAY, since=since, retry_at=at, deadline=True)
            self._note(case, one.lookup, down)

    def _note(
        self,
        case: OpenCase,
        lookup: Lookup,
        result: Nothing | Unconsented | Barred | Down,
    ) -> None:
        """Note a look-up that was not made; what is held for it stands."""
        before, now = case.attempt(lookup), self.clock.now()
        if before is not None and case.stands(lookup, before, now):
            case.note(lookup.id, replace(before, at=now))
            return
        attempt = Attempt(
            result=result,
            at=now,
            tries=0 if before is None else before.tries,
            run=case.content.run,
            made_by=case.inputs(lookup),
        )
        case.note(lookup.id, attempt)

    def _denied(self, case: OpenCase, one: Decided, rule: str) -> Event:
        """INVARIANT (rule 2): a refusal is recorded as well."""
        lookup = one.lookup
        return Event(
            id=EventId(self.new_id()),
            at=self.clock.now(),
            kind=Kind.REQUEST_DENIED,
            outcome=rule,
            requester=case.head.requester,
            provider=one.service.provider,
            evidence_type=lookup.evidence_type,
            policy=self.policy,
            subjects=case.concern(lookup),
            actor=case.actor,
            case=case.head.id,
            matter=case.head.matter,
            details={
                "purpose": case.head.purpose,
                "requirements": list(lookup.serves),
                "fields": [*lookup.fields, *lookup.match],
                **case.mandate,
            },
        )


_LOST = frozenset(
    rule.value
    for rule in (
        Rule.CONSENT_MISSING,
        Rule.CONSENT_ASKED,
        Rule.CONSENT_EXPIRED,
        Rule.CONSENT_USED_UP,
    )
)
"""Why a use could not be taken of a consent that its person did not take back."""


def _lost_its_use(case: OpenCase, lookup: str) -> bool:
    result = case.content.attempts[lookup].result
    return isinstance(result, Barred) and result.rule in _LOST


def _reliable(case: OpenCase, wanted: Collection[str]) -> frozenset[str]:
    """Return the concepts that no wanted look-up has told: it may tell them otherwise.

    So nobody is asked about a person who is perhaps not the one any more.
    """
    known = case.known()
    if case.is_first_run:
        return known
    facts = case.content.facts
    return frozenset(c for c in known if facts[c].source not in wanted)


def _untaught(case: OpenCase, plan: Plan, run: _Run, now: datetime) -> list[Lookup]:
    """Return the look-ups whose evidence is held, and of which the case knows less.

    They are those that could be made now, so that each is compared with just what it
    would be compared with if it were asked for.
    """
    facts = case.content.facts
    return [
        lookup
        for lookup in ready(plan, case.known(), run.compared)
        if lookup.shows
        and (attempt := case.attempt(lookup)) is not None
        and case.is_there(lookup, attempt, now)
        and (
            isinstance(attempt.result, Disputed)
            or not lookup.shows.keys() <= facts.keys()
        )
    ]


def _waits_for(
    case: OpenCase, plan: Plan, lookup: Lookup, blanks: frozenset[Concept]
) -> bool:
    """Tell whether something waits for facts that a record leaves blank.

    A blank that nothing waits for is an answer like any other.

    Args:
        case: None of whose evidence tells them.
        plan: Its plan.
        lookup: The look-up that could tell them.
        blanks: The facts.
    """
    if not blanks:
        return False
    for one in plan.lookups.values():
        ids = [f"{role}.id" for role in (one.about, *one.concerns)]
        if one is not lookup and not blanks.isdisjoint({*one.inputs, *ids}):
            return True
    environment = case.situation().environment()
    return any(
        not blanks.isdisjoint(program.concepts)
        and program.evaluate(environment) is UNKNOWN
        for program in case.catalogue.programs.values()
    )


def _in_order(
    plan: Plan, approved: Sequence[Approved], held: Sequence[Lookup]
) -> Sequence[Lookup]:
    """Return a wave in the order of the plan: what is asked for, and what is held."""
    asked = [one.lookup for one in approved]
    if not held:
        return asked
    wave = {lookup.id for lookup in (*asked, *held)}
    return [lookup for lookup in plan.lookups.values() if lookup.id in wave]


def _unconsented(role: Slug, asked: Mapping[str, AskedConsent]) -> Unconsented:
    """Return what a look-up waits for, of what its persons were asked."""
    consent = asked.get(role)
    if consent is None:
        return Unconsented(role=role)
    return Unconsented(role=role, consent=consent.id, expires_at=consent.expires_at)
