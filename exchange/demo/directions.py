"""What `make serve` says once everything runs: addresses, keys, families, a first case.

The families are also written to a file of the folder, for programs.
"""

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import orjson
from pydantic import JsonValue
from rich.console import Console

from exchange.demo.people import Family, Person, Population
from exchange.demo.stage import AUDITOR, CITIZEN, OPERATOR, PORTAL, SCOPES, Stage
from exchange.demo.story import ALONE, opening

FAMILIES = "families.json"
_WHO: Mapping[str, str] = {
    PORTAL: "the portal",
    CITIZEN: "the citizen app",
    AUDITOR: "the auditors",
    OPERATOR: "the operators",
}
_SERVED = "served"


def tell(stage: Stage, population: Population, console: Console) -> None:
    """Say where everything is, who lives there, and how to open a case with curl."""
    families = {_SERVED: population.served, **population.families}
    (stage.folder / FAMILIES).write_bytes(
        orjson.dumps(
            {name: _family(one) for name, one in families.items()},
            option=orjson.OPT_INDENT_2,
        )
    )
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    for lines in (_addresses(stage), _clients(stage), _families(stage, families)):
        say()
        for line in lines:
            say(line)
    say("\nOpen a case as the portal does:\n")
    for line in _first_case(stage, population.served):
        say(line)
    say()


def _addresses(stage: Stage) -> Iterator[str]:
    yield f"gateway       {stage.gateway_url}"
    for provider, place in stage.places.items():
        name = stage.pack.providers[provider].name
        yield f"{provider:13} {place.url}  {name.zh} {name.en}"
    if stage.witness is not None:
        yield f"witness       {stage.witness.url}  the audit office's"


def _clients(stage: Stage) -> Iterator[str]:
    """Yield each client of the gateway: its id, what its tokens are for, its key."""
    yield "Clients, with the scope of their tokens and the file of their key:"
    for client, who in _WHO.items():
        key = _short(stage.client_key_file(client))
        yield f"{who:16} {client:15} {SCOPES[client]:28} {key}"


def _families(stage: Stage, families: Mapping[str, Family]) -> Iterator[str]:
    """Yield each family: nobody in it could exist."""
    file = _short(stage.folder / FAMILIES)
    yield f"Families whose cases can be opened, also in {file}:"
    for name, one in families.items():
        father = "" if one.father is None else f", father {_person(one.father)}"
        child = f"child {one.child}, born {one.born_on.isoformat()}"
        yield f"{name:12} mother {_person(one.mother)}{father}, {child}"


def _first_case(stage: Stage, served: Family) -> Iterator[str]:
    """Yield what opens the case of the family whose child has its papers."""
    errand = _short(Path(sys.executable).with_name("errand"))
    key = _short(stage.client_key_file(PORTAL))
    yield (
        f"TOKEN=$({errand} token {SCOPES[PORTAL]} --client {PORTAL} --key-file {key}"
        f" --url {stage.gateway_url})"
    )
    body = orjson.dumps(opening(served, ALONE)).decode()
    yield (
        f'curl {stage.gateway_url}/v1/cases -H "authorization: Bearer $TOKEN"'
        f" -H 'content-type: application/json' -d '{body}'"
    )


def _person(one: Person) -> str:
    return f"{one.name} {one.id}"


def _family(one: Family) -> dict[str, JsonValue]:
    people = {"mother": one.mother, "father": one.father}
    parents: dict[str, JsonValue] = {
        role: None if person is None else {"id": person.id, "name": person.name}
        for role, person in people.items()
    }
    return {**parents, "child": one.child, "born_on": one.born_on.isoformat()}


def _short(path: Path) -> Path:
    """Return a path as it is typed here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
