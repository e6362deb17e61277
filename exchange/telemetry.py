"""What the gateway tells its operator: log events and metrics, never a person.

INVARIANT: no log line, error, metric or trace holds an identifier, a name or a value
(rule 8). So events carry ids of our own and closed words only; an exception is
written as its type and the places it passed, without its message, which may quote a
value; and labels of metrics come from packs and code, never from a request.
"""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, BinaryIO

import orjson
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from typing_extensions import override

from exchange.settings import Settings

EventDict = MutableMapping[str, Any]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PLACES = 12
"""How many of the innermost places of an exception are written."""


def configure_logs(settings: Settings, stream: BinaryIO | None = None) -> None:
    """Write events of ours and of libraries to standard error, one a line.

    Args:
        settings: Level and form.
        stream: Where to, in place of standard error; loggers may then be configured
            again later.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    output = stream or sys.stderr.buffer
    render = _renderer(settings)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            describe_exception,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(output),
        cache_logger_on_first_use=stream is None,
    )
    handler = _LibraryHandler(render, output)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def describe_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and places: its message may quote a value."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    if isinstance(error, BaseException):
        event["error"] = type(error).__qualname__
        event["places"] = places_of(error)
    return event


def places_of(error: BaseException) -> list[str]:
    """Return where an exception passed, the innermost place last."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _renderer(settings: Settings) -> Callable[[object, str, EventDict], bytes]:
    if settings.log_format == "console":
        return _render_line
    return _render_json


def _render_json(_logger: object, _method: str, event: EventDict) -> bytes:
    return orjson.dumps(event, default=str)


def _render_line(_logger: object, _method: str, event: EventDict) -> bytes:
    """Render an event for people: time, level, name, then what it carries."""
    at, level, name = (event.pop(key, "") for key in ("timestamp", "level", "event"))
    rest = " ".join(f"{key}={value}" for key, value in event.items())
    return f"{at} {level:7} {name} {rest}".rstrip().encode()


class _LibraryHandler(logging.Handler):
    """Writes what libraries log: who, how grave and where; not what they quote."""

    def __init__(
        self, render: Callable[[object, str, EventDict], bytes], output: BinaryIO
    ) -> None:
        super().__init__()
        self._render = render
        self._output = output

    @override
    def emit(self, record: logging.LogRecord) -> None:
        event: EventDict = {
            "event": "library",
            "level": record.levelname.lower(),
            "library": record.name,
            "place": f"{record.filename}:{record.lineno} {record.funcName}",
        }
        if record.exc_info:
            event["exc_info"] = record.exc_info[1]
        described = describe_exception(None, "", event)
        self._output.write(self._render(None, "", described) + b"\n")
        self._output.flush()


class Metrics:
    """The gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # has no types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "errand_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "errand_request_seconds",
            "How long requests took.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "errand_requests_in_flight",
            "Requests being worked on.",
            registry=self.registry,
        )
        self.lookups = Counter(
            "errand_lookups",
            "Look-ups made, by data service and what came of them.",
            ("service", "result"),
            registry=self.registry,
        )
        self.lookup_seconds = Histogram(
            "errand_lookup_seconds",
            "How long look-ups took.",
            ("service",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.decisions = Counter(
            "errand_decisions",
            "Look-ups decided, by rule.",
            ("rule",),
            registry=self.registry,
        )
        self.cases = Counter(
            "errand_cases",
            "Cases that were opened, settled or closed, by matter.",
            ("matter", "event"),
            registry=self.registry,
        )

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a value that is read whenever the metrics are."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
