"""The mandate: whom a person lets act for them, in which matters, how far, how long.

SOURCE: Civil Code (民法典) articles 161 (acts that must be one's own are no matter for
an agent), 165 (a written mandate names the agent, the matters, the powers and the
period, and is signed), 169 (nobody passes a mandate on without consent) and 173 (it
ends with its period, when the principal takes it back, or when the agent lays it
down).

`check_mandate` is pure. Whether a mandate holds is computed from the time that is
asked about and never only stored, so that a late sweep can't lengthen it. A consent
stays the person's own: no power gives or refuses one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from consent.artefact import Person
from consent.rules import Rule
from schemas.ids import MandateId
from schemas.model import Slug

MANDATE_RULES = frozenset(
    (
        Rule.MANDATE_NOT_FOUND,
        Rule.MANDATE_OTHER_AGENT,
        Rule.MANDATE_OTHER_PRINCIPAL,
        Rule.MANDATE_OTHER_REQUESTER,
        Rule.MANDATE_MATTER_OUTSIDE,
        Rule.MANDATE_POWER_OUTSIDE,
        Rule.MANDATE_NOT_YET_VALID,
        Rule.MANDATE_EXPIRED,
        Rule.MANDATE_REVOKED,
    )
)
"""Every rule by which a mandate does not let an agent act."""


class Power(StrEnum):
    """What an agent may do for the principal: what is not named is not given."""

    APPLY = "apply"
    """Open a case, state facts, answer questions and hand papers in."""
    COMMIT = "commit"
    """Promise in the principal's name (告知承诺), who answers for the promise."""


class Authentication(StrEnum):
    """How it was made sure that the principal signs."""

    FACE = "face"
    """人脸核验: face and id compared by the identity service."""
    ELECTRONIC_SIGNATURE = "electronic_signature"
    """可靠的电子签名 (Electronic Signature Law, articles 13 and 14)."""
    IN_PERSON = "in_person"
    """Signed on paper at a window, before an official who saw the id."""


class MandateState(StrEnum):
    """Where a mandate stands at an instant."""

    GIVING = "giving"
    """Given, and not recorded yet: it does not hold."""
    NOT_YET_VALID = "not_yet_valid"
    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The evidence that the principal signed."""

    client: Slug
    """The client that authenticated the principal, and vouches for it."""
    method: Authentication
    at: datetime
    """When the principal was authenticated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mandate:
    """One principal's mandate to one agent.

    INVARIANT: once given, nothing changes but `revoked_at`, and that it is recorded:
    other powers or a longer period take another mandate.

    Raises:
        ValueError: It names no matter, no power or no time; or the agent is the
            principal. The message names the part alone.
    """

    id: MandateId
    principal: Person
    role: Slug
    """The principal's role in the matters: that of the applicant."""
    agent: Person
    requester: Slug | None
    """Where the agent may act; None for any requester."""
    matters: frozenset[Slug]
    """Ids of matters, without versions."""
    powers: frozenset[Power]
    valid_from: datetime
    valid_until: datetime
    """First instant at which it no longer holds."""
    given_at: datetime
    revoked_at: datetime | None
    """First instant at which it no longer held; None while nobody ended it."""
    is_giving: bool = False
    """Whether it is not recorded yet: nobody acts under it until then."""
    signature: Signature

    def __post_init__(self) -> None:
        if not self.matters or not self.powers:
            raise ValueError("a mandate names at least one matter and one power")
        if self.valid_from >= self.valid_until:
            raise ValueError("a mandate ends after it begins")
        if self.agent == self.principal:
            raise ValueError("nobody is their own agent")

    def state_at(self, now: datetime) -> MandateState:
        """Return where it stands at an instant."""
        # What came first ended it: nothing is left to end afterwards.
        if self.revoked_at is not None and self.revoked_at < self.valid_until:
            if now >= self.revoked_at:
                return MandateState.REVOKED
        elif now >= self.valid_until:
            return MandateState.EXPIRED
        if self.is_giving:
            return MandateState.GIVING
        is_early = now < self.valid_from
        return MandateState.NOT_YET_VALID if is_early else MandateState.VALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What an agent is about to do, for whom and where."""

    agent: Person
    principal: Person | None
    """The applicant of the case; None while nobody knows who that is."""
    role: Slug
    """The applicant's role in the matter."""
    requester: Slug
    matter: Slug
    """The matter's id, without its version."""
    powers: frozenset[Power]
    """All the powers that it takes."""


def check_mandate(mandate: Mandate | None, act: Act, now: datetime) -> Rule | None:
    """Return the rule by which a mandate does not let an agent act; None when it does.

    Who it is between comes first and when it holds comes last, so that nobody learns
    of another's mandate how it stands.

    Args:
        mandate: The one that the agent names; None when there is none.
        act: What the agent is about to do.
        now: The instant.
    """
    if mandate is None:
        return Rule.MANDATE_NOT_FOUND
    return _parties_rule(mandate, act) or _reach_rule(mandate, act, now)


def ended_rule(mandate: Mandate | None, now: datetime) -> Rule | None:
    """Return the rule by which a mandate does not hold at an instant; None: it does."""
    return Rule.MANDATE_NOT_FOUND if mandate is None else _ENDED[mandate.state_at(now)]


def _parties_rule(mandate: Mandate, act: Act) -> Rule | None:
    """Return the rule by which it is between others."""
    if mandate.agent != act.agent:
        return Rule.MANDATE_OTHER_AGENT
    if (mandate.principal, mandate.role) != (act.principal, act.role):
        return Rule.MANDATE_OTHER_PRINCIPAL
    if mandate.requester not in (None, act.requester):
        return Rule.MANDATE_OTHER_REQUESTER
    return None


def _reach_rule(mandate: Mandate, act: Act, now: datetime) -> Rule | None:
    """Return the rule by which it does not reach so far, or not now."""
    if act.matter not in mandate.matters:
        return Rule.MANDATE_MATTER_OUTSIDE
    if not act.powers <= mandate.powers:
        return Rule.MANDATE_POWER_OUTSIDE
    return ended_rule(mandate, now)


_ENDED: Mapping[MandateState, Rule | None] = {
    MandateState.GIVING: Rule.MANDATE_NOT_YET_VALID,
    MandateState.NOT_YET_VALID: Rule.MANDATE_NOT_YET_VALID,
    MandateState.VALID: None,
    MandateState.EXPIRED: Rule.MANDATE_EXPIRED,
    MandateState.REVOKED: Rule.MANDATE_REVOKED,
}
