"""What a portal may state: dates have a last day where the matter declares one."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.intake import Subjects, check_additions, check_opening
from exchange.rehearsal import explain_offline
from schemas.clock import SystemClock, day_in_beijing
from schemas.errors import Complaint, InvalidRequestError
from schemas.matter import QuestionType, SupplyReason
from tests.harness.application import MOTHER, OPENING, PORTAL, Site
from tests.schemas.packs import shipped

PACK = shipped("schemas/packs/990100")
NEWBORN = PACK.matters["newborn@1"]
LATE = Complaint("/subjects/newborn/birth_date", "must not be after today")


def _complaints(born: date, today: date) -> tuple[Complaint, ...]:
    """Return what is wrong with opening a case for a birth."""
    subjects = {"mother": {"id": MOTHER}, "newborn": {"birth_date": born.isoformat()}}
    try:
        check_opening(NEWBORN, "newborn_registration", subjects, {}, today)
    except InvalidRequestError as error:
        return tuple(one for one in error.complaints if "newborn" in one.path)
    return ()


@given(st.dates(min_value=date(1900, 1, 1)), st.integers(-800, 800))
def test_nobody_is_born_after_today(today: date, days: int) -> None:
    """A date of birth is taken up to the day itself, and no later."""
    ordinal = min(today.toordinal() + days, date.max.toordinal())
    born = date.fromordinal(ordinal)

    assert ((LATE,) if born > today else ()) == _complaints(born, today)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(NEWBORN.questions)),
    st.sampled_from(["true", "mother", "", " "]) | st.text(max_size=70),
)
def test_a_rehearsal_takes_the_answers_that_a_case_takes(
    question: str, text: str
) -> None:
    """What would be refused when a case is opened is refused before as well."""
    is_boolean = NEWBORN.questions[question].type is QuestionType.BOOLEAN
    answer = {"true": True, "false": False}.get(text, text) if is_boolean else text
    subjects = {
        "mother": {"id": MOTHER, "name": "林云"},
        "newborn": {"birth_date": "2026-01-08"},
    }
    opens, rehearses = (
        _is_taken(
            lambda: check_opening(
                NEWBORN,
                "newborn_registration",
                subjects,
                {question: answer},
                date(2026, 1, 9),
            )
        ),
        _is_taken(
            lambda: explain_offline(PACK, "newborn@1", answers=[f"{question}={text}"])
        ),
    )

    assert opens == rehearses


def _is_taken(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except InvalidRequestError:
        return False
    return True


def test_what_is_added_later_is_bounded_by_its_own_day() -> None:
    """A fact that comes with an answer is checked as one that came at first."""
    added = {"newborn": {"birth_date": "2026-01-10"}}
    with pytest.raises(InvalidRequestError) as caught:
        check_additions(NEWBORN, added, {}, {}, (), {}, today=date(2026, 1, 9))
    check_additions(NEWBORN, added, {}, {}, (), {}, today=date(2026, 1, 10))

    assert (LATE,) == caught.value.complaints


@pytest.mark.parametrize(
    ("subjects", "supplied", "complaint"),
    [
        (
            {"household": {"region": "990100"}},
            {},
            Complaint(
                "/subjects/household/region", "nothing may be stated of this role"
            ),
        ),
        (
            {"newborn": {"height": "50"}},
            {},
            Complaint(
                "/subjects/newborn/height",
                "no such fact; of this role there are `birth_date`, `certificate_no`",
            ),
        ),
        (
            {},
            {"child_name": SupplyReason.NOT_HELD},
            Complaint("/supplied/child_name", "this can't be handed in"),
        ),
    ],
)
def test_what_may_not_be_said_at_all_is_told_in_so_many_words(
    subjects: Subjects, supplied: dict[str, SupplyReason], complaint: Complaint
) -> None:
    """Where nothing is allowed, no empty list of what is allowed is given."""
    with pytest.raises(InvalidRequestError) as caught:
        check_additions(NEWBORN, subjects, {}, {}, (), supplied, today=date(2026, 1, 9))

    assert (complaint,) == caught.value.complaints


NAMES = ["𠮷", "\u3400", "\U00031350", "\U0002ebf0", "\U000323b0", "\ue863", "é"]
UNSEEN = ["\x00", "\n", "\x7f", "\x85", "\u200b", "\u202e", "\ufeff"]


@pytest.mark.parametrize("name", [*NAMES, "葛\U000e0100"])
def test_a_child_may_have_any_name(name: str) -> None:
    """Also one whose characters were encoded yesterday, or are of private use yet."""
    said = {"child_name": name}

    check_additions(NEWBORN, {}, {}, said, (), {}, today=date.max)


@pytest.mark.parametrize("sign", UNSEEN)
def test_a_name_has_no_sign_that_nobody_sees(sign: str) -> None:
    """Two names that look alike would be two."""
    said = {"child_name": f"周{sign}溪"}
    with pytest.raises(InvalidRequestError) as caught:
        check_additions(NEWBORN, {}, {}, said, (), {}, today=date.max)

    told = "must not hold control characters or invisible signs"
    assert (Complaint("/answers/child_name", told),) == caught.value.complaints


def test_the_day_begins_in_beijing() -> None:
    """A child born after midnight there can be registered before midnight in UTC."""
    before = datetime(2026, 1, 8, 15, 59, 59, tzinfo=UTC)

    assert date(2026, 1, 8) == day_in_beijing(before)
    assert date(2026, 1, 9) == day_in_beijing(before + timedelta(seconds=1))


@pytest.mark.parametrize("path", ["/v1/cases", "/v1/explanations"])
def test_a_birth_in_the_future_opens_nothing(site: Site, path: str) -> None:
    """Nobody is asked; the place is named, and the date is not."""
    later = (day_in_beijing(SystemClock().now()) + timedelta(days=2)).isoformat()
    stated = {
        "mother": {"id": MOTHER, "name": "林云"},
        "newborn": {"birth_date": later},
    }
    body = {**OPENING, "subjects": stated}
    if path == "/v1/explanations":
        del body["actor"]
    before = site.gateway.log.size
    answer = site.client(PORTAL).post(path, json=body)

    assert 422 == answer.status_code
    assert [{"pointer": LATE.path, "detail": LATE.message}] == answer.json()["errors"]
    assert later not in answer.text
    assert before == site.gateway.log.size
