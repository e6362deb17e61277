"""One case of the demo, as a portal lives it.

A portal opens the case, files each step as soon as all that the step needs is there,
and follows the case until it stands where it should. Nothing here knows how the
gateway works: it reads answers.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
AT_HAND = frozenset(
    {"retrieved", "verified", "reused", "derived", "declared", "not_applicable"}
)
"""Outcomes that take nothing from the applicant's hands."""
MARRIED: Mapping[str, bool | str] = {"parents_married": True, "joins": "mother"}
ALONE: Mapping[str, bool | str] = {"parents_married": False, "joins": "mother"}
"""What a married couple, and a mother alone, may answer."""


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
    return own or outcome["outcome"] in AT_HAND


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
