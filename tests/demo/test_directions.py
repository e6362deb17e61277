"""What `make serve` says: every address, key and family; and what it runs with."""

import io
from pathlib import Path

import orjson
import pytest
import yaml
from rich.console import Console

from exchange.demo.building import Fleet, build, port_count
from exchange.demo.directions import FAMILIES, tell
from exchange.demo.people import Population
from exchange.demo.population import generate
from exchange.demo.stage import SCOPES, Stage
from exchange.settings import Settings, read_settings
from schemas.clock import SystemClock

DEFAULT_WAITS = Settings.model_fields["retry_s"].default


def a_stage(folder: Path, *, watched: bool) -> Stage:
    """Write down a stage, and start nothing."""
    return build(
        *(folder, SystemClock().now()),
        delay_ms=1,
        seed=7,
        witnessed=True,
        watched=watched,
    )


@pytest.fixture(scope="module")
def population() -> Population:
    """Return a small town."""
    return generate(7, 100)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Return a stage as `make serve` has it."""
    return a_stage(tmp_path_factory.mktemp("stage"), watched=False)


def told(stage: Stage, population: Population) -> str:
    """Return what is said."""
    written = io.StringIO()
    tell(stage, population, Console(file=written, width=80))
    return written.getvalue()


def test_every_address_is_said(stage: Stage, population: Population) -> None:
    """The gateway, seven departments, and the witness."""
    said = told(stage, population)

    assert f"gateway       {stage.gateway_url}\n" in said
    for provider, place in stage.places.items():
        assert f"{provider:13} {place.url}" in said
    assert stage.witness is not None
    assert f"witness       {stage.witness.url}" in said


@pytest.mark.parametrize(
    "fleet", [None, Fleet("postgresql://a/errand", "postgresql://a/vault", 3)]
)
@pytest.mark.parametrize("witnessed", [False, True])
def test_a_stage_takes_as_many_ports_in_a_row_as_it_says(
    tmp_path: Path, fleet: Fleet | None, *, witnessed: bool
) -> None:
    """Gateways, departments, and the witness if there is one: none is left over."""
    stage = build(
        *(tmp_path, SystemClock().now()),
        delay_ms=1,
        seed=7,
        port=9_100,
        fleet=fleet,
        witnessed=witnessed,
    )
    departments = [place.url for place in stage.places.values()]
    urls = [*stage.gateways, *departments]
    urls += [stage.witness.url] if stage.witness else []
    count = port_count(len(stage.gateways), witnessed=witnessed)

    assert [f"http://127.0.0.1:{9_100 + n}" for n in range(count)] == urls


def test_every_client_is_said_with_its_scope_and_key(
    stage: Stage, population: Population
) -> None:
    """Whoever wants to play an operator finds the key that does."""
    lines = told(stage, population).splitlines()
    packs = yaml.safe_load((stage.folder / "packs" / "deployment.yaml").read_text())

    assert {"portal", "citizen", "auditor", "operator"} == {
        scope.partition(":")[0] for scope in SCOPES.values()
    }
    for client, scope in SCOPES.items():
        assert stage.client_key_file(client).is_file()
        assert client in packs["requesters"]
        assert any(
            {client, scope, str(stage.client_key_file(client))} <= set(line.split())
            for line in lines
        )


def test_every_family_is_said_and_written_down(
    stage: Stage, population: Population
) -> None:
    """Their cases can be opened by whoever reads it."""
    said = told(stage, population)
    written = orjson.loads((stage.folder / FAMILIES).read_bytes())

    assert set(written) == {"served", *population.families}
    for name, family in population.families.items():
        assert f"mother {family.mother.name} {family.mother.id}" in said
        assert written[name]["mother"]["id"] == family.mother.id
        assert written[name]["born_on"] == family.born_on.isoformat()
    assert written["unmarried"]["father"] is None


def test_what_is_served_waits_as_the_product_does(stage: Stage) -> None:
    """An open case that nobody goes on with doesn't fill the log."""
    assert read_settings(stage.settings_file, {}).retry_s == DEFAULT_WAITS


def test_what_is_watched_is_tried_again_soon_and_then_less_and_less(
    tmp_path: Path,
) -> None:
    """A demo is not held up, and its open case does not fill the log either."""
    waits = read_settings(a_stage(tmp_path, watched=True).settings_file, {}).retry_s

    assert waits[0] < 1
    assert list(waits) == sorted(waits)
    assert waits[-1] >= 60
