"""What the gateway tells its operator: log events and metrics, never a person.

INVARIANT: no log line, error, metric or trace holds an identifier, a name or a value
(rule 8). So events carry ids of our own and closed words only; an exception is
written as its type and the places it passed, without its message, which may quote a
value; and labels of metrics come from packs and code, never from a request.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

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
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from exchange.libraries import EventDict, LibraryHandler, describe_exception
from exchange.settings import Settings

Labels = Sequence[str]
Counts = Callable[[], Mapping[tuple[str, ...], float]]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


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

    def tell(event: EventDict) -> None:
        output.write(render(None, "", event) + b"\n")
        output.flush()

    handler = LibraryHandler(tell)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


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
        self.records_owed = Gauge(
            "errand_records_owed",
            "Records that the tables owe the log, as last counted.",
            registry=self.registry,
        )
        self.outcomes = Counter(
            "errand_outcomes",
            "Outcomes of requirements, each time that a case was worked on.",
            ("matter", "outcome"),
            registry=self.registry,
        )

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a value that is read whenever the metrics are."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def counts(self, name: str, help_text: str, labels: Labels, read: Counts) -> None:
        """Show counts that are kept elsewhere and read whenever the metrics are.

        Args:
            name: The metric, without `_total`.
            help_text: What it counts.
            labels: Names of the labels.
            read: Returns the counts by the labels' values, which must be words of
                packs or of code.
        """
        self.registry.register(_Kept(name, help_text, labels, read))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Kept(Collector):
    """Counts that something else keeps."""

    def __init__(self, name: str, help_text: str, labels: Labels, read: Counts) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._read = read

    @override
    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._read().items():
            family.add_metric(values, count)
        return [family]

    def describe(self) -> Iterable[Metric]:
        """Tell what it shows without reading it, when it is registered."""
        return [CounterMetricFamily(self._name, self._help, labels=self._labels)]
