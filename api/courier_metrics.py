"""The figures of a courier, for Prometheus, on a port of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from streams.courier.courier import Courier
from streams.errors import OperatorError
from streams.settings import Settings

log = logging.getLogger(__name__)


def serve_courier_metrics(settings: Settings, courier: Courier) -> int:
    """Serve a courier's figures at `metrics_host`, `courier_metrics_port`, from a thread of its own until the process
    ends; gives the port. Raises OperatorError where that can't be had."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Deliveries(courier))
    assert settings.courier_metrics_port is not None
    try:
        server, _ = start_http_server(settings.courier_metrics_port, settings.metrics_host, registry)
    except OSError as error:
        raise OperatorError(
            f"Port {settings.courier_metrics_port} of {settings.metrics_host} can't be used ({error.strerror}): give "
            "each courier of a machine its own METERLINE_COURIER_METRICS_PORT, or 0 for any"
        ) from None
    port = int(server.server_address[1])
    log.info("/metrics is at http://%s:%d", settings.metrics_host, port)
    return port


class _Deliveries(Collector):
    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    def collect(self) -> Iterator[Metric]:
        courier = self._courier
        yield GaugeMetricFamily(
            "meterline_deliveries_waiting", "Notices that an endpoint has yet to take", courier.deliverer.waiting
        )
        attempts = CounterMetricFamily(
            "meterline_delivery_attempts",
            "Attempts to deliver a notice: delivered, to be made again (retried), or the last (failed)",
            labels=["outcome"],
        )
        for outcome, count in sorted(courier.deliverer.attempts.copy().items()):
            attempts.add_metric([outcome], count)
        yield attempts
        yield GaugeMetricFamily(
            "meterline_courier_lag_records", "Journal records that this courier has yet to read", courier.behind
        )
        yield GaugeMetricFamily(
            "meterline_courier_partitions", "Partitions that this courier has", len(courier.partitions)
        )
        if courier.ran_at is not None:
            yield GaugeMetricFamily(
                "meterline_courier_loop_age_seconds",
                "Since this courier's loop was seen to run",
                time.monotonic() - courier.ran_at,
            )
