"""Where the keys of cases live, and what they lock.

Each case has its own key. Everything that a case knows about people, and every
evidence it holds, is sealed under that key; closing the case destroys it.

Keys are made some dozens ahead and stored in one commit, so that opening a case takes
one from memory and waits for no disk. A key has an id of its own, which its case names.

INVARIANT (rule 7, no warehouse): case keys live in a file of their own, with
`secure_delete`, and a truncating checkpoint follows each destruction, so that no
copy is left in the file or in its journal.
"""

import asyncio
import hashlib
import hmac
import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, insert, select
from sqlmodel import Field, SQLModel

from audit.keys import wrong_key
from exchange.connecting import truncate_journal
from exchange.database import Database
from exchange.statements import Rows, Values
from schemas.canonical import b64url
from schemas.entropy import random_bytes
from schemas.errors import NotFoundError, StoreUnavailableError, VerificationError
from schemas.ids import CaseId, EventId, KeyId, NewId

Used = Callable[[Sequence[KeyId]], Awaitable[Collection[KeyId]]]
"""Returns those of some keys that cases name, or raises StoreUnavailableError.

INVARIANT: a case that is being stored when it is asked is among them once it is stored.
"""

_NONCE_BYTES = 12
_KEY_BYTES = 32
_MOST_OPEN = 2048
"""How many keys are used before the others are dropped: there may be twice as many."""
_BATCH = 64
"""How many keys are made ahead in one commit."""
_LOOKED_AT = 3
"""Stored keys by which it is seen whether the master key is theirs."""
_FEW = 32
"""With so many left, more are made: before anybody has to wait for them."""

_log = structlog.get_logger(__name__)


class CaseKeyRow(SQLModel, table=True):
    """One case's key, wrapped under the master key."""

    __tablename__ = "case_key"  # type: ignore[mutable-override] # SQLModel's own way

    id: str = Field(primary_key=True)
    wrapped: bytes


class KeyBatchRow(SQLModel, table=True):
    """Keys that were made together: some of them may have no case yet.

    A gateway has the rows of its last two batches, and removes the keys that no case
    names when it starts again.
    """

    __tablename__ = "key_batch"  # type: ignore[mutable-override] # as above

    id: str = Field(primary_key=True)
    """How the ids of its keys begin (`_ids_of`)."""
    holder: str
    """The gateway that made them, by the place of its own files and its name."""
    size: int


_KEY = CaseKeyRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table
_BATCHES = KeyBatchRow.__table__  # type: ignore[attr-defined] # as above
_KEYS = Rows(_KEY)


class CaseKey:
    """The key of one case: seals and opens what the case holds."""

    def __init__(self, key_id: KeyId, case: CaseId, raw: bytes) -> None:
        self.id = key_id
        self.raw = raw
        self._case = case
        self._aead = AESGCM(raw)

    def seal(self, purpose: str, plaintext: bytes) -> bytes:
        """Return nonce and ciphertext (AES-256-GCM), bound to case and purpose."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, self._label(purpose))

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """Return what `seal` was given.

        Raises:
            VerificationError: The bytes were changed, or belong elsewhere.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, ciphertext, self._label(purpose))
        except (InvalidTag, ValueError) as e:  # changed, or cut short
            raise VerificationError("sealed content of a case was changed") from e

    def _label(self, purpose: str) -> bytes:
        return f"{self._case}/{purpose}".encode()


