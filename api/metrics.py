"""The figures of `/metrics`, read from the running parts when they are asked for, and kept nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

if TYPE_CHECKING:
    from api.services import Services
    from streams.cashier.purchases import Cashier


def registry_of(services: Services) -> CollectorRegistry:
    """A Prometheus registry with the figures of this process and of Meterline."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Parts(services))
    return registry


class _Parts(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        services = self._services
        ready = GaugeMetricFamily("meterline_part_ready", "1 where this part can serve", labels=["part"])
        for part, is_ready in services.parts_ready().items():
            ready.add_metric([part], int(is_ready))
        yield ready
        lag = GaugeMetricFamily(
            "meterline_accounts_lag_seconds",
            "Age of the newest complete copy of a partition's accounts",
            labels=["partition"],
        )
        for partition, seconds in services.accounts.lags().items():
            lag.add_metric([str(partition)], seconds)
        yield lag
        rows = CounterMetricFamily(
            "meterline_history_rows", "Rows this process has written to ClickHouse", labels=["table"]
        )
        for historian in services.historians:
            rows.add_metric([historian.sink.table], historian.rows_written)
        yield rows
        if services.cashier is not None:
            yield from _purchases(services.cashier)
        drift = services.drift
        yield CounterMetricFamily(
            "meterline_verify_projects", "Balances that were found to agree with the history", drift.projects_checked
        )
        yield CounterMetricFamily("meterline_verify_passes", "Times that all projects were gone round", drift.passes)
        yield CounterMetricFamily("meterline_verify_failures", "Comparisons that could not be made", drift.failures)
        yield GaugeMetricFamily(
            "meterline_verify_drifting_projects", "Projects that do not agree", len(drift.drift_microcredits)
        )
        yield GaugeMetricFamily(
            "meterline_verify_drift_microcredits",
            "Sum of what balances and history differ by",
            sum(map(abs, drift.drift_microcredits.values())),
        )


def _purchases(cashier: Cashier) -> Iterator[Metric]:
    yield GaugeMetricFamily("meterline_purchases_waiting", "Bundles that are wanted and not yet paid", cashier.waiting)
    tries = CounterMetricFamily("meterline_purchases", "What became of tries to buy a bundle", labels=["outcome"])
    for outcome, count in (("paid", cashier.paid), ("failed", cashier.failed), ("unknown", cashier.unknown)):
        tries.add_metric([outcome], count)
    yield tries
