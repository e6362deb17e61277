"""A gateway that takes up waiting work and never ends it; run by `test_waiting`.

python -m tests.exchange.waiting_child DATABASE_URL ENGINE_URL GATEWAY
"""

import asyncio
import sys

from exchange.database import Database
from schemas.ids import CaseId
from tests.fakes.waiting import Desk, a_waiting


async def hold(database_url: str, engine_url: str, gateway: str) -> None:
    """Make attempts that say which case they hold, and go on for ever."""

    async def work(case: CaseId) -> None:
        sys.stdout.write(f"{case}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    with Database(database_url) as database:
        await a_waiting(Desk(database, gateway, work), engine_url).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(*sys.argv[1:]))
