"""Explaining a matter from its packs alone, for `errand explain`.

No value of a person is needed: facts are named as stated, and that is what planning
goes by. Consents are those of nobody, so the decisions say where one is needed.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from rich.table import Table

from consent.artefact import Person
from exchange.catalogue import Catalogue, compile_matter
from exchange.explain import explain
from exchange.explanation import Explanation, LookupExplained, Move
from exchange.intake import check_answers
from exchange.planner import Planner
from exchange.proposal import Circumstances, judge
from exchange.situation import Situation
from schemas.clock import Clock, SystemClock, day_in_beijing
from schemas.errors import Complaint, InvalidRequestError, NotFoundError
from schemas.ids import CaseId, new_ids
from schemas.matter import Matter, QuestionType
from schemas.model import Concept, Slug, VersionedId
from schemas.validation import Pack

_STATED = "stated"
"""Stands for the value of a stated fact: only whether it is there is asked."""


def explain_offline(
    pack: Pack,
    matter: VersionedId,
    *,
    answers: Iterable[str] = (),
    stated: Iterable[Concept] | None = None,
    requester: Slug | None = None,
    clock: Clock | None = None,
) -> Explanation:
    """Return what a case of a matter would ask.

    Args:
        pack: What is declared.
        matter: The matter as `id@version`.
        answers: `question=answer`; those that are missing are asked for.
        stated: Facts that the portal states; None for those that a case must have.
        requester: Who asks; None for the first that has a grant for the matter.
        clock: Tells the day.

    Raises:
        NotFoundError: There is no such matter or requester, or nobody has a grant.
        InvalidRequestError: An answer or a fact is not one of the matter's.
    """
    if matter not in pack.matters:
        known = ", ".join(f"`{ref}`" for ref in pack.matters)
        raise NotFoundError(f"there is no such matter; there are {known}")
    if requester is not None and requester not in pack.requesters:
        known = ", ".join(f"`{name}`" for name in sorted(pack.requesters))
        raise NotFoundError(f"there is no such requester; there are {known}")
    clock = clock or SystemClock()
    declared, now = pack.matters[matter], clock.now()
    catalogue = _compiled(pack, declared)
    facts = _checked(declared, stated) if stated else _required(declared)
    today = day_in_beijing(now)
    given = _answered(declared, answers)
    check_answers(declared, given, today)
    situation = Situation(answers=given, stated=dict.fromkeys(facts, _STATED))
    plan = Planner([catalogue]).plan(matter, situation, today)
    circumstances = Circumstances(
        requester=requester or _first_requester(pack, declared),
        purpose=next(iter(declared.purposes)),
        case=CaseId(new_ids(clock)()),
        persons=_named(declared, (*facts, *_required(declared))),
    )
    return explain(catalogue, pack, plan, judge(pack, plan, circumstances, now))


def show_explanation(explained: Explanation) -> Iterator[Table]:
    """Yield tables: each wave of look-ups, then every requirement."""
    for number, wave in enumerate(explained.waves, 1):
        table = _table(
            _title(number, wave),
            "look-up",
            "asks",
            "by",
            "fields",
            "decision",
            "serves",
        )
        for one in wave:
            table.add_row(*_cells(one))
        yield table
    title = f"{explained.name.zh} · {explained.name.en} · pack {explained.pack}"
    table = _table(title, "requirement", "", "state", "look-ups", "next")
    for needed in explained.requirements:
        table.add_row(
            needed.id,
            f"{needed.name.zh}\n{needed.name.en}",
            needed.state,
            ", ".join(needed.lookups or needed.questions),
            needed.next,
        )
    yield table


def _title(number: int, wave: Sequence[LookupExplained]) -> str:
    """Say how many look-ups of a wave are made in it, and how many wait for persons."""
    later = sum(one.next is Move.DECIDE_AGAIN for one in wave)
    asking = sum(one.next is Move.ASK_CONSENT for one in wave)
    title = f"Wave {number}: {len(wave) - later - asking} at once"
    title += f", {later} decided again before they are asked" if later else ""
    return f"{title}, {asking} when consent is given" if asking else title


def _cells(one: LookupExplained) -> Sequence[str]:
    services = " or ".join(service.id for service in one.services)
    return (
        f"{one.id}\n{one.evidence_type}",
        f"{services}\nabout {one.about}",
        ", ".join(one.keys.values()),
        ", ".join(dict.fromkeys(f.field for f in one.fields)) or ", ".join(one.match),
        _decision(one),
        ", ".join(one.serves),
    )


def _decision(one: LookupExplained) -> str:
    """Say what was decided, and when a provisional decision is made again."""
    lines = [one.decision.decision, one.decision.rule or ""]
    again = one.decided_again
    if again is not None:
        told_by = " or ".join(again.told_by) or "the portal"
        lines.append(f"again when {told_by} tells the {', '.join(again.roles)}")
        if again.first_wave is not None:
            lines.append(f"asked in wave {again.first_wave} at the earliest")
    return "\n".join(lines)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _compiled(pack: Pack, matter: Matter) -> Catalogue:
    return compile_matter(
        matter,
        pack.evidence_types,
        pack.services.values(),
        partial(pack.program, matter.ref),
        pack.digest,
    )


def _required(matter: Matter) -> tuple[Concept, ...]:
    """Return the facts without which no case of a matter can be opened."""
    return tuple(
        f"{role}.{fact}"
        for role, declared in matter.roles.items()
        for fact, one in declared.facts.items()
        if declared.required and one.required
    )


def _named(matter: Matter, facts: Iterable[Concept]) -> dict[Slug, Person]:
    """Return the roles whose persons the portal names: no look-up has to."""
    stated = {*facts}
    return {role: _STATED for role in matter.roles if f"{role}.id" in stated}


def _checked(matter: Matter, stated: Iterable[Concept]) -> tuple[Concept, ...]:
    known = {f"{role}.{fact}" for role, r in matter.roles.items() for fact in r.facts}
    if set(stated) - known:
        # INVARIANT (rule 8): not repeated, since a value may have slipped in.
        listed = ", ".join(f"`{one}`" for one in sorted(known))
        message = f"no such fact; without values, there are {listed}"
        raise InvalidRequestError(Complaint("/stated", message))
    return tuple(stated)


def _answered(matter: Matter, answers: Iterable[str]) -> dict[Slug, bool | str]:
    given: dict[Slug, bool | str] = {}
    for question, answer in (_answer(matter, text) for text in answers):
        if question in given:
            raise InvalidRequestError(
                Complaint(f"/answers/{question}", "is answered twice")
            )
        given[question] = answer
    return given


def _answer(matter: Matter, text: str) -> tuple[Slug, bool | str]:
    """Return question and answer of `question=answer`."""
    question, equals, answer = text.partition("=")
    if question not in matter.questions:
        known = ", ".join(f"`{one}`" for one in matter.questions)
        complaint = Complaint("/answers", f"no such question; there are {known}")
        raise InvalidRequestError(complaint)
    if not equals:
        raise InvalidRequestError(Complaint("/answers", "write `question=answer`"))
    if matter.questions[question].type is not QuestionType.BOOLEAN:
        return question, answer
    if answer not in ("true", "false"):
        raise InvalidRequestError(
            Complaint(f"/answers/{question}", "must be `true` or `false`")
        )
    return question, answer == "true"


def _first_requester(pack: Pack, matter: Matter) -> Slug:
    asking = sorted(g.requester for g in pack.grants.values() if matter.id in g.matters)
    if not asking:
        raise NotFoundError("nobody has a grant for this matter")
    return asking[0]
