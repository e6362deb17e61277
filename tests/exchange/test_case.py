"""What a case knows, as it is stored: read back strictly, or not at all."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from exchange.case import (
    Actor,
    Attempt,
    Barred,
    CaseContent,
    Disputed,
    Down,
    HandedIn,
    Held,
    KnownFact,
    Later,
    Nothing,
    Result,
    Shown,
    Unconsented,
    Unmatched,
    Wrong,
    read_content,
    to_json,
)
from schemas.errors import Fault, Layer, VerificationError
from schemas.ids import ConsentId, EventId, EvidenceId, LookupId
from schemas.matter import QuestionType, SupplyReason
from schemas.model import Name
from schemas.outcome import (
    OUTCOMES,
    AnswerNeeded,
    Conflict,
    ConflictHint,
    NextStep,
    OpenQuestion,
    RecordRef,
    Retrieved,
    Settled,
    StepOwner,
)

NOW = datetime(2026, 1, 8, 6, 30, 0, 250_000, tzinfo=UTC)
EVIDENCE = EvidenceId("x" * 43)
RECORD = RecordRef(event=EventId("0198c0de-0000-7000-8000-000000000000"), index=7)
RESULTS: tuple[Result, ...] = (
    Held(evidence=EVIDENCE, fields=("name",), expires_at=None),
    Disputed(
        evidence=EVIDENCE,
        concept="father.id",
        hint=ConflictHint.TRANSPOSED,
        against="stated",
    ),
    Unmatched(evidence=EVIDENCE),
    Nothing(covered=True, retry_at=NOW),
    Later(retry_at=NOW),
    Down(layer=Layer.SOURCE, since=NOW, retry_at=None),
    Wrong(fault=Fault.STALE),
    Barred(rule="no_grant"),
    Unconsented(role="father", consent=ConsentId("c"), expires_at=NOW),
)


def _content() -> CaseContent:
    """Return a case that has something of everything."""
    account = Name(zh="账户", en="Account")
    question = OpenQuestion(
        id="account", name=account, type=QuestionType.CHOICE, choices={"a": account}
    )
    step = NextStep(owner=StepOwner.APPLICANT, action="answer", due_at=NOW)
    return CaseContent(
        actor=Actor(kind="official", id="window-3"),
        subjects={"mother": {"id": "1", "name": "林云"}},
        answers={"parents_married": True, "phone": "13000000000"},
        committed={"marriage", "household"},
        supplied={"enrolment": HandedIn(reason=SupplyReason.NOT_HELD, lists=(0, 1))},
        accepted={"name": HandedIn(reason=SupplyReason.DISPUTED, lists=())},
        attempts={
            str(place): Attempt(
                result=result,
                at=NOW,
                lookup=LookupId("l"),
                elapsed_ms=3.0,
                record=RECORD,
            )
            for place, result in enumerate(RESULTS)
        },
        concerned={"0": ("father", "mother")},
        facts={"mother.id": KnownFact(value="1", source="stated")},
        outcomes={
            "name": Retrieved(evidence=(EVIDENCE,), record=RECORD, elapsed_ms=0.25),
            "father": Conflict(concept="father.id", hint=ConflictHint.TRANSPOSED),
            "account": AnswerNeeded(questions=(question,), next_step=step),
        },
        shown={"name": (Shown(evidence=EVIDENCE, lookup="0", fields=("name",)),)},
        run=2,
    )


def test_a_case_is_read_back_as_it_was_stored() -> None:
    """Every kind of result comes back as itself, with its instants and its names."""
    content = _content()

    assert content == read_content(to_json(content))
    assert set(map(type, RESULTS)) == {
        type(attempt.result)
        for attempt in read_content(to_json(content)).attempts.values()
    }


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("more",), 1),
        (("run",), "2"),
        (("attempts", "0", "more"), 1),
        (("attempts", "0", "result", "kind"), "other"),
        (("attempts", "0", "result", "fields"), "name"),
        (("attempts", "3", "result", "covered"), "yes"),
        (("outcomes", "name", "more"), 1),
        (("outcomes", "name", "outcome"), "settled"),
        (("outcomes", "name", "record", "index"), "7"),
        (("facts", "mother.id", "source"), None),
        (("actor", "kind"), "nobody"),
    ],
)
def test_what_was_not_written_so_is_refused(
    place: tuple[str, ...], wrong: object
) -> None:
    """A member too many, another type or an unknown kind is no case of ours."""
    stored: dict[str, Any] = orjson.loads(to_json(_content()))
    parent = stored
    for name in place[:-1]:
        parent = parent[name]
    parent[place[-1]] = wrong

    with pytest.raises(VerificationError) as refused:
        read_content(orjson.dumps(stored))
    assert "林云" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_outcome_that_is_settled_says_so() -> None:
    """What the union of settled outcomes holds, and nothing else, needs nobody."""
    settled = {kind for kind in OUTCOMES if kind.is_settled}

    assert set(Settled.__args__) == settled
