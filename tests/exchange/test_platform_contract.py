"""The whole OpenAPI document, tried against the running API by machine.

For each operation schemathesis makes requests that fit the contract and requests that
don't, and holds every answer to it: a documented status, media type and schema, never
a fault of ours, and nothing wrong accepted. Planted values come back nowhere.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    positive_data_acceptance,
    unsupported_method,
)

from exchange.app import build_app
from exchange.settings import parse_settings
from tests.harness.application import (
    AUDITOR,
    CITIZEN,
    OPERATOR,
    PORTAL,
    Site,
    a_site,
)

_CLIENTS = {
    "portal": PORTAL,
    "citizen": CITIZEN,
    "auditor": AUDITOR,
    "operator": OPERATOR,
}
# What is sent is made when the test runs: every worker collects, and one of them runs.
operations = schemathesis.pytest.from_fixture("contract")


@pytest.fixture(scope="module")
def contract() -> schemathesis.BaseSchema:
    """Return the document of the API."""
    app = build_app(parse_settings("", {}, Path(__file__).parent))
    return schemathesis.openapi.from_dict(app.openapi())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the application for all operations."""
    with a_site(tmp_path_factory.mktemp("contract")) as running:
        yield running


@pytest.fixture(autouse=True)
def named(request: pytest.FixtureRequest) -> None:
    """Keep the test's id where schemathesis looks for it, which pytest 9.2 does not."""
    request.node._nodeid = request.node.nodeid


# Schemathesis draws from `random` inside its own strategies.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@operations.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_keeps_to_the_contract(
    case: schemathesis.Case[Any], site: Site
) -> None:
    """Whatever is sent, the answer is one that the document allows."""
    headers = site.client(_client_of(case)).headers
    case.call_and_validate(
        base_url=site.url,
        headers={"authorization": headers["authorization"]},
        excluded_checks=_excluded(case),
    )


def _excluded(case: schemathesis.Case[Any]) -> list[Any]:
    """Return the checks that cannot hold for an operation."""
    # What fits the schema may still name an id without its check digit, or a question
    # that the matter does not have.
    excluded: list[Any] = [positive_data_acceptance]
    if case.path.endswith("/search"):
        # Read with another method, `search` is taken for the id of a consent.
        excluded.append(unsupported_method)
    return excluded


def _client_of(case: schemathesis.Case[Any]) -> str:
    """Return a client whose token the operation takes."""
    security: Any = case.operation.definition.raw.get("security", [])
    scopes = [scope for one in security for scope in one["oauth2"]]
    return _CLIENTS[scopes[0]] if scopes else PORTAL
