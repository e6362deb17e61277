"""What a portal sends about a case, checked against the matter: pure.

Every complaint names its path as a JSON Pointer and says what would be right. None
repeats what was given.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import assert_never

from schemas.codes import check_citizen_id, check_credit_code
from schemas.errors import Complaint, InvalidRequestError
from schemas.matter import (
    Fact,
    FactType,
    Latest,
    Matter,
    Question,
    QuestionType,
    Requirement,
    Role,
    SupplyReason,
)

Subjects = Mapping[str, Mapping[str, str]]
Answers = Mapping[str, bool | str]

_LONGEST_TEXT = 200
_UNSEEN = frozenset(("Cc", "Cf", "Cs"))
"""Categories of Unicode that no name has. A sign that this Python does not know yet, or
of private use, may well be in one: rare Chinese characters are encoded year by year."""
_REGION_LENGTHS = (6, 9, 12)
_FEWEST_DIGITS_OF_A_VALUE = 6
"""As many as a date of birth has; no name of ours has so many."""


def check_opening(
    matter: Matter, purpose: str, subjects: Subjects, answers: Answers, today: date
) -> None:
    """Check what opens a case.

    Args:
        matter: The case's matter.
        purpose: What it is opened for.
        subjects: Facts by role.
        answers: Answers by question.
        today: The day in Beijing, which bounds dates.

    Raises:
        InvalidRequestError: Names every part that is wrong.
    """
    complaints = [
        *_wrong_purpose(matter, purpose),
        *_missing_subjects(matter, subjects),
        *_wrong_subjects(matter, subjects, today),
        *_wrong_answers(matter, answers, today),
    ]
    if complaints:
        raise InvalidRequestError(*complaints)


def check_answers(matter: Matter, answers: Answers, today: date) -> None:
    """Check answers alone, as a case would.

    Args:
        matter: The matter that asks.
        answers: Answers by question.
        today: The day in Beijing, which bounds dates.

    Raises:
        InvalidRequestError: Names every answer that is wrong.
    """
    if complaints := list(_wrong_answers(matter, answers, today)):
        raise InvalidRequestError(*complaints)


def check_additions(  # noqa: PLR0913 - each part of what is added, and the day
    matter: Matter,
    subjects: Subjects,
    known: Subjects,
    answers: Answers,
    commitments: tuple[str, ...],
    supplied: Mapping[str, SupplyReason],
    *,
    today: date,
) -> None:
    """Check what is added to an open case.

    Args:
        matter: The case's matter.
        subjects: Facts to be added.
        known: Facts stated before: they are never changed.
        answers: Answers, new or changed.
        commitments: Requirements for which a commitment is given.
        supplied: Requirements that were handed in, and why.
        today: The day in Beijing, which bounds dates.

    Raises:
        InvalidRequestError: Names every part that is wrong.
    """
    complaints = [
        *_wrong_subjects(matter, subjects, today),
        *_changed_facts(subjects, known),
        *_wrong_answers(matter, answers, today),
        *_wrong_commitments(matter, commitments),
        *_wrong_supplies(matter, supplied),
    ]
    if complaints:
        raise InvalidRequestError(*complaints)


def _wrong_purpose(matter: Matter, purpose: str) -> Iterator[Complaint]:
    if purpose not in matter.purposes:
        allowed = ", ".join(f"`{p}`" for p in matter.purposes)
        yield Complaint("/purpose", f"this matter is for {allowed}")


def _missing_subjects(matter: Matter, subjects: Subjects) -> Iterator[Complaint]:
    for role_id, role in matter.roles.items():
        if role.required and role_id not in subjects:
            yield Complaint(f"/subjects/{role_id}", "this subject is required")
        for fact_id, fact in role.facts.items():
            stated = subjects.get(role_id)
            if fact.required and stated is not None and fact_id not in stated:
                yield Complaint(f"/subjects/{role_id}/{fact_id}", "this is required")


def _wrong_subjects(
    matter: Matter, subjects: Subjects, today: date
) -> Iterator[Complaint]:
    for role_id, facts in subjects.items():
        role = matter.roles.get(role_id)
        if role is None:
            roles = ", ".join(f"`{r}`" for r in matter.roles)
            path = f"/subjects/{_pointer(role_id)}"
            yield Complaint(path, f"no such role; there are {roles}")
            continue
        for fact_id, value in facts.items():
            fact = role.facts.get(fact_id)
            if fact is None:
                path = f"/subjects/{role_id}/{_pointer(fact_id)}"
                yield Complaint(path, _no_such_fact(role))
            elif message := _wrong_fact(fact, value, today):
                yield Complaint(f"/subjects/{role_id}/{fact_id}", message)


def _no_such_fact(role: Role) -> str:
    known = ", ".join(f"`{f}`" for f in role.facts)
    if not known:
        return "nothing may be stated of this role"
    return f"no such fact; of this role there are {known}"


def _changed_facts(subjects: Subjects, known: Subjects) -> Iterator[Complaint]:
    for role_id, facts in subjects.items():
        for fact_id, value in facts.items():
            if known.get(role_id, {}).get(fact_id, value) != value:
                message = "was stated otherwise before; open another case"
                yield Complaint(f"/subjects/{role_id}/{fact_id}", message)


def _wrong_fact(fact: Fact, value: str, today: date) -> str:
    """Return what is wrong with a stated fact; "" when nothing is."""
    match fact.type:
        case FactType.CITIZEN_ID:
            return _message(check_citizen_id, value)
        case FactType.CREDIT_CODE:
            return _message(check_credit_code, value)
        case FactType.DATE:
            return _wrong_date(value, fact.not_after, today)
        case FactType.REGION:
            return _wrong_region(value)
        case FactType.TEXT:
            return _wrong_text(value, _LONGEST_TEXT)
        case _:
            assert_never(fact.type)


def _wrong_answers(
    matter: Matter, answers: Answers, today: date
) -> Iterator[Complaint]:
    for question_id, answer in answers.items():
        path = f"/answers/{_pointer(question_id)}"
        question = matter.questions.get(question_id)
        if question is None:
            yield Complaint(path, "this matter does not ask such a question")
        elif message := _wrong_answer(question, answer, today):
            yield Complaint(path, message)


def _wrong_answer(
    question: Question,
    answer: bool | str,  # noqa: FBT001 - an answer may be yes or no; one for each type
    today: date,
) -> str:
    """Return what is wrong with an answer; "" when nothing is."""
    if isinstance(answer, bool) or question.type is QuestionType.BOOLEAN:
        is_right = isinstance(answer, bool) and question.type is QuestionType.BOOLEAN
        return "" if is_right else f"must be a {question.type.value}"
    match question.type:
        case QuestionType.CHOICE:
            allowed = ", ".join(f"`{c}`" for c in question.choices)
            return "" if answer in question.choices else f"must be one of {allowed}"
        case QuestionType.TEXT:
            return _wrong_text(answer, question.max_length)
        case QuestionType.DATE:
            return _wrong_date(answer, question.not_after, today)
        case QuestionType.REGION:
            return _wrong_region(answer)
        case _:
            assert_never(question.type)


def _wrong_commitments(
    matter: Matter, commitments: tuple[str, ...]
) -> Iterator[Complaint]:
    for place, requirement_id in enumerate(commitments):
        requirement = matter.requirements.get(requirement_id)
        if requirement is None:
            yield Complaint(f"/commitments/{place}", "no such requirement")
        elif requirement.commitment is None:
            message = "the matter allows no commitment in place of this evidence"
            yield Complaint(f"/commitments/{place}", message)


def _wrong_supplies(
    matter: Matter, supplied: Mapping[str, SupplyReason]
) -> Iterator[Complaint]:
    for requirement_id, reason in supplied.items():
        path = f"/supplied/{_pointer(requirement_id)}"
        requirement = matter.requirements.get(requirement_id)
        if requirement is None:
            yield Complaint(path, "no such requirement")
        elif reason not in requirement.supply:
            yield Complaint(path, _not_for_this(requirement))


def _not_for_this(requirement: Requirement) -> str:
    allowed = ", ".join(f"`{reason.value}`" for reason in requirement.supply)
    if not allowed:
        return "this can't be handed in"
    return f"may be handed in for {allowed}, and for no other reason"


def _message(check: Callable[[str], None], value: str) -> str:
    try:
        check(value)
    except ValueError as error:
        return str(error)
    return ""


def _wrong_date(value: str, not_after: Latest | None, today: date) -> str:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        day = None
    if day is None or day.isoformat() != value:
        return "must be a date such as `2026-01-08`"
    if not_after is Latest.TODAY and day > today:
        return "must not be after today"
    return ""


def _wrong_region(value: str) -> str:
    is_right = value.isascii() and value.isdigit() and len(value) in _REGION_LENGTHS
    return "" if is_right else "must be a division code of 6, 9 or 12 digits"


def _wrong_text(value: str, longest: int) -> str:
    if not value.strip():
        return "must not be empty"
    if len(value) > longest:
        return f"must have {longest} characters at most"
    if any(unicodedata.category(c) in _UNSEEN for c in value):
        return "must not hold control characters or invisible signs"
    return ""


def _pointer(name: str) -> str:
    """Return a name as a part of a JSON Pointer, cut short: it is not ours.

    INVARIANT (rule 8): one that holds as many digits as a value is not repeated.
    """
    if sum(c.isdigit() for c in name) >= _FEWEST_DIGITS_OF_A_VALUE:
        return "*"
    return name[:64].replace("~", "~0").replace("/", "~1")
