"""The connector port: the guard between the gateway and whatever asks departments.

A kind of connector writes `_fetch` and may raise anything. The gateway calls
`fetch`, which keeps four promises whatever the kind or the department does: only
`ConnectorError` leaves it, it ends within the time limit, a service that is down is
not hammered, and evidence comes out only when it is the signed, fresh answer to this
very look-up about this very subject, with the fields asked for and no others.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, assert_never

from connectors.checking import FieldChecker, check_evidence
from connectors.health import Ended, Health
from connectors.lookup import (
    Answer,
    Answered,
    Declined,
    Deferred,
    LookupRequest,
    Matched,
    NotCovered,
    NothingHeld,
    Reply,
    SignedReply,
)
from schemas.clock import Clock
from schemas.directory import PublicKey
from schemas.errors import (
    ConnectorError,
    ConnectorFaultError,
    ConnectorUnavailableError,
    Fault,
    Layer,
)

ProviderKeys: TypeAlias = Callable[[str], tuple[PublicKey, ...]]
"""The pinned keys of a provider by its id, old ones included; none when unknown."""


class Connector(ABC):
    """The code that speaks to data services."""

    def __init__(
        self, keys: ProviderKeys, clock: Clock, health: Health | None = None
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._health = health or Health()
        self._checker = FieldChecker()

    async def fetch(self, request: LookupRequest) -> Answer:
        """Ask, and return a checked answer.

        Raises:
            ConnectorUnavailableError: Asking again later may help.
            ConnectorFaultError: The department answered wrongly.
        """
        service, since = request.service.id, self._clock.monotonic()
        wait = self._health.admit(service, since)
        if wait > 0:
            message = f"data service `{service}` is down and is asked again later"
            raise ConnectorUnavailableError(
                message, layer=Layer.SOURCE, retry_after_s=wait
            )
        ended = Ended("abandoned", None)
        try:
            answer = self._judge(request, await self._ask(request))
            ended = Ended(_word(answer), reached=True)
        except ConnectorError as error:
            ended = _ended(error)
            raise
        finally:
            now = self._clock.monotonic()
            self._health.report(service, ended, since=since, now=now)
        return answer

    async def _ask(self, request: LookupRequest) -> Reply:
        """Call the kind within the time limit, and let only `ConnectorError` out."""
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._fetch(request)
        except ConnectorError:
            raise
        except TimeoutError:
            message = f"no answer within {request.timeout_s:g} s"
            raise ConnectorUnavailableError(message, layer=Layer.SOURCE) from None
        except Exception as error:  # noqa: BLE001 - the port's promise: nothing else out
            # Not chained: what a kind raises may hold what the department sent.
            message = f"the connector failed with `{type(error).__name__}`"
            raise ConnectorUnavailableError(message, layer=Layer.CONNECTOR) from None

    def _judge(self, request: LookupRequest, reply: Reply) -> Answer:
        """Return the answer in a reply, with evidence checked."""
        if not isinstance(reply, SignedReply):
            return reply
        try:
            keys = self._keys(request.service.provider)
            now = self._clock.now()
            evidence, match = check_evidence(
                request, reply.sd_jwt, keys, now, self._checker
            )
        except ConnectorError:
            raise
        except Exception as error:  # noqa: BLE001 - the port's promise: nothing else out
            message = f"the evidence can't be read: `{type(error).__name__}`"
            raise ConnectorFaultError(Fault.FORMAT, message) from None
        return Answered(evidence) if match is None else Matched(evidence, match)

    @abstractmethod
    async def _fetch(self, request: LookupRequest) -> Reply:
        """Ask, and return what came, unchecked; may raise anything."""

    async def prepare(self) -> None:  # noqa: B027 - most kinds have nothing to prepare
        """Do at start-up what the first look-up would wait for; nothing is asked.

        Raises:
            ConnectorUnavailableError: It can't be done now, and is done later.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open; no `fetch` may follow."""


def _word(answer: Answer) -> str:
    """Name an answer, for the counters."""
    match answer:
        case Answered():
            return "answered"
        case Matched():
            return "matched"
        case Deferred():
            return "deferred"
        case NothingHeld():
            return "not_held"
        case NotCovered():
            return "not_covered"
        case Declined():
            return "declined"
        case _:
            assert_never(answer)


def _ended(error: ConnectorError) -> Ended:
    """Name a failure, and tell whether the department was there."""
    match error:
        case ConnectorFaultError():
            return Ended(f"fault:{error.fault.value}", reached=True)
        case ConnectorUnavailableError(layer=Layer.GATEWAY):
            # What the gateway itself could not do says nothing about the service.
            return Ended("unavailable:gateway", None, str(error))
        case ConnectorUnavailableError():
            word = f"unavailable:{error.layer.value}"
            return Ended(word, reached=False, why=str(error))
        case _:
            return Ended("unavailable", reached=False, why=type(error).__name__)
