"""Acts of operators and of cases, and a gateway that is killed at each step of them."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from audit.keys import LogKeys, make_keys, save_keys
from consent import uses
from consent.artefact import ConsentState
from consent.mandates import MandateState
from exchange.migrations.schema import Part
from tests.exchange.acting_child import (
    BEFORE_RECORDED,
    BEFORE_STORED,
    BEFORE_STRUCK,
    RESUMED,
    SUSPENDED,
)
from tests.exchange.newborn import FATHER, MOTHER, NOW, Office, an_office, permissions
from tests.exchange.test_owed_records import catch_up
from tests.harness.postgres import Databases, Files, migrated

pytestmark = pytest.mark.anyio
CHILD = Path(__file__).with_name("acting_child.py")
ROOT = Path(__file__).parents[2]
SERVICES = {step: f"service:{name}" for step, name in SUSPENDED.items()}
PROVIDERS = {step: f"provider:{name}" for step, name in RESUMED.items()}


def told(office: Office, things: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the outcomes of the records of each thing, in the log's order."""
    leaves = office.leaves()
    return {
        name: [x["outcome"] for x in leaves if x["corr"] == thing]
        for name, thing in things.items()
    }


@dataclass(frozen=True, slots=True)
class Place:
    """Where gateways have acted, one after the other, each killed at a step."""

    folder: Path
    tables: str
    vault: str
    keys: LogKeys


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, files: Files, databases: Databases
) -> Iterator[Mapping[str, Place]]:
    """Have gateways act and be killed, on each engine."""
    parts = {part.value: partial(migrated, part) for part in (Part.TABLES, Part.VAULT)}
    found: dict[str, Place] = {}
    args: list[str] = []
    with ExitStack() as stack:
        for engine in ("sqlite", "postgresql"):
            folder, keys = tmp_path_factory.mktemp(engine), make_keys("errand.test/log")
            save_keys(keys, folder / "keys")
            tables, vault = [
                files.copy_of(name, prepare, folder)
                if engine == "sqlite"
                else stack.enter_context(databases.lend(name, prepare))
                for name, prepare in parts.items()
            ]
            found[engine] = Place(folder, tables, vault, keys)
            args += [str(folder), tables, vault]
        subprocess.run(
            [sys.executable, CHILD, *args],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
        yield found


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_a_kill_at_any_step_of_an_act_leaves_both_act_and_record_or_neither(
    places: Mapping[str, Place], engine: str
) -> None:
    """What is suspended holds at once, what is resumed when that stands in the log.

    Whoever a case asks is recorded as asked, once, also where the case got no further;
    a mandate that was given holds once that is recorded.
    """
    place = places[engine]
    async with an_office(place.folder, place.tables, place.vault, place.keys) as office:
        before = await office.database.read(uses.suspended)
        await office.in_flight.hear(before)
        asked = await permissions(office).of_person(FATHER)
        given = await office.resolver.mandates.of_person(MOTHER)
        things = (
            SERVICES,
            PROVIDERS,
            {str(one.id): one.id for one in asked},
            {str(one.id): one.id for one in given},
        )
        unsaid = [told(office, each) for each in things]
        caught = [await catch_up(office), await catch_up(office)]
        said = [told(office, each) for each in things]
        after = await office.database.read(uses.suspended)
        heard = office.in_flight.suspended
        held = await office.resolver.mandates.of_person(MOTHER)

    assert [8, 0] == caught
    assert after == heard
    stopped = {SERVICES[BEFORE_RECORDED], SERVICES[BEFORE_STRUCK]}
    assert stopped.union(PROVIDERS.values()) == before
    assert stopped.union((PROVIDERS[BEFORE_STORED],)) == after
    assert [[], [], ["suspended"]] == list(unsaid[0].values())
    assert [[], ["suspended"], ["suspended"]] == list(said[0].values())
    once, ended = ["suspended"], ["suspended", "resumed"]
    assert [once, once, ended] == list(unsaid[1].values())
    assert [once, ended, ended] == list(said[1].values())
    assert [ConsentState.ASKED] * 2 == [one.state for one in asked]
    for place_of, outcome in ((2, "asked"), (3, "mandate_given")):
        assert [[], [outcome]] == sorted(unsaid[place_of].values())
        assert [[outcome]] * 2 == list(said[place_of].values())
    states = [one.state_at(NOW) for one in (*given, *held)]
    assert [MandateState.GIVING] * 2 + [MandateState.VALID] * 2 == states
