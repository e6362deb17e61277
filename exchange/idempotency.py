"""Repeated requests: what a client creates twice under one key is created once.

SOURCE: draft-ietf-httpapi-idempotency-key-header-07. What is kept is which resource a
key made, never an answer: a replay is rebuilt from the resource (decision 19). Keys
and requests are kept as keyed digests, since either may hold something about a
person.

The functions take a connection: whoever calls them owns the transaction, and claims a
key in the very transaction that creates the resource.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Column, Connection, delete, select
from sqlmodel import Field, SQLModel

from consent.rows import insert_or_ignore
from schemas.canonical import b64url
from schemas.errors import Complaint, InvalidRequestError, KeyReusedError, Where
from schemas.model import Slug

_MOST_CHARACTERS = 255


class IdempotencyRow(SQLModel, table=True):
    """Which resource a client's key made."""

    __tablename__ = "idempotency"  # type: ignore[mutable-override] # SQLModel's own way

    client: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    """Keyed digest of the key."""
    request: str
    """Keyed digest of method, route and body."""
    resource: str
    """The id of what was made."""
    made_at: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


_ROW = IdempotencyRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table


@dataclass(frozen=True, slots=True)
class RepeatKey:
    """A client's idempotency key and the request that came with it, as digests."""

    client: Slug
    key: str
    request: str


class RepeatKeys:
    """Turns `Idempotency-Key` headers into digests.

    Args:
        master_key: The gateway's master key; a key of its own is derived from it.
    """

    def __init__(self, master_key: bytes) -> None:
        self._key = hmac.digest(master_key, b"idempotency/v1", hashlib.sha256)

    def of(self, client: Slug, header: str, operation: str, body: bytes) -> RepeatKey:
        """Return the digests of one request.

        Args:
            client: Who asks.
            header: The `Idempotency-Key` as it was sent.
            operation: Method and path.
            body: The body's bytes.

        Raises:
            InvalidRequestError: The key is empty, too long or not printable ASCII.
        """
        is_printable = header.isascii() and header.isprintable()
        if not header or len(header) > _MOST_CHARACTERS or not is_printable:
            raise InvalidRequestError(
                Complaint(
                    "Idempotency-Key",
                    "must be 1 to 255 printable characters of ASCII",
                    Where.HEADER,
                )
            )
        request = operation.encode() + b"\n" + body
        return RepeatKey(client, self._digest(header.encode()), self._digest(request))

    def _digest(self, content: bytes) -> str:
        return b64url(hmac.digest(self._key, content, hashlib.sha256)[:16])


def find(connection: Connection, repeat: RepeatKey) -> str | None:
    """Return the resource that this request made before, or None.

    Raises:
        KeyReusedError: The key came with another request.
    """
    row = connection.execute(
        select(_ROW.c.request, _ROW.c.resource).where(
            _ROW.c.client == repeat.client, _ROW.c.key == repeat.key
        )
    ).one_or_none()
    if row is None:
        return None
    if not hmac.compare_digest(row.request, repeat.request):
        raise KeyReusedError("this `Idempotency-Key` was used for another request")
    resource: str = row.resource
    return resource


def claim(
    connection: Connection, repeat: RepeatKey, resource: str, now: datetime
) -> str:
    """Note that this request makes `resource`, in the transaction that makes it.

    Returns:
        `resource`; or the one that the same request made before: then the caller
        makes nothing, and answers with that one.

    Raises:
        KeyReusedError: The key came with another request.
    """
    noted = {
        "client": repeat.client,
        "key": repeat.key,
        "request": repeat.request,
        "resource": resource,
        "made_at": _ms(now),
    }
    # First the note, then the look: of two replicas that claim at once one waits here.
    if insert_or_ignore(connection, _ROW, noted):
        return resource
    return find(connection, repeat) or resource


def forget_before(connection: Connection, instant: datetime) -> int:
    """Forget the keys noted before an instant; return how many."""
    gone = delete(_ROW).where(_ROW.c.made_at < _ms(instant))
    return connection.execute(gone).rowcount


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
