"""What the parts of a gateway count by themselves, shown in its metrics."""

from collections.abc import Callable

from connectors.health import Health
from exchange.api.dependencies import Gateway
from exchange.opened import OpenCase
from exchange.telemetry import Metrics


def count_outcomes(metrics: Metrics) -> Callable[[OpenCase], None]:
    """Return what counts the outcomes of a run."""

    def count(case: OpenCase) -> None:
        for outcome in case.content.outcomes.values():
            metrics.outcomes.labels(case.head.matter, outcome.outcome).inc()

    return count


def show_counts(gateway: Gateway, health: Health) -> None:
    """Show in the metrics what the parts count by themselves."""
    metrics, database, log = gateway.metrics, gateway.database, gateway.log
    metrics.gauge(
        "errand_writes_waiting",
        "Writes that wait for the database.",
        lambda: database.waiting,
    )
    metrics.gauge(
        "errand_log_unwitnessed_seconds",
        "Since when too few witnesses have cosigned; 0 when enough have.",
        gateway.publisher.unwitnessed_for,
    )
    for follower in gateway.followers:
        metrics.gauge(
            f"errand_log_{follower.name}_failing_seconds",
            f"Since when the {follower.name} could not be brought up; 0 when they are.",
            follower.failing_for,
        )
    metrics.gauge(
        "errand_overdue_seconds",
        "For how long something that is due was not taken up; some are usual.",
        gateway.waiting.overdue_s,
    )
    metrics.gauge("errand_log_size", "Records in the log.", lambda: log.size)
    metrics.counts(
        "errand_lookups",
        "Look-ups, by data service and how they ended.",
        ("service", "ended"),
        lambda: {
            (service, ended): count
            for service, one in health.services.items()
            for ended, count in one.outcomes.items()
        },
    )
    metrics.counts(
        "errand_lookup_seconds",
        "Time spent in look-ups, by data service.",
        ("service",),
        lambda: {(name,): one.seconds for name, one in health.services.items()},
    )
    metrics.counts(
        "errand_attempts",
        "Attempts that cases made by themselves, by how they ended.",
        ("ended",),
        lambda: {(e.value,): count for e, count in gateway.waiting.ended.items()},
    )
