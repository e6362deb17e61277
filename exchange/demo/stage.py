"""The demo's processes: seven departments and a gateway, in one temporary folder.

Everything is on loopback and on free ports. Each department has a folder, a key, a
register and a log of its own; `exchange.demo.building` writes down what joins them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from connectors.jose import SigningKey
from exchange.demo.children import Child
from exchange.demo.departments import Place, write_register
from exchange.demo.people import Population
from exchange.demo.portal import Client
from schemas.clock import SystemClock
from schemas.validation import Pack

WITNESS_POLICY = "witness.policy"

GATEWAY = "gateway_990100"
"""`iss` of the gateway's look-ups."""
PURPOSE = "newborn_registration"
PORTAL = "portal_990100"
CITIZEN = "citizen_app"
AUDITOR = "audit_office"
OPERATOR = "data_bureau"

SCOPES: Mapping[str, str] = {
    PORTAL: f"portal:{PURPOSE}",
    CITIZEN: "citizen",
    AUDITOR: "auditor",
    OPERATOR: "operator",
}
"""What each client asks its tokens for."""

SETTINGS = "errand.yaml"


class WitnessAt(NamedTuple):
    """A witness, and where it answers."""

    url: str
    process: Child


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs, and where."""

    folder: Path
    pack: Pack
    places: Mapping[str, Place]
    """The departments, by provider."""
    clients: Mapping[str, SigningKey]
    """The keys with which the gateway's clients ask for tokens, by client."""
    gateways: Mapping[str, Child]
    """One, or the replicas of a fleet, by address; the first is the public one."""
    departments: Mapping[str, Child] = field(default_factory=dict)
    publisher: Child | None = None
    """Publishes a fleet's log; without a fleet the gateway does."""
    witness: WitnessAt | None = None
    """The audit office's: cosigns the log's heads, where it has to."""

    @property
    def gateway_url(self) -> str:
        """The gateway's public URL."""
        return next(iter(self.gateways))

    @property
    def gateway(self) -> Child:
        """The gateway, or the first of a fleet."""
        return self.gateways[self.gateway_url]

    @property
    def children(self) -> Sequence[Child]:
        """Every process, the gateway first."""
        others = (self.publisher, self.witness and self.witness.process)
        return (
            *self.gateways.values(),
            *self.departments.values(),
            *(child for child in others if child is not None),
        )

    @property
    def data_dir(self) -> Path:
        """The gateway's data folder."""
        return self.folder / "data"

    @property
    def witness_policy(self) -> Path:
        """Who has to cosign the log's heads."""
        return self.folder / WITNESS_POLICY

    @property
    def settings_file(self) -> Path:
        """The settings of the gateway, or of the first of a fleet."""
        return self.folder / SETTINGS

    def client(self, name: str, first: int = 0) -> Client:
        """Return one of the gateway's clients.

        Args:
            name: Which.
            first: Which gateway of a fleet it asks before all others.
        """
        key, scope, urls = self.clients[name], SCOPES[name], list(self.gateways)
        first %= len(urls)
        return Client(
            [*urls[first:], *urls[:first]],
            name,
            key,
            scope,
            SystemClock(),
            audience=self.gateway_url,
        )

    def client_key_file(self, client: str) -> Path:
        """Where a client's private key lies."""
        return self.folder / "clients" / f"{client}.pem"


def write_registers(
    stage: Stage, population: Population, written: Callable[[str], None]
) -> int:
    """Write every department's register; return how many rows they have in sum.

    Args:
        stage: Where they belong.
        population: Who is in them.
        written: Called after each, with its provider.
    """
    total = 0
    for provider, place in stage.places.items():
        total += write_register(place, population)
        written(provider)
    return total


@contextmanager
def running(stage: Stage, prepare: Callable[[], None]) -> Iterator[None]:
    """Run everything; stop everything at the end, however it comes.

    Args:
        stage: What is run.
        prepare: Writes the registers; called while the gateway starts, which takes
            as long.

    Raises:
        StageError: Something did not start.
    """
    with ExitStack() as stack:
        # Before the gateways: so that the publisher leads, and the first head is
        # cosigned.
        witness = stage.witness and stage.witness.process
        for child in (stage.publisher, witness):
            if child is not None:
                child.start()
                stack.callback(child.stop)
                child.wait()
        stage.gateway.start()
        stack.callback(stage.gateway.stop)
        prepare()
        for child in stage.departments.values():
            child.start()
            stack.callback(child.stop)
        stage.gateway.wait()  # before all others, since it makes the tables
        others = [one for one in stage.gateways.values() if one is not stage.gateway]
        for child in others:
            child.start()
            stack.callback(child.stop)
        for child in (*stage.departments.values(), *others):
            child.wait()
        yield
