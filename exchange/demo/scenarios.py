"""The five cases of the demo, each as a portal lives it, and what each must show.

A portal opens the case, files each step as soon as all that the step needs is there,
and follows the case until it stands where it should. Nothing here knows how the
gateway works: it reads answers, and asks the departments' own logs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from connectors.department.log import Entry, read_log
from exchange.demo.logs import claims_of
from exchange.demo.people import Family, Person, Population
from exchange.demo.portal import (
    Answer,
    Client,
    Delays,
    Json,
    PortalError,
    delays_since,
    file_step,
)
from exchange.demo.report import CaseReport, Line, Report
from exchange.demo.show import Show
from exchange.demo.stage import PORTAL, PURPOSE, Stage
from exchange.demo.steps import COUNTERS
from schemas.matter import Matter

MATTER = "newborn@1"
_PATIENCE_S = 180.0
"""How long a case may take to get where it should."""
_SETTLED = frozenset(
    {"retrieved", "verified", "reused", "derived", "declared", "not_applicable"}
)
"""Outcomes that take nothing from the applicant's hands."""

CASES: Mapping[str, str] = {
    "married": "(a) married parents: everything is fetched, no paper is handed in",
    "unmarried": "(b) an unmarried mother: the marriage register is not asked",
    "consent": "(c) a father who has not yet consented, and then does",
    "source_down": "(d) the police are down: the case waits, and settles by itself",
    "near_match": "(e) a marriage record that is one digit off",
}


@dataclass(frozen=True, slots=True)
class World:
    """What the cases take place in."""

    stage: Stage
    population: Population
    portal: Client
    citizen: Client
    auditor: Client
    show: Show
    report: Report
    cases: dict[str, str] = field(default_factory=dict)
    """The cases that were opened: their ids, by name."""

    @property
    def matter(self) -> Matter:
        """The matter of all cases."""
        return self.stage.pack.matters[MATTER]


@dataclass(slots=True)
class Story:
    """One case, from its opening on."""

    world: World
    name: str
    answer: Answer
    wall_ms: float
    """How long the first answer took."""
    took: Delays
    """How long the departments took for it."""
    first: tuple[Line, ...]
    """The requirements as that answer had them."""
    filed: set[str] = field(default_factory=lambda: {"n1"})
    """The steps that are under way; the certificate was issued at the hospital."""
    verified: int = 0
    """How many presentations the departments verified."""
    refused: list[str] = field(default_factory=list)
    """Steps that a department did not perform, and why."""
    receipts: dict[str, str] = field(default_factory=dict)
    """The receipts of all that was released, by event."""

    def check(self, claim: str, held: bool, detail: str = "") -> None:  # noqa: FBT001 - reads as a sentence
        """Note a claim about this case."""
        self.world.report.check(f"{self.name}: {claim}", held, detail)

    def go_on(self, arrived: Callable[[Answer], bool]) -> None:
        """Follow the case, filing steps as they become possible, until it arrives.

        Raises:
            PortalError: It does not, in good time.
        """
        for document in self.world.portal.events(
            f"/v1/cases/{self.answer.id}/events", _PATIENCE_S
        ):
            self._take(Answer(document))
            self._file_what_can_be()
            if arrived(self.answer) and not self._fileable():
                return
        raise PortalError(f"{self.name}: the case does not go on: {self._stands()}")

    def consent(self) -> None:
        """Let the father give the consent that the case asked him for."""
        father = self.world.population.families[self.name].father
        given = 0 if father is None else give_consent(self.world, father)
        self.world.show.say("the father gives his consent in the citizen app")
        self.check("the father is asked, and gives his consent", given > 0)

    def finish(self) -> None:
        """Print the case as it stands, and add it to the report."""
        case = CaseReport(
            name=self.name,
            lines=self.answer.lines(),
            papers=self.answer.saved("papers"),
            trips=self.answer.saved("trips"),
            wall_ms=self.wall_ms,
            departments_ms=self.took.sum_ms,
            together_ms=self.took.together_ms,
            first=self.first,
        )
        self.world.report.cases.append(case)
        self.world.report.receipts.update(self.receipts)
        self.world.show.lines(case.lines)
        self.world.show.case(case)
        steps = " ".join(sorted(self.filed - {"n1"}))
        self.check(
            f"the departments verify each other's signatures and perform {steps}",
            not self.refused and self.verified > 0,
            "; ".join(self.refused) or f"{self.verified} presentations",
        )

    def _take(self, answer: Answer) -> None:
        self.answer = answer
        self.receipts.update(answer.receipts())

    def _file_what_can_be(self) -> None:
        for step in self._fileable():
            needs = requirements_of(self.world.matter, step)
            presentations = self.answer.presentations(needs)
            for provider in COUNTERS[step]:
                counter = self.world.stage.places[provider].url
                told = file_step(counter, step, PORTAL, presentations).json()
                self.verified += told.get("verified", 0)
                if not told["performed"]:
                    self.refused.append(f"{provider} {step}: {told['detail']}")
            self.filed.add(step)

    def _fileable(self) -> list[str]:
        """Return the steps that can be filed: all that they need is there."""
        outcomes = self.answer.outcomes
        return [
            step
            for step in COUNTERS
            if step not in self.filed
            and set(self.world.matter.steps[step].after) <= self.filed
            and all(
                _is_there(outcomes[name], step)
                for name in requirements_of(self.world.matter, step)
            )
        ]

    def _stands(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in self.answer.unsettled().items())


