"""The rules that can decide a look-up, and what can be suspended: names for both.

A rule's name stands in outcomes, records and answers; it is never given to another
rule. `consent.decision` and `consent.mandates` say when each of them decides.
"""

from enum import StrEnum

from schemas.model import Slug


class Rule(StrEnum):
    """Every rule that can decide. Among refusals the later one got further.

    The order is that in which a look-up is examined: where several grants refuse, the
    answer is the refusal of the one that came furthest, so that it tells what is
    missing rather than what was never meant.
    """

    MANDATE_NOT_FOUND = "mandate_not_found"
    """There is no such mandate."""
    MANDATE_OTHER_AGENT = "mandate_other_agent"
    """The mandate is another agent's; nobody passes one on (Civil Code 169)."""
    MANDATE_OTHER_PRINCIPAL = "mandate_other_principal"
    """The mandate is not from the applicant of this case."""
    MANDATE_OTHER_REQUESTER = "mandate_other_requester"
    """The mandate is for use at another requester."""
    MANDATE_MATTER_OUTSIDE = "mandate_matter_outside"
    """The mandate is for other matters."""
    MANDATE_POWER_OUTSIDE = "mandate_power_outside"
    """The mandate does not give this power."""
    MANDATE_NOT_YET_VALID = "mandate_not_yet_valid"
    """The mandate's first instant has not come."""
    MANDATE_EXPIRED = "mandate_expired"
    """The mandate's period has ended (Civil Code 173(1))."""
    MANDATE_REVOKED = "mandate_revoked"
    """The principal took the mandate back, or the agent laid it down (173(2))."""

    REQUESTER_SUSPENDED = "requester_suspended"
    """The organisation that asks has been suspended."""
    PROVIDER_SUSPENDED = "provider_suspended"
    """The department that would be asked has been suspended."""
    SERVICE_SUSPENDED = "service_suspended"
    """The data service that would be asked has been suspended."""
    NO_GRANT = "no_grant"
    """No grant lets this requester ask for this evidence type."""
    GRANT_EXPIRED = "grant_expired"
    """The grant's last instant has passed."""
    GRANT_NOT_YET_VALID = "grant_not_yet_valid"
    """The grant's first instant has not come."""
    MATTER_NOT_GRANTED = "matter_not_granted"
    """The grant is for other matters."""
    PURPOSE_NOT_GRANTED = "purpose_not_granted"
    """The grant is for other purposes (Decree 809, article 25)."""
    MODE_NOT_GRANTED = "mode_not_granted"
    """The grant allows only the other mode, such as comparing without a payload."""
    FIELD_NOT_GRANTED = "field_not_granted"
    """A field is asked for that the grant does not name (PIPL 6)."""
    ROLE_NOT_GRANTED = "role_not_granted"
    """The grant states no basis for a role that the look-up is about or concerns."""
    BASIS_NOT_SUPPORTED = "basis_not_supported"
    """A role rests on a mandate or an emergency: nothing is permitted on those yet."""
    GRANT_SUSPENDED = "grant_suspended"
    """The grant has been suspended."""
    QUOTA_USED_UP = "quota_used_up"
    """The grant's look-ups of this period have been made."""
    CONSENT_REFUSED = "consent_refused"
    """The person was asked for this and refused; nobody asks again by itself."""
    CONSENT_WITHDRAWN = "consent_withdrawn"
    """The person withdrew the consent to this; nobody asks again by itself."""

    CONSENT_ASKED = "consent_asked"
    """The person has been asked for this and has not answered yet."""
    CONSENT_EXPIRED = "consent_expired"
    """The person's consent to this has run out."""
    CONSENT_USED_UP = "consent_used_up"
    """The person's consent to this was for fewer look-ups."""
    CONSENT_TOO_NARROW = "consent_too_narrow"
    """The person consented to some of the fields, not to all."""
    CONSENT_MISSING = "consent_missing"
    """The person has not been asked for this."""

    SUBJECT_NOT_YET_KNOWN = "subject_not_yet_known"
    """By role and fields nothing forbids it; a person whose consent it takes is known
    only to an earlier wave, and it is decided again then."""
    STATUTORY_DUTY = "statutory_duty"
    """Every role rests on a statutory duty (PIPL 13(3)): no consent is needed."""
    CONSENT_GIVEN = "consent_given"
    """Every role that takes a consent has one; the others rest on a statutory duty."""


class Suspendable(StrEnum):
    """What can be suspended."""

    GRANT = "grant"
    SERVICE = "service"
    PROVIDER = "provider"
    REQUESTER = "requester"


Target = str
"""Something that can be suspended, with its kind: `service:civil_marriage`."""


def target(kind: Suspendable, thing: Slug) -> Target:
    """Return the name under which a thing is suspended.

    >>> target(Suspendable.PROVIDER, "police")
    'provider:police'
    """
    return f"{kind}:{thing}"


def suspension_rule(
    things: frozenset[Target], suspended: frozenset[Target]
) -> Rule | None:
    """Return the rule by which one of the things may not be used; None when all may."""
    stopped = things & suspended
    for kind, rule in _SUSPENSION_RULES.items():
        if any(thing.startswith(f"{kind}:") for thing in stopped):
            return rule
    return None


_SUSPENSION_RULES = {
    Suspendable.REQUESTER: Rule.REQUESTER_SUSPENDED,
    Suspendable.PROVIDER: Rule.PROVIDER_SUSPENDED,
    Suspendable.SERVICE: Rule.SERVICE_SUSPENDED,
    Suspendable.GRANT: Rule.GRANT_SUSPENDED,
}
