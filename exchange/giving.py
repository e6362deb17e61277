"""What a principal signs when they give a mandate, checked: pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from consent.mandates import Authentication, Power
from schemas.directory import Scope
from schemas.errors import Complaint, InvalidRequestError
from schemas.matter import FactType, Matter
from schemas.model import Slug
from schemas.validation import Pack

LONGEST = timedelta(days=366)
"""How far ahead a mandate may end."""

_FRESH = timedelta(days=1)
"""How long ago the principal may have been authenticated."""
_LEEWAY = timedelta(seconds=30)
"""How far a client's clock may be ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Giving:
    """What a principal signs, as the client that authenticated them states it."""

    principal: str = field(repr=False)
    """Citizen id."""
    role: Slug
    agent: str = field(repr=False)
    """Citizen id."""
    requester: Slug | None
    matters: frozenset[Slug]
    powers: frozenset[Power]
    valid_from: datetime
    valid_until: datetime
    method: Authentication
    authenticated_at: datetime


def check_giving(giving: Giving, pack: Pack, now: datetime) -> None:
    """Check what a principal signs against the packs and the clock: pure.

    Raises:
        InvalidRequestError: Names every part that is wrong, and repeats no value.
    """
    complaints = [
        *_wrong_parties(giving, pack),
        *_wrong_matters(giving, pack.matters.values()),
        *_wrong_times(giving, now),
    ]
    if complaints:
        raise InvalidRequestError(*complaints)


def _wrong_parties(giving: Giving, pack: Pack) -> list[Complaint]:
    wrong: list[Complaint] = []
    if giving.agent == giving.principal:
        wrong.append(Complaint("/agent/id", "nobody is their own agent"))
    if giving.requester is not None:
        requester = pack.requesters.get(giving.requester)
        if requester is None or Scope.PORTAL not in requester.scopes:
            wrong.append(Complaint("/requester", "there is no such portal"))
    return wrong


def _wrong_matters(giving: Giving, known: Collection[Matter]) -> list[Complaint]:
    wrong: list[Complaint] = []
    for place, name in enumerate(sorted(giving.matters)):
        versions = [matter for matter in known if matter.id == name]
        if not versions:
            wrong.append(Complaint(f"/matters/{place}", "there is no such matter"))
        elif not any(_applies_as(giving.role, matter) for matter in versions):
            message = "only a person who is the applicant can let an agent act"
            wrong.append(Complaint("/role", message))
    return wrong


def _applies_as(role: Slug, matter: Matter) -> bool:
    declared = matter.roles.get(role)
    fact = None if declared is None else declared.facts.get("id")
    return (
        declared is not None
        and declared.applicant
        and fact is not None
        and fact.type is FactType.CITIZEN_ID
    )


def _wrong_times(giving: Giving, now: datetime) -> list[Complaint]:
    wrong: list[Complaint] = []
    if giving.valid_until <= max(giving.valid_from, now):
        message = "must lie ahead, and after `valid_from`"
        wrong.append(Complaint("/valid_until", message))
    elif giving.valid_until > now + LONGEST:
        message = f"may lie at most {LONGEST.days} days ahead"
        wrong.append(Complaint("/valid_until", message))
    if not now - _FRESH <= giving.authenticated_at <= now + _LEEWAY:
        message = "the principal must have been authenticated within the last day"
        wrong.append(Complaint("/authentication/at", message))
    return wrong
