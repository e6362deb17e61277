"""An in-memory department: a working connector that answers from a scripted register.

It signs real SD-JWTs with a test key and passes the real guard, so that whoever is
tested against it sees what the product would see. Nothing is slow by the clock: a test
closes a gate and opens it when it likes.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from pydantic import JsonValue
from typing_extensions import override

from connectors.department.signing import Statement, sign_statement
from connectors.jose import SigningKey
from connectors.kinds.http import lookup_claims
from connectors.lookup import Declined, LookupRequest, NothingHeld, Reply, SignedReply
from connectors.port import Connector
from schemas.clock import Clock
from schemas.directory import PublicKey
from schemas.evidence import Mode

DEPARTMENT_KEY = SigningKey.from_seed(hashlib.sha256(b"a test department").digest())
"""Signs for every provider of the in-memory connector."""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Gate:
    """Holds look-ups back until it is opened."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as a look-up waits at the gate."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self) -> None:
        """Wait until a look-up stands at the gate; a test that went wrong ends here."""
        async with asyncio.timeout(30):
            await self.asked.wait()


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the scripted register."""

    keys: Mapping[str, str]
    values: Mapping[str, JsonValue]
    as_of: datetime | None
    """None for now."""


class InMemoryConnector(Connector):
    """Every department at once: records by evidence type, failures by evidence type."""

    def __init__(self, clock: Clock, key: SigningKey = DEPARTMENT_KEY) -> None:
        super().__init__(self.pinned, clock)
        self._signing_key = key
        self._records: defaultdict[str, list[Record]] = defaultdict(list)
        self._replies: dict[str, Reply | Exception] = {}
        self._gates: dict[str, Gate] = {}
        self._serial = count(1)
        self.asked: list[LookupRequest] = []
        """Every look-up that reached a department, in order."""
        self.on_asked: Callable[[LookupRequest], None] = lambda _request: None
        """Told of each look-up at the moment in which it reaches a department."""

    def pinned(self, _provider: str) -> tuple[PublicKey, ...]:
        """Return the pinned keys of a provider: the test key for all of them."""
        return (self._signing_key.pinned(LONG_AGO),)

    def hold(
        self,
        evidence_type: str,
        keys: Mapping[str, str],
        values: Mapping[str, JsonValue],
        *,
        as_of: datetime | None = None,
    ) -> None:
        """Put a record into the register of `evidence_type` (`id@version`)."""
        self._records[evidence_type].append(Record(dict(keys), dict(values), as_of))

    def drop(self, evidence_type: str) -> None:
        """Empty the register of an evidence type."""
        self._records.pop(evidence_type, None)

    def reply(self, evidence_type: str, reply: Reply | Exception | None) -> None:
        """Answer every look-up so from now on; an exception is raised; None ends it."""
        if reply is None:
            self._replies.pop(evidence_type, None)
        else:
            self._replies[evidence_type] = reply

    def close_gate(self, evidence_type: str) -> Gate:
        """Hold every look-up of an evidence type back until the gate is opened."""
        self._gates[evidence_type] = Gate()
        return self._gates[evidence_type]

    def asked_about(self, evidence_type: str) -> list[LookupRequest]:
        """Return the look-ups of one evidence type, in order."""
        return [r for r in self.asked if r.evidence_type.ref == evidence_type]

    @override
    async def _fetch(self, request: LookupRequest) -> Reply:
        ref = request.evidence_type.ref
        self.asked.append(request)
        self.on_asked(request)
        gate = self._gates.get(ref)
        if gate is not None:
            gate.asked.set()
            await gate.opened.wait()
        scripted = self._replies.get(ref)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted or self._look_up(request)

    @override
    async def aclose(self) -> None:
        """Close nothing: there is nothing open."""

    def _look_up(self, request: LookupRequest) -> Reply:
        held = self._records[request.evidence_type.ref]
        found = [one for one in held if one.keys.items() >= request.keys.items()]
        if len(found) > 1:  # as a department does, which picks none of them
            return Declined("ambiguous")
        return SignedReply(self._sign(request, found[0])) if found else NothingHeld()

    def _sign(self, request: LookupRequest, record: Record) -> str:
        now = self._clock.now()
        verify = request.mode is Mode.VERIFY
        match = all(record.values.get(k) == v for k, v in request.match.items())
        statement = Statement(
            {name: record.keys[name] for name in request.keys},
            record.as_of or now,
            None if verify else {name: record.values[name] for name in request.fields},
            match if verify else None,
        )
        claims = lookup_claims(request, "test-gateway")
        return sign_statement(statement, claims, self._signing_key, now, self._entropy)

    def _entropy(self, size: int) -> bytes:
        """Return bytes that differ from call to call and not from run to run."""
        return hashlib.sha256(str(next(self._serial)).encode()).digest()[:size]
