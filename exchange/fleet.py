"""This gateway among those that share its tables: it lives, and hears suspensions.

Where the tables are on PostgreSQL (`Settings.in_fleet`) it is a `Replica`, of which
there may be any number; what the rows mean, and why nothing slips through, stands in
`consent.replicas`. A gateway with files of its own has no others to hear of; that
nothing rests on a thing any more (`drained`) is waited for in the same way.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from consent import replicas, uses
from consent.in_flight import InFlight
from consent.rules import Target
from exchange.database import Connection, Database
from schemas.clock import Clock
from schemas.entropy import random_bytes
from schemas.errors import SettingsError, StateConflictError, StoreUnavailableError
from schemas.ids import ConsentId, MandateId

LEASE = timedelta(seconds=10)
"""How long a gateway counts as running after it was last heard of."""
_RENEWALS = 4
"""How often a lease is renewed before it would end."""
_POLL_S = 0.02
"""How often uses that another process took are looked at, in seconds."""
_LOOK_S = 0.5
"""How often it is looked for suspensions that other gateways made."""

_log = structlog.get_logger(__name__)


class Replica:
    """One gateway of a fleet, from `start` to `stop`.

    Args:
        database: The tables that are shared.
        in_flight: This gateway's look-ups; nothing is under way yet.
        name: The executor id, nobody else's.
        place: The id of the data folder (`place_of`), which this process holds.
        clock: Its monotonic time counts the lease.
        lease: How long silence is taken for life.
    """

    def __init__(
        self,
        database: Database,
        in_flight: InFlight,
        name: str,
        place: str,
        clock: Clock,
        *,
        lease: timedelta = LEASE,
    ) -> None:
        self._database = database
        self._in_flight = in_flight
        self._name = name
        self._place = place
        self._clock = clock
        self._lease = lease
        self._renewed = 0.0
        self._heard = 0
        self._told = 0
        self._living: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the others, before the first look-up.

        Raises:
            SettingsError: Another gateway of this name runs.
            StoreUnavailableError: The tables can't be reached.
        """
        begun = self._clock.monotonic()
        join = partial(
            replicas.join, name=self._name, place=self._place, lease=self._lease
        )
        try:
            heard = await self._database.write(join)
        except StateConflictError as error:
            raise SettingsError(
                f"another gateway is named `{self._name}` in this database: set "
                "`executor_id` to a name of its own"
            ) from error
        await self._in_flight.hear(heard.suspended)
        self._heard = self._told = heard.changes
        self._counts_from(begun)
        self._living = asyncio.create_task(self._live(), name="replica")

    async def stop(self) -> None:
        """Leave the others: nothing is sent from here on."""
        self._in_flight.current_until = 0.0
        if self._living is not None:
            self._living.cancel()
            with suppress(asyncio.CancelledError):
                await self._living
        leave = partial(replicas.leave, name=self._name, place=self._place)
        with suppress(StoreUnavailableError):  # the lease ends by itself
            await self._database.write(leave)

    async def look(self) -> None:
        """Hear what is suspended, and renew the lease where it is time.

        (1) Hear: deny what is taken from now on, and wait for what is under way.
        (2) Say so, and renew the lease.

        Raises:
            StoreUnavailableError: The tables can't be reached.
        """
        heard = await self._database.read(replicas.read)
        if heard.changes > self._heard:  # (1)
            hearing = asyncio.ensure_future(self._in_flight.hear(heard.suspended))
            try:
                while not hearing.done():
                    await asyncio.wait({hearing}, timeout=self._pause())
                    await self._renew()
            finally:
                hearing.cancel()  # nothing once it is done
            self._heard = heard.changes
        await self._renew()  # (2)

    def _pause(self) -> float:
        return min(_LOOK_S, self._lease.total_seconds() / _RENEWALS)

    async def _live(self) -> None:
        """Look again and again until cancelled; a failure costs a round, no more."""
        while True:
            await asyncio.sleep(self._pause())
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the next round tries again
                _log.warning("replica_failed", error=type(error).__name__)

    async def _renew(self) -> None:
        """Renew the lease when it is time, or when there is something to say."""
        begun = self._clock.monotonic()
        is_time = begun - self._renewed > self._lease.total_seconds() / _RENEWALS
        if not is_time and self._told == self._heard:
            return
        heard = self._heard
        renew = partial(
            replicas.renew,
            name=self._name,
            place=self._place,
            heard=heard,
            lease=self._lease,
        )
        if not await self._database.write(renew):
            # Another gateway took the name over when this one was silent for long.
            self._in_flight.current_until = 0.0
            raise StateConflictError("another gateway took this one's name")
        self._told = heard
        self._counts_from(begun)

    def _counts_from(self, begun: float) -> None:
        """Count the lease from before it was asked for: never longer than others do."""
        self._renewed = begun
        self._in_flight.current_until = begun + self._lease.total_seconds()


async def drained(
    thing: Target | ConsentId | MandateId,
    in_flight: InFlight,
    database: Database,
    clock: Clock,
) -> None:
    """Wait until no look-up that is under way, in any gateway, rests on a thing.

    Uses of consents and mandates stand in rows. For look-ups under a duty each gateway
    has a register of its own, and says when it has heard of a suspension.
    """
    await in_flight.drained(thing)

    def is_open(connection: Connection) -> bool:
        open_ones = uses.open_uses(connection, thing, clock.now())
        return bool(open_ones) or replicas.behind(connection)

    while await database.read(is_open):  # noqa: ASYNC110 - rows of any process
        await asyncio.sleep(_POLL_S)


def place_of(data_dir: Path) -> str:
    """Return the id of a data folder, which is made once; its holder calls this.

    A copy of the folder is another place: its files have numbers of their own.
    """
    file = data_dir / "place"
    if not file.exists():
        new = file.with_suffix(".new")
        new.write_text(random_bytes(16).hex(), encoding="ascii")
        new.replace(file)  # at once, or not at all
    return f"{file.read_text(encoding='ascii')}-{file.stat().st_ino:x}"
