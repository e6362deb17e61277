"""What one matter says of itself and of evidence, checked when the pack is loaded.

Everything that is named must be declared, everything that is declared must be of use,
and nothing may be left that can only fail while a case runs: keys that can never be
filled, steps in a circle, a condition over facts that nobody fetches.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from schemas.chaining import Chaining
from schemas.declared import Catalogue, Complain
from schemas.evidence import EvidenceType, FieldName, Mode
from schemas.expressions import Program, compile_expression
from schemas.fieldtypes import value_type
from schemas.grammar import BOOLEAN, TEXT, ExpressionError, Kind, ValueType
from schemas.matter import (
    Ask,
    EvidenceList,
    FactType,
    Matter,
    Need,
    Question,
    QuestionType,
    Requirement,
)
from schemas.model import Concept, Expression, Slug


class MatterCheck:
    """Checks one matter, and compiles its conditions."""

    def __init__(
        self, matter: Matter, catalogue: Catalogue, complain: Complain
    ) -> None:
        self.matter = matter
        self.catalogue = catalogue
        self.complain = complain
        self.chaining = Chaining(matter, catalogue)
        self.programs: dict[Expression, Program] = {}
        self.names: dict[str, ValueType] = {}
        """The type of every question and concept."""
        self.carried: dict[Concept, set[tuple[Slug, str]]] = {}
        """Concept → the asks and fields that tell it."""

    def check(self) -> None:
        """Check the matter part by part; each part stands on those before it."""
        self.check_roles()
        self.check_steps()
        if not self.check_asks():
            return  # nothing can be said of names without them
        self.name_everything()
        self.check_reachable()
        self.check_questions()
        for name, requirement in self.matter.requirements.items():
            self.check_requirement(name, requirement)
        self.check_use()

    def check_roles(self) -> None:
        """Check that one role applies, and that no name means two things."""
        applicants = [n for n, role in self.matter.roles.items() if role.applicant]
        if len(applicants) != 1:
            self.complain("roles", because="exactly one role must be the applicant")
        for name in applicants:
            if not self.matter.roles[name].required:
                self.complain("roles", name, because="the applicant is required")
        for name in self.matter.roles.keys() & self.matter.questions.keys():
            self.complain("questions", name, because="a role has this name")
        if "self" in self.matter.roles:
            self.complain("roles", "self", because="`self` is for evidence types")
        self.check_bounds()

    def check_bounds(self) -> None:
        """Check that only dates are bounded by a day."""
        because = "only a `date` has a last day"
        for role_name, role in self.matter.roles.items():
            for name, fact in role.facts.items():
                if fact.not_after is not None and fact.type is not FactType.DATE:
                    path = ("roles", role_name, "facts", name, "not_after")
                    self.complain(*path, because=because)
        for name, question in self.matter.questions.items():
            if (
                question.not_after is not None
                and question.type is not QuestionType.DATE
            ):
                self.complain("questions", name, "not_after", because=because)

    def check_steps(self) -> None:
        """Check who performs each step, and that no step waits for itself."""
        steps = self.matter.steps
        for name, step in steps.items():
            if step.provider not in self.catalogue.providers:
                because = f"no provider `{step.provider}` is declared"
                self.complain("steps", name, "provider", because=because)
            for index, earlier in enumerate(step.after):
                if earlier not in steps:
                    because = f"no step `{earlier}` is declared"
                    self.complain("steps", name, "after", index, because=because)
        for name in _in_circles({name: step.after for name, step in steps.items()}):
            self.complain("steps", name, "after", because="the step waits for itself")
        for index, visit in enumerate(self.matter.visits):
            self.check_steps_named(visit.steps, "visits", index, "steps")

    def check_steps_named(self, steps: Iterable[Slug], *path: str | int) -> None:
        """Check that steps exist."""
        for index, step in enumerate(steps):
            if step not in self.matter.steps:
                self.complain(*path, index, because=f"no step `{step}` is declared")

    def check_asks(self) -> bool:
        """Check each ask, and tell whether what they name is there."""
        sound = True
        for name, ask in self.matter.asks.items():
            kind = self.catalogue.evidence_types.get(ask.evidence_type)
            if kind is None:
                because = f"no evidence type `{ask.evidence_type}` is declared"
                self.complain("asks", name, "evidence_type", because=because)
                sound = False
                continue
            self.check_ask(name, ask, kind.thing)
            sound &= self.check_ask_roles(name, ask, kind.thing)
        return sound

    def check_ask(self, name: Slug, ask: Ask, kind: EvidenceType) -> None:
        """Check an ask's mode, its step and that somebody offers the evidence."""
        if ask.mode not in kind.modes:
            because = f"`{kind.ref}` can't be asked for in this mode"
            self.complain("asks", name, "mode", because=because)
        if ask.output_of is not None and ask.output_of not in self.matter.steps:
            because = f"no step `{ask.output_of}` is declared"
            self.complain("asks", name, "output_of", because=because)
        offers = (one.thing.evidence_type for one in self.catalogue.services.values())
        if kind.ref not in set(offers):
            because = f"no data service offers `{kind.ref}`"
            self.complain("asks", name, "evidence_type", because=because)

    def check_ask_roles(self, name: Slug, ask: Ask, kind: EvidenceType) -> bool:
        """Check that every role of the evidence type is a role of the matter."""
        spoken = {concept.partition(".")[0] for concept in _concepts(kind)} - {"self"}
        roles = self.matter.roles
        wrong: list[tuple[tuple[str | int, ...], str]] = [
            (path, f"no role `{role}` is declared")
            for path, role in _roles_named(ask)
            if role not in roles
        ]
        wrong.extend(
            (("concerns", index), "it is about this role already")
            for index, role in enumerate(ask.concerns)
            if role == ask.about
        )
        for theirs in ask.roles.keys() - spoken:
            because = f"`{kind.ref}` does not speak of `{theirs}`"
            wrong.append((("roles", theirs), because))
        for theirs in sorted(spoken - ask.roles.keys() - roles.keys()):
            because = f"`{kind.ref}` speaks of `{theirs}`: which role is that?"
            wrong.append((("roles",), because))
        for path, because in wrong:
            self.complain("asks", name, *path, because=because)
        return not wrong

    def name_everything(self) -> None:
        """Gather the names that conditions may mention, each with its type."""
        for name, question in self.matter.questions.items():
            self.names[name] = _answer_type(question)
        for name in self.chaining.stated():
            self.names[name] = TEXT
        for name, ask in self.matter.asks.items():
            self.name_told(name, ask)
        for name, ask in self.matter.asks.items():
            if ask.region is not None and ask.region not in self.names:
                because = f"`{ask.region}` is no concept of the matter"
                self.complain("asks", name, "region", because=because)

    def name_told(self, name: Slug, ask: Ask) -> None:
        """Gather the concepts that an ask's evidence tells."""
        for field_name, one in self.chaining.fields(ask).items():
            found = value_type(one)
            if one.concept is None or found is None:
                continue
            concept = ask.concept(one.concept)
            self.carried.setdefault(concept, set()).add((name, field_name))
            known = self.names.get(concept, found)
            if known.kind is not found.kind:
                because = f"`{concept}` is {known.kind} elsewhere, {found.kind} here"
                self.complain("asks", name, because=because)
            self.names[concept] = _either(known, found)

    def check_reachable(self) -> None:
        """Check that each ask can be made by stated facts or what other asks tell."""
        for name, because in self.chaining.unreachable():
            self.complain("asks", name, because=because)

    def check_questions(self) -> None:
        """Check each question's choices and when it arises."""
        for name, question in self.matter.questions.items():
            has_choices = question.type is QuestionType.CHOICE
            if has_choices is not bool(question.choices):
                because = "choices belong to a `choice`, which needs some"
                self.complain("questions", name, "choices", because=because)
            self.condition(question.when, "questions", name, "when")

    def check_requirement(self, name: Slug, requirement: Requirement) -> None:
        """Check how a requirement is met, and what it names."""
        here = partial(self.complain, "requirements", name)
        ways = (requirement.lists, requirement.derive, requirement.declare)
        if sum(map(bool, ways)) != 1:
            here(because="exactly one of `lists`, `derive` and `declare` is needed")
        declared = requirement.declare
        if declared is not None and declared not in self.matter.questions:
            here("declare", because=f"no question `{declared}` is declared")
        if requirement.criterion is not None and not requirement.lists:
            here("criterion", because="there is no evidence to judge")
        self.check_steps_named(requirement.steps, "requirements", name, "steps")
        for index, use in enumerate(requirement.replaces):
            self.check_paper(name, index, use.paper, use.asked_by)
        for index in _again(use.paper for use in requirement.replaces):
            because = "is above already: name all who took it in one `asked_by`"
            here("replaces", index, "paper", because=because)
        for index, listed in enumerate(requirement.lists):
            self.check_list(listed, "requirements", name, "lists", index)
        self.check_conditions(name, requirement)

    def check_paper(
        self, name: Slug, index: int, paper: Slug, asked_by: Iterable[Slug]
    ) -> None:
        """Check that a paper and those who took it are declared."""
        here = partial(self.complain, "requirements", name, "replaces", index)
        if paper not in self.matter.papers:
            here("paper", because=f"no paper `{paper}` is declared")
        for place, provider in enumerate(asked_by):
            if provider not in self.catalogue.providers:
                because = f"no provider `{provider}` is declared"
                here("asked_by", place, because=because)

    def check_list(self, listed: EvidenceList, *path: str | int) -> None:
        """Check when a list counts, and its needs; none may stand in two parts."""
        self.condition(listed.when, *path, "when")
        for index, need in enumerate(listed.all):
            self.check_need(need, *path, "all", index)
        for index in _again(need.ask for need in listed.all):
            because = "is above already: name all its fields there"
            self.complain(*path, "all", index, "ask", because=because)

    def check_need(self, need: Need, *path: str | int) -> None:
        """Check that a need's fields exist and may be used so."""
        ask = self.matter.asks.get(need.ask)
        if ask is None:
            because = f"no ask `{need.ask}` is declared"
            self.complain(*path, "ask", because=because)
            return
        fields = self.chaining.fields(ask)
        for index, name in enumerate(need.fields):
            here = partial(self.complain, *path, "fields", index)
            if name not in fields:
                here(because=f"`{ask.evidence_type}` has no field `{name}`")
            elif fields[name].comparison_only:
                here(because=f"`{name}` may be compared, never passed on")
        for index, name in enumerate(need.compare):
            here = partial(self.complain, *path, "compare", index)
            if name not in fields:
                here(because=f"`{ask.evidence_type}` has no field `{name}`")
            elif fields[name].concept is None:
                here(because=f"`{name}` states no concept to compare with")
        self.check_mode(ask.mode, need, *path)

    def check_mode(self, mode: Mode, need: Need, *path: str | int) -> None:
        """Check that a need asks for what its mode can give."""
        if mode is Mode.VERIFY and need.fields:
            because = "to verify passes nothing on: use `compare`"
            self.complain(*path, "fields", because=because)
        if mode is Mode.VERIFY and not need.compare:
            self.complain(*path, because="to verify, `compare` must name fields")
        if mode is Mode.RETRIEVE and not (need.fields or need.compare):
            self.complain(*path, because="no field is needed: name some, or drop it")

    def check_conditions(self, name: Slug, requirement: Requirement) -> None:
        """Compile a requirement's conditions; what they speak of must be fetched."""
        path = ("requirements", name)
        own = self.fetched(requirement)
        everywhere = set[tuple[Slug, str]]()
        for other in self.matter.requirements.values():
            everywhere |= self.fetched(other)
        elsewhere = self.chaining.stated() | self.chaining.chained()
        for part, text, fetched in (
            ("when", requirement.when, everywhere),
            ("criterion", requirement.criterion, own),
            ("derive", requirement.derive, everywhere),
        ):
            program = self.condition(text, *path, part)
            for concept in sorted(program.concepts if program else ()):
                told = self.carried.get(concept, set()) & fetched
                if not told and concept not in elsewhere:
                    because = f"nothing here fetches `{concept}`"
                    self.complain(*path, part, because=because)

    def fetched(self, requirement: Requirement) -> set[tuple[Slug, str]]:
        """Return the fields, by ask, that a requirement's evidence brings."""
        return {
            (need.ask, name)
            for listed in requirement.lists
            for need in listed.all
            for name in (*need.fields, *need.compare)
        }

    def condition(self, text: Expression | None, *path: str | int) -> Program | None:
        """Compile a condition, and complain if that can't be done."""
        if text is None:
            return None
        if text not in self.programs:
            try:
                self.programs[text] = compile_expression(text, self.names)
            except ExpressionError as error:
                self.complain(*path, because=str(error))
        return self.programs.get(text)

    def takes(self) -> Mapping[Slug, tuple[frozenset[FieldName], ...]]:
        """Return, by ask, sets of fields of which every look-up takes one at least.

        What a need wants comes together. One field alone is taken where it tells what
        another ask is made by, or what a condition reads that may be read without
        any need of the ask.
        """
        chained = self.chaining.chained()
        return {
            name: (
                *self.chaining.needed(name),
                *self.chaining.alone(name, chained | self.read_without(name)),
            )
            for name in self.matter.asks
        }

    def read_without(self, name: Slug) -> set[Concept]:
        """Return concepts that conditions may read where no need of an ask counts."""
        texts = {question.when for question in self.matter.questions.values()}
        for one in self.matter.requirements.values():
            texts |= {one.when, one.derive, *(listed.when for listed in one.lists)}
            if any(name not in (n.ask for n in listed.all) for listed in one.lists):
                texts.add(one.criterion)
        return {
            concept
            for text in texts
            if text is not None
            for concept in self.programs[text].concepts
        }

    def check_use(self) -> None:
        """Check that nothing is declared, or asked of the applicant, for nothing."""
        requirements = self.matter.requirements.values()
        papers = {use.paper for one in requirements for use in one.replaces}
        asks = {need.ask for one in requirements for li in one.lists for need in li.all}
        asked = {one.declare for one in requirements}
        asked.update(*(program.questions for program in self.programs.values()))
        for part, declared, used in (
            ("papers", self.matter.papers, papers),
            ("asks", self.matter.asks, self.chaining.leading_to(asks)),
            ("questions", self.matter.questions, asked),
        ):
            for name in declared:
                if name not in used:
                    self.complain(part, name, because="no requirement needs it")
        # A step may be there to be read, with its time limits; a trip is counted.
        needing = {step for one in requirements for step in one.steps}
        for index, visit in enumerate(self.matter.visits):
            if needing.isdisjoint(visit.steps):
                because = "no requirement is for its steps: it is never counted"
                self.complain("visits", index, because=because)


