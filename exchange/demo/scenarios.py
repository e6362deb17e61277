"""The five cases of the demo, and what each must show.

Besides the answers that a portal gets, the departments' own logs are asked.
"""

from collections.abc import Callable, Mapping, Sequence

import orjson

from connectors.department.log import Entry, read_log
from exchange.demo.logs import claims_of
from exchange.demo.portal import Answer, file_step
from exchange.demo.stage import PORTAL
from exchange.demo.story import ALONE, AT_HAND, MARRIED, Story, World, open_case

CASES: Mapping[str, str] = {
    "married": "(a) married parents: everything is fetched, no paper is handed in",
    "unmarried": "(b) an unmarried mother: the marriage register is not asked",
    "consent": "(c) a father who has not yet consented, and then does",
    "source_down": "(d) the police are down: the case waits, and settles by itself",
    "near_match": "(e) a marriage record that is one digit off",
}


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
            and all(answer.outcome(name) in AT_HAND for name in made)
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
