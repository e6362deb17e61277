"""A gateway that stores a case, and is killed while the server commits it.

python -m tests.exchange.opening_child TABLES_URL VAULT_URL
"""

import asyncio
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import partial

from exchange import cases
from exchange.case import CaseHead, CaseStatus
from exchange.database import Database
from exchange.vault import Vault
from schemas.clock import SystemClock
from schemas.ids import CaseId, KeyId, new_ids

CASE = CaseHead(
    id=CaseId("case-1"),
    requester="portal",
    matter="newborn@1",
    purpose="newborn_registration",
    status=CaseStatus.OPEN,
    opened_at=datetime(2026, 1, 8, 12, tzinfo=UTC),
)


def a_vault(keys: Database) -> Vault:
    """Return the vault of the gateway, in this life of it."""
    return Vault(keys, bytes(32), "place-1", new_ids(SystemClock()))


async def nobody(_keys: Sequence[KeyId]) -> Collection[KeyId]:
    """Return that no case names a key."""
    return ()


async def store(tables_url: str, vault_url: str) -> None:
    """Print the key of a case, and store it."""
    with Database(tables_url) as tables, Database(vault_url) as keys:
        vault = a_vault(keys)
        await vault.start(nobody)
        key = await vault.new_key(CASE.id)
        sys.stdout.write(f"{key.id}\n")
        sys.stdout.flush()
        await tables.write(
            partial(cases.insert_case, head=CASE, key=key.id, content=b"")
        )


if __name__ == "__main__":
    asyncio.run(store(*sys.argv[1:]))
