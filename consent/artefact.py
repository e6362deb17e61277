"""The consent artefact: one person's permission, and how far it goes.

SOURCE: PIPL articles 14 to 16; the fields follow the ReBIT consent artefact 2.x
(consent start and expiry, purpose, frequency) and ISO/IEC TS 27560:2023 (a record
is the history of its states). Expiry is computed from the time that is asked about
and never only stored, so that a late sweep can't lengthen a permission.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from schemas.evidence import FieldName
from schemas.ids import CaseId, ConsentId
from schemas.model import Slug, VersionedId

Person = str
"""A person ref: an opaque, stable, keyed string. Never a raw id."""

ConsentFields = Mapping[VersionedId, frozenset[FieldName] | None]
"""Evidence types → their fields; None for every field that a grant allows.

Fields belong to their evidence type: a consent to the name in one register is none
to the name in another.
"""


class ConsentState(StrEnum):
    """Where a consent stands."""

    ASKED = "asked"
    """The person has been asked and has not answered."""
    GIVING = "giving"
    """The person has given it, and nothing rests on it until that is recorded."""
    GIVEN = "given"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    """It ran out before the person answered, or after; or the case that asked was
    closed, or its mandate ended, before they answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentScope:
    """What a consent is for: equal in every part or it is another consent.

    INVARIANT: the scope of a consent never changes (PIPL 14: a changed purpose or
    kind of information takes a fresh consent).
    """

    person: Person
    role: Slug
    requester: Slug
    matter: Slug
    """The matter's id, without its version."""
    purpose: Slug
    case: CaseId | None
    """The one case in which it holds; None for every case of the matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """A person's scoped, expiring, revocable permission.

    INVARIANT: once given, nothing changes but the state and `uses_left`: while it is
    only asked for, its fields may grow, and each growth raises `version`, so that a
    person can't give more than was shown.
    """

    id: ConsentId
    scope: ConsentScope
    asked_in: CaseId
    """The case that asked for it, and goes on when it is answered."""
    fields: ConsentFields
    state: ConsentState
    asked_at: datetime
    given_at: datetime | None
    """None unless it was given."""
    ended_at: datetime | None
    """When it was refused, withdrawn or overtaken by the end of its case, or ran out,
    once that is marked; None before that. See `ended_by`."""
    expires_at: datetime
    """First instant at which it no longer holds, given or only asked for."""
    uses_left: int | None
    """Look-ups that may still rest on it; None for any number."""
    version: int
    """Counts what was changed about it, uses left aside; starts at 1."""

    @property
    def evidence_types(self) -> tuple[VersionedId, ...]:
        """The evidence types that it is about, in order."""
        return tuple(sorted(self.fields))

    def state_at(self, now: datetime) -> ConsentState:
        """Return the state at an instant: what has run out is expired."""
        is_over = self.state in (ConsentState.REFUSED, ConsentState.WITHDRAWN)
        if not is_over and now >= self.expires_at:
            return ConsentState.EXPIRED
        return self.state

    def ended_by(self, now: datetime) -> datetime | None:
        """Return when it ended, as seen at an instant; None while it has not."""
        ran_out = self.state_at(now) is ConsentState.EXPIRED
        return self.expires_at if ran_out and self.ended_at is None else self.ended_at

    def holds_at(self, now: datetime) -> bool:
        """Return whether a look-up may rest on it at an instant."""
        return self.state_at(now) is ConsentState.GIVEN and self.uses_left != 0

    def covers(self, evidence_type: VersionedId, fields: frozenset[FieldName]) -> bool:
        """Return whether it is about every one of the fields."""
        if evidence_type not in self.fields:
            return False
        allowed = self.fields[evidence_type]
        return allowed is None or fields <= allowed

    def touches(self, evidence_type: VersionedId, fields: frozenset[FieldName]) -> bool:
        """Return whether it is about any of the fields, or the type itself."""
        if evidence_type not in self.fields:
            return False
        allowed = self.fields[evidence_type]
        return allowed is None or not fields or bool(fields & allowed)


def merged(one: ConsentFields, other: ConsentFields) -> ConsentFields:
    """Return everything that either names."""
    both = dict(one)
    for evidence_type, fields in other.items():
        if evidence_type not in both:
            both[evidence_type] = fields
            continue
        held = both[evidence_type]
        both[evidence_type] = None if held is None or fields is None else held | fields
    return MappingProxyType(both)


def is_within(inner: ConsentFields, outer: ConsentFields) -> bool:
    """Return whether `outer` names everything that `inner` does."""
    for evidence_type, fields in inner.items():
        if evidence_type not in outer:
            return False
        allowed = outer[evidence_type]
        if allowed is not None and (fields is None or not fields <= allowed):
            return False
    return True
