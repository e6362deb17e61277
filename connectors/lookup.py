"""What is asked of a data service, and what may be answered: the words of the port.

A kind of connector gives a `Reply`; whoever asks through the port gets an `Answer`,
in which evidence is checked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeAlias

from pydantic import JsonValue

from connectors.protocol import Disclosed
from schemas.directory import DataService
from schemas.evidence import EvidenceType, Mode
from schemas.ids import EventId, EvidenceId, LookupId
from schemas.model import value


@value
class IntentRef:
    """The durable log record of the intent that a look-up rests on."""

    event: EventId
    index: int
    leaf_hash: bytes
    """RFC 6962 leaf hash of the record, 32 bytes."""
    log: str
    """Origin of the log, as in its checkpoints."""


@value
class LookupRequest:
    """One question to one data service."""

    id: LookupId
    service: DataService
    evidence_type: EvidenceType
    mode: Mode
    keys: Mapping[str, str] = field(repr=False)
    """One whole set of the evidence type's keys, by key name."""
    fields: tuple[str, ...]
    """Fields asked for, to pass on or to compare; empty in verify mode."""
    match: Mapping[str, str] = field(repr=False)
    """Facts to compare at the source, by field name; empty in retrieve mode."""
    requester: str
    """For whom the evidence is: its `aud`."""
    purpose: str
    matter: str
    """The matter as `id@version`."""
    basis: Mapping[str, str]
    """The kind of lawful basis by role."""
    grant: str
    intent: IntentRef
    subject_salt: bytes = field(repr=False)
    """16 fresh random bytes, known to gateway and department only: without them
    nobody can test guesses of an id against the signed subject digest."""
    issued_at: datetime
    timeout_s: float


@value
class Evidence:
    """One signed statement of a provider about a subject, checked."""

    id: EvidenceId
    provider: str
    service: str
    evidence_type: str
    """The evidence type as `id@version`."""
    lookup: LookupId
    as_of: datetime
    issued_at: datetime
    jwt: str
    """The issuer-signed JWT, without disclosures."""
    disclosed: Disclosed
    """Only fields that were asked for; none in verify mode."""

    def presentation(self, fields: Iterable[str]) -> str:
        """Return the SD-JWT with the disclosures of `fields` and no others.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        # INVARIANT: a field that is not named here does not leave: rule 4.
        shown = [self.disclosed.encoded[name] for name in fields]
        return "~".join([self.jwt, *shown, ""])

    def values(self, fields: Iterable[str]) -> dict[str, JsonValue]:
        """Return the plain values of `fields`.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        return {name: self.disclosed.values[name] for name in fields}


class Answered(NamedTuple):
    """The fields came, and every check held."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Matched:
    """The stated facts were compared at the source; the evidence has no fields."""

    evidence: Evidence
    match: bool


@dataclass(frozen=True, slots=True)
class Deferred:
    """The department will be able to answer later: ask again then, by a new look-up."""

    retry_at: datetime


@dataclass(frozen=True, slots=True)
class NothingHeld:
    """The department says it has no such record, and is competent to say so."""


@dataclass(frozen=True, slots=True)
class NotCovered:
    """The department says it can't speak about this region or date."""


@dataclass(frozen=True, slots=True)
class Declined:
    """The department refuses by a rule of its own."""

    code: str
    """Which rule, as a slug of the department: `ambiguous`, `declined`..."""


Answer: TypeAlias = Answered | Matched | Deferred | NothingHeld | NotCovered | Declined


@dataclass(frozen=True, slots=True)
class SignedReply:
    """What a kind got from a department as evidence, not yet checked."""

    sd_jwt: str = field(repr=False)


Reply: TypeAlias = SignedReply | Deferred | NothingHeld | NotCovered | Declined
