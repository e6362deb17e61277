"""What is registered, compared with what was at the last start: each change a record.

Keys, departments, services, clients and the rules in force come with packs, which are
read when the gateway starts. So a change is noticed here, and recorded before the
gateway serves anybody under it (decisions 11 and 12).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, delete, select, update
from sqlmodel import Field, SQLModel

from audit.record import Event, Kind
from audit.writer import AuditLog
from consent.rows import insert_or_ignore
from exchange.database import Database
from exchange.keys import GatewayKeys
from schemas.canonical import Json, canonical, sha256_b64url
from schemas.directory import PublicKey
from schemas.ids import EventId, NewId
from schemas.model import Model
from schemas.validation import Pack

_MOST_AT_ONCE = 256
"""Records in one append: far fewer than the log takes on."""


class RegisteredRow(SQLModel, table=True):
    """One thing as it was registered at the last start."""

    __tablename__ = "registered"  # type: ignore[mutable-override] # SQLModel's own way

    thing: str = Field(primary_key=True)
    """What and which: `service:mz_marriage`."""
    digest: str


_ROW = RegisteredRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table


@dataclass(frozen=True, slots=True)
class Registered:
    """One thing as it is registered now."""

    kind: Kind
    """The kind of record that tells of a change."""
    digest: str
    provider: str = ""
    requester: str = ""
    details: Mapping[str, Json] = field(default_factory=dict)


def registered(pack: Pack, keys: GatewayKeys) -> dict[str, Registered]:
    """Return everything whose change is recorded, by what and which it is."""
    found = {
        "pack": Registered(Kind.POLICY_CHANGED, pack.digest),
        "keys:gateway": _keys({"lookup": keys.lookup.kid, "token": keys.token.kid}),
    }
    for provider in pack.providers.values():
        found[f"provider:{provider.id}"] = _thing(provider, provider=provider.id)
        found[f"keys:provider:{provider.id}"] = _keys(
            _thumbprints(provider.keys), provider=provider.id
        )
    for service in pack.services.values():
        found[f"service:{service.id}"] = _thing(service, provider=service.provider)
    for requester in pack.requesters.values():
        found[f"requester:{requester.id}"] = _thing(requester, requester=requester.id)
        found[f"keys:requester:{requester.id}"] = _keys(
            _thumbprints(requester.keys), requester=requester.id
        )
    return found


async def record_changes(
    database: Database,
    log: AuditLog,
    now_registered: Mapping[str, Registered],
    now: datetime,
    new_id: NewId,
) -> int:
    """Record what changed since the last start; return how much did.

    (1) Compare.
    (2) Record, durably.
    (3) Remember what is registered now. After a crash in between, the same changes
        are recorded again: too much rather than too little.

    Raises:
        LogUnavailableError: The changes can't be recorded, so nobody may be served.
        StoreUnavailableError: The tables can't be reached.
    """
    # (1): of an empty table everything is new, which is the first start.
    before = await database.read(_read)
    events = [
        _event(thing, outcome, now_registered.get(thing), now, new_id)
        for thing, outcome in _changes(before, now_registered)
    ]
    # (2): in order, a few at a time.
    for start in range(0, len(events), _MOST_AT_ONCE):
        await log.append_first(events[start : start + _MOST_AT_ONCE])
    # (3): only when there is a difference.
    if events:
        await database.write(lambda c: _store(c, now_registered))
    return len(events)


def _changes(
    before: Mapping[str, str], now: Mapping[str, Registered]
) -> Iterable[tuple[str, str]]:
    """Yield what was added, changed or removed, ordered by what it is."""
    for thing in sorted({*before, *now}):
        if thing not in before:
            yield thing, "added"
        elif thing not in now:
            yield thing, "removed"
        elif before[thing] != now[thing].digest:
            yield thing, "changed"


def _event(
    thing: str, outcome: str, what: Registered | None, now: datetime, new_id: NewId
) -> Event:
    gone = Registered(_kind_of(thing), "")
    what = what or gone
    return Event(
        id=EventId(new_id()),
        at=now,
        kind=what.kind,
        outcome=outcome,
        requester=what.requester,
        provider=what.provider,
        correlation=thing,
        details={"thing": thing, "digest": what.digest, **what.details},
    )


def _kind_of(thing: str) -> Kind:
    """Return the kind of record that tells of something that is gone."""
    if thing.startswith("keys:"):
        return Kind.KEY_CHANGED
    return Kind.REGISTRATION_CHANGED


def _thing(thing: Model, *, provider: str = "", requester: str = "") -> Registered:
    """Return a thing without its keys, which are recorded apart."""
    content: Json = thing.model_dump(mode="json", exclude={"keys"})
    digest = sha256_b64url(canonical(content))
    return Registered(Kind.REGISTRATION_CHANGED, digest, provider, requester)


def _keys(
    thumbprints: Mapping[str, str], *, provider: str = "", requester: str = ""
) -> Registered:
    listed: dict[str, Json] = dict(thumbprints)
    digest = sha256_b64url(canonical(listed))
    details: dict[str, Json] = {"keys": listed}
    return Registered(Kind.KEY_CHANGED, digest, provider, requester, details)


def _thumbprints(keys: Iterable[PublicKey]) -> dict[str, str]:
    """Return each key's thumbprint and the validity that its record tells."""
    return {
        key.thumbprint: f"{key.valid_from.isoformat()}/"
        + ("" if key.valid_until is None else key.valid_until.isoformat())
        for key in keys
    }


def _read(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(_ROW.c.thing, _ROW.c.digest))
    return {row.thing: row.digest for row in rows}


def _store(connection: Connection, now: Mapping[str, Registered]) -> None:
    gone = delete(_ROW).where(_ROW.c.thing.not_in(list(now)))
    connection.execute(gone)
    # In order, so that two replicas that start together never wait for each other.
    for thing, what in sorted(now.items()):
        row = {"thing": thing, "digest": what.digest}
        if not insert_or_ignore(connection, _ROW, row):
            same = update(_ROW).where(_ROW.c.thing == thing)
            connection.execute(same.values(digest=what.digest))