def requirements_of(matter: Matter, step: str) -> list[str]:
    """Return the requirements that a step needs."""
    return [name for name, one in matter.requirements.items() if step in one.steps]


def _is_there(outcome: Json, step: str) -> bool:
    """Tell whether a step has what it needs of a requirement: or makes it itself."""
    own = outcome["outcome"] == "pending" and outcome.get("step") == step
    return own or outcome["outcome"] in _SETTLED


def open_case(world: World, name: str, answers: Mapping[str, bool | str]) -> Story:
    """Open the case of one of the families, and print the first answer."""
    family = world.population.families[name]
    counters = [place.url for place in world.stage.places.values()]
    started = time.monotonic()
    document = world.portal.post(
        "/v1/cases",
        opening(family, answers),
        {"prefer": "wait=10", "idempotency-key": f"demo-{name}"},
    )
    wall_ms = (time.monotonic() - started) * 1000
    took = delays_since(counters, started * 1000)
    world.cases[name] = document["id"]
    answer = Answer(document)
    story = Story(world, name, answer, wall_ms, took, answer.lines())
    story.receipts.update(answer.receipts())
    world.show.first(story.first)
    return story


def opening(family: Family, answers: Mapping[str, bool | str]) -> Json:
    """Return what opens the case of a family."""
    return {
        "matter": MATTER,
        "purpose": PURPOSE,
        "actor": {"kind": "official", "id": "window-3"},
        "subjects": {
            "mother": {"id": family.mother.id, "name": family.mother.name},
            "newborn": {"birth_date": family.born_on.isoformat()},
        },
        "answers": {
            "bank_account": "6200000000000001",
            "phone": "000-0000-0000",
            "child_name": family.child,
            **answers,
        },
    }


MARRIED: Mapping[str, bool | str] = {
    "parents_married": True,
    "joins": "mother",
}


ALONE: Mapping[str, bool | str] = {
    "parents_married": False,
    "joins": "mother",
}
"""What a married couple, and a mother alone, may answer."""


def married(world: World) -> None:
    """(a) Every requirement is settled, and no paper is handed in."""
    story = open_case(world, "married", MARRIED)
    story.consent()
    story.go_on(lambda answer: answer.status == "settled")
    story.finish()
    answer = story.answer
    papers, trips = answer.saved("papers"), answer.saved("trips")
    story.check("every requirement is settled", answer.status == "settled")
    story.check(
        "no paper is handed in, and nobody goes anywhere",
        papers.after == trips.after == 0 < papers.before,
        f"papers {papers.before} → {papers.after}, trips {trips.before} →"
        f" {trips.after}",
    )
    story.check(
        "weeks and weight reach the vaccination step alone",
        _holders(answer, "XSE_TZ") == {"birth_health"},
    )
    story.check(
        "the spouse's id in the marriage register is passed on to nobody",
        not _holders(answer, "spouse_id"),
    )
    story.check("a department refuses evidence that was changed", _refuses(story))


def unmarried(world: World) -> None:
    """(b) The marriage register is not asked: its own log says so."""
    before = len(asked(world, "mz"))
    story = open_case(
        world,
        "unmarried",
        {**ALONE, "head_agrees": True},
    )
    story.go_on(lambda answer: answer.status == "settled")
    story.finish()
    answer = story.answer
    story.check("every requirement is settled", answer.status == "settled")
    story.check(
        "the marriage does not apply", answer.outcome("marriage") == "not_applicable"
    )
    story.check(
        "civil affairs' own log: the marriage register was not asked",
        len(asked(world, "mz")) == before,
    )
    made = recorded(world, answer.id)
    story.check(
        "the exchange's log, asked by an auditor: neither is it there",
        "ga" in made and "mz" not in made,
        f"asked: {', '.join(sorted(made))}",
    )


