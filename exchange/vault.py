"""Where the keys of cases live, and what they lock.

Each case has its own key. Everything that a case knows about people, and every
evidence it holds, is sealed under that key; closing the case destroys it.

INVARIANT (rule 7, no warehouse): case keys live in a file of their own, with
`secure_delete`, and a truncating checkpoint follows each destruction, so that no
copy is left in the file or in its journal.
"""

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, Connection, delete, insert, select
from sqlmodel import Field, SQLModel

from exchange.connecting import truncate_journal
from exchange.database import Database
from schemas.canonical import b64url
from schemas.entropy import random_bytes
from schemas.errors import NotFoundError, VerificationError
from schemas.ids import CaseId

_NONCE_BYTES = 12
_KEY_BYTES = 32
_KEYS_IN_MEMORY = 4096


class CaseKeyRow(SQLModel, table=True):
    """One case's key, wrapped under the master key."""

    __tablename__ = "case_key"  # type: ignore[mutable-override] # SQLModel's own way

    case_id: str = Field(primary_key=True)
    wrapped: bytes


_KEY = CaseKeyRow.__table__  # type: ignore[attr-defined] # SQLModel hides the table
_INSERT_KEY = insert(_KEY)


class CaseKey:
    """The key of one case: seals and opens what the case holds."""

    def __init__(self, case: CaseId, raw: bytes) -> None:
        self.case = case
        self._raw = raw
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
        except InvalidTag as e:
            raise VerificationError("sealed content of a case was changed") from e

    def wrapped_under(self, master: AESGCM) -> bytes:
        """Return the key itself, sealed under the master key."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + master.encrypt(nonce, self._raw, self.case.encode())

    def _label(self, purpose: str) -> bytes:
        return f"{self.case}/{purpose}".encode()


class Vault:
    """Makes, keeps and destroys the keys of cases; turns people into references.

    Args:
        database: The database of the key file alone.
        master_key: 32 bytes, by reference from a file of its own.
    """

    def __init__(self, database: Database, master_key: bytes) -> None:
        self._database = database
        self._master = AESGCM(master_key)
        self._person_key = hmac.digest(master_key, b"person-ref/v1", hashlib.sha256)
        self._open: OrderedDict[CaseId, CaseKey] = OrderedDict()

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

    def new_key(self, case: CaseId) -> CaseKey:
        """Make the key of a new case, in memory: `keep_key` makes it last."""
        return self._remember(CaseKey(case, os.urandom(_KEY_BYTES)))

    async def keep_key(self, key: CaseKey) -> None:
        """Store the key of a new case; durable when this returns."""
        row = {"case_id": key.case, "wrapped": key.wrapped_under(self._master)}
        await self._database.write(lambda c: _insert(c, row))

    def key(self, case: CaseId) -> CaseKey:
        """Return the key of an open case.

        Raises:
            NotFoundError: The case was closed, or never was.
        """
        if (key := self._open.get(case)) is not None:
            self._open.move_to_end(case)
            return key
        wrapped = self._database.read_now(lambda c: _find_wrapped(c, case))
        if wrapped is None:
            raise NotFoundError("the key of this case was destroyed")
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        raw = self._master.decrypt(nonce, ciphertext, case.encode())
        return self._remember(CaseKey(case, raw))

    async def destroy_key(self, case: CaseId) -> None:
        """Destroy the key of a case: nothing it sealed can be read again."""
        self._open.pop(case, None)
        await self._database.write(lambda c: _delete(c, case))
        await self._database.maintain(truncate_journal)

    def _remember(self, key: CaseKey) -> CaseKey:
        self._open[key.case] = key
        while len(self._open) > _KEYS_IN_MEMORY:
            self._open.popitem(last=False)
        return key


def _delete(connection: Connection, case: CaseId) -> None:
    connection.execute(delete(_KEY).where(_case_is(case)))


def _insert(connection: Connection, row: Mapping[str, object]) -> None:
    connection.execute(_INSERT_KEY, row)


def _case_is(case: CaseId) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = _KEY.c.case_id == case
    return condition


def _find_wrapped(connection: Connection, case: CaseId) -> bytes | None:
    found: bytes | None = connection.scalar(
        select(_KEY.c.wrapped).where(_case_is(case))
    )
    return found