class Vault:
    """Makes, keeps and destroys the keys of cases; turns people into references.

    Args:
        database: The database of the key file alone.
        master_key: 32 bytes, by reference from a file of its own.
        holder: Where this gateway keeps its own files (`exchange.fleet.place_of`),
            and its executor id: nobody else holds both while it runs.
        new_id: Names batches of keys.
    """

    def __init__(
        self, database: Database, master_key: bytes, holder: str, new_id: NewId
    ) -> None:
        self._database = database
        self._holder = holder
        self._new_id = new_id
        self._master = AESGCM(master_key)
        self._person_key = hmac.digest(master_key, b"person-ref/v1", hashlib.sha256)
        owed_key = hmac.digest(master_key, b"owed-record/v1", hashlib.sha256)
        self._owed = AESGCM(owed_key)
        self._open: dict[KeyId, CaseKey] = {}
        """Keys that were used since the last `rest`."""
        self._resting: dict[KeyId, CaseKey] = {}
        """Keys that were used before it, and not since."""
        self._ahead: deque[tuple[KeyId, bytes]] = deque()
        """Keys that are stored, and that no case was given yet."""
        self._batches: deque[str] = deque()
        self._making: asyncio.Task[None] | None = None

    def person_ref(self, kind: str, identifier: str) -> str:
        """Return the stable reference of a person or an organisation.

        Args:
            kind: The namespace, `person` or `organisation`.
            identifier: The id as the register writes it; case and blanks at the
                ends do not count.

        Returns:
            16 bytes of HMAC-SHA256 as base64url: without the key it tells nothing.
        """
        message = f"{kind}\n{identifier.strip().upper()}".encode()
        return b64url(hmac.digest(self._person_key, message, hashlib.sha256)[:16])

    def check(self) -> None:
        """Tell whether keys can be read and written.

        Raises:
            StoreUnavailableError: They can't.
        """
        self._database.check()

    def seal_owed(self, event: EventId, plaintext: bytes) -> bytes:
        """Return a record that the log is owed, sealed: every gateway can open it."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._owed.encrypt(nonce, plaintext, event.encode())

    def open_owed(self, event: EventId, sealed: bytes) -> bytes:
        """Return what `seal_owed` was given.

        Raises:
            VerificationError: The bytes were changed, or belong to another record.
        """
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._owed.decrypt(nonce, ciphertext, event.encode())
        except (InvalidTag, ValueError) as e:  # changed, or cut short
            raise VerificationError("a record that is owed was changed") from e

    async def start(self, used: Used) -> None:
        """Remove the keys that were made ahead in an earlier life, and make some.

        Where it can't be seen which of them cases name, all are left to the next start:
        they lock nothing.

        Raises:
            SettingsError: They are locked with another master key.
            StoreUnavailableError: The keys can't be reached.
        """
        await self._check_master_key()
        # Nobody else has this gateway's place and name: nobody takes one of them now.
        batches = await self._database.read(lambda c: _batches_of(c, self._holder))
        keys = [key for batch, size in batches for key in _ids_of(batch, size)]
        try:
            unused = set(keys).difference(await used(keys) if keys else ())
        except StoreUnavailableError:
            _log.warning("unused_keys_left", keys=len(keys))
        else:
            left = [batch for batch, _ in batches]
            await self._database.write(lambda c: _forget(c, sorted(unused), left))
            await self._database.maintain(truncate_journal)
        await self._make_keys()

    async def _check_master_key(self) -> None:
        """Open one of a few stored keys: one may be damaged, and not all of them."""
        # INVARIANT: no key is made under a master key that can't open what is there.
        query = select(_KEY.c.id, _KEY.c.wrapped).limit(_LOOKED_AT)
        rows = await self._database.read(lambda c: c.execute(query).all())
        if rows and not any(self._unwrap(*row) for row in rows):
            raise wrong_key("master.key", "the keys of cases are not locked")

    async def new_key(self, case: CaseId) -> CaseKey:
        """Return the key of a new case: it is stored already.

        Raises:
            StoreUnavailableError: There is none left, and the store can't be written.
        """
        while len(self._ahead) <= _FEW:
            self._making = self._begun_making()
            if self._ahead:
                break
            await asyncio.shield(self._making)
        key_id, raw = self._ahead.popleft()
        return self._remember(CaseKey(key_id, case, raw))

    def give_back(self, key: CaseKey) -> None:
        """Take back the key of a case that came to nothing: another case gets it.

        Nothing that was sealed under it may have been stored.
        """
        self.forget(key.id)
        self._ahead.appendleft((key.id, key.raw))

    def key(self, key_id: KeyId, case: CaseId) -> CaseKey:
        """Return the key of an open case, which names it.

        Raises:
            NotFoundError: The case was closed.
            VerificationError: What is stored of it was changed.
        """
        if (key := self._open.get(key_id)) is not None:
            return key
        if (key := self._resting.pop(key_id, None)) is not None:
            return self._remember(key)
        wrapped = self._database.read_now(lambda c: _find_wrapped(c, key_id))
        if wrapped is None:
            raise NotFoundError("the key of this case was destroyed")
        raw = self._unwrap(key_id, wrapped)
        if raw is None:
            raise VerificationError("the key of a case was changed")
        return self._remember(CaseKey(key_id, case, raw))

    async def destroy_key(self, key_id: KeyId) -> None:
        """Destroy the key of a case: nothing it sealed can be read again."""
        self.forget(key_id)
        await self._database.write(lambda c: _forget(c, [key_id], []))
        self.forget(key_id)  # somebody may have read it until then
        await self._database.maintain(truncate_journal)

    def forget(self, key_id: KeyId) -> None:
        """Drop a key from memory: its case was closed, here or by another gateway."""
        self._open.pop(key_id, None)
        self._resting.pop(key_id, None)

    def rest(self) -> None:
        """Drop from memory what was not used since this was called last.

        INVARIANT: of a case that another gateway has closed, no key stays in memory
        for longer than between two calls after its last use here.
        """
        self._resting, self._open = self._open, {}

    def _remember(self, key: CaseKey) -> CaseKey:
        if len(self._open) >= _MOST_OPEN:
            self.rest()
        self._open[key.id] = key
        return key

    def _begun_making(self) -> asyncio.Task[None]:
        """Return the making of keys that is under way; begin it where none is."""
        if self._making is not None and not self._making.done():
            return self._making
        making = asyncio.create_task(self._make_keys(), name="case-keys")
        making.add_done_callback(_note_failure)
        return making

    async def _make_keys(self) -> None:
        """Make keys and store them, in one commit."""
        batch, raw = self._new_id(), os.urandom(_BATCH * _KEY_BYTES)
        keys = {
            key_id: raw[at * _KEY_BYTES : (at + 1) * _KEY_BYTES]
            for at, key_id in enumerate(_ids_of(batch, _BATCH))
        }
        # A batch before the last one has no key left that no case was given, but for
        # those of cases that came to nothing: they lock nothing, and stay.
        over = list(self._batches)[:-1]
        row: Values = {"id": batch, "holder": self._holder, "size": _BATCH}

        def store(connection: Connection) -> None:
            rows: list[Values] = [
                {"id": key_id, "wrapped": self._wrapped(key_id, key)}
                for key_id, key in keys.items()
            ]
            _forget(connection, [], over)
            connection.execute(insert(_BATCHES), row)
            _KEYS.insert(connection, rows)

        await self._database.write(store)
        self._batches = deque([*self._batches, batch], maxlen=2)
        self._ahead.extend(keys.items())

    def _unwrap(self, key_id: str, wrapped: bytes) -> bytes | None:
        """Return a stored key; None where it was changed, or locked with another."""
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return self._master.decrypt(nonce, ciphertext, key_id.encode())
        except (InvalidTag, ValueError):  # changed, or cut short
            return None

    def _wrapped(self, key_id: KeyId, raw: bytes) -> bytes:
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._master.encrypt(nonce, raw, key_id.encode())


def _note_failure(making: asyncio.Task[None]) -> None:
    """Say that keys could not be made; who waits for one hears it as well."""
    error = None if making.cancelled() else making.exception()
    if error is not None:
        _log.warning("keys_not_made", error=type(error).__name__)


def _ids_of(batch: str, size: int) -> list[KeyId]:
    return [KeyId(f"{batch}.{number}") for number in range(size)]


def _batches_of(connection: Connection, holder: str) -> list[tuple[str, int]]:
    query = select(_BATCHES.c.id, _BATCHES.c.size).where(_BATCHES.c.holder == holder)
    return [(row.id, row.size) for row in connection.execute(query)]


def _forget(
    connection: Connection, keys: Sequence[KeyId], batches: Sequence[str]
) -> None:
    """Delete keys, and the rows of batches."""
    if keys:
        connection.execute(delete(_KEY).where(_KEY.c.id.in_(keys)))
    if batches:
        connection.execute(delete(_BATCHES).where(_BATCHES.c.id.in_(batches)))


def _find_wrapped(connection: Connection, key_id: KeyId) -> bytes | None:
    found: bytes | None = connection.scalar(
        select(_KEY.c.wrapped).where(_KEY.c.id == key_id)
    )
    return found