def _concepts(kind: EvidenceType) -> Iterator[Concept]:
    """Yield every concept that an evidence type speaks of."""
    for key_set in kind.keys:
        for key in key_set:
            yield key.concept
    for one in kind.fields.values():
        if one.concept is not None:
            yield one.concept


def _roles_named(ask: Ask) -> Iterator[tuple[tuple[str | int, ...], Slug]]:
    """Yield every role of the matter that an ask names, and where."""
    yield ("about",), ask.about
    for index, role in enumerate(ask.concerns):
        yield ("concerns", index), role
    for theirs, ours in ask.roles.items():
        yield ("roles", theirs), ours


def _again(names: Iterable[Slug]) -> Iterator[int]:
    """Yield the place of each name that has been there before."""
    seen = set[Slug]()
    for place, name in enumerate(names):
        if name in seen:
            yield place
        seen.add(name)


def _in_circles(after: Mapping[Slug, Iterable[Slug]]) -> list[Slug]:
    """Return the steps that can never be done, because of a circle."""
    waiting = {
        name: {e for e in earlier if e in after} for name, earlier in after.items()
    }
    while done := {name for name, earlier in waiting.items() if not earlier}:
        waiting = {
            name: earlier - done
            for name, earlier in waiting.items()
            if name not in done
        }
    return list(waiting)


def _answer_type(question: Question) -> ValueType:
    """Return the type of a question's answer."""
    match question.type:
        case QuestionType.BOOLEAN:
            return BOOLEAN
        case QuestionType.CHOICE:
            return ValueType(Kind.TEXT, tuple(question.choices))
        case QuestionType.TEXT | QuestionType.DATE | QuestionType.REGION:
            return TEXT


def _either(one: ValueType, other: ValueType) -> ValueType:
    """Return the type of a value that is of one type or the other."""
    if one.values is None or other.values is None:
        return ValueType(one.kind)
    return ValueType(one.kind, tuple(dict.fromkeys((*one.values, *other.values))))
