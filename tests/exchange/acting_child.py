"""Gateways that act one after the other, each killed at a step (`kill -9`).

python -m tests.exchange.acting_child FOLDER TABLES_URL VAULT_URL ...
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TypeAlias

from audit.keys import load_keys
from audit.record import Event
from audit.store import Appended
from audit.writer import AuditLog
from consent.rules import Suspendable
from exchange.owed_records import OwedRecords
from tests.exchange.newborn import (
    Office,
    an_office,
    permissions,
    settle_in,
    the_pack,
)
from tests.exchange.test_mandates import give as give_mandate

Act: TypeAlias = Callable[[Office, str], Awaitable[None]]
"""Acts in an office, and is killed at a step."""
BEFORE_STORED = "before it is stored"
BEFORE_RECORDED = "before it is recorded"
BEFORE_STRUCK = "before it is struck out"
STEPS = (BEFORE_STORED, BEFORE_RECORDED, BEFORE_STRUCK)
SUSPENDED = {
    BEFORE_STORED: "sw_premium",
    BEFORE_RECORDED: "rs_social_card",
    BEFORE_STRUCK: "yb_enrolment",
}
"""By step the service whose suspension is cut off there."""
RESUMED = {BEFORE_STORED: "sw", BEFORE_RECORDED: "rs", BEFORE_STRUCK: "jk"}
"""By step the provider whose suspension's end is cut off there."""


def kill(*_: object) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed(step: str, outcome: str) -> None:
    """Have this process killed when it comes to a step of an act."""
    if step == BEFORE_STORED:
        OwedRecords.note = kill  # type: ignore[assignment,method-assign] # it ends here
    elif step == BEFORE_STRUCK:
        OwedRecords.strike_out = kill  # type: ignore[assignment,method-assign] # as above
    else:
        append = AuditLog.append

        async def ending(log: AuditLog, events: Sequence[Event]) -> list[Appended]:
            if any(event.outcome == outcome for event in events):
                kill()
            return await append(log, events)

        AuditLog.append = ending  # type: ignore[assignment,method-assign] # as above


async def suspend(office: Office, step: str) -> None:
    """Suspend a service."""
    be_killed(step, "suspended")
    service = SUSPENDED[step]
    await permissions(office).suspend(Suspendable.SERVICE, service, "r", "operator")


async def resume(office: Office, step: str) -> None:
    """End the suspension of a provider."""
    kind, provider = Suspendable.PROVIDER, RESUMED[step]
    await permissions(office).suspend(kind, provider, "r", "operator")
    be_killed(step, "resumed")
    await permissions(office).resume(kind, provider, "operator")


async def give(office: Office, step: str) -> None:
    """Give a mandate."""
    be_killed(step, "mandate_given")
    await give_mandate(office)


async def ask(office: Office, step: str) -> None:
    """Open a case that asks the father."""
    be_killed(step, "asked")
    await office.open()


ACTS: Sequence[Act] = (ask, suspend, resume, give)


async def act(place: Sequence[str], does: Act, at: str) -> None:
    """Act as a gateway of its own."""
    folder, tables, vault = Path(place[0]), *place[1:]
    async with an_office(folder, tables, vault, load_keys(folder / "keys")) as office:
        settle_in(office.departments)
        await does(office, at)


def run(places: Sequence[Sequence[str]]) -> None:
    """Have each act cut off at each step, by a process of its own, at each place."""
    the_pack()
    for place, does, at in product(places, ACTS, STEPS):
        child = os.fork()
        if not child:
            asyncio.run(act(place, does, at))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"not killed: {does.__name__} {at}")


if __name__ == "__main__":
    run([sys.argv[at : at + 3] for at in range(1, len(sys.argv), 3)])
