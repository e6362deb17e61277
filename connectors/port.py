"""The connector port: what a look-up is, what may come back, and the guard between.

A kind of connector writes `_fetch` and may raise anything. The gateway calls
`fetch`, which keeps four promises whatever the kind or the department does: only
`ConnectorError` leaves it, it ends within the time limit, a service that is down is
not hammered, and evidence comes out only after every check of `connectors.checks`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from pydantic import JsonValue

from schemas.clock import Clock
from schemas.directory import DataService, PublicKey
from schemas.errors import ConnectorError, ConnectorUnavailableError, Layer
from schemas.evidence import EvidenceType, Mode
from schemas.ids import EventId, EvidenceId, LookupId


@dataclass(frozen=True, slots=True)
class IntentRef:
    """The durable log record of the intent that a look-up rests on."""

    event: EventId
    index: int
    leaf_hash: bytes
    """RFC 6962 leaf hash of the record, 32 bytes."""
    log: str
    """Origin of the log, as in its checkpoints."""


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """One question to one data service."""

    id: LookupId
    service: DataService
    evidence_type: EvidenceType
    mode: Mode
    keys: Mapping[str, str]
    """One whole set of the evidence type's keys, by key name."""
    fields: tuple[str, ...]
    """Fields asked for, to pass on or to compare; empty in verify mode."""
    match: Mapping[str, str]
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
    subject_salt: bytes
    """16 fresh random bytes, known to gateway and department only: without them
    nobody can test guesses of an id against the signed subject digest."""
    issued_at: datetime
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One field of one evidence, as the department disclosed it (RFC 9901, 4.2)."""

    encoded: str
    """base64url(JSON([salt, name, value])): these bytes are what was digested."""
    value: JsonValue


@dataclass(frozen=True, slots=True)
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
    disclosures: Mapping[str, Disclosure]
    """By field name; only fields that were asked for. Empty in verify mode."""

    def presentation(self, fields: Iterable[str]) -> str:
        """Return the SD-JWT with the disclosures of `fields` and no others.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        # INVARIANT: a field that is not named here does not leave: rule 4.
        shown = [self.disclosures[name].encoded for name in fields]
        return "~".join([self.jwt, *shown, ""])

    def values(self, fields: Iterable[str]) -> dict[str, JsonValue]:
        """Return the plain values of `fields`.

        Raises:
            KeyError: The evidence does not hold one of the fields.
        """
        return {name: self.disclosures[name].value for name in fields}


@dataclass(frozen=True, slots=True)
class Answered:
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


Answer: TypeAlias = (
    Answered | Matched | Deferred | NothingHeld | NotCovered | Declined
)


@dataclass(frozen=True, slots=True)
class SignedReply:
    """What a kind got from a department as evidence, not yet checked."""

    sd_jwt: str


Reply: TypeAlias = SignedReply | Deferred | NothingHeld | NotCovered | Declined

ProviderKeys: TypeAlias = Callable[[str], tuple[PublicKey, ...]]
"""The pinned keys of a provider by its id, old ones included; none when unknown."""


class Connector(ABC):
    """The code that speaks to data services."""

    def __init__(self, keys: ProviderKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def fetch(self, request: LookupRequest) -> Answer:
        """Ask, and return a checked answer.

        Raises:
            ConnectorUnavailableError: Asking again later may help.
            ConnectorFaultError: The department answered wrongly.
        """
        raise NotImplementedError

    @abstractmethod
    async def _fetch(self, request: LookupRequest) -> Reply:
        """Ask, and return what came, unchecked; may raise anything."""

    async def aclose(self) -> None:
        """Close what is open; no `fetch` may follow."""
