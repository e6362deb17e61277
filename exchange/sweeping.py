"""What runs beside an open gateway: what has run out is deleted, keys come to rest."""

import asyncio
from datetime import timedelta

import structlog

from consent import uses
from exchange import cases, idempotency
from exchange.api.dependencies import Gateway
from exchange.database import Connection
from exchange.vault import Vault

_log = structlog.get_logger(__name__)

_SWEEP_S = 3_600.0
"""How often what has run out is deleted, in seconds."""
_REST_S = 15.0
"""How long a case's key stays in memory unused, in seconds; at most twice as long."""
_KEEP_USES = timedelta(days=400)
"""How long counts of quotas are kept: longer than any period of a quota, which has
`schemas.model.MOST_PERIOD_DAYS` at most."""


async def rest_keys(vault: Vault) -> None:
    """Drop keys of cases that nobody used for a while from memory, until cancelled."""
    while True:
        await asyncio.sleep(_REST_S)
        vault.rest()


async def sweep(gateway: Gateway) -> None:
    """Delete what has run out, now and every hour, until cancelled."""
    while True:
        try:
            await delete_expired(gateway)
            noted = await gateway.mandates.note_earlier()
            # Last, since it needs the log as well: that may be down for long.
            expired = await gateway.permissions.expire()
            _log.info("swept", consents_expired=expired, mandates_noted=noted)
        except Exception as error:  # noqa: BLE001 - the next round tries again
            _log.warning("sweep_failed", exc_info=error)
        await asyncio.sleep(_SWEEP_S)


async def delete_expired(gateway: Gateway) -> None:
    """Delete rows that nothing needs any more."""
    now = gateway.clock.now()
    keys_before = now - timedelta(seconds=gateway.settings.idempotency_lifetime_s)
    uses_before = now - _KEEP_USES

    def work(connection: Connection) -> None:
        idempotency.forget_before(connection, keys_before)
        uses.purge_uses(connection, uses_before)
        cases.purge_stale_evidence(connection, now)

    await gateway.database.write(work)