def consent(world: World) -> None:
    """(c) Nothing about the father is asked before he consents; then it goes on."""
    father = world.population.families["consent"].father
    answers = {**MARRIED, "joins": "father"}
    story = open_case(world, "consent", answers)
    waiting = {
        name
        for name, outcome in story.answer.unsettled().items()
        if outcome == "consent_needed"
    }
    story.check(
        "the father's consent is needed",
        waiting >= {"father_identity", "marriage", "household"},
        ", ".join(sorted(waiting)),
    )
    about_him = [
        entry
        for provider in world.stage.places
        for entry in asked(world, provider)
        if father is not None and father.id in claims_of(entry).keys.values()
    ]
    story.check("nobody was asked about the father", not about_him)
    shown = orjson.dumps(story.answer.document).decode()
    story.check(
        "the portal does not learn the father's id",
        father is not None and father.id not in shown,
    )
    story.consent()
    story.go_on(lambda answer: answer.status == "settled")
    story.finish()
    story.check("then every requirement is settled", story.answer.status == "settled")


def source_down(world: World) -> None:
    """(d) The case is accepted while the police are down, and settles by itself."""
    police = world.stage.departments["ga"]
    pid = police.pid
    police.stop()
    world.show.say(f"the police department's process ({pid}) is stopped")
    story = open_case(world, "source_down", MARRIED)
    identity = story.answer.outcomes["mother_identity"]
    found = f"{identity['outcome']} {identity.get('reason')}"
    story.check("the case is accepted", story.answer.status == "open")
    story.check("what the police hold is pending", found == "pending source_down")
    story.check("it says when it asks again", identity.get("retry_at") is not None)
    story.consent()
    police.start()
    police.wait()
    world.show.say(f"the police department runs again ({police.pid})")
    story.go_on(lambda answer: answer.status == "settled")
    story.finish()
    story.check("it settled by itself", story.answer.status == "settled")


def near_match(world: World) -> None:
    """(e) The registers disagree by one digit: a conflict, with the hint."""
    story = open_case(world, "near_match", MARRIED)
    story.consent()
    made = ("vaccination_record", "parenting_file")
    story.go_on(
        lambda answer: (
            answer.outcome("marriage") == "conflict"
            and all(answer.outcome(name) in _SETTLED for name in made)
        )
    )
    story.finish()
    marriage = story.answer.outcomes["marriage"]
    story.check("the marriage is a conflict", marriage["outcome"] == "conflict")
    story.check(
        "the hint says that one digit differs",
        marriage.get("hint") == "one_character_differs",
    )
    story.check(
        "somebody is to look at it, and what does not depend on it went on",
        marriage["next_step"] is not None and {"n2", "n7", "n8"} <= story.filed,
    )
    story.check(
        "the police registered nothing on a disputed marriage",
        "n3" not in story.filed,
    )


SCENARIOS: Mapping[str, Callable[[World], None]] = {
    "married": married,
    "unmarried": unmarried,
    "consent": consent,
    "source_down": source_down,
    "near_match": near_match,
}


def give_consent(world: World, father: Person) -> int:
    """Give, in the citizen app, what a father is asked for; return how many gifts.

    The app has authenticated him; it shows him what is asked, and gives just that.
    """
    person = {"id": father.id}
    found = world.citizen.post("/v1/consents/search", {"person": person})
    asked_for = [one for one in found["consents"] if one["state"] == "asked"]
    for one in asked_for:
        world.citizen.post(
            f"/v1/consents/{one['id']}/give",
            {"person": person, "version": one["version"]},
        )
    return len(asked_for)


def asked(world: World, provider: str) -> list[Entry]:
    """Return what a department's own log says it was asked."""
    return list(read_log(world.stage.places[provider].log))


def recorded(world: World, case: str) -> set[str]:
    """Return whom a case asked, as the exchange's log tells an auditor."""
    page = world.auditor.get(
        "/v1/audit/records", case=case, kind="request.accepted", limit="1000"
    )
    return {record["provider"] for record in page["records"]}


def _holders(answer: Answer, name: str) -> set[str]:
    """Return the requirements to which a field was passed on."""
    fields = answer.evidence_fields()
    return {requirement for requirement, held in fields.items() if name in held}


def _refuses(story: Story) -> bool:
    """Tell whether a department refuses evidence with one character changed."""
    first: Sequence[str] = story.answer.presentations(["birth_certificate"])
    jwt, disclosure, *rest = first[0].split("~")
    changed = "~".join([jwt, _with_other_end(disclosure), *rest])
    counter = story.world.stage.places["jk"].url
    return file_step(counter, "n2", PORTAL, [changed]).is_client_error


def _with_other_end(text: str) -> str:
    return text[:-2] + ("AA" if not text.endswith("AA") else "BB")
